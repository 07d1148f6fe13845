"""Settings of Chroma's graph (HNSW) on real texts: what ingest and search take, and what the whole search finds.

python benchmarks/hnsw.py FOLDER [--settings 48/400/1000,16/200/300] [--documents N] [--queries N] [--json FILE]

FOLDER is the one that `real_texts.py` has made. Each setting is max_neighbors/ef_construction/ef_search. An index of
each is filled with the same ready vectors, a batch of each in turn, and then asked the same queries in turn. So a busy
minute slows all of them equally, and ratios hold.

* documents a second, over all and over the last tenth
* the share of the 100 nearest pooled embeddings that the graph finds
* the share of the best 10 documents by hybrid score, of all documents, that a search with 100 candidates finds
* nDCG@10 of the queries
* milliseconds of a search, and of opening and the first search in a new process, after its imports
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from real_texts import RealTexts
from report import show, write
from tqdm import tqdm

from smart_rag import IndexConfig, Representation, SmartIndex
from smart_rag.evaluation.metrics import Metrics
from smart_rag.index.smart_index import scan_scores

_BATCH = 1024
_WARM = 20
_PROCESSES = 5
_NEAREST, _BEST = 100, 10
_WEIGHTS = (1.0, 2.0)


def ingest(folders: dict[str, Path], texts: RealTexts, count: int) -> dict[str, np.ndarray]:
    """Fill an index of each setting. Return the seconds of each batch."""
    indexes: dict[str, SmartIndex] = {}
    seconds: dict[str, list[float]] = {name: [] for name in folders}
    for start in tqdm(range(0, count, _BATCH), desc="ingest", unit="batch"):
        documents, vectors = texts.documents(start, min(start + _BATCH, count))
        for name in _in_turn(folders, start // _BATCH):
            started = time.perf_counter()
            if name in indexes:
                indexes[name].add_embeddings(documents, vectors)
            else:
                numbers = map(int, name.split("/"))
                names = ("hnsw_max_neighbors", "hnsw_ef_construction", "hnsw_ef_search")
                config = IndexConfig(weights=_WEIGHTS, **dict(zip(names, numbers, strict=True)))
                indexes[name] = SmartIndex.from_embeddings(folders[name], documents, vectors, config=config)
            seconds[name].append(time.perf_counter() - started)
    for index in indexes.values():
        index.close()
    return {name: np.asarray(times) for name, times in seconds.items()}


def _in_turn(folders: dict[str, Path], turn: int) -> list[str]:
    names = list(folders)
    first = turn % len(names)
    return names[first:] + names[:first]


def best_of_all(index: SmartIndex, queries: Representation) -> list[set[str]]:
    """Return the ids of the documents with the best hybrid scores, for each query."""
    ids: list[str] = []
    scores = []
    for block in tqdm(scan_scores(index, queries), desc="all documents", unit="block"):
        ids += block.ids
        scores.append(_WEIGHTS[0] * block.pooled + _WEIGHTS[1] * block.late)
    best = np.argpartition(-np.concatenate(scores, axis=1), _BEST, axis=1)[:, :_BEST]
    return [{ids[i] for i in row} for row in best]


def nearest_of_all(pooled: np.ndarray, queries: np.ndarray, ids: tuple[str, ...]) -> list[set[str]]:
    return [{ids[i] for i in np.argpartition(-(pooled @ query), _NEAREST)[:_NEAREST]} for query in queries]


def share(found: list[set[str]], expected: list[set[str]]) -> float:
    return float(np.mean([len(a & b) / len(b) for a, b in zip(found, expected, strict=True)]))


def search(folders: dict[str, Path], texts: RealTexts, count: int, limit: int) -> dict[str, dict[str, float]]:
    queries = texts.queries()
    chosen = np.linspace(0, len(queries) - 1, min(limit, len(queries))).astype(int).tolist()
    asked = Representation.concatenate([queries[i] for i in chosen])
    indexes = {name: SmartIndex.open(folder) for name, folder in folders.items()}
    best = best_of_all(next(iter(indexes.values())), asked)
    nearest = nearest_of_all(np.asarray(texts.pooled[:count]), asked.pooled, texts.ids[:count])
    qrels = {texts.query_ids[i]: texts.qrels[texts.query_ids[i]] for i in chosen}
    metrics = Metrics(qrels, ("ndcg@10",))
    times: dict[str, list[float]] = {name: [] for name in folders}
    hits: dict[str, list[list[str]]] = {name: [] for name in folders}
    graph: dict[str, list[set[str]]] = {name: [] for name in folders}
    for i in tqdm(range(len(asked)), desc="searching", unit="query"):
        for name in _in_turn(folders, i):
            started = time.perf_counter()
            found = indexes[name].search(asked[i], _BEST)
            times[name].append(1e3 * (time.perf_counter() - started))
            hits[name].append([hit.id for hit in found])
            graph[name].append(set(indexes[name]._store.pooled.nearest(asked.pooled[i : i + 1], _NEAREST)[0]))
    for index in indexes.values():
        index.close()
    return {
        name: {
            f"recall of the nearest {_NEAREST}": share(graph[name], nearest),
            f"recall of the best {_BEST}": share([set(ids) for ids in hits[name]], best),
            "nDCG@10": metrics.mean(dict(zip(qrels, hits[name], strict=True)))["ndcg@10"],
            "search p50, ms": median(times[name][_WARM:]),
        }
        for name in folders
    }


def first_search(folder: Path, texts: RealTexts) -> float:
    """Return the milliseconds that opening the index and the first search take."""
    query = texts.queries()[0]
    with SmartIndex.open(folder.parent / "warm") as index:  # imports
        index.search(query)
    started = time.perf_counter()
    with SmartIndex.open(folder) as index:
        index.search(query)
        return 1e3 * (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--settings", default="48/400/1000,16/200/400")
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--first", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    texts = RealTexts(arguments.folder)
    if arguments.first:
        print(first_search(arguments.first, texts))
        return
    count = min(arguments.documents, len(texts.ids))
    with tempfile.TemporaryDirectory() as temporary:
        folders = {name: Path(temporary) / name.replace("/", "-") for name in arguments.settings.split(",")}
        seconds = ingest(folders, texts, count)
        SmartIndex.from_embeddings(Path(temporary) / "warm", *texts.documents(0, 1000)).close()
        rows = search(folders, texts, count, arguments.queries)
        for name, folder in folders.items():
            command = [sys.executable, __file__, str(arguments.folder), "--first", str(folder)]
            firsts = [
                float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
                for _ in range(_PROCESSES)
            ]
            last = seconds[name][-(len(seconds[name]) // 10) :]
            rows[name] |= {
                "documents a second": count / seconds[name].sum(),
                "the last tenth": _BATCH * len(last) / last.sum(),
                "open and first search, ms": median(firsts),
            }
    show(f"{count:,} texts", rows, list(next(iter(rows.values()))))
    if arguments.json:
        write(arguments.json, title="hnsw", rows=rows, batches={name: list(times) for name, times in seconds.items()})


if __name__ == "__main__":
    main()

"""Growth of search time, memory, ingest time and disk space with the index: synthetic indexes of several sizes.

python benchmarks/scale.py [--documents 10000,100000] [--real FOLDER] [--queries N] [--rounds N] [--folder DIR]
    [--json FILE]

With --folder the indexes are kept, and the next run searches them without a new ingest. An interrupted ingest continues
where it stopped. Linux only. The codec is `balanced`.

With --real, the documents and queries are those of the folder that `real_texts.py` has made. If more documents are
asked for, the rest are mixtures of two real ones. Otherwise they are synthetic:

Documents have 150 tokens of 384 dimensions and a text of 100 words. A document belongs to one of documents / 100
topics. Half of its tokens are words of its topic, half any words. The document's own context (that of its topic, with
noise) and noise are added to each token. Queries are 12 tokens that are made in the same way.

Half of the documents have the metadata {"half": 1}. "Filtered" is a search among them: the first one, and later ones
with the same filter. "Files" are 30 documents each: three are removed, added again, and replaced by others. An
exhaustive scan scores all documents, if they are at most 100,000.

Each size is searched in a process of its own, the sizes in turn in each round. A figure is the median over the
rounds, its growth the median of the rounds' ratios. A second process opens only Chroma's collection and runs the same
queries: its memory and time are Chroma's share. Then it opens the index, which shares the loaded Chroma, and
searches: the increase is our share. RssAnon is memory that the process allocated. RssFile is memory of mapped files,
such as LMDB's, which the system can take back at any time.

If other programs use the cores, set OMP_WAIT_POLICY=passive. Otherwise torch's threads spin while they wait for one
another, and scoring seems to take many times as long.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import chromadb
import numpy as np
from real_texts import RealTexts
from report import show, write
from tqdm import tqdm

from smart_rag import Document, Representation, SmartIndex, TokenBatch
from smart_rag.config import DEFAULT_CANDIDATES, IndexConfig
from smart_rag.index.stopwatch import Stopwatch
from smart_rag.scoring import kernels  # noqa: F401, as in a program that has searched for a while
from smart_rag.store.pooled_store import PooledStore
from smart_rag.store.token_store import TokenStore

_DIMENSION = 384
_TOKENS, _QUERY_TOKENS, _TEXT_WORDS = 150, 12, 100
_WORDS, _TOPIC_WORDS, _TOPIC_DOCUMENTS = 4096, 64, 100
_BATCH = 1024
_WARM = 20
_FILTERED, _SCANNED, _FILE = 60, 100_000, 30
_STAGES = ("candidates", "gather", "score")
_MEMORY = ("RssAnon", "RssFile")


class Corpus:
    """Documents and queries, made in batches. They are the same in every process."""

    def __init__(self, documents: int) -> None:
        generator = np.random.default_rng(0)
        self.documents = documents
        self._words = _unit(generator.standard_normal((_WORDS, _DIMENSION), dtype=np.float32))
        self._noise = 0.03 * generator.standard_normal((1 << 16, _DIMENSION), dtype=np.float32)
        letters = generator.choice(list("etaoinshrdlucmfwyp"), (_WORDS, 8))
        self._texts = [
            "".join(row[:length]) for row, length in zip(letters, generator.integers(3, 9, _WORDS), strict=True)
        ]
        topics = max(1, documents // _TOPIC_DOCUMENTS)
        self._topics = _unit(generator.standard_normal((topics, _DIMENSION), dtype=np.float32))

    def batch(self, start: int) -> tuple[list[Document], Representation]:
        """Return the batch of documents from ``start`` on, with their representation."""
        count = min(_BATCH, self.documents - start)
        words, vectors = self._made(np.random.default_rng([1, start]), count, _TOKENS)
        texts = (" ".join(self._texts[word] for word in row[:_TEXT_WORDS]) for row in words)
        return [Document(f"{start + i:08}", text, _half(start + i)) for i, text in enumerate(texts)], vectors

    def queries(self, count: int) -> Representation:
        return self._made(np.random.default_rng(2), count, _QUERY_TOKENS)[1]

    def _made(self, generator: np.random.Generator, count: int, tokens: int) -> tuple[np.ndarray, Representation]:
        topics = generator.integers(0, len(self._topics), count)
        words = generator.integers(0, _WORDS, (count, tokens))
        of_topic = (topics[:, None] * 7919 + words % _TOPIC_WORDS * 31) % _WORDS
        words = np.where(generator.random((count, tokens)) < 0.5, of_topic, words)
        own = _unit(generator.standard_normal((count, _DIMENSION), dtype=np.float32))
        rows = self._words[words]
        rows += (0.6 * self._topics[topics] + 0.4 * own)[:, None]
        for row, first in zip(rows, generator.integers(0, len(self._noise) - tokens, count), strict=True):
            row += self._noise[first : first + tokens]
        rows = _unit(rows)
        offsets = np.arange(count + 1, dtype=np.int64) * tokens
        ids = words.astype(np.int32).reshape(-1)
        return words, Representation(_unit(rows.mean(1)), TokenBatch(rows.reshape(-1, _DIMENSION), offsets, ids))


class RealCorpus:
    """The texts of `real_texts.py`, and mixtures of them. Their queries are mixed in the same order in each process."""

    def __init__(self, folder: Path, documents: int) -> None:
        self.documents = documents
        self._texts = RealTexts(folder)

    def batch(self, start: int) -> tuple[list[Document], Representation]:
        """Do the same as `Corpus.batch`."""
        stop, real = min(start + _BATCH, self.documents), len(self._texts.ids)
        parts = []
        if start < real:
            parts.append(self._texts.documents(start, min(stop, real)))
        if stop > real:
            parts.append(self._texts.mixtures(max(start, real), stop))
        documents = [document for of_one, _ in parts for document in of_one]
        documents = [replace(one, metadata=_half(start + i)) for i, one in enumerate(documents)]
        return documents, Representation.concatenate([vectors for _, vectors in parts])

    def queries(self, count: int) -> Representation:
        queries = self._texts.queries()
        chosen = np.random.default_rng(2).permutation(len(queries))[:count]
        return Representation.concatenate([queries[int(i)] for i in chosen])


def corpus_of(documents: int, real: Path | None) -> Corpus | RealCorpus:
    return Corpus(documents) if real is None else RealCorpus(real, documents)


def _half(number: int) -> dict[str, int]:
    return {"half": number % 2}


def _unit(rows: np.ndarray) -> np.ndarray:
    rows /= np.sqrt(np.einsum("...d,...d->...", rows, rows))[..., None]
    return rows


def ingest(folder: Path, corpus: Corpus | RealCorpus) -> None:
    """Add the missing documents to the index in ``folder``. Beside it, save the seconds of each batch."""
    path, log = folder / "index", folder / "ingest.json"
    batches: list[dict[str, float]] = json.loads(log.read_text()) if log.exists() else []
    there = 0
    if path.exists():
        with SmartIndex.open(path) as index:
            there = index.count()
        if there == corpus.documents:
            return
    done = there // _BATCH * _BATCH
    batches = [batch for batch in batches if batch["first"] < done]
    stopwatch = Stopwatch()
    index = SmartIndex.open(path) if there else None
    with (
        tqdm(total=corpus.documents, initial=done, desc=str(folder), unit="document") as progress,
        patch.object(PooledStore, "upsert", _watched(stopwatch, "chroma", PooledStore.upsert)),
        patch.object(TokenStore, "put", _watched(stopwatch, "tokens", TokenStore.put)),
    ):
        for start in range(done, corpus.documents, _BATCH):
            documents, vectors = corpus.batch(start)
            stopwatch.milliseconds.clear()
            with stopwatch.measure("all"):
                if index is None:
                    index = SmartIndex.from_embeddings(path, documents, vectors, config=IndexConfig(codec="balanced"))
                else:
                    index.add_embeddings(documents, vectors)
            seconds = {stage: sum(times) / 1e3 for stage, times in stopwatch.milliseconds.items()}
            batches.append({"first": start, "documents": len(documents), **seconds})
            log.write_text(json.dumps(batches))
            progress.update(len(documents))
    if index is not None:
        index.close()


def _watched(stopwatch: Stopwatch, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def watched(*arguments: Any, **options: Any) -> Any:
        with stopwatch.measure(stage):
            return function(*arguments, **options)

    return watched


def ingest_figures(folder: Path) -> dict[str, float]:
    batches = json.loads((folder / "ingest.json").read_text())
    last = batches[-max(1, len(batches) // 10) :]

    def rate(part: Sequence[dict[str, float]]) -> float:
        return sum(batch["documents"] for batch in part) / sum(batch["all"] for batch in part)

    seconds = {stage: sum(batch[stage] for batch in batches) for stage in ("all", "chroma", "tokens")}
    return {
        "ingest, documents/s": rate(batches),
        "ingest, the last tenth, documents/s": rate(last),
        "of the ingest: Chroma, %": 100 * seconds["chroma"] / seconds["all"],
        "of the ingest: encoding and writing tokens, %": 100 * seconds["tokens"] / seconds["all"],
    }


def disk_figures(folder: Path, documents: int) -> dict[str, float]:
    def size(part: str) -> float:
        return sum(file.stat().st_blocks * 512 for file in (folder / "index" / part).rglob("*") if file.is_file())

    return {
        "disk: tokens, bytes a document": size("tokens") / documents,
        "disk: Chroma, bytes a document": size("chroma") / documents,
    }


def search(folder: Path, queries: Representation, corpus: Callable[[], Corpus | RealCorpus]) -> dict[str, float]:
    """Open the index, search it, change it and back, and return milliseconds and memory."""
    started = time.perf_counter()
    index = SmartIndex.open(folder / "index")
    opened = time.perf_counter()
    index.search(queries[0])
    first = time.perf_counter()
    for i in range(1, _WARM):
        index.search(queries[i])
    stopwatch = Stopwatch()
    for i in range(_WARM, len(queries)):
        with stopwatch.measure("search"):
            hits = index.search(queries[i], stopwatch=stopwatch)
        assert len(hits) == 10
    after = _memory()
    times = [_milliseconds(lambda i=i: index.search(queries[i], where={"half": 1})) for i in range(_FILTERED)]
    scans = []
    if index.count() <= _SCANNED:
        scans = [_milliseconds(lambda i=i: index.search(queries[i], first_stage="exhaustive")) for i in range(3)]
    figures = {"filtered, first, ms": times[0], "filtered p50, ms": median(times[1:])}
    if scans:
        figures["exhaustive, ms"] = min(scans)
    figures |= _changes(index, corpus())
    index.close()
    for stage in ("search", *_STAGES):
        for percent in (50, 95):
            figures[f"{stage} p{percent}, ms"] = float(np.percentile(stopwatch.milliseconds[stage], percent))
    figures["open, ms"] = 1e3 * (opened - started)
    figures["first search, ms"] = 1e3 * (first - opened)
    return {**figures, **{f"memory: {kind}, MB": after[kind] / 1e6 for kind in _MEMORY}}


def _changes(index: SmartIndex, corpus: Corpus | RealCorpus) -> dict[str, float]:
    """Remove three files, add them again, and replace them by others. Return the seconds of each."""
    starts = [corpus.documents // _BATCH // 3 * i * _BATCH for i in range(3)]
    parts = []
    for i, (documents, vectors) in enumerate(map(corpus.batch, starts)):
        start, stop = i * _FILE, (i + 1) * _FILE
        parts.append((documents[start:stop], vectors.slice(start, stop)))
    documents = [document for part, _ in parts for document in part]
    ids = [document.id for document in documents]
    vectors = Representation.concatenate([part for _, part in parts])
    others = Representation.concatenate([vectors[i] for i in reversed(range(len(ids)))])
    return {
        "remove three files, s": _milliseconds(lambda: index.delete(ids)) / 1e3,
        "add them again, s": _milliseconds(lambda: index.add_embeddings(documents, vectors)) / 1e3,
        "replace them, s": _milliseconds(lambda: index.add_embeddings(documents, others)) / 1e3,
        "and back, s": _milliseconds(lambda: index.add_embeddings(documents, vectors)) / 1e3,
    }


def _milliseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - started)


def chroma(folder: Path, queries: Representation) -> dict[str, float]:
    """Query Chroma's collection alone for the candidates, then search the index, too. Return the figures of both."""
    before = _memory()
    client = chromadb.PersistentClient(
        folder / "index" / "chroma", settings=chromadb.Settings(anonymized_telemetry=False)
    )
    collection = client.get_collection("smart_rag", embedding_function=None)
    times = []
    for i in range(len(queries)):
        started = time.perf_counter()
        collection.query(
            query_embeddings=queries.pooled[i : i + 1],
            n_results=DEFAULT_CANDIDATES,
            include=["distances", "metadatas", "documents"],
        )
        times.append(1e3 * (time.perf_counter() - started))
    asked = _memory()
    times = times[_WARM:]
    ids_only = []
    for i in range(_WARM, min(len(queries), _WARM + 100)):
        started = time.perf_counter()
        collection.query(query_embeddings=queries.pooled[i : i + 1], n_results=DEFAULT_CANDIDATES, include=[])
        ids_only.append(1e3 * (time.perf_counter() - started))
    both = _memory()
    with SmartIndex.open(folder / "index") as index:
        for i in range(len(queries)):
            index.search(queries[i])
        after = _memory()
    return {
        "Chroma alone p50, ms": float(np.percentile(times, 50)),
        "Chroma alone p95, ms": float(np.percentile(times, 95)),
        "Chroma alone, ids only, p50, ms": float(np.percentile(ids_only, 50)),
        **{f"memory: {kind} of Chroma alone, MB": (asked[kind] - before[kind]) / 1e6 for kind in _MEMORY},
        **{f"memory: {kind} of the rest, MB": (after[kind] - both[kind]) / 1e6 for kind in _MEMORY},
    }


def _memory() -> dict[str, int]:
    """Return the memory of this process in bytes, by kind."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {kind: 1024 * int(status[kind].split()[0]) for kind in _MEMORY}


def measured(mode: str, folder: Path, documents: int, queries: int, real: Path | None) -> dict[str, float]:
    """Return the figures of one new process."""
    command = [sys.executable, __file__, "--measure", mode, "--folder", str(folder)]
    command += ["--documents", str(documents), "--queries", str(queries)]
    command += ["--real", str(real)] if real else []
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, float] = json.loads(found.stdout.splitlines()[-1])
    return figures


def round_of(folder: Path, documents: int, queries: int, real: Path | None) -> dict[str, float]:
    """Return the figures of one size in one round."""
    return {
        name: value
        for mode in ("search", "chroma")
        for name, value in measured(mode, folder, documents, queries, real).items()
    }


def growth(sizes: Sequence[int], rounds: dict[int, list[dict[str, float]]]) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield for each figure its ratio from one size to the next, and for the memory the bytes of one more document."""
    steps = list(pairwise(sizes))
    for name in rounds[sizes[0]][0]:
        if "memory" not in name and all(name in of_size[0] for of_size in rounds.values()):
            yield (
                name,
                {
                    _step(*step): median(b[name] / a[name] for a, b in zip(*map(rounds.get, step), strict=True))
                    for step in steps
                },
            )
    for kind in _MEMORY:
        for of in ("Chroma alone", "the rest"):
            name = f"memory: {kind} of {of}, MB"
            yield (
                f"{kind} of {of}, bytes a document more",
                {
                    _step(a, b): 1e6
                    * (median(r[name] for r in rounds[b]) - median(r[name] for r in rounds[a]))
                    / (b - a)
                    for a, b in steps
                },
            )


def _step(smaller: int, larger: int) -> str:
    return f"{smaller:,} to {larger:,}"


def run(folder: Path, sizes: Sequence[int], queries: int, rounds: int, real: Path | None) -> dict[str, Any]:
    for size in sizes:
        (folder / str(size)).mkdir(parents=True, exist_ok=True)
        measured("ingest", folder / str(size), size, queries, real)
    found: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for size in sizes:
            found[size].append(round_of(folder / str(size), size, queries, real))
    rows: dict[str, dict[str, float]] = {}
    for size in sizes:
        figures = {name: median(one[name] for one in found[size]) for name in found[size][0]}
        figures |= ingest_figures(folder / str(size)) | disk_figures(folder / str(size), size)
        for name, value in figures.items():
            rows.setdefault(name, {})[f"{size:,}"] = value
    show(f"{queries - _WARM} queries, {DEFAULT_CANDIDATES} candidates, by documents", rows, [f"{s:,}" for s in sizes])
    result = {"rows": rows, "rounds": found}
    if len(sizes) > 1:
        result["growth"] = grown = dict(growth(sizes, found))
        columns = [_step(*step) for step in pairwise(sizes)]
        show("growth: figure at the larger size / at the smaller one", grown, columns)
        targets = {
            "search p50, ratio (target from 10,000 to 100,000: at most 1.5)": grown["search p50, ms"],
            "memory without Chroma's, bytes a document more (target: below 200)": grown[
                "RssAnon of the rest, bytes a document more"
            ],
        }
        show("the two that matter", targets, columns)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", default="10000,100000")
    parser.add_argument("--real", type=Path, help="folder of real_texts.py (default: synthetic documents)")
    parser.add_argument("--queries", type=int, default=320, help=f"number of queries; the first {_WARM} warm up")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="folder that keeps the indexes (default: they are removed)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", choices=["ingest", "search", "chroma"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    sizes = [int(size) for size in arguments.documents.split(",")]
    if arguments.measure:
        corpus = corpus_of(sizes[0], arguments.real)
        if arguments.measure == "ingest":
            ingest(arguments.folder, corpus)
            print("{}")
        else:
            queries = corpus.queries(arguments.queries)
            del corpus
            found = (
                search(arguments.folder, queries, lambda: corpus_of(sizes[0], arguments.real))
                if arguments.measure == "search"
                else chroma(arguments.folder, queries)
            )
            print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as temporary:
        result = run(arguments.folder or Path(temporary), sizes, arguments.queries, arguments.rounds, arguments.real)
    if arguments.json:
        write(arguments.json, title="scale", queries=arguments.queries, **result)


if __name__ == "__main__":
    main()

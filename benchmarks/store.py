"""Speed and size of token embeddings on disk: our store and others, with the same bytes and at the same task.

python benchmarks/store.py [--documents N] [--rounds N] [--folder DIR] [--json FILE]

The documents are random unit vectors, 100 to 200 tokens of 384 dimensions each. In each round all contestants read the
same 100 random documents, in turn. Every answer is checked.

**The same bytes.** Each contestant gets a key of 16 bytes and the codes of each document, float16 (`exact`) or 2 bits a
dimension (`balanced`), in batches of 128. Each batch is synced to disk before the next one, except by Lance. It returns
the codes of the keys in one contiguous array. The times do not include encoding and decoding.

* `TokenStore`: ours, with checksums.
* LMDB: one value for each document, nothing else.
* flat file: all documents in one memory-mapped file; offsets by key in memory, and in a second file.
* SQLite: one blob for each document, write-ahead log, fully synchronous; read with one statement.
* Lance: a binary column, one fragment for each batch, compacted after the last one (not in the write rate; old versions
  are removed); `take` of row numbers, which are in memory by key.

**The same task.** Scoring 100 documents, given by id, for a query of 12 tokens, by the sum of maxima.

* smart_rag: `TokenStore.gather`, then `scoring.late_interaction`; a write is encoding and `put`.
* LanceDB: a float16 multivector column without a vector index, an index on the ids, and a search with the ids as
  filter. It reads and scores only these, exactly. Its codes are not compressed.
* Qdrant's local mode: float32 multivectors, a query with the ids as filter. It is Qdrant's Python implementation for
  experiments: all vectors are in memory, and the file is read only when it opens. It does not measure the server.

Cold: the contestant is opened again after the system dropped its files from the cache (`posix_fadvise`, if the system
has it; not on tmpfs). The time to open is not included. The disk's own cache may still be warm. `x ours` is the
median of the rounds' ratios to the first contestant.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from report import show, write
from store_contestants import PEERS, Contestant, is_installed, of_bytes, of_scores

from smart_rag.embeddings.codec import get_codec
from smart_rag.scoring import kernels  # noqa: F401, as in a program that has searched for a while

_DIMENSION = 384
_LENGTHS = (100, 201)
_QUERY_TOKENS = 12
_BATCH = 128
_ASKED = 100
_COLD_ROUNDS = 7
_TOLERANCE = 0.02
_COLUMNS = ("bytes a token", "write, documents/s", "warm, ms", "warm p95, ms", "cold, ms", "warm, x ours")


@dataclass
class Trial:
    """One contestant with its documents, the expected answers, and its times."""

    contestant: Contestant
    folder: Path
    documents: Sequence[np.ndarray]
    expected: Callable[[Sequence[int]], np.ndarray]
    tolerance: float
    written: float = 0.0
    disk: int = 0
    warm: list[float] = field(default_factory=list)
    cold: list[float] = field(default_factory=list)

    def fill(self, keys: Sequence[bytes]) -> None:
        started = time.perf_counter()
        for start in range(0, len(keys), _BATCH):
            part = slice(start, start + _BATCH)
            self.contestant.write(keys[part], self.documents[part])
        self.written = time.perf_counter() - started
        self.contestant.finish()
        self.contestant.close()
        self.disk = sum(file.stat().st_blocks * 512 for file in self.folder.rglob("*") if file.is_file())
        self.contestant.open()

    def ask(self, keys: Sequence[bytes], chosen: Sequence[int]) -> float:
        asked = [keys[i] for i in chosen]
        started = time.perf_counter()
        answer = self.contestant.ask(asked)
        seconds = time.perf_counter() - started
        expected = self.expected(chosen)
        assert answer.shape == expected.shape, self.contestant
        assert np.abs(answer - expected).max() <= self.tolerance, self.contestant
        return seconds

    def ask_cold(self, keys: Sequence[bytes], chosen: Sequence[int]) -> float:
        self.contestant.close()
        for file in self.folder.rglob("*"):
            if file.is_file():
                descriptor = os.open(file, os.O_RDONLY)
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)
        self.contestant.open()
        return self.ask(keys, chosen)


def race(trials: dict[str, Trial], keys: Sequence[bytes], rounds: int) -> dict[str, dict[str, float]]:
    """Return a row of figures for each trial. All of them write, then answer in turn."""
    generator = np.random.default_rng(3)
    for trial in trials.values():
        trial.fill(keys)
    for turn in range(rounds + 3):
        chosen = generator.permutation(len(keys))[:_ASKED].tolist()
        for trial in trials.values():
            seconds = trial.ask(keys, chosen)
            if turn >= 3:  # the first rounds warm up
                trial.warm.append(1e3 * seconds)
    if hasattr(os, "posix_fadvise"):
        for _ in range(_COLD_ROUNDS):
            chosen = generator.permutation(len(keys))[:_ASKED].tolist()
            for name, trial in trials.items():
                if name != "Qdrant local":  # its file is read only when it opens
                    trial.cold.append(1e3 * trial.ask_cold(keys, chosen))
    for trial in trials.values():
        trial.contestant.close()
    ours = next(iter(trials.values()))
    tokens = sum(map(len, ours.documents))
    rows = {}
    for name, trial in trials.items():
        figures = (
            trial.disk / tokens,
            len(keys) / trial.written,
            median(trial.warm),
            float(np.percentile(trial.warm, 95)),
            median(trial.cold) if trial.cold else None,
            median(a / b for a, b in zip(trial.warm, ours.warm, strict=True)),
        )
        rows[name] = {column: value for column, value in zip(_COLUMNS, figures, strict=True) if value is not None}
    return rows


def same_bytes(folder: Path, codes: Sequence[np.ndarray]) -> dict[str, Trial]:
    def expected(chosen: Sequence[int]) -> np.ndarray:
        return np.concatenate([codes[i].reshape(-1) for i in chosen])

    trials = {}
    for name, make in of_bytes().items():
        (folder / name).mkdir(parents=True)
        trials[name] = Trial(make(folder / name), folder / name, codes, expected, 0)
    return trials


def same_task(folder: Path, query: np.ndarray, documents: Sequence[np.ndarray]) -> dict[str, Trial]:
    def expected(chosen: Sequence[int], of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return np.array([(query @ of(documents[i]).T).max(1).sum() for i in chosen])

    def coded(document: np.ndarray) -> np.ndarray:
        return get_codec("balanced").decode(get_codec("balanced").encode(document), _DIMENSION)

    trials = {}
    for name, make in of_scores(query).items():
        (folder / name).mkdir(parents=True)
        of = coded if name == "smart_rag balanced" else np.asarray
        truth = partial(expected, of=of)
        trials[name] = Trial(make(folder / name), folder / name, documents, truth, _TOLERANCE)
    return trials


def left_out() -> Iterator[str]:
    for peer, (_, package) in PEERS.items():
        if not is_installed(peer):
            yield f"{peer} is left out: {package} is not installed (python -m pip install --group bench)"
    if not hasattr(os, "posix_fadvise"):
        yield "cold reads are left out: this system has no posix_fadvise"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--folder", type=Path, help="folder on the disk to measure; a temporary folder is made in it")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    generator = np.random.default_rng(0)
    lengths = generator.integers(*_LENGTHS, arguments.documents)
    rows = generator.standard_normal((lengths.sum(), _DIMENSION), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cuts = np.cumsum(lengths)[:-1]
    documents = np.split(rows, cuts)
    query = rows[generator.integers(0, len(rows), _QUERY_TOKENS)]
    keys = [generator.bytes(16) for _ in documents]

    missing = list(left_out())
    print(*missing, sep="\n")
    results = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        folder = Path(temporary)
        races = {
            f"the same bytes, {preset}: {_ASKED} of {arguments.documents:,} documents": lambda preset=preset: (
                same_bytes(folder / preset, np.split(get_codec(preset).encode(rows), cuts))
            )
            for preset in ("exact", "balanced")
        }
        races[f"the same task: {_ASKED} of {arguments.documents:,} documents scored"] = lambda: same_task(
            folder / "task", query, documents
        )
        for title, trials in races.items():
            results[title] = race(trials(), keys, arguments.rounds)
            show(title, results[title], _COLUMNS)
    if arguments.json:
        peers = {
            package: importlib.metadata.version(package) for peer, (_, package) in PEERS.items() if is_installed(peer)
        }
        write(arguments.json, title="store", rows=results, left_out=missing, tokens=int(lengths.sum()), peers=peers)


if __name__ == "__main__":
    main()

"""Token embeddings on disk: our store against others, on the same bytes and at the same task.

python benchmarks/store.py [--documents N] [--rounds N] [--folder DIR] [--json FILE]

The documents are random unit vectors, 100 to 200 tokens of 384 dimensions each. In each round all contestants are
asked for the same 100 random documents, in turn; what is asked for is checked to be right.

**The same bytes.** Each contestant is given a key of 16 bytes and the codes of each document, float16 (`exact`) or 2
bits a dimension (`balanced`), in batches of 128, each of them synced to disk before the next (Lance writes without a
sync). It gives the codes of the keys back in one contiguous array. Encoding and decoding is not in it.

* `TokenStore`: ours, with checksums.
* LMDB: one value a document, without anything else.
* flat file: one document after the other in a file that is mapped; offsets by key in memory, and in a second file.
* SQLite: a blob a document, write-ahead log, fully synchronous; read with one statement.
* Lance: a binary column, a fragment a batch, compacted when all is written (not in the write rate; old versions are
  removed); `take` of row numbers, which are known by key in memory.

**The same task.** Scoring 100 documents that are given by id for a query of 12 tokens, by their sum of maxima.

* smart_rag: `TokenStore.gather`, then `scoring.late_interaction`; writing is encoding and `put`.
* LanceDB: a float16 multivector column without a vector index, an index on the ids, and a search with the ids as
  filter: it reads and scores just these, exactly. Its codes are not compressed.
* Qdrant's local mode: float32 multivectors, a query with the ids as filter. It is Qdrant's own implementation in
  Python, for trying things out: all vectors are in memory, and the file is read only when it opens. It says nothing
  about the server.

Cold: opened anew after the system was told to drop the contestant's files from its cache (`posix_fadvise`, where there
is one; not on tmpfs); the time to open is not in it. A disk's own cache may still be warm. `x ours` is the median of
the rounds' ratios to the first contestant.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import sqlite3
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Protocol

import lmdb
import numpy as np
from report import show, write

from smart_rag import TokenBatch, scoring
from smart_rag.codec import codec
from smart_rag.token_store import TokenStore
from smart_rag.types import Codes, FloatArray

_DIMENSION = 384
_LENGTHS = (100, 201)
_QUERY_TOKENS = 12
_BATCH = 128
_ASKED = 100
_COLD_ROUNDS = 7
_TOLERANCE = 0.02
_PEERS = {
    "Lance": ("lance", "pylance"),
    "LanceDB": ("lancedb", "lancedb"),
    "Qdrant": ("qdrant_client", "qdrant-client"),
}
_COLUMNS = ("bytes a token", "write, documents/s", "warm, ms", "warm p95, ms", "cold, ms", "warm, x ours")


class Contestant(Protocol):
    """Something that keeps documents in a folder and answers for keys: with their codes, or their scores."""

    def write(self, keys: Sequence[bytes], documents: Sequence[np.ndarray]) -> None: ...
    def finish(self) -> None: ...
    def open(self) -> None: ...
    def ask(self, keys: Sequence[bytes]) -> np.ndarray: ...
    def close(self) -> None: ...


# --- the same bytes ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Given:
    """A codec that stores the bytes it is given: a row of them is a token's codes."""

    name: str
    number: int = 1
    pool_factor: int = 1

    def bytes_per_token(self, dimension: int) -> int:
        return dimension

    def encode(self, embeddings: FloatArray) -> Codes:
        return embeddings.view(np.uint8)

    def decode(self, codes: Codes, dimension: int) -> FloatArray:
        raise NotImplementedError


class OurStore:
    """`TokenStore`, told to store the bytes it is given."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.open()

    def open(self) -> None:
        self._store = TokenStore(self._folder, Given("given"))

    def write(self, keys: Sequence[bytes], documents: Sequence[np.ndarray]) -> None:
        self._store.put(keys, TokenBatch.from_list(documents))

    def finish(self) -> None:
        pass

    def ask(self, keys: Sequence[bytes]) -> np.ndarray:
        return self._store.gather(keys).codes.reshape(-1)

    def close(self) -> None:
        self._store.close()


class Lmdb:
    """LMDB, a value a document."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.open()

    def open(self) -> None:
        self._lmdb = lmdb.open(str(self._folder), map_size=1 << 36)

    def write(self, keys: Sequence[bytes], documents: Sequence[np.ndarray]) -> None:
        with self._lmdb.begin(write=True) as transaction:
            for key, codes in sorted(zip(keys, documents, strict=True), key=lambda pair: pair[0]):
                transaction.put(key, codes.data)

    def finish(self) -> None:
        pass

    def ask(self, keys: Sequence[bytes]) -> np.ndarray:
        with self._lmdb.begin(buffers=True) as transaction:
            return np.concatenate([np.frombuffer(transaction.get(key), np.uint8) for key in keys])

    def close(self) -> None:
        self._lmdb.close()


class FlatFile:
    """Documents one after the other in a mapped file."""

    _ENTRY = np.dtype([("key", "V16"), ("start", "<u8"), ("bytes", "<u8")])

    def __init__(self, folder: Path) -> None:
        self._codes, self._offsets = folder / "codes", folder / "offsets"
        self._end = 0

    def write(self, keys: Sequence[bytes], documents: Sequence[np.ndarray]) -> None:
        entries = np.zeros(len(keys), self._ENTRY)
        with self._codes.open("ab") as file:
            for entry, key, codes in zip(entries, keys, documents, strict=True):
                entry["key"], entry["start"], entry["bytes"] = np.void(key), self._end, codes.size
                file.write(codes.data)
                self._end += codes.size
            file.flush()
            os.fsync(file.fileno())
        with self._offsets.open("ab") as file:
            file.write(entries.tobytes())
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> None:
        self.open()

    def open(self) -> None:
        entries = np.fromfile(self._offsets, self._ENTRY)
        places = zip(entries["start"].tolist(), entries["bytes"].tolist(), strict=True)
        self._places = dict(zip((bytes(key) for key in entries["key"]), places, strict=True))
        self._mapped: np.ndarray | None = np.memmap(self._codes, np.uint8, "r")

    def ask(self, keys: Sequence[bytes]) -> np.ndarray:
        assert self._mapped is not None
        return np.concatenate([self._mapped[start : start + size] for start, size in map(self._places.get, keys)])

    def close(self) -> None:
        self._mapped = None


class Sqlite:
    """SQLite, a blob a document."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "tokens.sqlite"
        self.open()
        self._connection.execute("CREATE TABLE tokens (key BLOB PRIMARY KEY, codes BLOB)")

    def open(self) -> None:
        self._connection = sqlite3.connect(self._file)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")

    def write(self, keys: Sequence[bytes], documents: Sequence[np.ndarray]) -> None:
        with self._connection:
            rows = zip(keys, (codes.data for codes in documents), strict=True)
            self._connection.executemany("INSERT INTO tokens VALUES (?, ?)", rows)

    def finish(self) -> None:
        pass

    def ask(self, keys: Sequence[bytes]) -> np.ndarray:
        marks = ",".join("?" * len(keys))
        found = dict(self._connection.execute(f"SELECT key, codes FROM tokens WHERE key IN ({marks})", list(keys)))
        return np.frombuffer(b"".join([found[key] for key in keys]), np.uint8)

    def close(self) -> None:
        self._connection.close()


class Lance:
    """A Lance dataset with a binary column."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "tokens.lance"
        self._rows: dict[bytes, int] = {}

    def write(self, keys: Sequence[bytes], documents: Sequence[np.ndarray]) -> None:
        import lance
        import pyarrow

        flat = pyarrow.py_buffer(np.concatenate([codes.reshape(-1) for codes in documents]))
        offsets = np.cumsum([0, *(codes.size for codes in documents)], dtype=np.int64)
        codes = pyarrow.Array.from_buffers(
            pyarrow.large_binary(), len(documents), [None, pyarrow.py_buffer(offsets), flat]
        )
        table = pyarrow.table({"key": pyarrow.array(keys, pyarrow.binary(16)), "codes": codes})
        lance.write_dataset(table, self._folder, mode="append" if self._rows else "create")
        self._rows.update((key, len(self._rows)) for key in keys)

    def finish(self) -> None:
        from datetime import timedelta

        self.open()
        self._dataset.optimize.compact_files()
        self._dataset.cleanup_old_versions(timedelta(0))

    def open(self) -> None:
        import lance

        self._dataset = lance.dataset(self._folder)

    def ask(self, keys: Sequence[bytes]) -> np.ndarray:
        taken = self._dataset.take([self._rows[key] for key in keys], columns=["codes"]).column("codes")
        parts = []
        for chunk in taken.chunks:
            _, offsets, flat = chunk.buffers()
            bounds = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
            parts.append(np.frombuffer(flat, np.uint8)[bounds[0] : bounds[-1]])
        return np.concatenate(parts)

    def close(self) -> None:
        del self._dataset


# --- the same task -------------------------------------------------------------------------------


class OurScores:
    """`TokenStore` and our scorer."""

    def __init__(self, folder: Path, query: np.ndarray, preset: str) -> None:
        self._folder, self._preset = folder, preset
        self._query = TokenBatch.from_list([query])
        self.open()

    def open(self) -> None:
        self._store = TokenStore(self._folder, codec(self._preset))

    def write(self, keys: Sequence[bytes], documents: Sequence[np.ndarray]) -> None:
        self._store.put(keys, TokenBatch.from_list(documents))

    def finish(self) -> None:
        pass

    def ask(self, keys: Sequence[bytes]) -> np.ndarray:
        return scoring.late_interaction(self._query, self._store.gather(keys))[0] * _QUERY_TOKENS

    def close(self) -> None:
        self._store.close()


class LanceDb:
    """LanceDB, a multivector column."""

    def __init__(self, folder: Path, query: np.ndarray) -> None:
        import lancedb
        import pyarrow

        self._folder, self._query = folder, query.astype(np.float16)
        multivector = pyarrow.list_(pyarrow.list_(pyarrow.float16(), _DIMENSION))
        self._schema = pyarrow.schema([("id", pyarrow.int64()), ("vector", multivector)])
        self._table = lancedb.connect(folder).create_table("tokens", schema=self._schema)

    def write(self, keys: Sequence[bytes], documents: Sequence[np.ndarray]) -> None:
        import pyarrow

        flat = pyarrow.array(np.concatenate(documents).astype(np.float16).reshape(-1))
        offsets = np.cumsum([0, *map(len, documents)], dtype=np.int32)
        vectors = pyarrow.ListArray.from_arrays(
            pyarrow.array(offsets), pyarrow.FixedSizeListArray.from_arrays(flat, _DIMENSION)
        )
        columns = {"id": pyarrow.array([_number(key) for key in keys]), "vector": vectors}
        self._table.add(pyarrow.table(columns, schema=self._schema))

    def finish(self) -> None:
        from datetime import timedelta

        from lancedb.index import BTree

        self._table.create_index("id", config=BTree())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no one else may be reading the old versions
            self._table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)

    def open(self) -> None:
        import lancedb

        self._table = lancedb.connect(self._folder).open_table("tokens")

    def ask(self, keys: Sequence[bytes]) -> np.ndarray:
        numbers = [_number(key) for key in keys]
        found = (
            self._table.search(self._query, vector_column_name="vector")
            .distance_type("cosine")
            .where(f"id IN ({','.join(map(str, numbers))})", prefilter=True)
            .select(["id", "_distance"])
            .limit(len(keys))
            .to_arrow()
        )
        scores = dict(zip(found["id"].to_pylist(), found["_distance"].to_pylist(), strict=True))
        return _QUERY_TOKENS - np.array([scores[number] for number in numbers], dtype=np.float32)

    def close(self) -> None:
        del self._table


class Qdrant:
    """Qdrant's local mode, multivectors."""

    def __init__(self, folder: Path, query: np.ndarray) -> None:
        from qdrant_client import models

        self._folder, self._query = folder, query
        self.open()
        self._client.create_collection(
            "tokens",
            vectors_config=models.VectorParams(
                size=_DIMENSION,
                distance=models.Distance.DOT,
                multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
            ),
        )

    def open(self) -> None:
        from qdrant_client import QdrantClient

        self._client = QdrantClient(path=str(self._folder))

    def write(self, keys: Sequence[bytes], documents: Sequence[np.ndarray]) -> None:
        self._client.upload_collection("tokens", vectors=list(documents), ids=[_number(key) for key in keys])

    def finish(self) -> None:
        pass

    def ask(self, keys: Sequence[bytes]) -> np.ndarray:
        from qdrant_client import models

        numbers = [_number(key) for key in keys]
        only = models.Filter(must=[models.HasIdCondition(has_id=numbers)])
        found = self._client.query_points("tokens", query=self._query, query_filter=only, limit=len(keys)).points
        scores = {point.id: point.score for point in found}
        return np.array([scores[number] for number in numbers], dtype=np.float32)

    def close(self) -> None:
        self._client.close()


def _number(key: bytes) -> int:
    return int.from_bytes(key[:7], "little")


# --- measuring -----------------------------------------------------------------------------------


@dataclass
class Trial:
    """One contestant: what it keeps, what it must answer, and the seconds that it took."""

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
    """Return a row for each trial; all of them write, then answer in turn."""
    generator = np.random.default_rng(3)
    for trial in trials.values():
        trial.fill(keys)
    for turn in range(rounds + 3):
        chosen = generator.permutation(len(keys))[:_ASKED].tolist()
        for trial in trials.values():
            seconds = trial.ask(keys, chosen)
            if turn >= 3:  # the first ones warm up
                trial.warm.append(1e3 * seconds)
    if hasattr(os, "posix_fadvise"):
        for _ in range(_COLD_ROUNDS):
            chosen = generator.permutation(len(keys))[:_ASKED].tolist()
            for name, trial in trials.items():
                if name != "Qdrant local":  # it reads its file only when it opens
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
    makers: dict[str, Callable[[Path], Contestant]] = {
        "TokenStore": OurStore, "LMDB": Lmdb, "flat file": FlatFile, "SQLite": Sqlite
    }  # fmt: skip
    if _installed("Lance"):
        makers["Lance"] = Lance

    def expected(chosen: Sequence[int]) -> np.ndarray:
        return np.concatenate([codes[i].reshape(-1) for i in chosen])

    trials = {}
    for name, make in makers.items():
        (folder / name).mkdir(parents=True)
        trials[name] = Trial(make(folder / name), folder / name, codes, expected, 0)
    return trials


def same_task(folder: Path, query: np.ndarray, documents: Sequence[np.ndarray]) -> dict[str, Trial]:
    makers: dict[str, Callable[[Path], Contestant]] = {
        "smart_rag balanced": lambda path: OurScores(path, query, "balanced"),
        "smart_rag exact": lambda path: OurScores(path, query, "exact"),
    }
    if _installed("LanceDB"):
        makers["LanceDB float16"] = lambda path: LanceDb(path, query)
    if _installed("Qdrant"):
        makers["Qdrant local"] = lambda path: Qdrant(path, query)

    def expected(chosen: Sequence[int], of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return np.array([(query @ of(documents[i]).T).max(1).sum() for i in chosen])

    def coded(document: np.ndarray) -> np.ndarray:
        return codec("balanced").decode(codec("balanced").encode(document), _DIMENSION)

    trials = {}
    for name, make in makers.items():
        (folder / name).mkdir(parents=True)
        of = coded if name == "smart_rag balanced" else np.asarray
        truth = partial(expected, of=of)
        trials[name] = Trial(make(folder / name), folder / name, documents, truth, _TOLERANCE)
    return trials


def _installed(peer: str) -> bool:
    return importlib.util.find_spec(_PEERS[peer][0]) is not None


def left_out() -> Iterator[str]:
    for peer, (_, package) in _PEERS.items():
        if not _installed(peer):
            yield f"{peer} is left out: {package} is not installed (python -m pip install --group bench)"
    if not hasattr(os, "posix_fadvise"):
        yield "cold reads are left out: this system has no posix_fadvise"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--folder", type=Path, help="where a temporary folder is made, on the disk to be measured")
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
                same_bytes(folder / preset, np.split(codec(preset).encode(rows), cuts))
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
            package: importlib.metadata.version(package) for peer, (_, package) in _PEERS.items() if _installed(peer)
        }
        write(arguments.json, title="store", rows=results, left_out=missing, tokens=int(lengths.sum()), peers=peers)


if __name__ == "__main__":
    main()

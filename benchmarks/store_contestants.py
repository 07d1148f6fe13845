"""Contestants of `store.py`: stores of token embeddings in a folder."""

from __future__ import annotations

import importlib.util
import os
import sqlite3
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import lmdb
import numpy as np

from smart_rag import TokenBatch
from smart_rag.embeddings.codec import get_codec
from smart_rag.embeddings.tokens import Codes, FloatArray
from smart_rag.scoring import maxsim
from smart_rag.store.token_store import TokenStore

# Optional peers: the module and its package.
PEERS = {
    "Lance": ("lance", "pylance"),
    "LanceDB": ("lancedb", "lancedb"),
    "Qdrant": ("qdrant_client", "qdrant-client"),
}


def is_installed(peer: str) -> bool:
    """Return whether the package of ``peer`` is installed."""
    return importlib.util.find_spec(PEERS[peer][0]) is not None


class Contestant(Protocol):
    """A store of documents in a folder. For keys it returns the documents' codes, or their scores."""

    def write(self, keys: Sequence[bytes], documents: Sequence[np.ndarray]) -> None: ...
    def finish(self) -> None: ...
    def open(self) -> None: ...
    def ask(self, keys: Sequence[bytes]) -> np.ndarray: ...
    def close(self) -> None: ...


# --- the same bytes ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Given:
    """A codec that stores bytes unchanged: each row is the code of a token."""

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
    """`TokenStore` with a codec that stores bytes unchanged."""

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
    """LMDB with one value for each document."""

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
    """Documents one after the other in a memory-mapped file."""

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
    """SQLite with one blob for each document."""

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


def of_bytes() -> dict[str, Callable[[Path], Contestant]]:
    """Return the contestants that store bytes, by name, ours first."""
    makers: dict[str, Callable[[Path], Contestant]] = {
        "TokenStore": OurStore, "LMDB": Lmdb, "flat file": FlatFile, "SQLite": Sqlite
    }  # fmt: skip
    if is_installed("Lance"):
        makers["Lance"] = Lance
    return makers


# --- the same task -------------------------------------------------------------------------------


class OurScores:
    """`TokenStore` and our scorer."""

    def __init__(self, folder: Path, query: np.ndarray, preset: str) -> None:
        self._folder, self._preset = folder, preset
        self._query, self._tokens = TokenBatch.from_list([query]), len(query)
        self.open()

    def open(self) -> None:
        self._store = TokenStore(self._folder, get_codec(self._preset))

    def write(self, keys: Sequence[bytes], documents: Sequence[np.ndarray]) -> None:
        self._store.put(keys, TokenBatch.from_list(documents))

    def finish(self) -> None:
        pass

    def ask(self, keys: Sequence[bytes]) -> np.ndarray:
        return maxsim.late_interaction(self._query, self._store.gather(keys))[0] * self._tokens

    def close(self) -> None:
        self._store.close()


class LanceDb:
    """LanceDB with a multivector column."""

    def __init__(self, folder: Path, query: np.ndarray) -> None:
        import lancedb
        import pyarrow

        self._folder, self._query = folder, query.astype(np.float16)
        multivector = pyarrow.list_(pyarrow.list_(pyarrow.float16(), query.shape[1]))
        self._schema = pyarrow.schema([("id", pyarrow.int64()), ("vector", multivector)])
        self._table = lancedb.connect(folder).create_table("tokens", schema=self._schema)

    def write(self, keys: Sequence[bytes], documents: Sequence[np.ndarray]) -> None:
        import pyarrow

        flat = pyarrow.array(np.concatenate(documents).astype(np.float16).reshape(-1))
        offsets = np.cumsum([0, *map(len, documents)], dtype=np.int32)
        vectors = pyarrow.ListArray.from_arrays(
            pyarrow.array(offsets), pyarrow.FixedSizeListArray.from_arrays(flat, self._query.shape[1])
        )
        columns = {"id": pyarrow.array([_number(key) for key in keys]), "vector": vectors}
        self._table.add(pyarrow.table(columns, schema=self._schema))

    def finish(self) -> None:
        from datetime import timedelta

        from lancedb.index import BTree

        self._table.create_index("id", config=BTree())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns that another process may be reading the old versions
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
        return len(self._query) - np.array([scores[number] for number in numbers], dtype=np.float32)

    def close(self) -> None:
        del self._table


class Qdrant:
    """Qdrant's local mode with multivectors."""

    def __init__(self, folder: Path, query: np.ndarray) -> None:
        from qdrant_client import models

        self._folder, self._query = folder, query
        self.open()
        self._client.create_collection(
            "tokens",
            vectors_config=models.VectorParams(
                size=query.shape[1],
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


def of_scores(query: np.ndarray) -> dict[str, Callable[[Path], Contestant]]:
    """Return the contestants that score documents for ``query``, by name, ours first."""
    makers: dict[str, Callable[[Path], Contestant]] = {
        "smart_rag balanced": lambda path: OurScores(path, query, "balanced"),
        "smart_rag exact": lambda path: OurScores(path, query, "exact"),
    }
    if is_installed("LanceDB"):
        makers["LanceDB float16"] = lambda path: LanceDb(path, query)
    if is_installed("Qdrant"):
        makers["Qdrant local"] = lambda path: Qdrant(path, query)
    return makers


def _number(key: bytes) -> int:
    return int.from_bytes(key[:7], "little")

"""`StoredRows`: rows as Chroma stores them. Before a batch is written, the rows that it replaces or removes are kept.

An error of Chroma does not say that nothing happened. On a full disk, Chroma may add a batch to its log and then fail
to apply it. When Chroma is opened again, it applies the log. A server that is killed may have done the whole batch, a
part of it, or nothing. So the state of a batch is unknown until it is *settled*: its new documents are removed, and the
documents that it replaced or removed get their old rows again. The old rows must be on disk before the batch begins.
``docs/format.md`` describes their bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from smart_rag.errors import CorruptStore
from smart_rag.store.row import Row, sealed, to_chroma

# Checksum of the rest, number of bytes of the JSON text.
_HEADER = struct.Struct("<QQ")
_CHECKSUM_BYTES = 8
# Chroma's names for ids, texts and metadata.
_COLUMNS = ("ids", "documents", "metadatas")


@dataclass(frozen=True, slots=True)
class StoredRows:
    """n rows as Chroma stores them. ``pooled`` (n, dimension) float32 are their pooled embeddings."""

    ids: Sequence[str]
    texts: Sequence[str | None]
    metadatas: Sequence[Mapping[str, Any] | None]
    pooled: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of_rows(cls, rows: Sequence[Row], pooled: NDArray[np.float32], root: Path) -> StoredRows:
        """Return ``rows`` with their ``pooled`` embeddings. ``root`` is the index's folder, see `to_chroma`."""
        ids, texts = [row.document.id for row in rows], [row.document.text for row in rows]
        metadatas = [sealed(row, to_chroma(row, root)) for row in rows]
        return cls(ids, texts, metadatas, pooled)

    @classmethod
    def of_results(cls, results: Iterable[Any]) -> StoredRows:
        """Return all rows of Chroma's ``results``."""
        found = [result for result in results if result["ids"]]
        ids, texts, metadatas = (list(chain(*(one[name] for one in found))) for name in _COLUMNS)
        pooled = [np.asarray(one["embeddings"], dtype=np.float32) for one in found]
        return cls(ids, texts, metadatas, np.concatenate(pooled) if pooled else np.empty((0, 0), np.float32))

    def columns(self) -> dict[str, list[Any]]:
        """Return ids, texts and metadata under the names that Chroma has for them."""
        return dict(zip(_COLUMNS, map(list, (self.ids, self.texts, self.metadatas)), strict=True))

    def over(self, others: StoredRows) -> StoredRows:
        """Return the rows so that they can be written over ``others``.

        Chroma merges new metadata with the metadata that it has. The value None removes a key.
        """
        keys = {id: (other or {}).keys() for id, other in zip(others.ids, others.metadatas, strict=True)}
        metadatas = [
            {**dict.fromkeys(keys.get(id, ())), **(own or {})} for id, own in zip(self.ids, self.metadatas, strict=True)
        ]
        return replace(self, metadatas=metadatas)

    def settled(self) -> StoredRows:
        """Return the rows as Chroma has them after they were written `over` others: without the values None."""
        metadatas = [{key: value for key, value in (own or {}).items() if value is not None} for own in self.metadatas]
        return replace(self, metadatas=metadatas)

    def part(self, rows: slice | NDArray[np.intp]) -> StoredRows:
        """Return some of the rows: a slice, or these positions."""
        at = range(len(self))[rows] if isinstance(rows, slice) else rows.tolist()
        ids, texts, metadatas = [self.ids[i] for i in at], [self.texts[i] for i in at], [self.metadatas[i] for i in at]
        return StoredRows(ids, texts, metadatas, self.pooled[rows])

    def packed(self) -> bytes:
        """Return the rows as bytes."""
        text = json.dumps(list(zip(self.ids, self.texts, self.metadatas, strict=True))).encode()
        body = len(text).to_bytes(8, "little") + text + self.pooled.astype("<f4").tobytes()
        return xxhash.xxh3_64_intdigest(body).to_bytes(_CHECKSUM_BYTES, "little") + body

    @classmethod
    def unpacked(cls, value: bytes) -> StoredRows:
        """Return the rows of which `packed` made ``value``.

        Raises:
            CorruptStore: ``value`` fails its checksum.
        """
        whole = len(value) >= _HEADER.size
        checksum, length = _HEADER.unpack_from(value) if whole else (0, 0)
        if not whole or xxhash.xxh3_64_intdigest(memoryview(value)[_CHECKSUM_BYTES:]) != checksum:
            raise CorruptStore(
                "the record of the batch that was interrupted fails its checksum; restore the index from a backup, or "
                "index the documents again"
            )
        end = _HEADER.size + length
        rows = json.loads(value[_HEADER.size : end])
        ids, texts, metadatas = ([row[i] for row in rows] for i in range(3))
        pooled = np.frombuffer(value, "<f4", offset=end).astype(np.float32)
        return cls(ids, texts, metadatas, pooled.reshape(len(rows), -1 if rows else 0))

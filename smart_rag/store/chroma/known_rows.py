"""`KnownRows`: rows that earlier searches have read, in memory.

Chroma needs several milliseconds to read the embeddings, texts and metadata of a hundred rows. Searches ask for the
same rows again and again, although nothing was written meanwhile.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Numbers that never shrink: those of the writes to the rows and to the terms.
State = tuple[int, int]

# Bytes of the rows of one index. 12,000 rows with 384 dimensions and texts of 100 words need as much.
_MOST_BYTES = 32 << 20
# Bytes of Python's objects for one row, without its embedding, its text and the values of its metadata.
_OBJECT_BYTES = 500


@dataclass(frozen=True, slots=True)
class KnownRow:
    """The key of a row's token embeddings, its pooled embedding (dimension), its text, and its metadata in Chroma."""

    key: bytes
    pooled: NDArray[np.float32]
    text: str
    metadata: Mapping[str, Any]

    @property
    def size(self) -> int:
        """About how many bytes the row needs in memory."""
        return _OBJECT_BYTES + self.pooled.nbytes + sum(map(sys.getsizeof, (self.text, *self.metadata.values())))


class KnownRows:
    """Rows by id, as they were in one state of the index. If the state changes, all are forgotten.

    Threads may share one object. If the rows need more than ``most_bytes``, those that came first are forgotten.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._mutex = threading.Lock()
        self._state: State = (-1, -1)
        self._rows: dict[str, KnownRow] = {}
        self._bytes = 0

    def get(self, state: State, ids: Iterable[str]) -> dict[str, KnownRow]:
        """Return a dict from id to row, for those of ``ids`` that are known in this ``state``."""
        with self._mutex:
            if state != self._state:
                return {}
            return {id: row for id in ids if (row := self._rows.get(id)) is not None}

    def add(self, state: State, rows: Mapping[str, KnownRow]) -> None:
        """Remember ``rows``, which were read in this ``state`` or later."""
        with self._mutex:
            if state < self._state:  # another thread has seen a later write
                return
            if state > self._state:
                self._state, self._rows, self._bytes = state, {}, 0
            for id, row in rows.items():
                if id not in self._rows:
                    self._rows[id] = row
                    self._bytes += row.size
            while self._bytes > self._most_bytes:
                self._bytes -= self._rows.pop(next(iter(self._rows))).size

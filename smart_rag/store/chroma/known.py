"""`Known`: what earlier searches have read from Chroma, in memory.

Chroma needs several milliseconds to read the embeddings, texts and metadata of a hundred rows. Searches ask for the
same rows again and again, although nothing was written meanwhile.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

# Numbers that never shrink: those of the writes to the rows and to the terms.
State = tuple[int, int]

V = TypeVar("V")

# Bytes of Python's objects for one row, without its text and the values of its metadata.
_OBJECT_BYTES = 500
# Bytes of an entry of a dict, without its key and its value.
_ENTRY_BYTES = 100


@dataclass(frozen=True, slots=True)
class KnownRow:
    """The key of a row's token embeddings, its text, and its metadata in Chroma."""

    key: bytes
    text: str
    metadata: Mapping[str, Any]

    @property
    def size(self) -> int:
        """About how many bytes the row needs in memory."""
        return _OBJECT_BYTES + sum(map(sys.getsizeof, (self.text, *self.metadata.values())))


class Known(Generic[V]):
    """Values by id, as they were in one state of the index. If the state changes, all are forgotten.

    Threads may share one object.

    Args:
        size: a function that returns about how many bytes a value needs in memory.
        most_bytes: if the values need more, those that came first are forgotten.
    """

    def __init__(self, size: Callable[[V], int], most_bytes: int) -> None:
        self._size = size
        self._most_bytes = most_bytes
        self._mutex = threading.Lock()
        self._state: State = (-1, -1)
        self._values: dict[str, V] = {}
        self._bytes = 0

    def get(self, state: State, ids: Iterable[str]) -> dict[str, V]:
        """Return a dict from id to value, for those of ``ids`` that are known in this ``state``."""
        with self._mutex:
            if state > self._state:
                self._forget(state)
            if state < self._state:
                return {}
            return {id: self._values[id] for id in ids if id in self._values}

    def add(self, state: State, values: Mapping[str, V]) -> None:
        """Remember ``values``, which were read in this ``state`` or later."""
        with self._mutex:
            if state < self._state:  # another thread has seen a later write
                return
            if state > self._state:
                self._forget(state)
            for id, value in values.items():
                if id not in self._values:
                    self._values[id] = value
                    self._bytes += self._size_of(id, value)
            while self._bytes > self._most_bytes:
                first = next(iter(self._values))
                self._bytes -= self._size_of(first, self._values.pop(first))

    def _forget(self, state: State) -> None:
        self._state, self._values, self._bytes = state, {}, 0

    def _size_of(self, id: str, value: V) -> int:
        return _ENTRY_BYTES + sys.getsizeof(id) + self._size(value)

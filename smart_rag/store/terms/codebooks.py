"""`Codebooks`: the codebooks of a term store, and when the next one is to be learned."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from smart_rag.errors import CorruptStore
from smart_rag.store.lmdb_environment import repeated
from smart_rag.store.terms.codebook import CHECKSUM_BYTES, Codebook
from smart_rag.store.terms.term_store import TermStore

# These keys are beside the layout, where older versions ignore them.
_BOOK = "centroids {}"
_GROWTH = b"centroids next"
# Documents that were written, and the number of them at which the next codebook is due.
_NUMBERS = struct.Struct("<QQ")


class Growth(NamedTuple):
    """How many documents have been ``written`` whose terms are centroids, and at which number the next look is due."""

    written: int
    due: int


class Codebooks:
    """The codebooks of the store ``terms``, the oldest first. A codebook never changes. Only a repair removes one.

    A reader that knows the terms of a codebook also finds the codebook, because it was written before them.
    """

    def __init__(self, terms: TermStore) -> None:
        self._terms = terms
        self._known: dict[bytes, Codebook] = {}  # by their checksums

    @repeated
    def all(self) -> list[Codebook]:
        """Return all codebooks.

        Raises:
            CorruptStore: a codebook is damaged.
        """
        known = self._known
        found: dict[bytes, Codebook] = {}
        with self._terms._environment.read() as transaction:
            # A codebook that is known already is not copied. After a repair, another one may have its number.
            while (value := transaction.get(_key(len(found)))) is not None:
                checksum = bytes(value[:CHECKSUM_BYTES])
                found[checksum] = known.get(checksum) or Codebook.unpacked(bytes(value), self._terms.path)
        if found.keys() != known.keys():
            self._known = found
        return list(found.values())

    def add(self, codebook: Codebook) -> None:
        """Add a codebook. It is the one that new documents are assigned to."""
        number, value = len(self.all()), codebook.packed()

        def write(transaction: Any) -> None:
            transaction.put(_key(number), value)

        self._terms._environment.write(write, size=len(value))

    @repeated
    def sound(self) -> list[Codebook]:
        """Return the codebooks before the first one that is damaged."""
        found: list[Codebook] = []
        with self._terms._environment.read(buffers=False) as transaction:
            while (value := transaction.get(_key(len(found)))) is not None:
                try:
                    found.append(Codebook.unpacked(value, self._terms.path))
                except CorruptStore:  # `Integrity` names the documents that have its terms
                    break
        return found

    @repeated
    def count(self) -> int:
        """Return the number of codebooks, also of those that are damaged."""
        count = 0
        with self._terms._environment.read() as transaction:
            while transaction.get(_key(count)) is not None:
                count += 1
        return count

    def keep(self, count: int) -> None:
        """Remove all codebooks except the first ``count``."""
        if count == self.count():
            return

        def write(transaction: Any) -> None:
            number = count
            while transaction.delete(_key(number)):
                number += 1

        self._terms._environment.write(write)

    @repeated
    def growth(self) -> Growth | None:
        """Return what `set_growth` has written last. If there are no such documents, or it is damaged, return None."""
        with self._terms._environment.read(buffers=False) as transaction:
            value = transaction.get(_GROWTH)
        return None if value is None or len(value) != _NUMBERS.size else Growth(*_NUMBERS.unpack(value))

    def set_growth(self, growth: Growth) -> None:
        """Write ``growth``."""

        def write(transaction: Any) -> None:
            transaction.put(_GROWTH, _NUMBERS.pack(*growth))

        self._terms._environment.write(write)


def _key(number: int) -> bytes:
    return _BOOK.format(number).encode()

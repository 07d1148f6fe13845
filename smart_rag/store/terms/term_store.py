"""Terms of each document on disk, in LMDB. An `InvertedIndex` is built from them.

The *terms* of a document are the distinct vocabulary ids of its tokens. They are stored under a *slot*, a number that
is never used again. Suppose that a reader knows all slots up to a number. Then it finds new documents in the slots
after this number. If a known slot is missing, its document was removed. When a document changes, its new revision gets
another slot than the old one. The new slot is written before the document's row, and the old slot is removed after it.
``docs/format.md`` describes the bytes.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from smart_rag.embeddings.tokens import Offsets, TokenIds
from smart_rag.errors import CorruptStore, IndexClosed
from smart_rag.paths import absolute
from smart_rag.store.lmdb_environment import FILE_NAME, Environment
from smart_rag.store.place import Place
from smart_rag.types import Revision

_LAYOUT = b"terms 1"
_DATABASES = ("terms", "slots")
_SLOT = struct.Struct(">Q")  # big-endian, so that LMDB sorts slots by number
# Key of the next free slot. It differs from the key of every revision, because those keys have 16 bytes.
_NEXT = b"next"
# Checksum of the rest of the entry, length of the document's id in bytes, number of bytes of a vocabulary id.
_HEADER = struct.Struct("<QIB")
_CHECKSUM_BYTES = 8


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes in a store since an earlier call of `TermStore.changes`.

    n documents were added. ``slots`` (n) int64 are their slots, in ascending order. ``hashes`` (n) uint64 are the
    hashes of their ids. ``terms[offsets[i] : offsets[i + 1]]`` are the terms of document i. ``live`` has all slots in
    the store. It is None if no document was removed. Pass ``version`` to the next call.
    """

    version: int
    slots: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    terms: TokenIds
    offsets: Offsets
    live: NDArray[np.int64] | None


class TermStore:
    """Terms of each revision of a document: ``put``, ``delete``, ``changes``, ``vacuum``.

    Each call is one transaction. Either all of it happens, or nothing. When a write returns, it is on disk.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = absolute(path)
        self._shared: Environment | None = Environment.at(self.path, _LAYOUT, _DATABASES)
        self.place = Place(self.path, self.path / FILE_NAME, self._shared.identity)

    @property
    def _environment(self) -> Environment:
        if self._shared is None:
            raise IndexClosed(f"{self.path}: the term store is closed; open it again")
        self.place.check()
        return self._shared

    def put(self, revisions: Sequence[Revision], terms: Sequence[TokenIds | None]) -> None:
        """Write the terms of n ``revisions``, and replace their earlier terms.

        The terms of a revision are sorted int32. None means that its tokens have no vocabulary ids. Then no entry is
        written.
        """
        values = {
            revision: None if of_one is None else _packed(revision[0], of_one)
            for revision, of_one in zip(revisions, terms, strict=True)
        }

        def write(transaction: Any) -> None:
            slots = self._environment.databases["slots"]
            self._remove(transaction, values)
            new = {revision: value for revision, value in values.items() if value is not None}
            if not new:
                return
            following = transaction.get(_NEXT, db=slots)
            first = 0 if following is None else _SLOT.unpack(following)[0]
            for slot, (revision, value) in enumerate(new.items(), first):
                # Slots ascend, so LMDB can append. The pages are then full.
                transaction.put(_SLOT.pack(slot), value, append=True, db=self._environment.databases["terms"])
                transaction.put(_revision_key(revision), _SLOT.pack(slot), db=slots)
            transaction.put(_NEXT, _SLOT.pack(first + len(new)), db=slots)

        environment = self._environment
        if values:
            environment.write(write, size=sum(len(value) + 64 for value in values.values() if value is not None))

    def delete(self, revisions: Collection[Revision]) -> None:
        """Remove the terms of these revisions. Revisions without terms are skipped."""
        environment = self._environment
        if revisions:
            environment.write(lambda transaction: self._remove(transaction, revisions))

    def _remove(self, transaction: Any, revisions: Collection[Revision]) -> None:
        for revision in revisions:
            slot = transaction.pop(_revision_key(revision), db=self._environment.databases["slots"])
            if slot is not None:
                transaction.delete(slot, db=self._environment.databases["terms"])

    def changes(self, version: int, last: int, count: int) -> Changes | None:
        """Return the changes since ``version``, or None if there are none.

        Args:
            version: ``Changes.version`` of the last call. With -1, all documents are returned.
            last: greatest slot that the caller knows, or -1 if the caller knows none.
            count: number of slots that the caller knows and that are not removed.

        Raises:
            CorruptStore: a new entry fails its checksum.
        """
        with self._environment.read(buffers=False) as transaction:
            if transaction.id() == version:
                return None
            database = self._environment.databases["terms"]
            slots, hashes, lengths = bytearray(), array("Q"), array("q")
            # This is one buffer. After a list of many small arrays, the process would never give the memory back.
            terms = bytearray()
            cursor = transaction.cursor(database)
            if cursor.set_range(_SLOT.pack(last + 1)):
                for slot, value in cursor:
                    id, own = self._unpacked(value)
                    slots += slot
                    hashes.append(id_hash(id))
                    lengths.append(len(own))
                    terms += own.tobytes()
            live = None
            if count + len(lengths) != transaction.stat(database)["entries"]:
                live = _numbers(b"".join(transaction.cursor(database).iternext(values=False)))
            offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
            np.cumsum(lengths, out=offsets[1:])
            return Changes(
                transaction.id(),
                _numbers(slots),
                np.asarray(hashes, dtype=np.uint64),
                np.frombuffer(terms, dtype=np.int32),
                offsets,
                live,
            )

    def ids(self, slots: Sequence[int]) -> list[str]:
        """Return the ids of the documents in ``slots``, in this order. Empty slots are left out."""
        with self._environment.read(buffers=False) as transaction:
            database = self._environment.databases["terms"]
            values = [transaction.get(_SLOT.pack(slot), db=database) for slot in slots]
            return [self._unpacked(value)[0] for value in values if value is not None]

    def damaged(self, revisions: Sequence[Revision]) -> list[Revision]:
        """Return those of ``revisions`` whose terms have changed since they were written, or cannot be read."""
        found = []
        with self._environment.read(buffers=False) as transaction:
            databases = self._environment.databases
            for revision in revisions:
                slot = transaction.get(_revision_key(revision), db=databases["slots"])
                if slot is None:
                    continue
                try:
                    sound = self._unpacked(transaction.get(slot, b"", db=databases["terms"]))[0] == revision[0]
                except CorruptStore:
                    sound = False
                if not sound:
                    found.append(revision)
        return found

    def vacuum(self, live: Collection[Revision]) -> None:
        """Remove the terms of every revision that is not in ``live``."""
        keys = set(map(_revision_key, live))

        def write(transaction: Any) -> None:
            terms, slots = (self._environment.databases[name] for name in _DATABASES)
            slot_of = {key: slot for key, slot in transaction.cursor(slots) if key != _NEXT}
            for key in slot_of.keys() - keys:
                transaction.delete(key, db=slots)
            kept = {slot for key, slot in slot_of.items() if key in keys}
            for slot in set(transaction.cursor(terms).iternext(values=False)) - kept:
                transaction.delete(slot, db=terms)

        self._environment.write(write)

    def used_bytes(self) -> int:
        """Return the bytes of the pages in use on disk."""
        environment = self._environment
        with environment.read() as transaction:
            return environment.used_bytes(transaction)

    def close(self) -> None:
        """Close the files. A second call does nothing."""
        environment, self._shared = self._shared, None
        if environment is not None:
            environment.release()

    def _unpacked(self, value: bytes) -> tuple[str, TokenIds]:
        """Return the document id and the terms in the bytes of an entry.

        Raises:
            CorruptStore: the entry fails its checksum.
        """
        whole = len(value) >= _HEADER.size
        checksum, id_bytes, width = _HEADER.unpack_from(value) if whole else (0, 0, 0)
        if not whole or xxhash.xxh3_64_intdigest(memoryview(value)[_CHECKSUM_BYTES:]) != checksum:
            raise CorruptStore(
                f"{self.path}: the terms of a document fail their checksum; write them again with "
                "index.verify(repair=True) or `smart-rag verify --repair`; if no document has them any more, "
                "index.vacuum() removes them"
            )
        start = _HEADER.size + id_bytes
        terms = np.frombuffer(value, f"<u{width}", offset=start).astype(np.int32)
        return value[_HEADER.size : start].decode(), terms


def _numbers(slots: bytes | bytearray) -> NDArray[np.int64]:
    return np.frombuffer(slots, ">u8").astype(np.int64)


def id_hash(id: str) -> int:
    """Return the XXH3-64 of a document's id."""
    return xxhash.xxh3_64_intdigest(id.encode())


def _revision_key(revision: Revision) -> bytes:
    # The key is a hash, because LMDB limits the length of a key.
    id, key = revision
    return hashlib.blake2b(key + id.encode(), digest_size=16).digest()


def _packed(id: str, terms: TokenIds) -> bytes:
    width = 2 if not len(terms) or terms[-1] < 1 << 16 else 4
    name = id.encode()
    body = _HEADER.pack(0, len(name), width)[_CHECKSUM_BYTES:] + name + terms.astype(f"<u{width}").tobytes()
    return xxhash.xxh3_64_intdigest(body).to_bytes(_CHECKSUM_BYTES, "little") + body

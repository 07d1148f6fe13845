"""Terms of each document on disk, in LMDB. An `InvertedIndex` is built from them.

The *terms* of a document are the distinct vocabulary ids of its tokens. They are stored under a *slot*, a number that
is never used again. A reader that knows all slots up to some number finds new documents in the slots after this
number. If a known slot is no longer in the store, its document was removed. When a document changes, its new revision
gets another slot than the old one. The new slot is written before the document's row, and the old slot is removed
after it. ``docs/format.md`` describes the bytes.
"""

from __future__ import annotations

import struct
import threading
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from smart_rag.embeddings.tokens import TokenIds
from smart_rag.errors import CorruptStore, IndexClosed
from smart_rag.paths import absolute
from smart_rag.store.lmdb_environment import FILE_NAME, Environment, repeated
from smart_rag.store.place import Place
from smart_rag.store.terms.changes import Changes
from smart_rag.store.terms.live_keys import KEYS, id_key, live_keys, replace_live_keys, revision_key, write_live_keys
from smart_rag.store.terms.term_entry import (
    REPAIR,
    has_no_words,
    joined,
    packed,
    packed_revisions,
    packed_trace,
    unpacked,
    unpacked_id,
    unpacked_parts,
    unpacked_revisions,
    unpacked_trace,
)
from smart_rag.types import Key, Revision

_LAYOUT = b"terms 1"
_DATABASES = ("terms", "slots")
# Traces of pooled embeddings, see `smart_rag.store.checks.row_checksum`. Older stores lack this database.
_TRACES = "traces"
_SLOT = struct.Struct(">Q")  # big-endian, so that LMDB sorts slots by number
# Keys that differ from the key of every revision, because those keys have 16 bytes: the next free slot, the revisions
# in doubt, and a mark that every revision has a key, even if it has no terms. Older stores lack the last two.
_NEXT = b"next"
_DOUBTFUL = b"doubtful"
_COMPLETE = b"complete"
# What was there before the batch that is being written. Its key is beside the layout, where older versions ignore it.
_PENDING = b"pending"
_OWN_KEYS = (_NEXT, _DOUBTFUL, _COMPLETE)
# A revision without terms has this instead of a slot, and then the document's id. No slot is so large.
_NO_TERMS = b"-"


class TermStore:
    """Terms of each revision of a document: ``put``, ``settle``, ``changes``, ``vacuum``.

    Each call is one transaction: either all of it happens, or nothing. When a call that writes returns, its changes
    are on disk.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = absolute(path)
        self._shared: Environment | None = Environment.at(self.path, _LAYOUT, _DATABASES, later=[_TRACES, KEYS])
        self.place = Place(self.path, self.path / FILE_NAME, self._shared.identity)
        self.is_complete = self._mark_if_new()

    @property
    def batch_lock(self) -> threading.RLock:
        """The lock that a thread holds from `put` or `doubt` until `settle`. All stores in the same folder share it."""
        return self._environment.batch_lock

    @repeated
    def _mark_if_new(self) -> bool:
        """If the store is empty, mark it as complete. Return whether the store has this mark."""
        with self._environment.read() as transaction:
            slots = self._environment.databases["slots"]
            is_new, is_complete = not transaction.stat(slots)["entries"], transaction.get(_COMPLETE, db=slots)
        if is_new and not self._environment.is_read_only:
            self._environment.write(lambda transaction: transaction.put(_COMPLETE, b"", db=slots))
        return is_new or is_complete is not None

    @property
    def _environment(self) -> Environment:
        if self._shared is None:
            raise IndexClosed(f"{self.path}: the term store is closed; open it again")
        self.place.check()
        return self._shared

    def put(
        self,
        revisions: Sequence[Revision],
        terms: Sequence[TokenIds | None],
        doubtful: Iterable[Revision] = (),
        before: bytes | None = None,
        traces: Mapping[Revision, float | None] | None = None,
    ) -> None:
        """Write the terms of n ``revisions``, and replace their earlier terms.

        The terms of a revision are sorted int32. None means that its tokens have no vocabulary ids. The rows of the
        ``doubtful`` revisions are about to be written, replaced or removed. These revisions are in doubt until
        `settle` is called: if this process dies before, nobody knows which of the rows are there. `before` returns
        the bytes ``before`` until then. ``traces`` are new traces of pooled embeddings; None removes one.
        """
        pairs = zip(revisions, terms, strict=True)
        values = {one: None if of_one is None else packed(one[0], of_one) for one, of_one in pairs}
        in_doubt = set(doubtful)

        def write(transaction: Any) -> None:
            slots = self._environment.databases["slots"]
            self._remove(transaction, values)
            following = transaction.get(_NEXT, db=slots)
            slot = 0 if following is None else _SLOT.unpack(following)[0]
            for revision, value in values.items():
                if value is None:
                    transaction.put(revision_key(revision), _NO_TERMS + revision[0].encode(), db=slots)
                    continue
                # Slots ascend, so LMDB may append: its pages are then full.
                transaction.put(_SLOT.pack(slot), value, append=True, db=self._environment.databases["terms"])
                transaction.put(revision_key(revision), _SLOT.pack(slot), db=slots)
                slot += 1
            transaction.put(_NEXT, _SLOT.pack(slot), db=slots)
            self._remove_traces(transaction, map(revision_key, traces or ()))
            for revision, trace in (traces or {}).items():
                if trace is not None:
                    key = revision_key(revision)
                    transaction.put(key, packed_trace(trace), db=self._environment.databases[_TRACES])
            if in_doubt:
                self._set_doubtful(transaction, in_doubt | set(self._doubtful(transaction)))
            if before is not None:
                transaction.put(_PENDING, before)

        environment = self._environment
        if values or in_doubt:
            size = sum(len(value) + 128 for value in values.values() if value is not None)
            environment.write(write, size=size + len(before or b""))

    def doubt(
        self,
        revisions: Collection[Revision],
        before: bytes | None = None,
        traces: Mapping[Revision, float | None] | None = None,
    ) -> None:
        """Put ``revisions`` in doubt, as `put` does, because their rows are about to be changed or removed."""
        self.put([], [], revisions, before, traces)

    def before(self) -> bytes | None:
        """Return the bytes ``before`` of the last call of `put` or `doubt`. After `settle`, return None."""
        with self._environment.read(buffers=False) as transaction:
            value = transaction.get(_PENDING)
        return None if value is None else bytes(value)

    def settle(self, gone: Collection[Revision], kept: Collection[Revision] = ()) -> None:
        """Remove the terms of the revisions ``gone``. The rows of ``kept`` are on disk, and `keys` knows them now.

        After that, ``gone`` and ``kept`` are not in doubt any more.
        """

        def write(transaction: Any) -> None:
            self._remove(transaction, gone)
            self._remove_traces(transaction, map(revision_key, gone))
            write_live_keys(transaction, self._environment.databases, gone, kept)
            self._set_doubtful(transaction, set(self._doubtful(transaction)).difference(gone, kept))
            transaction.delete(_PENDING)

        environment = self._environment
        if gone or kept:
            environment.write(write)

    @repeated
    def settled_version(self) -> int | None:
        """Return a number that grows with each write. While revisions are in doubt, return None."""
        with self._environment.read(buffers=False) as transaction:
            slots = self._environment.databases["slots"]
            in_doubt = transaction.get(_PENDING) is not None or transaction.get(_DOUBTFUL, db=slots) is not None
            return None if in_doubt else int(transaction.id())

    @repeated
    def doubtful(self) -> list[Revision]:
        """Return the revisions that are in doubt."""
        with self._environment.read(buffers=False) as transaction:
            return self._doubtful(transaction)

    def _doubtful(self, transaction: Any) -> list[Revision]:
        return unpacked_revisions(transaction.get(_DOUBTFUL, b"", db=self._environment.databases["slots"]))

    def _set_doubtful(self, transaction: Any, revisions: Collection[Revision]) -> None:
        value = packed_revisions(revisions)
        slots = self._environment.databases["slots"]
        if not value:
            transaction.delete(_DOUBTFUL, db=slots)
        elif value != transaction.get(_DOUBTFUL, db=slots):
            transaction.put(_DOUBTFUL, value, db=slots)

    @repeated
    def count(self) -> int:
        """Return the number of revisions in the store."""
        with self._environment.read() as transaction:
            slots = self._environment.databases["slots"]
            own = sum(transaction.get(key, db=slots) is not None for key in _OWN_KEYS)
            return int(transaction.stat(slots)["entries"]) - own

    @repeated
    def keys(self, ids: Iterable[str]) -> dict[str, Key]:
        """Return a dict from id to the key of the document's row, for ``ids``, while no revision is in doubt.

        Ids that are not known are left out. Those of rows that an older version wrote are not known.
        """
        with self._environment.read(buffers=False) as transaction:
            return live_keys(transaction, self._environment.databases, ids)

    @repeated
    def missing(self, revisions: Sequence[Revision]) -> list[Revision]:
        """Return the ``revisions`` that are not in the store.

        If the store is not marked as complete, the result is empty, because the store cannot tell which are missing.
        """
        if not self.is_complete:
            return []
        with self._environment.read() as transaction:
            slots = self._environment.databases["slots"]
            return [one for one in revisions if transaction.get(revision_key(one), db=slots) is None]

    @repeated
    def without_words(self, mark: int) -> list[str]:
        """Return the ids of all documents that have no terms, or whose first term is ``mark``."""
        with self._environment.read(buffers=False) as transaction:
            terms, slots = (self._environment.databases[name] for name in _DATABASES)
            values, entries = (transaction.cursor(one).iternext(keys=False) for one in (slots, terms))
            ids = [one.removeprefix(_NO_TERMS).decode() for one in values if one.startswith(_NO_TERMS)]
            return ids + [unpacked_id(one, self.path) for one in entries if has_no_words(one, mark)]

    @repeated
    def get(self, revisions: Sequence[Revision]) -> list[TokenIds | None]:
        """Return the terms of the ``revisions``, sorted int32. None if a revision has no terms.

        Raises:
            CorruptStore: the terms of a revision fail their checksum, or are lost.
        """
        if lost := self.missing(revisions):
            raise CorruptStore(f"{self.path}: the terms of the document {lost[0][0]!r} are lost; {REPAIR}")
        with self._environment.read(buffers=False) as transaction:
            terms, slots = (self._environment.databases[name] for name in _DATABASES)
            places = [transaction.get(revision_key(one), _NO_TERMS, db=slots) for one in revisions]
            values = [None if one.startswith(_NO_TERMS) else transaction.get(one, b"", db=terms) for one in places]
            return [None if value is None else unpacked(value, self.path)[1] for value in values]

    @repeated
    def traces(self, revisions: Sequence[Revision]) -> NDArray[np.float64]:
        """Return the traces of the pooled embeddings of n ``revisions`` (n). NaN if the store has none."""
        with self._environment.read(buffers=False) as transaction:
            traces = self._environment.databases.get(_TRACES)
            if traces is None:  # an older store, and this user cannot write to it
                return np.full(len(revisions), np.nan)
            values = (transaction.get(revision_key(one), db=traces) for one in revisions)
            return np.asarray(
                [np.nan if value is None else unpacked_trace(value) for value in values], dtype=np.float64
            )

    @repeated
    def lost_ids(self, live: Collection[Revision]) -> list[str]:
        """Return the ids, sorted, of the documents in the store that are neither in ``live`` nor in doubt.

        If the store is not complete, the result is empty. In such a store, some of these documents may be leftovers of
        a process that died, and the store cannot tell them from lost documents.
        """
        if not self.is_complete:
            return []
        known = {*_OWN_KEYS, *(revision_key(revision) for revision in [*live, *self.doubtful()])}
        with self._environment.read(buffers=False) as transaction:
            terms, slots = (self._environment.databases[name] for name in _DATABASES)
            found = [value for key, value in transaction.cursor(slots) if key not in known]
            ids = {self._id_of(value, transaction.get(value, db=terms)) for value in found}
        return sorted(id for id in ids.difference(id for id, _ in live) if id is not None)

    def _id_of(self, value: bytes, entry: bytes | None) -> str | None:
        """Return the id of the document to which ``value``, a value in ``slots``, and its ``entry`` belong.

        Return None if the entry is missing or damaged.
        """
        if value.startswith(_NO_TERMS):
            return value.removeprefix(_NO_TERMS).decode()
        try:
            return None if entry is None else unpacked_id(entry, self.path)
        except CorruptStore:  # `damaged` names it, if it has a row
            return None

    def remove_ids(self, ids: Collection[str]) -> int:
        """Remove all revisions of the documents ``ids``, and return the number of documents that had one.

        This function reads the whole store. So call it only for documents that have lost their row.
        """
        with self._environment.read(buffers=False) as transaction:
            terms, slots = (self._environment.databases[name] for name in _DATABASES)
            pairs = [(key, value) for key, value in transaction.cursor(slots) if key not in _OWN_KEYS]
            names = {key: self._id_of(value, transaction.get(value, db=terms)) for key, value in pairs}
        gone = {key: value for key, value in pairs if names[key] in ids}

        def write(transaction: Any) -> None:
            self._remove_traces(transaction, gone)
            for id in ids:
                transaction.delete(id_key(id), db=self._environment.databases[KEYS])
            for key, slot in gone.items():
                transaction.delete(key, db=slots)
                if not slot.startswith(_NO_TERMS):
                    transaction.delete(slot, db=terms)

        if gone:
            self._environment.write(write)
        return len({names[key] for key in gone})

    def _remove(self, transaction: Any, revisions: Collection[Revision]) -> None:
        for revision in revisions:
            slot = transaction.pop(revision_key(revision), db=self._environment.databases["slots"])
            if slot is not None and not slot.startswith(_NO_TERMS):
                transaction.delete(slot, db=self._environment.databases["terms"])

    def _remove_traces(self, transaction: Any, keys: Iterable[bytes]) -> None:
        for key in keys:
            transaction.delete(key, db=self._environment.databases[_TRACES])

    @repeated
    def changes(self, version: int, last: int, count: int) -> Changes | None:
        """Return the changes since ``version``, or None if there are none.

        Args:
            version: ``Changes.version`` of the last call. With -1, all documents are returned.
            last: greatest slot that the caller knows, or -1 if the caller knows none.
            count: number of the slots that the caller knows, without those that it knows to be removed.

        Raises:
            CorruptStore: a new entry fails its checksum.
        """
        with self._environment.read(buffers=False) as transaction:
            if transaction.id() == version:
                return None
            database = self._environment.databases["terms"]
            slots, hashes, lengths, widths = bytearray(), array("Q"), array("q"), bytearray()
            # These are two buffers, by the bytes of a term. After a list of many small arrays, the process would never
            # give the memory back.
            terms = {2: bytearray(), 4: bytearray()}
            cursor = transaction.cursor(database)
            if cursor.set_range(_SLOT.pack(last + 1)):
                for slot, value in cursor:
                    id, own, width = unpacked_parts(value, self.path)
                    slots += slot
                    hashes.append(xxhash.xxh3_64_intdigest(id))
                    lengths.append(len(own) // width)
                    widths.append(width)
                    terms[width] += own
            live = None
            if count + len(lengths) != transaction.stat(database)["entries"]:
                left = b"".join(transaction.cursor(database).iternext(values=False))
                live = np.frombuffer(left, ">u8").astype(np.int64)
            offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
            np.cumsum(lengths, out=offsets[1:])
            return Changes(
                transaction.id(),
                np.frombuffer(slots, ">u8").astype(np.int64),
                np.asarray(hashes, dtype=np.uint64),
                joined(terms, np.repeat(np.frombuffer(widths, np.uint8), lengths)),
                offsets,
                live,
                self._doubtful_slots(transaction),
            )

    def _doubtful_slots(self, transaction: Any) -> dict[Revision, int]:
        """Return the slots of the revisions that are in doubt and have terms."""
        slots = self._environment.databases["slots"]
        found = {of: transaction.get(revision_key(of), db=slots) for of in self._doubtful(transaction)}
        return {
            of: _SLOT.unpack(slot)[0]
            for of, slot in found.items()
            if slot is not None and not slot.startswith(_NO_TERMS)
        }

    @repeated
    def ids(self, slots: Sequence[int]) -> list[str]:
        """Return the ids of the documents in ``slots``, in this order. Empty slots are left out."""
        with self._environment.read(buffers=False) as transaction:
            database = self._environment.databases["terms"]
            values = [transaction.get(_SLOT.pack(slot), db=database) for slot in slots]
            return [unpacked_id(value, self.path) for value in values if value is not None]

    @repeated
    def damaged(self, revisions: Sequence[Revision]) -> list[Revision]:
        """Return the ``revisions`` whose terms have changed since they were written, or cannot be read."""
        found = []
        with self._environment.read(buffers=False) as transaction:
            databases = self._environment.databases
            for revision in revisions:
                slot = transaction.get(revision_key(revision), db=databases["slots"])
                if slot is None or slot.startswith(_NO_TERMS):
                    continue
                try:
                    sound = unpacked(transaction.get(slot, b"", db=databases["terms"]), self.path)[0] == revision[0]
                except CorruptStore:
                    sound = False
                if not sound:
                    found.append(revision)
        return found

    def vacuum(self, live: Collection[Revision], completes: bool = False) -> None:
        """Remove the terms of every revision that is not in ``live``.

        With ``completes``, a store of an older version is complete from now on, if it has all revisions in ``live``.
        """
        keys = set(map(revision_key, live))

        def write(transaction: Any) -> None:
            terms, slots = (self._environment.databases[name] for name in _DATABASES)
            slot_of = {key: slot for key, slot in transaction.cursor(slots) if key not in _OWN_KEYS}
            replace_live_keys(transaction, self._environment.databases, live)
            for key in slot_of.keys() - keys:
                transaction.delete(key, db=slots)
            traces = transaction.cursor(self._environment.databases[_TRACES]).iternext(values=False)
            self._remove_traces(transaction, set(traces) - keys)
            kept = {slot for key, slot in slot_of.items() if key in keys}
            for slot in set(transaction.cursor(terms).iternext(values=False)) - kept:
                transaction.delete(slot, db=terms)
            self._set_doubtful(transaction, ())
            if completes and keys <= slot_of.keys() and transaction.get(_COMPLETE, db=slots) is None:
                transaction.put(_COMPLETE, b"", db=slots)

        self._environment.write(write)
        self.is_complete = self._mark_if_new()

    @repeated
    def used_bytes(self) -> int:
        """Return the bytes of the pages in use on disk."""
        environment = self._environment
        with environment.read() as transaction:
            return environment.used_bytes(transaction)

    def copy_to(self, folder: Path) -> None:
        """Copy the store to the new ``folder``, without free pages. Others may read and write meanwhile."""
        self._environment.copy_to(folder)

    def close(self) -> None:
        """Close the files. A second call does nothing."""
        environment, self._shared = self._shared, None
        if environment is not None:
            environment.release()

"""`KnownDocuments`: what a search needs of documents, while nobody writes. It asks Chroma for as little as possible."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from smart_rag.store.chroma.answers import PooledBlock
from smart_rag.store.chroma.known import Known, KnownRow, State
from smart_rag.store.pooled_store import PooledStore
from smart_rag.store.row import Row
from smart_rag.store.terms.term_entry import id_hash
from smart_rag.store.terms.term_store import TermStore
from smart_rag.store.where import Where
from smart_rag.types import Key

# Bytes in memory for pooled embeddings, for rows without them, and for the ids of the documents that pass filters.
# 20,000 embeddings with 384 dimensions need as much, the rows of 16,000 texts of 100 words, and 600,000 ids.
_POOLED_BYTES, _ROWS_BYTES, _ADMITTED_BYTES = 32 << 20, 16 << 20, 64 << 20
# Bytes in memory for the pooled embeddings of all documents, after a search that compared all. 150,000 embeddings with
# 384 dimensions need as much. Chroma reads 15,000 of them in a second.
_SCAN_BYTES = 256 << 20
# Bytes of an id in a set and as a hash, and of an id in a scan, without the id itself.
_ID_BYTES = 60
_ALL = ""  # the name of the scan of all documents


def _size(block: PooledBlock) -> int:
    return block.pooled.nbytes + _bytes_of(block.ids)


def _bytes_of(ids: Iterable[str]) -> int:
    return sum(_ID_BYTES + sys.getsizeof(id) for id in ids)


@dataclass(frozen=True)
class Admitted:
    """The documents that pass a filter: their ``ids``."""

    ids: frozenset[str]

    @cached_property
    def hashes(self) -> NDArray[np.uint64]:
        """The hashes (n) of the ids, see `id_hash`."""
        return np.fromiter(map(id_hash, self.ids), np.uint64, len(self.ids))


class KnownDocuments:
    """Keys, pooled embeddings and rows of documents, and the documents that pass a filter.

    In each method, ``state`` is what `DocumentStore.settled_state` has returned. If it returns the same later, no row
    has changed meanwhile. What earlier searches have read in the same state is in memory.
    """

    def __init__(self, pooled: PooledStore, terms: TermStore) -> None:
        self._store = pooled
        self._terms = terms
        self._rows: Known[KnownRow] = Known(lambda row: row.size, _ROWS_BYTES)
        self._pooled: Known[NDArray[np.float32]] = Known(lambda pooled: pooled.nbytes + 200, _POOLED_BYTES)
        self._scans: Known[list[PooledBlock]] = Known(lambda blocks: sum(map(_size, blocks)), _SCAN_BYTES)
        self._admitted: Known[Admitted] = Known(lambda admitted: _bytes_of(admitted.ids), _ADMITTED_BYTES)

    def keys(self, state: State, ids: Sequence[str]) -> dict[str, Key]:
        """Return a dict from id to the key of the document's tokens, for these ids. Unknown ids are left out."""
        found = self._terms.keys(ids)
        absent = [id for id in ids if id not in found]
        # An older version wrote these rows, or they are not ours.
        return found | {id: row.key for id, row in self._read(state, absent).items()}

    def pooled(self, state: State, ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return a dict from id to pooled embedding (dimension), for these ids. Unknown ids are left out."""
        found = self._pooled.get(state, ids)
        absent = [id for id in ids if id not in found]
        if absent:
            read = self._store.embeddings(absent)
            self._pooled.add(state, read)
            found |= read
        return found

    def rows(self, state: State, ids: Sequence[str]) -> dict[str, Row]:
        """Return a dict from id to row, for these ids. Unknown ids are left out."""
        reader = self._store.reader
        found = {id: reader.row(id, row.text, row.metadata) for id, row in self._read(state, ids).items()}
        return {id: row for id, row in found.items() if row is not None}

    def admitted(self, state: State, where: Where | None, where_document: Where | None) -> Admitted:
        """Return the documents that pass the filters."""
        name = repr(self._store.filters(where, where_document))
        known = self._admitted.get(state, [name])
        if name not in known:
            known[name] = Admitted(frozenset(self._store.ids(where, where_document)))
            self._admitted.add(state, known)
        return known[name]

    def scan(self, state: State, where: Where | None, where_document: Where | None) -> Iterator[PooledBlock] | None:
        """Return all documents that pass the filters in blocks, if an earlier scan has read them, or None."""
        blocks = self._scans.get(state, [_ALL]).get(_ALL)
        if blocks is None:
            return None
        if not where and not where_document:
            return iter(blocks)
        admitted = self.admitted(state, where, where_document).ids
        return (block.of(admitted) for block in blocks)

    def remembered(self, state: State, blocks: Iterable[PooledBlock]) -> Iterator[PooledBlock]:
        """Yield ``blocks``, which are all documents. If they all were read and are not too large, remember them."""
        read, size = [], 0
        for block in blocks:
            size += _size(block)
            if size <= _SCAN_BYTES:
                read.append(block)
            else:
                read = []
            yield block
        if size <= _SCAN_BYTES:
            self._scans.add(state, {_ALL: read})

    def _read(self, state: State, ids: Sequence[str]) -> dict[str, KnownRow]:
        found = self._rows.get(state, ids)
        absent = [id for id in ids if id not in found]
        if absent:
            rows = self._store.get(absent)
            read = {id: KnownRow(row.key, row.document.text, row.stored or {}) for id, row in rows.items()}
            self._rows.add(state, read)
            found |= read
        return found

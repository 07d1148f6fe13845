"""Which documents hold a vocabulary id: how rare a token is, and who has the rare tokens of a query.

The lists are in memory, a byte or two for each distinct id of a document, and follow a `TermStore`,
whoever writes to it: each call first looks what came and what went since the last one.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smart_rag.embeddings.representation import Offsets, TokenIds
from smart_rag.scoring.maxsim import inverse_document_frequency
from smart_rag.store import gap_codes
from smart_rag.store.gap_codes import GapCodes
from smart_rag.store.term_store import Changes, TermStore

_TERM = 1 << 32
# Documents that went are kept out of the lists when they are more than this part.
_MOST_DEAD = 0.25


@dataclass(frozen=True, slots=True)
class _Lists:
    """The positions of the documents that hold an id: of ``terms[i]`` they are ``counts[i]``, ascending.

    Terms are sorted. The gaps of each, the first from 0, are ``codes[starts[i] : starts[i + 1]]``.
    """

    terms: TokenIds
    counts: NDArray[np.int32]
    starts: Offsets
    codes: GapCodes

    @classmethod
    def of(cls, pairs: NDArray[np.int64]) -> _Lists:
        """Return the lists of all ``pairs``, sorted, each ``term * _TERM + position``."""
        gaps: NDArray[np.integer[Any]] = np.diff(pairs, prepend=-_TERM // 2)
        # It is more between two terms than between any two positions.
        firsts = np.flatnonzero(gaps >= _TERM // 2)
        gaps[firsts] = pairs[firsts] % _TERM
        gaps = gaps.astype(np.int32)  # half the memory, while they are encoded
        bounds = np.append(firsts, len(pairs))
        codes, starts = gap_codes.encode(gaps, bounds)
        return cls((pairs[firsts] // _TERM).astype(np.int32), np.diff(bounds).astype(np.int32), starts, codes)

    def pairs(self) -> NDArray[np.int64]:
        positions = gap_codes.sums(self.codes)
        # The running sum went on from one term to the next.
        before = positions[np.cumsum(self.counts) - self.counts - 1]
        before[:1] = 0
        positions -= np.repeat(before, self.counts)
        return _pairs(np.repeat(self.terms, self.counts), positions)

    def __add__(self, other: _Lists) -> _Lists:
        pairs = np.concatenate([self.pairs(), other.pairs()])
        pairs.sort(kind="stable")  # which finds what is sorted already, and merges
        return _Lists.of(pairs)

    def frequency(self, term: np.int32) -> int:
        start, end = self._place(term)
        return int(self.counts[start:end].sum())

    def positions(self, term: np.int32) -> NDArray[np.int64]:
        start, end = self._place(term)
        return gap_codes.sums(self.codes[self.starts[start] : self.starts[end]])

    def _place(self, term: np.int32) -> tuple[np.intp, np.intp]:
        """Return between which indices a term is: there is one, or none."""
        return np.searchsorted(self.terms, term), np.searchsorted(self.terms, term, "right")

    def kept(self, alive: NDArray[np.bool_]) -> _Lists:
        """Return the lists of the documents that are alive, at the positions that they have among each other."""
        pairs = self.pairs()
        pairs = pairs[alive[pairs % _TERM]]
        moved = np.cumsum(alive, dtype=np.int64) - 1
        return _Lists.of(_pairs(pairs // _TERM, moved[pairs % _TERM]))


class InvertedIndex:
    """The lists of a `TermStore`. Threads may share one."""

    def __init__(self, store: TermStore) -> None:
        self._store = store
        self._mutex = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._version = -1
        self._slots = np.empty(0, dtype=np.int64)
        self._hashes = np.empty(0, dtype=np.uint64)
        self._alive = np.empty(0, dtype=np.bool_)
        self._count = 0
        # Each more than twice as long as the next: what came last is cheap to add, and few are to be read.
        self._lists: list[_Lists] = []

    def weights(self, ids: TokenIds) -> NDArray[np.float32] | None:
        """Return the inverse document frequencies (n) of a query's tokens, over the documents there are now.

        A token that stands for no word counts as one that every document holds. None where
        frequencies say nothing: no token of the query stands for a word, or none of any document.
        """
        if (ids < 0).all():
            return None
        with self._mutex:
            self._refresh()
            if not self._count:
                return None
            terms, token = np.unique(ids, return_inverse=True)
            frequencies = [self._count if term < 0 else self._frequency(term) for term in terms]
            return inverse_document_frequency(np.asarray(frequencies, dtype=np.int64), self._count)[token]

    def best(self, ids: TokenIds, limit: int, admitted: NDArray[np.uint64] | None = None) -> list[str]:
        """Return the ids of the ``limit`` documents whose share of a query's tokens weighs most, best first.

        A document has the sum of the inverse document frequencies of the query's distinct ids
        that it holds. Those that hold none are left out; ties go by a hash of the id.
        ``admitted`` are hashes (XXH3-64) of the ids of documents to choose from, by default all.
        """
        with self._mutex:
            self._refresh()
            scores = np.zeros(len(self._slots), dtype=np.float32)
            for term in np.unique(ids[ids >= 0]):
                positions = self._positions(term)
                frequency = np.asarray([len(positions)], dtype=np.int64)
                scores[positions] += inverse_document_frequency(frequency, self._count)[0]
            if admitted is not None:
                scores[~np.isin(self._hashes, admitted)] = 0
            slots = self._slots[self._leading(scores, limit)].tolist()
        return list(dict.fromkeys(self._store.ids(slots)))

    def _leading(self, scores: NDArray[np.float32], limit: int) -> NDArray[np.int64]:
        """Return the positions of the ``limit`` greatest scores above 0, best first."""
        found = np.flatnonzero(scores)
        if len(found) > limit:
            threshold = np.partition(scores[found], len(found) - limit)[len(found) - limit]
            found = found[scores[found] >= threshold]
        order = np.lexsort((self._hashes[found], -scores[found]))
        return found[order[:limit]]

    def _frequency(self, term: np.int32) -> int:
        """Return how many documents hold a term."""
        if self._count == len(self._alive):
            return sum(lists.frequency(term) for lists in self._lists)
        return len(self._positions(term))

    def _positions(self, term: np.int32) -> NDArray[np.int64]:
        """Return the positions of the documents that hold a term."""
        positions = [lists.positions(term) for lists in self._lists]
        found = np.concatenate(positions) if positions else np.empty(0, dtype=np.int64)
        return found if self._count == len(self._alive) else found[self._alive[found]]

    def _refresh(self) -> None:
        """Take up what came and what went."""
        last = int(self._slots[-1]) if len(self._slots) else -1
        changes = self._store.changes(self._version, last, self._count)
        if changes is None:
            return
        try:
            self._take(changes)
        except BaseException:  # also an interrupt: what is half done would be done again
            self._forget()
            raise

    def _take(self, changes: Changes) -> None:
        self._append(changes)
        if changes.live is not None:
            self._alive &= np.isin(self._slots, changes.live)
        self._count = int(self._alive.sum())
        self._version = changes.version
        if self._count < (1 - _MOST_DEAD) * len(self._alive):
            self._lists = [lists.kept(self._alive) for lists in self._lists]
            self._slots, self._hashes = self._slots[self._alive], self._hashes[self._alive]
            self._alive = np.ones(self._count, dtype=np.bool_)

    def _append(self, changes: Changes) -> None:
        if not len(changes.slots):
            return
        new = np.arange(len(self._slots), len(self._slots) + len(changes.slots))
        pairs = _pairs(changes.terms, np.repeat(new, np.diff(changes.offsets)))
        pairs.sort()
        self._lists.append(_Lists.of(pairs))
        del pairs  # before larger ones are made
        while len(self._lists) > 1 and len(self._lists[-2].codes) <= 2 * len(self._lists[-1].codes):
            self._lists[-2:] = [self._lists[-2] + self._lists[-1]]
        self._slots = np.concatenate([self._slots, changes.slots])
        self._hashes = np.concatenate([self._hashes, changes.hashes])
        self._alive = np.concatenate([self._alive, np.ones(len(changes.slots), dtype=np.bool_)])


def _pairs(terms: NDArray[np.integer[Any]], positions: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    pairs = terms.astype(np.int64)
    pairs *= _TERM
    pairs += positions
    return pairs

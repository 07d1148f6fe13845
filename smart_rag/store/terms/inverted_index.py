"""Inverted index in memory: the documents that contain each vocabulary id.

It answers two questions. How rare are the tokens of a query? Which documents contain the rare tokens? Each distinct id
of a document takes one or two bytes. The index follows a `TermStore`. Each call first reads what has changed in the
store since the last call, also if another process made the change.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smart_rag.embeddings.tokens import Offsets, TokenIds
from smart_rag.scoring.maxsim import inverse_document_frequency
from smart_rag.store.terms import gap_codes
from smart_rag.store.terms.changes import Changes
from smart_rag.store.terms.codebook import WITHOUT_WORDS
from smart_rag.store.terms.gap_codes import GapCodes
from smart_rag.store.terms.term_store import TermStore
from smart_rag.types import Revision

# The pair of a term and the position of a document is stored as one number: term * _TERM + position.
_TERM = 1 << 32
# Removed documents stay in the lists until they are more than this share of all documents.
_MAX_REMOVED = 0.25
# Filters whose documents are kept as masks. Each takes a byte for each document.
_MASKS = 16
# Terms in at least this share of the documents may be kept as bits, and so many of them: 16 bytes for each document.
_COMMON, _MOST_BITS = 1 / 32, 128
# Sums of scores are rounded to about this number.
_ROUNDING = 1e-3


@dataclass(frozen=True, slots=True)
class _Lists:
    """Posting lists: for each term, the positions of the documents that contain it, in ascending order.

    ``terms`` are sorted. The list of ``terms[i]`` has ``counts[i]`` positions. It is stored as the gaps between the
    positions. The first gap begins at 0. The codes of the gaps are ``codes[starts[i] : starts[i + 1]]``; see
    `gap_codes`.
    """

    terms: TokenIds
    counts: NDArray[np.int32]
    starts: Offsets
    codes: GapCodes

    @classmethod
    def of(cls, pairs: NDArray[np.int64]) -> _Lists:
        """Return the lists for ``pairs``: sorted numbers of the form ``term * _TERM + position``."""
        gaps: NDArray[np.integer[Any]] = np.diff(pairs, prepend=-_TERM // 2)
        # Gaps between terms are always greater than gaps within a term.
        firsts = np.flatnonzero(gaps >= _TERM // 2)
        gaps[firsts] = pairs[firsts] % _TERM
        gaps = gaps.astype(np.int32)  # halves the memory of encoding
        bounds = np.append(firsts, len(pairs))
        codes, starts = gap_codes.encode(gaps, bounds)
        return cls((pairs[firsts] // _TERM).astype(np.int32), np.diff(bounds).astype(np.int32), starts, codes)

    def pairs(self) -> NDArray[np.int64]:
        """Return all pairs, sorted. This is the inverse of `of`."""
        positions = gap_codes.sums(self.codes)
        # The running sum goes on from one term to the next. So subtract its value at the end of the previous term.
        before = positions[np.cumsum(self.counts) - self.counts - 1]
        before[:1] = 0
        positions -= np.repeat(before, self.counts)
        return _pairs(np.repeat(self.terms, self.counts), positions)

    def __add__(self, other: _Lists) -> _Lists:
        pairs = np.concatenate([self.pairs(), other.pairs()])
        pairs.sort(kind="stable")  # merges the two sorted halves in linear time
        return _Lists.of(pairs)

    def frequency(self, term: np.int32) -> int:
        """Return the number of documents that contain ``term``."""
        start, end = self._bounds(term)
        return int(self.counts[start:end].sum())

    def positions(self, term: np.int32) -> NDArray[np.int64]:
        """Return the positions of the documents that contain ``term``, ascending."""
        start, end = self._bounds(term)
        return gap_codes.sums(self.codes[self.starts[start] : self.starts[end]])

    def _bounds(self, term: np.int32) -> tuple[np.intp, np.intp]:
        """Return the range of indices of ``term``. The range is empty if no document contains ``term``."""
        return np.searchsorted(self.terms, term), np.searchsorted(self.terms, term, "right")

    def without_removed(self, live: NDArray[np.bool_]) -> _Lists:
        """Return the lists without the removed documents. The positions of the live documents count from 0 again."""
        pairs = self.pairs()
        pairs = pairs[live[pairs % _TERM]]
        moved = np.cumsum(live, dtype=np.int64) - 1
        return _Lists.of(_pairs(pairs // _TERM, moved[pairs % _TERM]))


class InvertedIndex:
    """Posting lists of all documents in a `TermStore`. Threads may share one index.

    Args:
        store: the terms.
        existing: a function that takes revisions and returns those that have a row. It is called with the revisions in
            doubt.
        rows_version: a function that returns a number. If rows change, the number changes. The function returns None
            if nobody counts the changes.
    """

    def __init__(
        self,
        store: TermStore,
        existing: Callable[[Collection[Revision]], Collection[Revision]],
        rows_version: Callable[[], int | None],
    ) -> None:
        self._store = store
        self._existing = existing
        self._rows_version = rows_version
        self._mutex = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        self._version = -1
        self._slots = np.empty(0, dtype=np.int64)
        self._hashes = np.empty(0, dtype=np.uint64)
        self._live = np.empty(0, dtype=np.bool_)  # not removed
        self._shown = self._live  # neither removed, nor in doubt and without a row
        self._known = 0
        self._count = 0
        self._doubtful: Mapping[Revision, int] = {}
        self._seen_rows: int | None = None
        # Each item is more than twice as long as the next one. So it is cheap to add documents, and there are few
        # items.
        self._lists: list[_Lists] = []
        self._forget_masks()

    def _forget_masks(self) -> None:
        self._masks: dict[int, tuple[NDArray[np.uint64], NDArray[np.bool_]]] = {}  # the documents that pass a filter
        self._bits: dict[int, NDArray[np.uint8]] = {}  # the documents that contain a term

    def weights(self, ids: TokenIds) -> NDArray[np.float32] | None:
        """Return the inverse document frequencies (n) float32 for the vocabulary ids (n) of a query's tokens.

        A token without an id (-1) counts as a token that every document contains. The result is None if no token of
        the query has an id, or if no document has terms.
        """
        if (ids < 0).all():
            return None
        with self._mutex:
            self._refresh()
            count = self._count_with_words()
            if not count:
                return None
            terms, token = np.unique(ids, return_inverse=True)
            frequencies = [count if term < 0 else self._frequency(term) for term in terms]
            return inverse_document_frequency(np.asarray(frequencies, dtype=np.int64), count)[token]

    def best(self, ids: TokenIds, limit: int, admitted: NDArray[np.uint64] | None = None) -> list[str]:
        """Return the ids of the ``limit`` best documents for a query, best first.

        A document's score comes from the distinct vocabulary ids that it shares with the query. It is the sum of the
        inverse document frequencies of these ids. Documents that contain none of the ids are left out. Documents with
        equal scores are sorted by a hash of their ids.

        Args:
            ids: vocabulary ids (n) of the query's tokens.
            limit: maximum number of documents to return.
            admitted: the documents to choose from, as hashes of their ids (see `id_hash`). By default, all documents.
        """
        with self._mutex:
            self._refresh()
            positions = self._best(np.unique(ids[ids >= 0]), limit, None if admitted is None else self._mask(admitted))
            slots = self._slots[positions].tolist()
        return list(dict.fromkeys(self._store.ids(slots)))

    def _best(self, terms: TokenIds, limit: int, mask: NDArray[np.bool_] | None) -> NDArray[np.int64]:
        """Return the positions of the ``limit`` best documents, best first. ``mask`` says which documents to choose
        from.

        The rarest terms come first. As soon as the documents without any of them cannot be among the best, only the
        documents that still can be are looked up in the long lists of the other terms (as in MaxScore: Turtle and
        Flood, "Query evaluation: strategies and optimizations", 1995).
        """
        frequencies = np.asarray([self._frequency(term) for term in terms], dtype=np.int64)
        order = np.argsort(frequencies, kind="stable")
        count = self._count_with_words()
        values = inverse_document_frequency(frequencies[order], count)
        everywhere = frequencies[order] == count  # these terms add the same to each document with words
        # What this term and the later ones can add to one document, and not to all.
        rest = np.cumsum(np.where(everywhere, 0, values)[::-1], dtype=np.float64)[::-1]
        scores = np.zeros(len(self._slots), dtype=np.float32)
        found = np.empty(0, dtype=np.int64)  # the positions with a score
        closed = False
        for term, value, more, is_everywhere in zip(terms[order], values, rest, everywhere, strict=True):
            if len(found) >= limit and more < rest[0] - more:  # no score is higher than what the terms so far add
                reached = scores[found]
                lowest = np.partition(reached, len(found) - limit)[len(found) - limit]
                closed = closed or more < lowest - _ROUNDING
                if closed:
                    found = found[reached >= lowest - more - _ROUNDING]
            if closed and is_everywhere:
                break
            if closed:
                positions = found[self._contain(found, term)]
            else:
                positions = self._positions(term)
                positions = positions if mask is None else positions[mask[positions]]
                found = np.concatenate([found, positions[scores[positions] == 0]])
            scores[positions] += value
        return self._top(found, scores[found], limit)

    def best_by_gains(
        self,
        terms: TokenIds,
        gains: NDArray[np.float32],
        limit: int,
        admitted: NDArray[np.uint64] | None = None,
    ) -> list[str]:
        """Return the ids of the ``limit`` documents with the highest scores above 0, best first.

        A token of a query has p ``terms``, and each of them has a gain. The score of a document is the sum, over the n
        tokens, of the greatest gain among those terms of the token that the document has.

        Args:
            terms: (n, p) int32.
            gains: (n, p), at least 0. In each row, they ascend.
            limit, admitted: as in `best`.
        """
        with self._mutex:
            self._refresh()
            scores = np.zeros(len(self._slots), dtype=np.float32)
            seen = np.zeros(len(self._slots), dtype=np.int32)  # the last token that a document has got a gain of
            positions = {term: self._positions(term) for term in np.unique(terms[gains > 0])}
            for token, (row, of_row) in enumerate(zip(terms, gains, strict=True), 1):
                for term, gain in zip(row[::-1], of_row[::-1], strict=True):  # the greatest gain first
                    if gain > 0:
                        new = positions[term][seen[positions[term]] != token]
                        scores[new] += gain
                        seen[new] = token
            if admitted is not None:
                scores[~self._mask(admitted)] = 0
            found = np.flatnonzero(scores)
            slots = self._slots[self._top(found, scores[found], limit)].tolist()
        return list(dict.fromkeys(self._store.ids(slots)))

    def count_with_words(self) -> int:
        """Return the number of documents whose encoder gives vocabulary ids."""
        with self._mutex:
            self._refresh()
            return self._count_with_words()

    def _count_with_words(self) -> int:
        """Return the number of documents, without those that have no vocabulary ids at all."""
        return self._count - self._frequency(np.int32(WITHOUT_WORDS))

    def _contain(self, positions: NDArray[np.int64], term: np.int32) -> NDArray[np.bool_]:
        """Return whether each of the live documents at ``positions`` contains ``term``.

        Common terms are in most questions, and their lists are long. So they are kept as bits, once they were needed.
        """
        if self._frequency(term) < _COMMON * self._count:
            return _is_in(positions, self._positions(term))
        bits = self._bits.pop(int(term), None)
        if bits is None:
            flags = np.zeros(len(self._slots), dtype=np.bool_)
            flags[self._positions(term)] = True
            bits = np.packbits(flags, bitorder="little")
        self._bits[int(term)] = bits
        if len(self._bits) > _MOST_BITS:
            del self._bits[next(iter(self._bits))]
        contained: NDArray[np.bool_] = (bits[positions >> 3] >> (positions & 7).astype(np.uint8)) & 1 == 1
        return contained

    def _mask(self, admitted: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Return whether each document is among ``admitted``. The masks of the last filters are kept."""
        kept = self._masks.pop(id(admitted), None)
        mask = np.isin(self._hashes, admitted) if kept is None else kept[1]
        self._masks[id(admitted)] = admitted, mask  # with the array, so that no other one gets its number
        if len(self._masks) > _MASKS:
            del self._masks[next(iter(self._masks))]
        return mask

    def _top(self, found: NDArray[np.int64], scores: NDArray[np.float32], limit: int) -> NDArray[np.int64]:
        """Return those of the positions ``found`` with the ``limit`` highest ``scores``, best first."""
        if len(found) > limit:
            threshold = np.partition(scores, len(found) - limit)[len(found) - limit]
            found, scores = found[scores >= threshold], scores[scores >= threshold]
        order = np.lexsort((self._hashes[found], -scores))
        return found[order[:limit]]

    def _frequency(self, term: np.int32) -> int:
        """Return the number of live documents that contain ``term``."""
        if self._count == len(self._shown):
            return sum(lists.frequency(term) for lists in self._lists)
        return len(self._positions(term))

    def _positions(self, term: np.int32) -> NDArray[np.int64]:
        """Return the positions of the live documents that contain ``term``."""
        positions = [lists.positions(term) for lists in self._lists]
        found = np.concatenate(positions) if positions else np.empty(0, dtype=np.int64)
        return found if self._count == len(self._shown) else found[self._shown[found]]

    def _refresh(self) -> None:
        """Apply the changes in the store since the last call."""
        rows = self._rows_version()  # before they are read, so that a later change is noticed
        last = int(self._slots[-1]) if len(self._slots) else -1
        changes = self._store.changes(self._version, last, self._known)
        if changes is None and (not self._doubtful or (rows is not None and rows == self._seen_rows)):
            return
        try:
            if changes is not None:
                self._apply(changes)
            self._hide_without_row()
            self._seen_rows = rows
        except BaseException:  # also after an interrupt, because the next call would apply some changes twice
            self._clear()
            raise

    def _apply(self, changes: Changes) -> None:
        self._append(changes)
        if changes.live is not None:
            self._live &= np.isin(self._slots, changes.live)
        self._known = int(self._live.sum())
        self._version = changes.version
        self._doubtful = changes.doubtful
        if self._known < (1 - _MAX_REMOVED) * len(self._live):
            self._lists = [lists.without_removed(self._live) for lists in self._lists]
            self._slots, self._hashes = self._slots[self._live], self._hashes[self._live]
            self._live = np.ones(self._known, dtype=np.bool_)

    def _hide_without_row(self) -> None:
        """Leave out documents that are in doubt and have no row. A process died before it wrote these rows."""
        self._forget_masks()
        self._shown = self._live
        if self._doubtful:
            existing = set(self._existing(self._doubtful))
            hidden = [slot for revision, slot in self._doubtful.items() if revision not in existing]
            self._shown = self._live & ~np.isin(self._slots, np.asarray(hidden, dtype=np.int64))
        self._count = int(self._shown.sum())

    def _append(self, changes: Changes) -> None:
        if not len(changes.slots):
            return
        new = np.arange(len(self._slots), len(self._slots) + len(changes.slots))
        pairs = _pairs(changes.terms, np.repeat(new, np.diff(changes.offsets)))
        pairs.sort()
        self._lists.append(_Lists.of(pairs))
        del pairs  # frees memory before the merge below needs more
        while len(self._lists) > 1 and len(self._lists[-2].codes) <= 2 * len(self._lists[-1].codes):
            self._lists[-2:] = [self._lists[-2] + self._lists[-1]]
        self._slots = np.concatenate([self._slots, changes.slots])
        self._hashes = np.concatenate([self._hashes, changes.hashes])
        self._live = np.concatenate([self._live, np.ones(len(changes.slots), dtype=np.bool_)])


def _pairs(terms: NDArray[np.integer[Any]], positions: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    pairs = terms.astype(np.int64)
    pairs *= _TERM
    pairs += positions
    return pairs


def _is_in(some: NDArray[np.int64], sorted_numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether each of ``some`` is among ``sorted_numbers``."""
    if not len(sorted_numbers):
        return np.zeros(len(some), dtype=np.bool_)
    at = np.searchsorted(sorted_numbers, some)
    at[at == len(sorted_numbers)] = 0
    return np.equal(sorted_numbers[at], some)

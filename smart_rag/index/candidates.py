"""`FirstStage`: choose the documents that are worth scoring.

`FirstStage.pooled` takes the documents with the highest pooled cosine. `FirstStage.terms` takes only half of its
candidates in this way. It takes the other half by the rare tokens that they share with the query. A pooled embedding
loses rare names and numbers first. A document that matches such names and numbers by late interaction nearly always
contains them. The tokens of images have no vocabulary ids. There, the centroids of tokens take the place of words (see
`smart_rag.scoring.centroids`).

In a small index, each document is compared with the query. Chroma builds the graph of such an index again each time
that it is opened, with several threads. If documents were replaced, the graph sometimes lacks one of them: with Chroma
1.5.9 and 30 documents, at 1 of 150 openings, and at none with 900 and 2,500.

If nobody writes meanwhile, Chroma is asked for ids and distances alone, and for the pooled embeddings of documents that
it did not find. The keys of the token embeddings come from the term store. Otherwise, each row is read with its
distance, so that its parts fit together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, zip_longest
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from smart_rag.config import EXHAUSTIVE_DOCUMENTS
from smart_rag.embeddings.representation import Representation
from smart_rag.scoring import maxsim, ranking
from smart_rag.store.chroma.known import State
from smart_rag.store.chroma.known_documents import Admitted
from smart_rag.store.document_store import DocumentStore
from smart_rag.store.row import Row
from smart_rag.store.where import Where

# Documents that pass a filter are compared with a query one by one, if they are at most so many.
_COMPARED = 2_000
# Otherwise, Chroma looks for so many times the documents of which enough should pass, but for no more than these.
_SPARE, _WIDEST = 1.5, 2_000
# By how much the length of an embedding of length 1 may differ from 1, because it is rounded.
_UNIT = 1e-3


@dataclass(frozen=True, slots=True)
class Candidates:
    """n documents that one query is to be scored with.

    Attributes:
        ids: the ids of the documents.
        keys: the keys of their token embeddings.
        pooled: the cosines (n) of their pooled embeddings with the query's.
        rows: a dict from id to row. With a state, it is empty.
    """

    ids: list[str]
    keys: list[bytes]
    pooled: NDArray[np.float32]
    rows: dict[str, Row]


@dataclass(slots=True)
class _Read:
    """What has been read for one query: by id, the keys, the pooled embeddings (dimension) and the rows."""

    keys: dict[str, bytes] = field(default_factory=dict)
    pooled: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FirstStage:
    """Finds ``limit`` candidates among the documents of ``store`` that pass the filters. Each method is a strategy.

    ``state`` is what `DocumentStore.settled_state` has returned. If it still returns the same after the search, the
    candidates are right. Without a ``state``, the rows of all candidates are read with them.
    """

    store: DocumentStore
    limit: int
    where: Where | None = None
    where_document: Where | None = None
    state: State | None = None

    def pooled(self, queries: Representation) -> list[Candidates]:
        """Return the documents with the highest pooled cosine for each query, best first."""
        nearest = self._nearest(queries.pooled, self._admitted() if self.state is not None else None)
        return [self._candidates(queries.pooled[i : i + 1], *one, []) for i, one in enumerate(nearest)]

    def terms(self, queries: Representation) -> list[Candidates]:
        """Return, for each query, the best documents by pooled cosine and by terms, in alternation.

        The terms of a document are its vocabulary ids, or the centroids of its tokens, if it is, for example, a page
        that was read as an image. If the index has both kinds, each gets candidates in proportion to its number.
        """
        tokens, centroids = queries.tokens, self.store.centroids
        count = centroids.count()
        admitted = self._admitted() if self.state is not None else None
        nearest = self._nearest(queries.pooled, admitted)
        if self.state is None and (count or tokens.ids is not None):
            # This is after the rows were read, so that a document that does not pass any more is left out.
            admitted = self._admitted()
        hashes = None if admitted is None else admitted.hashes
        found = []
        for i, one in enumerate(nearest):
            rows = slice(tokens.offsets[i], tokens.offsets[i + 1])
            ids = None if tokens.ids is None else tokens.ids[rows]
            by_terms = [] if ids is None else self.store.terms.best(ids, self.limit, hashes)
            if count:
                weights = None if ids is None else self.store.terms.weights(ids)
                by_centroids = centroids.best(tokens.embeddings[rows], weights, self.limit, hashes)
                if by_centroids:
                    by_terms = _mixed(by_terms, by_centroids, self.store.terms.count_with_words(), count)
            if admitted is not None:  # other documents may have the same hash
                by_terms = [name for name in by_terms if name in admitted.ids]
            found.append(self._candidates(queries.pooled[i : i + 1], *one, by_terms))
        return found

    def _admitted(self) -> Admitted | None:
        """Return the documents that pass the filters. Return None if there is no filter."""
        if not self.where and not self.where_document:
            return None
        if self.state is not None:
            return self.store.known.admitted(self.state, self.where, self.where_document)
        return Admitted(frozenset(self.store.pooled.ids(self.where, self.where_document)))

    def _nearest(self, queries: NDArray[np.float32], admitted: Admitted | None) -> list[tuple[dict[str, float], _Read]]:
        """Return, for each query, the cosines of the nearest documents by id, best first, and what was read of them."""
        pooled, filters = self.store.pooled, (self.where, self.where_document)
        is_small = self.store.count() <= EXHAUSTIVE_DOCUMENTS
        if self.state is not None:
            if admitted is None and is_small:
                admitted = self.store.known.admitted(self.state, None, None)
            if admitted is None:
                nearest = pooled.nearest(queries, self.limit)
            else:
                nearest = self._nearest_of(queries, admitted, self.state)
            return [(cosines, _Read()) for cosines in nearest]
        if is_small:
            return self._all_compared(queries)
        found = []
        for answer in pooled.query(queries, self.limit, *filters):
            rows = {one.row.document.id: one.row for one in answer}
            keys = {name: row.key for name, row in rows.items()}
            found.append(({one.row.document.id: one.pooled_score for one in answer}, _Read(keys, rows=rows)))
        return found

    def _nearest_of(self, queries: NDArray[np.float32], admitted: Admitted, state: State) -> list[dict[str, float]]:
        """Return, for each query, the cosines of the nearest of the ``admitted`` documents by id, best first.

        Chroma takes much longer with a filter than without one. So a few documents are compared one by one. If there
        are many, Chroma looks once for more documents than needed, without the filter. Only if too few of them pass, it
        searches with the filter.
        """
        size = len(admitted.ids)
        if size <= max(_COMPARED, self.limit):
            return self._compared(queries, self.store.known.pooled(state, sorted(admitted.ids)))
        wide = math.ceil(_SPARE * self.limit * self.store.count() / size)
        if wide > _WIDEST:
            return self.store.pooled.nearest(queries, self.limit, self.where, self.where_document)
        found = []
        for query, nearest in zip(queries, self.store.pooled.nearest(queries, wide), strict=True):
            cosines = {name: cosine for name, cosine in nearest.items() if name in admitted.ids}
            if len(cosines) < self.limit:  # the documents near the query are others
                (cosines,) = self.store.pooled.nearest(query[None], self.limit, self.where, self.where_document)
            found.append(dict(islice(cosines.items(), self.limit)))
        return found

    def _all_compared(self, queries: NDArray[np.float32]) -> list[tuple[dict[str, float], _Read]]:
        """Do the same as `_nearest`, but read and compare all rows that pass the filters."""
        read = self.store.pooled.vectors_of_all(self.where, self.where_document)
        rows = {row.document.id: row for row, _ in read}
        nearest = self._compared(queries, {row.document.id: pooled for row, pooled in read})
        return [
            (cosines, _Read({name: rows[name].key for name in cosines}, rows={name: rows[name] for name in cosines}))
            for cosines in nearest
        ]

    def _compared(
        self, queries: NDArray[np.float32], pooled: Mapping[str, NDArray[np.float32]]
    ) -> list[dict[str, float]]:
        """Return, for each query, the cosines of the nearest of the documents whose ``pooled`` embeddings these are."""
        if not pooled:
            return [{} for _ in queries]
        names = sorted(pooled)  # in this order each time, because products are rounded by their places
        rows = np.stack([pooled[name] for name in names])
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        # Only rows of other programs have other lengths.
        rows /= np.where((np.abs(norms - 1) > _UNIT) & (norms > 0), norms, 1)
        # One query at a time, because the products of several are rounded in another way.
        cosines = [maxsim.pooled_similarity(query[None], rows)[0] for query in queries]
        best = (ranking.ranking(of_one, names, self.limit) for of_one in cosines)
        return [{names[i]: float(of_one[i]) for i in chosen} for of_one, chosen in zip(cosines, best, strict=True)]

    def _candidates(
        self, query: NDArray[np.float32], cosines: dict[str, float], read: _Read, by_terms: Sequence[str]
    ) -> Candidates:
        """Return the candidates from the nearest documents, with their ``cosines``, and from those ``by_terms``."""
        while True:
            chosen = _in_turn(cosines, by_terms)[: self.limit]
            self._read(chosen, cosines, read)
            # These are damaged, or other programs wrote them. Others take their places.
            gone = [name for name in chosen if name in cosines and name not in read.keys]
            if not gone:
                break
            for name in gone:
                del cosines[name]
        names = [name for name in chosen if name in read.keys]
        rest = [name for name in names if name not in cosines]
        if rest:
            found = maxsim.pooled_similarity(query, np.stack([read.pooled[name] for name in rest]))[0]
            cosines |= zip(rest, found.tolist(), strict=True)
        pooled = np.asarray([cosines[name] for name in names], dtype=np.float32)
        return Candidates(names, [read.keys[name] for name in names], pooled, read.rows)

    def _read(self, names: Sequence[str], cosines: Mapping[str, float], read: _Read) -> None:
        """Add the rows with these ids to ``read``, unless they are there. Unknown ids are left out.

        With a state, the pooled embeddings of those with ``cosines`` are left out.
        """
        absent = [name for name in names if name not in read.keys]
        if self.state is not None:
            pooled = self.store.known.pooled(self.state, [name for name in absent if name not in cosines])
            keys = self.store.known.keys(self.state, [name for name in absent if name in cosines or name in pooled])
            read.pooled.update(pooled)
            read.keys.update(keys)
        elif absent:
            for row, pooled_of_one in self.store.pooled.vectors(absent):
                name = row.document.id
                read.keys[name], read.pooled[name], read.rows[name] = row.key, pooled_of_one, row


def _in_turn(first: Iterable[str], second: Iterable[str]) -> list[str]:
    """Return the ids of both rankings, one of each in turn, without duplicates."""
    return list(dict.fromkeys(id for id in chain.from_iterable(zip_longest(first, second)) if id is not None))


def _mixed(first: Sequence[str], second: Sequence[str], of_first: int, of_second: int) -> list[str]:
    """Return the ids of two rankings, so that each part of the result has about ``of_first : of_second`` of them.

    >>> _mixed(["a", "b", "c", "d"], ["x", "y"], 2, 1)
    ['a', 'b', 'x', 'c', 'd', 'y']
    """
    places = [(rank / max(of_first, 1), id) for rank, id in enumerate(first, 1)]
    places += [(rank / max(of_second, 1), id) for rank, id in enumerate(second, 1)]
    return list(dict.fromkeys(id for _, id in sorted(places, key=itemgetter(0))))

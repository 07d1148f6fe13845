"""The first stage: which documents are worth scoring.

`pooled` takes those of highest pooled cosine. `terms` takes half of them, and half from those that
hold the query's rare tokens: what a pooled embedding loses first is the odd name and number, and a
document in which late interaction finds these nearly always holds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

import numpy as np

from smart_rag import scoring
from smart_rag.document_store import DocumentStore
from smart_rag.pooled_index import Candidate, Where
from smart_rag.term_store import id_hash
from smart_rag.types import Representation, TokenBatch, TokenIds


@dataclass(frozen=True, slots=True)
class FirstStage:
    """How to find ``limit`` candidates in a store, among those that the filters admit; each strategy is a method."""

    store: DocumentStore
    limit: int
    where: Where | None = None
    where_document: Where | None = None

    def pooled(self, queries: Representation) -> list[list[Candidate]]:
        """Return, for each query, the documents of highest pooled cosine, best first."""
        return self.store.pooled.query(queries.pooled, self.limit, self.where, self.where_document)

    def terms(self, queries: Representation) -> list[list[Candidate]]:
        """Return, for each query, the best by pooled cosine and the best by shared terms, in turn.

        For a query whose tokens have no vocabulary ids, `pooled` does.
        """
        found = []
        for query, by_pooled in zip(queries, self.pooled(queries), strict=True):
            ids = query.tokens.ids if isinstance(query.tokens, TokenBatch) else None
            found.append(by_pooled if ids is None else self._in_turn(query, ids, by_pooled))
        return found

    def _in_turn(self, query: Representation, ids: TokenIds, by_pooled: Sequence[Candidate]) -> list[Candidate]:
        known = {candidate.row.document.id: candidate for candidate in by_pooled}
        chosen = self._alternated(list(known), self.store.terms.best(ids, self.limit))
        fetched = self._fetched(query, [name for name in chosen if name not in known])
        if (self.where or self.where_document) and not {*known, *fetched}.issuperset(chosen):
            # The filters took some of the best; those that they admit are to be ranked among themselves.
            admitted = self.store.pooled.ids(self.where, self.where_document)
            hashes = np.asarray(list(map(id_hash, admitted)), dtype=np.uint64)
            chosen = self._alternated(list(known), self.store.terms.best(ids, self.limit, hashes))
            fetched = self._fetched(query, [name for name in chosen if name not in known])
        candidates = {**known, **fetched}
        return [candidates[name] for name in chosen if name in candidates]

    def _alternated(self, first: Sequence[str], second: Sequence[str]) -> list[str]:
        turns = chain.from_iterable(zip_longest(first, second))
        return list(dict.fromkeys(name for name in turns if name is not None))[: self.limit]

    def _fetched(self, query: Representation, ids: Sequence[str]) -> dict[str, Candidate]:
        """Return the documents with these ids that the filters admit, as candidates, by id."""
        found = self.store.pooled.vectors(ids, self.where, self.where_document)
        if not found:
            return {}
        rows, embeddings = zip(*found, strict=True)
        cosines = scoring.pooled_similarity(query.pooled, np.stack(embeddings))[0].tolist()
        return {row.document.id: Candidate(row, cosine) for row, cosine in zip(rows, cosines, strict=True)}

"""`FirstStage`: choose the documents that are worth scoring.

`FirstStage.pooled` takes the documents with the highest pooled cosine. `FirstStage.terms` takes only half of its
candidates in this way. It takes the other half by the rare tokens that they share with the query. A pooled embedding
loses rare names and numbers first. A document that matches such names and numbers by late interaction nearly always
contains them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

import numpy as np
from numpy.typing import NDArray

from smart_rag.embeddings.representation import Representation
from smart_rag.scoring import maxsim
from smart_rag.store.document_store import DocumentStore
from smart_rag.store.pooled_store import Candidate
from smart_rag.store.terms.term_store import id_hash
from smart_rag.store.where import Where


@dataclass(frozen=True, slots=True)
class FirstStage:
    """Finds ``limit`` candidates among the documents of ``store`` that pass the filters. Each method is a strategy."""

    store: DocumentStore
    limit: int
    where: Where | None = None
    where_document: Where | None = None

    def pooled(self, queries: Representation) -> list[list[Candidate]]:
        """Return the documents with the highest pooled cosine for each query, best first."""
        return self.store.pooled.query(queries.pooled, self.limit, self.where, self.where_document)

    def terms(self, queries: Representation) -> list[list[Candidate]]:
        """Return, for each query, the best documents by pooled cosine and by shared terms, in alternation.

        For a query without vocabulary ids, the result is that of `pooled`.
        """
        tokens = queries.tokens
        by_pooled = self.pooled(queries)
        if tokens.ids is None:
            return by_pooled
        admitted = self._admitted()
        hashes = None if admitted is None else np.fromiter(map(id_hash, admitted), np.uint64, len(admitted))
        found = []
        for i, candidates in enumerate(by_pooled):
            known = {candidate.row.document.id: candidate for candidate in candidates}
            by_terms = self.store.terms.best(tokens.ids[tokens.offsets[i] : tokens.offsets[i + 1]], self.limit, hashes)
            turns = chain.from_iterable(zip_longest(known, by_terms))
            chosen = list(dict.fromkeys(name for name in turns if name is not None))[: self.limit]
            known |= self._fetched(queries.pooled[i : i + 1], [name for name in chosen if name not in known])
            found.append([known[name] for name in chosen if name in known])
        return found

    def _admitted(self) -> set[str] | None:
        """Return the ids of all documents that pass the filters. Return None if there is no filter."""
        if not self.where and not self.where_document:
            return None
        return set(self.store.pooled.ids(self.where, self.where_document))

    def _fetched(self, query: NDArray[np.float32], ids: Sequence[str]) -> dict[str, Candidate]:
        """Return a dict of candidates: the documents with these ids. Ids that are not in the store are left out."""
        found = self.store.pooled.vectors(ids)
        if not found:
            return {}
        rows, embeddings = zip(*found, strict=True)
        cosines = maxsim.pooled_similarity(query, np.stack(embeddings))[0].tolist()
        return {row.document.id: Candidate(row, cosine) for row, cosine in zip(rows, cosines, strict=True)}

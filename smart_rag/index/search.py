"""`Search`: one search of a store. It finds candidates, computes their scores, and returns the best as hits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from smart_rag.config import (
    DEFAULT_CANDIDATES,
    DEFAULT_WEIGHTS,
    EXHAUSTIVE_DOCUMENTS,
    FirstStageName,
    Weighting,
)
from smart_rag.embeddings.representation import Representation
from smart_rag.embeddings.tokens import TokenCodes
from smart_rag.errors import InvalidInput
from smart_rag.index.candidates import Candidates, FirstStage
from smart_rag.index.hits.selection import Rule, Scored, Selection
from smart_rag.index.stopwatch import Stopwatch
from smart_rag.scoring import maxsim, ranking
from smart_rag.store.chroma.answers import PooledBlock
from smart_rag.store.chroma.known import State
from smart_rag.store.document_store import DocumentStore
from smart_rag.store.row import Row
from smart_rag.store.where import Where
from smart_rag.types import Document, Hit, explainer_of, with_explainer

# Number of documents whose tokens are in memory at a time during an exhaustive scan.
_SCAN = 256
# With the weighting "contrast", at most so many candidates decide about the weights of the query tokens.
_DECIDING = 100
# If each source may have only a few hits, so many times the candidates are scored, and again if there are too few hits.
# In an index of 60,000 texts in 300 files, 100 candidates came from 32 files (median). Among them were 87 % of the best
# hits of 10 files. Among 400 candidates were 99 %, which is as many as an ordinary search finds among 100.
_WIDER = 4


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of some documents: ids (n), pooled and late (n_queries, n) float32."""

    ids: list[str]
    pooled: NDArray[np.float32]
    late: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """The settings of a search of ``store``.

    ``where`` and ``where_document`` are filters on metadata and text, in Chroma's form. The scores are computed on
    ``device``. Without a ``rule``, the best documents become hits, whatever their sources are.
    """

    store: DocumentStore
    device: str
    top_k: int
    candidates: int = DEFAULT_CANDIDATES
    first_stage: FirstStageName = "auto"
    weights: tuple[float, float] = DEFAULT_WEIGHTS
    weighting: Weighting = "idf"
    where: Where | None = None
    where_document: Where | None = None
    rule: Rule | None = None
    stopwatch: Stopwatch = field(default_factory=Stopwatch)

    def hits(self, queries: Representation) -> list[list[Hit]]:
        """Return the ``top_k`` best documents for each query, best first.

        Raises:
            CorruptStore: a part of the index is damaged or lost.
        """
        with self.store.pooled.caught_up():
            self.store.integrity.check_counts()
            first_stage = self.first_stage
            if first_stage == "auto":
                first_stage = automatic_first_stage(self.store.count())
                if first_stage == "exhaustive":  # because there are few documents
                    return self.store.retry_unless_writing(lambda: self._exhaustive(queries))
            if first_stage != "exhaustive":
                return self.store.retry_unless_writing(lambda: self._two_stage(queries, first_stage))
        # This may take long, and writers need not wait for it.
        return self.store.retry_unless_writing(lambda: self._exhaustive(queries))

    def _two_stage(self, queries: Representation, first_stage: FirstStageName) -> list[list[Hit]]:
        """Score the candidates that the first stage finds."""
        find = self._best if self.rule is None else self._chosen
        state = self.store.settled_state()
        if state is not None:
            found = find(queries, first_stage, state)
            if found is not None and state == self.store.settled_state():
                return found
        found = find(queries, first_stage, None)
        assert found is not None  # because all rows were read
        return found

    def _best(
        self, queries: Representation, first_stage: FirstStageName, state: State | None
    ) -> list[list[Hit]] | None:
        """Return the hits of each query. ``state`` is that of `FirstStage`.

        Return None if a document of the hits is no longer there.
        """
        found = self._candidates(queries, first_stage, max(self.candidates, self.top_k), state)
        scored = []
        for query, candidates in zip(queries, found, strict=True):
            with self.stopwatch.measure("gather"):
                tokens = self.store.gather(candidates.keys, candidates.ids)
            with self.stopwatch.measure("score"):
                late = self._late(query, tokens, self._weights_by(query, tokens))
                scores = ranking.hybrid(candidates.pooled, late, self.weights)
                scored.append((candidates, late, ranking.ranking(scores, candidates.ids, self.top_k)))
        with self.stopwatch.measure("texts"):
            shown = dict.fromkeys(candidates.ids[i] for candidates, _, best in scored for i in best)
            known = {} if state is None else self.store.known.rows(state, list(shown))
        results = []
        for candidates, late, best in scored:
            read = candidates.rows if state is None else known
            rows = [read[candidates.ids[i]] for i in best if candidates.ids[i] in read]
            if len(rows) < len(best):
                return None
            self.store.integrity.check_texts(rows)
            documents = [row.document for row in rows]
            results.append(hits(documents, candidates.pooled[best], late[best], self.weights, self.top_k))
        return results

    def _candidates(
        self, queries: Representation, first_stage: FirstStageName, limit: int, state: State | None
    ) -> list[Candidates]:
        stage = FirstStage(self.store, limit, self.where, self.where_document, state)
        with self.stopwatch.measure("candidates"):
            return stage.terms(queries) if first_stage == "terms" else stage.pooled(queries)

    def _late(
        self, query: Representation, tokens: TokenCodes, weights: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Return the late scores (n) of n candidates, which have these ``tokens``, for one query."""
        if not len(tokens):
            return np.empty(0, dtype=np.float32)
        late: NDArray[np.float32] = maxsim.late_interaction(query.tokens, tokens, self.device, weights)[0]
        return late

    def _chosen(self, queries: Representation, first_stage: FirstStageName, state: State | None) -> list[list[Hit]]:
        """Do the same as `_best`, but with the hits that the rule allows."""
        assert self.rule is not None
        limit = max(self.candidates, self.top_k) * (1 if self.rule.per_source is None else _WIDER)
        found = self._candidates(queries, first_stage, limit, state)
        return [
            self._chosen_for(query, candidates, first_stage, limit, state)
            for query, candidates in zip(queries, found, strict=True)
        ]

    def _chosen_for(
        self, query: Representation, found: Candidates, first_stage: FirstStageName, limit: int, state: State | None
    ) -> list[Hit]:
        """Return the hits of one query, of which ``limit`` candidates were ``found``.

        One file can take the places of all candidates. So if there are too few hits, more candidates are found, and
        none of them is from a source that is full. If no more documents than that are left, all of them are scored.
        """
        assert self.rule is not None
        scored, rows = Scored(), dict(found.rows)

        def gathered(candidates: Candidates) -> TokenCodes:
            with self.stopwatch.measure("gather"):
                return self.store.gather(candidates.keys, candidates.ids)

        def read(ids: Sequence[str]) -> Mapping[str, Row]:
            absent = [name for name in ids if name not in rows]
            rows.update(self.store.pooled.get(absent) if state is None else self.store.known.rows(state, absent))
            return rows

        def score(candidates: Candidates, tokens: TokenCodes) -> Selection:
            rows.update(candidates.rows)
            with self.stopwatch.measure("score"):
                scored.add([(candidates.ids, candidates.pooled, self._late(query, tokens, weights))])
            return self._selection(scored, read)

        first = gathered(found)
        with self.stopwatch.measure("score"):
            weights = self._weights_by(query, first)  # also for the candidates that are found later
        selection = score(found, first)
        while not selection.is_full:
            limit *= _WIDER
            others = replace(self, where=self.rule.without(self.where, selection.full_sources))
            if others._count(state) <= limit:
                blocks = others._scored(query, others._blocks(), weights)
                scored.add((block.ids, block.pooled[0], block.late[0]) for block in blocks)
                selection = self._selection(scored, read)
                break
            (more,) = others._candidates(query, first_stage, limit, state)
            selection = score(more, gathered(more))
        return self._hits_of(selection, scored)

    def _count(self, state: State | None) -> int:
        """Return the number of documents that pass the filters."""
        filters = self.where, self.where_document
        if not any(filters):
            return self.store.count()
        if state is None:
            return len(self.store.pooled.ids(*filters))
        return len(self.store.known.admitted(state, *filters).ids)

    def _selection(self, scored: Scored, read: Callable[[Sequence[str]], Mapping[str, Row]]) -> Selection:
        assert self.rule is not None
        selection = Selection(self.top_k, self.rule)
        with self.stopwatch.measure("score"):
            ranked = scored.ranked(self.weights)
        with self.stopwatch.measure("texts"):
            selection.walk(ranked, read, lambda where: frozenset(self.store.pooled.ids(where)))
        return selection

    def _hits_of(self, selection: Selection, scored: Scored) -> list[Hit]:
        chosen = selection.chosen
        self.store.integrity.check_texts(one.row for one in chosen)
        documents = [one.row.document for one in chosen]
        pooled, late = scored.of([document.id for document in documents])
        found = hits(documents, pooled, late, self.weights, self.top_k)
        return [
            replace(hit, rank=one.place + 1, duplicates=tuple(one.duplicates))
            for hit, one in zip(found, chosen, strict=True)
        ]

    def _exhaustive(self, queries: Representation) -> list[list[Hit]]:
        """Score every document, in one scan for all queries."""
        state = self.store.settled_state()
        if state is None:
            return self._best_of_all(queries, self.store.pooled.scan(self.where, self.where_document))
        known = self.store.known.scan(state, self.where, self.where_document)
        if known is not None:
            found = self._best_of_all(queries, known)
            if state == self.store.settled_state():
                return found
        blocks = self.store.pooled.scan(self.where, self.where_document)
        has_filter = self.where or self.where_document
        return self._best_of_all(queries, blocks if has_filter else self.store.known.remembered(state, blocks))

    def _best_of_all(self, queries: Representation, blocks: Iterable[PooledBlock]) -> list[list[Hit]]:
        if self.rule is not None:
            return self._chosen_of_all(queries, blocks)
        leaders = [ranking.Leaders(self.top_k) for _ in range(len(queries))]
        for block in self._scored(queries, blocks, self.token_weights(queries)):
            for i, leader in enumerate(leaders):
                leader.offer(block.ids, block.pooled[i], block.late[i], self.weights)
        with self.stopwatch.measure("texts"):
            rows = self.store.pooled.get(list({name for leader in leaders for name in leader.ids}))
        self.store.integrity.check_texts(rows.values())
        results = []
        for leader in leaders:
            documents = [rows[name].document for name in leader.ids if name in rows]
            kept = np.flatnonzero([name in rows for name in leader.ids])
            results.append(hits(documents, leader.pooled[kept], leader.late[kept], self.weights, self.top_k))
        return results

    def _chosen_of_all(self, queries: Representation, blocks: Iterable[PooledBlock]) -> list[list[Hit]]:
        """Do the same as `_best_of_all`, but with the hits that the rule allows. All scores are kept in memory."""
        scored = list(self._scored(queries, blocks, self.token_weights(queries)))
        results = []
        for i in range(len(queries)):
            of_one = Scored()
            of_one.add((block.ids, block.pooled[i], block.late[i]) for block in scored)
            results.append(self._hits_of(self._selection(of_one, self.store.pooled.get), of_one))
        return results

    def scan(self, queries: Representation) -> Iterator[Scores]:
        """Yield the scores of every document that passes the filters, in blocks."""
        return self._scored(queries, self._blocks(), self.token_weights(queries))

    def _blocks(self) -> Iterator[PooledBlock]:
        return self.store.pooled.scan(self.where, self.where_document)

    def _scored(
        self, queries: Representation, blocks: Iterable[PooledBlock], weights: NDArray[np.float32] | None
    ) -> Iterator[Scores]:
        for block in self.stopwatch.each("candidates", iter(blocks)):
            pooled = maxsim.pooled_similarity(queries.pooled, block.pooled)
            for start in range(0, len(block.ids), _SCAN):
                part = slice(start, start + _SCAN)
                with self.stopwatch.measure("gather"):
                    tokens = self.store.gather(block.keys[part], block.ids[part])
                with self.stopwatch.measure("score"):
                    late = maxsim.late_interaction(queries.tokens, tokens, self.device, weights)
                yield Scores(block.ids[part], pooled[:, part], late)

    def token_weights(self, queries: Representation) -> NDArray[np.float32] | None:
        """Return the weight of each query token (total). Return None if all tokens count the same."""
        tokens = queries.tokens
        if self.weighting == "contrast":
            return self._contrast_of_first(queries)
        if self.weighting == "none" or tokens.ids is None:
            return None
        weights = []
        for start, stop in pairwise(tokens.offsets):
            of_one = self.store.terms.weights(tokens.ids[start:stop])
            weights.append(np.ones(stop - start, dtype=np.float32) if of_one is None else of_one)
        return np.concatenate(weights)

    def _weights_by(self, query: Representation, candidates: TokenCodes) -> NDArray[np.float32] | None:
        """Do the same as `token_weights` for one query whose ``candidates`` are known."""
        return self._contrast(query, candidates) if self.weighting == "contrast" else self.token_weights(query)

    def _contrast_of_first(self, queries: Representation) -> NDArray[np.float32]:
        """Find candidates for each query, and return the weights (total) that they give its tokens."""
        first_stage: FirstStageName = "pooled" if self.first_stage == "pooled" else "terms"
        limit = min(max(self.candidates, self.top_k), _DECIDING)
        found = self._candidates(queries, first_stage, limit, self.store.settled_state())
        weights = []
        for query, candidates in zip(queries, found, strict=True):
            weights.append(self._contrast(query, self.store.gather(candidates.keys, candidates.ids)))
        return np.concatenate(weights)

    def _contrast(self, query: Representation, candidates: TokenCodes) -> NDArray[np.float32]:
        """Return the weights (q) that the first ``candidates`` give the tokens of one query."""
        ids = query.tokens.ids
        highest = np.empty((query.tokens.offsets[-1], 0), dtype=np.float32)
        if len(candidates):
            deciding = candidates.slice(0, min(len(candidates), _DECIDING))
            highest = maxsim.highest_cosines(query.tokens, deciding, self.device)
        return maxsim.contrast(highest, None if ids is None else self.store.terms.weights(ids))


def scoring_device(device: str) -> str:
    """Return the device to score on: the model's ``device`` if it is a CUDA GPU, otherwise the CPU."""
    return device if device.startswith("cuda") else "cpu"


def automatic_first_stage(documents: int) -> FirstStageName:
    """Return the first stage that ``"auto"`` means for an index with this number of ``documents``."""
    return "exhaustive" if documents <= EXHAUSTIVE_DOCUMENTS else "terms"


def rank(
    query: Representation,
    documents: Sequence[Document],
    vectors: Representation,
    weights: tuple[float, float],
    top_k: int | None,
    device: str,
    token_weights: NDArray[np.float32] | None = None,
) -> list[Hit]:
    """Score ``documents`` by their ``vectors``, and return the ``top_k`` best hits, best first."""
    pooled = maxsim.pooled_similarity(query.pooled, vectors.pooled)[0]
    late = maxsim.late_interaction(query.tokens, vectors.tokens, device, token_weights)[0]
    return hits(documents, pooled, late, weights, top_k or len(documents))


def hits(
    documents: Sequence[Document],
    pooled: NDArray[np.float32],
    late: NDArray[np.float32],
    weights: tuple[float, float],
    top_k: int,
) -> list[Hit]:
    """Return the ``top_k`` best of n ``documents`` as hits, best first. There is one score for each document."""
    scores = ranking.hybrid(pooled, late, weights)
    best = ranking.ranking(scores, [document.id for document in documents], top_k)
    return [
        Hit(
            documents[i].id,
            documents[i].text,
            dict(documents[i].metadata),
            float(scores[i]),
            float(pooled[i]),
            float(late[i]),
            rank,
            documents[i].image,
            documents[i].video,
        )
        for rank, i in enumerate(best, start=1)
    ]


def diversify(
    store: DocumentStore, hits: Sequence[Hit], top_k: int, mmr_lambda: float, weights: tuple[float, float]
) -> list[Hit]:
    """Return ``top_k`` of ``hits`` by maximal marginal relevance; see `SmartIndex.diversify`."""
    found = store.pooled.embeddings([hit.id for hit in hits])
    gone = [hit.id for hit in hits if hit.id not in found]
    if gone:
        raise InvalidInput(f"{store.place.folder}: the hit {gone[0]!r} is not in the index any more; search again")
    pooled = np.stack([found[hit.id] for hit in hits])
    relevance = np.asarray([hit.score for hit in hits], dtype=np.float32) / sum(weights)
    chosen = ranking.marginal_relevance(relevance, maxsim.pooled_similarity(pooled, pooled), top_k, mmr_lambda)
    return [
        with_explainer(replace(hits[i], rank=rank), explainer_of(hits[i])) for rank, i in enumerate(chosen, start=1)
    ]

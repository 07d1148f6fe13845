"""`rerank`: documents from any source, ranked without an index."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from smart_rag.config import Count, Number, Weights, check_count, check_fraction, check_weights
from smart_rag.embeddings.representation import Representation
from smart_rag.encoders.protocol import Encoder, default_weights_of, device_of, modalities_of, scale_of
from smart_rag.errors import InvalidInput
from smart_rag.index.explain.explanation import Explanation
from smart_rag.index.queries import as_documents, checked_queries, marked
from smart_rag.index.relevance import relevant_hits
from smart_rag.index.search import rank, scoring_device
from smart_rag.scoring.relevance import Scale
from smart_rag.threads import in_reader_thread
from smart_rag.types import Content, Document, Hit, with_explainer

_NEEDED = (
    "a calibrated token store: call CachedEncoder.add(documents, calibrate=True) once, or backfill(store, "
    "calibrate=True) of the application's embeddings"
)


def rerank(
    query: str | Content | Representation,
    documents: Iterable[str | Document | Hit],
    encoder: Encoder,
    top_k: Count | None = None,
    *,
    weights: Weights | None = None,
    min_relevance: Number | None = None,
) -> list[Hit]:
    """Score ``documents`` from any source for ``query``, and return them as hits, best first.

    Args:
        query: a text, a `Content`, or its representation.
        documents: texts, documents or hits. The id of a text is its position, padded with zeros: for 100 texts,
            ``"00"`` to ``"99"``.
        encoder: the encoder. If it is a `CachedEncoder` with a folder, no document is encoded twice.
        top_k: the number of hits to return. By default, all hits.
        weights: the weights of the pooled and the late score. By default, the encoder's default weights.
        min_relevance: leave out hits whose `Hit.relevance` is lower than this number from 0 to 1. This needs a
            `CachedEncoder` that `CachedEncoder.add` has calibrated.

    Raises:
        InvalidInput: the query is empty, an item of ``documents`` has a wrong type, or ``top_k`` is below 1. Or
            ``min_relevance`` is given, but the relevance of the hits is unknown.
    """
    if top_k is not None:
        top_k = check_count("top_k", top_k)
    if not isinstance(encoder, Encoder):
        raise InvalidInput(f"encoder must be one, such as CachedEncoder('minilm'), got {type(encoder).__name__}")
    if min_relevance is not None:
        min_relevance = check_fraction("min_relevance", min_relevance)
    weights = check_weights(default_weights_of(encoder) if weights is None else weights)
    given = as_documents(documents)
    takes = modalities_of(encoder)
    if isinstance(query, Representation):
        vectors_of_query = query
    else:
        vectors_of_query = encoder.encode_query(checked_queries([query], takes))
    if not given:
        return []
    vectors = encoder.encode_document([document.content(takes).plain for document in given])
    ranked = rank(vectors_of_query, given, vectors, weights, top_k, scoring_device(device_of(encoder)))
    hits = marked(ranked, query, encoder)
    if not isinstance(query, Content) or query.modality == "text":  # the foreign questions are texts, too
        explainer = _Reranking(encoder, weights)
        hits = [with_explainer(hit, explainer) for hit in hits]
    return hits if min_relevance is None else relevant_hits(hits, min_relevance, _NEEDED)


async def arerank(
    query: str | Content | Representation,
    documents: Iterable[str | Document | Hit],
    encoder: Encoder,
    top_k: int | None = None,
    *,
    weights: tuple[float, float] | None = None,
    min_relevance: Number | None = None,
) -> list[Hit]:
    """Do the same as `rerank`, without blocking the event loop.

    The call runs in one of a few threads (see `smart_rag.threads.in_reader_thread`). If all threads are busy, a call
    waits for its turn. If the caller is cancelled, a waiting call is dropped, and a running call goes on to its end.
    """
    return await in_reader_thread(
        rerank, query, documents, encoder, top_k, weights=weights, min_relevance=min_relevance
    )


@dataclass(frozen=True)
class _Reranking:
    """The state of one call of `rerank`, shared by its hits. It finds their relevance, but no explanation."""

    encoder: Encoder
    weights: tuple[float, float]

    def explain(self, hit: Hit) -> Explanation:
        raise InvalidInput(
            f"the hit {hit.id!r} comes from smart_rag.rerank, which keeps no query to explain it by; give it to "
            "SmartIndex.rerank of an index with this document"
        )

    def relevance(self, hit: Hit) -> float | None:
        return None if self._scale is None else self._scale.relevance(hit.score)

    def neighbours(self, hit: Hit, before_and_after: int) -> list[Document]:
        raise InvalidInput(
            f"the hit {hit.id!r} comes from smart_rag.rerank, which knows no index with its neighbours; give it to "
            "SmartIndex.rerank of an index with this document"
        )

    @cached_property
    def _scale(self) -> Scale | None:
        return scale_of(self.encoder, self.weights)

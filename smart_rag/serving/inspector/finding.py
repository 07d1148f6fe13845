"""The page's search: everything that was scored, with both scores, so that the page ranks by any weights itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from smart_rag.config import DEFAULT_CANDIDATES, FirstStageName
from smart_rag.embeddings.representation import Representation
from smart_rag.encoders.protocol import token_origins_of
from smart_rag.errors import EncoderError
from smart_rag.index.search import automatic_first_stage
from smart_rag.index.smart_index import SmartIndex, scan_scores
from smart_rag.index.stopwatch import Stopwatch
from smart_rag.scoring.maxsim import highest_cosines
from smart_rag.scoring.ranking import hybrid, ranking
from smart_rag.serving.answers import answer, answer_of
from smart_rag.serving.inspector.queries import KeptQueries, QuestionBody
from smart_rag.serving.served_index import ServedIndex
from smart_rag.types import Content, Document, Explainer, Hit, TokenOrigin, explainer_of

# Characters of a hit's text that a list shows parts of.
_SHOWN = 1200
# Hits whose greatest similarity is the end of the scale of colours.
_SCALED = 10


class InspectBody(QuestionBody):
    """A question, how to find what is scored, and filters as in `SearchOptions`."""

    candidates: Annotated[int, Field(ge=1)] = DEFAULT_CANDIDATES
    first_stage: FirstStageName = "auto"
    where: dict[str, Any] | None = None
    where_document: dict[str, Any] | None = None

    @property
    def question(self) -> QuestionBody:
        """The question alone."""
        return QuestionBody(query=self.query, image=self.image, weighting=self.weighting)


def finding_routes(served: ServedIndex, kept: KeptQueries) -> APIRouter:
    """Return the endpoints by which the page searches the index ``served``."""
    router = APIRouter()

    @router.post("/search")
    async def search(body: InspectBody) -> Response:
        """Return all documents that were scored, sorted by their ids, with their two scores.

        ``mode`` says which they are: ``all`` documents; the ``candidates`` of two stages; or the ``best`` of all
        documents by each score. In the last case, ``last`` are the lowest scores among the best by each score.
        """
        body = body.model_copy(update={"candidates": min(body.candidates, served.most_hits)})
        stopwatch = Stopwatch()
        with stopwatch.measure("encode"):
            encoded = await kept.encoded(body.question)
        content = kept.content(body.question)
        found, explainer = await served.read(lambda: _found(served, body, content, encoded, stopwatch))
        if explainer is not None:
            kept.explainers.put(body.question, explainer)
        return await answer_of(lambda: found)

    @router.post("/images")
    async def keep_image(request: Request) -> Response:
        """Keep an image to ask with, which is the body. Return the name by which questions mean it."""
        return answer({"image": await kept.keep_image(await request.body())})

    return router


def _found(
    served: ServedIndex, body: InspectBody, content: str | Content, encoded: Representation, stopwatch: Stopwatch
) -> tuple[dict[str, Any], Explainer | None]:
    """Search, and return what the page gets, and what explains the hits."""
    index, most = served.index, served.most_hits
    count = index.count()
    stage = automatic_first_stage(count) if body.first_stage == "auto" else body.first_stage
    mode = "candidates" if stage != "exhaustive" else "all" if count <= most else "best"
    last = None
    if mode == "best":
        hits, last = _best(index, body, encoded, stopwatch)
    else:
        top_k = body.candidates if mode == "candidates" else max(count, 1)
        (hits,) = index.search_many(
            [content],
            top_k,
            candidates=body.candidates,
            first_stage=body.first_stage,
            where=body.where,
            where_document=body.where_document,
            weighting=body.weighting,
            encoded=encoded,
            stopwatch=stopwatch,
        )
    values = {
        "mode": mode,
        "stage": stage,
        "documents": count,
        "limit": most,
        "last": last,
        "weights": list(index.manifest.weights),
        "weighting": body.weighting or index.manifest.config.weighting,
        "unread": bool(hits and "query" in hits[0].unread),
        "greatest": _greatest(index, content, encoded, hits[:_SCALED]),
        "milliseconds": {stage: round(sum(values), 3) for stage, values in stopwatch.milliseconds.items()},
        "hits": [_row(hit) for hit in sorted(hits, key=lambda hit: hit.id)],
    }
    return values, explainer_of(hits[0]) if hits else None


def _row(hit: Hit) -> dict[str, Any]:
    return {
        "id": hit.id,
        "pooled": hit.pooled_score,
        "late": hit.late_score,
        "source": hit.source,
        "page": hit.page,
        "text": hit.text[:_SHOWN],
        "length": len(hit.text),
        "image": hit.image is not None,
        "video": hit.video is not None,
        "unread": "text" in hit.unread,
    }


def _best(
    index: SmartIndex, body: InspectBody, encoded: Representation, stopwatch: Stopwatch
) -> tuple[list[Hit], list[float]]:
    """Return the best documents by the pooled score, by the late score and by both, and the last scores of each."""
    ids: list[str] = []
    pooled, late = [np.empty(0, np.float32)], [np.empty(0, np.float32)]
    blocks = scan_scores(index, encoded, body.where, body.where_document, weighting=body.weighting)
    for block in stopwatch.each("score", blocks):
        ids += block.ids
        pooled.append(block.pooled[0])
        late.append(block.late[0])
    scores = np.concatenate(pooled), np.concatenate(late)
    weights = index.manifest.weights
    by_each = [ranking(one, ids, body.candidates) for one in (*scores, hybrid(*scores, weights))]
    chosen = sorted(set().union(*by_each), key=lambda i: -float(hybrid(scores[0][i], scores[1][i], weights)))
    with stopwatch.measure("texts"):
        documents = {one.id: one for one in index.get([ids[i] for i in chosen])}
    hits = [_hit(documents[ids[i]], weights, *(float(one[i]) for one in scores)) for i in chosen if ids[i] in documents]
    lowest = [float(one[places[-1]]) if places else 0.0 for one, places in zip(scores, by_each[:2], strict=True)]
    return hits, lowest


def _hit(one: Document, weights: Sequence[float], pooled: float, late: float) -> Hit:
    score = weights[0] * pooled + weights[1] * late
    return Hit(one.id, one.text, dict(one.metadata), score, pooled, late, 1, one.image, one.video)


def _greatest(index: SmartIndex, content: str | Content, encoded: Representation, hits: Sequence[Hit]) -> float | None:
    """Return the greatest similarity of a token of the query with the first hits: the end of the scale of colours.

    Tokens of a prompt do not count. They are in every query, and match nothing in particular.
    """
    if not hits:
        return None
    tokens = encoded.tokens
    try:
        origins = token_origins_of(index.encoder, content, "query")
    except EncoderError:  # the model does not say where its tokens are
        return None
    own = np.asarray([origin != TokenOrigin() for origin in origins])
    highest = highest_cosines(tokens, index.tokens([hit.id for hit in hits]))
    if len(own) != len(highest):
        return None
    return float(highest[own].max() if own.any() else highest.max())

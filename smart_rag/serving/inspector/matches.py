"""Why a hit was found: the similarity of each token of the query with each token of the hit, as one binary answer.

The answer is, in this order and without gaps:

- 4 bytes, little-endian: the length of the header, which is a multiple of 4
- the header: JSON in UTF-8, filled with spaces
- places of the n tokens of the hit: 4 float32 for an image or a video (left, top, right, bottom, as fractions),
  or 2 int32 for a text (start, stop, in UTF-16 units, as JavaScript counts). Without a place: -1
- for a video: n int32, the number of each token's frame, or -1
- q x n bytes, row by row: 0 is the header's ``minimum``, and 255 its ``maximum``

A page of 1,800 patches and a query of 40 tokens take 100 kB so, and four times as much as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Path
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from smart_rag.errors import EncoderError
from smart_rag.files.content import jpeg, page_boxes, page_text
from smart_rag.files.formats.video import read_frames
from smart_rag.index.explain.explanation import Explanation, word_of
from smart_rag.serving.answers import answer
from smart_rag.serving.inspector.queries import KeptQueries, QuestionBody
from smart_rag.serving.problems import Refused
from smart_rag.serving.served_index import ServedIndex
from smart_rag.types import RECOGNISED, Document, Explainer, Hit, PdfPage, TokenOrigin, explainer_of

_WORD = re.compile(r"\w+")
# Words of a page whose places are looked up. A page of print has a few thousand.
_MOST_WORDS = 5000
_MOST_FRAMES = 1024
_FRAME_PIXELS = 600_000


class MatchesBody(QuestionBody):
    """A question and the id of a document."""

    id: str

    @property
    def question(self) -> QuestionBody:
        """The question alone."""
        return QuestionBody(query=self.query, image=self.image, weighting=self.weighting)


class PageBody(BaseModel):
    """The id of a document."""

    model_config = ConfigDict(strict=True, extra="forbid")

    id: Annotated[str, Field(min_length=1)]


def matches_routes(served: ServedIndex, kept: KeptQueries) -> APIRouter:
    """Return the endpoints that explain hits of the index ``served``."""
    router = APIRouter()

    @router.post("/matches")
    async def matches(body: MatchesBody) -> Response:
        """Return why a document has its late score for a question, in the form that this module describes."""
        encoded = await kept.encoded(body.question)
        content = kept.content(body.question)
        known = kept.explainers.get(body.question)

        def explain() -> tuple[bytes, Explainer | None]:
            document = _document(served, body.id)
            hit = _hit(document)
            (ranked,) = served.index.rerank(content, [hit], weighting=body.weighting, encoded=encoded)
            explainer = known or explainer_of(ranked)
            assert explainer is not None
            return packed(ranked, _explanation(explainer, ranked)), explainer

        data, explainer = await served.read(explain)
        if explainer is not None:
            kept.explainers.put(body.question, explainer)
        return Response(data, media_type="application/octet-stream")

    @router.post("/words")
    async def words(body: PageBody) -> Response:
        """Return where the words of a text stand on the page of the PDF that the text comes from.

        Each word is ``[start, stop, boxes]``, in UTF-16 units and as fractions of the page.
        """
        return answer({"words": await served.read(lambda: words_on_page(_document(served, body.id)))})

    # As in addresses of images, an id may have slashes.
    @router.get("/frames/{frame}/{count}/{id:path}")
    async def frame(
        frame: Annotated[int, Path(ge=0, lt=_MOST_FRAMES)], count: Annotated[int, Path(ge=1, le=_MOST_FRAMES)], id: str
    ) -> Response:
        """Return a frame of a video as a JPEG. Its tokens stand for ``count`` frames, each for two of the video."""
        return Response(await served.read(lambda: _frame(_document(served, id), frame, count)), media_type="image/jpeg")

    return router


def _explanation(explainer: Explainer, hit: Hit) -> Explanation | str:
    """Return why ``hit`` was found, or why this cannot be said."""
    try:
        found = explainer.explain(hit)
    except EncoderError as error:
        return str(error)
    assert isinstance(found, Explanation)
    return found


def packed(hit: Hit, explanation: Explanation | str) -> bytes:
    """Return ``explanation`` of ``hit`` in the form that this module describes. A str says why there is none."""
    header: dict[str, Any] = {
        "id": hit.id,
        "source": hit.source,
        "page": hit.page,
        "text": hit.text,
        "metadata": dict(hit.metadata),
        "image": hit.image is not None,
        "pooled": hit.pooled_score,
        "late": hit.late_score,
    }
    if isinstance(explanation, str):
        return _joined({**header, "kind": "none", "reason": explanation, "tokens": [], "count": 0})
    origins, similarities = explanation.origins, explanation.similarities
    kind = "text"
    if any(origin.box is not None for origin in origins):
        kind = "video" if any(origin.frame is not None for origin in origins) else "image"
    elif not any(origin.span is not None for origin in origins):
        kind = "none"
    low, high = (float(similarities.min()), float(similarities.max())) if similarities.size else (0.0, 0.0)
    header |= {
        "kind": kind,
        "reason": "the model does not say what the tokens of this hit stand for" if kind == "none" else "",
        "query": explanation.query.text,
        "weights": list(explanation.weights),
        "tokens": _tokens(explanation),
        "count": len(origins),
        "minimum": low,
        "maximum": high,
    }
    places: list[bytes] = []
    if kind in ("image", "video"):
        places.append(np.asarray([origin.box or (-1,) * 4 for origin in origins], "<f4").tobytes())
    else:
        places.append(_spans(hit.text, origins).tobytes())
    if kind == "video":
        frames = [-1 if origin.frame is None else origin.frame for origin in origins]
        places.append(np.asarray(frames, "<i4").tobytes())
    scaled = np.rint((similarities - low) * (255 / ((high - low) or 1)))
    return _joined(header, *places, scaled.astype(np.uint8).tobytes())


def _joined(header: dict[str, Any], *parts: bytes) -> bytes:
    text = json.dumps(header, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace")
    text += b" " * (-len(text) % 4)
    return len(text).to_bytes(4, "little") + text + b"".join(parts)


def _tokens(explanation: Explanation) -> list[dict[str, Any]]:
    """Return each token of the query: its word, its weight, and the token of the hit that matches it best."""
    text, found = explanation.query.text, []
    units = _units(text)
    best = explanation.similarities.argmax(axis=1).tolist()
    for match, place in zip(explanation.matches, best, strict=True):
        word = word_of(text, match.query)
        span = match.query.span
        found.append(
            {
                # The same word may stand twice in a query, so its place is its name.
                "word": word if isinstance(word, str) else f"{word[0]}",
                "text": word if isinstance(word, str) else text[slice(*word)],
                "part": "" if span is None else text[slice(*span)],
                "span": None if span is None else [int(units[span[0]]), int(units[span[1]])],
                "weight": match.weight,
                "similarity": match.similarity,
                "best": place,
            }
        )
    return found


def _spans(text: str, origins: Sequence[TokenOrigin]) -> NDArray[np.int32]:
    units = _units(text)
    spans = [(-1, -1) if origin.span is None else (units[origin.span[0]], units[origin.span[1]]) for origin in origins]
    return np.asarray(spans, "<i4").reshape(-1, 2)


def _units(text: str) -> NDArray[np.int64]:
    """Return the place of each character of ``text``, and of its end, in UTF-16."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    return np.concatenate([[0], np.cumsum(1 + (points > 0xFFFF))])


def _document(served: ServedIndex, id: str) -> Document:
    found = served.index.get([id])
    if not found:
        raise Refused(404, f"no document {id[:200]!r} in the index")
    return found[0]


def _hit(one: Document) -> Hit:
    return Hit(one.id, one.text, dict(one.metadata), 0.0, 0.0, 0.0, 1, one.image, one.video)


def _frame(document: Document, frame: int, count: int) -> bytes:
    if document.video is None:
        raise Refused(404, f"the document {document.id[:200]!r} has no video")
    frames = read_frames(document.video, 1.0, 2 * count, _FRAME_PIXELS, 2 * count).images
    return jpeg(frames[min(2 * frame, len(frames) - 1)], _FRAME_PIXELS)


def words_on_page(document: Document | Hit) -> list[list[Any]]:
    """Return where the words of a text stand on its page: ``[start, stop, boxes]`` of each. It may be empty."""
    page = document.image
    if not isinstance(page, PdfPage):
        return []
    recognised = document.metadata.get(RECOGNISED) is True
    start = page_text(page, recognised).find(document.text)
    if start < 0:
        return []
    spans = [word.span() for word in _WORD.finditer(document.text)][:_MOST_WORDS]
    units = _units(document.text)
    found = page_boxes(page, [(start + first, start + last) for first, last in spans], recognised)
    return [
        [int(units[first]), int(units[last]), [[round(side, 5) for side in box] for box in boxes]]
        for (first, last), boxes in zip(spans, found, strict=True)
        if boxes
    ]

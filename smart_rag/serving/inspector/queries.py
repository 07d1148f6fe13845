"""`KeptQueries`: the queries that the page has asked last, encoded, and the images that it asks with."""

from __future__ import annotations

import hashlib
import tempfile
from collections import OrderedDict
from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from smart_rag.config import DEFAULT_IMAGE_PIXELS, Weighting
from smart_rag.embeddings.representation import Representation
from smart_rag.errors import DocumentError
from smart_rag.files.content import open_image
from smart_rag.index.queries import checked_queries
from smart_rag.serving.problems import Refused
from smart_rag.serving.served_index import ServedIndex
from smart_rag.types import Content, Explainer

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# One person asks a few questions, and returns to them. An encoded query has some kilobytes, an image some megabytes.
_QUERIES = 64
_IMAGES = 8
# The first bytes of the images that browsers show, and the ends of their names.
_BEGINNINGS = ((b"\xff\xd8\xff", ".jpg"), (b"\x89PNG\r\n", ".png"), (b"GIF8", ".gif"), (b"RIFF", ".webp"))


class QuestionBody(BaseModel):
    """A question: a text, an image that was sent before, or both. ``weighting`` is that of `SmartIndex.search`."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    query: str = ""
    image: Annotated[str | None, Field(pattern="^[0-9a-f]{64}$", description="The name of an image.")] = None
    weighting: Weighting | None = None


class Recent(Generic[K, V]):
    """The values that were used last, at most ``most`` of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """Return the value of ``key``, or None."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: K, value: V) -> V:
        """Keep ``value``, and return it."""
        self._values[key] = value
        self._values.move_to_end(key)
        while len(self._values) > self._most:
            self._values.popitem(last=False)
        return value


class KeptQueries:
    """The last queries of the page for one index. Only the event loop uses it.

    ``explainers`` explain the hits of a question, by its text, image and weighting.
    """

    def __init__(self, served: ServedIndex) -> None:
        self._served = served
        self._encoded: Recent[tuple[str, str | None], Representation] = Recent(_QUERIES)
        self._images: Recent[str, Any] = Recent(_IMAGES)
        self.explainers: Recent[QuestionBody, Explainer] = Recent(_QUERIES)

    def content(self, question: QuestionBody) -> str | Content:
        """Return ``question`` as a query.

        Raises:
            Refused: its image is not here any more. The page then sends it again.
        """
        if question.image is None:
            return question.query
        image = self._images.get(question.image)
        if image is None:
            raise Refused(409, "the image of the question is not here any more; drop it on the page again")
        return Content(question.query, image=image)

    async def encoded(self, question: QuestionBody) -> Representation:
        """Return the representation of ``question``.

        Raises:
            InvalidInput, Refused: as for `ServedIndex.encode_queries`, or the model does not read images.
        """
        key = (question.query, question.image)
        known = self._encoded.get(key)
        if known is not None:
            return known
        content = self.content(question)
        if isinstance(content, str):
            return self._encoded.put(key, await self._served.encode_queries([content]))
        index = self._served.index
        checked_queries([content], index.modalities)
        return self._encoded.put(key, await self._served.read(lambda: index.encode_queries([content])))

    async def keep_image(self, data: bytes) -> str:
        """Keep the image in ``data``, and return its name.

        Raises:
            Refused: it cannot be read, or it is in no format that browsers show.
        """
        suffix = next((end for beginning, end in _BEGINNINGS if data.startswith(beginning)), None)
        if suffix is None:
            raise Refused(422, "this is no JPEG, PNG, GIF or WebP image")
        name = hashlib.sha256(data).hexdigest()
        if self._images.get(name) is None:
            self._images.put(name, await self._served.read(lambda: _opened(data, suffix)))
        return name


def _opened(data: bytes, suffix: str) -> Any:
    with tempfile.TemporaryDirectory(prefix="smart_rag_question_") as folder:
        path = Path(folder) / f"image{suffix}"
        path.write_bytes(data)
        try:
            return open_image(path, DEFAULT_IMAGE_PIXELS)
        except DocumentError as error:
            raise Refused(422, str(error).replace(str(path), "the image")) from error

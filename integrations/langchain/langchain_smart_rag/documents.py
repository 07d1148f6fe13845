"""LangChain's documents into smart_rag's, and back."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from langchain_core.documents import Document

import smart_rag
from smart_rag.errors import DocumentError, InvalidInput
from smart_rag.types import Content

logger = logging.getLogger(__name__)

# Where LangChain's own compressors put a score.
RELEVANCE_SCORE = "relevance_score"
# Where a document that has an image says which file that is.
IMAGE_PATH = "image_path"


def to_smart_rag(
    texts: Sequence[str], metadatas: Sequence[Mapping[str, Any] | None], ids: Sequence[str | None]
) -> list[smart_rag.Document]:
    """Return documents as smart_rag takes them; where an id is None, under a new one.

    Raises:
        InvalidInput: not as many of one as of the others.
    """
    if not len(texts) == len(metadatas) == len(ids):
        raise InvalidInput(f"{len(texts)} texts need as many metadatas and ids, got {len(metadatas)} and {len(ids)}")
    return [
        smart_rag.Document(str(uuid.uuid4()) if name is None else name, text, metadata or {})
        for text, metadata, name in zip(texts, metadatas, ids, strict=True)
    ]


def to_langchain(found: smart_rag.Document | smart_rag.Hit, index: smart_rag.SmartIndex) -> Document:
    """Return what smart_rag found as the document that was added, to the last key of its metadata.

    One with an image (`SmartIndex.has_image`) has its file under ``image_path`` besides, that of
    `SmartIndex.image_file`; unless the image's file is gone, which is logged.
    """
    metadata = dict(found.metadata)
    if index.has_image(found):
        try:
            metadata[IMAGE_PATH] = str(index.image_file(found))
        except DocumentError as error:
            logger.warning("%r comes without its image: %s", found.id, error)
    return Document(id=found.id, page_content=found.text, metadata=metadata)


def path_of(uri: str | Path) -> Path:
    """Return the path of an image file that is given by its path or its URL."""
    url = urlparse(str(uri))
    return Path(url2pathname(url.path) if url.scheme == "file" else uri)


def asked(query: str, image: str | Path | None) -> str | Content:
    """Return what to search by: a text, an image, or both."""
    return query if image is None else Content(query, path_of(image))


def with_relevance(document: Document, score: float) -> Document:
    """Return a copy of ``document`` that carries ``score`` in its metadata."""
    return document.model_copy(update={"metadata": {**document.metadata, RELEVANCE_SCORE: score}})

"""LangChain's documents into smart_rag's, and back."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.documents import Document

import smart_rag
from smart_rag.errors import InvalidInput

# Where LangChain's own compressors put a score.
RELEVANCE_SCORE = "relevance_score"


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


def to_langchain(found: smart_rag.Document | smart_rag.Hit) -> Document:
    """Return what smart_rag found as the document that was added, to the last key of its metadata."""
    return Document(id=found.id, page_content=found.text, metadata=dict(found.metadata))


def with_relevance(document: Document, score: float) -> Document:
    """Return a copy of ``document`` that carries ``score`` in its metadata."""
    return document.model_copy(update={"metadata": {**document.metadata, RELEVANCE_SCORE: score}})

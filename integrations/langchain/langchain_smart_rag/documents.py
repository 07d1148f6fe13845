"""Convert LangChain's documents and queries to those of smart_rag, and back."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from langchain_core.documents import Document

import smart_rag
from smart_rag.errors import DocumentError, InvalidInput
from smart_rag.types import Content

logger = logging.getLogger(__name__)

# The metadata key under which LangChain's own compressors store a score.
RELEVANCE_SCORE = "relevance_score"
# Number of documents that one warning names.
_NAMED = 10
# The metadata key for the ids of the documents that a search with ``fold_duplicates`` has left out.
DUPLICATES = "duplicates"
# The metadata key for the file of a document's image.
IMAGE_PATH = "image_path"


def to_smart_rag(
    texts: Sequence[str], metadatas: Sequence[Mapping[str, Any] | None], ids: Sequence[str | None]
) -> list[smart_rag.Document]:
    """Return ``texts`` with their metadata and ids as documents of smart_rag. If an id is None, a new id is made.

    Raises:
        InvalidInput: the three arguments have different lengths.
    """
    if not len(texts) == len(metadatas) == len(ids):
        raise InvalidInput(f"{len(texts)} texts need as many metadatas and ids, got {len(metadatas)} and {len(ids)}")
    return [
        smart_rag.Document(str(uuid.uuid4()) if name is None else name, text, metadata or {})
        for text, metadata, name in zip(texts, metadatas, ids, strict=True)
    ]


def with_text(documents: Sequence[smart_rag.Document]) -> list[smart_rag.Document]:
    """Return those of ``documents`` that have a text. A warning names the others, such as a blank page of a PDF."""
    blank = {i for i, document in enumerate(documents) if isinstance(document.text, str) and not document.text.strip()}
    if blank:
        names = [_name(i, documents[i].metadata) for i in sorted(blank)]
        logger.warning(
            "%d of %d documents have no text and were left out: %s%s",
            len(blank),
            len(documents),
            "; ".join(names[:_NAMED]),
            f"; and {len(names) - _NAMED} more" if len(names) > _NAMED else "",
        )
    return [document for i, document in enumerate(documents) if i not in blank]


def _name(position: int, metadata: Mapping[str, Any]) -> str:
    """Return a description of a document that helps people to find it: its source, and its position in the call."""
    parts = [f"{key} {metadata[key]}" for key in ("source", "page") if key in metadata]
    return ", ".join([*parts, f"position {position}"])


def to_langchain(found: Iterable[smart_rag.Document | smart_rag.Hit], index: smart_rag.SmartIndex) -> list[Document]:
    """Return ``found`` as documents of LangChain, with the metadata that they had when they were added.

    If the index may not read the file under ``image_path`` (`SmartIndex.may_read`), the key is left out, and one
    warning counts these documents.

    If a document has an image (`SmartIndex.has_image`), ``image_path`` in its metadata is the file from
    `SmartIndex.image_file`. If this file does not exist, the key is missing, and a warning is logged.
    """
    documents = [_to_langchain(one, index) for one in found]
    refused = [document for document in documents if not _may_show(document, index)]
    for document in refused:
        del document.metadata[IMAGE_PATH]
    if refused:
        logger.warning(
            "%d documents, such as %r, name image files that you have not added to this index on this machine, so they "
            "are returned without them; to use the files, open the index with sources=",
            *(len(refused), refused[0].id),
        )
    return documents


def allow_images(documents: Iterable[smart_rag.Document], index: smart_rag.SmartIndex) -> None:
    """Let ``index`` return the files under ``image_path`` of ``documents``, which are about to be added."""
    paths = {path for document in documents if isinstance(path := document.metadata.get(IMAGE_PATH), str)}
    index.allow(path_of(path) for path in paths if "\0" not in path)


def _may_show(document: Document, index: smart_rag.SmartIndex) -> bool:
    path = document.metadata.get(IMAGE_PATH)
    return path is None or (isinstance(path, str) and index.may_read(path_of(path)))


def _to_langchain(found: smart_rag.Document | smart_rag.Hit, index: smart_rag.SmartIndex) -> Document:
    metadata = dict(found.metadata)
    if isinstance(found, smart_rag.Hit) and found.duplicates:
        metadata[DUPLICATES] = list(found.duplicates)
    if index.has_image(found):
        try:
            metadata[IMAGE_PATH] = str(index.image_file(found))
        except DocumentError as error:
            logger.warning("%r is returned without its image: %s", found.id, error)
    return Document(id=found.id, page_content=found.text, metadata=metadata)


def one_line(text: str) -> str:
    """Return ``text`` with blanks instead of line breaks, as ``HuggingFaceEmbeddings`` embeds it."""
    return text.replace("\n", " ")


def ranked_document(id: str, document: Document) -> smart_rag.Document:
    """Return the part of ``document`` that `SmartReranker` scores: its text, and the image file in its metadata."""
    image = document.metadata.get(IMAGE_PATH)
    return smart_rag.Document(
        id, one_line(document.page_content), image=path_of(image) if isinstance(image, str) else None
    )


def path_of(uri: str | Path) -> Path:
    """Return ``uri``, a path or a ``file:`` URL, as a path."""
    url = urlparse(str(uri))
    return Path(url2pathname(url.path) if url.scheme == "file" else uri)


def query_of(query: str, image: str | Path | None) -> str | Content:
    """Return a query for smart_rag: a text, an image, or both."""
    return query if image is None else Content(query, path_of(image))


def with_score(document: Document, score: float) -> Document:
    """Return a copy of ``document`` with ``score`` under ``relevance_score`` in its metadata."""
    return document.model_copy(update={"metadata": {**document.metadata, RELEVANCE_SCORE: score}})

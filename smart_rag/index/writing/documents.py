"""Documents that a caller brings: texts become documents, and documents are checked before anything is written."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from smart_rag.errors import InvalidInput
from smart_rag.store.row import plain_metadata
from smart_rag.types import Document
from smart_rag.values import is_unicode, plain_dict


def checked_documents(documents: Sequence[Document], modalities: Collection[str] = ("text",)) -> list[Document]:
    """Return ``documents`` with plain metadata (`plain_metadata`).

    Raises:
        InvalidInput: a document cannot be stored or encoded, or two documents have the same id.
    """
    checked = []
    for document in documents:
        if not isinstance(document, Document):
            raise InvalidInput(f"expected a Document, got {type(document).__name__}; add_texts takes texts")
        if not isinstance(document.id, str) or not document.id:
            raise InvalidInput(f"a document's id must be a str that is not empty, got {document.id!r}")
        if not isinstance(document.text, str):
            raise InvalidInput(f"document {document.id!r}: text must be a str, got {type(document.text).__name__}")
        if not document.content(modalities).modality:
            held = " and ".join(name for name in ("image", "video") if getattr(document, name) is not None)
            raise InvalidInput(
                f"document {document.id!r} has no text"
                + (f"; its {held} needs a model that takes it, this one takes {', '.join(modalities)}" if held else "")
            )
        if not is_unicode(document.id) or not is_unicode(document.text):
            raise InvalidInput(f"document {document.id!r}: id and text must be Unicode without lone surrogates")
        checked.append(replace(document, metadata=plain_metadata(document)))
    twice = [name for name, times in Counter(document.id for document in documents).items() if times > 1]
    if twice:
        raise InvalidInput(f"{len(twice)} ids come more than once in one call, the first is {twice[0]!r}")
    return checked


def documents_of_texts(
    texts: Sequence[str], ids: Sequence[str] | None, metadatas: Sequence[Mapping[str, Any]] | None
) -> list[Document]:
    """Return ``texts`` as documents. Without ``ids``, an id is a hash of the text and its metadata."""
    if isinstance(texts, str):
        raise InvalidInput("texts must be a sequence of str, got one str")
    metadatas = metadatas if metadatas is not None else [{}] * len(texts)
    if len(metadatas) != len(texts) or (ids is not None and len(ids) != len(texts)):
        raise InvalidInput(
            f"{len(texts)} texts need as many ids and metadatas, got "
            f"{len(texts) if ids is None else len(ids)} and {len(metadatas)}"
        )
    for i, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise InvalidInput(f"text {i} must be a str that is not empty, got {text!r}")
    plain = [plain_dict(metadata, f"the metadata of text {i}") for i, metadata in enumerate(metadatas)]
    names = ids if ids is not None else list(map(_content_id, texts, plain))
    return list(map(Document, names, texts, plain))


def _content_id(text: str, metadata: Mapping[str, Any]) -> str:
    content = json.dumps([text, metadata], sort_keys=True)
    return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

"""`stored_documents`: the documents of one of LangChain's stores, read in pages."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any

from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

from smart_rag.errors import InvalidInput

# Number of documents of the store that are in memory at once.
_PAGE = 256


def stored_documents(store: Any) -> tuple[Iterator[Document], int | None]:
    """Return the documents of ``store``, and their number if it is known.

    Raises:
        InvalidInput: LangChain has no way to list the documents of ``store``.
    """
    if isinstance(store, InMemoryVectorStore):
        return _of_memory(store), len(store.store)
    get = _get_of(store)
    if get is not None:
        count = getattr(getattr(store, "_collection", store), "count", None)
        return _of_chroma(get), None if count is None else count()
    if isinstance(store, Iterable) and not isinstance(store, VectorStore | str):
        return _checked(store), len(store) if isinstance(store, Sized) else None
    raise InvalidInput(
        f"the documents of a {type(store).__name__} cannot be listed; expected a Chroma store, a collection of Chroma, "
        "an InMemoryVectorStore, or documents, such as store.get_by_ids(ids)"
    )


def stored_vector(store: Any) -> tuple[Document, Sequence[float]] | None:
    """Return the first document of a Chroma store and its vector. Return None if it is empty or of another kind."""
    get = None if isinstance(store, InMemoryVectorStore) else _get_of(store)
    page = {} if get is None else get(limit=1, offset=0, include=["documents", "metadatas", "embeddings"])
    if not page.get("ids") or page["embeddings"] is None:
        return None
    (id,), (text,), (metadata,), (vector,) = (page[key] for key in ("ids", "documents", "metadatas", "embeddings"))
    return Document(text or "", id=id, metadata=metadata or {}), vector


def _get_of(store: Any) -> Callable[..., Any] | None:
    """Return the method ``get`` of a Chroma store or of a collection of Chroma."""
    get: Callable[..., Any] | None = getattr(store, "get", None)
    is_chromas = callable(get) and {"limit", "offset", "include"} <= inspect.signature(get).parameters.keys()
    return get if is_chromas else None


def _of_memory(store: InMemoryVectorStore) -> Iterator[Document]:
    for entry in list(store.store.values()):
        yield Document(entry["text"], id=entry["id"], metadata=entry["metadata"])


def _of_chroma(get: Callable[..., Any]) -> Iterator[Document]:
    offset = 0
    while ids := (page := get(limit=_PAGE, offset=offset, include=["documents", "metadatas"]))["ids"]:
        for id, text, metadata in zip(ids, page["documents"], page["metadatas"], strict=True):
            yield Document(text or "", id=id, metadata=metadata or {})
        offset += len(ids)


def _checked(documents: Iterable[Any]) -> Iterator[Document]:
    for document in documents:
        if not isinstance(document, Document):
            raise InvalidInput(f"expected documents of LangChain, got a {type(document).__name__}")
        yield document

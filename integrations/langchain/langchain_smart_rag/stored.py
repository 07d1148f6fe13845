"""`stored_documents`: the documents of a store of LangChain's, read in pages."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

from smart_rag.errors import InvalidInput

# Documents of the store that are in memory at once.
_PAGE = 256


def stored_documents(store: Any) -> tuple[Iterator[Document], int | None]:
    """Return the documents of ``store``, and their number if it is known.

    Raises:
        InvalidInput: LangChain has no way to list the documents of ``store``.
    """
    if isinstance(store, InMemoryVectorStore):
        return _of_memory(store), len(store.store)
    get = getattr(store, "get", None)
    if get is not None and {"limit", "offset", "include"} <= inspect.signature(get).parameters.keys():
        count = getattr(getattr(store, "_collection", store), "count", None)
        return _of_chroma(get), None if count is None else count()
    if isinstance(store, Iterable) and not isinstance(store, VectorStore | str):
        return _checked(store), len(store) if isinstance(store, Sized) else None
    raise InvalidInput(
        f"the documents of a {type(store).__name__} cannot be listed; expected a Chroma store, a collection of Chroma, "
        "an InMemoryVectorStore, or documents, such as store.get_by_ids(ids)"
    )


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

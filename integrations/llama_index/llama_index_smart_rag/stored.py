"""`stored_nodes`: the nodes of one of LlamaIndex's indexes or stores, read in pages."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Sized
from typing import Any

from llama_index.core.indices import VectorStoreIndex
from llama_index.core.schema import BaseNode, TextNode
from llama_index.core.storage.docstore import BaseDocumentStore
from llama_index.core.vector_stores.utils import legacy_metadata_dict_to_node, metadata_dict_to_node

from llama_index_smart_rag.nodes import ranked_document
from smart_rag import Document
from smart_rag.errors import InvalidInput

logger = logging.getLogger(__name__)

# Number of nodes of the store that are in memory at once.
_PAGE = 256
# Arguments of ``get`` for the first entry of a collection.
_FIRST = {"limit": 1, "offset": 0, "include": ["documents", "metadatas", "embeddings"]}


def stored_nodes(store: Any) -> tuple[Iterator[BaseNode], int | None]:
    """Return the nodes of ``store``, and their number if it is known.

    Raises:
        InvalidInput: LlamaIndex has no way to list the nodes of ``store`` in pages.
    """
    vectors = store.vector_store if isinstance(store, VectorStoreIndex) else store
    collection = _collection_of(vectors)
    if collection is not None:
        return _of_chroma(collection.get), collection.count()
    if isinstance(store, VectorStoreIndex) and store.index_struct.nodes_dict:
        ids = list(dict.fromkeys(store.index_struct.nodes_dict.values()))
        return _of_docstore(store.docstore, ids), len(ids)
    if isinstance(store, Iterable) and not isinstance(store, str) and not hasattr(store, "stores_text"):
        return _checked(store), len(store) if isinstance(store, Sized) else None
    raise InvalidInput(
        f"the nodes of a {type(vectors).__name__} cannot be listed in pages; expected a VectorStoreIndex with its "
        "docstore, a ChromaVectorStore, a collection of Chroma, or nodes, such as store.get_nodes()"
    )


def to_rank(node: BaseNode, modalities: Collection[str]) -> Document:
    """Return the document that `SmartRerank` scores for ``node``. It is empty if nothing in it can be encoded."""
    try:
        return ranked_document(node.node_id, node, modalities)
    except InvalidInput as error:
        logger.info("%s", error)
        return Document(node.node_id)


def stored_vector(store: Any) -> tuple[BaseNode, Sequence[float]] | None:
    """Return the first node of a Chroma store and its vector. Return None if it is empty or of another kind."""
    collection = _collection_of(store.vector_store if isinstance(store, VectorStoreIndex) else store)
    page = {} if collection is None else collection.get(**_FIRST)
    if not page.get("ids") or page["embeddings"] is None:
        return None
    (id,), (text,), (metadata,), (vector,) = (page[key] for key in ("ids", "documents", "metadatas", "embeddings"))
    return _node_of(id, text, metadata or {}), vector


def _collection_of(store: Any) -> Any:
    """Return ``store`` if it is a collection of Chroma. Otherwise, return its ``client`` if that is one."""
    for collection in (store, getattr(store, "client", None)):
        get = getattr(collection, "get", None)
        if callable(get) and {"limit", "offset", "include"} <= inspect.signature(get).parameters.keys():
            return collection
    return None


def _of_chroma(get: Callable[..., Any]) -> Iterator[BaseNode]:
    offset = 0
    while ids := (page := get(limit=_PAGE, offset=offset, include=["documents", "metadatas"]))["ids"]:
        for id, text, metadata in zip(ids, page["documents"], page["metadatas"], strict=True):
            yield _node_of(id, text, metadata or {})
        offset += len(ids)


def _node_of(id: str, text: str | None, metadata: dict[str, Any]) -> BaseNode:
    """Return the node of an entry. It is the node that LlamaIndex's Chroma store would return for a query."""
    try:
        return metadata_dict_to_node(metadata, text=text)
    except Exception:  # as in LlamaIndex, for entries of older versions and of other programs
        fields, _, relationships = legacy_metadata_dict_to_node(metadata)
        return TextNode(id_=id, text=text or "", metadata=fields, relationships=relationships)


def _of_docstore(docstore: BaseDocumentStore, ids: Sequence[str]) -> Iterator[BaseNode]:
    for start in range(0, len(ids), _PAGE):
        yield from docstore.get_nodes(list(ids[start : start + _PAGE]), raise_error=False)


def _checked(nodes: Iterable[Any]) -> Iterator[BaseNode]:
    for node in nodes:
        if not isinstance(node, BaseNode):
            raise InvalidInput(f"expected nodes of LlamaIndex, got a {type(node).__name__}")
        yield node

"""`SmartVectorStore`: a `SmartIndex` as LlamaIndex's vector store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.schema import BaseComponent, BaseNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)

from llama_index_smart_rag.embedding import SmartEmbedding
from llama_index_smart_rag.nodes import REF_DOC_ID, document_of, image_of, node_of, where_of
from smart_rag import CachedEncoder, Hit, Representation, SmartIndex
from smart_rag.config import DEFAULT_CANDIDATES, DEFAULT_MODEL, FirstStageName
from smart_rag.errors import InvalidInput
from smart_rag.index.manifest import FILE_NAME
from smart_rag.types import Content

# As many hits as this for each one wanted are what MMR chooses from; LlamaIndex's Chroma store has the same.
_MMR_PREFETCH = 4.0
_MMR_LAMBDA = 0.5


class SmartVectorStore(BasePydanticVectorStore):
    """A vector store that ranks by pooled cosine and late interaction.

    >>> store = SmartVectorStore("my.index")                                # doctest: +SKIP
    >>> index = VectorStoreIndex.from_documents(                            # doctest: +SKIP
    ...     documents, storage_context=StorageContext.from_defaults(vector_store=store), embed_model=store.embed_model
    ... )

    Where the model takes images, an `ImageNode` is one by its image and text, whatever embedding it comes with: the
    index that hands it over embeds its text alone. Of a base64 image the store keeps a file.

    With `embed_model`, each text is encoded once. Another embedding of the same model works
    too, at twice the cost; nodes with one of another model are refused. What a query returns has the
    scores of `SmartIndex.search`.

    Args:
        path: the folder of the index; one is made where there is none.
        model_name: for a new index; for an old one, it must be the one it was made with.
        candidates: how many nodes are scored.
        first_stage: how they are chosen, as in `SmartIndex.search`.
        weights: of the pooled and the late score; by default the index's.
    """

    stores_text: bool = True
    flat_metadata: bool = False
    path: str = Field(description="The folder of the index.")
    model_name: str | None = Field(default=None, description="Name of the embedding model.")
    candidates: int = Field(default=DEFAULT_CANDIDATES, description="How many nodes are scored.")
    first_stage: FirstStageName = Field(default="auto", description="How they are chosen.")
    weights: tuple[float, float] | None = Field(default=None, description="Of the pooled and the late score.")

    _index: SmartIndex | None = PrivateAttr(default=None)
    _encoder: CachedEncoder | None = PrivateAttr(default=None)
    _mutex: Any = PrivateAttr()

    def __init__(
        self,
        path: str | Path,
        model_name: str | None = None,
        *,
        candidates: int = DEFAULT_CANDIDATES,
        first_stage: FirstStageName = "auto",
        weights: tuple[float, float] | None = None,
        **options: Any,
    ) -> None:
        unknown = options.keys() - type(self).model_fields.keys()
        if unknown:
            raise TypeError(f"SmartVectorStore takes no {', '.join(sorted(unknown))}")
        if model_name is not None and not isinstance(model_name, str):
            raise InvalidInput(
                f"model_name must be a str, got a {type(model_name).__name__}; for an encoder that is there already, "
                "SmartVectorStore.from_index(SmartIndex.create(path, encoder))"
            )
        fields: dict[str, Any] = {
            "path": str(path),
            "model_name": model_name,
            "candidates": candidates,
            "first_stage": first_stage,
            "weights": weights,
            **options,
        }
        super().__init__(**fields)
        self._mutex = threading.RLock()

    @classmethod
    def from_index(cls, index: SmartIndex, **options: Any) -> SmartVectorStore:
        """Return the store over an index that is open already; ``options`` as of the class."""
        store = cls(index.path, **options)
        store._index = index
        return store

    @classmethod
    def class_name(cls) -> str:
        return "SmartVectorStore"

    def __getstate__(self) -> dict[str, Any]:
        # An index is files and locks: who unpickles opens it anew.
        return {**super(BaseComponent, self).__getstate__(), "__pydantic_private__": None}

    @property
    def index(self) -> SmartIndex:
        """The index, opened or made when first asked for."""
        with self._mutex:
            if self._index is None:
                self._index = (
                    SmartIndex.open(self.path, self.model_name)
                    if (Path(self.path) / FILE_NAME).is_file()
                    else SmartIndex.create(self.path, self.model_name or DEFAULT_MODEL)
                )
            return self._index

    @property
    def client(self) -> SmartIndex:
        return self.index

    @property
    def embed_model(self) -> SmartEmbedding:
        """The embedding to go with this store: what it encodes is at hand when `add` needs it."""
        return SmartEmbedding.from_encoder(self._shared_encoder)

    @property
    def _shared_encoder(self) -> CachedEncoder:
        with self._mutex:
            if self._encoder is None:
                self._encoder = CachedEncoder(_IndexEncoder(self.index))
            return self._encoder

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Write ``nodes``, replacing those of the same id, and return their ids.

        Raises:
            InvalidInput: a node without text or image, or an id twice; nothing is written.
            IndexMismatch: the nodes' embeddings are of another model; nothing is written.
            DocumentError: an image cannot be read.
        """
        modalities = self.index.manifest.modalities
        documents = [document_of(node, modalities) for node in nodes]
        # LlamaIndex embeds the text of an image node, which says nothing about the model.
        embedded = [
            (document, node.embedding)
            for document, node in zip(documents, nodes, strict=True)
            if node.embedding is not None and document.content(modalities).image is None
        ]
        if embedded:
            self.index.check_embeddings([document for document, _ in embedded], [vector for _, vector in embedded])
        self.index.add(documents)
        return [document.id for document in documents]

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Remove the nodes of the document ``ref_doc_id``."""
        self._delete_where({REF_DOC_ID: ref_doc_id})

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Remove the nodes that have one of ``node_ids`` and pass ``filters``, as far as either is given."""
        if node_ids is None and filters is None:
            raise InvalidInput("delete_nodes needs node_ids or filters; clear() removes everything")
        self.index.delete([node.node_id for node in self.get_nodes(node_ids, filters)])

    def clear(self) -> None:
        """Remove every node."""
        self._delete_where(None)

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """Return the nodes that have one of ``node_ids`` and pass ``filters``, by default all."""
        where = where_of(filters)
        if node_ids is None:
            return [node_of(document, self.index) for document in self.index.documents(where)]
        found = self.index.get(node_ids)
        admitted = None if where is None else {document.id for document in self.index.documents(where)}
        return [node_of(document, self.index) for document in found if admitted is None or document.id in admitted]

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Return the best nodes, best first, in the modes ``default`` and ``mmr``.

        The tokens are those of ``query_str``; an embedding beside it, such as HyDE's, takes the
        place of the pooled one. Without ``query_str`` the pooled cosine alone ranks.
        ``node_ids`` is no filter here: LlamaIndex passes the ids of image nodes in it.

        Args:
            query: as LlamaIndex makes it.
            kwargs: ``image_path``, to search by an image as well; then the embedding is not looked at,
                which LlamaIndex makes of the text alone. For MMR, ``mmr_threshold`` (1 ranks by
                relevance alone) and ``mmr_prefetch_k``, from how many hits to choose.

        Raises:
            InvalidInput: another mode, a filter that Chroma does not have, or nothing to search by.
        """
        if query.mode not in (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR):
            raise InvalidInput(f"query mode {query.mode.value!r}: SmartVectorStore has the modes 'default' and 'mmr'")
        representation, weights = self._representation(query, kwargs.get("image_path"))
        where = where_of(query.filters, query.doc_ids)
        if query.mode is VectorStoreQueryMode.DEFAULT:
            hits = self._search(representation, query.similarity_top_k, where, weights)
        else:
            threshold = kwargs.get("mmr_threshold", query.mmr_threshold)
            fetch = int(kwargs.get("mmr_prefetch_k") or _MMR_PREFETCH * query.similarity_top_k)
            hits = self.index.diversify(
                self._search(representation, max(fetch, query.similarity_top_k), where, weights),
                query.similarity_top_k,
                mmr_lambda=_MMR_LAMBDA if threshold is None else threshold,
                weights=weights,
            )
        return VectorStoreQueryResult(
            nodes=[node_of(hit, self.index) for hit in hits],
            similarities=[hit.score for hit in hits],
            ids=[hit.id for hit in hits],
        )

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        return await asyncio.to_thread(self.add, nodes, **kwargs)

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        await asyncio.to_thread(self.delete, ref_doc_id, **delete_kwargs)

    async def adelete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        await asyncio.to_thread(self.delete_nodes, node_ids, filters, **delete_kwargs)

    async def aclear(self) -> None:
        await asyncio.to_thread(self.clear)

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        return await asyncio.to_thread(self.query, query, **kwargs)

    def close(self) -> None:
        """Close the index, which lets others write to it; the next use raises `smart_rag.errors.IndexClosed`."""
        self.index.close()

    def __enter__(self) -> SmartVectorStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _delete_where(self, where: Mapping[str, Any] | None) -> None:
        self.index.delete([document.id for document in self.index.documents(where)])

    def _search(
        self, query: Representation, top_k: int, where: Mapping[str, Any] | None, weights: tuple[float, float] | None
    ) -> list[Hit]:
        return self.index.search(
            query, top_k, candidates=self.candidates, first_stage=self.first_stage, where=where, weights=weights
        )

    def _representation(
        self, query: VectorStoreQuery, image_path: str | None
    ) -> tuple[Representation, tuple[float, float] | None]:
        """Return what to search by, and with which weights."""
        if image_path is not None:
            content = Content(query.query_str or "", image_of(image_path))
            return self._shared_encoder.encode_query([content]), self.weights
        given = None if query.query_embedding is None else Representation.from_embeddings([query.query_embedding])
        if not query.query_str:
            if given is None:
                raise InvalidInput("the query has neither query_str nor query_embedding")
            return given, (1.0, 0.0)
        own = self._shared_encoder.encode_query([query.query_str])
        return (own if given is None else Representation(given.pooled, own.tokens)), self.weights


class _IndexEncoder:
    """The encoder of an index; what it encodes as a document is kept for the `add` that follows."""

    def __init__(self, index: SmartIndex) -> None:
        self._index = index

    @property
    def dimension(self) -> int:
        return self._index.manifest.dimension

    @property
    def fingerprint(self) -> str:
        return self._index.manifest.fingerprint or ""

    @property
    def modalities(self) -> frozenset[str]:
        return frozenset(self._index.manifest.modalities)

    def describe(self) -> Mapping[str, Any]:
        return self._index.manifest.encoder or {}

    def encode_query(self, queries: Sequence[str | Content]) -> Representation:
        return self._index.encode_queries(queries)

    def encode_document(self, documents: Sequence[str | Content]) -> Representation:
        return self._index.encode_documents(documents)

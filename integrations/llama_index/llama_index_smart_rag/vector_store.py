"""`SmartVectorStore`: a `SmartIndex` as a vector store of LlamaIndex."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)

from llama_index_smart_rag.embedding import SmartEmbedding
from llama_index_smart_rag.nodes import REF_DOC_ID, allow_files, document_of, image_of, node_of, nodes_of, where_of
from llama_index_smart_rag.pickling import Lock, Pickled
from smart_rag import CachedEncoder, Document, Hit, Representation, SmartIndex
from smart_rag.config import DEFAULT_CANDIDATES, Count, FirstStageName, Weights, check_count, check_weights, nearest
from smart_rag.errors import InvalidInput
from smart_rag.paths import absolute, model_location
from smart_rag.threads import in_reader_thread, in_writer_thread
from smart_rag.types import Content

_OF_SEARCH = ("where_document", "per_source", "source_key", "fold_duplicates")
_OF_QUERY = (*_OF_SEARCH, "image_path", "mmr_threshold", "mmr_prefetch_k", "mmr_prefetch_factor")
# For each hit that MMR returns, it chooses from this many hits by default, as in LlamaIndex's Chroma store.
_MMR_PREFETCH = 4.0
_MMR_LAMBDA = 0.5


class SmartVectorStore(Pickled, BasePydanticVectorStore):
    """A vector store that ranks by pooled cosine plus late interaction.

    >>> store = SmartVectorStore("my.index")                                # doctest: +SKIP
    >>> index = VectorStoreIndex.from_documents(                            # doctest: +SKIP
    ...     documents, storage_context=StorageContext.from_defaults(vector_store=store), embed_model=store.embed_model
    ... )

    A node that is already in the store is replaced. Nodes that a query finds have the scores of `SmartIndex.search`.

    With `embed_model`, each text is encoded once. You can also use another embedding object with the same model, but
    then each text is encoded twice. Nodes with an embedding from another model are refused.

    If the model reads images, an `ImageNode` is encoded by its image and text. The node's own embedding is ignored,
    because ``VectorStoreIndex`` embeds only the text. A base64 image is saved as a file in the index's folder.

    Args:
        index: an open index, or the folder of an index. If there is no index in the folder, one is made on first use.
        model_name: the model of a new index. By default, ``"minilm"``. An existing index must have been made with this
            model.
        candidates: the number of nodes to score.
        first_stage: how the candidates are chosen, as in `SmartIndex.search`. ``"exhaustive"`` scores every node.
        weights: the weights of the pooled and of the late score. By default, those of the index.
        with_relevance: use the `smart_rag.Hit.relevance`, from 0 to 1, as the similarity of a node, so that a
            ``SimilarityPostprocessor`` can use it.
        sources: files and folders whose images the index may read, as in `SmartIndex.open`. Ignored if ``index`` is
            open.
        allow_urls: return the addresses on the web that nodes name, even if somebody else has made the index.
        options: arguments of LlamaIndex's base class. `to_dict` writes them. Normally, you do not pass them.

    Raises:
        TypeError: an argument is unknown.
        InvalidInput: ``model_name`` is not a str or a path.
    """

    stores_text: bool = True
    flat_metadata: bool = False
    path: str = Field(description="Folder of the index.")
    model_name: str | None = Field(default=None, description="Name of the embedding model.")
    candidates: int = Field(default=DEFAULT_CANDIDATES, description="Number of nodes to score.")
    first_stage: FirstStageName = Field(default="auto", description="How the candidates are chosen.")
    weights: tuple[float, float] | None = Field(default=None, description="Weights of the pooled and late score.")
    sources: list[str] = Field(default_factory=list, description="Files and folders that the index may read.")
    allow_urls: bool = Field(default=False, description="Return the addresses on the web that nodes name.")
    with_relevance: bool = Field(default=False, description="Give the relevance as the similarity of a node.")

    _index: SmartIndex | None = PrivateAttr(default=None)
    _encoder: CachedEncoder | None = PrivateAttr(default=None)
    _mutex: Lock = PrivateAttr(default_factory=Lock)

    def __init__(
        self,
        index: SmartIndex | str | Path,
        model_name: str | Path | None = None,
        *,
        candidates: Count = DEFAULT_CANDIDATES,
        first_stage: FirstStageName = "auto",
        weights: Weights | None = None,
        with_relevance: bool = False,
        sources: Iterable[str | Path] = (),
        allow_urls: bool = False,
        **options: Any,
    ) -> None:
        unknown = options.keys() - type(self).model_fields.keys() | options.keys() & {"path"}
        if unknown:
            raise TypeError(f"SmartVectorStore has no argument {', '.join(sorted(unknown))}")
        if model_name is not None and not isinstance(model_name, str | Path):
            raise InvalidInput(
                f"model_name must be a str or a path, got {type(model_name).__name__}; to use an encoder of your own, "
                "pass an open index: SmartVectorStore(SmartIndex.create(path, encoder))"
            )
        fields: dict[str, Any] = {
            "path": str(index.path if isinstance(index, SmartIndex) else absolute(index)),
            "model_name": None if model_name is None else model_location(model_name),
            "candidates": check_count("candidates", candidates),
            "first_stage": first_stage,
            "weights": None if weights is None else check_weights(weights),
            "with_relevance": with_relevance,
            "sources": [str(absolute(source)) for source in sources],
            "allow_urls": allow_urls,
            **options,
        }
        super().__init__(**fields)
        self._index = index if isinstance(index, SmartIndex) else None

    @classmethod
    def class_name(cls) -> str:
        return "SmartVectorStore"

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Return a description from which `from_dict` makes the same store. It has the path of the index's folder."""
        described = super().to_dict(**kwargs)
        return {"index": described.pop("path"), **described}

    @property
    def index(self) -> SmartIndex:
        """The open index. It is opened or made on first use."""
        with self._mutex:
            if self._index is None:
                self._index = SmartIndex.open_or_create(self.path, self.model_name, sources=self.sources)
            return self._index

    @property
    def client(self) -> SmartIndex:
        return self.index

    @property
    def embed_model(self) -> SmartEmbedding:
        """The embedding for this store. `add` uses the token embeddings that this object has computed."""
        return SmartEmbedding(encoder=self._shared_encoder)

    @property
    def _shared_encoder(self) -> CachedEncoder:
        with self._mutex:
            if self._encoder is None:
                self._encoder = CachedEncoder(_IndexEncoder(self.index))
            return self._encoder

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Write ``nodes`` and return their ids. Nodes that already have one of these ids are replaced.

        Raises:
            InvalidInput: a node has neither text nor image, or two nodes have the same id. Nothing is written.
            IndexMismatch: the nodes' embeddings come from another model. Nothing is written.
            DocumentError: an image cannot be read.
        """
        documents = self._documents_of(nodes)
        self.index.add(documents)
        allow_files(nodes, self.index)
        return [document.id for document in documents]

    def _documents_of(self, nodes: Sequence[BaseNode]) -> list[Document]:
        """Check the embeddings of ``nodes``, and return the nodes as documents."""
        modalities = self.index.modalities
        documents = [document_of(node, modalities) for node in nodes]
        # LlamaIndex embeds only the text of an image node. So this embedding cannot show which model was used.
        embedded = [
            (document, node.embedding)
            for document, node in zip(documents, nodes, strict=True)
            if node.embedding is not None and document.content(modalities).image is None
        ]
        if embedded:
            self.index.check_embeddings([document for document, _ in embedded], [vector for _, vector in embedded])
        return documents

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Remove the nodes of the document ``ref_doc_id``."""
        nodes = [node_of(document, self.index) for document in self.index.documents({REF_DOC_ID: ref_doc_id})]
        # Older versions stored the text "None" for a node without a source.
        self.index.delete([node.node_id for node in nodes if node.ref_doc_id == ref_doc_id])

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Remove the nodes that have one of ``node_ids`` and match ``filters``. At least one argument is needed.

        Raises:
            InvalidInput: both arguments are missing, or ``filters`` is empty. In both cases, every node would match.
        """
        if node_ids is None and where_of(filters) is None:
            given = "neither" if filters is None else "filters that every node passes"
            raise InvalidInput(f"delete_nodes needs node_ids or filters, got {given}; clear() removes everything")
        self.index.delete([node.node_id for node in self.get_nodes(node_ids, filters)])

    def clear(self) -> None:
        """Remove every node."""
        self.index.delete([document.id for document in self.index.documents()])

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """Return the nodes that have one of ``node_ids`` and match ``filters``. Without arguments, return all nodes."""
        where = where_of(filters)
        if node_ids is None:
            return nodes_of(self.index.documents(where), self.index, allow_urls=self.allow_urls)
        found = self.index.get(node_ids)
        admitted = None if where is None else {document.id for document in self.index.documents(where)}
        found = [document for document in found if admitted is None or document.id in admitted]
        return nodes_of(found, self.index, allow_urls=self.allow_urls)

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Return the best nodes, best first, in the modes ``default`` and ``mmr``.

        Token embeddings are made from ``query_str``. If the query has an embedding, for example from HyDE, this
        embedding replaces the pooled embedding. Without ``query_str``, only the pooled cosine counts. ``node_ids`` is
        not a filter, because LlamaIndex passes the ids of image nodes in it.

        Args:
            query: a query of LlamaIndex.
            kwargs: ``where_document`` is a filter on texts, such as ``{"$contains": "pump"}``. See `SmartIndex.search`.
                ``per_source`` says how many nodes a source may have. The source of a node is the document that it was
                cut from, unless ``source_key`` names another metadata key. With ``fold_duplicates``, nodes that say
                nearly the same are returned only once, and ``duplicates`` in the metadata are the ids of the others.
                ``image_path`` adds an image to the query. Then the query's embedding is ignored, because LlamaIndex
                embeds only the text. The mode ``mmr`` has more arguments. With ``mmr_threshold`` 1, only relevance
                counts. ``mmr_prefetch_k`` is the number of hits from which ``mmr`` chooses. ``mmr_prefetch_factor``
                gives this number as a multiple of the hits to return.

        Raises:
            TypeError: an argument is unknown, such as a filter with a misspelt name.
            InvalidInput: smart_rag does not have the mode or a filter, or the query has no text, no embedding and no
                image.
        """
        for name in kwargs.keys() - set(_OF_QUERY):
            raise TypeError(f"SmartVectorStore.query has no argument {name!r}; {nearest(name, _OF_QUERY)}")
        if query.mode not in (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR):
            raise InvalidInput(f"query mode {query.mode.value!r}: SmartVectorStore has the modes 'default' and 'mmr'")
        if self.with_relevance and kwargs.get("image_path") is not None:
            raise InvalidInput("a query with an image has scores, but no relevance; leave out with_relevance=True")
        representation, weights = self._representation(query, kwargs.get("image_path"))
        search = {
            "where": where_of(query.filters, query.doc_ids),
            "weights": weights,
            "source_key": REF_DOC_ID,
            **{name: kwargs[name] for name in _OF_SEARCH if name in kwargs},
        }
        if query.mode is VectorStoreQueryMode.DEFAULT:
            hits = self._search(representation, query.similarity_top_k, **search)
        else:
            threshold = kwargs.get("mmr_threshold", query.mmr_threshold)
            factor = kwargs.get("mmr_prefetch_factor") or _MMR_PREFETCH
            fetch = int(kwargs.get("mmr_prefetch_k") or factor * query.similarity_top_k)
            hits = self.index.diversify(
                self._search(representation, max(fetch, query.similarity_top_k), **search),
                query.similarity_top_k,
                mmr_lambda=_MMR_LAMBDA if threshold is None else threshold,
                weights=weights,
            )
        scores = [hit.score for hit in hits]
        if self.with_relevance:
            scores = [hit.relevance for hit in hits if hit.relevance is not None]
        return VectorStoreQueryResult(
            nodes=nodes_of(hits, self.index, allow_urls=self.allow_urls),
            similarities=scores,
            ids=[hit.id for hit in hits],
        )

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        documents = await in_writer_thread(self._documents_of, nodes)
        await self.index.aadd(documents)
        allow_files(nodes, self.index)
        return [document.id for document in documents]

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        await in_writer_thread(self.delete, ref_doc_id, **delete_kwargs)

    async def adelete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        await in_writer_thread(self.delete_nodes, node_ids, filters, **delete_kwargs)

    async def aclear(self) -> None:
        await in_writer_thread(self.clear)

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        return await in_reader_thread(self.get_nodes, node_ids, filters)

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        return await in_reader_thread(self.query, query, **kwargs)

    def close(self) -> None:
        """Close the index, so that other programs can write to it. Later calls raise `smart_rag.errors.IndexClosed`."""
        self.index.close()

    def __enter__(self) -> SmartVectorStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _search(self, query: Representation, top_k: int, **options: Any) -> list[Hit]:
        return self.index.search(query, top_k, candidates=self.candidates, first_stage=self.first_stage, **options)

    def _representation(
        self, query: VectorStoreQuery, image_path: str | None
    ) -> tuple[Representation, tuple[float, float] | None]:
        """Return the representation of ``query``, and the weights for it."""
        if image_path is not None:
            content = Content(query.query_str or "", image_of(image_path))
            return self._shared_encoder.encode_query([content]), self.weights
        given = None if query.query_embedding is None else Representation.from_embeddings([query.query_embedding])
        if not query.query_str:
            if given is None:
                raise InvalidInput("the query has neither query_str nor query_embedding; give one of them")
            return given, (1.0, 0.0)
        own = self._shared_encoder.encode_query([query.query_str])
        return (own if given is None else Representation(given.pooled, own.tokens)), self.weights


class _IndexEncoder:
    """The encoder of an index. Its embeddings of documents are kept for the next call of `add`."""

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
        return self._index.modalities

    def describe(self) -> Mapping[str, Any]:
        return self._index.manifest.encoder or {}

    def encode_query(self, queries: Sequence[str | Content]) -> Representation:
        return self._index.encode_queries(queries)

    def encode_document(self, documents: Sequence[str | Content]) -> Representation:
        return self._index.encode_documents(documents, reuse_stored=True)

"""`SmartReranker`: documents of any retriever, ranked again by pooled cosine plus late interaction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun, Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever, RetrieverLike
from pydantic import ConfigDict, Field

import smart_rag
from langchain_smart_rag.documents import IMAGE_PATH, path_of, with_relevance
from langchain_smart_rag.embeddings import SmartEmbeddings
from smart_rag.config import DEFAULT_MODEL, DEFAULT_WEIGHTS
from smart_rag.errors import InvalidInput


class SmartReranker(BaseDocumentCompressor):
    """A document compressor that keeps the ``top_n`` best documents, best first.

    >>> embeddings = SmartEmbeddings("minilm", token_store="tokens")            # doctest: +SKIP
    >>> store = Chroma(embedding_function=embeddings)                           # doctest: +SKIP
    >>> retriever = SmartReranker(embeddings).wrap(store.as_retriever(search_kwargs={"k": 50}))  # doctest: +SKIP

    Documents are returned as copies with their score under ``relevance_score`` in the metadata.
    With a token store, a document is encoded once and not at every query; share the embeddings
    with the vector store, and that once is when it is added.

    Args:
        embeddings: those whose token embeddings are compared.
        model_name, token_store: of new `SmartEmbeddings`, if none are given.
        top_n: how many documents to keep; None keeps all.
        weights: of the pooled and the late score.

    Raises:
        InvalidInput: ``embeddings`` along with ``model_name`` or ``token_store``.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    embeddings: SmartEmbeddings
    top_n: int | None = Field(default=5, gt=0)
    weights: tuple[float, float] = DEFAULT_WEIGHTS

    def __init__(
        self,
        embeddings: SmartEmbeddings | None = None,
        *,
        model_name: str = DEFAULT_MODEL,
        token_store: str | Path | None = None,
        **fields: Any,
    ) -> None:
        if embeddings is None:
            embeddings = SmartEmbeddings(model_name, token_store)
        elif model_name != DEFAULT_MODEL or token_store is not None:
            raise InvalidInput("embeddings have their model and token store; give either them or model_name")
        super().__init__(**{"embeddings": embeddings, **fields})

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return copies of the ``top_n`` best of ``documents`` for ``query``, best first.

        Where the model takes images, the file under ``image_path`` in the metadata belongs to a document.

        Raises:
            InvalidInput: an empty query, or a document without text.
        """
        # By position: the documents' own ids may be missing or come twice.
        width = len(str(len(documents)))
        given = [
            smart_rag.Document(f"{i:0{width}}", document.page_content, image=_image(document))
            for i, document in enumerate(documents)
        ]
        hits = smart_rag.rerank(query, given, self.embeddings.encoder, self.top_n, weights=self.weights)
        return [with_relevance(documents[int(hit.id)], hit.score) for hit in hits]

    def wrap(self, retriever: RetrieverLike) -> RerankingRetriever:
        """Return a retriever that asks ``retriever`` for documents and ranks them again."""
        return RerankingRetriever(base_retriever=retriever, reranker=self)


def _image(document: Document) -> Path | None:
    path = document.metadata.get(IMAGE_PATH)
    return path_of(path) if isinstance(path, str) else None


class RerankingRetriever(BaseRetriever):
    """What `SmartReranker.wrap` returns; arguments of ``invoke`` go to the ``base_retriever``.

    >>> retriever = RerankingRetriever(base_retriever=bm25, reranker=SmartReranker())   # doctest: +SKIP
    >>> retriever.invoke("Which animal barks?")                                         # doctest: +SKIP
    [Document(metadata={'relevance_score': 1.21}, page_content='Dogs bark at night.')]
    """

    base_retriever: RetrieverLike
    reranker: SmartReranker

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **options: Any
    ) -> list[Document]:
        found = self.base_retriever.invoke(query, config={"callbacks": run_manager.get_child()}, **options)
        return self.reranker.compress_documents(found, query, callbacks=run_manager.get_child())

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **options: Any
    ) -> list[Document]:
        found = await self.base_retriever.ainvoke(query, config={"callbacks": run_manager.get_child()}, **options)
        return list(await self.reranker.acompress_documents(found, query, callbacks=run_manager.get_child()))

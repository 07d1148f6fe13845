"""`SmartReranker`: documents from any retriever, ranked by pooled cosine plus late interaction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun, Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever, RetrieverLike
from pydantic import ConfigDict, Field, PrivateAttr

import smart_rag
from langchain_smart_rag.documents import one_line, ranked_document, with_score
from langchain_smart_rag.embeddings import SmartEmbeddings
from smart_rag.config import DEFAULT_MODEL, Count, Number, Weights, check_fraction
from smart_rag.errors import InvalidInput
from smart_rag.threads import in_reader_thread


class SmartReranker(BaseDocumentCompressor):
    """A document compressor that keeps the ``top_n`` best documents of any retriever, best first.

    >>> embeddings = SmartEmbeddings("minilm", token_store="tokens")            # doctest: +SKIP
    >>> store = Chroma(embedding_function=embeddings)                           # doctest: +SKIP
    >>> retriever = SmartReranker(embeddings).wrap(store.as_retriever(search_kwargs={"k": 50}))  # doctest: +SKIP

    It returns copies. Their metadata has the score of `smart_rag.rerank` under ``relevance_score``. With a token store,
    each document is encoded once. If the vector store uses the same `SmartEmbeddings` object, a document is encoded
    when you add it to the store. `SmartEmbeddings.backfill` encodes the documents that the vector store already holds.

    Args:
        embeddings: the application's `SmartEmbeddings`. The reranker uses its model and token store. LangChain's
            ``EmbeddingsFilter`` has an argument of the same name.
        model_name, token_store: if there are no ``embeddings``, new `SmartEmbeddings` are made with these arguments.
        top_n: the number of documents to keep. None keeps all. LangChain's own rerankers use the same name.
        weights: the weights of the pooled and of the late score. By default, the default weights of the model.
        min_relevance: leave out documents whose `smart_rag.Hit.relevance` is lower than this number from 0 to 1. This
            needs one earlier call of ``embeddings.backfill(store, calibrate=True)``.

    Raises:
        InvalidInput: ``embeddings`` is given together with ``model_name`` or ``token_store``.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    embeddings: SmartEmbeddings
    top_n: int | None = Field(default=5, gt=0)
    weights: tuple[float, float] | None = None
    min_relevance: float | None = Field(default=None, ge=0, le=1)

    def __init__(
        self,
        embeddings: SmartEmbeddings | None = None,
        *,
        model_name: str | Path = DEFAULT_MODEL,
        token_store: str | Path | None = None,
        top_n: Count | None = 5,
        weights: Weights | None = None,
        min_relevance: Number | None = None,
    ) -> None:
        if embeddings is None:
            embeddings = SmartEmbeddings(model_name, token_store)
        elif model_name != DEFAULT_MODEL or token_store is not None:
            raise InvalidInput("embeddings= has its model and token store; leave out model_name and token_store")
        fields: dict[str, Any] = {"embeddings": embeddings, "top_n": top_n, "weights": weights}
        fields["min_relevance"] = None if min_relevance is None else check_fraction("min_relevance", min_relevance)
        super().__init__(**fields)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return copies of the ``top_n`` best of ``documents`` for ``query``, best first.

        If the model reads images, it also reads the image file that a document's metadata has under ``image_path``.

        Raises:
            InvalidInput: the query is empty. Or ``min_relevance`` is set, but the token store was not calibrated.
            DocumentError: the file of an image does not exist or cannot be read.
        """
        # The ids are positions, because the documents' own ids may be missing or not unique.
        width = len(str(len(documents)))
        given = [ranked_document(f"{i:0{width}}", document) for i, document in enumerate(documents)]
        hits = smart_rag.rerank(
            one_line(query),
            given,
            self.embeddings.encoder,
            self.top_n,
            weights=self.weights,
            min_relevance=self.min_relevance,
        )
        return [with_score(documents[int(hit.id)], hit.score) for hit in hits]

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        return await in_reader_thread(self.compress_documents, documents, query, callbacks)

    def wrap(self, retriever: RetrieverLike) -> RerankingRetriever:
        """Return a retriever that reranks the documents of ``retriever``."""
        return RerankingRetriever(base_retriever=retriever, reranker=self)


class RerankingRetriever(BaseRetriever):
    """A retriever that reranks the documents of another retriever. `SmartReranker.wrap` returns it.

    >>> retriever = RerankingRetriever(base_retriever=bm25, reranker=SmartReranker())   # doctest: +SKIP
    >>> retriever.invoke("Which animal barks?")                                         # doctest: +SKIP
    [Document(metadata={'relevance_score': 1.21}, page_content='Dogs bark at night.')]

    If the other retriever searches a Chroma store, the first call checks the store: it compares one vector of the store
    with the vector that the reranker's model makes of the same text. If another model made the stored vector, a warning
    is logged.

    Args:
        base_retriever: any retriever. It gets the arguments of ``invoke``.
        reranker: ranks the documents that the retriever finds.
    """

    base_retriever: RetrieverLike
    reranker: SmartReranker

    _is_checked: bool = PrivateAttr(default=False)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **options: Any
    ) -> list[Document]:
        found = self.base_retriever.invoke(query, config={"callbacks": run_manager.get_child()}, **options)
        self._check_store()
        return self.reranker.compress_documents(found, query, callbacks=run_manager.get_child())

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **options: Any
    ) -> list[Document]:
        found = await self.base_retriever.ainvoke(query, config={"callbacks": run_manager.get_child()}, **options)
        await in_reader_thread(self._check_store)
        return list(await self.reranker.acompress_documents(found, query, callbacks=run_manager.get_child()))

    def _check_store(self) -> None:
        """Once, compare a vector of the store with the one that the reranker's model makes of the same text."""
        store = getattr(self.base_retriever, "vectorstore", None)
        if not self._is_checked and store is not None:
            self._is_checked = True
            self.reranker.embeddings.warn_of_another_model(store)

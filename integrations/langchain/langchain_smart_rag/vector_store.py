"""`SmartVectorStore`: a `SmartIndex` as a vector store of LangChain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

import smart_rag
from langchain_smart_rag.documents import allow_images, path_of, query_of, to_langchain, to_smart_rag, with_text
from langchain_smart_rag.embeddings import PLAIN, SmartEmbeddings, encoder_of
from smart_rag import Hit, Representation, SmartIndex
from smart_rag.config import DEFAULT_CANDIDATES, Count, FirstStageName, Weights, check_count, check_weights
from smart_rag.errors import IndexMismatch, InvalidInput
from smart_rag.threads import in_reader_thread, in_writer_thread
from smart_rag.types import Content

# Weights for searches without token embeddings: searches by a vector, or with plain embeddings.
_POOLED = (1.0, 0.0)


class SmartVectorStore(VectorStore):
    """A vector store that ranks by pooled cosine plus late interaction.

    >>> with SmartVectorStore("my.index", SmartEmbeddings("minilm")) as store:      # doctest: +SKIP
    ...     store.add_texts(["The cat sat on the mat.", "Dogs bark at night."])
    ...     store.similarity_search("Which animal barks?", k=1, filter={"year": 2024})

    A document that is already in the store is replaced. Higher scores are better. If a document has an image,
    ``image_path`` in its metadata is the image's file.

    Searches have further arguments, which you pass by name. ``filter`` and ``where_document`` are the filters of
    `SmartIndex.search` on metadata and texts (``filter`` is LangChain's name for ``where``). ``candidates`` and
    ``first_stage`` replace the store's own values. ``per_source``, ``source_key``, ``fold_duplicates`` and
    ``min_relevance`` are those of `SmartIndex.search`, too. For example, a retriever of
    ``store.as_retriever(search_kwargs={"per_source": 1})`` finds the best passage of each file. ``image`` is an image
    file to search with. It is used together with the text, or alone if the text is empty.

    A pickle holds the arguments and the path of the index's folder. The index is opened when the pickle is read. A
    deep copy also opens the index, and shares the embeddings.

    Args:
        index: an open index, or its folder. If there is no index in the folder, one is made there.
        embedding: the embeddings of the index, or the name or the folder of their model. The default is the model of
            the index. For a new index, it is `DEFAULT_MODEL`. Embeddings of LangChain other than `SmartEmbeddings` have
            no token embeddings. With them, documents are ranked by pooled cosine, and you must pass the embeddings each
            time you open the index. LangChain's own stores use the same name for this argument.
        candidates: the number of documents to score.
        first_stage: how the candidates are chosen, as in `SmartIndex.search`. ``"exhaustive"`` scores every document.
        weights: the weights of the pooled and of the late score. By default, those of the index, or (1, 0) for
            embeddings without token embeddings.
        sources: files and folders whose images the index may read, as in `SmartIndex.open`. Ignored if ``index`` is
            open.

    Raises:
        IndexMismatch: the index was made with other embeddings.
        IndexExists: the folder is not empty and holds no index.
        InvalidInput: ``candidates`` or ``weights`` is out of range.
    """

    def __init__(
        self,
        index: SmartIndex | str | Path,
        embedding: Embeddings | str | Path | None = None,
        *,
        candidates: Count = DEFAULT_CANDIDATES,
        first_stage: FirstStageName = "auto",
        weights: Weights | None = None,
        sources: Iterable[str | Path] = (),
    ) -> None:
        self._sources = tuple(sources)
        self.candidates = check_count("candidates", candidates)
        self.first_stage = first_stage
        own_weights = None if weights is None else check_weights(weights)
        if isinstance(embedding, str | Path):
            embedding = SmartEmbeddings(embedding)
        self._owned = not isinstance(index, SmartIndex)
        if isinstance(index, SmartIndex):
            if embedding is not None:
                index.manifest.check_encoder(index.path, encoder_of(embedding))
        elif SmartIndex.exists(index):
            index = _open(index, embedding, self._sources)
        else:
            embedding = embedding or SmartEmbeddings()
            index = SmartIndex.create(index, encoder_of(embedding))
        self.index = index
        self.weights = _POOLED if own_weights is None and _is_plain(index) else own_weights
        self._embedding = embedding

    @property
    def embeddings(self) -> Embeddings | None:
        """The embeddings that the caller passed, or the embeddings of the new index that this store made."""
        return self._embedding

    # --- writing ----------------------------------------------------------------------------

    def add_documents(
        self, documents: list[Document], ids: Sequence[str | None] | None = None, **kwargs: Any
    ) -> list[str]:
        """Write ``documents``, and return the ids of the written documents, in order.

        Documents that already have one of these ids are replaced.

        A document without text, such as a blank page of a PDF, is left out, so the result can be shorter than
        ``documents``. A warning names its source, page and position.

        Args:
            documents: the documents.
            ids: an id for each document. By default, the document's own ``id``. If this is None, the document gets a
                new id.
            kwargs: ignored. LangChain's indexing passes some arguments, such as ``batch_size``.

        Raises:
            InvalidInput: two documents have the same id, or JSON cannot hold the metadata of a document. In these
                cases, nothing is written.
        """
        return self._write(_of_documents(documents, ids))

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Write ``texts`` as documents, and return the ids of the written documents; see `add_documents`."""
        return self._write(_of_texts(texts, metadatas, ids))

    def add_images(
        self, uris: list[str], metadatas: list[dict[str, Any]] | None = None, ids: Sequence[str | None] | None = None
    ) -> list[str]:
        """Write image files and return their ids. Documents with these ids are replaced. The files are not copied.

        Raises:
            InvalidInput: the model cannot read images, or there is one of the reasons that `add_documents` names. In
                these cases, nothing is written.
            DocumentError: a file cannot be read.
        """
        if isinstance(uris, str):
            raise InvalidInput("uris must be a list of str, got one str")
        paths = [path_of(uri) for uri in uris]
        documents = to_smart_rag([""] * len(paths), metadatas or [{}] * len(paths), ids or [None] * len(paths))
        self.index.add([replace(document, image=path) for document, path in zip(documents, paths, strict=True)])
        return [document.id for document in documents]

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        index: SmartIndex | str | Path | None = None,
        **options: Any,
    ) -> Self:
        """Return a store with ``texts``. ``options`` are the arguments of the constructor.

        Raises:
            InvalidInput: ``index`` is not given.
        """
        if index is None:
            raise InvalidInput("expected index=, the folder of the index or an open index; got none")
        store = cls(index, embedding, **options)
        try:
            store.add_texts(texts, metadatas, ids=ids)
        except BaseException:
            store.close()
            raise
        return store

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Remove the documents with these ids and return True. Unknown ids are ignored.

        Raises:
            InvalidInput: ``ids`` is None. This is an error so that a forgotten argument does not remove everything.
        """
        if ids is None:
            raise InvalidInput("delete needs ids; to remove all documents, pass the ids of store.index.documents()")
        self.index.delete(ids)
        return True

    def _write(self, documents: Sequence[smart_rag.Document]) -> list[str]:
        self.index.add(documents)
        allow_images(documents, self.index)
        return [document.id for document in documents]

    # The async methods run in smart_rag's threads, see `smart_rag.threads`.

    async def aadd_documents(
        self, documents: list[Document], ids: Sequence[str | None] | None = None, **kwargs: Any
    ) -> list[str]:
        """Do the same as `add_documents`. If the caller is cancelled, the batches that are already written stay."""
        return await self._awrite(_of_documents(documents, ids))

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Do the same as `add_texts`. If the caller is cancelled, the batches that are already written stay."""
        return await self._awrite(_of_texts(texts, metadatas, ids))

    async def _awrite(self, documents: Sequence[smart_rag.Document]) -> list[str]:
        await self.index.aadd(documents)
        allow_images(documents, self.index)
        return [document.id for document in documents]

    async def adelete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        return await in_writer_thread(self.delete, ids, **kwargs)

    # --- reading ----------------------------------------------------------------------------

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the documents with these ids, in this order. Unknown ids are left out."""
        return to_langchain(self.index.get(ids), self.index)

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the ``k`` best documents for ``query``, best first.

        Args:
            query: a text.
            k: the number of documents. smart_rag calls it ``top_k``.
            kwargs: ``filter``, ``where_document``, ``per_source``, ``fold_duplicates`` and others; see
                `SmartVectorStore`.

        Raises:
            InvalidInput: the query is empty, ``k`` is below 1, or a filter is not valid.
            IndexClosed: the store is closed.
        """
        return to_langchain(self._search(query, k, self.weights, **kwargs), self.index)

    def similarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> list[tuple[Document, float]]:
        """Return the documents of `similarity_search`, each with its score from `SmartIndex.search`."""
        hits = self._search(query, k, self.weights, **kwargs)
        return list(zip(to_langchain(hits, self.index), [hit.score for hit in hits], strict=True))

    def similarity_search_by_image(self, uri: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the ``k`` best documents for the image file ``uri``. See also ``image`` of `similarity_search`."""
        return self.similarity_search("", k, image=uri, **kwargs)

    def similarity_search_by_vector(self, embedding: list[float], k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the ``k`` documents whose pooled embeddings have the highest cosine with ``embedding``."""
        return to_langchain(self._search(_alone(embedding), k, _POOLED, **kwargs), self.index)

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Return ``k`` of the ``fetch_k`` best documents by maximal marginal relevance, so that they are not alike.

        Args:
            query: a text.
            k: the number of documents.
            fetch_k: the number of documents to choose from.
            lambda_mult: with 1, only relevance counts. With 0, only the difference from the other documents counts.
            kwargs: as in `similarity_search`.
        """
        return self._diverse(query, k, fetch_k, lambda_mult, self.weights, **kwargs)

    def max_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Do the same as `max_marginal_relevance_search`. The relevance is the pooled cosine with ``embedding``."""
        return self._diverse(_alone(embedding), k, fetch_k, lambda_mult, _POOLED, **kwargs)

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        return await in_reader_thread(self.get_by_ids, ids)

    async def asimilarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        return await in_reader_thread(self.similarity_search, query, k, **kwargs)

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        return await in_reader_thread(self.similarity_search_with_score, query, k, **kwargs)

    async def asimilarity_search_by_vector(self, embedding: list[float], k: int = 4, **kwargs: Any) -> list[Document]:
        return await in_reader_thread(self.similarity_search_by_vector, embedding, k, **kwargs)

    async def amax_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        return await in_reader_thread(self.max_marginal_relevance_search, query, k, fetch_k, lambda_mult, **kwargs)

    async def amax_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        search = self.max_marginal_relevance_search_by_vector
        return await in_reader_thread(search, embedding, k, fetch_k, lambda_mult, **kwargs)

    def _search(
        self,
        query: str | Representation,
        k: int,
        weights: Weights | None,
        *,
        filter: dict[str, Any] | None = None,
        image: str | Path | None = None,
        **options: Any,
    ) -> list[Hit]:
        if isinstance(query, str):
            question: str | Content | Representation = query_of(query, image)
        elif image is None:
            question = query
        else:
            raise InvalidInput("a search by a vector takes no image; search by the image, with or without a text")
        search = {"candidates": self.candidates, "first_stage": self.first_stage, "weights": weights, **options}
        return self.index.search(question, k, where=filter, **search)

    def _diverse(
        self,
        query: str | Representation,
        k: int,
        fetch_k: int,
        lambda_mult: float,
        weights: Weights | None,
        **options: Any,
    ) -> list[Document]:
        hits = self._search(query, fetch_k, weights, **options)
        diverse = self.index.diversify(hits, k, mmr_lambda=lambda_mult, weights=weights)
        return to_langchain(diverse, self.index)

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Return the documents of `similarity_search`, each with its `smart_rag.Hit.relevance`, from 0 to 1.

        LangChain calls this method for ``similarity_search_with_relevance_scores``, and for retrievers with the search
        type ``"similarity_score_threshold"``.
        """
        kwargs.pop("score_threshold", None)  # LangChain itself applies it
        hits = self._search(query, k, self.weights, **kwargs)
        relevances = [hit.relevance for hit in hits if hit.relevance is not None]
        if len(relevances) < len(hits):
            raise InvalidInput("a query with an image has scores, but no relevance; search without a threshold")
        return list(zip(to_langchain(hits, self.index), relevances, strict=True))

    async def _asimilarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        return await in_reader_thread(self._similarity_search_with_relevance_scores, query, k, **kwargs)

    # --- pickle and copy --------------------------------------------------------------------

    # An index that is opened again belongs to the new store alone, which closes it.

    def __getstate__(self) -> dict[str, Any]:
        # With the path, the new index shares the model of the new embeddings.
        shares = self._owned and isinstance(self._embedding, SmartEmbeddings)
        return {**self.__dict__, "index": self.index.path if shares else self.index, "_owned": True}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not isinstance(self.index, SmartIndex):
            self.index = _open(self.index, self._embedding, self._sources)

    def __copy__(self) -> Self:
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__, _owned=False)
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copied = self.__copy__()
        copied.index, copied._owned = deepcopy(self.index, memo), True
        return copied

    # --- closing ----------------------------------------------------------------------------

    def close(self) -> None:
        """Close the index that this store opened. An index that the caller passed stays open."""
        if self._owned:
            self.index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open(path: str | Path, embedding: Embeddings | None, sources: Iterable[str | Path]) -> SmartIndex:
    index = SmartIndex.open(path, None if embedding is None else encoder_of(embedding), sources=sources)
    if embedding is None and _is_plain(index):
        made_with = index.manifest.encoder or {}
        index.close()
        raise IndexMismatch(
            f"{path}: the index was made with {made_with[PLAIN]} ({made_with['model']!r}), which cannot be loaded from "
            "its description; pass it as embedding="
        )
    return index


def _is_plain(index: SmartIndex) -> bool:
    """Return whether ``index`` was made with embeddings that have no token embeddings."""
    return PLAIN in (index.manifest.encoder or {})


def _of_documents(documents: Sequence[Document], ids: Sequence[str | None] | None) -> list[smart_rag.Document]:
    for document in documents:
        if not isinstance(document, Document):
            raise InvalidInput(f"expected a Document, got {type(document).__name__}; add_texts takes texts")
    texts = [document.page_content for document in documents]
    names = [document.id for document in documents] if ids is None else ids
    return with_text(to_smart_rag(texts, [document.metadata for document in documents], names))


def _of_texts(
    texts: Iterable[str], metadatas: Sequence[Mapping[str, Any]] | None, ids: Sequence[str | None] | None
) -> list[smart_rag.Document]:
    if isinstance(texts, str):
        raise InvalidInput("texts must be a list of str, got one str")
    contents = list(texts)
    return with_text(to_smart_rag(contents, metadatas or [{}] * len(contents), ids or [None] * len(contents)))


def _alone(embedding: Sequence[float]) -> Representation:
    return Representation.from_embeddings(np.asarray([embedding]))

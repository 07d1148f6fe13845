"""`SmartVectorStore`: a `SmartIndex` as LangChain's vector store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from langchain_smart_rag.documents import asked, path_of, to_langchain, to_smart_rag
from langchain_smart_rag.embeddings import PLAIN, SmartEmbeddings, encoder_of
from smart_rag import Hit, Representation, SmartIndex
from smart_rag.config import DEFAULT_CANDIDATES
from smart_rag.errors import IndexMismatch, InvalidInput
from smart_rag.index.manifest import FILE_NAME, Manifest
from smart_rag.types import Content

Weights = tuple[float, float]

# A vector alone has no tokens, and plain embeddings have none either.
_POOLED: Weights = (1.0, 0.0)


class SmartVectorStore(VectorStore):
    """A vector store that ranks by pooled cosine plus late interaction.

    >>> with SmartVectorStore("my.index", SmartEmbeddings("minilm")) as store:      # doctest: +SKIP
    ...     store.add_texts(["The cat sat on the mat.", "Dogs bark at night."])
    ...     store.similarity_search("Which animal barks?", k=1, filter={"year": 2024})

    A document whose id is there already is replaced. ``filter`` and ``where_document`` of the
    searches are Chroma's filters on metadata and text; ``candidates`` and ``first_stage`` are
    those of `SmartIndex.search`, and ``image`` is a file to search by beside the text. Scores are higher
    for better documents. What has an image comes with a file of it under ``image_path`` in its metadata.

    Args:
        index: an index, or the folder of one; a folder without an index becomes one.
        embedding: the embeddings of the index, or the name of their model; by default those it
            was made with, for a new one the default model. Plain LangChain embeddings have no
            token states: documents are then ranked by pooled cosine, and the embeddings must be
            given each time.
        candidates: how many documents are scored.
        weights: of the pooled and the late score; by default the index's, for plain embeddings (1, 0).

    Raises:
        IndexMismatch: the index was made with other embeddings.
        IndexExists: the folder holds something that is not an index.
    """

    def __init__(
        self,
        index: SmartIndex | str | Path,
        embedding: Embeddings | str | None = None,
        *,
        candidates: int = DEFAULT_CANDIDATES,
        weights: Weights | None = None,
    ) -> None:
        if isinstance(embedding, str):
            embedding = SmartEmbeddings(embedding)
        self._owned = not isinstance(index, SmartIndex)
        if isinstance(index, SmartIndex):
            if embedding is not None:
                index.manifest.check_encoder(index.path, encoder_of(embedding))
        elif (Path(index) / FILE_NAME).exists():
            index = _open(Path(index), embedding)
        else:
            embedding = embedding or SmartEmbeddings()
            index = SmartIndex.create(index, encoder_of(embedding))
        self.index = index
        self.candidates = candidates
        self.weights = weights or (_POOLED if _is_plain(index.manifest) else None)
        self._embedding = embedding

    @property
    def embeddings(self) -> Embeddings | None:
        """The embeddings that were given, or that a new index was made with."""
        return self._embedding

    # --- writing ----------------------------------------------------------------------------

    def add_documents(
        self, documents: list[Document], ids: Sequence[str | None] | None = None, **kwargs: Any
    ) -> list[str]:
        """Write ``documents``, replacing those of the same id, and return their ids.

        Args:
            documents: what to write.
            ids: one for each; by default a document's own ``id``, and where that is None a new one.
            kwargs: LangChain's indexing passes some, such as ``batch_size``; not needed here.

        Raises:
            InvalidInput: an id twice, a document without text, or metadata that JSON cannot
                hold; nothing is written.
        """
        for document in documents:
            if not isinstance(document, Document):
                raise InvalidInput(f"expected a Document, got {type(document).__name__}; add_texts takes texts")
        names = [document.id for document in documents] if ids is None else ids
        return self._write(
            [document.page_content for document in documents], [document.metadata for document in documents], names
        )

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Write ``texts``, replacing those of the same id, and return their ids; see `add_documents`."""
        if isinstance(texts, str):
            raise InvalidInput("texts must be several str, got one")
        contents = list(texts)
        return self._write(contents, metadatas or [{}] * len(contents), ids or [None] * len(contents))

    def add_images(
        self, uris: list[str], metadatas: list[dict[str, Any]] | None = None, ids: Sequence[str | None] | None = None
    ) -> list[str]:
        """Write image files, replacing documents of the same id, and return their ids; the files stay where they are.

        Raises:
            InvalidInput: the model takes no images, or as `add_documents`; nothing is written.
            DocumentError: a file cannot be read.
        """
        if isinstance(uris, str):
            raise InvalidInput("uris must be several str, got one")
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
        """Return a store of ``texts`` in ``index``, which must be given; ``options`` as in the constructor."""
        if index is None:
            raise InvalidInput("say where the index shall be: index=, a folder")
        store = cls(index, embedding, **options)
        try:
            store.add_texts(texts, metadatas, ids=ids)
        except BaseException:
            store.close()
            raise
        return store

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Remove the documents with these ids; ids that are not there do no harm.

        Raises:
            InvalidInput: no ids; to empty a store by leaving something out would be too easy.
        """
        if ids is None:
            raise InvalidInput("delete needs ids; to remove all, pass those of store.index.documents()")
        self.index.delete(ids)
        return True

    def _write(
        self, texts: Sequence[str], metadatas: Sequence[Mapping[str, Any]], ids: Sequence[str | None]
    ) -> list[str]:
        documents = to_smart_rag(texts, metadatas, ids)
        self.index.add(documents)
        return [document.id for document in documents]

    # --- reading ----------------------------------------------------------------------------

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the documents with these ids, in this order; ids that are not there are left out."""
        return [to_langchain(document, self.index) for document in self.index.get(ids)]

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the ``k`` best documents for ``query``, best first.

        Args:
            query: a text.
            k: how many.
            kwargs: ``filter``, ``where_document``, ``candidates``, ``first_stage``, ``image``.

        Raises:
            InvalidInput: an empty query, ``k`` below 1, or a filter that Chroma does not take.
            IndexClosed: the store is closed.
        """
        return [to_langchain(hit, self.index) for hit in self._search(query, k, self.weights, **kwargs)]

    def similarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> list[tuple[Document, float]]:
        """Return what `similarity_search` returns, with the weighted scores of `SmartIndex.search`."""
        return [(to_langchain(hit, self.index), hit.score) for hit in self._search(query, k, self.weights, **kwargs)]

    def similarity_search_by_image(self, uri: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the ``k`` best documents for the image file ``uri``; with a text: `similarity_search`'s ``image``."""
        return self.similarity_search("", k, image=uri, **kwargs)

    def similarity_search_by_vector(self, embedding: list[float], k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the ``k`` documents of highest pooled cosine with ``embedding``, which has no tokens."""
        return [to_langchain(hit, self.index) for hit in self._search(_alone(embedding), k, _POOLED, **kwargs)]

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Return ``k`` of the ``fetch_k`` best documents by maximal marginal relevance: near the query, not alike.

        Args:
            query: a text.
            k: how many.
            fetch_k: how many to choose from.
            lambda_mult: 1 keeps the ranking, 0 looks at difference alone.
            kwargs: as in `similarity_search`.
        """
        return self._diverse(query, k, fetch_k, lambda_mult, self.weights, **kwargs)

    def max_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Return what `max_marginal_relevance_search` returns, by pooled cosine with ``embedding``."""
        return self._diverse(_alone(embedding), k, fetch_k, lambda_mult, _POOLED, **kwargs)

    def _search(
        self,
        query: str | Representation,
        k: int,
        weights: Weights | None,
        *,
        filter: dict[str, Any] | None = None,
        candidates: int | None = None,
        image: str | Path | None = None,
        **options: Any,
    ) -> list[Hit]:
        candidates = self.candidates if candidates is None else candidates
        if isinstance(query, Representation):
            if image is not None:
                raise InvalidInput(
                    "a search by a vector takes no image; search by the image itself, or by a text and it"
                )
            question: str | Content | Representation = query
        else:
            question = asked(query, image)
        return self.index.search(question, k, candidates=candidates, where=filter, weights=weights, **options)

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
        return [
            to_langchain(hit, self.index)
            for hit in self.index.diversify(hits, k, mmr_lambda=lambda_mult, weights=weights)
        ]

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        most = sum(self.weights or self.index.manifest.weights)
        # Rounding takes a cosine out of [-1, 1] by a hair, and LangChain warns of it.
        return lambda score: min(1.0, max(0.0, (score + most) / (2 * most)))

    # --- closing ----------------------------------------------------------------------------

    def close(self) -> None:
        """Close the index, unless it was handed in open: then that is its owner's business."""
        if self._owned:
            self.index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open(path: Path, embedding: Embeddings | None) -> SmartIndex:
    manifest = Manifest.read(path)
    if embedding is None and manifest.encoder is not None and _is_plain(manifest):
        raise IndexMismatch(
            f"{path}: the index was made with {manifest.encoder[PLAIN]} ({manifest.encoder['model']!r}), which cannot "
            "be loaded from its description; pass it as embedding="
        )
    return SmartIndex.open(path, None if embedding is None else encoder_of(embedding))


def _is_plain(manifest: Manifest) -> bool:
    return manifest.encoder is not None and PLAIN in manifest.encoder


def _alone(embedding: Sequence[float]) -> Representation:
    return Representation.from_embeddings(np.asarray([embedding]))

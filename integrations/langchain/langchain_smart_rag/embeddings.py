"""`SmartEmbeddings`: an encoder of smart_rag as embeddings of LangChain. `PlainEncoder` does the opposite."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from langchain_smart_rag.arguments import arguments_of, check_names, encoder_arguments, of_calls
from langchain_smart_rag.documents import one_line, path_of, ranked_document
from langchain_smart_rag.stored import stored_documents, stored_vector
from smart_rag import CachedEncoder, Encoder, Representation
from smart_rag.config import DEFAULT_MODEL
from smart_rag.errors import EncoderError, InvalidInput
from smart_rag.reports import BackfillReport
from smart_rag.threads import in_reader_thread, in_writer_thread
from smart_rag.types import Content

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection

# The key in an encoder's description under which `PlainEncoder` stores the class of its embeddings.
PLAIN = "langchain_embeddings"
# Number of images whose token embeddings are in memory at once.
_IMAGES = 8
# If the same model made two vectors of the same text, their cosine is at least this. Types and devices differ a little.
_SAME_MODEL = 0.98

logger = logging.getLogger(__name__)


class SmartEmbeddings(BaseModel, Embeddings):
    """A replacement for ``HuggingFaceEmbeddings`` that also keeps token embeddings.

    >>> embeddings = SmartEmbeddings("minilm", token_store="tokens")        # doctest: +SKIP
    >>> store = Chroma(embedding_function=embeddings)                       # doctest: +SKIP
    >>> retriever = SmartReranker(embeddings).wrap(store.as_retriever())    # doctest: +SKIP

    With the same arguments, it gives the same vectors as ``HuggingFaceEmbeddings``, so an existing vector store stays
    valid. Vectors are normalised only if the model or ``encode_kwargs`` says so. The prompt is the model's default
    prompt, or the one in ``encode_kwargs``. Like ``HuggingFaceEmbeddings``, it replaces each line break by a blank.

    With ``token_store``, embeddings are kept in a folder. If the same text comes again, the model does not run again.
    `SmartReranker` reads the token embeddings from this folder. The model is loaded on first use. A pickle does not
    hold the model. The attribute ``encoder`` gives the token embeddings.

    ``HuggingFaceEmbeddings`` also has the argument ``model_name``. `smart_rag.SmartEncoder` calls it ``model``.

    Args:
        model_name: the name or the folder of a sentence-transformers model. You can also call this argument ``model``.
        token_store: a folder for the token embeddings. It is made if it does not exist.
        device: such as ``"cuda"``. By default, the device in ``model_kwargs``, or a GPU if there is one.
        encoder: an encoder to use instead of the name of a model. A `smart_rag.CachedEncoder` has its own token store.
        model_kwargs: arguments of ``SentenceTransformer``, such as ``revision``, ``prompts`` or ``truncate_dim``.
        encode_kwargs: arguments of ``SentenceTransformer.encode``: ``prompt``, ``prompt_name``, ``batch_size``,
            ``normalize_embeddings`` and ``truncate_dim``.
        query_encode_kwargs: the same arguments, but for queries. If it is empty, queries are encoded with
            ``encode_kwargs``.
        cache_folder: the folder where models are stored.
        show_progress: show a progress bar.
        multi_process: use every GPU, unless ``device`` names devices.
        encoder_options: the same arguments as ``options``, but as one dict. This object stores them in this form.
            Normally, you do not pass it.
        encoder_class: the class of an ``encoder`` that is not a `smart_rag.SmartEncoder`. ``model_dump`` writes this
            name. If an object is made from the result of ``model_dump`` without an ``encoder``, an error names the
            class. Normally, you do not pass it.
        options: further arguments of `smart_rag.SmartEncoder` by name, such as ``adapter`` or ``query_prompt``.

    Raises:
        TypeError: an argument is not one of `smart_rag.SmartEncoder`.
        InvalidInput: ``encoder`` is given together with arguments of a model, or ``encoder_class`` is given without
            ``encoder``. Or an argument in ``model_kwargs`` or ``encode_kwargs`` does not exist, or smart_rag has a
            different argument for it.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), arbitrary_types_allowed=True)

    model_name: str = DEFAULT_MODEL
    token_store: Path | None = None
    cache_folder: str | None = None
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    encode_kwargs: dict[str, Any] = Field(default_factory=dict)
    query_encode_kwargs: dict[str, Any] = Field(default_factory=dict)
    show_progress: bool = False
    multi_process: bool = False
    encoder_options: dict[str, Any] = Field(default_factory=dict)
    encoder_class: str | None = None

    _encoder: CachedEncoder = PrivateAttr()

    def __init__(
        self,
        model_name: str | Path = DEFAULT_MODEL,
        token_store: str | Path | None = None,
        *,
        device: str | Sequence[str] | None = None,
        encoder: Encoder | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        encode_kwargs: Mapping[str, Any] | None = None,
        query_encode_kwargs: Mapping[str, Any] | None = None,
        cache_folder: str | Path | None = None,
        show_progress: bool = False,
        multi_process: bool = False,
        encoder_options: Mapping[str, Any] | None = None,
        encoder_class: str | None = None,
        **options: Any,
    ) -> None:
        model_name = options.pop("model", model_name)
        cache_folder = None if cache_folder is None else str(cache_folder)
        further = {**(encoder_options or {}), **options}
        if device is not None:
            further["device"] = device
        # Raise an error now, because the first text may come hours later.
        check_names(further, type(self).model_fields)
        arguments = encoder_arguments(
            further, model_kwargs or {}, encode_kwargs or {}, query_encode_kwargs or {}, cache_folder, multi_process
        )
        if encoder is None and encoder_class is not None:
            raise InvalidInput(
                f"these SmartEmbeddings were made with an encoder of the class {encoder_class}, which a description "
                "does not hold; pass it as encoder=, or use pickle"
            )
        if encoder is None:
            cached = CachedEncoder(str(model_name), token_store, **arguments)
        elif (
            further or model_kwargs or cache_folder or multi_process or not of_calls(encode_kwargs, query_encode_kwargs)
        ):
            raise InvalidInput("encoder= has its model and settings already; leave out the arguments of a model")
        else:
            is_cached = isinstance(encoder, CachedEncoder) and token_store is None
            cached = encoder if is_cached else CachedEncoder(encoder, token_store)  # type: ignore[assignment]
            model_name, known = str(encoder.describe().get("model")), arguments_of(encoder)
            kind = type(cached.encoder)
            encoder_class = f"{kind.__module__}.{kind.__qualname__}" if known is None else None
            further = known or {}
        super().__init__(
            model_name=str(model_name),
            token_store=cached.path,
            cache_folder=cache_folder,
            model_kwargs=dict(model_kwargs or {}),
            encode_kwargs=dict(encode_kwargs or {}),
            query_encode_kwargs=dict(query_encode_kwargs or {}),
            show_progress=show_progress,
            multi_process=multi_process,
            encoder_options=further,
            encoder_class=encoder_class,
        )
        self._encoder = cached

    @property
    def encoder(self) -> CachedEncoder:
        """The encoder, for callers that also need token embeddings."""
        return self._encoder

    def __repr__(self) -> str:
        kept = "" if self.token_store is None else f", token_store={str(self.token_store)!r}"
        return f"SmartEmbeddings({self.model_name!r}{kept})"

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the pooled embeddings of ``texts``. With a token store, their token embeddings are kept."""
        vectors = self.encoder.encode_document([one_line(text) for text in texts], show_progress_bar=self.show_progress)
        return _as_lists(vectors, self.encode_kwargs)

    def embed_query(self, text: str) -> list[float]:
        """Return the pooled embedding of ``text`` as a query."""
        vectors = self.encoder.encode_query([one_line(text)])
        return _as_lists(vectors, self.query_encode_kwargs or self.encode_kwargs)[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        return await in_writer_thread(self.embed_documents, texts)

    async def aembed_query(self, text: str) -> list[float]:
        return await in_reader_thread(self.embed_query, text)

    def embed_image(self, uris: list[str]) -> list[list[float]]:
        """Return the pooled embeddings of the image files ``uris``. A token store keeps their token embeddings.

        Raises:
            EncoderError: the model cannot read images.
            DocumentError: a file cannot be read.
        """
        if "image" not in self.encoder.modalities:
            raise EncoderError(f"{self.model_name} takes texts only; images need a model that takes images")
        images = [Content(image=path_of(uri)) for uri in uris]
        vectors: list[list[float]] = []
        for start in range(0, len(images), _IMAGES):
            vectors += _as_lists(self.encoder.encode_document(images[start : start + _IMAGES]), self.encode_kwargs)
        return vectors

    def backfill(
        self,
        store: VectorStore | Collection | Iterable[Document],
        *,
        calibrate: bool = False,
        show_progress_bar: bool = False,
    ) -> BackfillReport:
        """Encode the documents that are in ``store``, so that `SmartReranker` finds their token embeddings.

        Call this method once, after you have replaced your embeddings by `SmartEmbeddings`. Without this call, a
        document is encoded when a query first finds it. The store is read in pages, and nothing is written to it.
        Documents that the token store already has are skipped, so you can repeat an interrupted call. Documents without
        text are left out. A warning counts and names them. If another model made the vectors in a Chroma store, another
        warning says so.

        Args:
            store: a ``Chroma`` store, a collection of Chroma, an ``InMemoryVectorStore``, or any documents.
            calibrate: also find the scale of relevance, which `SmartReranker` needs for ``min_relevance``. The scale is
                kept in the token store. ``store`` should have all your documents.
            show_progress_bar: show a progress bar. Without it, the progress is logged every ten seconds.

        Returns:
            The numbers of documents that were added, that were already stored (``unchanged``), and that were left out.

        Raises:
            InvalidInput: there is no token store, or the documents of ``store`` cannot be listed.
        """
        documents, total = stored_documents(store)
        # This encoder has no token store, because nothing may be written to it before the documents are counted.
        self.warn_of_another_model(store, self.encoder.encoder)
        ranked = (ranked_document(document.id or f"position {i}", document) for i, document in enumerate(documents))
        return self.encoder.add(ranked, total=total, calibrate=calibrate, show_progress_bar=show_progress_bar)

    def warn_of_another_model(self, store: Any, encoder: Encoder | None = None) -> None:
        """Log a warning if another model, or a model with other settings, made the vectors of ``store``.

        The first vector of a Chroma store is compared with a new vector of the same text. Other stores do not show
        their vectors. ``encoder`` makes the new vector. By default, it is the encoder of these embeddings.
        """
        first = stored_vector(store)
        if first is None or not first[0].page_content.strip():
            return
        document, vector = first[0], np.asarray(first[1])
        vectors = (encoder or self.encoder).encode_document([one_line(document.page_content)])
        own = np.asarray(_as_lists(vectors, self.encode_kwargs)[0])
        norm, own_norm = float(np.linalg.norm(vector)), float(np.linalg.norm(own))
        fits = len(own) == len(vector) and norm > 0 and own_norm > 0
        cosine = float(np.dot(own, vector)) / norm / own_norm if fits else 0.0
        if cosine < _SAME_MODEL:
            logger.warning(
                "%s does not make the vectors of this store: the cosine of its vector of %r and the stored one is "
                "%.2f; use the embeddings that the store was made with, or add its documents again",
                *(self.model_name, document.id, cosine),
            )
        elif not _SAME_MODEL < norm / own_norm < 1 / _SAME_MODEL:
            logger.warning(
                "%s makes vectors of another length than those of this store: its vector of %r has the norm %.3f, the "
                "stored one %.3f; set encode_kwargs={'normalize_embeddings': ...} as when the store was made",
                *(self.model_name, document.id, own_norm, norm),
            )


def _as_lists(vectors: Representation, encode_kwargs: Mapping[str, Any]) -> list[list[float]]:
    """Return pooled embeddings as lists. If they should not be normalised, they keep the model's own norms."""
    pooled = vectors.pooled
    if vectors.norms is not None and not encode_kwargs.get("normalize_embeddings"):
        pooled = pooled * vectors.norms[:, None]
    lists: list[list[float]] = pooled.tolist()
    return lists


class PlainEncoder:
    """Any embeddings of LangChain as an encoder. The only token embedding of a text is its pooled embedding."""

    def __init__(self, embeddings: Embeddings) -> None:
        self.embeddings = embeddings

    @cached_property
    def dimension(self) -> int:
        return len(self.embeddings.embed_query("dimension"))

    @property
    def fingerprint(self) -> str:
        return hashlib.blake2b(json.dumps(self.describe(), sort_keys=True).encode(), digest_size=16).hexdigest()

    def describe(self) -> dict[str, Any]:
        kind = type(self.embeddings)
        names = [getattr(self.embeddings, attribute, None) for attribute in ("model_name", "model")]
        return {
            # Only a str, because the repr of another object may differ between processes.
            "model": next((name for name in names if isinstance(name, str)), kind.__name__),
            PLAIN: f"{kind.__module__}.{kind.__qualname__}",
            "dimension": self.dimension,
        }

    def encode_query(self, queries: Sequence[str]) -> Representation:
        return self._representation([self.embeddings.embed_query(query) for query in queries])

    def encode_document(self, documents: Sequence[str]) -> Representation:
        return self._representation(self.embeddings.embed_documents(list(documents)))

    def _representation(self, vectors: Sequence[Sequence[float]]) -> Representation:
        return Representation.from_embeddings(np.asarray(vectors).reshape(len(vectors), self.dimension))


def encoder_of(embeddings: Embeddings) -> Encoder:
    """Return the encoder of ``embeddings`` without its cache, because an index itself keeps token embeddings."""
    return embeddings.encoder.encoder if isinstance(embeddings, SmartEmbeddings) else PlainEncoder(embeddings)

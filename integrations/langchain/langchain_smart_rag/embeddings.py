"""`SmartEmbeddings`: a smart_rag encoder as LangChain's embeddings; and any LangChain embeddings as an encoder."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings

from langchain_smart_rag.documents import path_of
from smart_rag import CachedEncoder, Encoder, Representation, SmartEncoder
from smart_rag.config import DEFAULT_MODEL
from smart_rag.errors import EncoderError, InvalidInput
from smart_rag.types import Content

# In an index's manifest: the class of the plain embeddings that it was made with.
PLAIN = "langchain_embeddings"
# Images whose token embeddings are in memory at once.
_IMAGES = 8


class SmartEmbeddings(Embeddings):
    """Embeddings of any sentence-transformers model, whose token embeddings are kept for reranking.

    >>> embeddings = SmartEmbeddings("minilm", token_store="tokens")        # doctest: +SKIP
    >>> store = Chroma(embedding_function=embeddings)                       # doctest: +SKIP
    >>> retriever = SmartReranker(embeddings).wrap(store.as_retriever())    # doctest: +SKIP

    Stands where ``HuggingFaceEmbeddings(model_name=...)`` stood. The model is loaded when it is
    first needed, and a pickle leaves it behind. An empty text is embedded like any other, if the
    model can. ``encoder`` gives the token embeddings to whoever needs them.

    Args:
        model_name: a sentence-transformers model name or folder.
        token_store: a folder for the token embeddings of documents, kept under their content.
        device: such as ``"cpu"`` or ``"cuda"``; by default a GPU where there is one.
        encoder: an encoder to use instead of a model's name.
        options: further ones of `smart_rag.SmartEncoder`, such as ``dtype`` or ``query_prompt``.

    Raises:
        TypeError: an option that `smart_rag.SmartEncoder` does not have.
        InvalidInput: ``encoder`` along with options of a model.
    """

    def __init__(
        self,
        model_name: str = DEFAULT_MODEL,
        token_store: str | Path | None = None,
        *,
        device: str | None = None,
        encoder: Encoder | None = None,
        **options: Any,
    ) -> None:
        # Found here and not at the first text, which may come hours later.
        inspect.signature(SmartEncoder).bind(model_name, device=device, **options)
        if encoder is not None and (device is not None or options):
            raise InvalidInput("an encoder is set up already; device and other options go with model_name")
        self.model_name = model_name if encoder is None else str(encoder.describe().get("model"))
        self.token_store = token_store
        self.encoder = (
            CachedEncoder(model_name, token_store, device=device, **options)
            if encoder is None
            else CachedEncoder(encoder, token_store)
        )

    def __repr__(self) -> str:
        kept = "" if self.token_store is None else f", token_store={str(self.token_store)!r}"
        return f"SmartEmbeddings({self.model_name!r}{kept})"

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the pooled embeddings of ``texts``, and keep their token embeddings if there is a folder for them."""
        vectors: list[list[float]] = self.encoder.encode_document(texts).pooled.tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Return the pooled embedding of ``text``, with the model's query prompt."""
        vector: list[float] = self.encoder.encode_query([text]).pooled[0].tolist()
        return vector

    def embed_image(self, uris: list[str]) -> list[list[float]]:
        """Return the pooled embeddings of the image files ``uris``, and keep their token embeddings likewise.

        Raises:
            EncoderError: the model takes no images.
            DocumentError: a file cannot be read.
        """
        if "image" not in self.encoder.modalities:
            raise EncoderError(f"{self.model_name} takes texts only; embed_image needs a model that takes images")
        images = [Content(image=path_of(uri)) for uri in uris]
        vectors: list[list[float]] = []
        for start in range(0, len(images), _IMAGES):
            vectors += self.encoder.encode_document(images[start : start + _IMAGES]).pooled.tolist()
        return vectors


class PlainEncoder:
    """LangChain embeddings without token states as an encoder: the pooled embedding is a text's only token."""

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
            # A name is a str; the text of any other object may differ from one process to the next.
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
    """Return the encoder behind ``embeddings``, without its cache: an index keeps token embeddings itself."""
    return embeddings.encoder.encoder if isinstance(embeddings, SmartEmbeddings) else PlainEncoder(embeddings)

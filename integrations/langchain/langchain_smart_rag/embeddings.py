"""`SmartEmbeddings`: an encoder of smart_rag as embeddings of LangChain. `PlainEncoder` is the opposite."""

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

# The key in an encoder's description under which `PlainEncoder` puts the class of its embeddings.
PLAIN = "langchain_embeddings"
# Images whose token embeddings are in memory at once.
_IMAGES = 8


class SmartEmbeddings(Embeddings):
    """A replacement for ``HuggingFaceEmbeddings`` that also keeps token embeddings.

    >>> embeddings = SmartEmbeddings("minilm", token_store="tokens")        # doctest: +SKIP
    >>> store = Chroma(embedding_function=embeddings)                       # doctest: +SKIP
    >>> retriever = SmartReranker(embeddings).wrap(store.as_retriever())    # doctest: +SKIP

    The embeddings are the model's own, so an existing vector store stays valid. With ``token_store``, a text that is
    embedded twice is encoded once, and `SmartReranker` finds its token embeddings there. The model is loaded at first
    use, and a pickle does not hold it. The attribute ``encoder`` gives the token embeddings.

    ``model_name`` has the name that it has in ``HuggingFaceEmbeddings``; `smart_rag.SmartEncoder` calls it ``model``.

    Args:
        model_name: the name or the folder of a sentence-transformers model.
        token_store: a folder for the token embeddings; it is made if it does not exist.
        device: such as ``"cuda"``; by default a GPU if there is one.
        encoder: an encoder to use instead of a model's name; a `smart_rag.CachedEncoder` brings its own token store.
        options: further arguments of `smart_rag.SmartEncoder`, such as ``adapter`` or ``query_prompt``.

    Raises:
        TypeError: an argument that `smart_rag.SmartEncoder` does not have.
        InvalidInput: ``encoder`` along with arguments of a model.
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
        # Raise TypeError now and not at the first text, which may come hours later.
        inspect.signature(SmartEncoder).bind(model_name, device=device, **options)
        if encoder is not None and (device is not None or options):
            raise InvalidInput("encoder= has its model and settings already; leave out the arguments of a model")
        self.model_name = model_name if encoder is None else str(encoder.describe().get("model"))
        if encoder is None:
            self.encoder = CachedEncoder(model_name, token_store, device=device, **options)
        elif isinstance(encoder, CachedEncoder) and token_store is None:
            self.encoder = encoder
        else:
            self.encoder = CachedEncoder(encoder, token_store)
        self.token_store = self.encoder.path

    def __repr__(self) -> str:
        kept = "" if self.token_store is None else f", token_store={str(self.token_store)!r}"
        return f"SmartEmbeddings({self.model_name!r}{kept})"

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the pooled embeddings of ``texts``; with a token store, their token embeddings are kept."""
        vectors: list[list[float]] = self.encoder.encode_document(texts).pooled.tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Return the pooled embedding of ``text`` as a query."""
        vector: list[float] = self.encoder.encode_query([text]).pooled[0].tolist()
        return vector

    def embed_image(self, uris: list[str]) -> list[list[float]]:
        """Return the pooled embeddings of the image files ``uris``; with a token store, their tokens are kept.

        Raises:
            EncoderError: the model does not take images.
            DocumentError: a file cannot be read.
        """
        if "image" not in self.encoder.modalities:
            raise EncoderError(f"{self.model_name} takes texts only; images need a model that takes images")
        images = [Content(image=path_of(uri)) for uri in uris]
        vectors: list[list[float]] = []
        for start in range(0, len(images), _IMAGES):
            vectors += self.encoder.encode_document(images[start : start + _IMAGES]).pooled.tolist()
        return vectors


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
            # A str only: the repr of another object may differ between processes.
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
    """Return the encoder of ``embeddings``, without a cache, because an index keeps token embeddings itself."""
    return embeddings.encoder.encoder if isinstance(embeddings, SmartEmbeddings) else PlainEncoder(embeddings)

"""`SmartEmbedding`: pooled embeddings for LlamaIndex, with the token embeddings kept in a folder."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager
from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from llama_index.core.schema import BaseNode, ImageNode, ImageType

from llama_index_smart_rag.nodes import content_of, image_of
from smart_rag import CachedEncoder, Encoder, SmartEncoder
from smart_rag.config import DEFAULT_MODEL
from smart_rag.errors import EncoderError, InvalidInput
from smart_rag.types import Content

dispatcher = get_dispatcher(__name__)

# Images whose token embeddings are in memory at once.
_IMAGES = 8


class SmartEmbedding(MultiModalEmbedding):
    """A replacement for ``HuggingFaceEmbedding`` that also keeps token embeddings.

    >>> embed_model = SmartEmbedding("minilm", token_store="tokens")        # doctest: +SKIP
    >>> VectorStoreIndex.from_documents(documents, embed_model=embed_model)     # doctest: +SKIP

    The embeddings are the model's own, so an existing vector store stays valid. With ``token_store``, a text that is
    embedded twice is encoded once, and `SmartRerank` finds its token embeddings there. The model is loaded at first
    use.

    A vision-language model embeds images, too. As a step of a pipeline it embeds an `ImageNode` by its image.

    ``model_name``, ``query_instruction`` and ``text_instruction`` have the names that they have in
    ``HuggingFaceEmbedding``; `smart_rag.SmartEncoder` calls them ``model``, ``query_prompt`` and ``document_prompt``.

    Args:
        model_name: the name or the folder of a sentence-transformers model.
        token_store: a folder for the token embeddings; it is made if it does not exist.
        encoder: an encoder to use instead of a model's name; a `smart_rag.CachedEncoder` brings its own token store.
        device: such as ``"cuda"``; by default a GPU if there is one.
        max_length: the number of tokens after which a text is cut; by default the model's own.
        query_instruction, text_instruction: put before each query and each text; by default the model's own.
        trust_remote_code: run code that comes with the model.
        embed_batch_size: the number of texts that LlamaIndex passes at once.
        encoder_options: further arguments of `smart_rag.SmartEncoder`, as `to_dict` writes them.
        options: further arguments of `smart_rag.SmartEncoder` by name, such as ``adapter`` or ``max_pixels``, and
            arguments of LlamaIndex, such as ``num_workers``.

    Raises:
        TypeError: an argument that neither `smart_rag.SmartEncoder` nor LlamaIndex has.
        InvalidInput: ``encoder`` along with arguments of a model; or ``embeddings_cache``. This cache keeps vectors by
            text alone, so a query would get the vector of an equal text, and no token embeddings would be kept.
            ``token_store`` caches both kinds of embeddings correctly.
    """

    token_store: str | None = Field(default=None, description="Folder of the token embeddings.")
    device: str | None = Field(default=None, description="Device of the model.", exclude=True)
    max_length: int | None = Field(default=None, description="Number of tokens after which a text is cut.")
    query_instruction: str | None = Field(default=None, description="Put before each query.")
    text_instruction: str | None = Field(default=None, description="Put before each text.")
    trust_remote_code: bool = Field(default=False, description="Run code that comes with the model.")
    encoder_options: dict[str, Any] = Field(default_factory=dict, description="Further arguments of SmartEncoder.")

    _encoder: CachedEncoder = PrivateAttr()

    def __init__(
        self,
        model_name: str = DEFAULT_MODEL,
        token_store: str | Path | None = None,
        *,
        encoder: Encoder | None = None,
        device: str | None = None,
        max_length: int | None = None,
        query_instruction: str | None = None,
        text_instruction: str | None = None,
        trust_remote_code: bool = False,
        embed_batch_size: int = 128,
        callback_manager: CallbackManager | None = None,
        encoder_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        fields = {name: options.pop(name) for name in options.keys() & type(self).model_fields.keys()}
        if fields.get("embeddings_cache") is not None:
            raise InvalidInput(
                "embeddings_cache keeps vectors by text alone, so that a query gets the vector of an equal text, and "
                "no token embeddings; pass a folder as token_store= instead, it caches both"
            )
        arguments: dict[str, Any] = {
            "device": device,
            "max_length": max_length,
            "query_prompt": query_instruction,
            "document_prompt": text_instruction,
            "trust_remote_code": trust_remote_code,
        }
        further = {**(encoder_options or {}), **options}
        # Raise TypeError now and not at the first text, which may come hours later.
        inspect.signature(SmartEncoder).bind(model_name, **arguments, **further)
        if encoder is None:
            cached = CachedEncoder(str(model_name), token_store, **arguments, **further)
        else:
            if further or any(arguments.values()):
                raise InvalidInput("encoder= has its model and settings already; leave out the arguments of a model")
            is_cached = isinstance(encoder, CachedEncoder) and token_store is None
            cached = encoder if is_cached else CachedEncoder(encoder, token_store)  # type: ignore[assignment]
            further = _arguments_of(encoder)
            model_name = further.pop("model", None)
            arguments = {name: further.pop(name, None) for name in arguments}
        fields |= {
            "model_name": str(model_name),
            "token_store": None if cached.path is None else str(cached.path),
            "device": arguments["device"],
            "max_length": arguments["max_length"],
            "query_instruction": arguments["query_prompt"],
            "text_instruction": arguments["document_prompt"],
            "trust_remote_code": bool(arguments["trust_remote_code"]),
            "encoder_options": {name: str(v) if isinstance(v, Path) else v for name, v in further.items()},
            "embed_batch_size": embed_batch_size,
            "callback_manager": callback_manager or CallbackManager([]),
        }
        super().__init__(**fields)
        self._encoder = cached

    @classmethod
    def class_name(cls) -> str:
        return "SmartEmbedding"

    @property
    def encoder(self) -> CachedEncoder:
        """The encoder, for callers that need token embeddings too."""
        return self._encoder

    def _get_query_embedding(self, query: str) -> list[float]:
        embedding: list[float] = self._encoder.encode_query([query]).pooled[0].tolist()
        return embedding

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        embeddings: list[list[float]] = self._encoder.encode_document(texts).pooled.tolist()
        return embeddings

    def _get_image_embedding(self, img_file_path: ImageType) -> list[float]:
        return self._get_image_embeddings([img_file_path])[0]

    def _get_image_embeddings(self, img_file_paths: list[ImageType]) -> list[list[float]]:
        if "image" not in self._encoder.modalities:
            raise EncoderError(f"{self.model_name} takes texts only; images need a model that takes images")
        names = ["an open file" if isinstance(file, BytesIO) else str(file) for file in img_file_paths]
        return self._embed_images([Content(image=image_of(file)) for file in img_file_paths], names)

    def _embed_images(self, contents: list[Content], names: list[str]) -> list[list[float]]:
        # LlamaIndex emits these events for texts alone.
        dispatcher.event(EmbeddingStartEvent(model_dict=self.to_dict()))
        embeddings: list[list[float]] = []
        for start in range(0, len(contents), _IMAGES):
            embeddings += self._encoder.encode_document(contents[start : start + _IMAGES]).pooled.tolist()
        dispatcher.event(EmbeddingEndEvent(chunks=names, embeddings=embeddings))
        return embeddings

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Set the embedding of each of ``nodes``, and return the nodes. An `ImageNode` is embedded by its image."""
        texts = self._embed_image_nodes(nodes)
        if texts:
            super().__call__(texts, **kwargs)
        return nodes

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Do the same as ``__call__``, outside of the event loop."""
        texts = await asyncio.to_thread(self._embed_image_nodes, nodes)
        if texts:
            await super().acall(texts, **kwargs)
        return nodes

    def _embed_image_nodes(self, nodes: Sequence[BaseNode]) -> list[BaseNode]:
        """Set the embeddings of nodes with an image, if the model takes images, and return the other nodes."""
        if not any(isinstance(node, ImageNode) for node in nodes) or "image" not in self._encoder.modalities:
            return list(nodes)
        contents = [content_of(node, self._encoder.modalities) for node in nodes]
        with_image = [i for i, content in enumerate(contents) if content.image is not None]
        embeddings = self._embed_images([contents[i] for i in with_image], [nodes[i].node_id for i in with_image])
        for i, embedding in zip(with_image, embeddings, strict=True):
            nodes[i].embedding = embedding
        return [node for node, content in zip(nodes, contents, strict=True) if content.image is None]

    # By default LlamaIndex runs each of these on the event loop.

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    async def _aget_image_embedding(self, img_file_path: ImageType) -> list[float]:
        return await asyncio.to_thread(self._get_image_embedding, img_file_path)

    async def _aget_image_embeddings(self, img_file_paths: list[ImageType]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_image_embeddings, img_file_paths)


def _arguments_of(encoder: Encoder) -> dict[str, Any]:
    """Return the arguments that `smart_rag.SmartEncoder` needs to make ``encoder`` again, by its description."""
    described = encoder.describe()
    return {name: described[name] for name in inspect.signature(SmartEncoder).parameters if name in described}

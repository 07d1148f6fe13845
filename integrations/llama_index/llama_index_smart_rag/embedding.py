"""`SmartEmbedding`: pooled embeddings for LlamaIndex, token embeddings kept on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
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
from smart_rag import CachedEncoder
from smart_rag.config import DEFAULT_MODEL
from smart_rag.errors import EncoderError, InvalidInput
from smart_rag.types import Content

dispatcher = get_dispatcher(__name__)

# Images whose token embeddings are in memory at once.
_IMAGES = 8


class SmartEmbedding(MultiModalEmbedding):
    """A drop-in for ``HuggingFaceEmbedding`` that keeps the token embeddings of what it embeds.

    >>> embed_model = SmartEmbedding("minilm", token_store="tokens")        # doctest: +SKIP
    >>> VectorStoreIndex.from_documents(documents, embed_model=embed_model)     # doctest: +SKIP

    The embeddings are the model's own, so that an existing vector store stays valid. With
    ``token_store`` a text that is embedded twice is encoded once; `SmartRerank` finds there
    what it needs. The model is loaded at first use.

    A vision-language model embeds images, too, and as a step of a pipeline an `ImageNode` by its image.

    Args:
        model_name: of a sentence-transformers model, or its folder.
        token_store: a folder for the token embeddings, made where there is none.
        device: such as ``"cuda"``; by default a GPU where there is one.
        max_length: tokens after which a text is cut; by default the model's own.
        query_instruction, text_instruction: put before each text; by default the model's own.
        trust_remote_code: run code that comes with the model.
        profile, max_pixels, query_tokens, document_tokens: as in `smart_rag.SmartEncoder`.
        embed_batch_size: texts that LlamaIndex hands over at once.

    Raises:
        TypeError: an argument that is not among these and LlamaIndex's own.
        InvalidInput: ``embeddings_cache`` is given. It keeps vectors by text alone, so that a
            query gets the vector of an equal text, and no token embeddings;
            ``token_store`` caches both rightly.
    """

    token_store: str | None = Field(default=None, description="Folder of the token embeddings.")
    device: str | None = Field(default=None, description="Device of the model.", exclude=True)
    max_length: int | None = Field(default=None, description="Tokens after which a text is cut.")
    query_instruction: str | None = Field(default=None, description="Put before each query.")
    text_instruction: str | None = Field(default=None, description="Put before each text.")
    trust_remote_code: bool = Field(default=False, description="Run code that comes with the model.")

    profile: str | None = Field(default=None, description="The model's family.")
    max_pixels: int | None = Field(default=None, description="Of an image, at most.")
    query_tokens: str | None = Field(default=None, description="Which tokens of a query take part.")
    document_tokens: str | None = Field(default=None, description="Which tokens of a document take part.")

    _encoder: CachedEncoder = PrivateAttr()

    def __init__(
        self,
        model_name: str = DEFAULT_MODEL,
        token_store: str | Path | None = None,
        *,
        device: str | None = None,
        max_length: int | None = None,
        query_instruction: str | None = None,
        text_instruction: str | None = None,
        trust_remote_code: bool = False,
        profile: str | None = None,
        max_pixels: int | None = None,
        query_tokens: str | None = None,
        document_tokens: str | None = None,
        embed_batch_size: int = 128,
        callback_manager: CallbackManager | None = None,
        **options: Any,
    ) -> None:
        unknown = options.keys() - type(self).model_fields.keys()
        if unknown:
            raise TypeError(f"SmartEmbedding takes no {', '.join(sorted(unknown))}")
        if options.get("embeddings_cache") is not None:
            raise InvalidInput(
                "embeddings_cache keeps vectors by text alone, so that a query gets the vector of an equal text, and "
                "no token embeddings; pass a folder as token_store= instead, it caches both"
            )
        fields: dict[str, Any] = {
            "model_name": str(model_name),
            "token_store": None if token_store is None else str(token_store),
            "device": device,
            "max_length": max_length,
            "query_instruction": query_instruction,
            "text_instruction": text_instruction,
            "trust_remote_code": trust_remote_code,
            "profile": profile,
            "max_pixels": max_pixels,
            "query_tokens": query_tokens,
            "document_tokens": document_tokens,
            "embed_batch_size": embed_batch_size,
            "callback_manager": callback_manager or CallbackManager([]),
            **options,
        }
        super().__init__(**fields)
        self._encoder = CachedEncoder(
            self.model_name,
            self.token_store,
            device=device,
            max_length=max_length,
            query_prompt=query_instruction,
            document_prompt=text_instruction,
            trust_remote_code=trust_remote_code,
            profile=profile,
            max_pixels=max_pixels,
            query_tokens=query_tokens,
            document_tokens=document_tokens,
        )

    @classmethod
    def from_encoder(cls, encoder: CachedEncoder, **options: Any) -> SmartEmbedding:
        """Return the embedding of an encoder that is there already."""
        described = encoder.describe()
        embedding = cls(
            str(described.get("model")),
            encoder.path,
            max_length=described.get("max_length"),
            query_instruction=described.get("query_prompt"),
            text_instruction=described.get("document_prompt"),
            trust_remote_code=bool(described.get("trust_remote_code")),
            profile=described.get("profile"),
            max_pixels=described.get("max_pixels"),
            query_tokens=described.get("query_tokens"),
            document_tokens=described.get("document_tokens"),
            **options,
        )
        embedding._encoder = encoder
        return embedding

    @classmethod
    def class_name(cls) -> str:
        return "SmartEmbedding"

    @property
    def encoder(self) -> CachedEncoder:
        """The encoder, for whoever needs token embeddings too."""
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
            raise EncoderError(f"{self.model_name} embeds text alone; images need a vision-language model")
        names = ["an open file" if isinstance(file, BytesIO) else str(file) for file in img_file_paths]
        return self._embed_images([Content(image=image_of(file)) for file in img_file_paths], names)

    def _embed_images(self, contents: list[Content], names: list[str]) -> list[list[float]]:
        # LlamaIndex emits these for texts alone.
        dispatcher.event(EmbeddingStartEvent(model_dict=self.to_dict()))
        embeddings: list[list[float]] = []
        for start in range(0, len(contents), _IMAGES):
            embeddings += self._encoder.encode_document(contents[start : start + _IMAGES]).pooled.tolist()
        dispatcher.event(EmbeddingEndEvent(chunks=names, embeddings=embeddings))
        return embeddings

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Give each of ``nodes`` its embedding; `VectorStoreIndex` embeds image nodes by their text, this does not."""
        texts = self._call_for_images(nodes)
        if texts:
            super().__call__(texts, **kwargs)
        return nodes

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Do what calling does, off the event loop."""
        texts = await asyncio.to_thread(self._call_for_images, nodes)
        if texts:
            await super().acall(texts, **kwargs)
        return nodes

    def _call_for_images(self, nodes: Sequence[BaseNode]) -> list[BaseNode]:
        """Embed the nodes with an image that the model can see, and return the others."""
        if not any(isinstance(node, ImageNode) for node in nodes) or "image" not in self._encoder.modalities:
            return list(nodes)
        contents = [content_of(node, self._encoder.modalities) for node in nodes]
        seen = [i for i, content in enumerate(contents) if content.image is not None]
        embeddings = self._embed_images([contents[i] for i in seen], [nodes[i].node_id for i in seen])
        for i, embedding in zip(seen, embeddings, strict=True):
            nodes[i].embedding = embedding
        return [node for node, content in zip(nodes, contents, strict=True) if content.image is None]

    # Each of these would run the model on the event loop by default.

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

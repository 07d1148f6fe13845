"""`SmartEmbedding`: pooled embeddings for LlamaIndex, with the token embeddings kept in a folder."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager
from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.indices import VectorStoreIndex
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from llama_index.core.schema import BaseNode, ImageNode, ImageType, MetadataMode
from llama_index.core.vector_stores.types import BasePydanticVectorStore

from llama_index_smart_rag.arguments import arguments_of, check_names, encoder_arguments, every_gpu
from llama_index_smart_rag.nodes import content_of, image_of
from llama_index_smart_rag.pickling import Pickled
from llama_index_smart_rag.stored import stored_nodes, stored_vector, to_rank
from smart_rag import CachedEncoder, Encoder, Representation
from smart_rag.config import DEFAULT_MODEL
from smart_rag.errors import EncoderError, InvalidInput
from smart_rag.reports import BackfillReport
from smart_rag.threads import in_reader_thread, in_writer_thread
from smart_rag.types import Content

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection

dispatcher = get_dispatcher(__name__)

# Number of images whose token embeddings are in memory at once.
_IMAGES = 8
# If the same model made two vectors of the same text, their cosine is at least this. Types and devices differ a little.
_SAME_MODEL = 0.98

logger = logging.getLogger(__name__)


class SmartEmbedding(Pickled, MultiModalEmbedding):
    """A replacement for ``HuggingFaceEmbedding`` that also keeps token embeddings.

    >>> embed_model = SmartEmbedding("minilm", token_store="tokens")        # doctest: +SKIP
    >>> VectorStoreIndex.from_documents(documents, embed_model=embed_model)     # doctest: +SKIP

    With the same arguments, it gives the same vectors as ``HuggingFaceEmbedding``, so an existing vector store stays
    valid. Like ``HuggingFaceEmbedding``, it ignores the prompts in the model's files. You pass instructions as
    arguments. For BGE and Instructor models, the model's name decides the default instructions.

    With ``token_store``, embeddings are kept in a folder. If the same text comes again, the model does not run again.
    `SmartRerank` reads the token embeddings from this folder. The model is loaded on first use. A vision-language model
    embeds images, too. In an ``IngestionPipeline``, this class embeds the image of an `ImageNode`.

    Args:
        model_name: the name or the folder of a sentence-transformers model.
        token_store: a folder for the token embeddings. It is made if it does not exist.
        encoder: an encoder to use instead of the name of a model. A `smart_rag.CachedEncoder` has its own token store.
        device: such as ``"cuda"``. By default, a GPU if there is one.
        max_length: the number of tokens after which a text is cut. By default, the model's own limit.
        query_instruction, text_instruction: the texts that are put before each query and before each text.
        normalize: whether vectors have length 1. With False, vectors have the length that the model gives them.
        cache_folder: the folder where models are stored.
        trust_remote_code: run code that comes with the model.
        show_progress_bar: show a progress bar.
        parallel_process: use every GPU, or ``target_devices``. On a CPU, one process uses all cores.
        target_devices: the devices for ``parallel_process``, such as ``["cuda:0", "cuda:1"]``.
        embed_batch_size: the number of texts that LlamaIndex passes at once.
        encoder_options: the same arguments as ``options``, but as one dict. `to_dict` writes them in this form.
            Normally, you do not pass it.
        options: further arguments by name. They can be arguments of `smart_rag.SmartEncoder` (such as ``adapter`` or
            ``max_pixels``), of ``SentenceTransformer`` (such as ``truncate_dim`` or ``model_kwargs``), or of LlamaIndex
            (such as ``num_workers``).

    Raises:
        TypeError: an argument is unknown.
        InvalidInput: ``encoder`` is given together with arguments of a model, or ``embeddings_cache`` is given.
            LlamaIndex's ``embeddings_cache`` finds vectors by the text alone. So if a query and a document have the
            same text, the query would get the document's vector. Also, this cache does not keep token embeddings. Use
            ``token_store``, which keeps pooled and token embeddings.
    """

    token_store: str | None = Field(default=None, description="Folder of the token embeddings.")
    device: str | None = Field(default=None, description="Device of the model.", exclude=True)
    max_length: int | None = Field(default=None, description="Number of tokens after which a text is cut.")
    query_instruction: str | None = Field(default=None, description="Put before each query.")
    text_instruction: str | None = Field(default=None, description="Put before each text.")
    normalize: bool = Field(default=True, description="Give unit vectors.")
    cache_folder: str | None = Field(default=None, description="Where models are stored.")
    trust_remote_code: bool = Field(default=False, description="Run code that comes with the model.")
    show_progress_bar: bool = Field(default=False, description="Show a progress bar.")
    parallel_process: bool = Field(default=False, description="Use every GPU, or the target devices.")
    target_devices: list[str] | None = Field(default=None, description="Devices for parallel_process.", exclude=True)
    encoder_options: dict[str, Any] = Field(default_factory=dict, description="Further arguments of SmartEncoder.")
    encoder_class: str | None = Field(default=None, description="Class of an encoder that has no model's name.")

    _encoder: CachedEncoder = PrivateAttr()

    def __init__(
        self,
        model_name: str | Path = DEFAULT_MODEL,
        token_store: str | Path | None = None,
        *,
        encoder: Encoder | None = None,
        device: str | None = None,
        max_length: int | None = None,
        query_instruction: str | None = None,
        text_instruction: str | None = None,
        normalize: bool = True,
        cache_folder: str | Path | None = None,
        trust_remote_code: bool = False,
        show_progress_bar: bool = False,
        parallel_process: bool = False,
        target_devices: list[str] | None = None,
        embed_batch_size: int = 128,
        callback_manager: CallbackManager | None = None,
        encoder_options: Mapping[str, Any] | None = None,
        encoder_class: str | None = None,
        **options: Any,
    ) -> None:
        fields = {name: options.pop(name) for name in options.keys() & type(self).model_fields.keys()}
        if fields.get("embeddings_cache") is not None:
            raise InvalidInput(
                "embeddings_cache keeps vectors by text alone, so that a query gets the vector of an equal text, and "
                "no token embeddings; pass a folder as token_store= instead, it caches both"
            )
        cache_folder = None if cache_folder is None else str(cache_folder)
        check_names(options, own=list(type(self).model_fields))
        further = {**(encoder_options or {}), **options}
        of_model = {"max_length": max_length, "trust_remote_code": trust_remote_code}
        # Raise an error now, because the first text may come hours later.
        arguments = of_model | encoder_arguments(
            str(model_name),
            further,
            query_instruction=query_instruction,
            text_instruction=text_instruction,
            cache_folder=cache_folder,
        )
        if encoder is None:
            if encoder_class is not None:
                raise InvalidInput(
                    f"this SmartEmbedding was made with an encoder of the class {encoder_class}, which is not stored "
                    "with it; make it anew with encoder="
                )
            devices = (target_devices or every_gpu()) if parallel_process else device
            cached = CachedEncoder(str(model_name), token_store, **arguments, device=devices)
        else:
            given = (device, max_length, query_instruction, text_instruction, cache_folder, target_devices, further)
            if any(given) or trust_remote_code or parallel_process:
                raise InvalidInput("encoder= has its model and settings already; leave out the arguments of a model")
            is_cached = isinstance(encoder, CachedEncoder) and token_store is None
            cached = encoder if is_cached else CachedEncoder(encoder, token_store)  # type: ignore[assignment]
            model_name, described = str(encoder.describe().get("model")), arguments_of(encoder)
            if described is None:
                wrapped = encoder.encoder if isinstance(encoder, CachedEncoder) else encoder
                encoder_class = f"{type(wrapped).__module__}.{type(wrapped).__qualname__}"
            further = described or {}
        fields |= {
            "model_name": str(model_name),
            "token_store": None if cached.path is None else str(cached.path),
            "device": device,
            "max_length": max_length,
            "query_instruction": query_instruction,
            "text_instruction": text_instruction,
            "normalize": normalize,
            "cache_folder": cache_folder,
            "trust_remote_code": trust_remote_code,
            "show_progress_bar": show_progress_bar,
            "parallel_process": parallel_process,
            "target_devices": target_devices,
            # A token is a secret, so it is not stored. On another machine, set the environment variable HF_TOKEN.
            "encoder_options": {n: str(v) if isinstance(v, Path) else v for n, v in further.items() if n != "token"},
            "encoder_class": encoder_class,
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
        """The encoder, for callers that also need token embeddings."""
        return self._encoder

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._as_lists(self._encoder.encode_query([query]))[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._as_lists(self._encoder.encode_document(texts, show_progress_bar=self.show_progress_bar))

    def _as_lists(self, vectors: Representation) -> list[list[float]]:
        """Return pooled embeddings as lists. If they should not be normalised, they keep the model's own norms."""
        pooled = vectors.pooled
        if vectors.norms is not None and not self.normalize:
            pooled = pooled * vectors.norms[:, None]
        embeddings: list[list[float]] = pooled.tolist()
        return embeddings

    def _get_image_embedding(self, img_file_path: ImageType) -> list[float]:
        return self._get_image_embeddings([img_file_path])[0]

    def _get_image_embeddings(self, img_file_paths: list[ImageType]) -> list[list[float]]:
        if "image" not in self._encoder.modalities:
            raise EncoderError(f"{self.model_name} takes texts only; images need a model that takes images")
        names = ["an open file" if isinstance(file, BytesIO) else str(file) for file in img_file_paths]
        return self._embed_images([Content(image=image_of(file)) for file in img_file_paths], names)

    def _embed_images(self, contents: list[Content], names: list[str]) -> list[list[float]]:
        # LlamaIndex emits these events only for texts.
        dispatcher.event(EmbeddingStartEvent(model_dict=self.to_dict()))
        embeddings: list[list[float]] = []
        for start in range(0, len(contents), _IMAGES):
            embeddings += self._as_lists(self._encoder.encode_document(contents[start : start + _IMAGES]))
        dispatcher.event(EmbeddingEndEvent(chunks=names, embeddings=embeddings))
        return embeddings

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Set the embedding of each of ``nodes``, and return the nodes. For an `ImageNode`, embed its image."""
        texts = self._embed_image_nodes(nodes)
        if texts:
            super().__call__(texts, **kwargs)
        return nodes

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Do the same as ``__call__``, outside of the event loop."""
        texts = await in_writer_thread(self._embed_image_nodes, nodes)
        if texts:
            await super().acall(texts, **kwargs)
        return nodes

    def _embed_image_nodes(self, nodes: Sequence[BaseNode]) -> list[BaseNode]:
        """If the model reads images, set the embeddings of nodes with an image. Return all other nodes."""
        if not any(isinstance(node, ImageNode) for node in nodes) or "image" not in self._encoder.modalities:
            return list(nodes)
        contents = [content_of(node, self._encoder.modalities) for node in nodes]
        with_image = [i for i, content in enumerate(contents) if content.image is not None]
        embeddings = self._embed_images([contents[i] for i in with_image], [nodes[i].node_id for i in with_image])
        for i, embedding in zip(with_image, embeddings, strict=True):
            nodes[i].embedding = embedding
        return [node for node, content in zip(nodes, contents, strict=True) if content.image is None]

    def backfill(
        self,
        store: VectorStoreIndex | BasePydanticVectorStore | Collection | Iterable[BaseNode],
        *,
        calibrate: bool = False,
        show_progress_bar: bool = False,
    ) -> BackfillReport:
        """Encode the nodes that are in ``store``, so that `SmartRerank` finds their token embeddings.

        Call this method once, after you have replaced your embeddings by `SmartEmbedding`. Without this call, a node is
        encoded when a query first finds it. The store is read in pages, and nothing is written to it. Nodes that the
        token store already has are skipped, so you can repeat an interrupted call. Nodes that have neither a text nor
        an image are left out. A warning counts and names them. If another model made the vectors in a Chroma store,
        another warning says so.

        Args:
            store: a ``VectorStoreIndex``, a ``ChromaVectorStore``, a collection of Chroma, or any nodes.
            calibrate: also find the scale of relevance, which `SmartRerank` needs for ``min_relevance`` and
                ``with_relevance``. The scale is kept in the token store. ``store`` should have all your nodes.
            show_progress_bar: show a progress bar. Without it, the progress is logged every ten seconds.

        Returns:
            The numbers of nodes that were added, that were already stored (``unchanged``), and that were left out.

        Raises:
            InvalidInput: there is no token store, or the nodes of ``store`` cannot be listed.
        """
        nodes, total = stored_nodes(store)
        self._check_model(store)
        modalities = self._encoder.modalities
        ranked = (to_rank(node, modalities) for node in nodes)
        return self._encoder.add(ranked, total=total, calibrate=calibrate, show_progress_bar=show_progress_bar)

    def _check_model(self, store: Any) -> None:
        """Log a warning if another model, or a model with other settings, made the vectors of ``store``."""
        first = stored_vector(store)
        if first is None or isinstance(first[0], ImageNode):
            return
        node, vector = first
        text = node.get_content(MetadataMode.EMBED)
        if not text.strip():
            return
        # This encoder has no token store, because nothing may be written to it before the nodes are counted.
        (own,) = self._encoder.encoder.encode_document([text]).pooled
        norm = float(np.linalg.norm(vector))
        cosine = float(np.dot(own, vector)) / norm if len(own) == len(vector) and norm else 0.0
        if cosine < _SAME_MODEL:
            logger.warning(
                "%s does not make the vectors of this store: the cosine of its vector of %r and the stored one is "
                "%.2f; backfill with the embedding that the reranker has",
                self.model_name,
                node.node_id,
                cosine,
            )

    # By default, LlamaIndex runs each of these methods on the event loop.

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await in_reader_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await in_writer_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await in_writer_thread(self._get_text_embeddings, texts)

    async def _aget_image_embedding(self, img_file_path: ImageType) -> list[float]:
        return await in_writer_thread(self._get_image_embedding, img_file_path)

    async def _aget_image_embeddings(self, img_file_paths: list[ImageType]) -> list[list[float]]:
        return await in_writer_thread(self._get_image_embeddings, img_file_paths)

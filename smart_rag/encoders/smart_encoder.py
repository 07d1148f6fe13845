"""`SmartEncoder`: texts, images and videos in one forward pass. `settings` decides how, and `batching` runs many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smart_rag.config import DEFAULT_MODEL, DEFAULT_WEIGHTS, Backend, check_count, check_model_options
from smart_rag.embeddings.codec import get_codec
from smart_rag.embeddings.representation import Representation
from smart_rag.embeddings.tokens import TokenBatch, TokenCodes
from smart_rag.encoders.batching import Output
from smart_rag.encoders.compatibility import AnyModel
from smart_rag.encoders.engine import Engine, ModelArguments, describe_backend, moved_to_torch, start
from smart_rag.encoders.fingerprint import arguments_in, fingerprint_of
from smart_rag.encoders.loading import known_models
from smart_rag.encoders.loading.model_options import portable_options, with_full_paths
from smart_rag.encoders.models.image_sizes import MOST_PIXELS
from smart_rag.encoders.models.inputs import UNLIMITED
from smart_rag.encoders.models.reading import Reading
from smart_rag.encoders.pickling import made_again
from smart_rag.encoders.profiles import OWN_FILES, Decision, TokenPolicy
from smart_rag.encoders.trainable import TrainableModel
from smart_rag.files.formats import images
from smart_rag.paths import absolute, model_location
from smart_rag.types import Content, Encodable, PdfPage, Task, TokenOrigin

if TYPE_CHECKING:
    import torch

    from smart_rag.encoders.adapter import Adapter


class SmartEncoder:
    """Pooled and token embeddings from any sentence-transformers model, without training.

    >>> encoder = SmartEncoder("minilm")                            # doctest: +SKIP
    >>> documents = encoder.encode_document(["The cat sat.", "Dogs bark."])     # doctest: +SKIP
    >>> documents.pooled.shape, len(documents.tokens[0])                        # doctest: +SKIP
    ((2, 384), 4)

    A vision-language model also reads images, pages of PDFs and videos, alone or with a text: see `Content`.

    Token embeddings are the last hidden states, L2-normalised in float32. If the model has dense layers, they bring the
    states into the space of the pooled embedding. Special tokens and padding take no part in late interaction. If the
    model pools the CLS token or the last token, this token takes no part either (arXiv 2605.24938, section 3). If no
    token is left, the pooled embedding is the only token embedding.

    An ``adapter`` makes token embeddings from the last states, or from the states after other layers. If no token
    takes part, the adapter makes one token embedding from the pooled embedding. Pooled embeddings do not change.

    In a forked process, the parent's encoder works on a CPU, but torch then uses only one thread. On a GPU, torch
    refuses to work in a forked process. A pickle holds the arguments, without weights and without a token of the hub.

    Args:
        model: the name of a sentence-transformers model, or its folder. ``"minilm"`` is the all-MiniLM-L6-v2 that the
            extra ``demo`` installs. It needs no network.
        device: such as ``"cpu"`` or ``"cuda:0"``. By default, a GPU if there is one. If you give several devices, such
            as ``["cuda:0", "cuda:1"]``, each device holds a copy of the model, and the devices take batches in turn.
        dtype: the type of the weights, such as ``"bfloat16"``. By default, float32 on a CPU, or the type in the
            model's files on a GPU. ``"int8"`` is for a text model on a CPU.
        attn_implementation: how transformers computes attention. ``"flash_attention_2"`` must be installed, and needs
            weights of 16 bits on a GPU. By default, transformers chooses. In most cases, it chooses ``"sdpa"``.
        batch_size: maximum number of inputs in one forward pass.
        batch_tokens: maximum number of tokens in one forward pass, including padding.
        revision: the revision of the model in its hub repository.
        trust_remote_code: run code that comes with the model.
        query_prompt, document_prompt: the text before each item, or the system message of a chat model. By default, the
            prompt of the model or of its profile.
        prompt_names: names of the model's own prompts, such as ``{"query": "search", "document": "text"}``. A value of
            None in this dict means the model's default prompt, as in `SentenceTransformer.encode`. Without
            ``prompt_names``, the prompts are chosen as in the model's own ``encode_query`` and ``encode_document``.
        max_length: number of tokens after which a text is cut, including special tokens. By default, the model's own
            limit. Images and videos are never cut.
        profile: the name of a profile in `smart_rag.encoders.profiles`. By default, the model's family is recognised by
            its name and its files.
        query_tokens, document_tokens: the policy that chooses the tokens for late interaction. By default, the policy
            of the profile, in most cases ``"content"``: all tokens except special tokens. See docs/models.md.
        max_pixels: the maximum number of pixels of an image or a page. By default, that of the profile or the model.
        paper: whether the pooled token takes part in late interaction, unless it is special, as in the paper's code.
        adapter: the folder of an adapter that was trained for this model (`smart_rag.encoders.adapter`).
        base_model: the name or folder of the model that a LoRA is added to, if ``model`` is a folder or a repository
            that holds only a LoRA. By default, the model that its ``adapter_config.json`` names.
        backend: what runs the model. ``"torch"`` runs every model. ``"onnx"`` and ``"openvino"`` run text models on a
            CPU, faster and with the same numbers; see docs/models.md. By default, ``"onnx"`` if it can.
        model_options: further arguments of `SentenceTransformer`, such as ``{"truncate_dim": 256, "token": "hf_..."}``.

    Raises:
        ModelNotFound: the model cannot be loaded.
        EncoderError: the model gives no token embeddings, or the adapter is for another model.
        InvalidInput: an argument cannot be used with this model or on this machine.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        *,
        device: str | torch.device | Sequence[str] | None = None,
        dtype: str | None = None,
        attn_implementation: str | None = None,
        batch_size: int = 32,
        batch_tokens: int = 16_384,
        revision: str | None = None,
        trust_remote_code: bool = False,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        prompt_names: Mapping[Task, str | None] | None = None,
        max_length: int | None = None,
        profile: str | None = None,
        query_tokens: TokenPolicy | None = None,
        document_tokens: TokenPolicy | None = None,
        max_pixels: int | None = None,
        paper: bool = False,
        adapter: str | Path | None = None,
        model_options: Mapping[str, Any] | None = None,
        base_model: str | Path | None = None,
        backend: Backend = "auto",
    ) -> None:
        check_count("batch_size", batch_size)
        check_count("batch_tokens", batch_tokens)
        check_count("max_pixels", 1 if max_pixels is None else max_pixels, MOST_PIXELS)
        check_model_options(model_options or {})
        model_options = with_full_paths(model_options or {})
        self.model_name, self.revision = model_location(model), revision
        self._trust_remote_code, self._max_pixels = trust_remote_code, max_pixels
        self._device, self._dtype, self._attn_implementation = device, dtype, attn_implementation
        self._backend: Backend = backend
        self._model_options = portable_options(model_options)
        self._arguments = ModelArguments(
            model=self.model_name,
            device=device,
            dtype=dtype,
            attn_implementation=attn_implementation,
            batch_size=batch_size,
            batch_tokens=batch_tokens,
            revision=revision,
            trust_remote_code=trust_remote_code,
            prompts={"query": query_prompt, "document": document_prompt},
            prompt_names=prompt_names,
            max_length=max_length,
            profile=profile,
            policies={"query": query_tokens, "document": document_tokens},
            max_pixels=max_pixels,
            paper=paper,
            has_adapter=adapter is not None,
            model_options=model_options,
            base_model=None if base_model is None else model_location(base_model),
            backend=backend,
        )
        self._use(start(self._arguments))
        self._adapter: Adapter | None = None
        self._adapter_path: str | None = None
        dimension = self._model.model.get_embedding_dimension()
        self._dimension = int(dimension) if dimension else len(self.encode_query(["dimension"]).pooled[0])
        self._description: dict[str, Any] | None = None
        if adapter is not None:
            self._load_adapter(absolute(adapter))
        by_user = (self.model_name, revision, self._adapter_path, self._model_options)
        known_models.remember(*by_user, base_model=self._settings.describe().get("base_model"))

    def _use(self, engine: Engine) -> None:
        self._settings, self._model, self._batches = engine.settings, engine.model, engine.batches
        self._runs_on = engine.backend

    def _move_to_torch(self) -> None:
        """Let torch run the model from now on. Whoever takes the model may change its weights."""
        if not self._model.uses_torch:
            self._use(moved_to_torch(self._arguments, self._settings, self._batches))

    def _load_adapter(self, folder: Path) -> None:
        from smart_rag.encoders.adapter import Adapter

        adapter = Adapter.load(folder)
        adapter.check_model(self.model_name, self.dimension, self._model.weights_digest())
        self._adapter = adapter.requires_grad_(False)
        self._batches.use_adapter(self._adapter)
        self._adapter_path = str(folder)

    @classmethod
    def from_description(
        cls, description: Mapping[str, Any], device: str | Sequence[str] | None = None
    ) -> SmartEncoder:
        """Return the encoder that ``description`` describes (see `describe`). The manifest of an index holds one."""
        return cls(**arguments_in(description), device=device)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that make this encoder again, as JSON values. The device and a hub token are left out."""
        return {
            **arguments_in(self.describe()),
            "dtype": self._dtype,
            "attn_implementation": self._attn_implementation,
            "backend": self._backend,
            "batch_size": self.batch_size,
            "batch_tokens": self.batch_tokens,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        fingerprint = fingerprint_of(self._describe())  # of the weights as they are now
        return made_again, (type(self), {**self.arguments, "device": self._device}, fingerprint)

    @property
    def model(self) -> AnyModel:
        """The model of sentence-transformers, on the first device. From its first use on, torch runs the model."""
        self._move_to_torch()
        return self._model.model

    @property
    def trainable(self) -> TrainableModel:
        """The model in the form that a training needs: inputs and embeddings as tensors, with gradients."""
        self._move_to_torch()
        return TrainableModel(self._model, self._settings.policies)

    @property
    def dimension(self) -> int:
        return self._dimension

    @property
    def token_dimension(self) -> int:
        """The width of the token embeddings. With an adapter, or for jina-embeddings-v4, it is not ``dimension``."""
        return self._state_width if self._adapter is None else self._adapter.dimension

    @property
    def _state_width(self) -> int:
        """The width of the states after one layer."""
        return self._model.token_dimension or self._dimension

    @property
    def device(self) -> str:
        """The device of the model, such as ``"cpu"`` or ``"cuda:0"``. With several devices, the first one."""
        return str(self._model.model.device)

    @property
    def batch_size(self) -> int:
        """The maximum number of inputs in one forward pass. It is lowered when a GPU runs out of memory."""
        return self._batches.batch_size

    @batch_size.setter
    def batch_size(self, batch_size: int) -> None:
        check_count("batch_size", batch_size)
        self._batches.batch_size = batch_size

    @property
    def batch_tokens(self) -> int:
        """The maximum number of tokens in one forward pass, including padding."""
        return self._batches.batch_tokens

    @batch_tokens.setter
    def batch_tokens(self, batch_tokens: int) -> None:
        check_count("batch_tokens", batch_tokens)
        self._batches.batch_tokens = batch_tokens

    @property
    def max_length(self) -> int | None:
        """The number of tokens after which a text is cut, including special tokens. None if there is no limit."""
        length = self._model.inputs.max_length
        return None if length is None or length > UNLIMITED else int(length)

    @property
    def modalities(self) -> frozenset[str]:
        """The kinds of content that the model reads: some of ``"text"``, ``"image"`` and ``"video"``."""
        return self._model.inputs.modalities

    @property
    def combines_modalities(self) -> bool:
        """Whether the model represents a text and an image together. Otherwise, it reads only one of them at a time."""
        return self._model.inputs.combines_modalities

    @property
    def default_weights(self) -> tuple[float, float]:
        """The weights (pooled, late) of a new index: (0, 1) for a model that was trained for late interaction."""
        return (0.0, 1.0) if self._model.is_late_interaction else DEFAULT_WEIGHTS

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The settings of the model. The source of each is an argument, the model's own files, a profile or a rule."""
        settings, token_dimension = self._settings, self._model.token_dimension
        return (
            *settings.family_decisions,
            self._runs_on,
            *self._model.decisions,
            *settings.prompt_decisions,
            *settings.policy_decisions,
            Decision("dimension", self._dimension, OWN_FILES),
            *([] if token_dimension is None else [Decision("token_dimension", token_dimension, OWN_FILES)]),
            Decision("max_length", self.max_length, settings.max_length.source),
        )

    @property
    def tokens_per_page(self) -> int:
        """The number of token embeddings of a document that is an A4 page. It is 0 if the model reads no images."""
        if "image" not in self.modalities:
            return 0
        page = Content(image=images.blank(images.A4_PIXELS, 210 / 297))
        return int(self._batches.kept(self._model.inputs.positions(page, "document"), "document").sum())

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.describe())

    def describe(self) -> dict[str, Any]:
        """Return a description that identifies this encoder and its embeddings, as JSON values."""
        if self._description is None:
            self._description = self._describe()
        return dict(self._description)

    def _describe(self) -> dict[str, Any]:
        description = {
            "model": self.model_name,
            "revision": self.revision,
            "trust_remote_code": self._trust_remote_code,
            "weights": self._model.weights_digest(),
            "dimension": self.dimension,
            "max_length": self.max_length,
            "pooling": self._model.pooling,
            "modules": self._model.module_settings(),
            "layer": "last",
            "max_pixels": self._max_pixels,
            **self._settings.describe(),
        }
        if self._adapter is not None:
            description |= {
                "layer": f"adapter {self._adapter.digest}",
                "adapter": self._adapter_path,
                "token_dimension": self.token_dimension,
            }
        if self._model_options:
            description["model_options"] = self._model_options
        description |= {"paper": True} if self._model.profile.paper else {}
        description |= describe_backend(self._arguments, self._model.uses_torch)
        if "image" in self.modalities:
            description["images"] = self._model.describe_images()
        return description

    def encode_query(
        self,
        queries: Encodable | Sequence[Encodable],
        *,
        batch_size: int | None = None,
        show_progress_bar: bool = False,
    ) -> Representation:
        """Return the representation of ``queries`` in their order, with the model's query prompt.

        ``batch_size`` replaces the encoder's own for this call.

        Raises:
            InvalidInput: the model cannot read such a query.
        """
        return self._encode(queries, "query", Output(), batch_size, show_progress_bar)

    def encode_document(
        self,
        documents: Encodable | Sequence[Encodable],
        *,
        codec: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool = False,
    ) -> Representation:
        """Return the representation of ``documents`` in their order, with the model's document prompt.

        With a ``codec``, such as ``"balanced"``, token embeddings are `TokenCodes`. The device that computes them also
        codes them. Then they are copied to the CPU. ``batch_size`` replaces the encoder's own for this call.

        Raises:
            InvalidInput: the model cannot read such a document, or the codec does not exist. A codec that merges tokens
                is refused, too, because only a store merges tokens.
            DocumentError: the file of an image or a video cannot be read.
        """
        self._settings.log_family()
        output = Output(codec=None if codec is None else get_codec(codec, pooling=False))
        return self._encode(documents, "document", output, batch_size, show_progress_bar)

    def token_states(
        self,
        items: Encodable | Sequence[Encodable],
        task: Task,
        layers: Sequence[int] = (-1,),
        *,
        show_progress_bar: bool = False,
    ) -> Representation:
        """Return the representation of ``items`` that the training of an adapter needs.

        Its token embeddings are the states after ``layers``, side by side: (total, layers x dimension). Each row has
        length 1. The parts of a row that come from different layers keep the ratio of their lengths. With only the
        last layer, the rows are the token embeddings of an encoder without an adapter.

        Raises:
            EncoderError: the model has no such layer.
        """
        if tuple(layers) != (-1,):
            self._move_to_torch()
        return self._encode(items, task, Output(layers), None, show_progress_bar)

    def count_tokens(self, texts: str | Sequence[str]) -> list[int]:
        """Return the number of tokens of each full text, even if the text is too long for the model.

        Special tokens and prompts do not count.
        """
        return Reading(self._model.inputs.tokenizer).lengths([texts] if isinstance(texts, str) else texts)

    def token_spans(self, text: str) -> list[tuple[int, int]] | None:
        """Return the first and last place of each token of ``text``. Return None if the tokenizer knows no places."""
        return Reading(self._model.inputs.tokenizer).spans(text)

    def unread(self, texts: Sequence[str]) -> list[bool]:
        """Return for each text whether it is in a script that the model's tokenizer does not know; see `Reading`."""
        return Reading(self._model.inputs.tokenizer).unread(texts)

    def token_origins(self, item: Encodable, task: Task = "document") -> list[TokenOrigin]:
        """Return the origin of each token embedding of ``item``: characters of its text, or a patch of its image.

        Tokens of a prompt or a chat template have no origin.

        Raises:
            EncoderError: the model's tokenizer does not know which characters its tokens come from.
        """
        content = self._model.inputs.contents_of([item], task)[0]
        positions, origins = self._model.inputs.origins(content, task)
        kept = [origins[i] for i in np.flatnonzero(self._batches.kept(positions, task)[0])]
        return kept or [TokenOrigin(span=(0, len(content.text)) if content.plain == content.text else None)]

    def _encode(
        self,
        items: Encodable | Sequence[Encodable],
        task: Task,
        output: Output,
        batch_size: int | None,
        show_progress_bar: bool,
    ) -> Representation:
        check_count("batch_size", 1 if batch_size is None else batch_size)
        is_one = isinstance(items, str | Content | PdfPage) or hasattr(items, "getexif")
        contents = self._model.inputs.contents_of([items] if is_one else list(items), task)  # type: ignore[list-item,arg-type]
        if not contents:
            return self._empty(output)
        batch = self._batches.encode(contents, task, output, batch_size, show_progress_bar)
        tokens: TokenBatch | TokenCodes
        if output.codec is None:
            tokens = TokenBatch.from_list(batch.tokens, batch.ids)
        else:
            tokens = TokenCodes.from_list(batch.tokens, self.token_dimension, output.codec, batch.ids)
        return Representation(batch.pooled, tokens, batch.norms)

    def _empty(self, output: Output) -> Representation:
        """Return the representation of no items."""
        width = self.token_dimension if output.layers is None else self._state_width * len(output.layers)
        no_tokens = TokenBatch(np.zeros((0, width), dtype=np.float32), np.zeros(1, dtype=np.int64))
        return Representation(np.zeros((0, self.dimension), dtype=np.float32), no_tokens, np.zeros(0, np.float32))

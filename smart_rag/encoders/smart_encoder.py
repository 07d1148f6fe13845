"""`SmartEncoder`: texts, images and videos in, `Representation` out, one forward pass.

sentence-transformers knows each model's prompts, pooling, normalisation and dense layers. This module decides how the
model is used. `smart_rag.encoders.models` computes one forward pass, `smart_rag.encoders.batching` many.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from smart_rag.config import DEFAULT_MODEL, DEFAULT_WEIGHTS, check_choice, check_count
from smart_rag.embeddings.codec import get_codec
from smart_rag.embeddings.representation import Representation, TokenBatch, TokenCodes, TokenIds
from smart_rag.encoders import loading as checkpoint
from smart_rag.encoders.batching import Output, Passes
from smart_rag.encoders.models.clip import DualEncoder
from smart_rag.encoders.models.jina_v4 import JinaV4
from smart_rag.encoders.models.multi_vector import MultiVector
from smart_rag.encoders.models.pooled import UNLIMITED, Backbone
from smart_rag.encoders.profiles import ARGUMENT, OWN_FILES, Decision, Profile, TokenPolicy, profile_of
from smart_rag.errors import InvalidInput
from smart_rag.files import images
from smart_rag.types import Content, Encodable, PdfPage, Task, TokenOrigin, is_unicode
from smart_rag.wording import number

if TYPE_CHECKING:
    import torch
    from sentence_transformers import MultiVectorEncoder, SentenceTransformer

    from smart_rag.encoders.adapter import Adapter

logger = logging.getLogger(__name__)

# Of a description: what changes no number of a document, or is said there another time.
_NO_NUMBERS = (
    "model",
    "revision",
    "trust_remote_code",
    "query_prompt",
    "query_tokens",
    "document_tokens",
    "profile",
    "max_pixels",
    "adapter",
)


class SmartEncoder:
    """SMART representations from any sentence-transformers model, without training.

    >>> encoder = SmartEncoder("minilm")                            # doctest: +SKIP
    >>> documents = encoder.encode_document(["The cat sat.", "Dogs bark."])     # doctest: +SKIP
    >>> documents.pooled.shape, len(documents.tokens[0])                        # doctest: +SKIP
    ((2, 384), 4)

    A vision-language model takes images, pages of PDFs and videos as well, alone or with a text:
    see `Content`.

    Token embeddings are the last hidden states, brought into the pooled embedding's space by
    the model's own dense layers where it has any, and L2-normalised in float32. Special tokens
    and padding take no part in late interaction, nor does the position that a CLS or last-token
    model pools from (arXiv 2605.24938, section 3). What has no token left is represented by
    its pooled embedding as its only token.

    A forked process can use its parent's encoder on a CPU; torch uses one thread there. On a GPU, torch refuses.

    With an ``adapter``, token embeddings are what it makes of them, or of the states after other
    layers; of what has no token left, what it makes of the pooled embedding. Pooled embeddings stay as they are.

    Args:
        model: a sentence-transformers model name or folder; ``"minilm"`` is the bundled
            all-MiniLM-L6-v2 of the ``demo`` extra, which needs no network.
        device: such as ``"cpu"`` or ``"cuda:0"``; by default a GPU where there is one. With several, such as
            ``["cuda:0", "cuda:1"]``, each has the model and takes every other batch.
        dtype: of the weights, such as ``"bfloat16"``; by default float32 on a CPU and the
            checkpoint's own on a GPU.
        attention: how transformers computes it, such as ``"flash_attention_2"`` where that is installed (for
            weights of 16 bits on a GPU); by default transformers' own choice, mostly ``"sdpa"``.
        batch_size: inputs in one forward pass, at most.
        batch_tokens: tokens in one forward pass, padding included, at most.
        revision: of the model in its hub repository.
        trust_remote_code: run code that comes with the model.
        query_prompt, document_prompt: put before each text, or the system message of a model that
            chats; by default the model's own, or its profile's.
        max_length: tokens after which a text is cut, by default the model's own; an image or a video never is.
        profile: the name of one in `smart_rag.encoders.profiles`; by default the one for the model's name.
        query_tokens, document_tokens: which tokens take part in late interaction; by default the
            profile's, most often ``"content"``, all but special tokens. ``"text"``: these without
            image patches; ``"input"``: without prompt and chat template; ``"patches"``: image
            patches alone. See docs/models.md.
        max_pixels: of an image, at most; by default the profile's or the model's own.
        adapter: the folder of an adapter that was trained for this model (`smart_rag.encoders.adapter`).

    Raises:
        ModelNotFound: the model cannot be loaded.
        EncoderError: the model gives no token embeddings, or the adapter is not for it.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        *,
        device: str | torch.device | Sequence[str] | None = None,
        dtype: str | None = None,
        attention: str | None = None,
        batch_size: int = 32,
        batch_tokens: int = 16_384,
        revision: str | None = None,
        trust_remote_code: bool = False,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        max_length: int | None = None,
        profile: str | None = None,
        query_tokens: TokenPolicy | None = None,
        document_tokens: TokenPolicy | None = None,
        max_pixels: int | None = None,
        adapter: str | Path | None = None,
    ) -> None:
        if batch_size < 1 or batch_tokens < 1:
            raise InvalidInput(f"batch_size and batch_tokens must be at least 1, got {batch_size} and {batch_tokens}")
        if max_pixels is not None:
            check_count("max_pixels", max_pixels)
        self.model_name = str(model)
        self.revision = revision
        self._trust_remote_code = trust_remote_code
        chosen = profile_of(self.model_name, profile)
        self._profile: Profile = chosen.value
        first, *others = _devices(device)
        loaded = checkpoint.load(self.model_name, first, dtype, revision, trust_remote_code, attention)
        self._model: SentenceTransformer | MultiVectorEncoder = loaded.model.eval()
        source = self._profile.source
        # A model that was trained for late interaction knows which of its tokens count.
        own: tuple[Any, str] = ("content" if loaded.kind in ("multi-vector", "jina-v4") else None, OWN_FILES)
        policies = [
            Decision.first("query_tokens", (query_tokens, ARGUMENT), own, (self._profile.query_tokens, source)),
            Decision.first(
                "document_tokens", (document_tokens, ARGUMENT), own, (self._profile.document_tokens, source)
            ),
        ]
        for policy in policies:
            check_choice(policy.name, policy.value, TokenPolicy)
        self._policies: dict[Task, TokenPolicy] = {"query": policies[0].value, "document": policies[1].value}
        length = Decision.first(
            "max_length",
            (max_length, ARGUMENT),
            (None if loaded.says_how else self._profile.max_length, source),
            (None, OWN_FILES),
        )
        prompts = [
            _prompt("query", query_prompt, self._model, self._profile),
            _prompt("document", document_prompt, self._model, self._profile),
        ]
        self._max_pixels = max_pixels
        by_task: dict[Task, str] = {"query": prompts[0].value, "document": prompts[1].value}
        kinds = {"pooled": Backbone, "multi-vector": MultiVector, "dual": DualEncoder, "jina-v4": JinaV4}
        self._backbone = kinds[loaded.kind](self.model_name, loaded, self._profile, by_task, max_pixels)
        is_decoder = loaded.kind == "pooled" and "image" in self._backbone.modalities
        if chosen.source == ARGUMENT and self._profile.models and not is_decoder:
            raise InvalidInput(
                f"profile {self._profile.name!r} is for vision-language decoders, which {self.model_name!r} is not; "
                "leave profile out"
            )
        if length.value is not None:
            _check_max_length(self._model, length.value)
            self._backbone.max_length = length.value
        backbones = [self._backbone, *(copy.deepcopy(self._backbone) for _ in others)]
        for backbone, other in zip(backbones[1:], others, strict=True):
            backbone.model.to(other)
        self._passes = Passes(backbones, self._policies, batch_size, batch_tokens)
        self._adapter: Adapter | None = None
        self._adapter_path: str | None = None
        dimension = self._model.get_embedding_dimension()
        self._dimension = int(dimension) if dimension else len(self.encode_query(["dimension"]).pooled[0])
        self._decisions = (
            Decision("profile", self._profile.name, chosen.source),
            *self._backbone.decisions,
            *prompts,
            *policies,
            Decision("dimension", self._dimension, OWN_FILES),
            *([] if self._backbone.token_dimension is None else [Decision("token_dimension", self._width, OWN_FILES)]),
            Decision("max_length", self.max_length, length.source),
        )
        self._description: dict[str, Any] | None = None
        if adapter is not None:
            self._take_adapter(Path(adapter))

    def _take_adapter(self, folder: Path) -> None:
        from smart_rag.encoders.adapter import Adapter

        adapter = Adapter.load(folder)
        adapter.check_model(self.model_name, self.dimension, checkpoint.weights_digest(self._model))
        self._adapter = adapter.requires_grad_(False)
        self._passes.adapt(self._adapter)
        self._adapter_path = str(folder.expanduser().absolute())

    @classmethod
    def from_description(
        cls, description: Mapping[str, Any], device: str | Sequence[str] | None = None
    ) -> SmartEncoder:
        """Return the encoder that `describe` described, as an index's manifest keeps it."""
        names = ("revision", "trust_remote_code", "query_prompt", "document_prompt", "max_length")
        later = ("profile", "query_tokens", "document_tokens", "max_pixels", "adapter")
        options = {name: description[name] for name in names}
        options |= {name: description[name] for name in later if name in description}
        return cls(description["model"], device=device, **options)

    @property
    def _location(self) -> str:
        """The model's name, or where its folder is; an index is not always opened from here."""
        return str(Path(self.model_name).absolute()) if Path(self.model_name).is_dir() else self.model_name

    @property
    def dimension(self) -> int:
        return self._dimension

    @property
    def token_dimension(self) -> int:
        """The width of the token embeddings: that of the pooled ones, but for an adapter's and jina-embeddings-v4's."""
        return self._width if self._adapter is None else self._adapter.dimension

    @property
    def _width(self) -> int:
        """The width of the states after one layer."""
        return self._backbone.token_dimension or self._dimension

    @property
    def device(self) -> str:
        """The device that the model is on, such as ``"cpu"`` or ``"cuda:0"``; the first of several."""
        return str(self._model.device)

    @property
    def batch_size(self) -> int:
        """The inputs in one forward pass, at most; fewer after a GPU ran out of memory."""
        return self._passes.batch_size

    @batch_size.setter
    def batch_size(self, batch_size: int) -> None:
        check_count("batch_size", batch_size)
        self._passes.batch_size = batch_size

    @property
    def batch_tokens(self) -> int:
        """The tokens in one forward pass, padding included, at most."""
        return self._passes.batch_tokens

    @batch_tokens.setter
    def batch_tokens(self, batch_tokens: int) -> None:
        check_count("batch_tokens", batch_tokens)
        self._passes.batch_tokens = batch_tokens

    @property
    def max_length(self) -> int | None:
        """The tokens after which a text is cut, special tokens included."""
        length = self._backbone.max_length
        return None if length is None or length > UNLIMITED else int(length)

    @property
    def modalities(self) -> frozenset[str]:
        """What the model takes, of ``"text"``, ``"image"``, ``"video"``."""
        return self._backbone.modalities

    @property
    def combines(self) -> bool:
        """Whether the model represents a text and an image together; otherwise it takes one of them at a time."""
        return self._backbone.combines

    @property
    def default_weights(self) -> tuple[float, float]:
        """The weights (pooled, late) of a new index: late alone for a model that was trained for late interaction."""
        return (0.0, 1.0) if self._backbone.late_only else DEFAULT_WEIGHTS

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """How the model is used: each setting, and whether an argument, the model's files or a profile decided it."""
        return self._decisions

    @property
    def tokens_per_page(self) -> int:
        """How many token embeddings an upright A4 page has as a document; 0 if the model takes no images."""
        if "image" not in self.modalities:
            return 0
        page = Content(image=images.blank(self._backbone.page_pixels, 210 / 297))
        return int(self._passes.kept(self._backbone.positions(page, "document"), "document").sum())

    @property
    def fingerprint(self) -> str:
        # The model's name and the folder it lies in change no number; a query's settings none of a document.
        numbers = {key: value for key, value in self.describe().items() if key not in _NO_NUMBERS}
        return hashlib.blake2b(json.dumps(numbers, sort_keys=True).encode(), digest_size=16).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return what identifies this encoder and its numbers, as JSON values."""
        if self._description is None:
            self._description = {
                "model": self._location,
                "revision": self.revision,
                "trust_remote_code": self._trust_remote_code,
                "weights": checkpoint.weights_digest(self._model),
                "dimension": self.dimension,
                "max_length": self.max_length,
                "pooling": self._backbone.pooling,
                "modules": checkpoint.module_configs(self._model),
                "layer": "last",
                "tokens": self._policies["document"],
                "query_prompt": self._backbone.prompts["query"],
                "document_prompt": self._backbone.prompts["document"],
                "query_tokens": self._policies["query"],
                "document_tokens": self._policies["document"],
                "profile": self._profile.name,
                "max_pixels": self._max_pixels,
            }
            if self._adapter is not None:
                self._description |= {
                    "layer": f"adapter {self._adapter.digest}",
                    "adapter": self._adapter_path,
                    "token_dimension": self.token_dimension,
                }
            if "image" in self.modalities:
                self._description["images"] = self._backbone.describe_images()
        return dict(self._description)

    def encode_query(
        self, queries: Encodable | Sequence[Encodable], *, show_progress_bar: bool = False
    ) -> Representation:
        """Return the representation of ``queries`` with the model's query prompt, in their order."""
        return self._encode(queries, "query", Output(), show_progress_bar=show_progress_bar)

    def encode_document(
        self, documents: Encodable | Sequence[Encodable], *, codec: str | None = None, show_progress_bar: bool = False
    ) -> Representation:
        """Return the representation of ``documents`` with the model's document prompt, in their order.

        With a ``codec``, such as ``"balanced"``, token embeddings are `TokenCodes`: coded on the device that they are
        computed on, and only then copied to the CPU.

        Raises:
            InvalidInput: there is no such codec, or it makes one token of several, which is for a store to do.
        """
        output = Output(codec=None if codec is None else get_codec(codec, pooling=False))
        return self._encode(documents, "document", output, show_progress_bar=show_progress_bar)

    def token_states(
        self,
        items: Encodable | Sequence[Encodable],
        task: Task,
        layers: Sequence[int] = (-1,),
        *,
        show_progress_bar: bool = False,
    ) -> Representation:
        """Return what an adapter is trained on: of each token the states after ``layers``, side by side.

        The representation's token embeddings are (total, layers x dimension), L2-normalised, each layer as long as
        the others; those of the last layer alone are the token embeddings of an encoder without an adapter.

        Raises:
            EncoderError: the model has no such layer.
        """
        return self._encode(items, task, Output(layers), show_progress_bar=show_progress_bar)

    @property
    def model(self) -> SentenceTransformer | MultiVectorEncoder:
        """The model of sentence-transformers that it stands on, on the first of its devices."""
        return self._model

    def prepare(self, items: Sequence[Encodable], task: Task) -> dict[str, Any]:
        """Return what the model reads of ``items`` for one forward pass of it, as tensors on the CPU.

        Beside the model's own inputs: ``keep`` (n, length), True where a token takes part in late interaction, and
        the ``task``. For training; `encode_query` and `encode_document` do this and the rest.
        """
        import torch

        prepared = self._backbone.prepare(self._checked(items, task), task)
        keep = torch.from_numpy(self._passes.kept(prepared.positions, task))
        return {**prepared.features, "keep": keep, "task": task}

    def make_portable(self) -> None:
        """Give the model itself what its profile adds, so that it is asked in the same way wherever it is loaded.

        For a model that is trained and saved: its prompts, chat template and pixel budget go with it.

        Raises:
            EncoderError: the model is of a kind that is not trained here, or no folder can say how it is used.
        """
        self._backbone.make_portable()

    def comparable(self, pooled: torch.Tensor, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the model's pooled vectors (n, d) and token states (tokens, width) as embeddings of one space.

        With gradients where the inputs have them.
        """
        pooled, tokens = self._backbone.comparable(pooled, [states])
        return pooled, tokens[:, 0]

    def count_tokens(self, texts: str | Sequence[str]) -> list[int]:
        """Return how many tokens each text has, special tokens and prompts left out, nothing cut."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            return []
        encoded = self._model.tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False)
        return [len(ids) for ids in encoded["input_ids"]]

    def token_origins(self, item: Encodable, task: Task = "document") -> list[TokenOrigin]:
        """Return, for each token embedding of ``item``, the characters of its text or the patch that it stands for.

        A prompt's and a chat template's tokens stand for neither.

        Raises:
            EncoderError: the model's tokenizer does not know where its tokens come from.
        """
        content = self._checked([item], task)[0]
        positions, origins = self._backbone.origins(content, task)
        kept = [origins[i] for i in np.flatnonzero(self._passes.kept(positions, task)[0])]
        return kept or [TokenOrigin(span=(0, len(content.text)) if content.plain == content.text else None)]

    def _encode(
        self,
        items: Encodable | Sequence[Encodable],
        task: Task,
        output: Output,
        *,
        show_progress_bar: bool,
    ) -> Representation:
        is_one = isinstance(items, str | Content | PdfPage) or hasattr(items, "getexif")
        contents = self._checked([items] if is_one else list(items), task)  # type: ignore[list-item,arg-type]
        if not contents:
            empty = np.zeros((0, self.dimension), dtype=np.float32)
            width = self.token_dimension if output.layers is None else self._width * len(output.layers)
            tokens_of_none = np.zeros((0, width), dtype=np.float32)
            return Representation(empty, TokenBatch(tokens_of_none, np.zeros(1, dtype=np.int64)))
        started = time.perf_counter()
        pooled: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(contents)
        tokens: list[NDArray[Any]] = [*pooled]
        ids: list[TokenIds] = [np.empty(0, dtype=np.int32)] * len(contents)
        from tqdm.auto import tqdm

        unit = "text" if all(content.modality in ("text", "") for content in contents) else "item"
        with tqdm(
            total=len(contents), desc=f"encoding on {self.device}", unit=unit, disable=not show_progress_bar
        ) as progress:
            for positions, batch in self._passes.run(contents, task, output):
                for i, *numbers in zip(positions, batch.pooled, batch.tokens, batch.ids, strict=True):
                    pooled[i], tokens[i], ids[i] = numbers
                progress.update(len(positions))
        seconds = time.perf_counter() - started
        result = Representation(
            np.stack(pooled),
            TokenBatch.from_list(tokens, ids)
            if output.codec is None
            else TokenCodes.from_list(tokens, self.token_dimension, output.codec, ids),
        )
        logger.info(
            "encoded %s, %s, on %s in %.2f s (%.0f %ss/s)",
            *(number(len(contents), f"{task} {unit}"), number(int(result.tokens.offsets[-1]), "token")),
            *(self.device, seconds, len(contents) / seconds, unit),
        )
        return result

    def _checked(self, items: Sequence[Encodable], task: Task) -> list[Content]:
        """Return ``items`` as contents that the model takes."""
        kind = "query" if task == "query" else "item"
        contents = []
        for i, item in enumerate(items):
            try:
                content = Content.of(item)
            except InvalidInput as error:
                raise InvalidInput(f"{kind} {i} is {error}") from None
            if not is_unicode(content.text):
                raise InvalidInput(f"{kind} {i} holds a lone surrogate; expected Unicode")
            for modality in content.modality.split("+"):
                if modality and modality not in self.modalities:
                    raise InvalidInput(
                        f"{kind} {i} has {'an image' if modality == 'image' else f'a {modality}'}, but "
                        f"{self.model_name} takes {', '.join(sorted(self.modalities))}; use a model that takes "
                        f"{modality}s"
                    )
            if "+" in content.modality and not self._backbone.combines:
                raise InvalidInput(
                    f"{kind} {i} has {' and '.join(content.modality.split('+'))} together, but {self.model_name} "
                    "represents each by itself; pass one of them"
                )
            contents.append(content)
        return contents


def _devices(device: str | torch.device | Sequence[str] | None) -> list[str | None]:
    """Return the names of the devices asked for, at least one; None for the best there is."""
    if device is None:
        return [None]
    devices = list(device) if isinstance(device, Sequence) and not isinstance(device, str) else [str(device)]
    if not devices:
        raise InvalidInput("device names no device; expected one, several, or None for the best there is")
    for named in devices:
        checkpoint.check_device(named)
    return [*devices]


def _prompt(
    task: Task, given: str | None, model: SentenceTransformer | MultiVectorEncoder, profile: Profile
) -> Decision:
    """Decide on the prompt: the one given, else the one that sentence-transformers would use, else the profile's."""
    # A default prompt is for neither queries nor documents: sentence-transformers leaves it out here, too.
    names = ("query",) if task == "query" else ("document", "passage", "corpus")
    own = next((prompt for prompt in map((model.prompts or {}).get, names) if prompt), None)
    return Decision.first(
        f"{task}_prompt", (given, ARGUMENT), (own, OWN_FILES), (profile.prompts[task], profile.source)
    )


def _check_max_length(model: SentenceTransformer | MultiVectorEncoder, max_length: int) -> None:
    """Raise `InvalidInput` unless the model can take texts of ``max_length`` tokens, special tokens included."""
    check_count("max_length", max_length)
    config = getattr(model.transformers_model, "config", None)
    most = getattr(config, "max_position_embeddings", None) or UNLIMITED
    least = 1 + len(model.tokenizer("", verbose=False)["input_ids"])
    if not least <= max_length <= most:
        raise InvalidInput(f"max_length must be {least} to {most:,} for this model, got {max_length}")

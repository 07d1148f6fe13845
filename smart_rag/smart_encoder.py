"""`SmartEncoder`: texts, images and videos in, `Representation` out, one forward pass.

It stands on sentence-transformers, which knows each model's prompts, pooling,
normalisation and dense layers. What it lacks is added here: which tokens take part in late
interaction, token embeddings in the pooled embedding's space, and batches by token budget.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import time
import unicodedata
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from smart_rag import checkpoint, images
from smart_rag import codec as codecs
from smart_rag.backbone import Backbone, Mask, Positions, Prepared
from smart_rag.config import DEFAULT_MODEL, DEFAULT_WEIGHTS, check_choice, check_count
from smart_rag.dual_encoder import DualEncoder
from smart_rag.encoder import Encodable, as_content, plain
from smart_rag.errors import InvalidInput
from smart_rag.jina_v4 import JinaV4
from smart_rag.multi_vector import MultiVector
from smart_rag.profiles import ARGUMENT, OWN_FILES, Decision, Profile, Task, TokenPolicy, profile_of
from smart_rag.types import (
    Codec,
    Content,
    PdfPage,
    Place,
    Representation,
    TokenBatch,
    TokenCodes,
    TokenIds,
    is_unicode,
)

if TYPE_CHECKING:
    import torch
    from sentence_transformers import MultiVectorEncoder, SentenceTransformer

    from smart_rag.adapter import Adapter

logger = logging.getLogger(__name__)

# Tokenizers and models without a limit say so by numbers such as 1e30.
_UNLIMITED = 1_000_000
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


@dataclass(frozen=True, slots=True)
class _Output:
    """What of each token is wanted of a forward pass: its embedding, or its states after ``layers``; by ``codec``."""

    layers: Sequence[int] | None = None
    codec: Codec | None = None


@dataclass(frozen=True, slots=True)
class _Batch:
    """The numbers of one forward pass, already on the CPU; those of tokens may be codes."""

    pooled: NDArray[np.float32]
    tokens: list[NDArray[Any]]
    ids: list[TokenIds]


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
        profile: the name of one in `smart_rag.profiles`; by default the one for the model's name.
        query_tokens, document_tokens: which tokens take part in late interaction; by default the
            profile's, most often ``"content"``, all but special tokens. ``"text"``: these without
            image patches; ``"input"``: without prompt and chat template; ``"patches"``: image
            patches alone. See docs/models.md.
        max_pixels: of an image, at most; by default the profile's or the model's own.
        adapter: the folder of an adapter that was trained for this model (`smart_rag.adapter`).

    Raises:
        ModelNotFound: the model cannot be loaded.
        EncoderError: the model gives no token embeddings, or the adapter is not for it.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        *,
        device: str | Sequence[str] | None = None,
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
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        self._trust_remote_code = trust_remote_code
        chosen = profile_of(self.model_name, profile)
        self._profile: Profile = chosen.value
        first, *others = [device] if device is None or isinstance(device, str) else device
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
        if length.value is not None:
            _check_max_length(self._model, length.value)
            self._backbone.max_length = length.value
        self._backbones = [self._backbone]
        for other in others:
            self._backbones.append(copy.deepcopy(self._backbone))
            self._backbones[-1].model.to(other)
        self._is_punctuation: dict[int, bool] = {}
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
        from smart_rag.adapter import Adapter

        adapter = Adapter.load(folder)
        adapter.check_model(self.model_name, self.dimension, checkpoint.weights_digest(self._model))
        self._adapter = adapter.to(self._model.device).requires_grad_(False)
        devices = {backbone.model.device for backbone in self._backbones}
        self._adapters = {device: copy.deepcopy(adapter).to(device) for device in devices}
        self._adapter_path = str(folder.expanduser().absolute())  # an index is not always opened from here

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
    def max_length(self) -> int | None:
        """The tokens after which a text is cut, special tokens included."""
        length = self._backbone.max_length
        return None if length is None or length > _UNLIMITED else int(length)

    @property
    def modalities(self) -> frozenset[str]:
        """What the model takes, of ``"text"``, ``"image"``, ``"video"``."""
        return self._backbone.modalities

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
        return int(self._kept(self._backbone.positions(page, "document"), "document").sum())

    @property
    def fingerprint(self) -> str:
        # The model's name and the folder it lies in change no number; a query's settings none of a document.
        numbers = {key: value for key, value in self.describe().items() if key not in _NO_NUMBERS}
        return hashlib.blake2b(json.dumps(numbers, sort_keys=True).encode(), digest_size=16).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return what identifies this encoder and its numbers, as JSON values."""
        if self._description is None:
            self._description = {
                "model": self.model_name,
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

    def encode_query(self, queries: Encodable | Sequence[Encodable], *, show_progress: bool = False) -> Representation:
        """Return the representation of ``queries`` with the model's query prompt, in their order."""
        return self._encode(queries, "query", _Output(), show_progress=show_progress)

    def encode_document(
        self, documents: Encodable | Sequence[Encodable], *, codec: str | None = None, show_progress: bool = False
    ) -> Representation:
        """Return the representation of ``documents`` with the model's document prompt, in their order.

        With a ``codec``, such as ``"balanced"``, token embeddings are `TokenCodes`: coded on the device that they are
        computed on, and only then copied to the CPU.

        Raises:
            InvalidInput: there is no such codec, or it makes one token of several, which is for a store to do.
        """
        coded = None if codec is None else codecs.codec(codec)
        if coded is not None and coded.pool_factor > 1:
            raise InvalidInput(
                f"codec {coded.name!r} makes one token of several, which a store does as it writes; here take "
                f"{coded.name.partition('/')[0]!r}"
            )
        return self._encode(documents, "document", _Output(codec=coded), show_progress=show_progress)

    def token_states(
        self,
        items: Encodable | Sequence[Encodable],
        task: Task,
        layers: Sequence[int] = (-1,),
        *,
        show_progress: bool = False,
    ) -> Representation:
        """Return what an adapter is trained on: of each token the states after ``layers``, side by side.

        The representation's token embeddings are (total, layers x dimension), L2-normalised, each layer as long as
        the others; those of the last layer alone are the token embeddings of an encoder without an adapter.

        Raises:
            EncoderError: the model has no such layer.
        """
        return self._encode(items, task, _Output(layers), show_progress=show_progress)

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

        prepared = self._backbone.prepare(self._checked(items), task)
        keep = torch.from_numpy(self._kept(prepared.positions, task))
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

    def token_places(self, item: Encodable, task: Task = "document") -> list[Place]:
        """Return, for each token embedding of ``item``, the characters of its text or the patch that it stands for.

        A prompt's and a chat template's tokens stand for neither.

        Raises:
            EncoderError: the model's tokenizer does not know where its tokens come from.
        """
        content = self._checked([item])[0]
        positions, places = self._backbone.places(content, task)
        kept = [places[i] for i in np.flatnonzero(self._kept(positions, task)[0])]
        return kept or [Place(span=(0, len(content.text)) if plain(content) == content.text else None)]

    def _encode(
        self,
        items: Encodable | Sequence[Encodable],
        task: Task,
        output: _Output,
        *,
        show_progress: bool,
    ) -> Representation:
        is_one = isinstance(items, str | Content | PdfPage) or hasattr(items, "getexif")
        contents = self._checked([items] if is_one else list(items))  # type: ignore[list-item,arg-type]
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
            total=len(contents), desc=f"encoding on {self.device}", unit=unit, disable=not show_progress
        ) as progress:
            for positions, batch in self._passes(contents, task, output):
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
            "encoded %d %s %ss, %d tokens, on %s in %.2f s (%.0f %ss/s)",
            *(len(contents), task, unit, result.tokens.offsets[-1], self.device, seconds),
            *(len(contents) / seconds, unit),
        )
        return result

    def _checked(self, items: Sequence[Encodable]) -> list[Content]:
        """Return ``items`` as contents that the model takes."""
        contents = []
        for i, item in enumerate(items):
            try:
                content = as_content(item)
            except InvalidInput as error:
                raise InvalidInput(f"item {i} is {error}") from None
            if not is_unicode(content.text):
                raise InvalidInput(f"item {i} holds a lone surrogate; expected Unicode")
            for modality in content.modality.split("+"):
                if modality and modality not in self.modalities:
                    raise InvalidInput(
                        f"item {i} has {'an image' if modality == 'image' else f'a {modality}'}, but {self.model_name} "
                        f"takes {', '.join(sorted(self.modalities))}; use a model that takes {modality}s"
                    )
            if "+" in content.modality and not self._backbone.combines:
                raise InvalidInput(
                    f"item {i} has {' and '.join(content.modality.split('+'))} together, but {self.model_name} "
                    "represents each by itself; pass one of them"
                )
            contents.append(content)
        return contents

    def _batches(self, contents: Sequence[Content], task: Task) -> Iterator[list[int]]:
        """Yield positions of contents of like length, longest first, so that memory runs out at once or never."""
        prompt = self._backbone.prompts[task]
        encoded = self._model.tokenizer(
            [prompt + content.text for content in contents], truncation=False, verbose=False
        )
        lengths = np.minimum([len(ids) for ids in encoded["input_ids"]], self.max_length or _UNLIMITED)
        is_empty = (lengths == 0) & [content.image is None for content in contents]
        if is_empty.any() and not self._backbone.has_template:
            empty = int(np.argmax(is_empty))
            raise InvalidInput(
                f"text {empty} ({contents[empty].text!r}) gives {self.model_name} no token at all; leave such texts out"
            )
        lengths += [self._backbone.visual_tokens(content) for content in contents]
        batch: list[int] = []
        apart = not self._backbone.combines
        kinds = np.asarray([apart and content.image is not None for content in contents])
        for i in np.lexsort((-lengths, kinds)).tolist():
            longest = lengths[batch[0]] if batch else 0
            full = len(batch) == self.batch_size or (len(batch) + 1) * longest > self.batch_tokens
            full = full or (len(batch) > 0 and bool(kinds[i] != kinds[batch[0]]))
            # A video has a size of its own, which all of a batch would get.
            if batch and (full or any(contents[j].video is not None for j in (i, batch[0]))):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _passes(self, contents: Sequence[Content], task: Task, output: _Output) -> Iterator[tuple[list[int], _Batch]]:
        """Yield the positions of each batch and its numbers."""
        batches = list(self._batches(contents, task))
        sees = any(plain(content) != content.text for content in contents)
        if not sees and len(self._backbones) == 1:  # texts are read in no time
            for batch in batches:
                yield batch, self._forward([contents[i] for i in batch], task, output)
            return
        # While images of one batch are in the forward pass, those of the next are opened; one batch alone becomes two.
        if sees and len(batches) == 1 and len(batches[0]) > 1:
            middle = (len(batches[0]) + 1) // 2
            batches = [batches[0][:middle], batches[0][middle:]]
        parts = [[contents[i] for i in batch] for batch in batches]
        devices = len(self._backbones)
        # One thread reads, not more: a tokenizer can be used by one at a time.
        with ThreadPoolExecutor(1, "smart_rag") as reader, ThreadPoolExecutor(devices, "smart_rag") as runner:
            reading = deque(reader.submit(self._prepared, part, task) for part in parts[:devices])
            running: deque[Future[_Batch]] = deque()
            done = iter(batches)
            for i, part in enumerate(parts):
                ready = reading.popleft().result()
                if i + devices < len(parts):
                    reading.append(reader.submit(self._prepared, parts[i + devices], task))
                running.append(runner.submit(self._forward, part, task, output, ready, self._backbones[i % devices]))
                if len(running) == devices:
                    yield next(done), running.popleft().result()
            for batch in done:
                yield batch, running.popleft().result()

    def _prepared(self, contents: list[Content], task: Task) -> tuple[Prepared, TokenIds]:
        """Return what the forward pass reads of ``contents``, and the vocabulary ids (n, length)."""
        prepared = self._backbone.prepare(contents, task)
        return prepared, self._vocabulary_ids(prepared.positions)

    def _forward(
        self,
        contents: list[Content],
        task: Task,
        output: _Output,
        ready: tuple[Prepared, TokenIds] | None = None,
        backbone: Backbone | None = None,
    ) -> _Batch:
        """Return the numbers of ``contents``; when a GPU runs out of memory, of one half after the other."""
        import torch

        backbone = backbone or self._backbone
        try:
            with torch.inference_mode():
                return self._forward_once(backbone, *(ready or self._prepared(contents, task)), output)
        except torch.OutOfMemoryError:
            if len(contents) == 1:
                raise
        # Outside of the except clause: there the traceback still holds the failed batch's memory.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        middle = (len(contents) + 1) // 2
        self.batch_size = min(self.batch_size, middle)
        logger.warning("%s ran out of memory with %d inputs; going on with %d", self.device, len(contents), middle)
        halves = [
            self._forward(half, task, output, backbone=backbone) for half in (contents[:middle], contents[middle:])
        ]
        return _Batch(
            np.concatenate([half.pooled for half in halves]),
            [matrix for half in halves for matrix in half.tokens],
            [ids for half in halves for ids in half.ids],
        )

    def _forward_once(self, backbone: Backbone, prepared: Prepared, words: TokenIds, output: _Output) -> _Batch:
        import torch
        from torch.nn.functional import normalize

        adapter = self._adapter if output.layers is None else None
        layers = output.layers or ((-1,) if adapter is None else adapter.layers)
        states = backbone.forward(prepared, layers)
        if states.positions is not prepared.positions:  # tokens were merged, and are no words any more
            words = np.full(states.positions.ids.shape, -1, dtype=np.int32)
        keep = self._kept(states.positions, prepared.task)
        where = torch.from_numpy(keep).to(states.pooled.device)
        # Of the tokens that are kept, (total, layers, dimension).
        pooled, hidden = backbone.comparable(states.pooled, [of_layer[where] for of_layer in states.hidden])
        alone = pooled if states.summary is None else normalize(states.summary.float(), dim=1)
        alone = alone[:, None].expand(-1, len(layers), -1)  # for what has no token left
        if adapter is not None:
            on_device = self._adapters[pooled.device]
            flat, alone = on_device(hidden), on_device(alone)
        else:
            flat, alone = (part.flatten(1) / len(layers) ** 0.5 for part in (hidden, alone))
        # A copy for each text, so that keeping one keeps no other alive.
        starts = np.cumsum(keep.sum(axis=1))[:-1]
        copied = _copied if output.codec is None else output.codec.encode
        rows, ids = np.split(copied(flat), starts), np.split(words[keep], starts)
        substitutes, none = copied(alone), np.full(1, -1, dtype=np.int32)
        return _Batch(
            pooled.cpu().numpy(),
            [row.copy() if len(row) else substitutes[i : i + 1].copy() for i, row in enumerate(rows)],
            [row.copy() if len(row) else none for row in ids],
        )

    def _kept(self, positions: Positions, task: Task) -> Mask:
        """Return which positions (n, length) take part in late interaction."""
        policy = self._policies[task]
        keep = positions.attended & ~positions.special & ~positions.pooled
        if policy == "text":
            keep &= ~positions.visual
        elif policy == "input":
            keep &= ~positions.template
        elif policy == "patches":
            keep &= positions.visual & ~positions.template
        return keep

    def _vocabulary_ids(self, positions: Positions) -> TokenIds:
        """Return the ids (n, length), -1 for what stands for no word of the content.

        Punctuation is among that: by itself it says nothing, however rare it is in an index.
        """
        unique, position = np.unique(positions.ids, return_inverse=True)
        for id in unique.tolist():
            if id not in self._is_punctuation:
                text = self._model.tokenizer.decode([id]).strip()
                self._is_punctuation[id] = all(unicodedata.category(letter).startswith("P") for letter in text)
        words = np.asarray([-1 if self._is_punctuation[id] else id for id in unique.tolist()], dtype=np.int32)
        words = words[position].reshape(positions.ids.shape)
        words[positions.visual | positions.template] = -1
        return words


def _copied(rows: torch.Tensor) -> NDArray[np.float32]:
    return rows.cpu().numpy()


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
    most = getattr(config, "max_position_embeddings", None) or _UNLIMITED
    least = 1 + len(model.tokenizer("", verbose=False)["input_ids"])
    if not least <= max_length <= most:
        raise InvalidInput(f"max_length must be {least} to {most:,} for this model, got {max_length}")

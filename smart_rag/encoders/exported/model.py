"""`ExportedTextModel`: a text model that runs without torch, with the numbers that torch gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smart_rag.encoders.compatibility import Pooling
from smart_rag.encoders.exported.folder import ExportFolder
from smart_rag.encoders.exported.runner import Backend, Precision, runner_of
from smart_rag.encoders.exported.tokenizer import FileTokenizer
from smart_rag.encoders.models.inputs import UNLIMITED, Prepared
from smart_rag.encoders.models.pooled import PooledModel, UnitStates
from smart_rag.encoders.models.positions import Mask, Positions
from smart_rag.errors import EncoderError


class Features(dict[str, Any]):
    """Inputs of a forward pass as arrays, with the ``encodings`` of their texts, as transformers returns them."""

    encodings: Sequence[Any] = ()


class ExportedModel:
    """Stands in for a model of sentence-transformers, where smart_rag reads its settings and prepares its inputs.

    Args:
        folder: the files of the export.
        settings: the settings that were written with them.
        backend: what runs the files.
        precision: the precision of the products.
        truncate_dim: the width to which embeddings are truncated.
    """

    device = "cpu"
    modalities = ("text",)

    def __getitem__(self, position: int) -> ExportedModel:
        """Return this object, which is its own first module: it has no processor for images."""
        return self

    def __init__(
        self,
        folder: ExportFolder,
        settings: Mapping[str, Any],
        backend: Backend,
        precision: Precision = "float32",
        truncate_dim: int | None = None,
    ) -> None:
        self.settings = settings
        self.truncate_dim = truncate_dim
        self.prompts: dict[str, str] = settings["prompts"]
        self.default_prompt_name: str | None = settings["default_prompt_name"]
        self.pooling = Pooling((settings["pooling"],), settings["include_prompt"])
        # The functions of `compatibility` look here for the configuration.
        self.transformers_model = SimpleNamespace(config=SimpleNamespace(**settings["config"]))
        self._max_seq_length: int | None = settings["max_seq_length"]
        self.tokenizer = FileTokenizer(folder.tokenizer, settings["tokenizer"], self._cut())
        path = folder.int8_model if precision == "int8" else folder.model_file(settings)
        if settings["fused"] and backend == "onnx" and precision == "float32":
            path = folder.fused_model
        self.runner = runner_of(path, backend, precision)
        self.head = runner_of(folder.head, "onnx") if settings["has_head"] else None
        self._prompt_lengths: dict[str, int] = {}

    def _cut(self) -> int | None:
        length = self._max_seq_length
        return None if length is None or length > UNLIMITED else length

    @property
    def max_seq_length(self) -> int | None:
        """The number of tokens after which a text is cut."""
        return self._max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, length: int | None) -> None:
        self._max_seq_length = length
        self.tokenizer.limit_length(self._cut())

    def get_embedding_dimension(self) -> int:
        """Return the width of the pooled embeddings."""
        width: int = self.settings["dimension"]
        return min(width, self.truncate_dim or width)

    def preprocess(self, texts: Sequence[str], *, prompt: str | None = None, task: str | None = None) -> Features:
        """Return ids, mask and types (n, length), padded as the tokenizer of the model pads them."""
        encodings = self.tokenizer.encodings([(prompt or "") + text for text in texts])
        settings = self.settings["tokenizer"]
        length = max(map(len, encodings), default=0)
        ids = np.full((len(encodings), length), settings["named_ids"]["pad"] or 0, dtype=np.int64)
        types = np.full(ids.shape, settings["pad_type"], dtype=np.int64)
        attended = np.zeros(ids.shape, dtype=np.int64)
        on_left = settings["padding_side"] == "left"
        for i, encoding in enumerate(encodings):
            count = len(encoding)
            where = slice(length - count, length) if on_left else slice(count)
            ids[i, where], types[i, where], attended[i, where] = encoding.ids, encoding.type_ids, 1
            encoding.pad(length, direction=settings["padding_side"])
        features = Features(input_ids=ids, attention_mask=attended, token_type_ids=types)
        features.encodings = encodings
        if prompt:
            features["prompt_length"] = self._prompt_length(prompt)
        return features

    def _prompt_length(self, prompt: str) -> int:
        """Return the number of tokens of ``prompt`` alone, without a special token at its end, as the model counts."""
        if prompt not in self._prompt_lengths:
            ids = self.tokenizer.encodings([prompt])[0].ids
            is_closed = bool(ids) and ids[-1] in self.tokenizer.all_special_ids
            self._prompt_lengths[prompt] = len(ids) - is_closed
        return self._prompt_lengths[prompt]


class ExportedTextModel(PooledModel):
    """Runs an export. All its results are arrays of NumPy."""

    uses_torch = False

    def unit_states(self, prepared: Prepared, layers: Sequence[int], keep: Callable[[Positions], Mask]) -> UnitStates:
        self._check_last(layers)
        features, kept = prepared.features, keep(prepared.positions)
        hidden = self._exported.runner.run(features)
        ordinal = np.cumsum(features["attention_mask"], axis=1) * features["attention_mask"]
        skipped = 0 if self.inputs.pooling.include_prompt else features.get("prompt_length", 0)
        pooled = self._to_space(pool(hidden, ordinal, skipped, self.pooling))
        if self._exported.settings["normalizes"]:
            pooled = normalized(pooled)
        pooled = pooled[:, : self._width]
        tokens = self._to_space(hidden[kept])[:, : self._width]
        if tokens.shape[1] != pooled.shape[1]:
            raise EncoderError(f"{self.name}: tokens have {tokens.shape[1]} dimensions, not {pooled.shape[1]}")
        norms = np.linalg.norm(pooled, axis=1)
        unit = normalized(pooled)
        return UnitStates(unit, norms, normalized(tokens)[:, None], unit[:, None], prepared.positions)

    @cached_property
    def _exported(self) -> ExportedModel:
        exported: Any = self.model
        assert isinstance(exported, ExportedModel)
        return exported

    def _to_space(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Apply the modules after the pooling to ``rows`` (n, width)."""
        head = self._exported.head
        return rows if head is None or not len(rows) else head.run({"states": rows})

    def weights_digest(self) -> str:
        digest: str = self._exported.settings["weights"]
        return digest

    def module_settings(self) -> list[Any]:
        modules: list[Any] = self._exported.settings["modules"]
        return modules


def pool(hidden: NDArray[np.float32], ordinal: NDArray[np.int64], skipped: int, mode: str) -> NDArray[np.float32]:
    """Return one vector (n, width) for each row of states (n, length, width), as sentence-transformers pools them.

    ``ordinal`` (n, length) is 1 for the first token of a row, 2 for the next one, and 0 for padding. The first
    ``skipped`` tokens take no part.
    """
    mask = ordinal > skipped
    rows = np.arange(len(mask))
    if mode == "cls":
        return np.asarray(hidden[rows, mask.argmax(axis=1)])
    if mode == "lasttoken":
        return np.asarray(hidden[rows, mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)])
    if mode == "max":
        return np.asarray(np.where(mask[..., None], hidden, -np.inf).max(axis=1), dtype=np.float32)
    weights = (ordinal * mask if mode == "weightedmean" else mask).astype(np.float32)
    total = np.matmul(weights[:, None], hidden)[:, 0]
    count = np.maximum(weights.sum(axis=1, keepdims=True), np.float32(1e-9))
    return np.asarray(total / (np.sqrt(count) if mode == "mean_sqrt_len_tokens" else count), dtype=np.float32)


POOLINGS = ("cls", "lasttoken", "max", "mean", "mean_sqrt_len_tokens", "weightedmean")


def normalized(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``rows`` (n, width) with length 1."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(norms, np.float32(1e-12)), dtype=np.float32)

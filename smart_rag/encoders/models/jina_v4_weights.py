"""Loading of jina-embeddings-v4 from its files, without the code that comes with them.

The files hold Qwen2.5-VL, a projector to token embeddings, and three low-rank additions (LoRA), one for each task of
the model. This module merges the LoRA of the task ``retrieval`` into the weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional
from transformers import Qwen2_5_VLConfig

from smart_rag.encoders.compatibility import transformer
from smart_rag.encoders.loading.repository import Repository, tensors_in
from smart_rag.encoders.loading.weights import is_finite
from smart_rag.errors import ModelNotFound

_TASK = "retrieval"
_PROJECTOR = "multi_vector_projector"
_ADAPTER_CONFIG = "adapters/adapter_config.json"
_ADAPTER = "adapters/adapter_model.safetensors"
PROMPTS = {"query": "Query: ", "document": "Passage: "}
_MAX_TOKENS = 32_768
# Settings of other kinds of LoRA. Their weights are not W + scaling B A with one scaling for all modules.
_OTHER_KINDS = ("use_dora", "rank_pattern", "alpha_pattern")
_REMEDY = "take all files of jinaai/jina-embeddings-v4, or another revision of it by revision="


class Head(nn.Module):
    """The last step of the model: makes pooled and token embeddings from states (n, length, width) of Qwen2.5-VL.

        sentence_embedding (n, width) = L2(mean of the states)
        token_embeddings (n, length, dimension) = L2(projector state), 0 where there is padding

    For a text, the mean is over all tokens. For an image, it is over the tokens from <|vision_start|> to
    <|vision_end|>.
    """

    def __init__(self, projector: nn.Linear, vision_start: int, vision_end: int) -> None:
        super().__init__()
        self.projector = projector
        self._ends = (vision_start, vision_end)

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        ids, states = features["input_ids"], features["token_embeddings"]
        attended = features["attention_mask"].bool()
        counts = attended
        if "image_grid_thw" in features:
            first, last = ((ids == end).int().argmax(dim=1, keepdim=True) for end in self._ends)
            position = torch.arange(ids.shape[1], device=ids.device)
            counts = (first <= position) & (position <= last)
        # Not a product, because the state of a padded position may be NaN. The sum has the direction of the mean.
        pooled = torch.where(counts.unsqueeze(2), states, 0).sum(dim=1, dtype=torch.float32)
        tokens = torch.where(attended.unsqueeze(2), functional.normalize(self.projector(states), dim=2), 0)
        return {**features, "sentence_embedding": functional.normalize(pooled, dim=1), "token_embeddings": tokens}


def load(repository: Repository, weights: Mapping[str, Any]) -> list[nn.Module]:
    """Return the modules of the model, on the CPU: Qwen2.5-VL with the LoRA in its weights, and `Head`.

    ``weights`` are options of ``from_pretrained``.

    Raises:
        ModelNotFound: a file or a tensor is missing, is not expected, or does not fit.
    """
    adapter = _file(repository, _ADAPTER)
    config = json.loads(_file(repository, _ADAPTER_CONFIG).read_text("utf-8"))
    rank, scaling = scaling_of(config, f"{repository.path!r}: {_ADAPTER_CONFIG}", _REMEDY)
    path = repository.path
    where: dict[str, Any] = {"revision": repository.revision, "local_files_only": repository.local}
    # Its config.json names Python code for its configuration and its model, and perhaps for its processor.
    native = {**where, "trust_remote_code": False}
    states = {"method": "forward", "method_output_name": "last_hidden_state"}
    qwen: Any = transformer(
        path,
        model_kwargs={**weights, **native},
        processor_kwargs={**native, "config": Qwen2_5_VLConfig.from_pretrained(path, **where)},
        config_kwargs=native,
        modality_config={"text": states, "image": states},
        module_output_name="token_embeddings",
    )
    qwen.max_seq_length = min(qwen.max_seq_length or _MAX_TOKENS, _MAX_TOKENS)
    model: Any = qwen.model
    head = Head(
        _projector(repository, model.config.text_config.hidden_size, model.dtype),
        model.config.vision_start_token_id,
        model.config.vision_end_token_id,
    )
    adapted = {
        f"model.language_model.{name}": module
        for name, module in model.language_model.named_modules()
        if isinstance(module, nn.Linear)
    }
    with safe_open(adapter, framework="pt") as tensors:
        found = {key: key for key in tensors.keys() if f".{_TASK}." in key}  # noqa: SIM118 - it is no dict
    modules = {**adapted, _PROJECTOR: head.projector}
    merge_lora(adapter, modules, _halves, found, rank, scaling, _REMEDY)
    return [qwen, head]


def _halves(module: str) -> list[str]:
    return [f"base_model.model.{module}.lora_{half}.{_TASK}.weight" for half in "AB"]


def _file(repository: Repository, name: str) -> Path:
    found = repository.find(name)
    if found is None:
        raise ModelNotFound(f"{repository.path!r} is jina-embeddings-v4 without its {name}; {_REMEDY}")
    return found


def _tensor(repository: Repository, key: str) -> torch.Tensor:
    """Return one of the model's weights, from the file that contains it."""
    found = repository.tensor(key)
    if found is None:
        raise ModelNotFound(f"{repository.path!r}: no {key!r} in its files, expected in jina-embeddings-v4; {_REMEDY}")
    return found


def scaling_of(config: Mapping[str, Any], source: str, remedy: str) -> tuple[int, float]:
    """Return the rank of a LoRA, and what the product of its halves is multiplied with.

    Args:
        config: the content of its adapter_config.json.
        source: the name of this file, for the message.
        remedy: what to do, for the message.

    Raises:
        ModelNotFound: it is a kind of LoRA that is more than this product.
    """
    for name in _OTHER_KINDS:
        if config.get(name):
            raise ModelNotFound(
                f"{source} has {name} = {config[name]!r}, a kind of LoRA that is not known here; {remedy}"
            )
    rank = int(config["r"])
    return rank, config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _projector(repository: Repository, width: int, dtype: torch.dtype) -> nn.Linear:
    weight, bias = (_tensor(repository, f"{_PROJECTOR}.{name}") for name in ("weight", "bias"))
    if weight.shape[1:] != (width,) or bias.shape != weight.shape[:1]:
        raise ModelNotFound(
            f"{repository.path!r}: {_PROJECTOR} has a weight of shape {tuple(weight.shape)} and a bias of "
            f"{tuple(bias.shape)}, expected (dimension, {width}) and (dimension,); {_REMEDY}"
        )
    for name, tensor in (("weight", weight), ("bias", bias)):
        if not is_finite(tensor):
            raise ModelNotFound(f"{repository.path!r} is damaged: NaN or infinity is in {_PROJECTOR}.{name}; {_REMEDY}")
    projector = nn.Linear(width, len(weight), dtype=dtype)
    projector.load_state_dict({"weight": weight, "bias": bias})
    return projector


@torch.no_grad()
def merge_lora(
    adapter: Path,
    adapted: Mapping[str, nn.Linear],
    halves_of: Callable[[str], Sequence[str]],
    found: Mapping[str, str],
    rank: int,
    scaling: float,
    remedy: str,
) -> None:
    """Add ``scaling B A`` to each weight, with A (rank, in) and B (out, rank), one module at a time.

    The sum is computed in float64, because the rounding of float64 is too small to change the model's numbers. In
    float32, the result depends on the order in which a machine adds. A digest of the weights would then differ between
    machines.

    Args:
        adapter: the file of the LoRA.
        adapted: the modules that the LoRA is for, by their names.
        halves_of: gives the names of A and B of a module.
        found: the tensors in the file that count, as name: name in the file.
        rank, scaling: those of `scaling_of`.
        remedy: what to do, for the message.

    Raises:
        ModelNotFound: the file does not hold exactly one A and one B for each module, or one has another shape.
    """
    expected = {half for name in adapted for half in halves_of(name)}
    if found.keys() != expected:
        raise ModelNotFound(
            f"{adapter} should hold {len(expected)} tensors of the LoRA, two for each weight; "
            f"missing: {_some(expected - found.keys())}; left over: {_some(found.keys() - expected)}; {remedy}"
        )
    tensors = tensors_in(adapter, set(found.values()))
    for name, module in adapted.items():
        rows, columns = module.weight.shape
        halves = []
        for key, shape in zip(halves_of(name), ((rank, columns), (rows, rank)), strict=True):
            half = tensors[found[key]]
            if half.shape != shape:
                raise ModelNotFound(f"{adapter}: {key!r} has the shape {tuple(half.shape)}, expected {shape}; {remedy}")
            if not is_finite(half):
                raise ModelNotFound(f"{adapter} is damaged: NaN or infinity is in {key!r}; {remedy}")
            halves.append(half.double())
        merged = torch.addmm(module.weight.double(), halves[1], halves[0], alpha=scaling)
        module.weight.copy_(merged.float())  # then rounded to the model's own precision, like every weight


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    shown = ", ".join(map(repr, names[:2])) or "none"
    return shown if len(names) <= 2 else f"{shown} and {len(names) - 2} more"

"""Loading of ColQwen2, ColQwen2.5, ColQwen3 and ColNomic from the files that colpali-engine writes.

Such a folder holds the decoder of a Qwen-VL and ``custom_text_proj``, which projects its last states. transformers
would load the decoder alone. Most of these models are published as a LoRA for such a folder, their base. This module
merges the LoRA into the weights of the base.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import Qwen2_5_VLProcessor, Qwen2VLProcessor, Qwen3VLProcessor

from smart_rag.encoders.compatibility import late_interaction_modules, transformer
from smart_rag.encoders.loading.repository import Repository, tensors_in
from smart_rag.encoders.loading.weights import is_finite
from smart_rag.encoders.models.jina_v4_weights import merge_lora, scaling_of
from smart_rag.errors import ModelNotFound

# The architectures in config.json, each with the model_type of its decoder and with its processor. A config.json that
# states another type comes with code of its own, and with other names of tensors.
_FAMILIES: dict[str, tuple[str, Any]] = {
    "ColQwen2": ("qwen2_vl", Qwen2VLProcessor),
    "ColQwen2_5": ("qwen2_5_vl", Qwen2_5_VLProcessor),
    "ColQwen3": ("qwen3_vl", Qwen3VLProcessor),
}
_PROJECTION = "custom_text_proj"
_ADAPTER_CONFIG = "adapter_config.json"
_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
_REMEDY = "take all files of the model again, or another revision of it by revision="
# Other models of the same makers, and what to use in their place.
_INSTEAD = {
    "ColPali": "a model in the format of transformers, such as vidore/colpali-v1.3-hf",
    "ColModernVBert": "the model in the format of transformers, whose architecture is ColModernVBertForRetrieval",
}
_ELSE = "a model in the format of transformers or sentence-transformers, or run it as an encoder of your own"


def is_col_qwen(files: Repository) -> bool:
    """Return whether ``files`` are those of a folder that this module loads, by their ``config.json``.

    Raises:
        ModelNotFound: the model has another architecture of this kind, which would load without its projection.
    """
    if files.has_modules_file:
        return False
    config = files.json("config.json")
    for name in config.get("architectures") or []:
        if not re.match(r"Col[A-Z]", name) or name.endswith("ForRetrieval"):
            continue
        if name in _FAMILIES and config.get("model_type") == _FAMILIES[name][0]:
            return True
        if name in _FAMILIES:
            found = f"the model_type {config.get('model_type')!r}; {name} can be loaded with {_FAMILIES[name][0]!r}"
        else:
            found = f"a layout of which {', '.join(_FAMILIES)} can be loaded"
        raise ModelNotFound(
            f"the model is {name}, which makes token embeddings with a projection of its own. Its config.json states "
            f"{found}. Without its projection, its numbers would be wrong; use {_INSTEAD.get(name, _ELSE)}"
        )
    return False


def load(base: Repository, weights: Mapping[str, Any], adapter: Repository | None = None) -> list[nn.Module]:
    """Return the modules of the model, on the CPU: the decoder, its projection, a mask and L2 normalisation.

    Args:
        base: the files of the decoder and of the projection.
        weights: options of ``from_pretrained``.
        adapter: the files of a LoRA that is merged into the weights, and of the tokenizer and the processor.

    Raises:
        ModelNotFound: a file or a tensor is missing, is not expected, or does not fit.
    """
    name = base.json("config.json")["architectures"][0]
    where: dict[str, Any] = {"revision": base.revision, "local_files_only": base.local, "trust_remote_code": False}
    states = {"method": "forward", "method_output_name": "last_hidden_state"}
    qwen: Any = transformer(
        base.path,
        model_kwargs={**weights, **where},
        processor_kwargs=dict(where),
        config_kwargs=where,
        modality_config={"text": states, "image": states},
        module_output_name="token_embeddings",
    )
    # The files name the processor's class in colpali-engine, or another class of the same name in transformers.
    holder = base if adapter is None or adapter.find("preprocessor_config.json") is None else adapter
    qwen.processor = _FAMILIES[name][1].from_pretrained(
        holder.path, revision=holder.revision, local_files_only=holder.local
    )
    model: Any = qwen.model
    projection = _projection(base, model.config.get_text_config().hidden_size).to(model.dtype)
    if adapter is not None:
        _merge(adapter, model, projection)
    return [qwen, *late_interaction_modules(projection)]


def _projection(files: Repository, width: int) -> nn.Linear:
    weight, bias = (_of_projection(files, name) for name in ("weight", "bias"))
    if weight is None or bias is None:
        raise ModelNotFound(
            f"{files.path!r} has no {_PROJECTION}.weight and .bias in its files of weights, so the projection of its "
            f"token embeddings is not known. colpali-engine would make it at random; {_REMEDY}"
        )
    if weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
        raise ModelNotFound(
            f"{files.path!r}: {_PROJECTION} has a weight of shape {tuple(weight.shape)} and a bias of "
            f"{tuple(bias.shape)}, expected (dimension, {width}) and (dimension,); {_REMEDY}"
        )
    for name, tensor in (("weight", weight), ("bias", bias)):
        if not is_finite(tensor):
            raise ModelNotFound(f"{files.path!r} is damaged: NaN or infinity is in {_PROJECTION}.{name}; {_REMEDY}")
    projection = nn.Linear(width, len(weight))
    projection.load_state_dict({"weight": weight, "bias": bias})
    return projection


def _of_projection(files: Repository, name: str) -> torch.Tensor | None:
    """Return the weight or the bias of the projection. colpali-engine saves that of ColQwen3 with a prefix."""
    found = files.tensor(f"{_PROJECTION}.{name}")
    return files.tensor(f"model.{_PROJECTION}.{name}") if found is None else found


def _merge(files: Repository, model: nn.Module, projection: nn.Linear) -> None:
    """Merge the LoRA in ``files`` into the weights of ``model`` and ``projection``."""
    file = next((path for name in _ADAPTERS if (path := files.find(name)) is not None), None)
    if file is None:
        raise ModelNotFound(f"{files.path!r} has {_ADAPTER_CONFIG}, but no {' or '.join(_ADAPTERS)}; {_REMEDY}")
    config = files.json(_ADAPTER_CONFIG)
    rank, scaling = scaling_of(config, f"{files.path!r}: {_ADAPTER_CONFIG}", _REMEDY)
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    adapted = {
        name: module
        for name, module in {**linears, _PROJECTION: projection}.items()
        if _is_target(name, config["target_modules"]) and not _is_target(name, config.get("exclude_modules"))
    }
    found = {_name_of(key): key for key in tensors_in(file)}
    merge_lora(file, adapted, _halves, found, rank, scaling, _REMEDY)


def _halves(module: str) -> list[str]:
    return [f"{module}.lora_{half}.weight" for half in "AB"]


def _name_of(key: str) -> str:
    """Return the name of a tensor of an adapter, with the name of its module in today's transformers.

    Until 4.51, the decoder's layers were in ``model.layers``. Today, they are in ``language_model.layers``.
    """
    name = key.removeprefix("base_model.model.").replace(".default.weight", ".weight")
    name = re.sub(r"^model\.(?=visual\.|language_model\.|custom_text_proj)", "", name)
    return re.sub(r"^model\.layers\.", "language_model.layers.", name)


def _is_target(name: str, pattern: str | list[str] | None) -> bool:
    """Return whether peft adapts the module ``name``: by its name of today, or by its name when it was trained."""
    if not pattern:
        return False
    names = (name, name.replace("language_model.layers.", "model.layers."))
    if isinstance(pattern, str):
        return any(re.fullmatch(pattern, each) for each in names)
    return any(each == end or each.endswith(f".{end}") for each in names for end in pattern)

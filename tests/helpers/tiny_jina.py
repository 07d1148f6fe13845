"""A tiny folder with the files of jina-embeddings-v4: their names, their tensors' names, what their config.json says.

Old names of Qwen2.5-VL's weights in two shards, without a head for words; the projector in the second; the adapters of
three tasks in a folder of their own; Python code that the files name, and that must never run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from helpers import tiny_vision
from safetensors.torch import load_file, save_file

TASKS = ("retrieval", "text-matching", "code")
ADAPTER_CONFIG = "adapters/adapter_config.json"
ADAPTER = "adapters/adapter_model.safetensors"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"
PROJECTOR = "multi_vector_projector"
DIMENSION, RANK, ALPHA = 16, 4, 6
MODULES = [{"idx": 0, "name": "transformer", "path": "", "type": "custom_st.Transformer", "kwargs": ["task"]}]
OLD_PREPROCESSOR = {
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
    "min_pixels": 4 * 28 * 28,
    "max_pixels": 64 * 28 * 28,
    "merge_size": 2,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "resample": 3,
    "processor_class": "JinaEmbeddingsV4Processor",
    "auto_map": {"AutoProcessor": "modeling_jina_embeddings_v4.JinaEmbeddingsV4Processor"},
}


def jina_v4(folder: Path, *, max_length: int = 96, rslora: bool = False) -> str:
    """Qwen2.5-VL and two heads: 64 dimensions for one vector, 16 for each token.

    Images have at most 64 patches. A LoRA is almost half as large as the weights that it is added to.
    """
    path = Path(tiny_vision.qwen2_5_vl(folder))
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) / 6).bfloat16()

    weights = {
        key: weight.bfloat16()
        for key, weight in load_file(path / "model.safetensors").items()
        if not key.startswith("lm_head")
    }
    for key in weights:
        if key.endswith((".bias", "norm.weight", "embed_tokens.weight")):  # zeros and ones, some
            weights[key] = weights[key] + random(*weights[key].shape)
    weights[f"{PROJECTOR}.weight"] = random(DIMENSION, tiny_vision.WIDTH)
    weights[f"{PROJECTOR}.bias"] = random(DIMENSION)
    (path / "model.safetensors").unlink()
    write_weights(path, weights)

    adapters = {}
    for key, weight in weights.items():
        if weight.ndim == 2 and key.startswith(("model.layers.", PROJECTOR)):
            name = key.removesuffix(".weight").replace("model.layers.", "model.language_model.layers.")
            for task in TASKS:
                stem = f"base_model.model.{name}.lora_"
                adapters[f"{stem}A.{task}.weight"] = random(RANK, weight.shape[1])
                adapters[f"{stem}B.{task}.weight"] = random(weight.shape[0], RANK)
    (path / "adapters").mkdir()
    save_file(adapters, path / ADAPTER, {"format": "pt"})
    adapter = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "exclude_modules": ".*visual.*"}
    (path / ADAPTER_CONFIG).write_text(json.dumps(adapter | {"use_rslora": rslora, "use_dora": False}))

    change_json(path / "config.json", _configuration)
    change_json(path / "tokenizer_config.json", lambda old: old | {"model_max_length": max_length})
    (path / "processor_config.json").unlink()
    (path / "preprocessor_config.json").write_text(json.dumps(OLD_PREPROCESSOR))
    (path / "modules.json").write_text(json.dumps(MODULES))
    for name in ("configuration_jina_embeddings_v4", "modeling_jina_embeddings_v4", "custom_st"):
        (path / f"{name}.py").write_text("raise AssertionError('code that comes with the model has run')\n")
    return str(path)


def write_weights(path: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Write ``weights`` into two shards by their names; of three layers the last two, and the projector, are second."""
    first = {key: weight for key, weight in weights.items() if key < "model.layers.1"}
    second = {key: weight for key, weight in weights.items() if key not in first}
    for name, shard in zip(SHARDS, (first, second), strict=True):
        save_file(shard, path / name, {"format": "pt"})
    where = {key: SHARDS[key not in first] for key in weights}
    size = sum(weight.nbytes for weight in weights.values())
    (path / INDEX).write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": where}))


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the weights of both shards, by their names."""
    return {key: weight for shard in SHARDS for key, weight in load_file(path / shard).items()}


def scaling(path: Path) -> float:
    """Return what the product of a LoRA's halves is multiplied with."""
    config = json.loads((path / ADAPTER_CONFIG).read_text())
    return float(config["lora_alpha"] / (math.sqrt(config["r"]) if config["use_rslora"] else config["r"]))


def change_json(file: Path, change) -> None:
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


def _configuration(config):
    text = config["text_config"]
    rope = text.pop("rope_parameters")
    text |= {
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
    }
    del config["dtype"]
    return config | {
        "architectures": ["JinaEmbeddingsV4Model"],
        "auto_map": {
            "AutoConfig": "configuration_jina_embeddings_v4.JinaEmbeddingsV4Config",
            "AutoModel": "modeling_jina_embeddings_v4.JinaEmbeddingsV4Model",
        },
        "torch_dtype": "bfloat16",
        "multi_vector_projector_dim": DIMENSION,
        "single_vector_pool_strategy": "mean",
        "matryoshka_dims": [16, 32, 64],
        "task_names": list(TASKS),
    }


def change_adapter(path, change):
    tensors = load_file(path / ADAPTER)
    save_file(change(tensors), path / ADAPTER, {"format": "pt"})


def without(tensors, *keys):
    return {key: tensor for key, tensor in tensors.items() if key not in keys}

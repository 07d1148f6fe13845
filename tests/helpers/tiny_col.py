"""Tiny random folders of ColQwen2, ColQwen2.5 and ColQwen3 as colpali-engine writes them, and LoRAs for them.

Sources: the classes ``ColQwen2``, ``ColQwen2_5`` and ``ColQwen3`` of colpali-engine 0.3.18, the adapter_config.json of
vidore/colqwen2-v1.0 and vidore/colqwen2.5-v0.2, and ``tests/models/test_checkpoint_key_mappings.py`` of colpali-engine
for the names of an adapter's tensors.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from helpers import tiny_vision
from helpers.tiny_jina import OLD_PREPROCESSOR, change_json
from safetensors.torch import save_file
from transformers import AutoModel

FAMILIES = {
    "ColQwen2": (tiny_vision.qwen2_vl, 14),
    "ColQwen2_5": (tiny_vision.qwen2_5_vl, 14),
    "ColQwen3": (tiny_vision.qwen3_vl, 16),
}
DIMENSION, RANK, ALPHA = 24, 4, 6
TARGETS = (
    "(.*(model)(?!.*visual).*(down_proj|gate_proj|up_proj|k_proj|q_proj|v_proj|o_proj).*$|.*(custom_text_proj).*$)"
)


def col_qwen(folder: Path, name: str, *, old: bool = False) -> str:
    """Save a model with the architecture ``name``: 24 dimensions a token, images of at most 64 patches.

    With ``old``, the tensors have the names of transformers before 4.52, and there is a head for words.
    """
    build, patch = FAMILIES[name]
    path = Path(build(folder))
    tensors = {key: tensor.clone() for key, tensor in AutoModel.from_pretrained(path).state_dict().items()}
    if old:
        tensors = {key.replace("language_model.", "model."): tensor for key, tensor in tensors.items()}
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    generator = torch.Generator().manual_seed(1)
    tensors["custom_text_proj.weight"] = torch.randn(DIMENSION, tiny_vision.WIDTH, generator=generator) / 6
    tensors["custom_text_proj.bias"] = torch.randn(DIMENSION, generator=generator) / 6
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    change_json(path / "config.json", lambda config: config | {"architectures": [name]})
    processor_files(path, name, patch)
    return str(path)


def processor_files(path: Path, name: str, patch: int = 14) -> None:
    """Write the settings of images into ``path``, as an old release of transformers wrote them."""
    (path / "processor_config.json").unlink(missing_ok=True)
    sizes = {"min_pixels": 4 * (2 * patch) ** 2, "max_pixels": 64 * (2 * patch) ** 2, "patch_size": patch}
    processor = f"{name}_Processor" if name == "ColQwen2_5" else f"{name}Processor"
    settings: dict[str, Any] = OLD_PREPROCESSOR | sizes | {"processor_class": processor}
    del settings["auto_map"]
    (path / "preprocessor_config.json").write_text(json.dumps(settings))


def lora(folder: Path, base: Path, *, old: bool = True, **changes: Any) -> str:
    """Save a LoRA for the language model and the projection of ``base``, with the tokenizer of ``base``.

    With ``old``, the names of its tensors are those of transformers before 4.52.
    """
    folder.mkdir()
    config = json.loads((base / "config.json").read_text())
    model = AutoModel.from_pretrained(base)
    linears = {
        f"language_model.{name}": module
        for name, module in model.language_model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    shapes = {name: tuple(module.weight.shape) for name, module in linears.items()}
    shapes["custom_text_proj"] = (DIMENSION, tiny_vision.WIDTH)
    generator = torch.Generator().manual_seed(2)
    tensors = {}
    for name, (rows, columns) in shapes.items():
        stem = f"base_model.model.{name.replace('language_model.', 'model.') if old else name}"
        tensors[f"{stem}.lora_A.weight"] = torch.randn(RANK, columns, generator=generator) / 6
        tensors[f"{stem}.lora_B.weight"] = torch.randn(rows, RANK, generator=generator) / 6
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    settings = {
        "alpha_pattern": {},
        "base_model_name_or_path": str(base),
        "bias": "none",
        "init_lora_weights": "gaussian",
        "lora_alpha": ALPHA,
        "lora_dropout": 0.1,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": RANK,
        "rank_pattern": {},
        "target_modules": TARGETS,
        "task_type": "FEATURE_EXTRACTION",
        "use_dora": False,
        "use_rslora": False,
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings | changes))
    for file in base.iterdir():
        if "token" in file.name or "template" in file.name:
            (folder / file.name).write_bytes(file.read_bytes())
    processor_files(folder, config["architectures"][0], 16 if config["model_type"] == "qwen3_vl" else 14)
    return str(folder)

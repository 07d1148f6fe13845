"""Folders with the files and configs that models are published with, tiny and random. Each builder names its source.

Models of 2024 were saved by transformers 4: a flat ``config.json``, ``chat_template.json``, pixels in
``preprocessor_config.json``, and weights under the names ``model.layers`` and ``visual``.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helpers import tiny_vision
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, Qwen2VLForConditionalGeneration

BASE = "Qwen/Qwen2-VL-2B-Instruct"
# Code of the model's own. It must not run.
_CODE = "raise RuntimeError('the code of the model has run')\n"


def edit(folder: str | Path, name: str = "config.json", **values: object) -> None:
    """Set ``values`` in a JSON file of a folder. None removes a value."""
    file = Path(folder) / name
    content = json.loads(file.read_text()) if file.exists() else {}
    content |= values
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def qwen2_vl(folder: Path, seed: int = 0, spare_rows: int = 0) -> str:
    """Qwen2-VL-Instruct as published. ``spare_rows`` are rows of the vocabulary that no token uses; theirs has 271."""
    built = Path(tiny_vision.qwen2_vl(folder / "build", seed=seed, spare_rows=spare_rows))
    path = folder / "bare"
    built.rename(path)
    config = json.loads((path / "config.json").read_text())
    text, vision = config.pop("text_config"), config["vision_config"]
    text.pop("layer_types", None)
    rope = text.pop("rope_parameters")
    config |= {key: value for key, value in text.items() if key != "model_type"}
    config |= {"model_type": "qwen2_vl", "rope_theta": rope["rope_theta"], "transformers_version": "4.45.0"}
    config |= {"rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]}}
    config["vision_config"] = {key: value for key, value in vision.items() if key != "model_type"}
    (path / "config.json").write_text(json.dumps(config))
    template = (path / "chat_template.jinja").read_text()
    (path / "chat_template.jinja").unlink()
    (path / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    (path / "processor_config.json").unlink()
    normal = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
    edit(
        path,
        "preprocessor_config.json",
        **{"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2},
        **normal,
        image_processor_type="Qwen2VLImageProcessor",
        processor_class="Qwen2VLProcessor",
    )
    weights = load_file(path / "model.safetensors")
    save_file({_old(name): tensor for name, tensor in weights.items()}, path / "model.safetensors", {"format": "pt"})
    return str(path)


def _old(name: str) -> str:
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


def gme(folder: Path) -> str:
    """GME-Qwen2-VL: Qwen2-VL's weights, with modules and a model class of its own.

    The class ``GmeQwen2VL`` in ``modeling_gme_qwen2vl.py`` is what FlagEmbedding's GME embedder loads by ``AutoModel``
    with ``trust_remote_code``. mteb (gme_v_models.py) loads the same folder as a Qwen2-VL. The model card runs
    ``gme_inference.py``. The name of the class in modules.json is not known from public code; any foreign name is
    treated in the same way.
    """
    path = Path(qwen2_vl(folder))
    edit(path, auto_map={"AutoModel": "modeling_gme_qwen2vl.GmeQwen2VL"})
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "custom_st.MultiModalTransformer"},
        {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    (path / "modules.json").write_text(json.dumps(modules))
    for name in ("custom_st.py", "modeling_gme_qwen2vl.py", "gme_inference.py"):
        (path / name).write_text(_CODE)
    return str(path)


def lamra_ret(folder: Path, spare_rows: int = 8) -> str:
    """LamRA-Ret: Code-kunkun/LamRA, merge_lora/merge.py saves this class, with the processor of Qwen2-VL."""
    path = qwen2_vl(folder, spare_rows=spare_rows)
    edit(path, architectures=["Qwen2VLRetForConditionalGeneration"])
    return path


def lamra_ret_of_paper(folder: Path) -> str:
    """The paper's LamRA-Ret: HanSolo9682/SMART, train_lamra/models/qwen3_vl_finetune.py, loaded by lamra_ret.py."""
    path = tiny_vision.qwen3_vl(folder, spare_rows=8)
    edit(path, architectures=["Qwen3VLRetFinetuneForConditionalGeneration"])
    return path


def qwen3_vl_embedding(folder: Path) -> str:
    """Qwen3-VL-Embedding: vLLM and the reference load a Qwen3VLForConditionalGeneration; mteb names the script."""
    path = Path(tiny_vision.qwen3_vl(folder))
    (path / "scripts").mkdir()
    (path / "scripts" / "qwen3_vl_embedding.py").write_text(_CODE)
    return str(path)


def with_lora(model: PreTrainedModel, config: LoraConfig) -> PeftModel:
    """Return peft's model. peft asks for a property that transformers is about to remove."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(model, config)


def lora(
    folder: Path,
    base: str,
    *,
    old_names: bool = True,
    lora_settings: Mapping[str, Any] | None = None,
    **settings: object,
) -> Qwen2VLForConditionalGeneration:
    """Write a LoRA of ``base`` into ``folder`` and return the merged model. ``settings`` go into its config file."""
    model = Qwen2VLForConditionalGeneration.from_pretrained(base)
    wanted: dict[str, Any] = {
        "r": 4,
        "lora_alpha": 16,
        # VLM2Vec-V2's own list (src/arguments.py): some of these names are of other families.
        "target_modules": [
            *("qkv_proj", "o_proj", "gate_up_proj", "down_proj", "k_proj"),
            *("q_proj", "out_proj", "v_proj", "gate_proj", "up_proj"),
        ],
        "init_lora_weights": False,
        "use_dora": True,  # src/model/model.py, MMEBModel.build
    }
    config = LoraConfig(**wanted | dict(lora_settings or {}))
    adapted = with_lora(model, config)
    adapted.save_pretrained(folder)
    if old_names:
        weights = load_file(folder / "adapter_model.safetensors")
        save_file({_old(name): tensor for name, tensor in weights.items()}, folder / "adapter_model.safetensors")
    edit(folder, "adapter_config.json", base_model_name_or_path=BASE, **settings)
    return adapted.merge_and_unload()


def vlm2vec_v2(folder: Path, base: str) -> Qwen2VLForConditionalGeneration:
    """VLM2Vec-V2.0: TIGER-AI-Lab/VLM2Vec. A LoRA with DoRA, with the processor beside it and without a model.

    peft writes ``auto_mapping`` because the config has no task type. mteb (vlm2vec_models.py) loads it over
    Qwen2-VL-2B-Instruct, and the processor from the LoRA's own repository.
    """
    module = "src.model.vlm_backbone.qwen2_vl.modeling_qwen2_vl"
    mapping = {"base_model_class": "Qwen2VLForConditionalGeneration", "parent_library": module}
    merged = lora(folder, base, auto_mapping=mapping)
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "chat_template.json"):
        shutil.copy(Path(base) / name, folder)
    return merged

"""A tiny folder with the surface of the code that comes with jina-embeddings-v4, written for the tests.

`AutoModel.from_pretrained(folder, trust_remote_code=True)` gives a model with ``processor.process_texts`` and
``process_images``, a forward pass with ``task_label`` that gives ``single_vec_emb`` and ``multi_vec_emb``, and
``encode_text`` and ``encode_image``. Its adapter of a task is one number.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import tiny_vision
import torch
from safetensors.torch import load_file, save_file

CONFIGURATION = """
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLConfig


class JinaEmbeddingsV4Config(Qwen2_5_VLConfig):
    multi_vector_projector_dim: int = 16
"""
MODELING = """
from types import SimpleNamespace

import torch
from torch.nn.functional import normalize
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from .configuration_jina_embeddings_v4 import JinaEmbeddingsV4Config

ADAPTERS = {"retrieval": 0.0, "text-matching": 1.0, "code": 2.0}
IMAGE = "<|im_start|>user\\n<|vision_start|><|image_pad|><|vision_end|>Describe the image.<|im_end|>\\n"


class JinaEmbeddingsV4Processor(Qwen2_5_VLProcessor):
    text_max_length = 96

    def process_texts(self, texts, max_length=None, prefix=None, padding=None):
        texts = [f"{prefix}: {text}" if prefix else text for text in texts]
        length = min(max_length or self.text_max_length, self.text_max_length)
        return self(text=texts, padding="longest", truncation=True, max_length=length, return_tensors="pt")

    def process_images(self, images):
        batch = self(text=[IMAGE] * len(images), images=images, padding="longest", return_tensors="pt")
        parts = torch.split(batch["pixel_values"], batch["image_grid_thw"].prod(dim=1).tolist())
        batch["pixel_values"] = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
        return batch


class JinaEmbeddingsV4Model(Qwen2_5_VLForConditionalGeneration):
    config_class = JinaEmbeddingsV4Config

    def __init__(self, config):
        super().__init__(config)
        self.multi_vector_projector = torch.nn.Linear(config.text_config.hidden_size, config.multi_vector_projector_dim)
        self.post_init()
        self.processor = JinaEmbeddingsV4Processor.from_pretrained(self.name_or_path)

    def forward(self, task_label, input_ids, attention_mask, **features):
        mask = attention_mask.bool()
        if "pixel_values" in features:
            counts = features["image_grid_thw"].prod(dim=1)
            features["pixel_values"] = torch.cat([rows[:n] for rows, n in zip(features["pixel_values"], counts)])
            ends = (self.config.vision_start_token_id, self.config.vision_end_token_id)
            first, last = ((input_ids == id).int().argmax(dim=1, keepdim=True) for id in ends)
            place = torch.arange(input_ids.shape[1])
            mask = (place >= first) & (place <= last)
        states = self.model(input_ids=input_ids, attention_mask=attention_mask, **features).last_hidden_state
        states = states + ADAPTERS[task_label]
        single = torch.where(mask.unsqueeze(-1), states, 0).sum(dim=1)
        multi = normalize(self.multi_vector_projector(states), dim=-1)
        multi = torch.where(attention_mask.bool().unsqueeze(-1), multi, 0)
        return SimpleNamespace(single_vec_emb=normalize(single, dim=-1), multi_vec_emb=multi)

    @torch.no_grad()
    def _encode(self, batch, task, return_multivector):
        output = self(task_label=task, **batch)
        if not return_multivector:
            return list(output.single_vec_emb)
        return [rows[mask] for rows, mask in zip(output.multi_vec_emb, batch["attention_mask"].bool())]

    def encode_text(self, texts, task, prompt_name="query", return_multivector=False):
        prefix = {"query": "Query", "passage": "Passage"}[prompt_name]
        return self._encode(self.processor.process_texts(texts, prefix=prefix), task, return_multivector)

    def encode_image(self, images, task, return_multivector=False):
        return self._encode(self.processor.process_images(images), task, return_multivector)
"""
WEIGHTS = "model.safetensors"
MODULES = [{"idx": 0, "name": "transformer", "path": "", "type": "custom_st.Transformer", "kwargs": ["task"]}]


def jina_v4(folder: Path, *, code: str = MODELING) -> str:
    """Qwen2.5-VL and two heads: 64 dimensions for one vector, 16 for each token.

    Images have at most 64 patches, and the files for sentence-transformers are there, as theirs are.
    """
    path = Path(tiny_vision.qwen2_5_vl(folder))
    config = json.loads((path / "config.json").read_text())
    config["architectures"] = ["JinaEmbeddingsV4Model"]
    config["auto_map"] = {
        "AutoConfig": "configuration_jina_embeddings_v4.JinaEmbeddingsV4Config",
        "AutoModel": "modeling_jina_embeddings_v4.JinaEmbeddingsV4Model",
    }
    (path / "config.json").write_text(json.dumps(config | {"multi_vector_projector_dim": 16}))
    processor = json.loads((path / "processor_config.json").read_text())
    processor["image_processor"]["size"] = {"shortest_edge": 4 * 28 * 28, "longest_edge": 64 * 28 * 28}
    (path / "processor_config.json").write_text(json.dumps(processor))
    # transformers saves under names of its own architecture's past, and renames for that architecture alone.
    names = re.compile(r"^model\.(?=layers|norm|embed_tokens)")
    weights = {names.sub("model.language_model.", key): value for key, value in load_file(path / WEIGHTS).items()}
    generator = torch.Generator().manual_seed(0)
    for name, shape in (("weight", (16, tiny_vision.WIDTH)), ("bias", (16,))):
        weights[f"multi_vector_projector.{name}"] = torch.randn(shape, generator=generator)
    save_file(weights, path / WEIGHTS, {"format": "pt"})
    # One process has one model for a configuration, to transformers: other code has another one.
    (path / "configuration_jina_embeddings_v4.py").write_text(CONFIGURATION + f"# {hash(code)}\n")
    (path / "modeling_jina_embeddings_v4.py").write_text(code)
    (path / "modules.json").write_text(json.dumps(MODULES))
    return str(path)

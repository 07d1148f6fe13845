"""Files of jina-embeddings-v4: each part must be there and fit."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from helpers import tiny_jina
from helpers.command_line import error_of
from helpers.tiny_jina import change_adapter, without
from safetensors.torch import save_file

from smart_rag import SmartEncoder
from smart_rag.errors import ModelNotFound

LAYER = "base_model.model.model.language_model.layers.1.mlp.down_proj.lora_B.retrieval.weight"
HEAD = "base_model.model.multi_vector_projector.lora_A.retrieval.weight"
VISUAL = "base_model.model.model.visual.blocks.0.attn.proj.lora_A.retrieval.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_jina.jina_v4(tmp_path_factory.mktemp("jina"))


@pytest.fixture
def copied(folder, tmp_path):
    """Return a copy of the folder that a test may break."""
    return Path(shutil.copytree(folder, tmp_path / "copied"))


def test_missing_files_are_named(copied):
    for name in (tiny_jina.ADAPTER_CONFIG, tiny_jina.ADAPTER, tiny_jina.SHARDS[1]):
        hidden = copied / f"{name}.hidden"
        (copied / name).rename(hidden)
        with pytest.raises(ModelNotFound, match=re.escape(name)):
            SmartEncoder(copied)
        hidden.rename(copied / name)
    shutil.rmtree(copied / "adapters")
    with pytest.raises(
        ModelNotFound, match=r"without its adapters/adapter_model\.safetensors; take all files of jinaai"
    ):
        SmartEncoder(copied)
    assert "adapters/adapter_model.safetensors" in error_of("info", "--model", copied)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda old: without(old, LAYER), f"should hold 44 tensors.*missing: '{LAYER}'; left over: none; take all"),
        (lambda old: without(old, HEAD), f"missing: '{HEAD}'; left over: none"),
        (lambda old: without(old, LAYER, HEAD), f"missing: '{LAYER}', '{HEAD}'; left over: none"),
        (lambda old: old | {VISUAL: torch.zeros(4, 32)}, f"missing: none; left over: '{VISUAL}'"),
        (lambda old: old | {LAYER: torch.zeros(64, 5)}, rf"'{LAYER}' has the shape \(64, 5\), expected \(64, 4\)"),
        (lambda old: old | {HEAD: torch.zeros(4, 63)}, rf"'{HEAD}' has the shape \(4, 63\), expected \(4, 64\)"),
        (
            lambda old: {key.replace(".retrieval.", ".search."): half for key, half in old.items()},
            "of the LoRA.*missing: .* and 42 more; left over: none",
        ),
    ],
)
def test_adapters_that_do_not_fit(copied, change, reason):
    change_adapter(copied, change)
    with pytest.raises(ModelNotFound, match=rf"adapters/adapter_model.safetensors\S* .*{reason}"):
        SmartEncoder(copied)


@pytest.mark.parametrize("setting", [{"use_dora": True}, {"rank_pattern": {"q_proj": 8}}, {"alpha_pattern": {"k": 1}}])
def test_adapters_of_an_unknown_kind(copied, setting):
    tiny_jina.change_json(copied / tiny_jina.ADAPTER_CONFIG, lambda old: old | setting)
    with pytest.raises(ModelNotFound, match=f"adapter_config.json has {next(iter(setting))} = .*not known here"):
        SmartEncoder(copied)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda old: without(old, "multi_vector_projector.weight"), "no 'multi_vector_projector.weight' in its files"),
        (lambda old: without(old, "multi_vector_projector.bias"), "no 'multi_vector_projector.bias' in its files"),
        (
            lambda old: old | {"multi_vector_projector.weight": torch.zeros(16, 63)},
            r"a weight of shape \(16, 63\) and a bias of \(16,\), expected \(dimension, 64\)",
        ),
        (
            lambda old: old | {"multi_vector_projector.bias": torch.zeros(17)},
            r"a weight of shape \(16, 64\) and a bias of \(17,\), expected \(dimension, 64\)",
        ),
    ],
)
def test_a_projector_that_is_not_there_or_does_not_fit(copied, change, reason):
    tiny_jina.write_weights(copied, change(tiny_jina.read_weights(copied)))
    with pytest.raises(ModelNotFound, match=reason):
        SmartEncoder(copied)


def test_one_file_of_weights(folder, copied):
    """Without shards and their index, the projector must be in the only file."""
    weights = tiny_jina.read_weights(copied)
    for name in (*tiny_jina.SHARDS, tiny_jina.INDEX):
        (copied / name).unlink()
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    assert SmartEncoder(copied).fingerprint == SmartEncoder(folder).fingerprint
    save_file(without(weights, "multi_vector_projector.bias"), copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelNotFound, match=r"no 'multi_vector_projector\.bias' in its files, exp"):
        SmartEncoder(copied)

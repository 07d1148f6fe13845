"""Weights in ``.bin`` files: of folders, of repositories of the hub, of LoRAs, and those that our own code reads."""

import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from helpers import tiny_col, tiny_models
from helpers.published_folders import with_lora
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from smart_rag import SmartEncoder
from smart_rag.encoders.loading.repository import Repository, tensors_in
from smart_rag.errors import ModelNotFound

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "The cat sat on the mat."


def as_bin(file):
    """Write the tensors of a safetensors file as torch saves them, and remove the file. Return the new one."""
    stem = "pytorch_model" if file.stem == "model" else file.stem
    torch.save(load_file(file), file.with_name(f"{stem}.bin"))
    file.unlink()
    return file.with_name(f"{stem}.bin")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Return the folder of a repository. It stands for the hub, which downloads what is not ignored."""
    source, target = tmp_path / "hub", tmp_path / "downloaded"

    def download(name, *, ignore_patterns, **_):
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(*ignore_patterns), dirs_exist_ok=True)
        return str(target)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    source.mkdir()
    return source


def test_a_repository_with_bin_files_alone(hub):
    for name in ("adapter_model.bin", "training_args.pt", "config.json"):
        (hub / name).write_text("{}")
    folder = Repository("somebody/lora", None, local=False).folder()
    assert {file.name for file in folder.iterdir()} == {"adapter_model.bin", "config.json"}


def test_a_repository_with_both_kinds_of_weights(hub):
    for name in ("model.safetensors", "pytorch_model.bin"):
        (hub / name).write_text("")
    folder = Repository("somebody/model", None, local=False).folder()
    assert {file.name for file in folder.iterdir()} == {"model.safetensors"}


@pytest.mark.parametrize("is_legacy", [False, True])
def test_a_pickle_runs_no_code(tmp_path, is_legacy):
    """torch wrote files without zip until release 1.6."""
    torch.save(
        {"a": torch.ones(2), "b": torch.zeros(1)}, tmp_path / "m.bin", _use_new_zipfile_serialization=not is_legacy
    )
    assert tensors_in(tmp_path / "m.bin", ["a"])["a"].tolist() == [1, 1]
    assert tensors_in(tmp_path / "m.bin").keys() == {"a", "b"}
    torch.save({"a": Path("x")}, tmp_path / "m.bin", _use_new_zipfile_serialization=not is_legacy)
    with pytest.raises(Exception, match="Weights only load failed"):
        tensors_in(tmp_path / "m.bin")


def test_a_lora_and_its_base_model(tmp_path):
    """peft and transformers read both from a folder."""
    base = Path(tiny_models.bert(tmp_path / "base"))
    model = AutoModel.from_pretrained(base)
    lora = LoraConfig(r=4, target_modules=["query", "value"], init_lora_weights=False)
    with_lora(model, lora).save_pretrained(tmp_path / "lora")
    expected = SmartEncoder(tmp_path / "lora", base_model=base, device="cpu").encode_query(TEXT)
    as_bin(base / "model.safetensors")
    as_bin(tmp_path / "lora" / "adapter_model.safetensors")
    got = SmartEncoder(tmp_path / "lora", base_model=base, device="cpu").encode_query(TEXT)
    np.testing.assert_array_equal(got.pooled, expected.pooled)


def test_a_colqwen_and_its_lora(tmp_path):
    """Our own code reads the projection, and merges the LoRA."""
    base = Path(tiny_col.col_qwen(tmp_path / "base", "ColQwen2"))
    adapter = Path(tiny_col.lora(tmp_path / "adapter", base))
    expected = SmartEncoder(adapter, device="cpu").encode_query(TEXT)
    tensors = load_file(base / "model.safetensors")
    as_bin(base / "model.safetensors")
    as_bin(adapter / "adapter_model.safetensors")
    got = SmartEncoder(adapter, device="cpu").encode_query(TEXT)
    np.testing.assert_array_equal(got.tokens[0], expected.tokens[0])
    del tensors["custom_text_proj.bias"]
    torch.save(tensors, base / "pytorch_model.bin")
    with pytest.raises(ModelNotFound, match=r"has no custom_text_proj.weight and .bias in its files of weights"):
        SmartEncoder(adapter, device="cpu")
    save_file(tensors, base / "model.safetensors")  # where there are both kinds, transformers reads this one
    with pytest.raises(ModelNotFound, match=r"has no custom_text_proj.weight and .bias in its files of weights"):
        SmartEncoder(adapter, device="cpu")

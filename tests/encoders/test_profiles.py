"""Profiles: chosen by hub name, by folder name or by the caller."""

import pytest

from smart_rag.encoders.profiles import ARGUMENT, GENERAL_RULE, PROFILES, profile_of
from smart_rag.errors import InvalidInput

NAMES = {
    "qwen3-vl-embedding": "Qwen/Qwen3-VL-Embedding-2B",
    "gme-qwen2-vl": "Alibaba-NLP/gme-Qwen2-VL-7B-Instruct",
    "lamra-ret-qwen2": "code-kunkun/LamRA-Ret",
    "lamra-ret": "code-kunkun/LamRA-Ret",
    "vlm2vec-v2": "VLM2Vec/VLM2Vec-V2.0",
    "dse-qwen2": "MrLight/dse-qwen2-2b-mrl-v1",
    "nomic-embed-multimodal": "nomic-ai/nomic-embed-multimodal-3b",
}


# LamRA-Ret is published on Qwen2-VL. The paper's is one of Qwen3-VL, with the same name.
KINDS = {"qwen3-vl-embedding": "qwen3_vl", "lamra-ret": "qwen3_vl", "nomic-embed-multimodal": "qwen2_5_vl"}


def said(model, name=None, model_type=None):
    decision = profile_of(str(model), name, model_type)
    return decision.value.name, decision.source


def test_each_profile_has_its_model():
    assert list(NAMES) == [profile.name for profile in PROFILES]
    for name, model in NAMES.items():
        assert said(model, model_type=KINDS.get(name, "qwen2_vl")) == (name, "the model's name")
        assert said(model, model_type="bert") == ("general", GENERAL_RULE)
    assert said("code-kunkun/LamRA-Ret-Qwen2.5VL-7b", model_type="qwen2_5_vl")[0] == "lamra-ret-qwen2"


@pytest.mark.parametrize(("name", "model"), NAMES.items())
def test_a_folder_with_the_name_of_the_model(name, model, tmp_path, monkeypatch):
    folder = tmp_path / model.rpartition("/")[2]
    folder.mkdir()
    name = "lamra-ret-qwen2" if name == "lamra-ret" else name  # without its config, it is the published one
    assert said(folder) == (name, "the model's name")
    cached = tmp_path / f"models--{model.replace('/', '--')}" / "snapshots" / "0123abcd"
    cached.mkdir(parents=True)
    assert said(cached) == (name, "the model's name")
    monkeypatch.chdir(folder)
    assert said(".") == (name, "the model's name")


@pytest.mark.parametrize(
    "model", ["Qwen3-VL-Embedding-2B", "someone/Qwen3-VL-Embedding-2B", "Qwen/Qwen3-VL-2B", "minilm"]
)
def test_other_names_on_the_hub(model):
    """A model of that name with another owner is another model. A name without an owner is no hub name."""
    assert said(model) == ("general", GENERAL_RULE)


@pytest.mark.parametrize(
    "called", ["model", "my-qwen3-vl-embedding-2b", "Qwen3-VL-2B", "models--someone--Qwen3-VL-Embedding-2B"]
)
def test_folders_with_other_names(called, tmp_path):
    (tmp_path / called / "inner").mkdir(parents=True)
    assert said(tmp_path / called) == ("general", GENERAL_RULE)
    assert said(tmp_path / called / "inner") == ("general", GENERAL_RULE)
    assert said(tmp_path / called, "lamra-ret") == ("lamra-ret", ARGUMENT)


def test_the_name_of_a_profile_comes_first(tmp_path):
    (tmp_path / "LamRA-Ret").mkdir()
    assert said(tmp_path / "LamRA-Ret", "general") == ("general", ARGUMENT)
    with pytest.raises(InvalidInput, match="no profile 'qwen'; the profiles are qwen3-vl-embedding, "):
        profile_of("Qwen/Qwen3-VL-Embedding-2B", "qwen")


def test_a_link_with_the_name_of_the_model_or_to_such_a_folder(tmp_path):
    (tmp_path / "blob").mkdir()
    (tmp_path / "LamRA-Ret").symlink_to(tmp_path / "blob")
    assert said(tmp_path / "LamRA-Ret") == ("lamra-ret-qwen2", "the model's name")
    (tmp_path / "gme-Qwen2-VL-2B-Instruct").mkdir()
    (tmp_path / "current").symlink_to(tmp_path / "gme-Qwen2-VL-2B-Instruct")
    assert said(tmp_path / "current") == ("gme-qwen2-vl", "the model's name")

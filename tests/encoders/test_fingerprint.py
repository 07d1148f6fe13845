"""Fingerprints: equal for encoders with equal numbers, different for others."""

import json
import shutil

import numpy as np
import pytest
import torch
from helpers import tiny_models
from helpers.text_models import PROMPTS, models_in
from sentence_transformers import SentenceTransformer

from smart_rag.encoders.smart_encoder import SmartEncoder

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    return models_in(tmp_path_factory)


def test_fingerprint_depends_on_the_weights(models, minilm):
    """Name, folder and precision do not change it."""
    by_path = models("minilm")
    assert minilm.model_name != by_path.path
    assert by_path.encoder.fingerprint == minilm.fingerprint
    assert by_path.fresh(dtype="bfloat16").fingerprint == minilm.fingerprint
    assert by_path.fresh(batch_size=1, batch_tokens=100).fingerprint == minilm.fingerprint


def test_fingerprint_of_a_copy(models, tmp_path):
    """A copied folder is the same model."""
    shutil.copytree(models("dense").path, tmp_path / "copy")
    copy = SmartEncoder(tmp_path / "copy", device="cpu")
    assert copy.fingerprint == models("dense").encoder.fingerprint
    assert copy.fingerprint == models("dense").fresh(dtype="bfloat16").fingerprint


def test_fingerprint_differs_with_the_numbers_of_a_document(models, tmp_path):
    """Weights, dense layers, pooling, document prompt and length change it. The query prompt does not."""
    base = models("prompts")
    encoders = {
        "base": base.encoder,
        "seed": SmartEncoder(tiny_models.bert(tmp_path / "seed", prompts=PROMPTS, seed=1), device="cpu"),
        "document prompt": base.fresh(document_prompt="passage: "),
        "no document prompt": base.fresh(document_prompt=""),
        "max_length": base.fresh(max_length=32),
        "pooling": SmartEncoder(tiny_models.bert(tmp_path / "cls", prompts=PROMPTS, pooling="cls"), device="cpu"),
        "include_prompt": models("prompts left out").encoder,
        "dense": SmartEncoder(tiny_models.bert(tmp_path / "dense", prompts=PROMPTS, dense=24), device="cpu"),
    }
    prints = {name: encoder.fingerprint for name, encoder in encoders.items()}
    assert len(set(prints.values())) == len(prints), prints
    assert base.fresh(query_prompt="another: ").fingerprint == prints["base"]


def test_fingerprint_differs_with_the_activation(models, tmp_path):
    """Activations have no weights, and change every number."""
    shutil.copytree(models("dense").path, tmp_path / "linear")
    config = tmp_path / "linear" / "2_Dense" / "config.json"
    dense = json.loads(config.read_text())
    config.write_text(json.dumps(dense | {"activation_function": "torch.nn.modules.linear.Identity"}))
    linear = SmartEncoder(tmp_path / "linear", device="cpu")
    difference = linear.encode_document("the cat").pooled - models("dense").encoder.encode_document("the cat").pooled
    assert np.abs(difference).max() > 1e-3
    assert linear.fingerprint != models("dense").encoder.fingerprint


def test_fingerprint_notices_few_changed_weights(models, tmp_path):
    """One fine-tuned matrix changes the fingerprint."""
    model = SentenceTransformer(models("mean").path, device="cpu")
    with torch.no_grad():
        model[0].auto_model.encoder.layer[1].output.dense.weight.mul_(1.05)
    model.save(str(tmp_path / "tuned"), create_model_card=False)
    assert SmartEncoder(tmp_path / "tuned", device="cpu").fingerprint != models("mean").encoder.fingerprint


def test_the_fingerprint_of_the_bundled_model_never_changes(minilm):
    """Its manifest holds this description, and the keys of its tokens hold this fingerprint."""
    assert minilm.fingerprint == "123da5b3902f18db1ad22a72c559a58d"
    assert minilm.describe() == {
        "model": "minilm",
        "revision": None,
        "trust_remote_code": False,
        "weights": "29d193ee587a84c451d2f60f51ed30d5",
        "dimension": 384,
        "max_length": 256,
        "pooling": "mean",
        "modules": [["Pooling", {"pooling_mode": "mean", "include_prompt": "True"}], ["Normalize", {}]],
        "layer": "last",
        "tokens": "content",
        "query_prompt": "",
        "document_prompt": "",
        "query_tokens": "content",
        "document_tokens": "content",
        "profile": "general",
        "max_pixels": None,
    }


def test_options_that_change_the_embeddings_change_the_fingerprint(tmp_path):
    """A shared token store would give one encoder the embeddings of the other."""
    from helpers import tiny_models

    folder = tiny_models.bert(tmp_path)
    of = {
        str(options): SmartEncoder(folder, device="cpu", model_options=options).fingerprint
        for options in (
            None,
            {"local_files_only": True},
            {"config_kwargs": {"layer_norm_eps": 1.0}},
            {"processor_kwargs": {"truncation_side": "left"}},
        )
    }
    assert of["None"] == of["{'local_files_only': True}"]
    assert len(set(of.values())) == 3

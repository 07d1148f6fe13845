"""The trainable parts of an encoder: the same numbers as encoding, with gradients; settings saved with the model."""

import numpy as np
import pytest
import torch
from helpers import tiny_jina, tiny_models, tiny_vision
from helpers.text_models import TASKS, encode, models_in
from sentence_transformers import SentenceTransformer

from smart_rag import SmartEncoder
from smart_rag.errors import EncoderError, InvalidInput

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ["the cat sat", "dogs bark at night, when nobody is there", "rain"]


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    return models_in(tmp_path_factory)


def forward(encoder, texts, task):
    """Return pooled embeddings, token embeddings and the tokens of each text, by the public steps alone."""
    trainable = encoder.trainable
    inputs = trainable.prepare(texts, task)
    keep = inputs.pop("keep")
    states = trainable.model(inputs, task=inputs.pop("task"))
    embeddings = trainable.to_embeddings(states["sentence_embedding"], states["token_embeddings"][keep])
    return *embeddings, keep.sum(dim=1)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["prompts", "cls", "dense", "truncated", "qwen2"])
def test_the_steps_equal_encoding(models, name, task):
    encoder = models(name).encoder
    pooled, tokens, counts = forward(encoder, TEXTS, task)
    expected = encode(encoder, TEXTS, task)
    np.testing.assert_allclose(pooled.detach(), expected.pooled, rtol=0, atol=1e-5)
    np.testing.assert_allclose(tokens.detach(), expected.tokens.embeddings, rtol=0, atol=1e-5)
    assert counts.tolist() == np.diff(expected.tokens.offsets).tolist()


def test_gradients_reach_every_layer(models):
    encoder = models("dense").fresh()
    pooled, tokens, _ = forward(encoder, TEXTS, "document")
    (pooled.sum() + tokens.sum()).backward()
    for name, weights in encoder.model.named_parameters():
        assert weights.grad is not None or "pooler" in name, name


def test_items_are_checked(models):
    with pytest.raises(InvalidInput, match=r"query 1: expected a str, .* got NoneType"):
        models("mean").encoder.trainable.prepare(["a", None], "query")


def test_prompts_are_saved_with_the_model(models, tmp_path):
    encoder = models("mean").fresh(query_prompt="find: ", document_prompt="passage: ")
    encoder.trainable.make_portable()
    encoder.model.save(str(tmp_path), create_model_card=False)
    saved, again = SentenceTransformer(str(tmp_path), device="cpu"), SmartEncoder(tmp_path, device="cpu")
    for task in TASKS:
        expected = encode(encoder, TEXTS, task)
        theirs = saved.encode_query(TEXTS) if task == "query" else saved.encode_document(TEXTS)
        np.testing.assert_allclose(theirs, expected.pooled, rtol=0, atol=1e-5)
        np.testing.assert_allclose(
            encode(again, TEXTS, task).tokens.embeddings, expected.tokens.embeddings, rtol=0, atol=1e-5
        )


@pytest.mark.parametrize(
    ("build", "profile", "message"),
    [
        (tiny_models.colbert, None, "trained for late interaction; train it with .*MultiVectorEncoderTrainer"),
        (tiny_vision.clip, None, "has a tower for texts and one for images.* SentenceTransformerTrainer"),
        (tiny_jina.jina_v4, None, "cannot be trained here: .* its projector; train it with the code"),
        (tiny_vision.qwen2_vl, "gme-qwen2-vl", "positions that are counted .* train an adapter instead"),
    ],
)
def test_models_that_cannot_be_trained_say_what_to_do(build, profile, message, tmp_path):
    encoder = SmartEncoder(build(tmp_path), device="cpu", profile=profile)
    with pytest.raises(EncoderError, match=message):
        encoder.trainable.make_portable()


@pytest.mark.parametrize(
    ("build", "profile"), [(tiny_vision.qwen3_vl, "lamra-ret"), (tiny_vision.qwen2_vl, "lamra-ret-qwen2")]
)
def test_lamra_is_saved_so_that_its_family_is_recognised(build, profile, tmp_path):
    """A folder of sentence-transformers cannot say that the token before <emb> is pooled."""
    options = {"emb": True} if profile == "lamra-ret" else {}
    encoder = SmartEncoder(build(tmp_path / "base", **options), device="cpu", profile=profile)
    encoder.trainable.make_portable()
    encoder.trainable.save(tmp_path / "saved")
    again = SmartEncoder(tmp_path / "saved", device="cpu")
    assert again.describe()["profile"] == profile
    for task in TASKS:
        expected, found = encode(encoder, TEXTS, task), encode(again, TEXTS, task)
        np.testing.assert_allclose(found.pooled, expected.pooled, rtol=0, atol=1e-5)
        np.testing.assert_allclose(found.tokens.embeddings, expected.tokens.embeddings, rtol=0, atol=1e-5)


def test_training_leaves_encoding_without_gradients(models):
    encoder = models("mean").encoder
    assert torch.is_grad_enabled()
    forward(encoder, TEXTS, "query")
    assert encoder.encode_query(TEXTS).pooled.dtype == np.float32

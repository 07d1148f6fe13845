"""`SmartEncoder` against the numbers of sentence-transformers, with MiniLM and with tiny random models."""

import json
import math

import numpy as np
import pytest
from helpers import tiny_models
from helpers.text_models import (
    CASES,
    TASKS,
    TEXTS,
    assert_same,
    encode,
    forward_shapes,
    models_in,
    reference_encode,
)

from smart_rag.encoders.smart_encoder import SmartEncoder
from smart_rag.errors import EncoderError, InvalidInput

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    return models_in(tmp_path_factory)


def expected_tokens(model, case, row, prompt):
    """Return one text's token embeddings, from ``encode(..., output_value=None)``, by plain loops."""
    names = model.tokenizer.convert_ids_to_tokens(row["input_ids"].tolist())
    positions = [i for i, attended in enumerate(row["attention_mask"].tolist()) if attended]
    if prompt and not case.prompt:
        opening = 1 if positions and names[positions[0]] in case.special else 0
        positions = positions[opening + len(model.tokenizer(prompt, add_special_tokens=False)["input_ids"]) :]
    if case.pooled == "first":
        positions = positions[1:]
    if case.pooled == "last":
        positions = positions[:-1]
    rows = []
    for i in positions:
        if names[i] in case.special:
            continue
        vector = row["token_embeddings"][i].tolist()
        for module in model:
            if type(module).__name__ == "Dense":
                weight, bias = module.linear.weight.tolist(), module.linear.bias.tolist()
                vector = [
                    math.tanh(sum(w * x for w, x in zip(line, vector, strict=True)) + b)
                    for line, b in zip(weight, bias, strict=True)
                ]
        vector = vector[: model.truncate_dim]
        norm = math.sqrt(sum(x * x for x in vector))
        rows.append([x / norm for x in vector])
    return rows


# The numbers.


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", CASES)
def test_pooled_embeddings_equal_sentence_transformers(models, name, task):
    """Prompts, pooling, dense layers and truncation are the model's own."""
    model = models(name)
    ours = encode(model.encoder, model.texts, task).pooled
    theirs = reference_encode(model.reference, model.texts, task, normalize_embeddings=True)
    assert ours.dtype == np.float32
    assert ours.shape == (len(model.texts), model.encoder.dimension)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", CASES)
def test_token_embeddings_are_the_last_states_of_the_content(models, name, task):
    """Special, padded, pooled and excluded prompt positions are left out; an empty text has its pooled vector."""
    model = models(name)
    ours = encode(model.encoder, model.texts, task)
    rows = reference_encode(model.reference, model.texts, task, output_value=None)
    prompt = model.reference.prompts[task]
    for i, row in enumerate(rows):
        expected = expected_tokens(model.reference, model.case, row, prompt) or [ours.pooled[i]]
        assert len(ours.tokens[i]) == len(expected), model.texts[i]
        np.testing.assert_allclose(ours.tokens[i], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "dtype"), [("minilm", None), ("dense", None), ("dense", "bfloat16")])
def test_vectors_have_unit_length_in_float32(models, name, dtype):
    """Weights of 16 bits change nothing about that."""
    ours = models(name).fresh(dtype=dtype).encode_document(TEXTS)
    for vectors in (ours.pooled, ours.tokens.embeddings):
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors.astype(np.float64), axis=1), 1, rtol=0, atol=1e-6)


def test_dense_layers_bring_tokens_into_the_pooled_space(models):
    """Both kinds of embeddings have the dimension of the last layer."""
    ours = models("dense").encoder.encode_document(TEXTS)
    assert models("dense").encoder.dimension == 24
    assert ours.pooled.shape[1] == ours.tokens.dimension == 24


@pytest.mark.parametrize(
    ("name", "less"), [("mean", 0), ("cls", 0), ("cls without [CLS]", 1), ("qwen2", 1), ("qwen2 with </s>", 0)]
)
def test_pooled_position_is_left_out(models, name, less):
    """Pooling reads one position, a word or a special token."""
    encoder = models(name).encoder
    ours = encoder.encode_document(["the cat sat"])
    assert len(ours.tokens[0]) == encoder.count_tokens(["the cat sat"])[0] - less
    assert (ours.tokens[0] @ ours.pooled[0]).max() < 0.999


@pytest.mark.parametrize("name", ["qwen2", "llama"])
def test_padding_on_the_left_changes_nothing(models, name):
    """A text alone equals the same text in a padded batch."""
    encoder = models(name).fresh()
    shapes = forward_shapes(encoder)
    texts = ["the cat", "dogs bark at night when nobody is there", "rain", "which river"]
    together = encoder.encode_document(texts)
    assert len(shapes) == 1
    assert encoder.model.tokenizer.padding_side == "left"
    for i, text in enumerate(texts):
        assert_same(together[i], encoder.encode_document([text]))
    assert len({width for _, width in shapes}) > 2  # there was something to pad


@pytest.mark.parametrize("text", ["", " ", "\n\t", "[CLS]"])
def test_text_without_tokens_has_its_pooled_embedding(minilm, text):
    """It is the only token embedding."""
    ours = minilm.encode_document(["the cat", text])
    assert ours.tokens[1].tolist() == [ours.pooled[1].tolist()]
    assert len(ours.tokens[0]) == 2


@pytest.mark.parametrize("texts", [["the cat", ""], [""]])
def test_a_text_without_any_vector_is_refused(models, texts):
    """If a tokenizer adds nothing to an empty text, there is nothing to pool, and zeros would be wrong."""
    with pytest.raises(InvalidInput, match=f"text {len(texts) - 1}"):
        models("qwen2").encoder.encode_document(texts)


@pytest.mark.parametrize("name", ["minilm", "cls", "cls without [CLS]", "qwen2", "llama"])
def test_ids_are_those_of_the_tokenizer(models, name):
    """The kept tokens have their ids, in order, also in a padded batch. Punctuation and an empty text have -1."""
    model = models(name)
    texts = ["the cat sat", "dogs bark at night, when nobody is there", "rain", "which cat sat on the cat"]
    if model.case.empty:
        texts.insert(2, "")
    ours = model.fresh(batch_size=3).encode_document(texts)
    tokenizer = model.reference.tokenizer
    expected = []
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        ids = ids[1:] if model.case.pooled == "first" else ids[:-1] if model.case.pooled == "last" else ids
        names = tokenizer.convert_ids_to_tokens(ids)
        kept = [(id, name) for id, name in zip(ids, names, strict=True) if name not in model.case.special]
        expected.append([-1 if name in (",", "?") else id for id, name in kept] or [-1])
    assert ours.tokens.ids.dtype == np.int32
    found = np.split(ours.tokens.ids, ours.tokens.offsets[1:-1])
    assert [ids.tolist() for ids in found] == expected


def test_ids_of_punctuation(minilm, minilm_on_torch):
    """Words, numbers and signs keep their ids; punctuation marks have none."""
    text = "(Is C++ 10 % faster, or 5 € cheaper?) \u201cYes\u201d - \u7684\uff01"
    names = np.asarray(minilm_on_torch.model.tokenizer.tokenize(text))
    ids = minilm.encode_document([text]).tokens.ids
    assert names[ids < 0].tolist() == ["(", "%", ",", "?", ")", "\u201c", "\u201d", "-", "\uff01"]


def test_unknown_words_keep_their_tokens(minilm, minilm_on_torch):
    """An emoji outside of the vocabulary has a state."""
    assert minilm_on_torch.model.tokenizer.tokenize("cat 🦩") == ["cat", "[UNK]"]
    assert len(minilm.encode_document(["cat 🦩"]).tokens[0]) == 2


# Arguments.


def test_no_texts_give_an_empty_representation(minilm):
    """Its arrays are as wide as the model."""
    for ours in (minilm.encode_query([]), minilm.encode_document([])):
        assert len(ours) == len(ours.tokens) == 0
        assert ours.pooled.shape == ours.tokens.embeddings.shape == (0, 384)


def test_a_str_is_a_batch_of_one(minilm):
    """It is not a batch of its characters."""
    assert_same(minilm.encode_document("the cat"), minilm.encode_document(["the cat"]))
    assert len(minilm.encode_query("the cat")) == 1


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", None], "item 1: expected a str, .* got NoneType"),
        ([b"a"], "item 0: expected a str, .* got bytes"),
        (["a", "\ud800"], "item 1 holds a lone surrogate"),
    ],
)
def test_an_item_of_another_type_is_named(minilm, texts, message):
    """The message names its position."""
    with pytest.raises(InvalidInput, match=message):
        minilm.encode_document(texts)


@pytest.mark.parametrize("kwargs", [{"batch_size": 0}, {"batch_tokens": 0}])
def test_sizes_below_one_are_refused(kwargs):
    """They are refused before a model is loaded."""
    with pytest.raises(InvalidInput, match="at least 1"):
        SmartEncoder("no-such-model", device="cpu", **kwargs)


def test_progress_is_shown_on_request(minilm, capsys):
    """Without a request nothing is shown."""
    minilm.encode_document(["the cat"])
    assert capsys.readouterr().err == ""
    minilm.encode_document(["the cat"], show_progress_bar=True)
    assert "encoding on cpu" in capsys.readouterr().err


# Prompts and lengths.


def test_count_tokens(models, minilm, minilm_on_torch):
    """Special tokens and prompts do not count, and nothing is cut."""
    texts = ["The cat sat.", "", "embeddings", "cat " * 1000, "猫坐"]
    assert minilm_on_torch.model.tokenizer.tokenize("embeddings") == ["em", "##bed", "##ding", "##s"]
    assert minilm.count_tokens(texts) == [4, 0, 4, 1000, 2]
    assert minilm.count_tokens([]) == []
    assert models("prompts").encoder.count_tokens(["the cat"]) == [2]


# Spans.


# Identity.


@pytest.mark.parametrize("name", ["minilm", "prompts", "qwen2"])
def test_description_makes_the_same_encoder(models, name):
    """It does so after a round trip through JSON, with the caller's arguments."""
    encoder = models(name).fresh(query_prompt="find: ", document_prompt="passage: ", max_length=16)
    description = json.loads(json.dumps(encoder.describe()))
    assert description == encoder.describe()
    assert description["model"] == ("minilm" if name == "minilm" else models(name).path)
    again = SmartEncoder.from_description(description, device="cpu")
    assert again.fingerprint == encoder.fingerprint
    assert again.describe() == encoder.describe()
    texts = models(name).texts
    for task in TASKS:
        assert_same(encode(again, texts, task), encode(encoder, texts, task), 1e-6)


def test_a_description_is_a_copy(minilm):
    """A changed description changes no encoder."""
    minilm.describe()["weights"] = "none"
    assert minilm.describe()["weights"] != "none"


# Models that cannot be used.


def test_model_without_token_embeddings(tmp_path):
    """Such a model only averages word vectors. It is refused when it is loaded, before an index is made."""
    with pytest.raises(EncoderError, match=r"no token embeddings: it is a static model.*use a transformer model"):
        SmartEncoder(tiny_models.static(tmp_path / "whole"), device="cpu")
    # model2vec also saves its models alone, with a model_type that transformers does not have.
    (tmp_path / "config.json").write_text('{"model_type": "model2vec", "architectures": ["StaticModel"]}')
    with pytest.raises(EncoderError, match="it is a static model"):
        SmartEncoder(tmp_path, device="cpu")


@pytest.mark.parametrize("dense", [None, 24])
def test_pooling_that_leaves_the_token_space(tmp_path, dense):
    """Two poolings side by side are wider than a token, and a dense layer after them cannot read a token."""
    path = tiny_models.bert(tmp_path, pooling=("cls", "mean"), dense=dense)
    with pytest.raises(EncoderError, match="one space"):
        SmartEncoder(path, device="cpu").encode_document(["the cat sat"])


def test_count_tokens_of_a_str_is_that_of_one_text(minilm):
    assert minilm.count_tokens("the cat sat") == [3]


def test_unknown_and_merging_codecs_are_refused(minilm):
    with pytest.raises(InvalidInput, match=r"codec 'compact' pools 2 tokens into one.*use '2bit' instead"):
        minilm.encode_document(TEXTS, codec="compact")
    with pytest.raises(InvalidInput, match="unknown codec 'zip'"):
        minilm.encode_document(TEXTS, codec="zip")
    assert len(minilm.encode_document([], codec="2bit")) == 0

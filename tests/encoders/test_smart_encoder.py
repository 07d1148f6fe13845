"""`SmartEncoder` against sentence-transformers' own numbers, on MiniLM and on tiny random models."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from helpers import tiny_models
from helpers.text_models import (
    CASES,
    FAST,
    PROMPTS,
    TASKS,
    TEXTS,
    assert_same,
    encode,
    forward_shapes,
    models_in,
)
from sentence_transformers import SentenceTransformer

from smart_rag.encoders.smart_encoder import SmartEncoder
from smart_rag.errors import EncoderError, InvalidInput

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    return models_in(tmp_path_factory)


def spans_of(encoder, text, task="document"):
    return [place.span or (0, 0) for place in encoder.token_origins(text, task)]


def reference_encode(model, texts, task, **kwargs):
    kwargs["batch_size"] = 4  # one with the long text, the others with little padding
    return model.encode_query(texts, **kwargs) if task == "query" else model.encode_document(texts, **kwargs)


def expected_tokens(model, case, row, prompt):
    """One text's token embeddings, from ``encode(..., output_value=None)``, in plain loops."""
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
def test_pooled_is_that_of_sentence_transformers(models, name, task):
    """Prompts, pooling, dense layers and truncation are the model's own."""
    model = models(name)
    ours = encode(model.encoder, model.texts, task).pooled
    theirs = reference_encode(model.reference, model.texts, task, normalize_embeddings=True)
    assert ours.dtype == np.float32
    assert ours.shape == (len(model.texts), model.encoder.dimension)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", CASES)
def test_tokens_are_the_last_states_of_the_content(models, name, task):
    """Special, padded, pooled and left-out prompt positions are gone; a text without others has its pooled vector."""
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
    """Also when the weights are coarser."""
    ours = models(name).fresh(dtype=dtype).encode_document(TEXTS)
    for vectors in (ours.pooled, ours.tokens.embeddings):
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors.astype(np.float64), axis=1), 1, rtol=0, atol=1e-6)


def test_dense_layers_bring_tokens_into_the_pooled_space(models):
    """The dimension is the last layer's, for both kinds."""
    ours = models("dense").encoder.encode_document(TEXTS)
    assert models("dense").encoder.dimension == 24
    assert ours.pooled.shape[1] == ours.tokens.dimension == 24


@pytest.mark.parametrize(
    ("name", "less"), [("mean", 0), ("cls", 0), ("cls without [CLS]", 1), ("qwen2", 1), ("qwen2 with </s>", 0)]
)
def test_pooled_position_is_left_out(models, name, less):
    """The one that pooling reads, be it a word or a special token."""
    encoder = models(name).encoder
    ours = encoder.encode_document(["the cat sat"])
    assert len(ours.tokens[0]) == encoder.count_tokens(["the cat sat"])[0] - less
    assert (ours.tokens[0] @ ours.pooled[0]).max() < 0.999


@pytest.mark.parametrize("name", ["qwen2", "llama"])
def test_padding_on_the_left_changes_nothing(models, name):
    """A text alone and the same text in a padded batch."""
    encoder = models(name).fresh()
    shapes = forward_shapes(encoder)
    texts = ["the cat", "dogs bark at night when nobody is there", "rain", "which river"]
    together = encoder.encode_document(texts)
    assert len(shapes) == 1
    assert encoder._model.tokenizer.padding_side == "left"
    for i, text in enumerate(texts):
        assert_same(together[i], encoder.encode_document([text]))
    assert len({width for _, width in shapes}) > 2  # there was something to pad


@pytest.mark.parametrize("text", ["", " ", "\n\t", "[CLS]"])
def test_text_without_tokens_has_its_pooled_embedding(minilm, text):
    """As its only token."""
    ours = minilm.encode_document(["the cat", text])
    assert ours.tokens[1].tolist() == [ours.pooled[1].tolist()]
    assert len(ours.tokens[0]) == 2


@pytest.mark.parametrize("texts", [["the cat", ""], [""]])
def test_text_that_has_no_vector_at_all_is_refused(models, texts):
    """A tokenizer that adds nothing to an empty text leaves nothing to pool: zeros would be a lie."""
    with pytest.raises(InvalidInput, match=f"text {len(texts) - 1}"):
        models("qwen2").encoder.encode_document(texts)


@pytest.mark.parametrize("name", ["minilm", "cls", "cls without [CLS]", "qwen2", "llama"])
def test_ids_are_those_of_the_tokenizer(models, name):
    """Of the tokens that are kept, in their order, also in a padded batch; -1 for punctuation and an empty text."""
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


def test_ids_of_punctuation(minilm):
    """What stands for a word, a number or a sign keeps its id; marks between them have none."""
    text = "(Is C++ 10 % faster, or 5 € cheaper?) \u201cYes\u201d - \u7684\uff01"
    names = np.asarray(minilm._model.tokenizer.tokenize(text))
    ids = minilm.encode_document([text]).tokens.ids
    assert names[ids < 0].tolist() == ["(", "%", ",", "?", ")", "\u201c", "\u201d", "-", "\uff01"]


def test_unknown_words_keep_their_tokens(minilm):
    """An emoji that is not in the vocabulary has a state all the same."""
    assert minilm._model.tokenizer.tokenize("cat 🦩") == ["cat", "[UNK]"]
    assert len(minilm.encode_document(["cat 🦩"]).tokens[0]) == 2


# Arguments.


def test_no_texts_give_an_empty_representation(minilm):
    """Of the model's width."""
    for ours in (minilm.encode_query([]), minilm.encode_document([])):
        assert len(ours) == len(ours.tokens) == 0
        assert ours.pooled.shape == ours.tokens.embeddings.shape == (0, 384)


def test_a_str_is_a_batch_of_one(minilm):
    """Not of its characters."""
    assert_same(minilm.encode_document("the cat"), minilm.encode_document(["the cat"]))
    assert len(minilm.encode_query("the cat")) == 1


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", None], "item 1 is a NoneType"),
        ([b"a"], "item 0 is a bytes"),
        (["a", "\ud800"], "item 1 holds a lone surrogate"),
    ],
)
def test_text_of_another_type_is_named(minilm, texts, message):
    """By its position."""
    with pytest.raises(InvalidInput, match=message):
        minilm.encode_document(texts)


@pytest.mark.parametrize("kwargs", [{"batch_size": 0}, {"batch_tokens": 0}])
def test_sizes_below_one_are_refused(kwargs):
    """Before a model is loaded."""
    with pytest.raises(InvalidInput, match="at least 1"):
        SmartEncoder("no-such-model", device="cpu", **kwargs)


def test_progress_is_shown_on_request(minilm, capsys):
    """And only then."""
    minilm.encode_document(["the cat"])
    assert capsys.readouterr().err == ""
    minilm.encode_document(["the cat"], show_progress_bar=True)
    assert "encoding on cpu" in capsys.readouterr().err


# Prompts and lengths.


def test_prompt_takes_part_unless_the_model_leaves_it_out(models):
    """Each of the two prompts is two tokens, a word and a colon."""
    plain = models("mean").encoder.encode_document(["the cat"]).tokens
    assert len(plain[0]) == 2
    for task in TASKS:
        assert len(encode(models("prompts").encoder, ["the cat"], task).tokens[0]) == 2 + 2
        assert len(encode(models("prompts left out").encoder, ["the cat"], task).tokens[0]) == 2
    queries = models("prompts").encoder.encode_query(["the cat"])
    documents = models("prompts").encoder.encode_document(["the cat"])
    assert np.abs(queries.pooled - documents.pooled).max() > 1e-3


def test_prompts_can_be_overridden(models):
    """By other words, or by none."""
    model = models("prompts")
    encoder = model.fresh(query_prompt="", document_prompt="the passage says: ")
    queries, documents = encoder.encode_query(TEXTS), encoder.encode_document(TEXTS)
    for ours, prompt in ((queries, ""), (documents, "the passage says: ")):
        theirs = model.reference.encode(TEXTS, prompt=prompt, normalize_embeddings=True)
        np.testing.assert_allclose(ours.pooled, theirs, rtol=0, atol=1e-5)
    assert len(queries.tokens[1]) == 1
    assert len(documents.tokens[1]) == 1 + encoder.count_tokens(["the passage says: "])[0]


def test_default_prompt_is_not_one_for_queries_or_documents(tmp_path):
    """sentence-transformers' `encode_query` and `encode_document` pass it over."""
    path = tiny_models.bert(tmp_path, prompts={"sts": "similar: "}, default_prompt_name="sts")
    encoder, model = SmartEncoder(path, device="cpu"), SentenceTransformer(path, device="cpu")
    for task in TASKS:
        theirs = reference_encode(model, ["the cat"], task, normalize_embeddings=True)
        np.testing.assert_allclose(encode(encoder, ["the cat"], task).pooled, theirs, rtol=0, atol=1e-5)


def test_passage_prompt_is_one_for_documents(tmp_path):
    """Many models call it so."""
    path = tiny_models.bert(tmp_path, prompts={"query": "query: ", "passage": "passage: "})
    theirs = SentenceTransformer(path, device="cpu").encode(TEXTS, prompt="passage: ", normalize_embeddings=True)
    ours = SmartEncoder(path, device="cpu").encode_document(TEXTS).pooled
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_max_length_cuts(models):
    """[CLS], six tokens and [SEP] are left of a text."""
    model = models("minilm")
    encoder = model.fresh(max_length=8)
    assert model.encoder.max_length == 256
    assert encoder.max_length == 8
    text = "the cat sat on the mat and looked at the rain"
    ours = encoder.encode_document([text, "the cat"])
    assert [len(tokens) for tokens in ours.tokens] == [6, 2]
    assert_same(ours[0], model.encoder.encode_document("the cat sat on the mat"))


def test_text_of_any_length_where_the_model_sets_none(models):
    """T5 knows no longest text."""
    encoder = models("byt5").encoder
    assert len(encoder.encode_document(["x" * 1000]).tokens[0]) == 1000


def test_count_tokens(models, minilm):
    """Neither special tokens nor prompts, and nothing is cut."""
    texts = ["The cat sat.", "", "embeddings", "cat " * 1000, "猫坐"]
    assert minilm._model.tokenizer.tokenize("embeddings") == ["em", "##bed", "##ding", "##s"]
    assert minilm.count_tokens(texts) == [4, 0, 4, 1000, 2]
    assert minilm.count_tokens([]) == []
    assert models("prompts").encoder.count_tokens(["the cat"]) == [2]


# Spans.


def test_spans_are_the_pieces_of_words(minilm):
    """Each is the wordpiece it stands for."""
    text = "Embeddings of unbelievable tokens, don't they? Yes: (3.14) ones!"
    spans = spans_of(minilm, text)
    pieces = minilm._model.tokenizer.tokenize(text)
    assert [text[start:stop].lower() for start, stop in spans] == [piece.removeprefix("##") for piece in pieces]
    assert "".join(text[start:stop] for start, stop in spans) == "".join(text.split())


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", FAST)
def test_every_token_embedding_has_a_span(models, name, task):
    """Within the text and in its order, with prompts, cuts and pooled positions."""
    model = models(name)
    tokens = encode(model.encoder, model.texts, task).tokens
    for text, matrix in zip(model.texts, tokens, strict=True):
        spans = spans_of(model.encoder, text, task)
        assert len(spans) == len(matrix), text
        assert all(0 <= start <= stop <= len(text) for start, stop in spans)
        assert spans == sorted(spans)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("prompts", ["", "", "the", "cat", "sat"]),
        ("prompts left out", ["the", "cat", "sat"]),
        ("cls without [CLS]", ["cat", "sat"]),
        ("qwen2 with </s>", ["t", "he", " c", "at", " s", "at"]),
        ("qwen2", ["t", "he", " c", "at", " s"]),
    ],
)
def test_spans_of_prompts_and_pooled_positions(models, name, words):
    """A prompt's are empty, a pooled position has none."""
    text = "the cat sat"
    assert [text[start:stop] for start, stop in spans_of(models(name).encoder, text)] == words


def test_spans_follow_the_task(models):
    """A query has the query's prompt."""
    encoder = models("prompts").fresh(query_prompt="the passage says: ")
    assert spans_of(encoder, "the cat", "query") == [(0, 0)] * 4 + [(0, 3), (4, 7)]
    assert spans_of(encoder, "the cat", "document") == [(0, 0)] * 2 + [(0, 3), (4, 7)]


def test_spans_end_where_the_text_is_cut(models):
    """The rest has no token embeddings."""
    encoder = models("minilm").fresh(max_length=8)
    text = "the cat sat on the mat and looked at the rain"
    spans = spans_of(encoder, text)
    assert len(spans) == len(encoder.encode_document(text).tokens[0]) == 6
    assert text[: spans[-1][1]] == "the cat sat on the mat"


@pytest.mark.parametrize("text", ["", "  "])
def test_span_of_a_text_without_tokens_is_all_of_it(minilm, text):
    """As its one token stands for all of it."""
    assert spans_of(minilm, text) == [(0, len(text))]


def test_spans_need_a_tokenizer_that_knows_them(models):
    """One in Python does not."""
    with pytest.raises(EncoderError, match="no character offsets"):
        models("byt5").encoder.token_origins("the cat")


def test_spans_are_never_those_of_other_tokens(tmp_path):
    """A chat template puts tokens around the text: their spans are counted, or there are none."""
    template = "{% for message in messages %}<s>{{ message['content'] }}</s>{% endfor %}"
    encoder = SmartEncoder(tiny_models.decoder(tmp_path, chat_template=template), device="cpu")
    tokens = encoder.encode_document("the cat sat").tokens[0]
    try:
        spans = spans_of(encoder, "the cat sat")
    except EncoderError:
        return
    assert len(spans) == len(tokens)


# Identity.


def test_fingerprint_is_that_of_the_weights(models, minilm):
    """Not of the name, the folder or the precision."""
    by_path = models("minilm")
    assert minilm.model_name != by_path.path
    assert by_path.encoder.fingerprint == minilm.fingerprint
    assert by_path.fresh(dtype="bfloat16").fingerprint == minilm.fingerprint
    assert by_path.fresh(batch_size=1, batch_tokens=100).fingerprint == minilm.fingerprint


def test_fingerprint_of_a_copy(models, tmp_path):
    """The folder elsewhere is the same model."""
    shutil.copytree(models("dense").path, tmp_path / "copy")
    copy = SmartEncoder(tmp_path / "copy", device="cpu")
    assert copy.fingerprint == models("dense").encoder.fingerprint
    assert copy.fingerprint == models("dense").fresh(dtype="bfloat16").fingerprint


def test_fingerprint_tells_apart_what_changes_a_document(models, tmp_path):
    """Weights, dense layers, pooling, the document prompt, the length; the query prompt does not."""
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


def test_fingerprint_tells_activations_apart(models, tmp_path):
    """They have no weights, and change every number."""
    shutil.copytree(models("dense").path, tmp_path / "linear")
    config = tmp_path / "linear" / "2_Dense" / "config.json"
    dense = json.loads(config.read_text())
    config.write_text(json.dumps(dense | {"activation_function": "torch.nn.modules.linear.Identity"}))
    linear = SmartEncoder(tmp_path / "linear", device="cpu")
    difference = linear.encode_document("the cat").pooled - models("dense").encoder.encode_document("the cat").pooled
    assert np.abs(difference).max() > 1e-3
    assert linear.fingerprint != models("dense").encoder.fingerprint


def test_fingerprint_notices_few_changed_weights(models, tmp_path):
    """One fine-tuned matrix is enough."""
    model = SentenceTransformer(models("mean").path, device="cpu")
    with torch.no_grad():
        model[0].auto_model.encoder.layer[1].output.dense.weight.mul_(1.05)
    model.save(str(tmp_path / "tuned"), create_model_card=False)
    assert SmartEncoder(tmp_path / "tuned", device="cpu").fingerprint != models("mean").encoder.fingerprint


@pytest.mark.parametrize("name", ["minilm", "prompts", "qwen2"])
def test_description_makes_the_same_encoder(models, name):
    """After a round trip through JSON, with what was overridden."""
    encoder = models(name).fresh(query_prompt="find: ", document_prompt="passage: ", max_length=16)
    description = json.loads(json.dumps(encoder.describe()))
    assert description == encoder.describe()
    assert description["model"] == models(name).path
    again = SmartEncoder.from_description(description, device="cpu")
    assert again.fingerprint == encoder.fingerprint
    assert again.describe() == encoder.describe()
    texts = models(name).texts
    for task in TASKS:
        assert_same(encode(again, texts, task), encode(encoder, texts, task), 1e-6)


def test_description_is_the_callers_own(minilm):
    """Changing it changes no encoder."""
    minilm.describe()["weights"] = "none"
    assert minilm.describe()["weights"] != "none"


# Models that cannot be used.


def test_model_without_token_embeddings(tmp_path):
    """Word vectors that are only ever averaged."""
    path = tiny_models.static(tmp_path)
    with pytest.raises(EncoderError, match="no token embeddings"):
        SmartEncoder(path, device="cpu").encode_document(["the cat sat", "a dog"])


@pytest.mark.parametrize("dense", [None, 24])
def test_pooling_that_leaves_the_token_space(tmp_path, dense):
    """Two poolings side by side are wider than a token, and a dense layer after them takes no token."""
    path = tiny_models.bert(tmp_path, pooling=("cls", "mean"), dense=dense)
    with pytest.raises(EncoderError, match="one space"):
        SmartEncoder(path, device="cpu").encode_document(["the cat sat"])


@pytest.mark.parametrize("max_length", [0, 1, 2, 513, 2.5])
def test_max_length_the_model_cannot_take(max_length):
    """Two tokens are special, and MiniLM knows 512 positions: what is outside is refused at once."""
    with pytest.raises(InvalidInput, match="max_length must be"):
        SmartEncoder("minilm", device="cpu", max_length=max_length)


def test_count_tokens_of_a_str_is_that_of_one_text(minilm):
    assert minilm.count_tokens("the cat sat") == [3]


def test_codecs_that_an_encoder_does_not_take(minilm):
    with pytest.raises(InvalidInput, match=r"codec '2bit/2' pools 2 tokens into one.*use '2bit' here"):
        minilm.encode_document(TEXTS, codec="compact")
    with pytest.raises(InvalidInput, match="unknown codec 'zip'"):
        minilm.encode_document(TEXTS, codec="zip")
    assert len(minilm.encode_document([], codec="2bit")) == 0

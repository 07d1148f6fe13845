"""Settings of a model: prompts, lengths and token policies, from arguments, own files and profiles."""

import numpy as np
import pytest
from helpers import tiny_models
from helpers.text_models import TASKS, TEXTS, assert_same, encode, models_in, reference_encode
from sentence_transformers import SentenceTransformer

from smart_rag.encoders.smart_encoder import SmartEncoder
from smart_rag.errors import InvalidInput

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    return models_in(tmp_path_factory)


def test_prompt_takes_part_unless_the_model_leaves_it_out(models):
    """Both prompts have two tokens, a word and a colon."""
    plain = models("mean").encoder.encode_document(["the cat"]).tokens
    assert len(plain[0]) == 2
    for task in TASKS:
        assert len(encode(models("prompts").encoder, ["the cat"], task).tokens[0]) == 2 + 2
        assert len(encode(models("prompts left out").encoder, ["the cat"], task).tokens[0]) == 2
    queries = models("prompts").encoder.encode_query(["the cat"])
    documents = models("prompts").encoder.encode_document(["the cat"])
    assert np.abs(queries.pooled - documents.pooled).max() > 1e-3


def test_prompts_can_be_overridden(models):
    """The caller can pass other words, or none."""
    model = models("prompts")
    encoder = model.fresh(query_prompt="", document_prompt="the passage says: ")
    queries, documents = encoder.encode_query(TEXTS), encoder.encode_document(TEXTS)
    for ours, prompt in ((queries, ""), (documents, "the passage says: ")):
        theirs = model.reference.encode(TEXTS, prompt=prompt, normalize_embeddings=True)
        np.testing.assert_allclose(ours.pooled, theirs, rtol=0, atol=1e-5)
    assert len(queries.tokens[1]) == 1
    assert len(documents.tokens[1]) == 1 + encoder.count_tokens(["the passage says: "])[0]


def test_default_prompt_is_not_one_for_queries_or_documents(tmp_path):
    """`encode_query` and `encode_document` of sentence-transformers leave it out."""
    path = tiny_models.bert(tmp_path, prompts={"sts": "similar: "}, default_prompt_name="sts")
    encoder, model = SmartEncoder(path, device="cpu"), SentenceTransformer(path, device="cpu")
    for task in TASKS:
        theirs = reference_encode(model, ["the cat"], task, normalize_embeddings=True)
        np.testing.assert_allclose(encode(encoder, ["the cat"], task).pooled, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "prompts",
    [
        {"query": "query: ", "passage": "passage: "},
        {"query": "query: ", "document": "document: ", "passage": "passage: "},
        {"query": "query: ", "document": "", "corpus": "corpus: "},
        {"passage": "passage: "},
    ],
    ids=str,
)
def test_prompts_are_those_of_sentence_transformers(tmp_path, prompts):
    """Its ``encode_document`` takes the first of document, passage and corpus; a document prompt always exists."""
    path = tiny_models.bert(tmp_path, prompts=prompts)
    encoder, model = SmartEncoder(path, device="cpu"), SentenceTransformer(path, device="cpu")
    for task in TASKS:
        theirs = reference_encode(model, TEXTS, task, normalize_embeddings=True)
        np.testing.assert_allclose(encode(encoder, TEXTS, task).pooled, theirs, rtol=0, atol=1e-5)


def test_a_prompt_that_is_not_used_is_named_once(tmp_path, caplog):
    """For the prompts of E5, sentence-transformers adds an empty document prompt, and uses this one."""
    path = tiny_models.bert(tmp_path / "e5", prompts={"query": "query: ", "passage": "passage: "})
    for given in ({"document_prompt": "passage: "}, {"document_prompt": ""}, {"prompt_names": {"document": "passage"}}):
        SmartEncoder(path, device="cpu", **given)
    SmartEncoder(tiny_models.bert(tmp_path / "other", prompts={"document": "d: ", "passage": "p: "}), device="cpu")
    assert "prompt" not in caplog.text
    for _ in range(2):
        SmartEncoder(path, device="cpu")
    assert caplog.text.count("document_prompt='passage: '") == 1
    assert str(path) in caplog.text


def test_prompts_of_which_none_is_for_queries_are_named_once(tmp_path, caplog):
    """As in e5-mistral, whose prompt of queries has another name. A model with a prompt for queries is not named."""
    path = tiny_models.bert(tmp_path / "e5-mistral", prompts={"web_search_query": "Instruct: find\nQuery: "})
    SmartEncoder(path, device="cpu", prompt_names={"query": "web_search_query"})
    SmartEncoder(path, device="cpu", query_prompt="")
    SmartEncoder(tiny_models.bert(tmp_path / "more", prompts={"query": "q: ", "STS": "s: "}), device="cpu")
    assert "prompt" not in caplog.text
    for _ in range(2):
        encoder = SmartEncoder(path, device="cpu")
    assert encoder.describe()["query_prompt"] == ""
    assert caplog.text.count("prompt_names={'query': 'web_search_query'}") == 1


def test_max_length_cuts(models):
    """Eight tokens are [CLS], six of the text, and [SEP]."""
    model = models("minilm")
    encoder = model.fresh(max_length=8)
    assert model.encoder.max_length == 256
    assert encoder.max_length == 8
    text = "the cat sat on the mat and looked at the rain"
    ours = encoder.encode_document([text, "the cat"])
    assert [len(tokens) for tokens in ours.tokens] == [6, 2]
    assert_same(ours[0], model.encoder.encode_document("the cat sat on the mat"))


def test_a_model_without_a_limit_reads_texts_of_any_length(models):
    """T5 has no limit."""
    encoder = models("byt5").encoder
    assert len(encoder.encode_document(["x" * 1000]).tokens[0]) == 1000


@pytest.mark.parametrize("max_length", [0, 1, 2, 513, 2.5])
def test_max_length_that_the_model_cannot_read(max_length):
    """MiniLM has 512 positions, and two tokens are special."""
    with pytest.raises(InvalidInput, match="max_length must be"):
        SmartEncoder("minilm", device="cpu", max_length=max_length)


def test_a_policy_of_a_text_model(tmp_path):
    """`input` leaves the prompt out; `patches` keeps nothing of a text."""
    folder = tiny_models.bert(tmp_path, prompts={"query": "query: ", "document": "document: "})
    text = "The cat sat on the mat."
    words = len(SmartEncoder(folder, query_prompt="", document_prompt="").encode_query(text).tokens[0])
    assert len(SmartEncoder(folder).encode_document(text).tokens[0]) == words + 2
    assert len(SmartEncoder(folder, document_tokens="input").encode_document(text).tokens[0]) == words
    assert len(SmartEncoder(folder, query_tokens="input").encode_query(text).tokens[0]) == words
    alone = SmartEncoder(folder, document_tokens="patches").encode_document(text)
    np.testing.assert_array_equal(alone.tokens[0], alone.pooled)


def test_an_unknown_policy():
    with pytest.raises(InvalidInput, match="query_tokens must be one of content, text, input, patches, got 'words'"):
        SmartEncoder("minilm", query_tokens="words")

"""The contract of an encoder: required members, optional members, and the fallbacks."""

from __future__ import annotations

import functools
import logging
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.word_encoder import VocabularyEncoder, WordEncoder

from smart_rag import CachedEncoder, Document, Encoder, IndexConfig, Representation, SmartIndex
from smart_rag.embeddings.codec import get_codec
from smart_rag.encoders import protocol
from smart_rag.encoders.protocol import (
    default_weights_of,
    device_of,
    encode_for_store,
    modalities_of,
    token_counter,
    token_dimension_of,
    token_origins_of,
    token_spans_of,
)
from smart_rag.errors import EncoderError
from smart_rag.types import TokenOrigin

# 1,500 words; MiniLM reads 256 tokens and would cut off the rest.
LONG = " ".join(f"Hydrogeologists number{i} recalibrated piezometers." for i in range(375))


@pytest.fixture(autouse=True)
def _warnings_come_again():
    protocol.warn_once.cache_clear()


class Complete(WordEncoder):
    """An encoder with all optional members."""

    modalities = frozenset({"text", "image"})
    default_weights = (0.0, 3.0)
    device = "cuda:3"
    token_dimension = 24

    def count_tokens(self, texts):
        return [len(text) for text in texts]

    def token_spans(self, text):
        return [(i, i + 1) for i in range(len(text))]

    def encode_document(self, documents, *, codec=None):
        self.codec = codec
        return super().encode_document(documents)

    def token_origins(self, item, task):
        return [TokenOrigin(span=(0, len(item))), TokenOrigin(span=(0, len(task)))]


class Unwilling:
    """An encoder whose properties must not be evaluated, like those that load a model."""

    @property
    def dimension(self):
        raise AssertionError("dimension was evaluated")

    @property
    def fingerprint(self):
        raise AssertionError("fingerprint was evaluated")

    def describe(self): ...

    def encode_query(self, queries): ...

    def encode_document(self, documents): ...


def test_an_encoder_is_recognised_without_evaluating_it():
    """On Python 3.11 typing's own check evaluates each property, and `fingerprint` loads the model."""
    encoder = CachedEncoder("no such model")
    assert isinstance(encoder, Encoder)
    assert "_encoder" not in vars(encoder)
    assert isinstance(Unwilling(), Encoder)


def test_objects_that_are_no_encoders(minilm, minilm_on_torch):
    assert isinstance(minilm, Encoder)
    assert isinstance(WordEncoder(), Encoder)
    assert not isinstance(minilm_on_torch.model, Encoder)
    assert not isinstance("minilm", Encoder)
    nearly = type("Nearly", (Unwilling,), {"describe": None})
    assert not isinstance(nearly(), Encoder)


def test_a_class_that_inherits_the_protocol_is_checked_as_any_class():
    class Mine(Encoder):
        pass

    assert not isinstance(WordEncoder(), Mine)
    assert isinstance(object.__new__(Mine), Mine)


def test_a_cached_encoder_passes_on_all_optional_members(tmp_path):
    inner = Complete()
    cached = CachedEncoder(inner)
    for encoder in (inner, cached):
        assert modalities_of(encoder) == {"text", "image"}
        assert default_weights_of(encoder) == (0.0, 3.0)
        assert device_of(encoder) == "cuda:3"
        assert token_dimension_of(encoder) == 24
        assert token_counter(encoder)("four") == 4
        assert token_spans_of(encoder, "up") == [(0, 1), (1, 2)]
        assert token_origins_of(encoder, "four", "query")[1] == TokenOrigin(span=(0, 5))
        encode_for_store(encoder, ["a b"], get_codec("2bit"))
        assert inner.codec == "2bit"
        inner.codec = None


def test_a_cached_encoder_knows_every_protocol():
    """`CachedEncoder` must pass on every protocol, also one that is added later."""
    optional = {
        name: [member for member in vars(value) if not member.startswith("_")]
        for name, value in vars(protocol).items()
        if getattr(value, "_is_protocol", False) and value.__module__ == protocol.__name__
    }
    assert len(optional) == 11
    for name, members in optional.items():
        assert members, name
        assert f"`{name}`" in protocol.__doc__
        for member in members:
            assert hasattr(CachedEncoder, member), f"{name}.{member}"


def test_fallbacks_of_optional_members(caplog):
    encoder = WordEncoder()
    assert modalities_of(encoder) == {"text"}
    assert default_weights_of(encoder) == (1.0, 2.0)
    assert device_of(encoder) == "cpu"
    assert token_dimension_of(encoder) == 24
    assert token_spans_of(encoder, "a") is token_spans_of(CachedEncoder(encoder), "a") is None
    with pytest.raises(EncoderError, match="WordEncoder has no token_origins"):
        token_origins_of(encoder, "a", "query")
    with pytest.raises(EncoderError, match="WordEncoder has no token_origins"):
        CachedEncoder(encoder).token_origins("a")


@pytest.mark.parametrize("wrapped", [WordEncoder, lambda: CachedEncoder(WordEncoder())], ids=["alone", "cached"])
def test_counting_words_warns_once(caplog, wrapped):
    with caplog.at_level(logging.WARNING, "smart_rag"):
        encoder = wrapped()
        assert token_counter(encoder)("three small words") == 3
        assert token_counter(encoder)("two words") == 2
    (warning,) = [record.message for record in caplog.records if "count_tokens" in record.message]
    assert warning.startswith("WordEncoder has no count_tokens: texts are measured in words")


def test_missing_vocabulary_ids_warn_once(caplog, tmp_path):
    with caplog.at_level(logging.WARNING, "smart_rag"), SmartIndex.create(tmp_path / "a", WordEncoder()) as index:
        index.add([Document("a", "some words")])
        index.add([Document("b", "more words")])
    (warning,) = [record.message for record in caplog.records if "vocabulary ids" in record.message]
    assert warning.startswith("WordEncoder gives no vocabulary ids: query tokens all count the same")
    caplog.clear()
    with caplog.at_level(logging.WARNING, "smart_rag"), SmartIndex.create(tmp_path / "b", VocabularyEncoder()) as index:
        index.add([Document("a", "some words")])
    assert not caplog.records


@pytest.mark.parametrize("cached", [False, True])
def test_no_word_of_a_long_text_is_lost(tmp_path, minilm, cached):
    """A cached encoder once counted chunks in words: they had 840 tokens, for a model that reads 256."""
    file = tmp_path / "long.txt"
    file.write_text(LONG)
    encoder = CachedEncoder(minilm, tmp_path / "tokens") if cached else minilm
    with SmartIndex.create(tmp_path / "index", encoder, config=IndexConfig(chunk_overlap=0)) as index:
        index.add_files([file])
        chunks = [document.text for document in index.documents()]
        assert max(minilm.count_tokens(chunks)) <= 200
        assert sorted(" ".join(chunks).split()) == sorted(LONG.split())
        words = [word for word, _ in index.search("number17 piezometers", 1)[0].explain().words]
    assert "piezometers" in words


def test_the_codec_goes_to_an_encoder_with_this_argument():
    def takes(documents, *, codec=None):
        return SimpleNamespace(tokens=SimpleNamespace(ids=()), codec=codec)

    @functools.wraps(takes)
    def wrapped(documents):
        return takes(documents)

    def by_position(documents, codec=None, /):
        return takes(documents, codec=codec)

    def anything(documents, **options):
        return takes(documents, **options)

    def asked(encode, name="2bit"):
        return encode_for_store(SimpleNamespace(encode_document=encode), ["a"], get_codec(name)).codec

    assert asked(takes) == "2bit"
    assert asked(takes, "2bit/2") is None
    assert [asked(encode) for encode in (wrapped, by_position, anything)] == [None] * 3


def test_an_index_of_own_vectors_uses_their_ids(tmp_path):
    """Ids given to from_embeddings work as a model's ids: for idf weights and for the first stage."""
    encoder = VocabularyEncoder()
    texts = ["the pump", "the keys", "the boats", "the valve"]
    given = encoder.encode_document(texts)
    own = Representation.from_embeddings(given.pooled, list(given.tokens), ids=np.split(given.tokens.ids, 4))
    np.testing.assert_array_equal(own.tokens.ids, given.tokens.ids)
    documents = [Document(text, text) for text in texts]
    with (
        SmartIndex.create(tmp_path / "encoded", encoder) as first,
        SmartIndex.from_embeddings(tmp_path / "own", documents, own) as second,
    ):
        first.add(documents)
        query = encoder.encode_query(["the valve"])
        for stage in ("terms", "exhaustive"):
            want = [(hit.id, round(hit.score, 5)) for hit in first.search(query, first_stage=stage)]
            assert [(hit.id, round(hit.score, 5)) for hit in second.search(query, first_stage=stage)] == want
        # Of "the pump", "the" answers a query token that every document answers: it counts less by idf.
        late = {
            weighting: {hit.id: hit.late_score for hit in second.search(query, weighting=weighting)}
            for weighting in ("idf", "none")
        }
        assert late["idf"]["the pump"] < late["none"]["the pump"] - 0.05

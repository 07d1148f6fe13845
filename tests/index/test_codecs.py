"""`SmartIndex` with each codec, and with an encoder that codes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers.five_texts import STAGES, TEXTS, documents
from helpers.query_shares import query_shares
from helpers.word_encoder import LetterEncoder, VocabularyEncoder

from smart_rag import Document, IndexConfig, Representation, SmartIndex, errors
from smart_rag.config import DEFAULT_WEIGHTS
from smart_rag.embeddings.codec import get_codec
from smart_rag.embeddings.tokens import TokenCodes


@pytest.fixture(scope="module")
def sample_passages():
    """Paragraphs of the sample documents."""
    from smart_rag.demo import sample_folder

    text = (sample_folder() / "station_handbook.md").read_text(encoding="utf-8")
    return {f"{i:02}": part for i, part in enumerate(part for part in text.split("\n\n") if len(part) > 150)}


@pytest.mark.parametrize(
    ("given", "name", "bytes_per_token", "factor"),
    [
        ("exact", "float16", 768, 1),
        ("balanced", "2bit", 96, 1),
        ("compact", "2bit/2", 96, 2),
        ("int8", "int8", 384, 1),
        ("4bit/3", "4bit/3", 192, 3),
        (None, "2bit", 96, 1),
    ],
)
def test_every_codec_finds_the_same(tmp_path, minilm, sample_passages, given, name, bytes_per_token, factor):
    """The first hit is as good as that of unrounded tokens; the manifest names the codec; what is lost is made anew."""
    config = IndexConfig() if given is None else IndexConfig(codec=given)
    docs = [Document(id, text) for id, text in sample_passages.items()]
    counts = np.diff(minilm.encode_document(list(sample_passages.values())).tokens.offsets)
    query = "When are the boats fuelled, and who has the keys?"
    exact = {hit.id: hit.score for hit in reranked(minilm, query, docs)}
    with SmartIndex.create(tmp_path / "index", minilm, config=config) as index:
        index.add(docs)
        assert json.loads((tmp_path / "index" / "manifest.json").read_text())["config"]["codec"] == name
        hits = index.search(query, 5, weighting="none")
        assert exact[hits[0].id] == pytest.approx(max(exact.values()), abs=0.1)
        for hit in hits:
            assert hit.score == pytest.approx(exact[hit.id], abs=0.1 * sum(DEFAULT_WEIGHTS))
        info = index.info()
        assert info.tokens == sum(-(-n // factor) for n in counts)
        # A record is padded to pages, and has a header.
        assert bytes_per_token * info.tokens < info.token_bytes < bytes_per_token * info.tokens + 6000 * len(docs)
        key = next(index._store.tokens.keys())
        index._store.tokens.delete([key])
    with SmartIndex.open(tmp_path / "index", minilm) as index:
        assert index.manifest.config.codec == name
        assert len(index.verify(repair=True).missing) == 1
        assert index.verify().sound
        assert next(iter(index._store.tokens.keys())) == key
        again = index.search(query, 5, weighting="none")
        assert [hit.id for hit in again] == [hit.id for hit in hits]
        assert [hit.score for hit in again] == pytest.approx([hit.score for hit in hits], abs=1e-3)
        assert len(index.tokens([hits[0].id])[0]) == -(-counts[list(sample_passages).index(hits[0].id)] // factor)
        assert index.add(docs).unchanged == len(docs)


def reranked(encoder, query, docs):
    """Return the hits of unrounded tokens."""
    from smart_rag import rerank

    return rerank(query, docs, encoder)


@pytest.mark.parametrize("name", ["2bit", "1bit", "2bit/2"])
def test_scores_are_those_of_decoded_tokens(tmp_path, name):
    """By plain loops over what the index gives back; both ways of searching agree."""
    query = "The dog and the carp"
    encoded = LetterEncoder().encode_query([query])
    with SmartIndex.create(tmp_path / "index", LetterEncoder(), config=IndexConfig(codec=name)) as index:
        index.add(documents())
        for first_stage in STAGES:
            for hit in index.search(query, 5, first_stage=first_stage):
                (tokens,) = index.tokens([hit.id])
                late = sum(max(float(a @ b) for b in tokens) for a in encoded.tokens[0]) / len(encoded.tokens[0])
                assert hit.late_score == pytest.approx(late, abs=1e-4)


class CodingEncoder(VocabularyEncoder):
    """Codes tokens itself, where it is asked to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []

    def encode_document(self, texts, codec=None):
        self.asked += [(text, codec) for text in texts]
        encoded = self.encode_query(texts)
        if codec is None:
            return encoded
        coded, tokens = get_codec(codec), encoded.tokens
        codes = coded.encode(tokens.embeddings)
        return Representation(encoded.pooled, TokenCodes(codes, tokens.offsets, self.dimension, coded, tokens.ids))


@pytest.mark.parametrize("name", ["float16", "2bit", "2bit/2"])
def test_an_encoder_that_codes(tmp_path, name):
    """It is told the index's codec, but for one that merges tokens; what is stored and found is the same."""
    encoder, texts = CodingEncoder(), [*TEXTS.values(), TEXTS["cat"]]
    given = [Document(str(i), text) for i, text in enumerate(texts)]
    with SmartIndex.create(tmp_path / "own", encoder, config=IndexConfig(codec=name)) as index:
        index.add(given)
        index.encode_documents(["one more text"])
        # Equal texts once.
        assert sorted(text for text, _ in encoder.asked) == sorted([*TEXTS.values(), "one more text"])
        assert {codec for _, codec in encoder.asked} == {None if "/" in name else name}
        index.add([Document("6", "one more text")])
        for word, id in (("bark", "1"), ("carp", "2"), ("more", "6")):
            assert index.search(word, top_k=1, candidates=1, first_stage="terms")[0].id == id
        own = index.tokens([document.id for document in given])
        assert index.verify().sound
    with SmartIndex.create(tmp_path / "plain", VocabularyEncoder(), config=IndexConfig(codec=name)) as index:
        index.add(given)
        plain = index.tokens([document.id for document in given])
    np.testing.assert_array_equal(own.offsets, plain.offsets)
    np.testing.assert_array_equal(own.embeddings, plain.embeddings)


def test_numbers_that_are_none_are_not_stored_as_codes(tmp_path):
    class Broken(CodingEncoder):
        def encode_query(self, texts):
            good = VocabularyEncoder.encode_query(VocabularyEncoder(), texts)
            bad = [word == "bad" for text in texts for word in text.split()]
            embeddings = np.where(np.asarray(bad)[:, None], np.float32(np.nan), good.tokens.embeddings)
            return Representation(good.pooled, replace(good.tokens, embeddings=embeddings))

    for name in ("float16", "2bit"):
        with SmartIndex.create(tmp_path / name, Broken(), config=IndexConfig(codec=name)) as index:
            with pytest.raises(errors.InvalidInput, match="NaN or inf"):
                index.add([Document("a", "a bad word")])
            index.add([Document("b", "a good word")])
            assert [index.count(), index.verify().sound] == [1, True]


@pytest.mark.parametrize("name", ["float16", "2bit"])
def test_what_an_index_encoded_is_a_query_with_words(tmp_path, name):
    """Coded tokens have their ids: what is rare counts for more, and is a candidate, as of a query in words."""
    encoder = CodingEncoder()
    with SmartIndex.create(tmp_path, encoder, config=IndexConfig(codec=name)) as index:
        index.add([Document(str(i), f"the {word} hall") for i, word in enumerate(["red", "blue", "dark", "wide"])])
        text = "the wide hall"
        coded, words = index.encode_documents([text]), encoder.encode_query([text])
        assert isinstance(coded.tokens, TokenCodes)
        np.testing.assert_array_equal(query_shares(index, coded), query_shares(index, words))
        assert query_shares(index, coded)[1] > query_shares(index, coded)[0]
        # Its pooled embedding is another text's: by its terms alone it finds what has them.
        elsewhere = Representation(encoder.encode_query(["the red hall"]).pooled, coded.tokens)
        assert {hit.id for hit in index.search(elsewhere, top_k=2, candidates=2, first_stage="terms")} == {"0", "3"}

"""Embeddings first and documents later, as frameworks want it; and hits made diverse."""

from __future__ import annotations

import logging
from itertools import chain

import numpy as np
import pytest
from helpers.word_encoder import CountingEncoder, WordEncoder

from smart_rag import Document, IndexConfig, Representation, SmartIndex, rerank
from smart_rag.embeddings.codec import get_codec
from smart_rag.embeddings.tokens import TokenCodes
from smart_rag.errors import DimensionMismatch, IndexClosed, IndexMismatch, InvalidInput
from smart_rag.index.index_encoder import IndexEncoder
from smart_rag.store.token_store import keys_of_vectors

TEXTS = {"cat": "the cat sat on the mat", "dog": "dogs bark at night", "tax": "taxes are due in april"}
DOCUMENTS = [Document(id, text) for id, text in TEXTS.items()]


@pytest.fixture
def encoder():
    return CountingEncoder()


@pytest.fixture
def index(tmp_path, encoder):
    with SmartIndex.create(tmp_path / "index", encoder) as index:
        yield index


def plain(tmp_path, name="plain"):
    index = SmartIndex.create(tmp_path / name, WordEncoder())
    index.add(DOCUMENTS)
    return index


def test_what_was_encoded_before_is_not_encoded_again(index, encoder, tmp_path):
    vectors = index.encode_documents(list(TEXTS.values()))
    assert index.count() == 0
    encoder.documents.clear()
    index.check_embeddings(DOCUMENTS, vectors.pooled.tolist())
    assert index.add(DOCUMENTS).added == 3
    assert encoder.documents == []
    with plain(tmp_path) as other:
        hits, expected = index.search("dogs at night", 3), other.search("dogs at night", 3)
        assert [(hit.id, hit.text) for hit in hits] == [(hit.id, hit.text) for hit in expected]
        assert [hit.score for hit in hits] == [hit.score for hit in expected]
    assert index.verify().sound
    index.add([Document("again", TEXTS["cat"])])
    assert encoder.documents == [TEXTS["cat"]]  # what was added is kept in memory no longer


@pytest.mark.parametrize("codec", ["exact", "balanced", "compact"])
def test_stored_contents_are_read_and_nothing_is_written(tmp_path, codec):
    encoder = CountingEncoder()
    with SmartIndex.create(tmp_path / "index", encoder, config=IndexConfig(codec=codec)) as index:
        index.add(DOCUMENTS)
    encoder.documents.clear()
    with SmartIndex.open(tmp_path / "index", encoder) as index, SmartIndex.open(tmp_path / "index", encoder) as writer:
        texts = [TEXTS["tax"], "walrus sleep", TEXTS["cat"], TEXTS["tax"]]
        vectors = index.encode_documents(texts, reuse_stored=True)
        assert encoder.documents == ["walrus sleep"]
        np.testing.assert_allclose(vectors.pooled, WordEncoder().encode_document(texts).pooled, atol=1e-6)
        for i, id in ((0, "tax"), (2, "cat"), (3, "tax")):
            np.testing.assert_array_equal(vectors.tokens[i], index.tokens([id])[0])
        assert writer.delete(["cat"]) == 1  # no lock was taken
        assert index.verify().orphans == 0
        assert index.encode_documents([TEXTS["cat"]], reuse_stored=True).pooled.shape == (1, encoder.dimension)
        assert encoder.documents == ["walrus sleep", TEXTS["cat"]]


def test_what_was_not_encoded_before_is_encoded_with_the_rest(index, encoder):
    index.encode_documents([TEXTS["dog"]])
    encoder.documents.clear()
    index.add(DOCUMENTS)
    assert sorted(encoder.documents) == sorted([TEXTS["cat"], TEXTS["tax"]])
    assert index.search("dogs bark", 1)[0].id == "dog"
    assert index.search("taxes in april", 1)[0].id == "tax"


def test_a_document_that_comes_again_takes_its_old_tokens_along(index):
    index.add(DOCUMENTS)
    index.encode_documents(["walrus sleep"])
    assert index.add([Document("cat", "walrus sleep")]).replaced == 1
    assert index.verify().orphans == 0
    assert index.search("walrus", 1)[0].id == "cat"


def test_what_need_not_be_encoded_is_forgotten(index):
    """Documents that are in the index already, and what is never added, once the index is vacuumed or closed."""
    index.add(DOCUMENTS)
    index.encode_documents(list(TEXTS.values()))
    index.add([*DOCUMENTS[:2], Document("tax", TEXTS["tax"], {"year": 2020})])
    assert index._encoder._ahead == {}
    for forget in (index.vacuum, index.close):
        index.encode_documents(["never added"])
        assert len(index._encoder._ahead) == 1
        forget()
        assert index._encoder._ahead == {}


def test_one_kept_text_does_not_keep_its_batch(index):
    index.encode_documents(list(TEXTS.values()))
    for vectors in index._encoder._ahead.values():
        assert vectors.pooled.base is None
        assert vectors.tokens.embeddings.base is None


def test_texts_are_reranked_as_the_encoder_gives_them(tmp_path, minilm):
    """Not as the index would store them, in two bits."""
    query = "Which animal barks?"
    with SmartIndex.create(tmp_path / "index", minilm, config=IndexConfig(weighting="none")) as index:
        found = {hit.text: hit.late_score for hit in index.rerank(query, list(TEXTS.values()))}
    wanted = {hit.text: hit.late_score for hit in rerank(query, list(TEXTS.values()), minilm)}
    assert found == pytest.approx(wanted, abs=1e-6)


def test_what_is_never_added_leaves_nothing_on_disk(index):
    index.encode_documents(["never added"])
    assert len(index._store.tokens) == 0


def test_what_does_not_fit_into_memory_is_counted_and_encoded_again(tmp_path, caplog):
    """Of five texts of three tokens, 24 numbers each, three fit; the oldest go."""
    encoder = CountingEncoder()
    with SmartIndex.create(tmp_path / "index", encoder) as index:
        of_one = 4 * 24 * 4  # three tokens and the pooled embedding in float32
        index._encoder = IndexEncoder(index.path, index.manifest, encoder, bytes_ahead=3 * of_one)
        texts = [f"owls eat number{i}" for i in range(5)]
        with caplog.at_level(logging.WARNING, "smart_rag.index"):
            index.encode_documents(texts)
        assert [record.message for record in caplog.records] == [
            "the vectors of 2 documents did not fit into memory until they were added, and are computed again; add "
            "fewer documents at a time"
        ]
        encoder.documents.clear()
        assert index.add([Document(text, text) for text in texts]).added == 5
        assert sorted(encoder.documents) == texts[:2]
        assert index.search("number4", 1)[0].id == texts[4]


def test_codes_stay_as_they_were_coded(tmp_path, minilm):
    """What is kept in between is stored as if it had been encoded by `add`."""
    texts = list(TEXTS.values())
    with (
        SmartIndex.create(tmp_path / "ahead", minilm) as ahead,
        SmartIndex.create(tmp_path / "at once", minilm) as at_once,
    ):
        assert isinstance(ahead.encode_documents(texts).tokens, TokenCodes)
        for index in (ahead, at_once):
            index.add(DOCUMENTS)
        np.testing.assert_array_equal(*(index.tokens(list(TEXTS)).embeddings for index in (ahead, at_once)))


def test_embeddings_of_another_model_are_refused(index):
    wrong = np.random.default_rng(0).standard_normal((3, 24))
    with pytest.raises(IndexMismatch, match="'cat' has a cosine of"):
        index.check_embeddings(DOCUMENTS, wrong)
    with pytest.raises(DimensionMismatch, match="24"):
        index.check_embeddings(DOCUMENTS, wrong[:, :7])
    with pytest.raises(InvalidInput, match="3 documents with 2"):
        index.check_embeddings(DOCUMENTS, WordEncoder().encode_document(list(TEXTS.values())[:2]).pooled)
    with pytest.raises(InvalidInput, match="finite"):
        index.check_embeddings(DOCUMENTS, wrong * np.nan)
    with pytest.raises(InvalidInput, match="has no text"):
        index.check_embeddings([Document("a", " ")], wrong[:1])
    index.check_embeddings([], [])
    index.check_embeddings(DOCUMENTS, 7 * WordEncoder().encode_document(list(TEXTS.values())).pooled)
    assert index.count() == 0


def by_plain_loop(index, hits, top_k, mmr_lambda):
    vectors = {hit.id: index._store.pooled.embeddings([hit.id])[hit.id] for hit in hits}
    chosen = []
    while len(chosen) < min(top_k, len(hits)):
        values = {}
        for hit in hits:
            if hit.id not in chosen:
                redundancy = max((float(vectors[hit.id] @ vectors[other]) for other in chosen), default=0.0)
                values[hit.id] = mmr_lambda * hit.score / 3 - (1 - mmr_lambda) * redundancy
        chosen.append(max(values, key=values.get))
    return chosen


@pytest.mark.parametrize("mmr_lambda", [0.0, 0.35, 0.8, 1.0])
def test_diversify_is_maximal_marginal_relevance(index, mmr_lambda):
    animals = ["cats", "dogs", "owls"]
    # The last word keeps any two from being as near as any other two.
    index.add([Document(f"{a}{b}{c}", f"{a} {b} {c} {b}{a}{c}") for a in animals for b in animals for c in animals])
    hits = index.search("cats with owls", 20)
    found = index.diversify(hits, 8, mmr_lambda=mmr_lambda)
    assert [hit.id for hit in found] == by_plain_loop(index, hits, 8, mmr_lambda)
    assert [hit.rank for hit in found] == list(range(1, 9))
    scores = {hit.id: hit.score for hit in hits}
    assert all(hit.score == scores[hit.id] for hit in found)
    if mmr_lambda == 1.0:
        assert [hit.id for hit in found] == [hit.id for hit in hits[:8]]


def test_diversify_bad_input(index):
    index.add(DOCUMENTS)
    hits = index.search("cat", 3)
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(InvalidInput, match="mmr_lambda"):
            index.diversify(hits, 2, mmr_lambda=wrong)
    with pytest.raises(InvalidInput, match="top_k"):
        index.diversify(hits, 0)
    assert index.diversify([], 2) == []
    assert len(index.diversify(hits, 10)) == 3
    index.delete(["dog"])
    with pytest.raises(InvalidInput, match=f"{index.path}: the hit 'dog' is not in the index any more"):
        index.diversify(hits, 2)
    index.close()
    with pytest.raises(IndexClosed):
        index.diversify(hits, 2)


def test_an_index_of_an_encoder_of_ones_own_asks_for_it(tmp_path):
    plain(tmp_path).close()
    with SmartIndex.open(tmp_path / "plain") as index, pytest.raises(IndexMismatch, match=r"'words'.*encoder="):
        index.search("cat")
    with SmartIndex.open(tmp_path / "plain", WordEncoder()) as index:
        assert index.search("cat", 1)[0].id == "cat"


def test_codes_are_added_without_decoding_them(tmp_path, monkeypatch):
    """The same codes have the same keys. Other codes, another width and another codec of the index have others."""
    vectors = WordEncoder().encode_document(list(TEXTS.values()))
    codec = get_codec("balanced")
    tokens = TokenCodes(
        codec.encode(vectors.tokens.embeddings), vectors.tokens.offsets, vectors.tokens.dimension, codec
    )
    coded = Representation(vectors.pooled, tokens)
    with monkeypatch.context() as patch:
        patch.setattr(type(codec), "decode", lambda *arguments: pytest.fail("the codes were decoded"))
        with SmartIndex.from_embeddings(
            tmp_path / "index", DOCUMENTS, coded, config=IndexConfig(codec="balanced")
        ) as index:
            first = index._store.pooled.get(list(TEXTS))
            assert index.add_embeddings(DOCUMENTS, coded).replaced == 3
            assert index._store.pooled.get(list(TEXTS)) == first
    with SmartIndex.open(tmp_path / "index") as index:
        assert index.verify().sound
        found, name = [index.search(vectors[i], 1)[0].id for i in range(3)], index.manifest.config.codec
    assert found == list(TEXTS)
    keys = keys_of_vectors(name, tokens)
    assert keys == [first[id].key for id in TEXTS]
    narrow = TokenCodes(tokens.codes, tokens.offsets, tokens.dimension - 1, codec)
    others = [keys_of_vectors(name, narrow), keys_of_vectors("exact", tokens), keys_of_vectors(name, tokens.decode())]
    assert len({*keys, *chain(*others)}) == 12

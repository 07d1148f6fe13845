"""Embeddings first and documents later, as frameworks want it; and hits made diverse."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.word_encoder import CountingEncoder, WordEncoder

from smart_rag import Document, SmartIndex
from smart_rag.errors import DimensionMismatch, IndexClosed, IndexMismatch, InvalidInput

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
    report = index.add(DOCUMENTS, pooled=vectors.pooled.tolist())
    assert report.added == 3
    assert encoder.documents == [TEXTS["cat"]]  # to see that the embeddings are of this model
    with plain(tmp_path) as other:
        hits, expected = index.search("dogs at night", 3), other.search("dogs at night", 3)
        assert [(hit.id, hit.text) for hit in hits] == [(hit.id, hit.text) for hit in expected]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-6)
    assert index.verify().sound


def test_equal_texts_in_several_batches_are_encoded_once(index, encoder, monkeypatch):
    monkeypatch.setattr("smart_rag.index.ingest._BATCH", 1)
    documents = [Document(name, "dogs bark") for name in ("a", "b", "c")]
    vectors = index.encode_documents([document.text for document in documents])
    encoder.documents.clear()
    assert index.add(documents, pooled=vectors.pooled).added == 3
    assert encoder.documents == ["dogs bark"]  # to see that the embeddings are of this model
    assert index.verify().sound


def test_what_is_not_at_hand_is_encoded(index, encoder):
    vectors = WordEncoder().encode_document(list(TEXTS.values()))
    index.add(DOCUMENTS, pooled=vectors.pooled)
    assert sorted(encoder.documents) == sorted([*TEXTS.values(), TEXTS["cat"]])
    assert index.search("taxes in april", 1)[0].id == "tax"


def test_a_document_that_comes_again_takes_its_old_tokens_along(index):
    index.add(DOCUMENTS)
    vectors = index.encode_documents(["walrus sleep"])
    assert index.add([Document("cat", "walrus sleep")], pooled=vectors.pooled).replaced == 1
    assert index.verify().orphans == 0
    assert index.search("walrus", 1)[0].id == "cat"


def test_what_is_never_added_is_vacuumed(index):
    index.add(DOCUMENTS[:1])
    index.encode_documents(["never added", TEXTS["cat"]])
    assert index.vacuum() == 1
    assert index.verify().sound


def test_embeddings_of_another_model_are_refused(index):
    wrong = np.random.default_rng(0).standard_normal((3, 24))
    with pytest.raises(IndexMismatch, match="'cat' has a cosine of"):
        index.add(DOCUMENTS, pooled=wrong)
    with pytest.raises(DimensionMismatch, match="24"):
        index.add(DOCUMENTS, pooled=wrong[:, :7])
    with pytest.raises(InvalidInput, match="3 documents with 2"):
        index.add(DOCUMENTS, pooled=WordEncoder().encode_document(list(TEXTS.values())[:2]).pooled)
    with pytest.raises(InvalidInput, match="sequence"):
        index.add(iter(DOCUMENTS), pooled=wrong)
    with pytest.raises(InvalidInput, match="finite"):
        index.add(DOCUMENTS, pooled=wrong * np.nan)
    assert index.count() == 0
    assert len(index._store.tokens) == 0
    assert index.add([], pooled=[]).added == 0


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
    with pytest.raises(InvalidInput, match="'dog' is not in the index any more"):
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

"""The relevance of reranked documents: foreign questions, asked of the documents of a `CachedEncoder`."""

from __future__ import annotations

import asyncio
import json
import pickle

import numpy as np
import pytest
from helpers.script_encoder import ScriptEncoder
from helpers.word_encoder import CountingEncoder, SeeingEncoder, WordEncoder
from PIL import Image

from smart_rag import CachedEncoder, Content, Document, Representation, TokenBatch, arerank, rerank
from smart_rag.encoders.cached.foreign_hits import ForeignHits
from smart_rag.errors import CorruptStore, InvalidInput
from smart_rag.scoring.foreign import foreign_questions

FACTS = [f"Boat number {i} is moored at pier {i * 7 % 31} and was built in {1900 + i}." for i in range(40)]
QUESTION = "At which pier is boat number 12 moored?"


@pytest.fixture(scope="module")
def boats(tmp_path_factory, minilm):
    encoder = CachedEncoder(minilm, tmp_path_factory.mktemp("boats"))
    encoder.add(FACTS, calibrate=True)
    return encoder


@pytest.fixture(scope="module")
def questions(minilm):
    return list(minilm.encode_query(foreign_questions()["general"]))


def test_half_is_what_one_foreign_question_in_twenty_reaches(boats, questions):
    best = [rerank(question, FACTS, boats, 1)[0] for question in questions]
    assert np.mean([hit.relevance >= 0.5 for hit in best]) == pytest.approx(0.05, abs=0.011)
    assert np.median([hit.relevance for hit in best]) == pytest.approx(0.05, abs=0.01)


def test_hits_have_it_in_the_order_of_their_scores(boats):
    hits = rerank(QUESTION, FACTS, boats)
    relevances = [hit.relevance for hit in hits]
    assert relevances == sorted(relevances, reverse=True)
    assert 0.5 < relevances[0] <= 1
    kept = rerank(QUESTION, FACTS, boats, min_relevance=relevances[4])
    assert [hit.id for hit in kept] == [hit.id for hit in hits if hit.relevance >= relevances[4]]
    assert rerank("Which spices are in a green curry?", FACTS, boats, min_relevance=0.5) == []
    assert pickle.loads(pickle.dumps(hits[0])).relevance is None
    with pytest.raises(InvalidInput, match=r"comes from smart_rag\.rerank"):
        hits[0].explain()


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.3, 2.0), (1.0, 0.0), (0.0, 1.0)])
def test_one_calibration_serves_all_weights(boats, questions, weights):
    scores = [rerank(question, FACTS, boats, 1, weights=weights)[0].score for question in questions]
    median, half = np.percentile(scores, [50, 95])
    scale = boats.relevance_scale(weights)
    assert (scale.median, scale.half) == pytest.approx((median, half), abs=1e-6)
    hit = rerank(QUESTION, FACTS, boats, 1, weights=weights)[0]
    assert hit.relevance == scale.relevance(hit.score)


def test_it_is_the_same_elsewhere(boats):
    """In another process, which reads the folder, and in an async application."""
    (hit,) = rerank(QUESTION, FACTS, boats, 1)
    (other,) = rerank(QUESTION, FACTS, pickle.loads(pickle.dumps(boats)), 1)
    (later,) = asyncio.run(arerank(QUESTION, FACTS, boats, 1, min_relevance=0.5))
    assert hit.relevance == other.relevance == later.relevance > 0.5


def test_a_wrapped_encoder_keeps_its_own(boats, tmp_path):
    (hit,) = rerank(QUESTION, FACTS, boats, 1)
    for outer in (CachedEncoder(boats), CachedEncoder(boats, tmp_path)):
        assert rerank(QUESTION, FACTS, outer, 1)[0].relevance == pytest.approx(hit.relevance, abs=1e-3)


def test_without_a_calibration_it_is_unknown(tmp_path):
    encoder = CachedEncoder(WordEncoder(), tmp_path)
    encoder.add(FACTS)
    for other in (encoder, CachedEncoder(WordEncoder()), WordEncoder()):
        assert rerank("boat", FACTS, other)[0].relevance is None
        with pytest.raises(InvalidInput, match="calibrate=True"):
            rerank("boat", FACTS, other, min_relevance=0.5)
    with pytest.raises(InvalidInput, match="min_relevance"):
        rerank("boat", FACTS, encoder, min_relevance=1.5)
    assert rerank("boat", [], encoder, min_relevance=0.5) == []


def test_models_of_one_folder_have_their_own(tmp_path):
    first, second = CachedEncoder(WordEncoder(), tmp_path), CachedEncoder(CountingEncoder(8), tmp_path)
    first.add(FACTS, calibrate=True)
    assert rerank("boat", FACTS, second)[0].relevance is None
    kept = rerank("boat", FACTS, first)[0].relevance
    second.add(FACTS[:9], calibrate=True)
    assert rerank("boat", FACTS, first)[0].relevance == kept


def test_documents_that_are_there_are_not_encoded_again(tmp_path):
    encoder = CountingEncoder()
    cached = CachedEncoder(encoder, tmp_path)
    cached.add(FACTS)
    encoder.documents.clear()
    cached.add(FACTS, calibrate=True)
    assert encoder.documents == []
    assert rerank("boat", FACTS, cached)[0].relevance is not None


def test_what_was_left_out_is_not_asked(tmp_path, caplog):
    cached = CachedEncoder(SeeingEncoder(), tmp_path)
    gone = Document("gone", image=str(tmp_path / "gone.png"))
    cached.add([gone, Document("blank")], calibrate=True)
    assert "relevance of hits stays unknown" in caplog.text
    cached.add([gone, "a red image"], calibrate=True)
    assert rerank("red", ["a red image"], cached)[0].relevance is not None
    assert rerank(Content("red", Image.new("RGB", (8, 8))), ["a red image"], cached)[0].relevance is None


def test_a_folder_that_has_grown_much_says_so(tmp_path, caplog):
    cached = CachedEncoder(WordEncoder(), tmp_path)
    cached.add(FACTS[:20], calibrate=True)
    cached.add(FACTS[:30])
    rerank("boat", FACTS[:20], cached, min_relevance=0.0)
    assert "has grown" not in caplog.text
    cached.add(FACTS)
    rerank("boat", FACTS[:20], cached, min_relevance=0.0)
    assert "has grown from 20 to 40 entries" in caplog.text


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"documents": 1, "entries": 1, "best": [[]]}', '{"documents": 1, "entries": 1, "best": []}',
     '{"documents": 1, "entries": 1, "best": [[[1, "x"]]]}', '{"documents": 1, "entries": 1, "best": [[[NaN, 1]]]}'],
)  # fmt: skip
def test_a_damaged_file_is_named(tmp_path, content):
    cached = CachedEncoder(WordEncoder(), tmp_path)
    cached.add(FACTS[:5], calibrate=True)
    (file,) = (tmp_path / "relevance").iterdir()
    assert json.loads(file.read_text())["documents"] == 5
    file.write_text(content)
    with pytest.raises(CorruptStore, match=file.name):
        rerank("boat", FACTS[:5], cached, min_relevance=0.0)


def test_every_document_is_a_candidate(tmp_path):
    """More documents than are in memory at once, and the best ones last: a plain loop over all gives the same."""
    rng = np.random.default_rng(0)
    pooled = rng.normal(size=(9000, 8)).astype(np.float32)
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    keys = [i.to_bytes(4) for i in range(len(pooled))]

    def questions(texts):
        return Representation.from_embeddings(pooled[[(8999, 5000, 1)[i % 3] for i in range(len(texts))]])

    def rows(asked):
        return pooled[[int.from_bytes(key) for key in asked]]

    def vectors(asked):
        return Representation(rows(asked), TokenBatch(rows(asked), np.arange(len(asked) + 1)))

    found = ForeignHits.find(questions, keys, len(keys), rows, vectors, (1.0, 1.0))
    for question, front in zip(questions(found.best).pooled, found.best, strict=True):
        best = max(float(row @ question) for row in pooled[[8999, 5000, 1]])
        assert max(late for _, late in front) == pytest.approx(best, abs=1e-5)
    for weights in ((1.0, 1.0), (0.2, 0.8)):
        assert found.scale(weights).half == pytest.approx(sum(weights), abs=1e-5)


def test_questions_in_the_language_of_the_documents_set_the_scale(tmp_path):
    texts = [f"{i}번 배는 {i * 7 % 31}번 부두에 있고 {1900 + i}년에 만들었습니다." for i in range(60)]
    encoder = CachedEncoder(ScriptEncoder(), tmp_path)
    encoder.add(texts, calibrate=True)
    assert rerank(texts[3], texts, encoder)[0].relevance > 0.5
    for question in ("체리 잼에 설탕을 얼마나 넣어요?", "욕실 문이 왜 삐걱거리나요?"):
        assert rerank(question, texts, encoder)[0].relevance < 0.5

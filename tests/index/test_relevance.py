"""The relevance of hits: from 0 to 1 in the order of the ranking, found without labels and kept in the index."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from helpers.script_encoder import LatinEncoder, ScriptEncoder
from helpers.word_encoder import CountingEncoder, SeeingEncoder, VocabularyEncoder
from PIL import Image

from smart_rag import Content, Document, Representation, SmartIndex, errors
from smart_rag.errors import InvalidInput
from smart_rag.scoring.foreign import foreign_questions
from smart_rag.scoring.relevance import Scale

FACTS = [f"Boat number {i} is moored at pier {i * 7 % 31} and was built in {1900 + i}." for i in range(60)]
GENERAL = list(foreign_questions()["general"])
KOREAN = [f"{i}번 배는 {i * 7 % 31}번 부두에 있고 {1900 + i}년에 만들었습니다." for i in range(60)]
# None of these is among the foreign questions.
KOREAN_QUESTIONS = """체리 잼에 설탕을 얼마나 넣어요?
시골 악단에서 바이올린을 켠 사람은 누구예요?
욕실 문이 왜 삐걱거리나요?
튤립은 언제 심어야 합니까?
점퍼 지퍼는 어떻게 고쳐요?
기니피그는 무엇을 먹나요?
라자냐에는 어떤 치즈가 어울려요?
헌 건전지는 어디에 버리나요?
비행기를 탄 뒤에 귀가 아프면 어떻게 하나요?
수수료 없이 돈을 보내려면 어떻게 해야 하나요?""".splitlines()


@pytest.fixture(scope="module")
def boats(tmp_path_factory, minilm):
    with SmartIndex.create(tmp_path_factory.mktemp("boats") / "index", minilm) as index:
        index.add_texts(FACTS, [str(i) for i in range(len(FACTS))])
        yield index


def test_a_hit_has_its_relevance_in_the_order_of_the_scores(boats):
    hits = boats.search("At which pier is boat number 12 moored?", 10)
    relevances = [hit.relevance for hit in hits]
    assert relevances == sorted(relevances, reverse=True)
    assert 0.5 < relevances[0] <= 1
    foreign = [hits[0].relevance for hits in boats.search_many(GENERAL, 1)]
    assert np.mean(np.asarray(foreign) >= 0.5) == pytest.approx(0.05, abs=0.01)


def test_min_relevance_leaves_out_what_is_below(boats):
    question = "At which pier is boat number 12 moored?"
    hits = boats.search(question, 10)
    threshold = hits[4].relevance
    assert [hit.id for hit in boats.search(question, 10, min_relevance=threshold)] == [
        hit.id for hit in hits if hit.relevance >= threshold
    ]
    assert boats.search("Which spices are in a green curry?", min_relevance=0.5) == []
    for wrong in (-0.1, 1.1, "a"):
        with pytest.raises(InvalidInput, match="min_relevance"):
            boats.search(question, min_relevance=wrong)


def test_relevance_needs_an_index_and_a_text(boats, tmp_path):
    hits = boats.search("pier", 2)
    assert pickle.loads(pickle.dumps(hits[0])).relevance is None
    vectors = Representation.from_embeddings(np.eye(3))
    with SmartIndex.from_embeddings(tmp_path / "own", [Document(i, i) for i in "abc"], vectors) as own:
        assert own.search(vectors[0])[0].relevance is None
        with pytest.raises(InvalidInput, match="encoder"):
            own.search(vectors[0], min_relevance=0.5)
        with pytest.raises(InvalidInput, match="encoder"):
            own.calibrate()
    with SmartIndex.create(tmp_path / "seen", SeeingEncoder()) as seen:
        seen.add_texts(["a red image"])
        (hit,) = seen.search(Content("red", Image.new("RGB", (8, 8))))
        assert hit.relevance is None
        assert seen.search("red")[0].relevance is not None


def test_the_scale_is_kept_and_no_question_is_asked_again(tmp_path):
    encoder = CountingEncoder()
    with SmartIndex.create(tmp_path / "index", encoder) as index:
        with pytest.raises(InvalidInput, match="documents"):
            index.calibrate()
        index.add_texts(FACTS)
        assert not index.is_calibrated
        index.calibrate()
        assert index.is_calibrated
        expected = index.search(FACTS[3])[0].relevance
    with SmartIndex.open(tmp_path / "index", encoder) as index:
        assert index.is_calibrated
        encoder.queries.clear()
        assert index.search(FACTS[3])[0].relevance == expected
        assert encoder.queries == [FACTS[3]]
        record = json.loads((tmp_path / "index" / "manifest.json").read_text())["relevance"]
        assert record["documents"] == 60
        assert record["weights"] == [1.0, 2.0]
        assert record["median"] < record["half"]


def test_reading_finds_the_scale_and_writes_nothing(tmp_path):
    encoder = CountingEncoder()
    with SmartIndex.create(tmp_path / "index", encoder) as index:
        index.add_texts(FACTS)
    manifest = (tmp_path / "index" / "manifest.json").read_bytes()
    with SmartIndex.open(tmp_path / "index", encoder) as index:
        assert index.search(FACTS[3])[0].relevance is not None
        asked = len(encoder.queries)
        assert index.search(FACTS[4])[0].relevance is not None
        assert len(encoder.queries) == asked + 1
        with SmartIndex.open(tmp_path / "index", encoder) as writer:
            writer.delete(["a"])  # no lock was taken
    assert (tmp_path / "index" / "manifest.json").read_bytes() == manifest


def test_an_index_that_has_grown_much_is_calibrated_again(tmp_path):
    encoder = CountingEncoder()
    with SmartIndex.create(tmp_path / "index", encoder) as index:
        index.add_texts(FACTS[:20])
        index.calibrate()
        index.add_texts(FACTS[:25])
        assert index.is_calibrated
        index.add_texts(FACTS)
        assert not index.is_calibrated
        encoder.queries.clear()
        assert index.search(FACTS[3])[0].relevance is not None
        assert set(GENERAL) < set(encoder.queries)
        assert index.is_calibrated


def test_other_weights_have_a_scale_of_their_own(tmp_path):
    with SmartIndex.create(tmp_path / "index", ScriptEncoder()) as index:
        index.add_texts(FACTS)
        index.calibrate()
        for weights in ((1.0, 0.0), (0.0, 1.0)):
            foreign = [hits[0].relevance for hits in index.search_many(GENERAL, 1, weights=weights)]
            assert np.mean(np.asarray(foreign) >= 0.5) == pytest.approx(0.05, abs=0.01)
        index.set_weights((1.0, 1.0))
        assert not index.is_calibrated


def test_questions_in_the_language_of_the_index_set_the_scale(tmp_path):
    """To a model of several languages, a question in the language of the index is similar to every document."""
    with SmartIndex.create(tmp_path / "index", ScriptEncoder()) as index:
        index.add_texts(KOREAN)
        index.calibrate()
        assert min(hits[0].relevance for hits in index.search_many(KOREAN, 1)) > 0.5
        foreign = [hits[0].relevance for hits in index.search_many(KOREAN_QUESTIONS, 1)]
        assert sum(relevance >= 0.5 for relevance in foreign) <= 1
        asked = foreign_questions()["korean"]
        scale = Scale.of([hits[0].score for hits in index.search_many(list(asked), 1)])
        assert index.manifest.relevance["median"] == pytest.approx(scale.median, abs=1e-6)
        assert index.manifest.relevance["half"] == pytest.approx(scale.half, abs=1e-6)


@pytest.mark.parametrize(
    ("encoder", "others"),
    [(ScriptEncoder(), []), (LatinEncoder(), []), (LatinEncoder(), KOREAN[:4])],
    ids=["all-known", "english", "some-unknown"],
)
def test_general_questions_set_the_scale_of_an_english_index(tmp_path, encoder, others):
    """Also if the tokenizer makes the same token of all words that it does not know, so that such texts look alike."""
    with SmartIndex.create(tmp_path / "index", encoder) as index:
        index.add_texts([*FACTS, *others])
        index.calibrate()
        scale = Scale.of([hits[0].score for hits in index.search_many(GENERAL, 1)])
        assert index.manifest.relevance["median"] == pytest.approx(scale.median, abs=1e-6)
        assert index.manifest.relevance["half"] == pytest.approx(scale.half, abs=1e-6)


@pytest.mark.slow
def test_labels_move_the_threshold(boats):
    scores = [hits[0].score for hits in boats.search_many(FACTS[:20], 1)]
    boats.calibrate(scores)
    assert min(boats.search(text, 1)[0].relevance for text in FACTS[:20]) >= 0.5 - 1e-6  # float32
    boats.calibrate()


def test_a_closed_index_has_no_relevance(tmp_path):
    with SmartIndex.create(tmp_path / "index", VocabularyEncoder()) as index:
        index.add_texts(FACTS)
        (hit,) = index.search(FACTS[0], 1)
    with pytest.raises(errors.IndexClosed):
        _ = hit.relevance


@pytest.mark.parametrize(
    "record",
    [
        {},
        [],
        "x",
        {"documents": "x", "weights": [1, 2], "weighting": "idf", "median": 0.5, "half": 1.0},
        {"documents": 60, "weights": None, "weighting": "idf", "median": 0.5, "half": 1.0},
        {"documents": 60, "weights": [1, 2], "weighting": "idf", "median": None, "half": 1.0},
        {"documents": 60, "weights": [1, 2], "weighting": "idf", "median": 1.5, "half": 1.0},
        {"documents": 60, "weights": [1, 2], "weighting": "idf", "median": float("nan"), "half": 1.0},
    ],
    ids=str,
)
def test_a_broken_scale_in_the_manifest_is_named_and_found_again(tmp_path, caplog, record):
    with SmartIndex.create(tmp_path / "index", CountingEncoder()) as index:
        index.add_texts(FACTS)
        expected = index.search(FACTS[3])[0].relevance
    path = tmp_path / "index" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "relevance": record}))
    with SmartIndex.open(tmp_path / "index", CountingEncoder()) as index:
        assert "the scale of relevance in the manifest cannot be read" in caplog.text
        assert not index.is_calibrated
        assert index.search(FACTS[3])[0].relevance == expected
        index.calibrate()
        assert index.is_calibrated


@pytest.mark.parametrize("scores", [[float("nan")], [float("inf")], [None], 3, "abc"])
def test_scores_that_are_no_numbers_are_refused(boats, scores):
    with pytest.raises(InvalidInput, match="finite numbers"):
        boats.calibrate(scores)


def test_scores_may_be_an_array_or_low(tmp_path):
    with SmartIndex.create(tmp_path / "index", CountingEncoder()) as index:
        index.add_texts(FACTS)
        index.calibrate(np.asarray([2.0, 2.1]))
        index.calibrate(iter([-5.0]))
        assert index.search("pier", 1)[0].relevance > 0.5


def test_lost_labels_are_told(tmp_path, caplog):
    with SmartIndex.create(tmp_path / "index", CountingEncoder()) as index:
        index.add_texts(FACTS[:20])
        index.calibrate([1.0, 1.1])
        index.add_texts(FACTS)
        for _ in range(2):
            assert index.search(FACTS[3])[0].relevance is not None
    assert caplog.text.count("fitted to labelled queries") == 1

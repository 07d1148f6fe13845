"""Hard negatives: the best hits of a search that do not answer the query."""

import re

import pytest
from helpers import tiny_models, tiny_vision
from helpers.some_pairs import page_images, some_data
from helpers.word_encoder import WordEncoder, plain_scores

from smart_rag import IndexConfig, SmartEncoder, SmartIndex
from smart_rag.config import DEFAULT_WEIGHTS
from smart_rag.errors import InvalidInput
from smart_rag.training import AdapterSettings, FinetuneSettings, TrainingData, finetune, load_training_data
from smart_rag.training.data import TrainingQuery
from smart_rag.training.hard_negatives import mine_negatives
from smart_rag.training.runs.prepared import prepare_once
from smart_rag.types import Document

TEXTS = (
    "tides follow the moon", "the tides follow the moon each day", "tides", "the moon", "the moon follow the sun",
    "day trip", "the sun sets", "taxes are due each year", "rain falls", "each day it rains", "follow the road",
)  # fmt: skip
QUERY = "the tides follow the moon"


def mined(data, count, **settings):
    return mine_negatives(data, WordEncoder(), AdapterSettings(hard_negatives=count, **settings))


def names(data):
    return [[data.documents[i].id for i in query.negatives] for query in data.queries]


def test_hard_negatives_are_the_best_hits_without_positives_and_their_copies():
    documents = [Document(name, text) for name, text in [
        ("a", "the cat sat on the mat"), ("same", "the cat sat on the mat"), ("b", "the cat sat"),
        ("c", "a cat"), ("d", "taxes are due"), ("e", "rain falls")]]  # fmt: skip
    queries = [TrainingQuery("the cat sat", (0,)), TrainingQuery("taxes are due", (4,), (5,))]
    found = mined(TrainingData("x", documents, queries), 2)
    assert names(found)[0] == ["b", "c"]  # neither the positive nor its copy
    assert names(found)[1][0] == "e"  # negatives of the data come first
    assert len(names(found)[1]) == 2
    assert "d" not in names(found)[1]
    assert [query.positives for query in found.queries] == [(0,), (4,)]


def one_query(positives=(0,)):
    """Return a query whose positive has a near copy, which the data does not name as an answer."""
    documents = [Document(f"d{i:02}", text) for i, text in enumerate(TEXTS)]
    return TrainingData("tides", documents, [TrainingQuery(QUERY, positives)])


def by_loops(count, positives=(0,), *, range_min=0, range_max=99, max_score=9, absolute_margin=-9, relative_margin=-9):
    """Return the positions of the hard negatives by the rules as sentence-transformers has them, in plain loops."""
    scores = [score / sum(DEFAULT_WEIGHTS) for score in plain_scores(QUERY, TEXTS, DEFAULT_WEIGHTS)]
    lowest = min(scores[i] for i in positives)
    ranked = sorted((i for i in range(len(TEXTS)) if i not in positives), key=lambda i: -scores[i])
    kept = []
    for i in ranked[range_min:range_max]:
        likely = scores[i] > max_score or scores[i] > lowest - absolute_margin
        if not likely and scores[i] <= lowest - relative_margin * abs(lowest):
            kept.append(i)
    return kept[:count]


def test_an_answer_that_the_data_does_not_name_is_left_out_and_counted():
    """The near copy of the positive is the best hit. Part of the answer is a real hard negative."""
    assert names(mined(one_query(), 3))[0][0] == "d01"
    found = mined(one_query(), 3, relative_margin=0.05)
    assert names(found) == [[f"d{i:02}" for i in by_loops(3, relative_margin=0.05)]]
    assert "d01" not in names(found)[0]
    assert "d04" in names(found)[0]  # it shares three words, and it is wrong
    assert found.notes == (
        "3 hard negatives mined by the hybrid score",
        "1 likely answer left out by relative_margin 0.05",
    )


@pytest.mark.parametrize(
    "limits",
    [
        {"absolute_margin": 0.2},
        {"absolute_margin": 0.4},
        {"relative_margin": 0.3},
        {"max_score": 0.6},
        {"max_score": 0.7, "absolute_margin": 0.05, "relative_margin": 0.2},
        {"range_min": 2},
        {"range_min": 1, "range_max": 5, "relative_margin": 0.2},
    ],
)
@pytest.mark.parametrize("positives", [(0,), (0, 1), (4, 0)])
def test_hard_negatives_are_those_of_plain_loops(limits, positives):
    """With several positives, the lowest of their scores counts."""
    found = mined(one_query(positives), 4, **limits)
    expected = by_loops(4, positives, **limits)
    assert names(found) == [[f"d{i:02}" for i in expected]]
    assert expected != by_loops(4, positives), "the limits change nothing"
    left_out = sum(int(note.split()[0]) for note in found.notes if "left out" in note)
    in_window = len(TEXTS) - len(positives) - limits.get("range_min", 0)
    assert left_out <= min(in_window, limits.get("range_max", 99)) - len(expected)
    if len(expected) < 4:
        assert any("1 query with fewer than 4 hard negatives" in note for note in found.notes)


def test_negatives_of_the_data_are_kept_whatever_they_score():
    data = one_query()
    data = TrainingData(data.name, data.documents, [TrainingQuery(QUERY, (0,), (1,))])
    assert names(mined(data, 2, relative_margin=0.2))[0][0] == "d01"


def test_a_positive_far_down_the_ranking_is_scored_too():
    """Its score is low, so that nearly every hit is above the margin."""
    documents = [Document(f"d{i}", " ".join(["tides", "moon", f"word{i}"])) for i in range(40)]
    data = TrainingData("x", [Document("far", "rain falls"), *documents], [TrainingQuery("tides moon", (0,))])
    found = mined(data, 2, relative_margin=0.05, range_max=5)
    assert names(found) == [[]]
    assert "5 likely answers left out by relative_margin 0.05" in found.notes


def test_page_images_have_margins(tmp_path):
    """No hard negative ranks before the page that answers."""
    data = load_training_data(page_images(tmp_path / "pages", 6))
    encoder = SmartEncoder(tiny_vision.qwen3_vl(tmp_path / "model"), device="cpu")
    found = mine_negatives(data, encoder, AdapterSettings(hard_negatives=2, absolute_margin=0.0))
    with SmartIndex.create(tmp_path / "index", encoder, config=IndexConfig(codec="int8")) as index:
        index.add(data.documents)
        for query in found.queries:
            rank = {hit.id: hit.rank for hit in index.search(query.text, 6)}
            answer, *negatives = (rank[data.documents[i].id] for i in query.positives + query.negatives)
            assert negatives == list(range(answer + 1, 7))[:2]


def test_a_resumed_training_has_the_same_negatives_and_notes(tmp_path):
    settings = AdapterSettings(hard_negatives=3, relative_margin=0.05)
    first = prepare_once(one_query(), WordEncoder(), settings, tmp_path)
    again = prepare_once(one_query(), None, settings, tmp_path)
    assert (again.queries, again.notes) == (first.queries, first.notes)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"relative_margin": 0.05}, "relative_margin is for hard negatives; set hard_negatives"),
        ({"range_min": 2}, "range_min is for hard negatives"),
        ({"hard_negatives": 2, "absolute_margin": -0.1}, "absolute_margin must be at least 0, got -0.1"),
        ({"hard_negatives": 2, "relative_margin": float("nan")}, "relative_margin must be at least 0, got nan"),
        ({"hard_negatives": 2, "max_score": 2.5}, "max_score must be from -1 to 1, got 2.5"),
        (
            {"hard_negatives": 4, "range_min": 2, "range_max": 5},
            "range_max must be at least range_min + hard_negatives",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, problem):
    with pytest.raises(InvalidInput, match=re.escape(problem)):
        FinetuneSettings(**settings)


@pytest.mark.usefixtures("one_thread")
def test_finetuning_reports_what_was_left_out(tmp_path):
    model = tiny_models.bert(tmp_path / "model")
    settings = FinetuneSettings(batch_size=16, hard_negatives=1, relative_margin=0.0)
    report = finetune(model, some_data(40), tmp_path / "out", settings, held_out=0.3, device="cpu", keep_anyway=True)
    assert "mined by the hybrid score" in report.notes[0]
    assert report.as_json()["notes"] == report.notes

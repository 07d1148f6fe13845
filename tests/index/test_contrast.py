"""The weighting "contrast" of an index: its scores by plain loops, and every way that leads to them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers.query_shares import query_shares
from helpers.word_encoder import VocabularyEncoder, WordEncoder

from smart_rag import Document, IndexConfig, SmartIndex
from smart_rag.index.candidates import FirstStage
from smart_rag.scoring.foreign import foreign_questions

STAGES = ["terms", "pooled", "exhaustive", "auto"]
WORDS = ["pump", "boat", "keys", "carp", "tax", "oil", "mat", "the"]
QUERY = "pump keys the ? nowhere"
LONG = " ".join([QUERY] * 6)
COUNT = 140


def texts():
    rng = np.random.default_rng(5)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 6), p=np.arange(1, 9) / 36)) for _ in range(COUNT)]


def created(folder, encoder):
    config = IndexConfig(codec="exact", weighting="contrast")
    index = SmartIndex.create(folder, encoder, config=config)
    index.add([Document(f"d{i:03}", text, {"third": i % 3, "source": f"f{i % 4}"}) for i, text in enumerate(texts())])
    return index


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    with created(tmp_path_factory.mktemp("contrast") / "index", VocabularyEncoder()) as index:
        yield index


def best_cosines(encoder, query, text):
    tokens = encoder.encode_document([text]).tokens[0].astype(np.float16).astype(np.float64)
    return [max(float(q @ d) for d in tokens) for q in encoder.encode_query([query]).tokens[0].astype(np.float64)]


def by_loops(encoder, query, held, deciding, has_ids=True):
    """Return the late score of each document, with the weights that the ``deciding`` documents give the tokens."""
    words, everything = query.split(), texts()
    power = min(max(1 + math.log2(len(words) / 16), 1), 2)
    best = {name: best_cosines(encoder, query, text) for name, text in held.items()}
    weights = []
    for i, word in enumerate(words):
        frequency = COUNT if word == "?" else sum(word in text.split() for text in everything)
        rarity = math.log(1 + COUNT / max(frequency, 1, 0.02 * COUNT)) if has_ids else 1
        of_token = [best[name][i] for name in deciding]
        weights.append(rarity * max(max(of_token) - sum(of_token) / len(of_token), 0.001) ** power)
    return {
        name: sum(weight * cosine for weight, cosine in zip(weights, of_one, strict=True)) / sum(weights)
        for name, of_one in best.items()
    }


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("query", [QUERY, LONG, "?"])
def test_search_equals_loops(index, stage, query):
    """The candidates of a search decide, which are those that pass its filter."""
    held = {f"d{i:03}": text for i, text in enumerate(texts()) if i % 3 == 1}
    expected = by_loops(VocabularyEncoder(), query, held, held, has_ids=query != "?")
    hits = index.search(query, 60, first_stage=stage, where={"third": 1})
    assert {hit.id for hit in hits} == set(held)
    for hit in hits:
        assert hit.late_score == pytest.approx(expected[hit.id], abs=1e-3)
        assert hit.score == pytest.approx(hit.pooled_score + 2 * hit.late_score, abs=1e-5)


def test_a_model_without_vocabulary_has_no_rarity(tmp_path):
    held = {f"d{i:03}": text for i, text in enumerate(texts()) if i % 3 == 1}
    expected = by_loops(WordEncoder(), QUERY, held, held, has_ids=False)
    with created(tmp_path / "index", WordEncoder()) as index:
        for hit in index.search(QUERY, 60, where={"third": 1}):
            assert hit.late_score == pytest.approx(expected[hit.id], abs=1e-3)


def test_the_first_hundred_candidates_decide(index):
    """So more candidates, another first stage or more hits do not change a score."""
    encoded = index.encode_queries([QUERY])
    deciding = FirstStage(index._store, 100).terms(encoded)[0].ids
    assert len(deciding) == 100
    held = {f"d{i:03}": text for i, text in enumerate(texts())}
    expected = by_loops(VocabularyEncoder(), QUERY, held, deciding)
    for options in ({}, {"candidates": 500}, {"first_stage": "terms"}, {"first_stage": "terms", "candidates": 130}):
        for hit in index.search(QUERY, 8, **options):
            assert hit.late_score == pytest.approx(expected[hit.id], abs=1e-3)
    few = {hit.id: hit.score for hit in index.search(QUERY, 8, first_stage="terms", candidates=20)}
    assert any(abs(few[hit.id] - hit.score) > 1e-4 for hit in index.search(QUERY, 8) if hit.id in few)


@pytest.mark.parametrize("stage", STAGES)
def test_every_way_to_a_hit_gives_the_same_score(index, stage):
    plain = {hit.id: hit.score for hit in index.search(QUERY, COUNT, first_stage=stage)}
    some = index.search(QUERY, 5, first_stage=stage)
    many = index.search_many(["carp", QUERY], 5, first_stage=stage)[1]
    rule = index.search(QUERY, 12, first_stage=stage, per_source=3, candidates=100)
    folded = index.search(QUERY, 12, first_stage=stage, fold_duplicates=True)
    for hits in (some, many, rule, folded):
        for hit in hits:
            assert hit.score == pytest.approx(plain[hit.id], abs=1e-5)
    if stage != "pooled":  # other documents are near the query
        for hit in index.rerank(QUERY, some):
            assert hit.score == pytest.approx(plain[hit.id], abs=1e-5)


def test_a_filter_without_documents(index):
    for stage in STAGES:
        assert index.search(QUERY, first_stage=stage, where={"third": 9}) == []
    assert query_shares(index, index.encode_queries([QUERY])).sum() == pytest.approx(1)


def test_the_other_weightings_do_not_change(index):
    for weighting in ("idf", "none"):
        with_it = index.search(QUERY, 20, weighting=weighting)
        assert with_it == index.search(QUERY, 20, weighting=weighting)
        assert [hit.late_score for hit in with_it] != [hit.late_score for hit in index.search(QUERY, 20)]


@pytest.fixture(scope="module")
def boats(tmp_path_factory, minilm):
    facts = [f"Boat number {i} is moored at pier {i * 7 % 31} and was built in {1900 + i}." for i in range(60)]
    path = tmp_path_factory.mktemp("boats") / "index"
    with SmartIndex.create(path, minilm, config=IndexConfig(weighting="contrast")) as index:
        index.add_texts(facts, [str(i) for i in range(len(facts))])
        yield index


def test_an_explanation_adds_up_to_the_score(boats):
    for options in ({}, {"candidates": 20, "first_stage": "terms"}, {"where_document": {"$contains": "pier 1"}}):
        for hit in boats.search("At which pier is boat number 12 moored?", 5, **options):
            explanation = hit.explain()
            assert sum(explanation.shares) == pytest.approx(hit.score, abs=1e-5)
            assert sum(share for _, share in explanation.words) == pytest.approx(2 * hit.late_score, abs=2e-3)
            heard = dict(explanation.words)
            assert heard["12"] > heard["boat"]


@pytest.mark.slow
def test_relevance_holds_for_it(boats):
    """One in twenty foreign questions has a best hit with the relevance .5 or more, and the right answer has more."""
    hits = boats.search("At which pier is boat number 12 moored?", 10)
    relevances = [hit.relevance for hit in hits]
    assert relevances == sorted(relevances, reverse=True)
    assert relevances[0] > 0.5
    foreign = boats.search_many(list(foreign_questions()["general"]), 1)
    assert np.mean([found[0].relevance >= 0.5 for found in foreign]) == pytest.approx(0.05, abs=0.01)

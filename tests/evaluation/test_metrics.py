"""Measures of rankings against a plain implementation of trec_eval's measures."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from smart_rag.errors import MissingExtra
from smart_rag.evaluation.metrics import DEFAULT_MEASURES, Metrics

NAMES = ("ndcg@10", "recall@10", "recall@100", "mrr@10", "ndcg@5", "hit@1")


def plain_measures(grades, ranked):
    """Return the measures of one query, by loops."""
    relevant = {id for id, grade in grades.items() if grade > 0}
    gain = sum(max(grades.get(id, 0), 0) / math.log2(i + 2) for i, id in enumerate(ranked[:10]))
    best = sorted((grade for grade in grades.values() if grade > 0), reverse=True)
    ideal = sum(grade / math.log2(i + 2) for i, grade in enumerate(best[:10]))
    gain_5 = sum(max(grades.get(id, 0), 0) / math.log2(i + 2) for i, id in enumerate(ranked[:5]))
    ideal_5 = sum(grade / math.log2(i + 2) for i, grade in enumerate(best[:5]))
    first = next((i for i, id in enumerate(ranked[:10]) if id in relevant), None)
    return {
        "ndcg@10": gain / ideal if relevant else 0.0,
        "recall@10": len(relevant & set(ranked[:10])) / len(relevant) if relevant else 0.0,
        "recall@100": len(relevant & set(ranked[:100])) / len(relevant) if relevant else 0.0,
        "mrr@10": 0.0 if first is None else 1 / (first + 1),
        "ndcg@5": gain_5 / ideal_5 if relevant else 0.0,
        "hit@1": float(first == 0),
    }


@pytest.fixture(scope="module")
def judged():
    """Grades from -1 to 3 for 14 documents of each query, and random rankings of 150. Query 0 has nothing relevant."""
    generator = np.random.default_rng(3)
    qrels, run = {}, {}
    for i in range(20):
        documents = [f"d{j}" for j in generator.permutation(150).tolist()]
        grades = generator.integers(-1, 4, 14).tolist() if i else [0] * 14
        qrels[f"q{i}"] = dict(zip(documents[:14], grades, strict=True))
        run[f"q{i}"] = [f"d{j}" for j in generator.permutation(150).tolist()]
    return qrels, run


def test_every_measure_of_every_query_is_that_of_plain_loops(judged):
    qrels, run = judged
    found = Metrics(qrels, NAMES).by_query(run)
    assert tuple(found) == NAMES
    assert list(Metrics(qrels).by_query(run)) == list(DEFAULT_MEASURES)
    for i, (query, grades) in enumerate(qrels.items()):
        plain = plain_measures(grades, run[query])
        assert {name: values[i] for name, values in found.items()} == pytest.approx(plain, abs=1e-9), query


def test_10_000_random_queries():
    """Few or many documents, grades from -5 to 5, and rankings that are short or have unknown documents."""
    generator = np.random.default_rng(8)
    qrels, run = {}, {}
    for i in range(10_000):
        judged = generator.choice(12, generator.integers(1, 12), replace=False).tolist()
        grades = generator.integers(*((-5, 1) if i % 10 == 0 else (-5, 6)), len(judged)).tolist()
        qrels[f"q{i}"] = {f"d{j}": grade for j, grade in zip(judged, grades, strict=True)}
        run[f"q{i}"] = [f"d{j}" for j in generator.permutation(15)[: generator.integers(0, 15)].tolist()]
    found = Metrics(qrels, NAMES).by_query(run)
    plain = [plain_measures(grades, run[query]) for query, grades in qrels.items()]
    for name in NAMES:
        np.testing.assert_allclose(found[name], [measures[name] for measures in plain], atol=1e-9)


def test_grades_are_gains_of_ndcg(judged):
    qrels, run = judged
    binary = {query: {id: min(grade, 1) for id, grade in grades.items()} for query, grades in qrels.items()}
    graded, of_binary = Metrics(qrels).mean(run), Metrics(binary).mean(run)
    assert graded["ndcg@10"] != pytest.approx(of_binary["ndcg@10"])
    assert graded["recall@10"] == of_binary["recall@10"]


def test_the_mean_is_over_all_queries_and_a_missing_one_counts_as_zero(judged):
    qrels, run = judged
    some = {query: ids for query, ids in run.items() if query != "q5"}
    metrics = Metrics(qrels, ("recall@100",))
    values = metrics.by_query(run)["recall@100"]
    assert metrics.mean(run) == {"recall@100": pytest.approx(values.sum() / 20)}
    assert values[5] > 0
    assert metrics.mean(some)["recall@100"] == pytest.approx((values.sum() - values[5]) / 20)


def test_the_order_is_the_order_of_the_run():
    """Not that of the ids, in either direction."""
    qrels = {"q": {"b": 1}}
    ranks = [Metrics(qrels, ("mrr@10",)).mean({"q": ids})["mrr@10"] for ids in (["a", "b", "c"], ["c", "a", "b"])]
    assert ranks == pytest.approx([1 / 2, 1 / 3])


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    with pytest.raises(MissingExtra, match=r"smart-rag\[eval\]"):
        Metrics({"q": {"d": 1}})

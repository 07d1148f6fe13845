"""Measures of rankings against a plain implementation of trec_eval's measures."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from smart_rag.errors import InvalidInput, MissingExtra
from smart_rag.evaluation.metrics import DEFAULT_MEASURES, Metrics, measure_of, measures_and_depth

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


CHOSEN = ("nDCG", "nDCG@3", "AP", "AP(rel=2)@4", "P@5", "P(rel=3)@5", "R@2", "RR", "RR@2", "RR(rel=2)", "Success@3")
CHOSEN += ("Rprec", "Bpref", "Judged", "Judged@4")


def plain_measure(name, grades, ranked):
    """Return a measure of one query in the words of ir-measures, by loops."""
    name, _, depth = name.partition("@")
    name, _, lowest = name.partition("(rel=")
    lowest = int(lowest.rstrip(")") or 1)
    found = ranked[: int(depth)] if depth else ranked
    grades = {id: max(grade, 0) for id, grade in grades.items()}
    relevant = {id for id, grade in grades.items() if grade >= lowest}
    hits = [id in relevant for id in found]
    if name == "Judged":
        return sum(id in grades for id in found) / len(found) if found else 0.0
    if not relevant:
        return 0.0
    if name == "nDCG":
        gain = sum(grades.get(id, 0) / math.log2(i + 2) for i, id in enumerate(found))
        best = sorted(grades.values(), reverse=True)[: int(depth) if depth else None]
        return gain / sum(grade / math.log2(i + 2) for i, grade in enumerate(best))
    if name == "AP":
        return sum(sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits) if hit) / len(relevant)
    if name == "Bpref":
        others = [id for id, grade in grades.items() if grade < lowest]
        total, above = 0.0, 0
        for id, hit in zip(found, hits, strict=True):
            above += id in others
            total += (1 - min(above, len(relevant)) / min(len(others), len(relevant)) if above else 1) if hit else 0
        return total / len(relevant)
    return {
        "P": sum(hits) / int(depth or 1),
        "R": sum(hits) / len(relevant),
        "RR": next((1 / (i + 1) for i, hit in enumerate(hits) if hit), 0.0),
        "Success": float(any(hits)),
        "Rprec": sum(hits[: len(relevant)]) / len(relevant),
    }[name]


def test_measures_by_the_names_of_ir_measures_are_those_of_plain_loops_and_of_ir_measures():
    import ir_measures

    generator = np.random.default_rng(5)
    qrels, run = {}, {}
    for i in range(2_000):
        judged = generator.choice(12, generator.integers(1, 12), replace=False).tolist()
        grades = generator.integers(*((0, 1) if i % 10 == 0 else (0, 5)), len(judged)).tolist()
        qrels[f"q{i}"] = {f"d{j}": grade for j, grade in zip(judged, grades, strict=True)}
        run[f"q{i}"] = [f"d{j}" for j in generator.permutation(15)[: generator.integers(0, 15)].tolist()]
    found = Metrics(qrels, CHOSEN).by_query(run)
    scored = {query: {id: 1 / (1 + i) for i, id in enumerate(ids)} for query, ids in run.items() if ids}
    for name in CHOSEN:
        plain = [plain_measure(name, grades, run[query]) for query, grades in qrels.items()]
        np.testing.assert_allclose(found[name], plain, atol=1e-9, err_msg=name)
        assert 0 < np.mean(plain) < 1, name
        kind, _, depth = name.partition("@")
        kind, _, lowest = kind.partition("(rel=")
        measure = getattr(ir_measures, kind)  # not `parse_measure`, which later versions of Python cannot run
        measure = measure(rel=int(lowest.rstrip(")"))) if lowest else measure
        of_others = ir_measures.calc_aggregate([measure @ int(depth) if depth else measure], qrels, scored)
        assert [found[name].mean()] == pytest.approx(list(of_others.values()), abs=1e-9), name


@pytest.mark.parametrize(
    ("name", "measure"),
    [
        *[("nDCG@10", "nDCG@10"), ("ndcg@10", "nDCG@10"), ("MAP", "AP"), ("recall@100", "R@100"), ("MRR@10", "RR@10")],
        *[("AP(rel=2)@100", "AP(rel=2)@100"), ("hit@1", "Success@1"), ("precision@5", "P@5"), ("RPrec", "Rprec")],
    ],
)
def test_names_of_measures(name, measure):
    assert str(measure_of(name)) == measure


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("NDGC@10", r"unknown measure 'NDGC@10': did you mean nDCG\? expected one of AP, Bpref, Judged, nDCG, P, R"),
        ("P", "the measure 'P' needs a depth, such as P@10"),
        ("Rprec@5", "the measure 'Rprec@5' has no depth; write Rprec"),
        ("nDCG(rel=2)@10", "has no lowest relevant grade; write nDCG@10"),
        ("nDCG@0", "unknown measure 'nDCG@0'"),
        ("ERR@20", "unknown measure 'ERR@20'"),
        ("nDCG(dcg='exp-log2')@10", "unknown measure"),
        ("", "unknown measure ''"),
    ],
)
def test_a_measure_that_is_not_known_is_an_error_that_names_the_nearest(name, error):
    with pytest.raises(InvalidInput, match=error):
        Metrics({"q": {"d": 1}}, (name,))


def test_the_depth_of_rankings_follows_the_measures_and_the_other_way_round():
    assert measures_and_depth(None, None) == (DEFAULT_MEASURES, 100)
    assert measures_and_depth(None, 5) == (("ndcg@5", "recall@5", "mrr@5"), 5)
    assert measures_and_depth(["nDCG@10", "AP"], None) == (("nDCG@10", "AP"), 100)
    assert measures_and_depth(["R@1000"], None) == (("R@1000",), 1000)
    with pytest.raises(InvalidInput, match=r"'R@50' needs rankings of 50 documents, and they have 20; raise top_k"):
        measures_and_depth(["AP", "R@50"], 20)
    with pytest.raises(InvalidInput, match="the measures 'R@5' and 'recall@5' are the same"):
        measures_and_depth(["R@5", "recall@5"], None)
    with pytest.raises(InvalidInput, match="no measure is given"):
        measures_and_depth([], None)


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

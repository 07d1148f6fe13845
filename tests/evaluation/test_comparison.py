"""Comparison of two evaluations: the differences of the queries that both have, and what is refused."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from PIL import Image

from smart_rag.errors import InvalidInput
from smart_rag.evaluation import compare, evaluate_runs
from smart_rag.evaluation.differences import corrected, difference
from smart_rag.evaluation.plots import save_comparison_plot, save_evaluation_plot

GENERATOR = np.random.default_rng(4)
QRELS = {f"q{i}": {f"d{j}": int(GENERATOR.integers(0, 3)) for j in range(8)} for i in range(60)}


def ranked(swaps: int) -> dict[str, list[str]]:
    """Return rankings that are the best ones, but for the first ``swaps`` queries, whose rankings are reversed."""
    best = {query: sorted(grades, key=grades.get, reverse=True) for query, grades in QRELS.items()}
    return {query: ids[::-1] if i < swaps else ids for i, (query, ids) in enumerate(best.items())}


def result(swaps: dict[str, int], measures=("nDCG@5", "RR"), qrels=QRELS, runs=None, **options):
    runs = runs or {name: ranked(count) for name, count in swaps.items()}
    return evaluate_runs(qrels, runs, measures=measures, **options)


def test_the_differences_are_those_of_the_queries_with_correction():
    a, b = result({"pooled": 30, "hybrid": 0}), result({"pooled": 31, "hybrid": 12})
    found = compare(a, b, measures=["nDCG@5", "RR"], names=("new", "old"))
    assert [(pair.name, pair.measure) for pair in found.pairs] == [
        ("pooled", "nDCG@5"),
        ("pooled", "RR"),
        ("hybrid", "nDCG@5"),
        ("hybrid", "RR"),
    ]
    plain = {}
    for pair in found.pairs:
        x, y = (np.array(list(of["by_query"][pair.name][pair.measure].values())) for of in (a, b))
        assert pair.means == (pytest.approx(x.mean()), pytest.approx(y.mean()))
        plain[pair.name, pair.measure] = difference(x, y)
        assert pair.counts == ((x > y).sum(), (x == y).sum(), (x < y).sum())
    assert [pair.difference for pair in found.pairs] == list(corrected(plain).values())
    assert found.pairs[2].difference.verdict == "better"
    assert found.pairs[2].difference.p > plain["hybrid", "nDCG@5"].p
    assert found.pairs[0].difference.verdict == "noise"
    shown = json.loads(json.dumps(found.as_json()))
    assert shown["evaluations"] == ["new", "old"]
    assert set(shown["pairs"][0]) == {
        *("runs", "measure", "means", "difference", "low", "high", "p", "verdict", "better", "equal", "worse")
    }


def test_queries_without_a_relevant_document_are_counted():
    """They lower each mean, whatever ranks."""
    qrels = {"a": {"d1": 1}, "b": {"d2": 0}, "c": {"d3": -2, "d1": 0}}
    found = evaluate_runs(qrels, {"x": {query: ["d1"] for query in qrels}}, measures=["nDCG@5"])
    assert found["notes"] == ["2 queries without a relevant document, such as 'b'; each measure of theirs is 0"]
    assert found["runs"]["x"]["nDCG@5"] == pytest.approx(1 / 3)


def test_only_the_queries_of_both_count_and_the_others_are_counted_and_named():
    some = {query: grades for query, grades in QRELS.items() if query not in ("q0", "q1")}
    others = {query: grades for query, grades in QRELS.items() if query != "q59"}
    a, b = result({"x": 0}, qrels=some), result({"x": 3}, qrels=others)
    found = compare(a, b, names=("A", "B"))
    assert len(found.queries) == 57
    assert found.pairs[0].counts[0] <= 1  # of the three reversed queries, two are left out
    assert found.notes == ("1 query only in A left out, such as 'q59'", "2 queries only in B left out, such as 'q0'")


def test_which_rankings_are_compared():
    names = {"pooled": 1, "late": 2, "hybrid": 3, "paper": 4}
    a, b = result(names), result({**names, "bm25": 9})
    found = compare(a, b)
    assert [pair.runs for pair in found.pairs] == [("pooled", "pooled"), ("late", "late"), ("hybrid", "hybrid")]
    assert found.notes == (
        "1 ranking of first not compared: paper",
        "2 rankings of second not compared: paper, bm25",
    )
    named = compare(a, b, runs=["paper", "hybrid:bm25"])
    assert [pair.runs for pair in named.pairs] == [("paper", "paper"), ("hybrid", "bm25")]
    assert named.pairs[1].name == "hybrid - bm25"
    [pair] = compare(result({"mine": 0}), result({"bm25": 9})).pairs
    assert pair.runs == ("mine", "bm25")
    with pytest.raises(InvalidInput, match="no ranking 'hybrid:none': first has pooled, late, hybrid, paper, and sec"):
        compare(a, b, runs=["hybrid:none"])
    with pytest.raises(InvalidInput, match="name two of them to compare, such as --runs pooled:x"):
        compare(a, result({"x": 0}))


def test_two_spellings_of_a_measure_are_the_same():
    [pair] = compare(result({"x": 0}, ("nDCG@10",)), result({"x": 0}, None)).pairs
    assert (pair.measure, pair.counts) == ("nDCG@10", (0, 60, 0))


def changed(value, **changes):
    return {**copy.deepcopy(value), **changes}


def test_other_sets_and_measures_are_refused():
    a = result({"x": 0})
    renamed = {f"r{query}": grades for query, grades in QRELS.items()}
    with pytest.raises(InvalidInput, match="no query in common; compare evaluations on the same dataset"):
        compare(
            a, changed(a, judgements=dict.fromkeys(renamed, "x"), by_query={"x": {"RR": dict.fromkeys(renamed, 1)}})
        )
    graded = {query: {**grades, "d0": 5} if query == "q7" else grades for query, grades in QRELS.items()}
    with pytest.raises(InvalidInput, match="different judgements of 1 query, such as 'q7'; evaluate both with the"):
        compare(a, result({"x": 0}, qrels=graded))
    with pytest.raises(InvalidInput, match=r"first \(on one\) and second \(on two\) ranked different documents"):
        compare(changed(a, dataset="one", corpus="1"), changed(a, dataset="two", corpus="2"))
    with pytest.raises(InvalidInput, match="have not both the same measure: the first has nDCG@5, RR, and the"):
        compare(a, result({"x": 0}, ("P@5",)))
    with pytest.raises(InvalidInput, match="have not both R@7: the first has nDCG@5, RR"):
        compare(a, a, measures=["nDCG@5", "R@7"])
    with pytest.raises(InvalidInput, match="RR counts whole rankings, which have 100 documents in first and 20 in sec"):
        compare(a, result({"x": 0}, top_k=20), measures=["RR"])
    assert compare(a, result({"x": 0}, top_k=20), measures=["nDCG@5"]).pairs


@pytest.mark.parametrize(
    "damage",
    [
        {"by_query": None},
        {"by_query": {}},
        {"by_query": {"x": 3}},
        {"by_query": {"x": {"RR": {"q0": 1}}}},
        {"by_query": {"x": {"strange": {}}}},
        {"by_query": {"x": {"RR": dict.fromkeys(QRELS, "much")}}},
        {"by_query": {"x": {"RR": dict.fromkeys(QRELS, float("nan"))}}},
        {"judgements": []},
        {"judgements": 3},
        {"settings": {}},
    ],
)
def test_what_is_no_evaluation_is_refused(damage):
    a = result({"x": 0})
    with pytest.raises(InvalidInput, match=r"B: expected the figures of `smart-rag eval --json FILE`.*evaluate again"):
        compare(a, changed(a, **damage), names=("A", "B"))


def test_plots_are_images(tmp_path):
    pytest.importorskip("matplotlib", reason="plots need the extra plot")
    a, b = result({"pooled": 30, "$x_{": 0}), result({"pooled": 31, "$x_{": 12})
    save_evaluation_plot(a, tmp_path / "a.png")
    save_evaluation_plot(result({"one": 0}), tmp_path / "one.png")
    save_comparison_plot(compare(a, b), tmp_path / "both.png")
    for name in ("a", "one", "both"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.width > 1000
            assert len(image.convert("RGB").getcolors(1 << 20)) > 50
    with pytest.raises(InvalidInput, match=r"'.txt' is not the ending of an image format"):
        save_comparison_plot(compare(a, b), tmp_path / "both.txt")

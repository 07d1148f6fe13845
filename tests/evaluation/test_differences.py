"""Intervals and p-values of differences: they are those of plain loops, and they are wrong as seldom as they say."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from smart_rag.errors import InvalidInput
from smart_rag.evaluation.differences import Difference, corrected, difference, intervals


def plain_interval(first, second, resamples, seed):
    """Return the percentile interval by loops."""
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(resamples):
        total = 0.0
        for _ in range(len(first)):
            i = int(generator.integers(0, len(first)))
            total += first[i] - second[i]
        means.append(total / len(first))
    means.sort()
    return means[int(0.025 * resamples)], means[int(0.975 * resamples)]


def test_the_interval_is_that_of_plain_loops():
    """The draws differ, so the bounds agree within the error of 4,000 resamples."""
    generator = np.random.default_rng(1)
    first, second = generator.random(50), generator.random(50) ** 2
    found = difference(first, second)
    low, high = plain_interval(first.tolist(), second.tolist(), 4_000, 2)
    assert found.mean == pytest.approx(sum(a - b for a, b in zip(first, second, strict=True)) / 50)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.006)
    assert found.queries == 50


def test_pairs_stay_together():
    """A constant difference has an interval without width, however much the queries differ."""
    second = np.random.default_rng(0).random(40)
    found = difference(second + 0.01, second)
    assert (found.mean, found.low, found.high) == pytest.approx((0.01, 0.01, 0.01))
    assert found.verdict == "better"
    assert difference(second, second + 0.01).verdict == "worse"


@pytest.mark.parametrize("skewed", [False, True])
def test_95_of_100_intervals_contain_the_true_difference(skewed):
    """Counted over 400 samples from a population whose mean is known."""
    generator = np.random.default_rng(5)
    covered = 0
    for i in range(400):
        # Differences in nDCG: half of them 0, the others between -1 and 1.
        changes = generator.beta(1, 3, 100) if skewed else generator.uniform(-1, 1, 100)
        changes = np.where(generator.random(100) < 0.5, 0, changes)
        true = 0.5 * 0.25 if skewed else 0.0
        found = difference(changes, np.zeros(100), resamples=1_000, seed=i)
        covered += found.low <= true <= found.high
    assert 0.91 <= covered / 400 <= 0.98  # three standard errors of 400 draws are .033


def test_the_same_seed_draws_the_same():
    values = np.random.default_rng(0).random((2, 35))
    assert difference(*values) == difference(*values)
    assert difference(*values).low != difference(*values, seed=1).low


def test_draws_in_blocks_give_the_same_interval():
    values = np.random.default_rng(0).random((2, 35))
    at_once = difference(*values)
    in_blocks = difference(*values, draws_at_once=100)
    assert (in_blocks.low, in_blocks.high) == pytest.approx((at_once.low, at_once.high), abs=0.01)


def test_equal_systems_are_noise_and_29_queries_too_few():
    assert difference(np.ones(40), np.ones(40)) == Difference(0.0, 0.0, 0.0, 40, 1.0)
    assert difference(np.ones(40), np.ones(40)).verdict == "noise"
    assert difference(np.ones(29), np.zeros(29)).verdict == "too few queries"
    assert difference(np.ones(30), np.zeros(30)).verdict == "better"


@pytest.mark.parametrize("values", [([], []), ([[1.0]], [[2.0]])])
def test_anything_but_one_value_for_each_query_is_refused(values):
    with pytest.raises(InvalidInput, match="one value for each query"):
        difference(*values)


def test_p_is_the_share_of_all_exchanges():
    """Against a loop over all ways to exchange the values of 10 queries. 40 more queries are equal."""
    changes = np.random.default_rng(3).normal(0.3, 1, 10)
    sums = [sum(s * c for s, c in zip(signs, changes, strict=True)) for signs in product([-1, 1], repeat=10)]
    expected = sum(abs(one) >= abs(sum(changes)) - 1e-12 for one in sums) / len(sums)
    values = np.concatenate([changes, np.zeros(40)])
    assert difference(values, np.zeros(50)).p == pytest.approx(expected)
    # Drawn exchanges agree with all of them.
    many = np.concatenate([changes, np.full(7, 1e-12)])
    assert difference(many, np.zeros(17)).p == pytest.approx(expected, abs=0.02)


def test_four_equal_changes_among_1000_queries_are_noise():
    changes = np.concatenate([np.full(4, 0.5), np.zeros(996)])
    found = difference(changes, np.zeros(1_000))
    assert found.low > 0
    assert (found.p, found.verdict) == (0.125, "noise")
    assert difference(np.concatenate([np.full(7, 0.5), np.zeros(993)]), np.zeros(1_000)).verdict == "better"


def test_the_p_values_of_a_table_are_corrected():
    """The three smallest of four are multiplied by 4, 3 and 2. They stay in order, and are at most 1."""
    ps = {"a": 0.03, "b": 0.001, "c": 0.4, "d": 0.03}
    found = corrected({name: Difference(0.1, 0, 0.2, 50, p) for name, p in ps.items()})
    assert {name: one.p for name, one in found.items()} == pytest.approx({"a": 0.09, "b": 0.004, "c": 0.4, "d": 0.09})
    assert [one.verdict for one in found.values()] == ["noise", "better", "noise", "noise"]
    same = {f"same {i}": difference(np.ones(50), np.ones(50)) for i in range(9)}
    again = corrected(same | {name: Difference(0.1, 0, 0.2, 50, p) for name, p in ps.items()})
    assert {name: again[name] for name in ps} == found
    assert {again[name].p for name in same} == {1.0}
    high = corrected({name: Difference(0.1, 0, 0.2, 50, 0.9) for name in "ab"})
    assert {one.p for one in high.values()} == {1.0}


KINDS = {
    "normal": lambda generator, n: generator.normal(0, 1, n),
    # 1 / rank of the first right document of either system, and mostly the same one
    "reciprocal ranks": lambda generator, n: np.where(
        generator.random(n) < 0.6, 0, 1 / generator.integers(1, 11, n) - 1 / generator.integers(1, 11, n)
    ),
    "sparse": lambda generator, n: np.where(generator.random(n) < 8 / n, generator.choice([-1, 1, 0.5, -0.5], n), 0),
}


@pytest.mark.parametrize("queries", [30, 100, 1_000])
@pytest.mark.parametrize("kind", KINDS)
def test_equal_systems_are_seldom_better(kind, queries):
    """Of 1,500 comparisons of equal systems, at most .05 (and .01 for the sample) are called better or worse."""
    generator = np.random.default_rng(17)
    verdicts = [
        difference(KINDS[kind](generator, queries), np.zeros(queries), resamples=10, exchanges=300, seed=i).verdict
        for i in range(1_500)
    ]
    assert verdicts.count("better") <= 0.035 * 1_500
    assert len(verdicts) - verdicts.count("noise") <= 0.06 * 1_500


@pytest.mark.slow
@pytest.mark.parametrize("queries", [30, 100, 300, 1_000])
@pytest.mark.parametrize("kind", KINDS)
def test_equal_systems_are_seldom_better_in_many_draws(kind, queries):
    """.05, and .01 for the sample: the standard error of 10,000 draws is .002."""
    generator = np.random.default_rng(18)
    verdicts = [
        difference(KINDS[kind](generator, queries), np.zeros(queries), resamples=2, exchanges=1_000, seed=i).verdict
        for i in range(10_000)
    ]
    assert verdicts.count("better") <= 0.035 * 10_000
    assert len(verdicts) - verdicts.count("noise") <= 0.06 * 10_000


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_of_equal_rankings_seldom_has_a_verdict(kind):
    """Five differences, as in the table of `eval`: in at most .05 of the tables, any of them is better or worse."""
    generator = np.random.default_rng(19)
    wrong = 0
    for i in range(400):
        rankings = [KINDS[kind](generator, 60) for _ in range(5)]
        pairs = [(1, 0), (1, 2), (3, 1), (4, 1), (2, 1)]
        found = {
            f"{a} - {b}": difference(rankings[a], rankings[b], resamples=2, exchanges=400, seed=i) for a, b in pairs
        }
        wrong += any(one.verdict != "noise" for one in corrected(found).values())
    assert wrong <= (0.05 + 0.025) * 400  # .025 is 2.3 standard errors


GAINS = {
    # A third of the standard deviation. A t-test finds it in 91 of 100 cases.
    "normal": lambda changes: changes + 1 / 3,
    "reciprocal ranks": lambda changes: changes + 0.27 / 3,
    # Each loss is a small gain instead. With fewer than 6 changes, no test can tell gains from chance.
    "sparse": lambda changes: np.where(changes < 0, -0.9 * changes, changes),
}


@pytest.mark.parametrize("kind", GAINS)
def test_a_real_difference_is_found(kind):
    generator = np.random.default_rng(2)
    found = [
        difference(GAINS[kind](KINDS[kind](generator, 100)), np.zeros(100), resamples=2, exchanges=500, seed=i).verdict
        for i in range(300)
    ]
    assert found.count("better") >= (0.7 if kind == "sparse" else 0.85) * 300
    assert "worse" not in found


def test_intervals_of_several_measures_are_those_of_each():
    values = np.random.default_rng(4).random((3, 60))
    alone = [difference(row, np.zeros(60)) for row in values]
    np.testing.assert_allclose(intervals(values), [(one.low, one.high) for one in alone])

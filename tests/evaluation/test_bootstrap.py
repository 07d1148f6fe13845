"""Intervals of differences: they are those of plain loops, and they contain the true difference often enough."""

from __future__ import annotations

import numpy as np
import pytest

from smart_rag.errors import InvalidInput
from smart_rag.evaluation.bootstrap import Difference, difference


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
    assert difference(np.ones(40), np.ones(40)) == Difference(0.0, 0.0, 0.0, 40)
    assert difference(np.ones(40), np.ones(40)).verdict == "noise"
    assert difference(np.ones(29), np.zeros(29)).verdict == "too few queries"
    assert difference(np.ones(30), np.zeros(30)).verdict == "better"


@pytest.mark.parametrize("values", [([], []), ([[1.0]], [[2.0]])])
def test_anything_but_one_value_for_each_query_is_refused(values):
    with pytest.raises(InvalidInput, match="one value for each query"):
        difference(*values)

"""Choice among settings: it is that of plain loops, seldom a worse one, and its gain is not too high."""

from __future__ import annotations

from statistics import mean, stdev

import numpy as np
import pytest

from smart_rag.evaluation import selection
from smart_rag.evaluation.selection import choose, cross_validated, expected_gain


def plain_choice(values, queries):
    """Return the position of the setting with the best mean gain less its standard error, by loops."""
    bounds = []
    for row in values:
        gains = [row[i] - values[0][i] for i in queries]
        bounds.append(round(mean(gains) - stdev(gains) / len(gains) ** 0.5, 7))
    return bounds.index(max(bounds))


def test_the_choice_is_that_of_plain_loops():
    for seed in range(50):
        values = np.random.default_rng(seed).random((5, 30))
        values[1] += 0.1
        assert choose(values) == plain_choice(values.tolist(), range(30))


def test_a_gain_within_its_error_is_no_choice():
    """One query of 40 gains: the gain is its own standard error. Two queries are more than that."""
    values = np.full((3, 40), 0.5)
    values[2, 0] = 1
    assert choose(values) == 0
    values[2, 1] = 1
    assert choose(values) == 2


def test_held_out_values_are_those_of_plain_loops():
    values = np.random.default_rng(3).random((4, 31)) ** [[2], [1.6], [1.8], [1.5]]
    generator = np.random.default_rng(9)
    expected = np.zeros((3, 31))
    chosen = set()
    for repeat in range(3):
        fold = generator.permutation(31) % 5
        for query in range(31):
            setting = plain_choice(values.tolist(), [i for i in range(31) if fold[i] != fold[query]])
            expected[repeat, query] = values[setting, query]
            chosen.add(setting)
    assert len(chosen) > 1
    found = cross_validated(values, folds=5, repeats=3, seed=9)
    assert found == pytest.approx(expected.mean(axis=0))


def test_p_is_the_share_of_draws_where_any_setting_seems_as_good():
    """Against a loop over all signs of 8 queries. 40 more queries are equal."""
    gains = np.zeros((4, 48))
    gains[1:, :8] = np.random.default_rng(1).normal(0.5, 1, (3, 8))
    choice = choose(gains)
    assert choice
    lengths = [max(sum(x * x for x in row) ** 0.5, 1e-12) for row in gains.tolist()]
    reached = sum(gains[choice]) / lengths[choice]
    count = 0
    for signs in np.ndindex(*[2] * 8):
        sums = [sum((2 * s - 1) * x for s, x in zip(signs, row[:8], strict=True)) for row in gains.tolist()]
        count += max(one / length for one, length in zip(sums, lengths, strict=True)) >= reached - 1e-9
    assert expected_gain(gains).p == pytest.approx(count / 2**8, abs=0.015)


def settings_of(kind, generator, queries, settings=23, effect=0.0):
    """Return values of settings that are alike, as the ratios of weights are. All are as good as the first one.

    The gains of a query are as likely to have the opposite sign. With an ``effect``, the last ten settings are better
    by up to this share of the gains' standard deviation.
    """
    line = np.linspace(-1, 1, settings - 1)[:, None]
    tilt, bend, noise = (generator.normal(0, scale, queries) for scale in (1, 0.5, 0.5))
    other = 0.2 * generator.normal(0, 1, (settings - 1, queries))
    gains = line * tilt + line**2 * bend + np.where(line > 0, noise, -noise) + other
    if kind == "reciprocal ranks":
        rank = np.maximum(1, np.round(np.exp(np.abs(generator.normal(0, 1.2, queries)))))
        moved = np.maximum(1, np.round(rank * np.exp(gains)))
        sign = generator.choice([-1, 1], queries)
        gains = (1 / moved - 1 / rank) * np.where(generator.random(queries) < 0.5, sign, 0)
    if kind == "sparse":
        gains = np.sign(gains) * np.where(generator.random(queries) < 8 / queries, generator.random(queries), 0)
    gains += effect * gains.std() * np.clip(np.linspace(-1.2, 1, settings - 1), 0, None)[:, None]
    return np.vstack([np.zeros(queries), gains])


KINDS = ("normal", "reciprocal ranks", "sparse")


def verdicts(kind, queries, draws, effect=0.0):
    """Return how many draws choose a setting, how many call it better, and the mean of gain to expect and claim."""
    chosen = better = 0
    expected, claimed = [], []
    for seed in range(draws):
        values = settings_of(kind, np.random.default_rng(seed), queries, effect=effect)
        found = expected_gain(values, seed=seed, resamples=10, exchanges=400)
        choice = choose(values)
        chosen += choice > 0
        better += found.verdict == "better"
        expected.append(cross_validated(values, seed=seed).mean())
        claimed.append(values[choice].mean())
        assert choice or found.verdict == "noise"
        assert (found.p <= 0.05) == (found.low > 0) or found.mean <= 0
    return chosen / draws, better / draws, float(np.mean(expected)), float(np.mean(claimed))


def check_null(kind, queries, draws):
    chosen, better, expected, claimed = verdicts(kind, queries, draws)
    error = (0.05 * 0.95 / draws) ** 0.5
    assert better <= 0.05 + max(0.01, 2.5 * error)
    # Chance chooses some setting in most cases, and claims a gain. There is none to expect.
    assert chosen > 0.3
    assert abs(expected) < 0.2 * claimed


@pytest.mark.parametrize("queries", [30, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_tune_seldom_calls_a_setting_better_if_all_are_equal(kind, queries):
    check_null(kind, queries, draws=300)


@pytest.mark.slow
@pytest.mark.parametrize("queries", [30, 100, 300, 1_000])
@pytest.mark.parametrize("kind", KINDS)
def test_tune_seldom_calls_a_setting_better_in_many_draws(kind, queries):
    """.05 and .01 for the sample: the standard error of 2,000 draws is .005."""
    check_null(kind, queries, draws=2_000)


@pytest.mark.parametrize("kind", KINDS)
def test_tune_finds_a_real_gain(kind):
    """Settings that are better by up to half a standard deviation, in 100 queries."""
    _, better, expected, claimed = verdicts(kind, 100, draws=100, effect=0.5)
    assert better >= 0.8
    assert 0 < expected < claimed


def test_without_caution_worse_settings_are_chosen_more_often(monkeypatch):
    """Ten settings are a little worse than the current one, and ten much worse. 30 queries choose."""

    def worse():
        count = 0
        for seed in range(200):
            values = settings_of("normal", np.random.default_rng(seed), 30)
            values[1:11] -= 0.1
            values[11:] -= 0.3
            count += choose(values) > 0
        return count / 200

    cautious = worse()
    monkeypatch.setattr(selection, "_CAUTION", 0)
    assert cautious <= 0.7 * worse()


def test_draws_in_blocks_and_equal_seeds_give_the_same():
    values = np.random.default_rng(0).random((6, 50))
    values[4] += 0.3
    assert expected_gain(values) == expected_gain(values)
    assert expected_gain(values, seed=1) != expected_gain(values)
    in_blocks = expected_gain(values, draws_at_once=1_000)
    assert (in_blocks.p, in_blocks.low) == pytest.approx((expected_gain(values).p, expected_gain(values).low), abs=0.01)


def test_a_constant_gain_has_no_error():
    values = np.random.default_rng(0).random((3, 40))
    values[2] = values[0] + 0.25
    found = expected_gain(values)
    assert choose(values) == 2
    assert (found.mean, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))
    assert found.verdict == "better"

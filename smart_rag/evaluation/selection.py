"""Choice of one of several settings by judged queries, and its gain on other queries.

The best of many settings looks better than it is on the queries by which it was chosen. Three things correct this. The
choice takes the error of each mean into account. Cross-validation measures the gain on queries that had no part in the
choice. The p-value comes from the maximum over all settings (Westfall and Young, 1993), so it counts the choice, too.

All functions take the values (n_settings, n_queries) of each setting for each query. The first setting is the current
one. If several settings are equally good, the first one is chosen.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smart_rag.evaluation.differences import CHANCE, DRAWS_AT_ONCE, RESAMPLES, Difference, blocks, intervals

FOLDS = 10
# The folds are drawn this often. With one draw, the gain of few queries depends on the draw.
REPEATS = 10
# A gain counts less by this number of its standard errors. With 0, the choice is often worse than the current setting
# on other queries. docs/tuning.md has the figures.
_CAUTION = 1.0
# Means and bounds that differ only by rounding are equal.
_DECIMALS = 7
_ROUNDING = 1e-9
_EXCHANGES = 10_000


def choose(values: NDArray[np.float64]) -> int:
    """Return the position of the setting whose mean gain over the current one, less its standard error, is largest."""
    return int(_choices(values - values[0], np.ones((values.shape[1], 1)))[0])


def expected_gain(
    values: NDArray[np.float64],
    *,
    folds: int = FOLDS,
    repeats: int = REPEATS,
    resamples: int = RESAMPLES,
    exchanges: int = _EXCHANGES,
    seed: int = 0,
    draws_at_once: int = DRAWS_AT_ONCE,
) -> Difference:
    """Return the gain of the chosen setting over the current one, on other queries.

    The mean is that of `cross_validated` values. The interval and the p-value take into account that the setting was
    chosen among many. If the current setting is chosen, there is no gain, and p is 1.
    """
    gains, choice, queries = values - values[0], choose(values), values.shape[1]
    if not choice:
        return Difference(0.0, 0.0, 0.0, queries, 1.0)
    mean = cross_validated(values, folds=folds, repeats=repeats, seed=seed).mean() - values[0].mean()
    p, low = _p_and_low(gains, choice, exchanges, seed, draws_at_once)
    [(_, high)] = intervals(gains[choice : choice + 1], resamples=resamples, seed=seed, at_once=draws_at_once)
    return Difference(float(mean), min(low, float(mean)), max(high, float(mean)), queries, p)


def cross_validated(
    values: NDArray[np.float64], *, folds: int = FOLDS, repeats: int = REPEATS, seed: int = 0
) -> NDArray[np.float64]:
    """For each query, return the value (n_queries) of the setting that is chosen on the other folds.

    The folds are drawn ``repeats`` times, and the values of a query are averaged.
    """
    count = values.shape[1]
    generator = np.random.default_rng(seed)
    total = np.zeros(count)
    for _ in range(repeats):
        fold = generator.permutation(count) % folds
        choices = _choices(values - values[0], fold[:, None] != np.arange(folds))
        total += values[choices[fold], np.arange(count)]
    return total / repeats


def _choices(gains: NDArray[np.float64], used: NDArray[np.generic]) -> NDArray[np.intp]:
    """Return the choice for each column of ``used`` (n_queries, n_choices), by the queries that are true in it."""
    weight = used.astype(np.float64)
    count = weight.sum(axis=0)
    mean = gains @ weight / count
    variance = np.maximum(gains**2 @ weight / count - mean**2, 0) / np.maximum(count - 1, 1)
    bounds = np.round(mean - _CAUTION * np.sqrt(variance), _DECIMALS)
    return np.asarray(bounds.argmax(axis=0), dtype=np.intp)


def _p_and_low(gains: NDArray[np.float64], choice: int, exchanges: int, seed: int, at_once: int) -> tuple[float, float]:
    """Return the p-value of a choice, and the lower end of the interval of its gain.

    If no setting differs from the current one, the gains of a query are as likely to have the opposite sign. So the
    signs of queries are drawn many times, the same for all settings. p is the share of draws in which any setting
    seems at least as good as the choice. The gain of a setting is divided by its length, so that settings compare.
    """
    length = np.linalg.norm(gains, axis=1)
    unit = gains[length > 0] / length[length > 0, None]
    generator = np.random.default_rng(seed)
    count = gains.shape[1]
    highest = np.concatenate(
        [
            ((2.0 * generator.integers(0, 2, (stop - start, count), dtype=np.int8) - 1) @ unit.T).max(axis=1)
            for start, stop in blocks(exchanges, max(1, at_once // count))
        ]
    )
    reached = float(gains[choice].sum() / length[choice])
    p = (np.count_nonzero(highest >= reached - _ROUNDING) + 1) / (exchanges + 1)
    # p is at most the level if the choice reaches more than this limit. As a limit of t, it gives the end of the
    # interval, so that the interval leaves out 0 just then.
    limit = float(np.sort(highest)[-max(1, int(CHANCE * (exchanges + 1)))]) + _ROUNDING
    t = limit * np.sqrt((count - 1) / max(count - limit**2, 1e-9))
    return float(p), float(gains[choice].mean() - t * gains[choice].std(ddof=1) / np.sqrt(count))

"""Differences between two systems on the same queries: interval, p-value and verdict.

The interval is that of the paired bootstrap. The p-value is that of Fisher's randomization test, which exchanges the
values of the two systems for some of the queries. Smucker, Allan and Carterette (2007) compare such tests for
retrieval. If a table has several differences, their p-values are corrected by Holm's method (1979).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smart_rag.errors import InvalidInput

Verdict = Literal["better", "worse", "noise", "too few queries"]

# With fewer queries, an interval means little, because every resample has nearly the same queries.
FEWEST_QUERIES = 30
# A difference is better or worse if chance gives one as large in at most this share of the cases.
CHANCE = 0.05
RESAMPLES = 10_000
_EXCHANGES = 20_000
# If at most this number of queries differ, all exchanges are tried.
_FEW = 16
_LEVEL = 0.95
DRAWS_AT_ONCE = 1 << 21


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean difference over ``queries`` queries, with the two ends of its 95 % interval.

    Attributes:
        p: how often chance alone would give a mean at least as far from 0, if both systems were equal.
    """

    mean: float
    low: float
    high: float
    queries: int
    p: float

    @property
    def verdict(self) -> Verdict:
        """Whether the first system is better or worse than the second. If ``p`` is above .05, it is ``noise``."""
        if self.queries < FEWEST_QUERIES:
            return "too few queries"
        if self.p > CHANCE:
            return "noise"
        return "better" if self.mean > 0 else "worse"

    def as_json(self, measure: str) -> dict[str, Any]:
        """Return the difference as JSON values. The mean has the key ``measure``."""
        return {measure: self.mean, "low": self.low, "high": self.high, "p": self.p, "verdict": self.verdict}


def difference(
    first: ArrayLike,
    second: ArrayLike,
    *,
    resamples: int = RESAMPLES,
    exchanges: int = _EXCHANGES,
    level: float = _LEVEL,
    seed: int = 0,
    draws_at_once: int = DRAWS_AT_ONCE,
) -> Difference:
    """Return the mean of ``first - second``, the interval of this mean, and its p-value.

    ``first`` and ``second`` hold one value for each query (n). A resample draws n queries with replacement. For each
    drawn query, both of its values are used. An exchange swaps the two values of about half of the queries, which
    changes the sign of their difference. If few queries differ, all exchanges are tried. To limit the memory, at most
    ``draws_at_once`` queries are drawn at a time.

    Raises:
        InvalidInput: ``first - second`` is empty or not one-dimensional.

    >>> difference([0.5, 1.0] * 20, [0.5, 0.0] * 20).mean
    0.5
    """
    differences = np.subtract(first, second, dtype=np.float64)
    if differences.ndim != 1 or not len(differences):
        raise InvalidInput(f"expected one value for each query, got an array of shape {differences.shape}")
    [(low, high)] = intervals(differences[None], resamples=resamples, level=level, seed=seed, at_once=draws_at_once)
    return Difference(
        float(differences.mean()), low, high, len(differences), _p(differences, exchanges, seed, draws_at_once)
    )


def intervals(
    values: NDArray[np.float64],
    *,
    resamples: int = RESAMPLES,
    level: float = _LEVEL,
    seed: int = 0,
    at_once: int = DRAWS_AT_ONCE,
) -> list[tuple[float, float]]:
    """Return the interval of the mean of each row of ``values`` (k, n), from resamples of the columns."""
    count = values.shape[1]
    generator = np.random.default_rng(seed)
    means = np.empty((len(values), resamples))
    for start, stop in blocks(resamples, max(1, at_once // count)):
        drawn = generator.integers(0, count, (stop - start, count), dtype=np.int32)
        for row, of_row in enumerate(values):
            means[row, start:stop] = of_row[drawn].mean(axis=1)
    ends = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=1)
    return [(float(low), float(high)) for low, high in ends.T]


def corrected(differences: Mapping[str, Difference]) -> dict[str, Difference]:
    """Return the differences of one table with their p-values corrected by Holm's method.

    The smallest of k p-values is multiplied by k, the next one by k - 1, and so on. Then the chance that any verdict of
    the table is wrong is at most .05. Differences of which no query has one do not count among the k, because they can
    never be a wrong verdict (Tarone, 1990, "A modified Bonferroni method for discrete data").
    """
    found = dict(differences)
    compared = [name for name, of in found.items() if (of.mean, of.low, of.high) != (0, 0, 0)]
    highest = 0.0
    for rank, name in enumerate(sorted(compared, key=lambda name: found[name].p)):
        highest = max(highest, min(1.0, (len(compared) - rank) * found[name].p))
        found[name] = replace(found[name], p=highest)
    return found


def _p(differences: NDArray[np.float64], exchanges: int, seed: int, at_once: int) -> float:
    """Return the share of exchanges whose mean is at least as far from 0 as that of ``differences``."""
    changed = differences[differences != 0]
    if not len(changed):
        return 1.0
    # Sums that differ only by rounding are equal.
    least = abs(changed.sum()) - 1e-9 * np.abs(changed).sum()
    if len(changed) <= _FEW:
        sums = np.zeros(1)
        for value in changed:
            sums = np.concatenate([sums - value, sums + value])
        return float(np.mean(np.abs(sums) >= least))
    generator = np.random.default_rng(seed)
    reached = 0
    for start, stop in blocks(exchanges, max(1, at_once // len(changed))):
        signs = 2.0 * generator.integers(0, 2, (stop - start, len(changed)), dtype=np.int8) - 1
        reached += int(np.count_nonzero(np.abs(signs @ changed) >= least))
    # The differences as they are count as one of the exchanges, so that p is never 0.
    return (reached + 1) / (exchanges + 1)


def blocks(count: int, step: int) -> Iterator[tuple[int, int]]:
    """Yield the starts and ends of blocks of ``step`` that cover ``count``."""
    return ((start, min(start + step, count)) for start in range(0, count, step))

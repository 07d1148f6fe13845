"""Paired bootstrap over queries: the interval of the mean difference between two systems.

Smucker, Allan and Carterette (2007) compare such tests for retrieval. This module computes an interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from smart_rag.errors import InvalidInput

Verdict = Literal["better", "worse", "noise", "too few queries"]

# With fewer queries, an interval means little, because every resample has nearly the same queries.
FEWEST_QUERIES = 30
_RESAMPLES = 10_000
_LEVEL = 0.95
_DRAWS_AT_ONCE = 1 << 21


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean difference over ``queries`` queries, with the two ends of its 95 % interval."""

    mean: float
    low: float
    high: float
    queries: int

    @property
    def verdict(self) -> Verdict:
        """Whether the first system is better or worse than the second. If the interval contains 0, it is ``noise``."""
        if self.queries < FEWEST_QUERIES:
            return "too few queries"
        if self.low <= 0 <= self.high:
            return "noise"
        return "better" if self.low > 0 else "worse"

    def as_json(self, measure: str) -> dict[str, Any]:
        """Return the difference as JSON values. The mean has the key ``measure``."""
        return {measure: self.mean, "low": self.low, "high": self.high, "verdict": self.verdict}


def difference(
    first: ArrayLike,
    second: ArrayLike,
    *,
    resamples: int = _RESAMPLES,
    level: float = _LEVEL,
    seed: int = 0,
    draws_at_once: int = _DRAWS_AT_ONCE,
) -> Difference:
    """Return the mean of ``first - second``, and the interval of this mean, from percentiles of resamples.

    ``first`` and ``second`` hold one value for each query (n). A resample draws n queries with replacement. For each
    drawn query, both of its values are used. To limit the memory, at most ``draws_at_once`` queries are drawn at a
    time.

    Raises:
        InvalidInput: ``first - second`` is empty or not one-dimensional.

    >>> difference([0.5, 1.0] * 20, [0.5, 0.0] * 20).mean
    0.5
    """
    differences = np.subtract(first, second, dtype=np.float64)
    if differences.ndim != 1 or not len(differences):
        raise InvalidInput(f"expected one value for each query, got an array of shape {differences.shape}")
    count = len(differences)
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, draws_at_once // count)
    for start in range(0, resamples, step):
        drawn = generator.integers(0, count, (min(step, resamples - start), count), dtype=np.int32)
        means[start : start + step] = differences[drawn].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Difference(float(differences.mean()), float(low), float(high), count)

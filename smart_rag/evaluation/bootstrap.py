"""How much of a difference between two systems is chance: the paired bootstrap over queries.

Smucker, Allan and Carterette (2007) compare such tests for retrieval; this one gives an interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from smart_rag.errors import InvalidInput

Verdict = Literal["better", "worse", "noise", "too few queries"]

# Of fewer queries an interval says little: resampled, they are too much like themselves.
FEWEST_QUERIES = 30
_RESAMPLES = 10_000
_LEVEL = 0.95
_BLOCK = 1 << 21  # queries drawn at once


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean difference over ``queries``, and the bounds of its 95 % interval."""

    mean: float
    low: float
    high: float
    queries: int

    @property
    def verdict(self) -> Verdict:
        """Whether the first system is better than the second, or worse, or one cannot tell: zero is in the interval."""
        if self.queries < FEWEST_QUERIES:
            return "too few queries"
        if self.low <= 0 <= self.high:
            return "noise"
        return "better" if self.low > 0 else "worse"

    def as_json(self, measure: str) -> dict[str, Any]:
        """Return the difference in ``measure`` as JSON values."""
        return {measure: self.mean, "low": self.low, "high": self.high, "verdict": self.verdict}


def difference(
    first: ArrayLike, second: ArrayLike, *, resamples: int = _RESAMPLES, level: float = _LEVEL, seed: int = 0
) -> Difference:
    """Return the mean of ``first - second``, one value of each for every query (n), with a percentile interval.

    Queries are drawn with replacement, n each time, and both values of a query stay together.

    >>> difference([0.5, 1.0] * 20, [0.5, 0.0] * 20).mean
    0.5
    """
    differences = np.subtract(first, second, dtype=np.float64)
    if differences.ndim != 1 or not len(differences):
        raise InvalidInput(f"expected one value for each query, got an array of shape {differences.shape}")
    count = len(differences)
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, _BLOCK // count)
    for start in range(0, resamples, step):
        drawn = generator.integers(0, count, (min(step, resamples - start), count), dtype=np.int32)
        means[start : start + step] = differences[drawn].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Difference(float(differences.mean()), float(low), float(high), count)

"""`Scale`: turns the score of a hit into its relevance, from 0 to 1, by the scores of foreign questions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

# The share of foreign questions whose best hit has a relevance below .5.
_BELOW_HALF = 95
# log-odds of the relevance .05, which the best hit of a usual foreign question gets.
_LOG_ODDS = math.log(19)


@dataclass(frozen=True, slots=True)
class Scale:
    """The relation of scores to relevance in one index.

    Foreign questions are questions that the index does not answer. The relevance is a logistic function of the score.
    It is .05 at ``median`` and .5 at ``half``.

    Attributes:
        median: the median score of the best hits of foreign questions.
        half: the score with a relevance of .5: their 95th percentile, unless labelled queries gave a better one.
    """

    median: float
    half: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.median) and math.isfinite(self.half) and self.median <= self.half):
            raise ValueError(f"expected finite numbers, median <= half; got {self.median} and {self.half}")

    @classmethod
    def of(cls, foreign: Sequence[float]) -> Scale:
        """Return the scale for the scores of the best hits of ``foreign`` questions, at least one."""
        median, half = np.percentile(np.asarray(foreign, dtype=np.float64), [50, _BELOW_HALF]).tolist()
        return cls(median, half)

    @classmethod
    def fit(cls, foreign: Sequence[float], relevant: Sequence[float]) -> Scale:
        """Return the scale on which .5 separates ``foreign`` from ``relevant`` scores best.

        The share of relevant scores below .5 and the share of foreign scores from .5 on have the smallest sum. Of
        equally good scores, the one nearest to that of `of` is taken.
        """
        known = cls.of(foreign)
        low, high = np.sort(foreign), np.sort(relevant)
        middles = np.unique(np.concatenate([low, high, [known.half]]))
        lost = np.searchsorted(high, middles, side="left") / len(high)
        passed = 1 - np.searchsorted(low, middles, side="left") / len(low)
        best = middles[np.isclose(lost + passed, (lost + passed).min())]
        half = float(best[np.abs(best - known.half).argmin()])
        return cls(known.median if half > known.median else half - (known.half - known.median), half)

    def relevance(self, score: float) -> float:
        """Return the relevance of a hit with this ``score``; it grows with the score."""
        spread = max(self.half - self.median, 1e-6)  # an index of one document gives every question nearly one score
        odds = _LOG_ODDS * (score - self.half) / spread
        return 1 / (1 + math.exp(-odds)) if odds > -700 else 0.0


@cache
def foreign_questions() -> Sequence[str]:
    """Return the questions that no index answers."""
    text = Path(__file__).with_name("foreign_questions.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())

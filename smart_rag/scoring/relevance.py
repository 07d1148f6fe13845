"""`Scale`: turns the score of a hit into its relevance, from 0 to 1. The scores of foreign questions set the scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# The percentage of foreign questions whose best hit has a relevance below .5.
BELOW_HALF = 95
# Log-odds of .95. At the median of the foreign scores, they are negative, which gives the relevance .05.
_LOG_ODDS = math.log(19)


@dataclass(frozen=True, slots=True)
class Scale:
    """The relation of scores to relevance in one index.

    Foreign questions are questions that the index does not answer. The relevance is a logistic function of the score.
    It is .05 at ``median`` and .5 at ``half``.

    Attributes:
        median: the median score of the best hits of foreign questions.
        half: the score that has the relevance .5. Usually, this is the 95th percentile of the same scores whose median
            is ``median``. With labelled queries, `fit` finds a better value.
    """

    median: float
    half: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.median) and math.isfinite(self.half) and self.median <= self.half):
            raise ValueError(f"expected finite numbers, median <= half; got {self.median} and {self.half}")

    @classmethod
    def of(cls, foreign: Sequence[float]) -> Scale:
        """Return the scale for ``foreign``: scores of the best hits of foreign questions. At least one is needed."""
        median, half = np.percentile(np.asarray(foreign, dtype=np.float64), [50, BELOW_HALF]).tolist()
        return cls(median, half)

    @classmethod
    def fit(cls, foreign: Sequence[float], relevant: Sequence[float]) -> Scale:
        """Return the scale on which .5 best separates ``foreign`` scores from ``relevant`` scores.

        Some relevant hits get a relevance below .5, and some foreign hits get .5 or more. The score with the relevance
        .5 is chosen to make these errors rare: the share of such relevant hits plus the share of such foreign hits is
        as small as possible. If several scores are equally good, the one nearest to ``Scale.of(foreign).half`` is
        taken.
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
        """Return the relevance of a hit with this ``score``. It grows with the score."""
        spread = max(self.half - self.median, 1e-6)  # with one document, all questions have nearly the same score
        odds = _LOG_ODDS * (score - self.half) / spread
        return 1 / (1 + math.exp(-odds)) if odds > -700 else 0.0

"""`Scale`: the relevance of a score by the scores of foreign questions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smart_rag.scoring.relevance import Scale

SCORES = st.floats(-3, 3)


def test_half_is_reached_by_one_foreign_question_in_twenty():
    foreign = np.random.default_rng(0).normal(1, 0.2, 1000)
    scale = Scale.of(foreign)
    relevances = [scale.relevance(score) for score in foreign]
    assert np.mean(np.asarray(relevances) >= 0.5) == pytest.approx(0.05, abs=0.002)
    assert scale.relevance(scale.half) == 0.5
    assert scale.relevance(scale.median) == pytest.approx(0.05)
    assert scale.relevance(scale.half + 2 * (scale.half - scale.median)) == pytest.approx(1 / (1 + 19**-2))


@given(st.lists(SCORES, min_size=1, max_size=50), SCORES, SCORES)
def test_it_grows_with_the_score_and_stays_in_its_range(foreign, one, other):
    scale = Scale.of(foreign)
    low, high = sorted([one, other])
    assert 0 <= scale.relevance(low) <= scale.relevance(high) <= 1
    assert not math.isnan(scale.relevance(low))


@given(st.lists(SCORES, min_size=1, max_size=30), st.lists(SCORES, min_size=1, max_size=30))
def test_labels_separate_as_well_as_any_threshold(foreign, relevant):
    """The reference tries every threshold in a plain loop."""
    half = Scale.fit(foreign, relevant).half

    def mistakes(threshold):
        lost = sum(score < threshold for score in relevant) / len(relevant)
        return lost + sum(score >= threshold for score in foreign) / len(foreign)

    assert mistakes(half) <= min(mistakes(threshold) for threshold in [*foreign, *relevant, 4]) + 1e-9

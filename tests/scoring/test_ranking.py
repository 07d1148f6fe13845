"""Hybrid scores and rankings against plain loops."""

import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smart_rag.config import check_weights
from smart_rag.errors import InvalidInput
from smart_rag.scoring import ranking


def test_hybrid_equals_the_loop():
    """The hybrid score is the weighted sum, in float32."""
    rng = np.random.default_rng(0)
    pooled, late = rng.uniform(-1, 1, (2, 3, 4)).astype(np.float32)
    scores = ranking.hybrid(pooled, late, (0.25, 1.5))
    assert scores.dtype == np.float32
    for i in range(3):
        for j in range(4):
            assert scores[i, j] == pytest.approx(0.25 * float(pooled[i, j]) + 1.5 * float(late[i, j]), abs=1e-5)


@pytest.mark.parametrize(
    "weights",
    [(0, 0), (-1, 1), (1, -0.5), (1,), (), (1, 2, 3), (float("nan"), 1), (1, float("inf"))],
)
def test_weights_that_cannot_be_used(weights):
    """Weights that give no ranking are refused, and shown."""
    with pytest.raises(InvalidInput, match=r"weights must be two numbers .*" + re.escape(f"got {weights!r}")):
        check_weights(weights)


@pytest.mark.parametrize("weights", ["ab", (None, 1), 1.0, None, ([1], 2)])
def test_weights_that_are_no_numbers(weights):
    """What is not two numbers is refused like any other bad weights."""
    with pytest.raises(InvalidInput, match="weights must be two numbers"):
        check_weights(weights)


@pytest.mark.parametrize("weights", [(1, 0), (0, 2.5), [1, 1], np.float32([0.5, 1])])
def test_weights_that_can_be_used(weights):
    """Good weights come back as a tuple of floats."""
    checked = check_weights(weights)
    assert checked == tuple(weights)
    assert [type(value) for value in checked] == [float, float]


@st.composite
def scored(draw, **kwargs):
    """Scores on a coarse grid with float32 noise on top, and distinct ids in no order."""
    steps = draw(st.lists(st.integers(-8, 8), **kwargs))
    noise = draw(st.lists(st.sampled_from([-1e-7, 0, 1e-7]), min_size=len(steps), max_size=len(steps)))
    scores = np.array([step / 8 + extra for step, extra in zip(steps, noise, strict=True)], dtype=np.float32)
    ids = draw(st.permutations([f"d{i}" for i in range(len(steps))]))
    return scores, ids


def plain_ranking(scores, ids, top_k):
    return sorted(range(len(ids)), key=lambda i: (-round(float(scores[i]) * 8) / 8, ids[i]))[:top_k]


@settings(max_examples=150, deadline=None)
@given(scored(max_size=30), st.integers(1, 40))
def test_ranking_equals_a_plain_sort(scored, top_k):
    """Best first, ties by id, at most top_k and at most as many as there are."""
    scores, ids = scored
    assert ranking.ranking(scores, ids, top_k) == plain_ranking(scores, ids, top_k)


def test_ranking_of_ties_and_near_ties():
    """Float32 noise makes no order, six decimals do; top_k may exceed the number of documents."""
    scores = np.float32([0.5, 0.50000006, 0.500002, 0.4])
    assert ranking.ranking(scores, ["b", "c", "z", "a"], 10) == [2, 0, 1, 3]
    assert ranking.ranking(scores, ["c", "b", "z", "a"], 2) == [2, 1]
    assert ranking.ranking(np.float32([]), [], 3) == []


@settings(max_examples=100, deadline=None)
@given(scored(min_size=1, max_size=30), st.integers(1, 12), st.lists(st.integers(0, 30)), st.randoms())
def test_leaders_of_blocks_are_leaders_of_the_whole(scored, top_k, cuts, random):
    """Blocks of any size in any order leave what one ranking of everything picks."""
    pooled, ids = scored
    late = np.random.default_rng(len(ids)).integers(-4, 5, len(ids)).astype(np.float32) / 8
    weights = (1.0, 0.5)
    bounds = sorted({0, len(ids), *(cut for cut in cuts if cut < len(ids))})
    blocks = [slice(start, stop) for start, stop in pairwise(bounds)]
    random.shuffle(blocks)
    leaders = ranking.Leaders(top_k)
    for block in blocks:
        leaders.offer(ids[block], pooled[block], late[block], weights)
    best = ranking.ranking(ranking.hybrid(pooled, late, weights), ids, top_k)
    assert leaders.ids == [ids[i] for i in best]
    np.testing.assert_array_equal(leaders.pooled, pooled[best])
    np.testing.assert_array_equal(leaders.late, late[best])

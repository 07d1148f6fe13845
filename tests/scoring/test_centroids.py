"""Centroids against plain loops."""

import numpy as np
import pytest
from helpers.ragged import dot, unit_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from smart_rag.scoring import centroids as module
from smart_rag.scoring.centroids import TOKENS_OF_EACH, learned, merged, nearest, probes


def looped_centroids(tokens, count):
    """Spherical k-means with one vector at a time, from the same first centroids."""
    generator = np.random.default_rng(0)
    centroids = [tokens[i].astype(np.float64) for i in generator.choice(len(tokens), count, replace=False)]
    for _ in range(4):
        members = [[] for _ in centroids]
        for token in tokens.astype(np.float64):
            members[int(np.argmax([dot(token, centroid) for centroid in centroids]))].append(token)
        for i, own in enumerate(members):
            assert own, "choose other tokens, so that no centroid is empty"
            total = np.sum(own, axis=0)
            centroids[i] = total / np.sqrt(dot(total, total))
    return np.array(centroids)


@pytest.mark.parametrize("columns", [1, 4, 128])
def test_learned_centroids_equal_those_of_loops(monkeypatch, columns):
    monkeypatch.setattr(module, "_COLUMNS", columns)
    rng = np.random.default_rng(1)
    tokens = np.concatenate([unit_rows(rng, 1, 6) + 0.2 * unit_rows(rng, 32, 6) for _ in range(4)])
    tokens = (tokens / np.linalg.norm(tokens, axis=1, keepdims=True)).astype(np.float32)
    found = learned(tokens)
    assert found.dtype == np.float32
    assert found == pytest.approx(looped_centroids(tokens, 8), abs=1e-3)
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(8), abs=1e-3)
    assert np.array_equal(found, learned(tokens))


@pytest.mark.parametrize(
    ("tokens", "count"),
    [
        (np.float32([[0, 1]]), 1),
        (np.float32([[0.6, 0.8]] * 40), 2),  # all equal, so a centroid stays empty
        (np.float32([[1, 0], [-1, 0]] * 8), 1),  # their sum is zero
        (unit_rows(np.random.default_rng(0), 5 * TOKENS_OF_EACH - 1, 3), 4),
        (unit_rows(np.random.default_rng(0), 5 * TOKENS_OF_EACH, 3).astype(np.float16), 5),
    ],
)
def test_odd_tokens(tokens, count):
    """Every centroid has norm 1, and there is one for each 16 tokens, but at least one."""
    found = learned(tokens)
    assert found.shape == (count, tokens.shape[1])
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(count), abs=1e-3)


def test_there_are_at_most_so_many(monkeypatch):
    monkeypatch.setattr(module, "MOST_CENTROIDS", 3)
    assert len(learned(unit_rows(np.random.default_rng(0), 200, 4))) == 3


@st.composite
def vectors(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dimension = draw(st.sampled_from([1, 2, 24]))
    kind = draw(st.sampled_from([np.float32, np.float16]))
    return unit_rows(rng, draw(st.integers(0, 9)), dimension, kind), unit_rows(rng, draw(st.integers(1, 7)), dimension)


@settings(max_examples=60, deadline=None)
@given(vectors(), st.integers(1, 8), st.sampled_from([1, 10, 1 << 20]))
def test_nearest_and_probes_equal_loops(given_vectors, count, at_once):
    """Whatever is computed at once. Where two are equally near up to rounding, either may come."""
    tokens, centroids = given_vectors
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_AT_ONCE", at_once)
        found = nearest(tokens, centroids)
        numbers, cosines = probes(tokens, centroids, count)
    assert found.shape == (len(tokens),)
    assert numbers.shape == cosines.shape == (len(tokens), min(count, len(centroids)))
    for i, token in enumerate(tokens.astype(np.float64)):
        expected = [dot(token, centroid) for centroid in centroids.astype(np.float64)]
        assert expected[found[i]] == pytest.approx(max(expected), abs=1e-5)
        assert cosines[i].tolist() == pytest.approx(sorted(expected)[-numbers.shape[1] :], abs=1e-5)
        assert [expected[k] for k in numbers[i]] == pytest.approx(cosines[i].tolist(), abs=1e-5)
        assert len(set(numbers[i].tolist())) == numbers.shape[1]


@settings(max_examples=60, deadline=None)
@given(vectors(), st.integers(1, 10), st.integers(0, 2**32))
def test_merged_equals_loops(given_vectors, most, seed):
    """Tokens with the same centroid are one, the heaviest first. Few tokens stay as they are."""
    tokens, centroids = given_vectors
    weights = np.random.default_rng(seed).uniform(0.5, 2, len(tokens)).astype(np.float32)
    found, heavy = merged(tokens, weights, centroids, most)
    assert len(found) == len(heavy) <= most
    if len(tokens) <= most:
        assert found is tokens
        assert heavy is weights
        return
    sums, total = {}, {}
    for token, weight, label in zip(tokens, weights, nearest(tokens, centroids).tolist(), strict=True):
        sums[label] = sums.get(label, 0) + weight * token.astype(np.float64)
        total[label] = total.get(label, 0) + float(weight)
    order = sorted(total, key=lambda label: -total[label])[:most]
    assert heavy.tolist() == pytest.approx([total[label] for label in order], rel=1e-5)
    for row, label in zip(found, order, strict=True):
        norm = np.linalg.norm(sums[label])
        if norm > 1e-2:
            assert row == pytest.approx(sums[label] / norm, abs=1e-2 if tokens.dtype == np.float16 else 1e-4)

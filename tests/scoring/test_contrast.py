"""`contrast`: the weights that candidates give the tokens of a query, against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers.ragged import batch, dot, ragged_pairs
from hypothesis import given, settings
from hypothesis import strategies as st

from smart_rag.errors import DimensionMismatch
from smart_rag.scoring import maxsim


def loop_contrast(query, candidates, frequencies=None, documents=0):
    """Return the weight of each token by its definition, in Python's own floats."""
    weights = []
    power = min(max(1 + math.log2(len(query) / 16), 1), 2)
    for i, q in enumerate(query.astype(np.float64).tolist()):
        best = [max(dot(q, d) for d in tokens.astype(np.float64).tolist()) for tokens in candidates]
        weight = max(max(best) - sum(best) / len(best), 0.001) ** power
        if frequencies is not None:
            weight *= math.log(1 + documents / max(frequencies[i], 1, 0.02 * documents))
        weights.append(weight)
    return weights


def loop_late(query, document, weights):
    best = [max(dot(q, d) for d in document.astype(np.float64).tolist()) for q in query.astype(np.float64).tolist()]
    return sum(weight * cosine for weight, cosine in zip(weights, best, strict=True)) / sum(weights)


@settings(max_examples=40, deadline=None)
@given(pair=ragged_pairs(), documents=st.integers(1, 1000), seed=st.integers(0, 99))
def test_weights_and_scores_equal_the_loops(pair, documents, seed):
    queries, candidates = pair
    highest = maxsim.highest_cosines(queries, candidates)
    assert highest.shape == (len(queries.embeddings), len(candidates))
    for i, query in enumerate(queries):
        rows = slice(*queries.offsets[[i, i + 1]])
        frequencies = np.random.default_rng(seed).integers(0, documents + 1, len(query))
        rarity = maxsim.inverse_document_frequency(frequencies, documents)
        found = maxsim.contrast(highest[rows], rarity)
        expected = loop_contrast(query, candidates, frequencies.tolist(), documents)
        assert found.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-5)
        assert maxsim.contrast(highest[rows]).tolist() == pytest.approx(
            loop_contrast(query, candidates), rel=1e-3, abs=1e-5
        )
        late = maxsim.late_interaction(queries.slice(i, i + 1), candidates, "cpu", found)[0]
        for score, document in zip(late.tolist(), candidates, strict=True):
            assert score == pytest.approx(loop_late(query, document, found.tolist()), abs=1e-4)


@pytest.mark.parametrize(("length", "power"), [(1, 1), (16, 1), (23, 1 + math.log2(23 / 16)), (32, 2), (500, 2)])
def test_long_queries_have_a_greater_power(length, power):
    highest = np.zeros((length, 2), dtype=np.float32)
    highest[0, 0] = 0.5
    found = maxsim.contrast(highest)
    assert found[0] == pytest.approx(0.25**power)
    assert found[1:].tolist() == pytest.approx([0.001**power] * (length - 1))


def test_rare_tokens_count_at_most_as_much_as_a_token_in_a_fiftieth_of_the_documents():
    highest = np.float32([[0.5, 0.1]] * 3)
    rarity = maxsim.inverse_document_frequency(np.array([1, 20, 1000]), 1000)
    assert maxsim.contrast(highest, rarity).tolist() == pytest.approx(
        [0.2 * math.log(51), 0.2 * math.log(51), 0.2 * math.log(2)]
    )


def test_candidates_that_do_not_differ_leave_the_rarity():
    rarity = np.float32([1, 3])
    for highest in (np.empty((2, 0), dtype=np.float32), np.float32([[0.7], [0.2]]), np.full((2, 5), 0.5)):
        assert maxsim.contrast(highest, rarity).tolist() == pytest.approx([0.001, 0.003])


def test_token_dimension_mismatch():
    rng = np.random.default_rng(0)
    with pytest.raises(DimensionMismatch, match="3 dimensions"):
        maxsim.highest_cosines(batch(rng, [2], 3), batch(rng, [2], 4))

"""`pool_tokens` against Ward's clustering by plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage

from smart_rag.embeddings.token_pooling import pool_tokens
from smart_rag.embeddings.tokens import TokenBatch


def unit_rows(n, dimension, seed=0, dtype=np.float32):
    rows = np.random.default_rng(seed).standard_normal((n, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(dtype)


def pool_one(matrix, factor):
    return pool_tokens(TokenBatch.from_list([np.asarray(matrix)]), factor)[0]


def plain_ward(rows, clusters):
    """Merge, again and again, the two clusters whose union least increases the squared distances from the means."""
    groups = [[i] for i in range(len(rows))]

    def mean(group):
        return [sum(rows[i][k] for i in group) / len(group) for k in range(len(rows[0]))]

    def cost(a, b):
        distance = sum((x - y) ** 2 for x, y in zip(mean(a), mean(b), strict=True))
        return len(a) * len(b) / (len(a) + len(b)) * distance

    while len(groups) > clusters:
        pairs = [(i, j) for j in range(len(groups)) for i in range(j)]
        i, j = min(pairs, key=lambda pair: cost(groups[pair[0]], groups[pair[1]]))
        groups[i] += groups.pop(j)
    return [sorted(group) for group in groups]


def plain_means(rows, groups):
    """Return the normalised mean of each group, in the order of their first members."""
    means = []
    for group in sorted(groups, key=min):
        total = [sum(rows[i][k] for i in group) for k in range(len(rows[0]))]
        norm = math.sqrt(sum(value * value for value in total))
        means.append([value / norm for value in total])
    return means


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=4),
    st.integers(2, 4),
    st.sampled_from([2, 5, 24]),
    st.sampled_from([np.float32, np.float16]),
    st.integers(0, 2**32),
)
def test_pooled_tokens_are_those_of_plain_loops(lengths, factor, dimension, dtype, seed):
    """Each text has the right number of embeddings: normalised means of Ward's clusters, in the order of the text."""
    texts = [unit_rows(n, dimension, seed + i, dtype) for i, n in enumerate(lengths)]
    pooled = pool_tokens(TokenBatch.from_list(texts), factor)
    assert len(pooled) == len(texts)
    for text, found in zip(texts, pooled, strict=True):
        clusters = math.ceil(len(text) / factor)
        assert found.shape == (clusters, dimension)
        if clusters == len(text):  # one token, which is as it was
            np.testing.assert_array_equal(found, text)
            continue
        rows = text.astype(float).tolist()
        np.testing.assert_allclose(found, plain_means(rows, plain_ward(rows, clusters)), atol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_clusters_are_scipys(factor):
    """For a text as long as a passage, the clusters are those of scipy."""
    matrix = unit_rows(200, 96)
    clusters = -(-200 // factor)
    labels = fcluster(linkage(matrix.astype(np.float64), "ward"), clusters, "maxclust")
    groups = [np.flatnonzero(labels == label).tolist() for label in set(labels.tolist())]
    assert len(groups) == clusters
    np.testing.assert_allclose(pool_one(matrix, factor), plain_means(matrix.astype(float).tolist(), groups), atol=1e-5)


def test_factor_one_changes_nothing():
    """The same object comes back."""
    tokens = TokenBatch.from_list([unit_rows(5, 8), unit_rows(1, 8)])
    assert pool_tokens(tokens, 1) is tokens


def test_no_texts():
    """There is nothing to pool."""
    none = TokenBatch(np.zeros((0, 8), np.float32), np.zeros(1, np.int64))
    assert pool_tokens(none, 2) is none


def test_it_is_deterministic_and_leaves_the_input_alone():
    """Two calls return the same, and the caller's array does not change."""
    tokens = TokenBatch.from_list([unit_rows(50, 24)])
    before = tokens.embeddings.copy()
    first, second = pool_tokens(tokens, 2), pool_tokens(tokens, 2)
    np.testing.assert_array_equal(first.embeddings, second.embeddings)
    np.testing.assert_array_equal(tokens.embeddings, before)


def test_a_text_does_not_depend_on_its_companions():
    """Tokens of different texts are never pooled, also if two texts are equal."""
    texts = [unit_rows(n, 8, seed) for n, seed in ((7, 1), (7, 1), (2, 2), (1, 3))]
    together = pool_tokens(TokenBatch.from_list(texts), 3)
    assert np.diff(together.offsets).tolist() == [3, 3, 1, 1]
    for text, found in zip(texts, together, strict=True):
        np.testing.assert_array_equal(found, pool_one(text, 3))


@pytest.mark.parametrize("count", [2, 5, 6, 9])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_identical_tokens(count, factor):
    """They stay as they are, and their number is that of any other tokens."""
    row = unit_rows(1, 8)
    pooled = pool_one(np.repeat(row, count, axis=0), factor)
    np.testing.assert_allclose(pooled, np.repeat(row, -(-count // factor), axis=0), atol=1e-6)


@pytest.mark.parametrize("count", [4, 6, 9, 16])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_tokens_all_equally_far_apart(count, factor):
    """Where all distances are equal, their number is that of any other tokens."""
    pooled = pool_one(np.eye(count, dtype=np.float32), factor)
    assert pooled.shape == (-(-count // factor), count)
    assert (np.count_nonzero(pooled, axis=0) == 1).all()


def test_opposite_tokens():
    """Where the mean is zero, the first token is used."""
    row = unit_rows(1, 8)
    np.testing.assert_array_equal(pool_one(np.concatenate([row, -row]), 2), row)
    np.testing.assert_array_equal(pool_one(np.concatenate([-row, row]), 2), -row)


def test_duplicates_are_merged_first():
    """Every token comes twice: pooled by two, nothing is lost."""
    rows = unit_rows(10, 24)
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 2))
    pooled = pool_one(rows[order], 2)
    np.testing.assert_allclose(pooled, rows[list(dict.fromkeys(order.tolist()))], atol=1e-5)

"""Centroids of token embeddings: an index of tokens that have no vocabulary ids, such as the patches of a page.

A *codebook* is a set of centroids. Each token of a document is assigned to its nearest centroid, and the numbers of
these centroids are the terms of the document. A token of a query is compared with all centroids. A document that has
one of the nearest centroids has a token near to the query's token. So the posting lists of a few centroids find the
documents with a high late interaction, and no token of a document is read. PLAID (Santhanam et al., 2022, arXiv
2205.09707) and WARP (Scheerer et al., 2025, arXiv 2501.17788) find their candidates in this way.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from smart_rag.embeddings.multiply import multiply
from smart_rag.embeddings.tokens import FloatArray

Centroids = NDArray[np.float32]

# Most centroids of a codebook, and tokens that each centroid is learned from. With a quarter of the centroids, a search
# finds .04 less of the best 10 documents of NFCorpus. With four times as many, it finds .02 more, but it takes four
# times as long to learn them and to assign a token.
MOST_CENTROIDS = 4096
TOKENS_OF_EACH = 16
# Rounds of k-means. Each round changes less than the one before.
_ROUNDS = 4
_SEED = 0
# Number of similarities that are computed at once. They stay in the cache of the CPU.
_AT_ONCE = 1 << 20
_COLUMNS = 128


def learned(tokens: FloatArray) -> Centroids:
    """Return centroids (k, dimension) float32 of ``tokens`` (n, dimension), which are L2-normalised. n is at least 1.

    k is n / `TOKENS_OF_EACH`, from 1 to `MOST_CENTROIDS`. The centroids are L2-normalised. They come from spherical
    k-means (Dhillon and Modha, 2001). The same tokens give the same centroids, except for rounding errors of the CPU.
    """
    count = min(MOST_CENTROIDS, max(1, len(tokens) // TOKENS_OF_EACH))
    generator = np.random.default_rng(_SEED)
    tokens = np.asarray(tokens, dtype=np.float32)
    centroids = tokens[generator.choice(len(tokens), count, replace=False)]
    for _ in range(_ROUNDS):
        labels = nearest(tokens, centroids)
        sizes = np.bincount(labels, minlength=count)
        found = np.flatnonzero(sizes)
        starts = np.cumsum(sizes)[found] - sizes[found]
        order = np.argsort(labels, kind="stable")
        # Few dimensions at a time, so that the sorted tokens take little memory.
        columns = [np.add.reduceat(part[order], starts, axis=0) for part in _columns(tokens)]
        sums = np.concatenate(columns, axis=1)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        # The mean of opposite tokens may be zero. Then the centroid stays as it is.
        centroids[found] = np.where(norms > 1e-6, sums / np.maximum(norms, 1e-6), centroids[found])
        # A centroid without tokens begins again at a token.
        empty = np.flatnonzero(sizes == 0)
        centroids[empty] = tokens[generator.choice(len(tokens), len(empty), replace=False)]
    return centroids


def nearest(tokens: FloatArray, centroids: Centroids) -> NDArray[np.int64]:
    """Return the number (n) of the centroid that is nearest to each of ``tokens`` (n, dimension).

    Of equally near centroids, it is the first.

    >>> nearest(np.float32([[1, 0], [0.6, 0.8]]), np.float32([[0, 1], [1, 0]]))
    array([1, 0])
    """
    parts = [np.argmax(part, axis=1) for part in _similarities(tokens, centroids)]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def probes(tokens: FloatArray, centroids: Centroids, count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the numbers and the cosines (n, p) of the nearest centroids of each of ``tokens``, the nearest one last.

    p is ``count``, or the number of centroids if there are fewer.

    >>> numbers, cosines = probes(np.float32([[0.6, 0.8]]), np.float32([[0, 1], [1, 0], [-1, 0]]), 2)
    >>> numbers.tolist(), cosines.round(1).tolist()
    ([[1, 0]], [[0.6000000238418579, 0.800000011920929]])
    """
    count = min(count, len(centroids))
    numbers, cosines = [], []
    for part in _similarities(tokens, centroids):
        leading = np.argpartition(part, len(centroids) - count, axis=1)[:, len(centroids) - count :]
        values = np.take_along_axis(part, leading, axis=1)
        order = np.argsort(values, axis=1, kind="stable")
        numbers.append(np.take_along_axis(leading, order, axis=1))
        cosines.append(np.take_along_axis(values, order, axis=1))
    if not numbers:
        return np.empty((0, count), dtype=np.int64), np.empty((0, count), dtype=np.float32)
    return np.concatenate(numbers), np.concatenate(cosines)


def merged(
    tokens: FloatArray, weights: NDArray[np.float32], centroids: Centroids, most: int
) -> tuple[FloatArray, NDArray[np.float32]]:
    """Return at most ``most`` tokens that stand for ``tokens`` (n, dimension) of a query, and their weights.

    If n is at most ``most``, they are the tokens themselves. Otherwise, the tokens with the same nearest centroid
    become one: the L2-normalised sum of the tokens, each times its weight. It has the sum of their ``weights`` (n),
    which are positive. Those with the highest weights are returned. An image has hundreds of tokens, and many of them
    are nearly equal.
    """
    if len(tokens) <= most:
        return tokens, weights
    _, group = np.unique(nearest(tokens, centroids), return_inverse=True)
    sums = np.zeros((group.max() + 1, tokens.shape[1]), dtype=np.float32)
    np.add.at(sums, group, tokens * weights[:, None])
    heaviest = np.argsort(-np.bincount(group, weights), kind="stable")[:most]
    norms = np.linalg.norm(sums[heaviest], axis=1, keepdims=True)
    return sums[heaviest] / np.maximum(norms, 1e-6), np.bincount(group, weights)[heaviest].astype(np.float32)


def _columns(tokens: FloatArray) -> list[FloatArray]:
    return [tokens[:, start : start + _COLUMNS] for start in range(0, tokens.shape[1], _COLUMNS)]


def _similarities(tokens: FloatArray, centroids: Centroids) -> Iterator[NDArray[np.float32]]:
    """Yield the cosines of ``tokens`` with all ``centroids``, in blocks of tokens."""
    rows = max(1, _AT_ONCE // len(centroids))
    for start in range(0, len(tokens), rows):
        yield multiply(tokens[start : start + rows], centroids.T)

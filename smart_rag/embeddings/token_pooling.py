"""Token pooling: merge similar token embeddings of a text, so that fewer embeddings are stored."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import numpy as np

from smart_rag.embeddings.tokens import FloatArray, TokenBatch, Tokens


def pool_tokens(tokens: Tokens, factor: int) -> Tokens:
    """Pool ``tokens`` to ceil(n / factor) embeddings for a text of n tokens. With factor 1, return ``tokens``.

    The tokens of a text are clustered hierarchically with Ward's criterion (Clavié et al., 2024, arXiv 2409.14683).
    The embedding of a cluster is the L2-normalised mean of its tokens, float32. The clusters of a text are in the order
    of their first tokens. The result is a `TokenBatch` without ids.
    """
    if factor == 1 or not len(tokens):
        return tokens
    with ThreadPoolExecutor(os.cpu_count(), "smart_rag") as threads:  # SciPy releases the GIL while it clusters
        return TokenBatch.from_list(list(threads.map(_pooled, tokens, repeat(factor))))


def _pooled(embeddings: FloatArray, factor: int) -> FloatArray:
    from scipy.cluster.hierarchy import linkage
    from scipy.sparse import csr_array

    matrix = np.asarray(embeddings, dtype=np.float32)
    count = len(matrix)
    clusters = -(-count // factor)
    if clusters == count:
        return matrix
    rows, columns = np.triu_indices(count, 1)
    # |a - b|^2 = 2 - 2ab for unit vectors. Computed in this way, the differences of all pairs need not be in memory.
    distances = np.sqrt(np.maximum(2.0 - 2.0 * (matrix @ matrix.T)[rows, columns].astype(np.float64), 0.0))
    # Apply the first merges, as many as needed. If the height of merges were limited instead, merges of equal height
    # would all be applied or all be left out.
    merges = linkage(distances, "ward")[: count - clusters, :2].astype(np.int64)
    labels = np.arange(count + len(merges))
    for i in reversed(range(len(merges))):
        labels[merges[i]] = labels[count + i]
    _, first, cluster = np.unique(labels[:count], return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))[cluster]
    members = csr_array((np.ones(count, np.float32), (order, np.arange(count))), shape=(len(first), count))
    means = members @ matrix
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    # The mean of opposite tokens may be zero. Then use the first token of the cluster.
    means = np.where(norms > 1e-6, means, matrix[np.sort(first)])
    return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), dtype=np.float32)

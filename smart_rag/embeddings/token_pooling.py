"""Fewer token embeddings for a text: those that are alike become one."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import numpy as np

from smart_rag.embeddings.representation import FloatArray, TokenBatch, Tokens


def pool_tokens(tokens: Tokens, factor: int) -> Tokens:
    """Return ``tokens`` with one embedding for each ``factor`` of a text, rounded up; 1 changes nothing.

    Hierarchical clustering with Ward's criterion; a cluster's embedding is the normalised mean
    of its members (Clavié et al., 2024, arXiv 2409.14683), in the order of their first ones.
    """
    if factor == 1 or not len(tokens):
        return tokens
    with ThreadPoolExecutor(os.cpu_count(), "smart_rag") as threads:  # SciPy clusters without the GIL
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
    # Squared distances of unit vectors, without an intermediate as wide as the vectors.
    distances = np.sqrt(np.maximum(2.0 - 2.0 * (matrix @ matrix.T)[rows, columns].astype(np.float64), 0.0))
    # Merges are taken in turn, not by a bound on their height: of equally distant tokens that would merge all or none.
    merges = linkage(distances, "ward")[: count - clusters, :2].astype(np.int64)
    labels = np.arange(count + len(merges))
    for i in reversed(range(len(merges))):
        labels[merges[i]] = labels[count + i]
    _, first, cluster = np.unique(labels[:count], return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))[cluster]
    members = csr_array((np.ones(count, np.float32), (order, np.arange(count))), shape=(len(first), count))
    means = members @ matrix
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    # Opposite tokens may cancel out; the first of them then stands for them.
    means = np.where(norms > 1e-6, means, matrix[np.sort(first)])
    return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), dtype=np.float32)

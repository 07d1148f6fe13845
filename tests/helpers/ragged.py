"""Ragged token embeddings, and late interaction by plain loops."""

import numpy as np
from hypothesis import strategies as st

from smart_rag.embeddings.tokens import TokenBatch


def unit_rows(rng, n, dimension, dtype=np.float32):
    rows = rng.standard_normal((n, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(dtype)


def batch(rng, lengths, dimension, dtype=np.float32):
    return TokenBatch.from_list([unit_rows(rng, n, dimension, dtype) for n in lengths])


def dot(a, b):
    total = 0.0
    for x, y in zip(a, b, strict=True):
        total += x * y
    return total


def loop_late(queries, documents):
    """Return late(q, d) by its definition, in Python's own floats."""
    scores = []
    for query in queries:
        row = []
        for document in documents:
            total = 0.0
            for q in query.astype(np.float64).tolist():
                best = -np.inf
                for d in document.astype(np.float64).tolist():
                    best = max(best, dot(q, d))
                total += best
            row.append(total / len(query))
        scores.append(row)
    return np.array(scores)


@st.composite
def ragged_pairs(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dimension = draw(st.sampled_from([1, 3, 96, 384]))
    kinds = st.sampled_from([np.float32, np.float16])
    queries = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    documents = draw(st.lists(st.integers(1, 7), min_size=1, max_size=5))
    return batch(rng, queries, dimension, draw(kinds)), batch(rng, documents, dimension, draw(kinds))

"""Pooled similarity and late interaction (MaxSim): the two parts of the score (arXiv 2605.24938, section 3).

    score(q, d) = w_pooled * cos(pooled_q, pooled_d) + w_late * late(q, d)
    late(q, d)  = mean over the tokens i of q of max over the tokens j of d of <q_i, d_j>

The mean can be weighted. With `inverse_document_frequency`, rare tokens count more. With `contrast`, tokens that tell
the candidates apart count more.

Documents have different lengths. The tokens of all documents stand in one matrix, one document after the other. To
score all documents, one matrix product is enough, followed by a maximum over the rows of each document. There is no
padding, so padding can never be the maximum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from smart_rag.embeddings.tokens import FloatArray, Offsets, Tokens
from smart_rag.errors import DimensionMismatch
from smart_rag.scoring.cores import cores
from smart_rag.scoring.products import product_for

_BLOCK_QUERY_TOKENS = 1024
# For `contrast`, a token that fewer than this share of the documents contain counts as one that this share contains.
_RAREST = 0.02
# The least difference between the best candidate and the mean of all. So a query always has a token that counts.
_LEAST_CONTRAST = 1e-3
# Queries with at most this number of tokens have the power 1, and those with at least twice as many the power 2.
_SHORT_QUERY = 16


def pooled_similarity(queries: NDArray[np.float32], documents: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cosines (n_queries, n_documents) float32 of L2-normalised pooled embeddings.

    >>> pooled_similarity(np.float32([[1, 0]]), np.float32([[0.6, 0.8], [0, 1]]))
    array([[0.6, 0. ]], dtype=float32)
    """
    if queries.shape[1] != documents.shape[1]:
        raise DimensionMismatch(
            f"the query's pooled embedding has {queries.shape[1]} dimensions, the documents' {documents.shape[1]}"
        )
    return np.asarray(queries @ documents.T, dtype=np.float32)


def late_interaction(
    queries: Tokens, documents: Tokens, device: str = "cpu", token_weights: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Return ``late(q, d)`` for every query and document, (n_queries, n_documents) float32.

    ``token_weights`` has a positive weight for each token of all queries, for the mean over a query's tokens.

    Similarities are averaged in float32. Float tokens are multiplied in float32. On a CPU, rotated codes are multiplied
    as integers, and the query has 15 bits for each dimension. The highest similarity of a query token differs by at
    most 1e-4 from the one that float arithmetic gives on the decoded tokens. All CPUs give the same integers.

    On a CPU, neither torch nor, for float tokens, Numba is imported.

    >>> from smart_rag.embeddings.tokens import TokenBatch
    >>> query = TokenBatch.from_list([np.float32([[1, 0], [0, 1]])])
    >>> late_interaction(query, TokenBatch.from_list([np.float32([[0.5, 0.25]]), np.float32([[1, 0], [-1, 0]])]))
    array([[0.375, 0.5  ]], dtype=float32)

    Raises:
        DimensionMismatch: queries and documents have different widths.
    """
    token_shares = shares(queries.offsets, token_weights)
    late = np.empty((len(queries), len(documents)), dtype=np.float32)

    def average(texts: slice, block: slice, best: NDArray[np.float32]) -> None:
        offsets = queries.offsets[texts.start : texts.stop + 1]
        weighted = best * token_shares[offsets[0] : offsets[-1], None]
        late[texts, block] = np.add.reduceat(weighted, offsets[:-1] - offsets[0], axis=0)

    _compare(queries, documents, device, average)
    return late


def highest_cosines(queries: Tokens, documents: Tokens, device: str = "cpu") -> NDArray[np.float32]:
    """Return the highest cosine of each query token with the tokens of each document: (total, n_documents) float32.

    These are the numbers that `late_interaction` averages.

    Raises:
        DimensionMismatch: queries and documents have different widths.
    """
    highest = np.empty((len(queries.embeddings), len(documents)), dtype=np.float32)

    def keep(texts: slice, block: slice, best: NDArray[np.float32]) -> None:
        first, last = queries.offsets[[texts.start, texts.stop]]
        highest[first:last, block] = best

    _compare(queries, documents, device, keep)
    return highest


def _compare(
    queries: Tokens, documents: Tokens, device: str, use: Callable[[slice, slice, NDArray[np.float32]], None]
) -> None:
    """Call ``use`` with blocks: a range of queries, a range of documents, and their highest cosines (total, n)."""
    if queries.dimension != documents.dimension:
        raise DimensionMismatch(
            f"the query's token embeddings have {queries.dimension} dimensions, the documents' {documents.dimension}"
        )
    product = product_for(documents, device, len(queries.embeddings))
    query_blocks = [
        (start, stop, product.queries(queries.embeddings[slice(*queries.offsets[[start, stop]])]))
        for start, stop in _blocks(queries.offsets, _BLOCK_QUERY_TOKENS)
    ]
    widest = max((int(queries.offsets[stop] - queries.offsets[start]) for start, stop, _ in query_blocks), default=1)

    def score(start: int, stop: int) -> None:
        block = documents.slice(start, stop)
        tokens = product.documents(block)
        for first, last, query_tokens in query_blocks:
            use(slice(first, last), slice(start, stop), product.best(query_tokens, tokens, block.offsets))

    blocks = list(_blocks(documents.offsets, max(1, product.block_tokens(documents.dimension, widest))))
    if product.uses_one_core and len(blocks) > 1:
        # One core does all steps of a block, so that the block stays in the cache of this core.
        list(cores().map(lambda block: score(*block), blocks))
    else:
        for block in blocks:
            score(*block)


def shares(offsets: Offsets, token_weights: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Return each token's share (total) in its query's mean: its weight, divided by the sum of the query's weights.

    >>> shares(np.array([0, 2, 3]), np.float32([1, 3, 5]))
    array([0.25, 0.75, 1.  ], dtype=float32)
    """
    weights = np.ones(offsets[-1]) if token_weights is None else token_weights.astype(np.float64)
    if not len(weights):
        return np.empty(0, dtype=np.float32)
    sums = np.add.reduceat(weights, offsets[:-1])
    return np.asarray(weights / np.repeat(sums, np.diff(offsets)), dtype=np.float32)


def inverse_document_frequency(frequencies: NDArray[np.int64], documents: int) -> NDArray[np.float32]:
    """Return ``log(1 + documents / frequency)`` for each frequency. A frequency of 0 counts as 1.

    This number is positive for every token, even for a token that is in all documents. If such tokens had the weight
    0, some queries would have no tokens left.

    >>> inverse_document_frequency(np.array([1, 100, 0]), 100)
    array([4.6151204, 0.6931472, 4.6151204], dtype=float32)
    """
    return np.asarray(np.log1p(documents / np.maximum(frequencies, 1)), dtype=np.float32)


def contrast(highest: NDArray[np.float32], rarity: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Return the weight of each of the q tokens of one query: how well it tells the candidates apart.

    This is the difference between the token's cosine with the best candidate and its mean cosine with all of them,
    times its ``rarity``. In a long query, most tokens say little. So the difference is raised to a power, from 1 (up to
    16 tokens) to 2 (from 32 tokens on).

    Args:
        highest: (q, n), the highest cosine of each token with each of n candidates. Without candidates, all differences
            are equal.
        rarity: (q), the `inverse_document_frequency` of each token. It counts at most as much as that of a token in 2 %
            of the documents. Without it, all tokens are equally rare.

    >>> contrast(np.float32([[0.9, 0.1], [0.8, 0.8]])).round(3)
    array([0.4  , 0.001], dtype=float32)
    """
    count = highest.shape[1]
    gap = highest.max(axis=1, initial=-1) - highest.sum(axis=1, dtype=np.float64) / max(count, 1)
    power = np.clip(1 + np.log2(len(highest) / _SHORT_QUERY), 1, 2)
    weights = np.maximum(gap, _LEAST_CONTRAST) ** power
    if rarity is not None:
        weights *= np.minimum(rarity, np.log1p(1 / _RAREST))
    return np.asarray(weights, dtype=np.float32)


def similarities(query: FloatArray, document: FloatArray) -> NDArray[np.float32]:
    """Return the cosines (q, n) of the query tokens (q, dimension) with the document tokens (n, dimension).

    >>> similarities(np.float32([[1, 0]]), np.float32([[0, 1], [0.8, 0.6]]))
    array([[0. , 0.8]], dtype=float32)
    """
    return np.asarray(query @ document.T.astype(np.float32), dtype=np.float32)


def _blocks(offsets: Offsets, limit: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of whole texts. Each range has at most ``limit`` tokens. A longer text is a range of its own."""
    start = 0
    while start < len(offsets) - 1:
        stop = int(np.searchsorted(offsets, offsets[start] + limit, side="right")) - 1
        stop = max(stop, start + 1)
        yield start, stop
        start = stop

"""Pooled similarity and late interaction (MaxSim): the two parts of the score (arXiv 2605.24938, section 3).

    score(q, d) = w_pooled * cos(pooled_q, pooled_d) + w_late * late(q, d)
    late(q, d)  = mean over the tokens i of q of max over the tokens j of d of <q_i, d_j>

The mean can be weighted. With `inverse_document_frequency`, rare tokens count more.

Documents have different lengths. The tokens of all documents stand in one matrix, one document after the other. To
score all documents, one matrix product is enough, followed by a maximum over the rows of each document. There is no
padding, so padding can never be the maximum.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from smart_rag.embeddings.tokens import FloatArray, Offsets, Tokens
from smart_rag.errors import DimensionMismatch
from smart_rag.scoring.products import product_for

# Maximum number of bytes of a block of document tokens and its similarities. On a CPU, such a block stays in the cache
# until the next step reads it. With blocks of half the size, long documents take a tenth more time. On a GPU, a block
# only has to be large enough to keep the GPU busy.
_BLOCK_BYTES = {"cpu": 1 << 23, "cuda": 1 << 30}
# A block takes at most this part of a GPU's free memory. To unpack codes, up to three times the block's size is needed,
# and other programs need memory, too. If almost nothing is free, torch raises its own error.
_FREE_PARTS = 8
_LEAST_BLOCK_BYTES = 1 << 24
# For at most this number of blocks, one thread scores. After a forward pass, torch's threads still use the other cores.
_BLOCKS_ALONE = 4
_BLOCK_QUERY_TOKENS = 1024


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

    Similarities are averaged in float32. Float tokens are multiplied in float32. Rotated codes are multiplied as
    integers if this CPU multiplies integers fast. In this case, the query has 15 bits for each dimension. Each
    similarity differs by at most 1e-4 from the similarity that float arithmetic gives on the decoded tokens.

    >>> from smart_rag.embeddings.tokens import TokenBatch
    >>> query = TokenBatch.from_list([np.float32([[1, 0], [0, 1]])])
    >>> late_interaction(query, TokenBatch.from_list([np.float32([[0.5, 0.25]]), np.float32([[1, 0], [-1, 0]])]))
    array([[0.375, 0.5  ]], dtype=float32)

    Raises:
        DimensionMismatch: queries and documents have different widths.
    """
    if queries.dimension != documents.dimension:
        raise DimensionMismatch(
            f"the query's token embeddings have {queries.dimension} dimensions, the documents' {documents.dimension}"
        )
    product = product_for(documents, device)
    token_shares = shares(queries.offsets, token_weights)
    late = np.empty((len(queries), len(documents)), dtype=np.float32)
    query_blocks = [
        (start, stop, product.queries(queries.embeddings[slice(*queries.offsets[[start, stop]])]))
        for start, stop in _blocks(queries.offsets, _BLOCK_QUERY_TOKENS)
    ]
    widest = max((int(queries.offsets[stop] - queries.offsets[start]) for start, stop, _ in query_blocks), default=1)

    def score(start: int, stop: int) -> None:
        block = documents.slice(start, stop)
        tokens = product.documents(block)
        for first, last, query_tokens in query_blocks:
            best = product.best(query_tokens, tokens, block.offsets)
            offsets = queries.offsets[first : last + 1]
            weighted = best * token_shares[offsets[0] : offsets[-1], None]
            late[first:last, start:stop] = np.add.reduceat(weighted, offsets[:-1] - offsets[0], axis=0)

    row_bytes = product.number_bytes * documents.dimension + product.similarity_bytes * widest
    blocks = list(_blocks(documents.offsets, max(1, _block_bytes(torch.device(device)) // row_bytes)))
    if torch.device(device).type == "cpu" and len(blocks) > _BLOCKS_ALONE:
        # One core does all steps of a block, so that the block stays in the cache of this core.
        list(_cores().map(lambda block: score(*block), blocks))
    else:
        for block in blocks:
            score(*block)
    return late


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


def similarities(query: FloatArray, document: FloatArray) -> NDArray[np.float32]:
    """Return the cosines (q, n) of the query tokens (q, dimension) with the document tokens (n, dimension).

    >>> similarities(np.float32([[1, 0]]), np.float32([[0, 1], [0.8, 0.6]]))
    array([[0. , 0.8]], dtype=float32)
    """
    return np.asarray(query @ document.T.astype(np.float32), dtype=np.float32)


@lru_cache(maxsize=1)
def _cores() -> ThreadPoolExecutor:
    """Return a thread pool with a thread for each core that torch may use. In each thread, torch uses one core."""

    def alone() -> None:
        torch.get_num_threads()  # makes torch set up the thread first, because this would undo the limit
        threadpool_limits(1, user_api="openmp")

    return ThreadPoolExecutor(torch.get_num_threads(), "smart_rag", initializer=alone)


def _forget_threads() -> None:
    """Forget the parent's threads in a forked process, because they do not exist in this process."""
    _cores.cache_clear()
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def _block_bytes(device: torch.device) -> int:
    """Return how many bytes a block of document tokens and its similarities may take on ``device``."""
    most = _BLOCK_BYTES[device.type]
    if device.type == "cpu":
        return most
    # Memory that torch has reserved but does not use counts as free.
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(most, max(free // _FREE_PARTS, _LEAST_BLOCK_BYTES))


def _blocks(offsets: Offsets, limit: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of whole texts. Each range has at most ``limit`` tokens. A longer text is a range of its own."""
    start = 0
    while start < len(offsets) - 1:
        stop = int(np.searchsorted(offsets, offsets[start] + limit, side="right")) - 1
        stop = max(stop, start + 1)
        yield start, stop
        start = stop

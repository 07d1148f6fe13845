"""The score, and the only place that computes it (arXiv 2605.24938, section 3):

    score(q, d) = w_pooled * cos(pooled_q, pooled_d) + w_late * late(q, d)
    late(q, d)  = mean over the tokens i of q of max over the tokens j of d of <q_i, d_j>

Documents are ragged: their tokens lie one after the other in one matrix. One matrix product
and one segmented maximum score them all. No padding exists, so none can win a maximum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from smart_rag.errors import DimensionMismatch, InvalidInput
from smart_rag.types import FloatArray, Offsets, TokenBatch

# A block of document tokens, in float32, and its similarities each stay within so many numbers:
# on a CPU they are still in cache when the next step reads them, a GPU only needs to be kept busy.
_BLOCK_NUMBERS = {"cpu": 1 << 20, "cuda": 1 << 28}
_BLOCK_QUERY_TOKENS = 1024

# Scores that differ by less than float32 noise are ties.
_TIE_DECIMALS = 6


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


def late_interaction(queries: TokenBatch, documents: TokenBatch, device: str = "cpu") -> NDArray[np.float32]:
    """Return ``late(q, d)`` for every query and document, (n_queries, n_documents) float32.

    Similarities are computed and averaged in float32 whatever the dtype of the tokens.

    >>> query = TokenBatch.from_list([np.float32([[1, 0], [0, 1]])])
    >>> late_interaction(query, TokenBatch.from_list([np.float32([[0.5, 0.25]]), np.float32([[1, 0], [-1, 0]])]))
    array([[0.375, 0.5  ]], dtype=float32)

    Raises:
        DimensionMismatch: queries and documents differ in width.
    """
    if queries.dimension != documents.dimension:
        raise DimensionMismatch(
            f"the query's token embeddings have {queries.dimension} dimensions, the documents' {documents.dimension}"
        )
    late = np.empty((len(queries), len(documents)), dtype=np.float32)
    query_blocks = [
        (start, stop, _on(queries.slice(start, stop), device), queries.offsets[start : stop + 1])
        for start, stop in _blocks(queries.offsets, _BLOCK_QUERY_TOKENS)
    ]
    widest = max((len(block) for _, _, block, _ in query_blocks), default=1)
    block_tokens = max(1, _BLOCK_NUMBERS[torch.device(device).type] // max(widest, documents.dimension))
    for start, stop in _blocks(documents.offsets, block_tokens):
        block = documents.slice(start, stop)
        tokens = _on(block, device)
        for first, last, query_tokens, offsets in query_blocks:
            best = _segment_max(query_tokens @ tokens.T, block.offsets)
            sums = np.add.reduceat(best, offsets[:-1] - offsets[0], axis=0)
            late[first:last, start:stop] = sums / np.diff(offsets)[:, None].astype(np.float32)
    return late


def hybrid(pooled: NDArray[np.float32], late: NDArray[np.float32], weights: tuple[float, float]) -> NDArray[np.float32]:
    """Return ``w_pooled * pooled + w_late * late``, of the same shape, float32."""
    return np.asarray(weights[0] * pooled + weights[1] * late, dtype=np.float32)


def ranking(scores: NDArray[np.float32], ids: Sequence[str], top_k: int) -> list[int]:
    """Return the positions of the ``top_k`` best scores (n,), best first; ties go by id.

    >>> ranking(np.float32([0.1, 0.9, 0.9]), ["a", "c", "b"], top_k=2)
    [2, 1]
    """
    rounded = np.round(scores.astype(np.float64), _TIE_DECIMALS)
    positions: Sequence[int] = range(len(scores))
    if top_k < len(scores):
        threshold = np.partition(rounded, len(scores) - top_k)[len(scores) - top_k]
        positions = np.flatnonzero(rounded >= threshold).tolist()
    return sorted(positions, key=lambda i: (-rounded[i], ids[i]))[:top_k]


def marginal_relevance(
    relevance: NDArray[np.float32], similarities: NDArray[np.float32], top_k: int, mmr_lambda: float
) -> list[int]:
    """Return ``top_k`` positions by maximal marginal relevance (Carbonell and Goldstein, 1998), first choice first.

    Each choice maximises ``mmr_lambda * relevance - (1 - mmr_lambda) * its highest similarity to
    an earlier choice``; ``relevance`` is (n,), ``similarities`` (n, n).

    >>> same = np.float32([[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    >>> marginal_relevance(np.float32([0.9, 0.9, 0.5]), same, top_k=2, mmr_lambda=0.5)
    [0, 2]
    """
    chosen: list[int] = []
    left = list(range(len(relevance)))
    nearest = np.zeros(len(relevance), dtype=np.float32)
    while left and len(chosen) < top_k:
        best = max(left, key=lambda i: mmr_lambda * relevance[i] - (1 - mmr_lambda) * nearest[i])
        left.remove(best)
        nearest = np.maximum(nearest, similarities[best]) if chosen else similarities[best]
        chosen.append(best)
    return chosen


def alignment(query: FloatArray, document: FloatArray) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return, for each query token (q, dimension), the document token that MaxSim takes and its cosine.

    >>> alignment(np.float32([[1, 0]]), np.float32([[0, 1], [0.8, 0.6]]))
    (array([1]), array([0.8], dtype=float32))
    """
    similarities = np.asarray(query, dtype=np.float32) @ np.asarray(document, dtype=np.float32).T
    best = similarities.argmax(axis=1)
    return best, similarities[np.arange(len(best)), best]


def check_weights(weights: tuple[float, float]) -> tuple[float, float]:
    """Return ``weights`` (pooled, late) if they can be used.

    Raises:
        InvalidInput: they are not two finite numbers, negative, or both zero.
    """
    try:
        values = tuple(float(weight) for weight in weights)
    except (TypeError, ValueError):
        values = ()
    if len(values) != 2 or not np.isfinite(values).all() or min(values) < 0 or max(values) == 0:
        raise InvalidInput(f"weights must be two numbers (pooled, late), none negative and not both 0; got {weights!r}")
    return values[0], values[1]


def _on(batch: TokenBatch, device: str) -> torch.Tensor:
    """Return the batch's tokens (total, dimension) as float32 on ``device``."""
    embeddings = batch.embeddings
    if not (embeddings.flags.c_contiguous and embeddings.flags.writeable):  # torch takes no other
        embeddings = embeddings.copy()
    return torch.from_numpy(embeddings).to(device).float()


def _blocks(offsets: Offsets, limit: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of whole texts of at most ``limit`` tokens each, or of one longer text."""
    start = 0
    while start < len(offsets) - 1:
        stop = int(np.searchsorted(offsets, offsets[start] + limit, side="right")) - 1
        stop = max(stop, start + 1)
        yield start, stop
        start = stop


def _segment_max(similarities: torch.Tensor, offsets: Offsets) -> NDArray[np.float32]:
    """Return the maximum of each row of (q, total) within each segment, (q, n)."""
    if similarities.device.type == "cpu":
        # Eight times as fast as torch.segment_reduce on a CPU.
        best: NDArray[np.float32] = np.maximum.reduceat(similarities.numpy(), offsets[:-1], axis=1)
        return best
    lengths = torch.from_numpy(np.diff(offsets)).to(similarities.device)
    reduced = torch.segment_reduce(similarities.T.contiguous(), "max", lengths=lengths, axis=0, unsafe=True)
    return np.asarray(reduced.T.cpu().numpy(), dtype=np.float32)


class Leaders:
    """The best documents of a scan so far: ``ids`` with their ``pooled`` and ``late`` scores."""

    def __init__(self, top_k: int) -> None:
        self._top_k = top_k
        self.ids: list[str] = []
        self.pooled = np.empty(0, dtype=np.float32)
        self.late = np.empty(0, dtype=np.float32)

    def offer(
        self,
        ids: Sequence[str],
        pooled: NDArray[np.float32],
        late: NDArray[np.float32],
        weights: tuple[float, float],
    ) -> None:
        """Keep the ``top_k`` best of what was kept and a block (n) of further documents."""
        all_ids = [*self.ids, *ids]
        all_pooled = np.concatenate([self.pooled, pooled])
        all_late = np.concatenate([self.late, late])
        best = ranking(hybrid(all_pooled, all_late, weights), all_ids, self._top_k)
        self.ids = [all_ids[i] for i in best]
        self.pooled, self.late = all_pooled[best], all_late[best]

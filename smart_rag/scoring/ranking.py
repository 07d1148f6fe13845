"""Rankings from scores: the hybrid score, the best documents, maximal marginal relevance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Scores that differ by less than the rounding error of float32 are ties.
_TIE_DECIMALS = 6


def hybrid(pooled: NDArray[np.float32], late: NDArray[np.float32], weights: tuple[float, float]) -> NDArray[np.float32]:
    """Return ``w_pooled * pooled + w_late * late``, float32, of the same shape."""
    return np.asarray(weights[0] * pooled + weights[1] * late, dtype=np.float32)


def ranking(scores: NDArray[np.float32], ids: Sequence[str], top_k: int) -> list[int]:
    """Return the positions of the ``top_k`` best scores (n,), best first. Equal scores are sorted by id.

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
    """Return ``top_k`` positions, first chosen first, by maximal marginal relevance (Carbonell and Goldstein, 1998).

    Each choice maximises ``mmr_lambda * relevance - (1 - mmr_lambda) * its highest similarity to
    an earlier choice``. ``relevance`` is (n,), and ``similarities`` is (n, n).

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


class Leaders:
    """The best documents that a scan has found so far: ``ids`` with their ``pooled`` and ``late`` scores."""

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
        """Compare a block of n new documents with the documents kept so far, and keep the ``top_k`` best of all."""
        all_ids = [*self.ids, *ids]
        all_pooled = np.concatenate([self.pooled, pooled])
        all_late = np.concatenate([self.late, late])
        best = ranking(hybrid(all_pooled, all_late, weights), all_ids, self._top_k)
        self.ids = [all_ids[i] for i in best]
        self.pooled, self.late = all_pooled[best], all_late[best]

"""`StoreOrder`: notices that another model has made the vectors in the store of a retriever.

A reranker does not see these vectors. It only sees in which order the retriever found the nodes. If the same model made
the vectors, this is the order of the pooled cosines.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# The number of queries to look at, and the number of nodes that each must have.
_QUERIES = 3
_NODES = 8
# With the vectors of the same model, the rank correlation is nearly 1.
_ALIKE = 0.5


class StoreOrder:
    """The rank correlations of a retriever's scores with pooled cosines, for the first few queries."""

    def __init__(self) -> None:
        self._found: list[float] = []

    def unlike(self, scores: Sequence[float | None], pooled: Sequence[float]) -> float | None:
        """Return the mean correlation once, when it is clear that the orders have little in common. Else, return None.

        ``scores`` are the scores of a query's nodes, and ``pooled`` are their pooled cosines. Scores above 1, and
        scores that are all very small, are not cosines, so they say nothing.
        """
        values = [score for score in scores if score is not None]
        if len(values) < max(_NODES, len(scores)) or not 0.1 < max(values) <= 1 or len(set(values)) < _NODES:
            return None
        if len(self._found) >= _QUERIES:
            return None
        self._found.append(float(np.corrcoef(_ranks(values), _ranks(pooled))[0, 1]))
        mean = float(np.mean(self._found))
        return mean if len(self._found) == _QUERIES and mean < _ALIKE else None


def _ranks(values: Sequence[float]) -> NDArray[np.intp]:
    return np.argsort(np.argsort(values))

"""Chroma's answers: `Found` and `Candidate` of a query, `PooledBlock` of a scan.

Chroma answers with distances, which become similarities here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from smart_rag.store.row import Row


class Found(NamedTuple):
    """The id of a row, the cosine with the query, and the text and metadata, which are None if nobody asked for them.

    A row that was removed after its vector was found has no metadata either.
    """

    id: str
    cosine: float
    text: str | None
    metadata: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """Row that the first stage found, with the cosine of its pooled embedding with the query's."""

    row: Row
    pooled_score: float


@dataclass(frozen=True, slots=True)
class PooledBlock:
    """Part of a scan: the ids of n rows, the keys of their token embeddings, and pooled embeddings (n, dimension)."""

    ids: list[str]
    keys: list[bytes]
    pooled: NDArray[np.float32]

    def of(self, ids: Collection[str]) -> PooledBlock:
        """Return those of the rows that are among ``ids``."""
        chosen = [i for i, id in enumerate(self.ids) if id in ids]
        return PooledBlock([self.ids[i] for i in chosen], [self.keys[i] for i in chosen], self.pooled[chosen])


def found_in(result: Any) -> list[list[Found]]:
    """Return the rows in an answer to n queries that has distances: for each query, a list, best first."""
    found = []
    for i, (ids, distances) in enumerate(zip(result["ids"], result["distances"], strict=True)):
        texts, metadatas = (
            repeat(None) if result[name] is None else result[name][i] for name in ("documents", "metadatas")
        )
        parts = zip(ids, distances, texts, metadatas, strict=False)  # `repeat` has no end
        found.append([Found(id, 1.0 - distance, text, metadata) for id, distance, text, metadata in parts])
    return found

"""`Found`: one row in Chroma's answer to a query. Chroma answers with distances, which become similarities here."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import repeat
from typing import Any, NamedTuple


class Found(NamedTuple):
    """The id of a row, the cosine with the query, and the text and metadata, which are None if nobody asked for them.

    A row that was removed after its vector was found has no metadata either.
    """

    id: str
    cosine: float
    text: str | None
    metadata: Mapping[str, Any] | None


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

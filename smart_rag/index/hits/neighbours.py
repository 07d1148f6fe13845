"""`ids_around`: the documents around a hit in its file."""

from __future__ import annotations

from pathlib import Path

from smart_rag.config import check_count
from smart_rag.files.reader import id_of
from smart_rag.types import Hit

_MOST = 1_000


def ids_around(hit: Hit, before_and_after: int) -> list[str]:
    """Return the ids of the documents that come before and after ``hit`` in its file, in their order.

    Some of them may not exist. The list is empty if the hit's document was not made from a file.

    Raises:
        InvalidInput: ``before_and_after`` is not a whole number from 1 to 1,000.
    """
    count = check_count("before_and_after", before_and_after, _MOST)
    source, chunk = hit.metadata.get("source"), hit.metadata.get("chunk")
    if not isinstance(source, str) or not isinstance(chunk, int) or hit.id != id_of(Path(source), chunk):
        return []
    chunks = range(max(0, chunk - count), chunk + count + 1)
    return [id_of(Path(source), number) for number in chunks if number != chunk]

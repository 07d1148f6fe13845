"""Reads every pooled embedding through Chroma, and looks for each in Chroma's graph of neighbours.

This is the only way to know what Chroma will answer. Chroma's code may end the process if the files are damaged. So it
runs in a process of its own, unless all embeddings are still in SQLite.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smart_rag.errors import CorruptStore, DocumentError
from smart_rag.files.worker import call_alone
from smart_rag.store.checks.chroma_tables import count_of_rows
from smart_rag.store.checks.hnsw_files import LABELS
from smart_rag.store.checks.row_checksum import sound_vectors
from smart_rag.store.pooled_store import PooledStore
from smart_rag.wording import number

_QUERIES = 2_000
_SECONDS, _SECONDS_PER_ROW = 120.0, 0.01


def damage_of_vectors(folder: Path, collection: str) -> str | None:
    """Return in one line what is wrong with the embeddings of the rows of a ``collection``, or None.

    ``folder`` is Chroma's. The caller must not hold its lock.

    Raises:
        CorruptStore: Chroma cannot read its files without ending the process.
    """
    if not any(folder.glob(f"*/{LABELS}")):
        return unsound_vectors(str(folder), collection)
    seconds = _SECONDS + _SECONDS_PER_ROW * count_of_rows(folder)
    try:
        return call_alone(unsound_vectors, folder, collection, seconds=seconds, task="reading all vectors")
    except DocumentError as error:
        if isinstance(error.__cause__, EOFError | OSError):  # the process ended, or took too long
            raise CorruptStore(
                f"{folder}: expected vectors that Chroma can read, but {error.reason}; build them again from the rows "
                "with `smart-rag verify --repair`, or restore the index from a backup"
            ) from error
        return f"{folder}: Chroma cannot return the vectors, it {error.reason}"


def unsound_vectors(folder: str, collection: str) -> str | None:
    """Return in one line which embeddings are damaged, or None. This reads all embeddings in this process."""
    store = PooledStore.open(Path(folder), None, collection)
    try:
        damaged: list[str] = []
        sample: list[NDArray[np.float32]] = []
        step = max(1, store.count() // _QUERIES)
        for result in store.pages_with_embeddings():
            pooled = np.asarray(result["embeddings"], dtype=np.float32)
            sound = sound_vectors(pooled, result["metadatas"])
            damaged += [id for id, fine in zip(result["ids"], sound, strict=True) if not fine]
            sample.append(pooled[sound][::step])
        for queries in sample:
            if len(queries):
                store.search_only(queries)
    finally:
        store.close()
    if not damaged:
        return None
    return f"{folder}: the vectors of {number(len(damaged), 'document')} are damaged, the first is {damaged[0]!r}"

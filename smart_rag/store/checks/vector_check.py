"""Reads every pooled embedding through Chroma, and looks for each in Chroma's graph of neighbours.

This is the only way to know what Chroma will answer. Chroma's code may end the process if the files are damaged. So it
runs in a process of its own, unless all embeddings are still in SQLite.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smart_rag.errors import CorruptStore, DocumentError
from smart_rag.files.worker import call_alone
from smart_rag.store.checks.chroma_tables import count_of_rows
from smart_rag.store.checks.hnsw_files import LABELS
from smart_rag.store.checks.row_checksum import trace_of, traces_of
from smart_rag.store.pooled_store import PooledStore
from smart_rag.wording import number

# hnswlib divides by the length and multiplies by it again. So numbers of an embedding change in the last digit.
_TRACE_TOLERANCE = 2e-5
_LENGTH_TOLERANCE = 1e-3
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
            sound = _sound(pooled, result["metadatas"])
            damaged += [id for id, fine in zip(result["ids"], sound, strict=True) if not fine]
            sample.append(pooled[sound][::step])
        for queries in sample:
            if len(queries):
                store.query(queries, 1)
    finally:
        store.close()
    if not damaged:
        return None
    return f"{folder}: the vectors of {number(len(damaged), 'document')} are damaged, the first is {damaged[0]!r}"


def _sound(pooled: NDArray[np.float32], metadatas: list[dict[str, Any] | None]) -> NDArray[np.bool_]:
    """Return for each of n embeddings whether it is the one that was written, as far as its row tells."""
    traces = np.asarray([_expected(metadata or {}) for metadata in metadatas], dtype=np.float64)
    lengths = np.linalg.norm(pooled.astype(np.float64), axis=1)
    has_trace = ~np.isnan(traces)
    fits = np.abs(traces_of(pooled) - traces) <= _TRACE_TOLERANCE
    is_unit = np.abs(lengths - 1) <= _LENGTH_TOLERANCE
    found: NDArray[np.bool_] = np.isfinite(pooled).all(axis=1) & is_unit & (fits | ~has_trace)
    return found


def _expected(metadata: dict[str, Any]) -> float:
    """Return the trace in ``metadata``; infinity if it is damaged, and NaN if there is none."""
    try:
        trace = trace_of(metadata)
    except CorruptStore:
        return float("inf")
    return float("nan") if trace is None else trace

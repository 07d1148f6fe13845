"""Reads every pooled embedding through Chroma, and looks for each in Chroma's graph of neighbours.

This is the only way to know what Chroma will answer. Chroma's code may end the process if the files are damaged. So it
runs in a process of its own, unless all embeddings are still in SQLite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smart_rag.errors import CorruptStore, DocumentError
from smart_rag.files.worker import call_alone
from smart_rag.store.checks.chroma_tables import count_of_rows
from smart_rag.store.checks.hnsw_files import LABELS
from smart_rag.store.checks.row_checksum import sound_vectors, trace_of
from smart_rag.store.pooled_store import PooledStore
from smart_rag.store.row import key_of
from smart_rag.store.terms.term_store import TermStore
from smart_rag.types import Key, Revision
from smart_rag.wording import number

_QUERIES = 2_000
_SECONDS, _SECONDS_PER_ROW = 120.0, 0.01


def damage_of_vectors(folder: Path, collection: str, terms: Path) -> str | None:
    """Return in one line what is wrong with the embeddings of the rows of a ``collection``, or None.

    ``folder`` is Chroma's, and ``terms`` is that of the term store. The caller must not hold their locks.

    Raises:
        CorruptStore: Chroma cannot read its files without ending the process.
    """
    if not any(folder.glob(f"*/{LABELS}")):
        return unsound_vectors(str(folder), collection, str(terms))
    seconds = _SECONDS + _SECONDS_PER_ROW * count_of_rows(folder)
    try:
        return call_alone(unsound_vectors, folder, collection, str(terms), seconds=seconds, task="reading all vectors")
    except DocumentError as error:
        if isinstance(error.__cause__, EOFError | OSError):  # the process ended, or took too long
            raise CorruptStore(
                f"{folder}: expected vectors that Chroma can read, but {error.reason}; build them again from the rows "
                "with `smart-rag verify --repair`, or restore the index from a backup"
            ) from error
        return f"{folder}: Chroma cannot return the vectors, it {error.reason}"


def unsound_vectors(folder: str, collection: str, terms: str) -> str | None:
    """Return in one line which embeddings are damaged, or None. This reads all embeddings in this process."""
    with closing(PooledStore.open(Path(folder), None, collection)) as store, closing(TermStore(terms)) as known:
        damaged: list[str] = []
        sample: list[NDArray[np.float32]] = []
        step = max(1, store.count() // _QUERIES)
        for result in store.pages_with_embeddings():
            pooled = np.asarray(result["embeddings"], dtype=np.float32)
            sound = sound_vectors(pooled, _traces(known, result))
            damaged += [id for id, fine in zip(result["ids"], sound, strict=True) if not fine]
            sample.append(pooled[sound][::step])
        for queries in sample:
            if len(queries):
                store.search_only(queries)
    if not damaged:
        return None
    return f"{folder}: the vectors of {number(len(damaged), 'document')} are damaged, the first is {damaged[0]!r}"


def known_traces(
    terms: TermStore, revisions: Sequence[Revision], metadatas: Sequence[Mapping[str, Any]]
) -> NDArray[np.float64]:
    """Return the traces of the pooled embeddings of n ``revisions`` (n) with these ``metadatas`` of Chroma. NaN if
    there is none.
    """
    own = np.asarray([trace_of(metadata) for metadata in metadatas], dtype=np.float64)
    return np.where(np.isnan(own), terms.traces(revisions), own)


def _traces(terms: TermStore, result: Any) -> NDArray[np.float64]:
    """Return the traces of the rows in an answer of Chroma. NaN for the rows of other programs and for damaged rows."""
    metadatas = [metadata or {} for metadata in result["metadatas"]]
    keys = list(map(_key, metadatas))
    ours = np.asarray([key is not None for key in keys], dtype=bool)
    revisions = [(id, key or b"") for id, key in zip(result["ids"], keys, strict=True)]
    return np.where(ours, known_traces(terms, revisions, metadatas), np.nan)


def _key(metadata: Mapping[str, Any]) -> Key | None:
    try:
        return key_of(metadata)
    except CorruptStore:
        return None

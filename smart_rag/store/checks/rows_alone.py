"""Reads the rows of an index whose vectors are damaged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smart_rag.store.checks.chroma_settings import put_right
from smart_rag.store.checks.chroma_tables import tables_alone
from smart_rag.store.chroma.client import FolderClient, chroma_errors
from smart_rag.store.pooled_store import PooledStore

_PART_ROWS = 2_000


@contextmanager
def rows_alone(folder: Path, collection: str, root: Path | None = None) -> Iterator[PooledStore]:
    """Yield a store with the rows of a ``collection`` in Chroma's ``folder``, as of the last commit.

    It has ids, texts and metadata, and knows paths as the store in ``folder`` does. Embeddings may be missing. Chroma
    reads a copy of its SQLite file alone, so damaged files of the vectors are neither read nor written. In the copy,
    settings that Chroma follows without a check are replaced. The store is closed at the end, and the copy is removed.
    ``root`` is the folder of the index. By default, it contains ``folder``.

    Raises:
        CorruptStore: the SQLite file is missing or damaged, or has parts that do not come from Chroma.
    """
    with tables_alone(folder) as place:
        put_right(place)
        with chroma_errors(place):
            client = FolderClient.at(place)
        store = PooledStore(client, collection, _PART_ROWS, place, root or folder.absolute().parent)
        try:
            yield store
        finally:
            store.close()

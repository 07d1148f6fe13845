"""Chroma's log: `shorten_log` makes the next opening of an index fast."""

from __future__ import annotations

import logging
import secrets

from smart_rag.errors import ChromaFailure, StorageFull
from smart_rag.store.checks.chroma_tables import segments
from smart_rag.store.checks.vector_files import PENDING_RECORDS
from smart_rag.store.pooled_store import PooledStore

logger = logging.getLogger(__name__)

# If the log has fewer records, it stays. In an index of 100,000 documents, they take a tenth of a second.
_FEW_RECORDS = 100


def shorten_log(pooled: PooledStore) -> None:
    """If Chroma's log of the rows ``pooled`` is long, let Chroma write its records into the files of the graph.

    Otherwise, each process that opens the index adds the documents in the log to the graph again. In an index of
    100,000 documents, this takes up to a second. Chroma writes the files as soon as its log has a number of records. So
    records are added that remove rows that do not exist. If this fails, nothing is lost.

    The caller may write to the index. If the caller brought the Chroma client, nothing is done.
    """
    if pooled.folder is None:
        return
    pending = max((one.logged - one.persisted for one in segments(pooled.folder)), default=0)
    if not _FEW_RECORDS <= pending < PENDING_RECORDS:
        return
    unknown = secrets.token_hex(16)
    try:
        pooled.delete([f"{unknown}-{i}" for i in range(PENDING_RECORDS - pending)])
    except (StorageFull, ChromaFailure) as error:
        logger.warning("%s: the next process that opens the index will need longer (%s)", pooled.root, error)

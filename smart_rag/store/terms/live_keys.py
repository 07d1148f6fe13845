"""The key of each document's token embeddings, by the document's id, in LMDB.

The rows in Chroma have these keys, too, and decide. But in an index of 100,000 documents, Chroma needs 8 ms for the
metadata of 50 rows, and LMDB a fifth of a millisecond. The keys are written in the transaction that settles a batch
(see `TermStore.settle`). So while no batch is in doubt, they are those of the rows. Versions that do not know this
database leave old keys in it. But they do remove the revision that a key belongs to, and then the key does not count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from smart_rag.types import Key, Revision

# Name of the database. Older stores lack it.
KEYS = "keys"


def id_key(id: str) -> bytes:
    """Return the bytes under which the database has the document ``id``: a hash, because LMDB limits their length."""
    return hashlib.blake2b(id.encode(), digest_size=16).digest()


def revision_key(revision: Revision) -> bytes:
    """Return the bytes under which the term store has ``revision``. They are a hash, too."""
    id, key = revision
    return hashlib.blake2b(key + id.encode(), digest_size=16).digest()


def live_keys(transaction: Any, databases: Mapping[str, Any], ids: Iterable[str]) -> dict[str, Key]:
    """Return a dict from id to key, for ``ids``. Ids whose key is not known here are left out."""
    keys, slots = databases.get(KEYS), databases["slots"]
    if keys is None:  # an older store, and this user cannot write to it
        return {}
    found = {id: transaction.get(id_key(id), db=keys) for id in ids}
    return {
        id: key
        for id, key in found.items()
        if key is not None and transaction.get(revision_key((id, key)), db=slots) is not None
    }


def write_live_keys(
    transaction: Any, databases: Mapping[str, Any], gone: Iterable[Revision], kept: Iterable[Revision]
) -> None:
    """Forget the keys of the revisions ``gone``, and remember those of ``kept``."""
    changed: dict[bytes, Key | None] = {id_key(id): None for id, _ in gone}
    _write(transaction, databases[KEYS], changed | {id_key(id): key for id, key in kept})


def replace_live_keys(transaction: Any, databases: Mapping[str, Any], live: Collection[Revision]) -> None:
    """Remember the keys of the revisions ``live``, and no others."""
    keys = databases[KEYS]
    others: dict[bytes, Key | None] = dict.fromkeys(map(bytes, transaction.cursor(keys).iternext(values=False)))
    _write(transaction, keys, others | {id_key(id): key for id, key in live})


def _write(transaction: Any, keys: Any, changed: Mapping[bytes, Key | None]) -> None:
    """Write a key under each name. None removes it. What is there already is not written, so that nothing changes."""
    for name, key in sorted(changed.items(), key=lambda item: item[0]):  # LMDB then writes to neighbouring pages
        if key is None:
            transaction.delete(name, db=keys)
        elif transaction.get(name, db=keys) != key:
            transaction.put(name, key, db=keys)

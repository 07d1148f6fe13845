"""The folder of an index: check that a new index can be made there, and open the stores in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from smart_rag.embeddings.codec import get_codec
from smart_rag.errors import IndexExists, IndexMismatch
from smart_rag.index.manifest import FILE_NAME, FORMAT_VERSION, Manifest
from smart_rag.store.document_store import DocumentStore
from smart_rag.store.image_store import ImageStore
from smart_rag.store.pooled_store import PooledStore
from smart_rag.store.term_store import TermStore
from smart_rag.store.token_store import TokenStore

if TYPE_CHECKING:
    from chromadb.api import ClientAPI


def check_free(path: Path) -> None:
    """Raise `IndexExists` unless a new index can be made at ``path``: no folder, or an empty one."""
    if (path / FILE_NAME).exists():
        raise IndexExists(f"{path} holds an index; open it with SmartIndex.open, or choose another folder")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        found = "is not empty and holds no index" if path.is_dir() else "is not a folder"
        raise IndexExists(f"{path} {found}; choose another folder")


def create(path: Path, manifest: Manifest, client: ClientAPI | None) -> DocumentStore:
    """Return the stores of a new index in the folder ``path``, which is made if it does not exist."""
    path.mkdir(parents=True, exist_ok=True)
    pooled = PooledStore.create(path / "chroma", manifest.config, client, manifest.collection)
    store = _with_sidecars(path, manifest, pooled)
    manifest.write(path)  # last, so that a folder with a manifest is complete
    return store


def check_client(path: Path, manifest: Manifest, client: ClientAPI | None) -> None:
    """Raise `IndexMismatch` unless a Chroma client is given to an index that needs one, and to no other."""
    if manifest.own_chroma != (client is None):
        raise IndexMismatch(
            f"{path}: the pooled embeddings lie in the folder; open it without client="
            if manifest.own_chroma
            else f"{path}: the pooled embeddings lie in a Chroma client of your own; pass it as client="
        )


def open_stores(path: Path, manifest: Manifest, client: ClientAPI | None) -> DocumentStore:
    """Return the stores of the index in the folder ``path``.

    Raises:
        IndexNotFound: the pooled embeddings are missing.
    """
    pooled = PooledStore.open(path / "chroma", client, manifest.collection)
    pooled.has_lists = manifest.format_version >= FORMAT_VERSION
    return _with_sidecars(path, manifest, pooled)


def _with_sidecars(path: Path, manifest: Manifest, pooled: PooledStore) -> DocumentStore:
    tokens = TokenStore(path / "tokens", get_codec(manifest.config.codec))
    return DocumentStore(pooled, tokens, TermStore(path / "terms"), ImageStore(path / "images"))

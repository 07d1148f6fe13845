"""The folder of an index. This module checks that a new index can be made there, and opens the stores in it."""

from __future__ import annotations

import errno
import secrets
import shutil
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from smart_rag.embeddings.codec import get_codec
from smart_rag.encoders.protocol import Encoder
from smart_rag.errors import IndexExists, IndexMismatch, IndexNotFound, IndexReadOnly, InvalidInput
from smart_rag.index.manifest import FILE_NAME, Manifest
from smart_rag.paths import shown
from smart_rag.store.chroma.owner import OWNER, owner_of, set_owner
from smart_rag.store.document_store import DocumentStore
from smart_rag.store.image_store import ImageStore
from smart_rag.store.pooled_store import PooledStore
from smart_rag.store.sources import Sources
from smart_rag.store.terms.term_store import TermStore
from smart_rag.store.token_store import TokenStore
from smart_rag.values import is_unicode

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

_TOKENS = "tokens"
# Times that the owner of a collection is compared, while another process may change it.
_ATTEMPTS = 3
# Advice about missing and damaged token embeddings, for an index with an encoder and for one without.
_REPAIR = "encode them again with index.verify(repair=True) or `smart-rag verify --repair`"
_ADD_AGAIN = "add the documents that index.verify() names again with their vectors"


def check_free(path: Path) -> None:
    """Check that a new index can be made at ``path``: there must be no folder, or an empty one.

    Raises:
        IndexExists: there is something else.
        InvalidInput: the path is not UTF-8, and Chroma takes no other names.
    """
    if not is_unicode(str(path)):
        raise InvalidInput(f"{shown(path)}: the path of an index must be UTF-8; choose another folder")
    if (path / FILE_NAME).exists():
        raise IndexExists(
            f"{path} holds an index; open it with SmartIndex.open, or choose another folder; to restore a copy in its "
            "place, move this folder away first"
        )
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        found = "is not empty and holds no index" if path.is_dir() else "is not a folder"
        raise IndexExists(f"{path} {found}; choose another folder, or move this one away first")


def wait_until_made(path: Path, seconds: float = 30) -> None:
    """Wait until another thread or process has made the index in the folder ``path``.

    Raises:
        IndexExists: the folder holds other files, or the index is not complete in time.
    """
    end = time.monotonic() + seconds
    # A new index first gets the folder of the tokens, and last the manifest.
    while not (path / FILE_NAME).is_file():
        if not (path / _TOKENS).is_dir() or time.monotonic() > end:
            check_free(path)
            return
        time.sleep(0.05)


def create(path: Path, manifest: Manifest, client: ClientAPI | None) -> DocumentStore:
    """Return the stores of a new index in the folder ``path``. The folder is made if it does not exist.

    If this fails, the folder is restored to its earlier state.

    Raises:
        IndexExists: another process is making an index in this folder.
        IndexReadOnly: this user cannot write to the folder.
    """
    is_new = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / _TOKENS).mkdir()  # this succeeds in only one process, which then owns the contents of the folder
    except FileExistsError:
        raise IndexExists(f"{path}: another process is making an index there; open it with SmartIndex.open") from None
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise IndexReadOnly(f"{path}: this user cannot make a folder there; choose another folder") from error
    with ExitStack() as undo:
        undo.callback(clear, path, is_new)
        store = create_stores(path, manifest, client)
        undo.callback(store.pooled.drop)
        undo.callback(store.close)
        store.pooled.sources.own()
        manifest.write(path)  # last, so that an index with a manifest is complete
        undo.pop_all()
    return store


def create_stores(
    path: Path, manifest: Manifest, client: ClientAPI | None, sources: Iterable[str | Path] = ()
) -> DocumentStore:
    """Return new, empty stores for the index in the folder ``path``. They are in the folder ``manifest.data``."""
    pooled = PooledStore.create(
        path / manifest.data / "chroma", manifest.config, client, manifest.collection_name, root=path
    )
    try:
        return _with_sidecars(path, manifest, pooled, sources)
    except BaseException:
        pooled.drop()
        raise


def remove_stores(path: Path) -> None:
    """Remove the stores in the folder ``path``: rows, token embeddings and terms."""
    # The tokens first, because by them, other processes notice that the stores were replaced.
    for name in (_TOKENS, "chroma", "terms"):
        if (path / name).is_dir():
            shutil.rmtree(path / name)


def clear(path: Path, with_folder: bool) -> None:
    """Remove everything in the folder ``path``. If ``with_folder`` is True, also remove the folder itself."""
    for child in path.iterdir():
        if child.is_dir():
            shutil.rmtree(child)
        else:
            child.unlink()
    if with_folder:
        path.rmdir()


def check_client(path: Path, manifest: Manifest, client: ClientAPI | None) -> None:
    """Raise `IndexMismatch` if the index needs a Chroma client and gets none, or needs none and gets one."""
    if manifest.own_chroma != (client is None):
        raise IndexMismatch(
            f"{path}: the pooled embeddings lie in the folder; open it without client="
            if manifest.own_chroma
            else f"{path}: the pooled embeddings lie in a Chroma client of your own; pass it as client="
        )


def open_stores(
    path: Path, manifest: Manifest, client: ClientAPI | None, sources: Iterable[str | Path] = ()
) -> DocumentStore:
    """Return the stores of the index in the folder ``path``. They may also read the files of ``sources``.

    Raises:
        IndexNotFound: the pooled embeddings are missing.
        IndexMismatch: another copy of this index has written to the caller's client.
    """
    pooled = PooledStore.open(path / manifest.data / "chroma", client, manifest.collection_name, root=path)
    if client is not None:
        _check_owner(path, manifest, client)
    pooled.has_lists = manifest.has_lists
    return _with_sidecars(path, manifest, pooled, sources)


def open_current_stores(
    path: Path, encoder: Encoder | None, client: ClientAPI | None, sources: Iterable[str | Path] = ()
) -> tuple[Manifest, DocumentStore]:
    """Return the manifest of the index in the folder ``path``, and its stores.

    If another process writes the index anew at this moment, the result is the new index.

    Raises:
        IndexNotFound: there is no index.
        IndexMismatch: the index was made with a different model than ``encoder``.
    """
    while True:
        manifest = Manifest.read(path)
        if encoder is not None:
            manifest.check_encoder(path, encoder)
        try:
            store = open_stores(path, manifest, client, sources)
        except IndexNotFound:
            if Manifest.read(path).data == manifest.data:
                raise
            continue
        if Manifest.read(path).data == manifest.data:
            return manifest, store
        store.close()


def claim(path: Path, manifest: Manifest, client: ClientAPI | None) -> Manifest:
    """Make the index in the folder ``path`` the owner of its collection, and return ``manifest`` with the new owner.

    Call it while no other process can write to the index. If the caller brings no ``client``, nothing is done.

    Raises:
        IndexMismatch: another copy of this index has written to the collection.
    """
    if client is None:
        return manifest
    found, token = _check_owner(path, manifest, client), secrets.token_hex(16)
    now = Manifest.read(path)
    # If the process dies after any of these steps, the token of the collection is still in the manifest.
    replace(now, owners=(token,) if found is None else (found, token)).write(path)
    set_owner(client, now.collection_name, manifest.id, token)
    replace(now, owners=(token,)).write(path)
    _check_owner(path, manifest, client)  # another copy may have done the same at the same time
    return replace(manifest, owners=(token,))


def _check_owner(path: Path, manifest: Manifest, client: ClientAPI) -> str | None:
    """Return the token in the collection.

    Raises:
        IndexMismatch: the token is not in the manifest.
    """
    for _ in range(_ATTEMPTS):
        found = owner_of(client, manifest.collection_name)
        # Another process may have changed both since the manifest was read. It changes the manifest first.
        if found is None or found in Manifest.read(path).owners:
            return found
    raise IndexMismatch(
        f"{path}: another copy of this index has written to the collection {manifest.collection_name!r}, so the token "
        "embeddings here do not belong to its rows; use that copy, or index the documents again into another folder "
        f"and another collection; if that copy is lost, remove {OWNER!r} from the metadata of the collection, and call "
        "verify(repair=True)"
    )


def _with_sidecars(
    path: Path, manifest: Manifest, pooled: PooledStore, sources: Iterable[str | Path] = ()
) -> DocumentStore:
    """Return the stores of an index. If one cannot be opened, the others are closed, including ``pooled``."""
    with ExitStack() as opened:
        opened.callback(pooled.close)
        advice = _ADD_AGAIN if manifest.encoder is None else _REPAIR
        data = path / manifest.data
        tokens = TokenStore(data / _TOKENS, get_codec(manifest.config.codec), advice=advice)
        opened.callback(tokens.close)
        pooled.sources = Sources(path, manifest.id, sources)
        images = ImageStore(path / "images", pooled.sources)
        store = DocumentStore(pooled, tokens, TermStore(data / "terms"), images, manifest.fingerprint, path)
        opened.pop_all()
    return store

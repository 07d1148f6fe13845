"""`snapshot`: a copy of an index, made while others read and write."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from dataclasses import replace
from pathlib import Path

from smart_rag.errors import IndexMismatch, InvalidInput, StorageFull
from smart_rag.index.folder import check_free
from smart_rag.index.manifest import Manifest
from smart_rag.index.writing.duplicates import FILE_NAME as DUPLICATES
from smart_rag.store.document_store import DocumentStore


def snapshot(path: Path, manifest: Manifest, store: DocumentStore, target: Path) -> None:
    """Copy the index in the folder ``path`` with the given ``manifest`` and ``store`` to the folder ``target``.

    The copy is made in a folder beside ``target``, which then gets the name ``target``. So ``target`` is never half a
    copy.

    Raises:
        InvalidInput: the rows are in a Chroma client of the caller.
        IndexExists: ``target`` is not empty.
        StorageFull: the disk is full. ``target`` stays as it was.
    """
    if not manifest.own_chroma:
        raise InvalidInput(
            f"{path}: the rows are in your own Chroma client, so a copy of this folder is no backup; back up Chroma "
            "and the folder together, while nobody writes"
        )
    if target.resolve().is_relative_to(path.resolve()):
        raise InvalidInput(f"{target}: a copy must not be inside the index itself; choose another folder")
    check_free(target)
    unfinished = target.with_name(f"{target.name}.{secrets.token_hex(4)}.partial")
    try:
        unfinished.mkdir(parents=True)
        with store.pooled.write_lock():
            now = Manifest.read(path)
            if now.data != manifest.data:
                raise IndexMismatch(f"{path}: the index was written anew at this moment; try again")
            store.copy_to(unfinished)
            if (path / DUPLICATES).is_file():
                shutil.copyfile(path / DUPLICATES, unfinished / DUPLICATES)
            replace(now, data="").write(unfinished)
        _sync(unfinished)
        unfinished.rename(target)  # it may replace an empty folder, but no other one
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise StorageFull(f"{target}: no space left on the disk; make room and try again") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Wait until everything in ``folder`` is on the disk."""
    for path in [*folder.rglob("*"), folder]:
        if os.name == "nt" and path.is_dir():  # Windows cannot open a folder
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

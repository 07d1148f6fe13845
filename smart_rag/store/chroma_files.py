"""Chroma's own files in a folder. They can be copied while nobody writes."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from smart_rag.errors import ChromaFailure, StorageFull

_DATABASE = "chroma.sqlite3"


def copy_chroma(folder: Path, target: Path) -> None:
    """Copy Chroma's ``folder`` to the new folder ``target``. The caller keeps others from writing meanwhile.

    Raises:
        ChromaFailure: the database cannot be read.
        StorageFull: the disk is full.
    """
    target.mkdir(parents=True)
    try:
        # SQLite itself copies its database, because a part of it may be in a file beside it.
        with (
            closing(sqlite3.connect(f"{(folder / _DATABASE).absolute().as_uri()}?mode=ro", uri=True)) as database,
            closing(sqlite3.connect(target / _DATABASE)) as copy,
        ):
            database.backup(copy)
    except sqlite3.Error as error:
        if "full" in str(error):
            raise StorageFull(f"{target}: no space left on the disk; make room and try again") from error
        raise ChromaFailure(f"{folder / _DATABASE}: {error}") from error
    for file in folder.rglob("*"):
        if file.is_file() and not file.name.startswith(_DATABASE):
            place = target / file.relative_to(folder)
            place.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, place)

"""The files that Chroma opens: those of the folder itself, or a copy of them.

Chroma writes whenever it is opened. So if this user cannot write to the folder, Chroma opens a copy in a temporary
folder. When another user writes, the files are copied again.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Protocol

from smart_rag.errors import IndexLocked, IndexNotFound, IndexReadOnly, StorageFull
from smart_rag.paths import is_writable, temporary_folder
from smart_rag.store.chroma.folder_lock import FolderLock, SharedLock

DATABASE = "chroma.sqlite3"
WRITES = "smart_rag.writes"
# Times that the files are copied, if they change while they are copied.
_ATTEMPTS = 20


class Files(Protocol):
    """The files of a Chroma folder. ``writes`` becomes longer with each write, and identifies the folder."""

    writes: Path
    is_read_only: bool

    @property
    def opened(self) -> Path:
        """The folder that `prepare` returned last."""

    def lock(self) -> AbstractContextManager[None]:
        """Return a context in which no other process writes."""

    def prepare(self) -> Path:
        """Return the folder in which Chroma can be opened now. Call it while the lock is held."""

    def count_write(self) -> None:
        """Make ``writes`` longer. Call it before each write."""

    def close(self) -> None:
        """Close what is open."""


def files_of(folder: Path) -> Files:
    """Return the files of the Chroma ``folder``, which is made if it is missing."""
    if not folder.exists() or all(map(is_writable, [folder, *folder.rglob("*")])):
        return OwnFiles(folder)
    return CopiedFiles(folder)


class OwnFiles:
    """The files of ``folder``, which this user can write to."""

    is_read_only = False

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # SQLite gives a new file fixed permissions, so that others of the user's group could not write to it. An empty
        # file is a new database, and has the permissions that the user's umask says.
        (folder / DATABASE).touch()
        self._folder = folder
        self._lock = FolderLock(folder)
        self.writes = folder / WRITES
        self._counter: IO[bytes] = self.writes.open("ab", buffering=0)

    @property
    def opened(self) -> Path:
        """The folder."""
        return self._folder

    def lock(self) -> AbstractContextManager[None]:
        """Return a context in which no other process writes or opens Chroma."""
        return self._lock.held()

    def prepare(self) -> Path:
        """Return the folder."""
        return self._folder

    def count_write(self) -> None:
        """Make ``writes`` longer by one byte."""
        self._counter.write(b".")

    def close(self) -> None:
        """Close the counter."""
        self._counter.close()


class CopiedFiles:
    """Copies of the files of ``folder``, which this user can only read.

    Raises:
        IndexNotFound: there is no database of Chroma.
    """

    is_read_only = True

    def __init__(self, folder: Path) -> None:
        if not (folder / DATABASE).is_file():
            raise IndexNotFound(f"{folder}: the file {DATABASE} is missing; restore it, or index the documents again")
        self._folder = folder
        self._lock = SharedLock(folder)
        # Copies of an index may lack the empty files.
        self.writes = folder / (WRITES if (folder / WRITES).is_file() else DATABASE)
        self._open = self.writes.open("rb")  # so that no other file gets its inode
        self._temporary = temporary_folder(self)
        self._copies = 0

    def lock(self) -> AbstractContextManager[None]:
        """Return a context in which no other process writes or opens Chroma, if this user may lock the file."""
        return self._lock.held()

    def prepare(self) -> Path:
        """Copy the files, and return the folder of the copy. The earlier copy is removed, so close its client first.

        Raises:
            IndexLocked: another process changes the files all the time.
            StorageFull: the disk of the temporary folder is full.
        """
        for _ in range(_ATTEMPTS):
            self._remove_copy()
            self._copies += 1
            before = _states(self._folder)
            if before is not None and self._copied(before) and before == _states(self._folder):
                return self.opened
        raise IndexLocked(f"{self._folder}: another process writes all the time, so the files cannot be copied")

    @property
    def opened(self) -> Path:
        """The folder of the last copy."""
        return self._temporary / str(self._copies)  # a new name, because Chroma knows its folders by their paths

    def _copied(self, files: dict[Path, tuple[int, int]]) -> bool:
        """Copy ``files``. Return whether all of them were there."""
        self.opened.mkdir()
        try:
            for file in files:
                target = self.opened / file.relative_to(self._folder)
                target.parent.mkdir(exist_ok=True, parents=True)
                shutil.copyfile(file, target)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            self._remove_copy()
            raise StorageFull(
                f"{self._temporary}: no space left on the disk for a copy of {self._folder}, which this user cannot "
                "write to; make room, or name another folder by the environment variable TMPDIR"
            ) from error
        return True

    def _remove_copy(self) -> None:
        shutil.rmtree(self.opened, ignore_errors=True)

    def count_write(self) -> None:
        """Raise `IndexReadOnly`."""
        raise IndexReadOnly(f"{self._folder}: this user cannot write to the folder")

    def close(self) -> None:
        """Remove the copy."""
        self._open.close()
        shutil.rmtree(self._temporary, ignore_errors=True)


def _states(folder: Path) -> dict[Path, tuple[int, int]] | None:
    """Return a dict from each file of Chroma to its length and time. Return None if a file has just been removed."""
    try:
        return {file: (stat.st_size, stat.st_mtime_ns) for file in _files(folder) if (stat := file.stat())}
    except FileNotFoundError:
        return None


def _files(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("smart_rag."))

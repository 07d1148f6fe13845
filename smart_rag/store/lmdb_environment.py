"""LMDB environment of a folder. It has transactions for threads and processes, a map that grows, and our own
errors.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar

import lmdb

from smart_rag.errors import (
    CorruptStore,
    IndexClosed,
    IndexLocked,
    IndexMismatch,
    IndexReadOnly,
    SmartRagError,
    StorageFull,
    UseAfterFork,
)
from smart_rag.paths import is_writable
from smart_rag.store.checks.lmdb_pages import ADVICE, check_pages, check_start
from smart_rag.store.place import Identity, identity_of

FILE_NAME = "data.mdb"
_LOCK_NAME = "lock.mdb"
# Key of the layout in the unnamed database.
_LAYOUT = b"layout"
_READABLE_LAYOUT = re.compile(rb"([a-z]+ )?\d+")
_FIRST_MAP_BYTES = 1 << 26
# If fewer bytes than this are free, an input/output error is reported as a full disk.
_FULL_DISK_BYTES = 1 << 20
# Times that a read is repeated because a writer has changed its pages.
_ATTEMPTS = 20

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


class _PagesChanged(IndexLocked):
    """A writer may have changed the pages that a transaction has read."""


def repeated(read: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Decorate a method that reads an environment. If a writer has changed the pages, the method is called again.

    Raises:
        IndexLocked: a writer has changed the pages each time.
    """

    @wraps(read)
    def call(self: S, /, *arguments: P.args, **options: P.kwargs) -> R:
        for _ in range(_ATTEMPTS - 1):
            try:
                return read(self, *arguments, **options)
            except _PagesChanged:
                continue
        return read(self, *arguments, **options)

    return call


def _can_write(file: Path, lock: Path) -> bool:
    """Return whether this user can write to LMDB's ``file``. Its ``lock`` file is made if it is missing."""
    return is_writable(file) and is_writable(lock if lock.exists() else lock.parent)


class Environment:
    """LMDB environment. All stores of this process in the same folder share it.

    LMDB has three rules. First, a process may open a file only once. So the stores share one environment. Second, no
    transaction may run while the map grows. So a resize waits for the readers, and new readers wait for the resize.
    Third, a forked process must neither use nor close the environment of its parent, because this would end the reads
    of the parent. So the environment raises an error in a forked process.

    If this user cannot write to the files, the environment is opened for reading. Usually, a reader registers in
    ``lock.mdb``, and no writer changes the pages that it reads. A reader that cannot write to ``lock.mdb`` cannot
    register. So each read compares the number of the last transaction before and after. If a writer may have changed
    the pages meanwhile, the read raises `_PagesChanged`, and `repeated` calls the function again.
    """

    # Two paths may lead to the same file, and one path may lead to different files at different times.
    _open: ClassVar[dict[Identity | None, Environment]] = {}
    _registry = threading.Lock()

    def __init__(
        self, path: Path, layout: bytes, databases: Sequence[str], map_bytes: int, later: Sequence[str]
    ) -> None:
        file, lock = path / FILE_NAME, path / _LOCK_NAME
        self.is_read_only = file.exists() and not _can_write(file, lock)
        # Whether readers can register. If there is no lock file, one can be made only in a folder that is writable.
        self._registers = not self.is_read_only or is_writable(lock)
        if not file.exists() and not is_writable(next(place for place in (path, *path.parents) if place.exists())):
            raise CorruptStore(f"{file} is missing, and this user cannot write to {path}; repair the index elsewhere")
        with _lmdb_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._process = os.getpid()
        self._users = 0
        self._readers = 0
        self._resizing = False
        self._closed = False
        self._condition = threading.Condition()
        self._writer = threading.RLock()
        # For changes that take several transactions. The environment itself does not use it.
        self.batch_lock = threading.RLock()
        with _lmdb_errors(path):
            if file.exists():
                check_start(file)
            size = max(map_bytes, 2 * file.stat().st_size if file.exists() else 0)
            # Readahead is on, which is LMDB's default. We measured it with cold caches and 300 MB. One gather of 100
            # random documents took 250 ms, and ten of them took 400 ms. Without readahead, they took 350 and 2000 ms.
            self._lmdb: Any = lmdb.open(
                str(path),
                map_size=size,
                max_readers=1024,
                max_dbs=len(databases) + len(later),
                readonly=self.is_read_only,
                lock=self._registers,
                mode=0o666,  # the user's umask decides
            )
            self._page = int(self._lmdb.stat()["psize"])
        self.identity = identity_of(file)
        try:
            self.databases = self._open_databases(layout, databases, later)
        except BaseException:
            self._lmdb.close()
            raise

    @classmethod
    def at(
        cls,
        path: Path,
        layout: bytes,
        databases: Sequence[str],
        map_bytes: int = _FIRST_MAP_BYTES,
        later: Sequence[str] = (),
    ) -> Environment:
        """Return the environment in the folder ``path``, and count one more user. Each user calls `release` at the end.

        Args:
            path: the folder. It is made if it is missing.
            layout: version of the contents. It is written to a new environment. In an existing environment, it must be
                the same.
            databases: names of the databases. They are made in a new environment.
            map_bytes: size of LMDB's map at first. It grows when it is too small.
            later: names of databases that older environments lack. They are made, unless this user cannot write.

        Raises:
            IndexMismatch: the environment has another layout.
            CorruptStore: the file is damaged.
            UseAfterFork: the environment was already open when this process was forked.
        """
        with cls._registry:
            identity = identity_of(path / FILE_NAME)
            environment = None if identity is None else cls._open.get(identity)
            if environment is None:
                environment = cls(path, layout, databases, map_bytes, later)
                cls._open[environment.identity] = environment
            environment._check_process()
            environment._path = path  # the folder may have been moved since it was opened
            environment._users += 1
            return environment

    def _open_databases(self, layout: bytes, names: Sequence[str], later: Sequence[str]) -> dict[str, Any]:
        """Return the handles of the databases. In a new environment, make the databases first."""
        databases: dict[str, Any] = {}
        if self.is_read_only:
            return self._find_databases(layout, names, later)

        def action(transaction: Any) -> None:
            check_pages(self._path / FILE_NAME, self._page)  # first, because LMDB follows damaged numbers as addresses
            new = not transaction.stat()["entries"]
            if new:
                transaction.put(_LAYOUT, layout)
            self._check_layout(transaction.get(_LAYOUT), layout)
            for name in names:
                databases[name] = self._lmdb.open_db(name.encode(), transaction, create=new)
            for name in later:
                databases[name] = self._lmdb.open_db(name.encode(), transaction)

        # Only a write transaction can make handles that last. So opening waits for a writer in another process. Reads
        # after that never wait.
        self.write(action)
        return databases

    def copy_to(self, folder: Path) -> None:
        """Copy the environment to the new ``folder``, without free pages.

        Raises:
            StorageFull: the disk is full.
        """
        with self.read() as transaction, _lmdb_errors(folder):
            folder.mkdir(parents=True)
            self._lmdb.copy(str(folder), compact=True, txn=transaction)

    @repeated
    def _find_databases(self, layout: bytes, names: Sequence[str], later: Sequence[str]) -> dict[str, Any]:
        """Return the handles of the databases, which another user has made."""
        with self.read(buffers=False) as transaction:
            check_pages(self._path / FILE_NAME, self._page)
            self._check_layout(transaction.get(_LAYOUT), layout)
            databases = {name: self._lmdb.open_db(name.encode(), create=False) for name in names}
            for name in later:
                with suppress(lmdb.NotFoundError):
                    databases[name] = self._lmdb.open_db(name.encode(), create=False)
            return databases

    def _check_layout(self, found: bytes | None, expected: bytes) -> None:
        if found == expected:
            return
        if found is not None and not _READABLE_LAYOUT.fullmatch(found):
            raise CorruptStore(
                f"{self._path / FILE_NAME}: expected the layout {expected.decode()!r}, found {str(found)[1:]:.80}; the "
                f"file is damaged; {ADVICE}"
            )
        raise IndexMismatch(
            f"{self._path}: the store has layout {'1' if found is None else found.decode()}, "
            f"this smart_rag reads and writes layout {expected.decode()}; index the documents again into another folder"
        )

    def used_bytes(self, transaction: Any) -> int:
        """Return the bytes of the pages in use, as ``transaction`` sees them."""
        stats = [transaction.stat(database) for database in (None, *self.databases.values())]
        return self._page * sum(int(stat[f"{kind}_pages"]) for stat in stats for kind in ("branch", "leaf", "overflow"))

    def release(self) -> None:
        """Count one user less. The last user closes the environment, as soon as no thread reads or writes.

        A forked process does nothing, because the environment belongs to its parent.
        """
        if self._process != os.getpid():
            return
        with self._registry:
            self._users -= 1
            if self._users == 0:
                del self._open[self.identity]
                with self._writer, self._alone():
                    self._closed = True
                    self._lmdb.close()

    @contextmanager
    def read(self, buffers: bool = True) -> Iterator[Any]:
        """Yield a read transaction.

        The values that it reads are bytes. With ``buffers``, the values are views that are valid only inside the
        block.

        Raises:
            IndexClosed: the last user has released the environment.
            UseAfterFork: the environment was opened before this process was forked.
        """
        self._check_process()
        with _lmdb_errors(self._path):
            transaction = self._begin_read(buffers)
            number = transaction.id()
            try:
                with transaction:
                    yield transaction
            except Exception:
                self._check_unchanged(number)  # the reason may be that the pages have changed
                raise
            else:
                self._check_unchanged(number)
            finally:
                self._leave()

    def _begin_read(self, buffers: bool) -> Any:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: not self._resizing)
                self._check_open()
                self._readers += 1
            try:
                return self._lmdb.begin(buffers=buffers)
            except lmdb.MapResizedError:  # another process has written beyond the end of our map
                self._leave()
                self._resize(0)
            except BaseException:
                self._leave()
                raise

    def _check_unchanged(self, number: int) -> None:
        """Raise `_PagesChanged` if a writer may have changed the pages of the transaction ``number``.

        Transaction n + 1 is the first that may free these pages. LMDB uses freed pages again two transactions later.
        So transaction n + 3 is the first that may change them. It begins after n + 2 has been committed.
        """
        if not self._registers and self._lmdb.info()["last_txnid"] > number + 1:
            raise _PagesChanged(
                f"{self._path}: another process writes all the time, and this user cannot register as a reader; try "
                f"again, or let this user write to {self._path / _LOCK_NAME}"
            )

    def _leave(self) -> None:
        with self._condition:
            self._readers -= 1
            self._condition.notify_all()

    def write(self, action: Callable[[Any], None], size: int = 0) -> None:
        """Run ``action(transaction)`` and commit. If it raises an error, undo everything.

        ``size`` is the approximate number of bytes that the action adds. The map first grows by this number of bytes.
        If the map is still too small, it grows again, and the action runs again.

        Raises:
            StorageFull: the disk is full. Nothing was written.
            IndexClosed: the last user has released the environment.
            UseAfterFork: the environment was opened before this process was forked.
        """
        self._check_process()
        if self.is_read_only:
            raise IndexReadOnly(f"{self._path}: this user cannot write to the store")
        with self._writer, _lmdb_errors(self._path):
            self._check_open()
            self._lmdb.reader_check()  # frees the pages that a killed process has been reading
            while (needed := self._used() + 2 * size) > self._lmdb.info()["map_size"]:
                self._resize(2 * needed)
            while True:
                try:
                    transaction = self._lmdb.begin(write=True)
                except lmdb.MapResizedError:
                    self._resize(0)
                    continue
                try:
                    action(transaction)
                    transaction.commit()
                    return
                except BaseException as error:
                    # py-lmdb must not abort a transaction while another thread is in a call.
                    with self._alone():
                        transaction.abort()
                        if not isinstance(error, lmdb.MapFullError):
                            raise
                        self._lmdb.set_mapsize(2 * self._lmdb.info()["map_size"])

    def _used(self) -> int:
        """Return the number of bytes up to the last page in use."""
        return (int(self._lmdb.info()["last_pgno"]) + 1) * self._page

    def _resize(self, size: int) -> None:
        """Set the size of the map while no thread reads or writes. With 0, the map becomes as large as the file."""
        with self._writer, self._alone():
            self._check_open()
            self._lmdb.set_mapsize(size)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no thread reads. While the block runs, no thread can begin to read."""
        with self._condition:
            self._condition.wait_for(lambda: not self._resizing)
            self._resizing = True
            try:
                self._condition.wait_for(lambda: self._readers == 0)
                yield
            finally:
                self._resizing = False
                self._condition.notify_all()

    def _check_process(self) -> None:
        if self._process != os.getpid():
            raise UseAfterFork.of(f"{self._path}: the store")

    def _check_open(self) -> None:
        if self._closed:
            raise IndexClosed(f"{self._path}: the store is closed; open it again")


def _renew_registry() -> None:
    """Replace the lock in a forked process. A thread of the parent may have held the lock."""
    Environment._registry = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_registry)


@contextmanager
def _lmdb_errors(path: Path) -> Iterator[None]:
    """Turn LMDB's errors into ours."""
    try:
        yield
    except (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError) as error:
        raise CorruptStore(f"{path}: not an LMDB file, or a damaged one: {error}; {ADVICE}") from error
    except (lmdb.Error, OSError) as error:
        code = getattr(error, "code", None) or getattr(error, "errno", None)
        # If only a part of a write fits on the disk, the write fails with EIO.
        full = code == errno.EIO and shutil.disk_usage(path).free < _FULL_DISK_BYTES
        if full or code == errno.ENOSPC or "No space left" in str(error):
            raise StorageFull(
                f"{path}: no space left on the disk; make room and open it again; what was written before is safe"
            ) from error
        raise SmartRagError(f"{path}: {error}") from error

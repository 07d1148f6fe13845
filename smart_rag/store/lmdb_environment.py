"""One LMDB environment for a folder: transactions for threads and processes, a map that grows, errors in our words."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import lmdb

from smart_rag.errors import CorruptStore, IndexClosed, IndexMismatch, SmartRagError, StorageFull, UseAfterFork

_LAYOUT = b"layout"
_FIRST_MAP_BYTES = 1 << 26
# The file of a sound environment may lack a few pages at its end that were taken and given back.
_SLACK_PAGES = 64
_NO_ROOM = 1 << 20


class Environment:
    """An LMDB environment, shared by every store of this process on the same path.

    LMDB allows one environment for each file and process, and wants no transaction to run
    while its map grows; both rules are kept here. A forked process can neither use its parent's
    environment nor close it, which would end what the parent is reading.
    """

    # By device and inode of the file: two paths may lead to one, and one path to two after another.
    _open: ClassVar[dict[tuple[int, int], Environment]] = {}
    _registry = threading.Lock()

    def __init__(self, path: Path, layout: bytes, databases: Sequence[str]) -> None:
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
        file = path / "data.mdb"
        with _lmdb_errors(path):
            size = max(_FIRST_MAP_BYTES, 2 * file.stat().st_size if file.exists() else 0)
            # With readahead, LMDB's default: a gather of 100 random documents of 300 MB in no cache took 250 ms, ten of
            # them 400; without it, page by page, they took 350 and 2000.
            self._lmdb: Any = lmdb.open(str(path), map_size=size, max_readers=1024, max_dbs=len(databases))
            self._page = int(self._lmdb.stat()["psize"])
        stat = file.stat()
        self._identity = (stat.st_dev, stat.st_ino)
        try:
            if self._used() > stat.st_size + _SLACK_PAGES * self._page:
                # Reading the part that is not there would end the process.
                raise CorruptStore(f"{file}: cut short, to {stat.st_size:,} bytes")
            self.databases = self._open_databases(layout, databases)
        except BaseException:
            self._lmdb.close()
            raise

    @classmethod
    def at(cls, path: Path, layout: bytes, databases: Sequence[str]) -> Environment:
        """Return the environment in the folder ``path``, opened if it is not.

        A new one gets ``databases`` and is marked with the ``layout`` of what they hold.

        Raises:
            IndexMismatch: it has another layout.
            UseAfterFork: it was open already when this process was forked.
        """
        with cls._registry:
            file = path / "data.mdb"
            stat = file.stat() if file.exists() else None
            environment = cls._open.get((stat.st_dev, stat.st_ino)) if stat else None
            if environment is None:
                environment = cls(path, layout, databases)
                cls._open[environment._identity] = environment
            environment._check_process()
            environment._users += 1
            return environment

    def _open_databases(self, layout: bytes, names: Sequence[str]) -> dict[str, Any]:
        """Return the handles of the databases, made where the environment is new."""
        databases = {}

        def action(transaction: Any) -> None:
            new = not transaction.stat()["entries"]
            if new:
                transaction.put(_LAYOUT, layout)
            found = transaction.get(_LAYOUT)
            if found != layout:
                raise IndexMismatch(
                    f"{self._path}: a store of layout {'1' if found is None else found.decode()}, "
                    f"this smart_rag reads and writes layout {layout.decode()}; index the documents again into another "
                    "folder"
                )
            for name in names:
                databases[name] = self._lmdb.open_db(name.encode(), transaction, create=new)

        # Handles outlive only a transaction that may write. Who opens waits for what another process is writing just
        # now; who reads then waits for nobody.
        self.write(action)
        return databases

    def used_bytes(self, transaction: Any) -> int:
        """Return the bytes of the pages in use, as ``transaction`` sees them."""
        stats = [transaction.stat(database) for database in (None, *self.databases.values())]
        return self._page * sum(int(stat[f"{kind}_pages"]) for stat in stats for kind in ("branch", "leaf", "overflow"))

    def release(self) -> None:
        """Count one user less; when none is left, close once no thread reads or writes any more."""
        if self._process != os.getpid():
            return
        with self._registry:
            self._users -= 1
            if self._users == 0:
                del self._open[self._identity]
                with self._writer, self._alone():
                    self._closed = True
                    self._lmdb.close()

    @contextmanager
    def read(self, buffers: bool = True) -> Iterator[Any]:
        """Yield a read transaction; it gives keys and values as buffers, valid inside of the block, or as bytes."""
        self._check_process()
        with _lmdb_errors(self._path):
            transaction = self._begin_read(buffers)
            try:
                with transaction:
                    yield transaction
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
            except lmdb.MapResizedError:  # another process wrote more than our map shows
                self._leave()
                self._resize(0)
            except BaseException:
                self._leave()
                raise

    def _leave(self) -> None:
        with self._condition:
            self._readers -= 1
            self._condition.notify_all()

    def write(self, action: Callable[[Any], None], size: int = 0) -> None:
        """Run ``action(transaction)`` and commit; ``size`` says about how many bytes it adds.

        The map grows beforehand where it can be told; where that was too little, again.
        """
        self._check_process()
        with self._writer, _lmdb_errors(self._path):
            self._check_open()
            self._lmdb.reader_check()  # what a killed process was reading need not be kept
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
                    # py-lmdb's abort waits for a moment in which no thread is inside of a call.
                    with self._alone():
                        transaction.abort()
                        if not isinstance(error, lmdb.MapFullError):
                            raise
                        self._lmdb.set_mapsize(2 * self._lmdb.info()["map_size"])

    def _used(self) -> int:
        """Return the bytes up to the last page in use."""
        return (int(self._lmdb.info()["last_pgno"]) + 1) * self._page

    def _resize(self, size: int) -> None:
        """Set the map's size (0: as large as the file) in a moment when nobody reads or writes."""
        with self._writer, self._alone():
            self._check_open()
            self._lmdb.set_mapsize(size)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep readers out, once those who are in have left."""
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
    """Have a lock that no thread of the parent holds."""
    Environment._registry = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_registry)


@contextmanager
def _lmdb_errors(path: Path) -> Iterator[None]:
    """Turn LMDB's errors into ours."""
    try:
        yield
    except (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError) as error:
        raise CorruptStore(f"{path}: not an LMDB file, or a damaged one: {error}") from error
    except (lmdb.Error, OSError) as error:
        code = getattr(error, "code", None) or getattr(error, "errno", None)
        # A write that half fits ends in EIO.
        full = code == errno.EIO and shutil.disk_usage(path).free < _NO_ROOM
        if full or code == errno.ENOSPC or "No space left" in str(error):
            raise StorageFull(
                f"{path}: no space left on the disk; make room and open it again: what was acknowledged is safe"
            ) from error
        raise SmartRagError(f"{path}: {error}") from error

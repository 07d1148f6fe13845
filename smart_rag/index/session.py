"""`Session`: whether an index is open, and whether this process may write to it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar
from weakref import WeakSet, WeakValueDictionary

from filelock import FileLock, Timeout

from smart_rag.errors import IndexClosed, IndexLocked, UseAfterFork
from smart_rag.index.manifest import FILE_NAME, Manifest
from smart_rag.store.place import Identity, Place

logger = logging.getLogger(__name__)


class _WriteLock:
    """The lock of one index in this process. ``file`` locks out other processes. ``mutex`` makes threads take turns.

    ``holders`` are the sessions that write. The last session to close releases ``file``.
    """

    def __init__(self, folder: Path) -> None:
        self.file = FileLock(folder / "write.lock", timeout=0, thread_local=False)
        self.mutex = threading.RLock()
        self.depth = 0  # number of running blocks of `Session.writing`, all in the thread that has the mutex
        self.holders: WeakSet[Session] = WeakSet()


class Session:
    """The time from opening the index at ``path`` to closing it.

    The first write takes a lock on the folder. Until `close`, no other process can write. Threads of this process take
    turns. Several sessions of this process also take turns. For example, a notebook cell that runs twice opens its
    index twice.

    Args:
        place: the folder of the index.
        id: the id of the index. None if it has none yet.
        on_first_write: a function that is called once, as soon as the session holds the lock.
        find_again: a function that is called if the manifest or the stores have been replaced. If the stores have been
            written anew, it opens the new ones and returns their place. Otherwise, it returns None.
    """

    # The keys have the id and the folder of an index, because an index that was moved has its lock in another place.
    # If a session is dropped without `close`, its lock is dropped with it.
    _locks: ClassVar[WeakValueDictionary[tuple[str | Identity | None, Path], _WriteLock]] = WeakValueDictionary()
    _registry: ClassVar[threading.Lock] = threading.Lock()

    def __init__(
        self,
        place: Place,
        id: str | None,
        on_first_write: Callable[[], object],
        find_again: Callable[[], Place | None],
    ) -> None:
        self.path = place.folder
        self._place = place
        self._on_first_write = on_first_write
        self._find_again = find_again
        self._finding = threading.Lock()
        self._closed = False
        self._process = os.getpid()
        self._folder = self.path.resolve()
        self._id = id
        self._manifest: tuple[int, int, int] | None = None  # the state of the file when its id was last compared
        key = place.identity if id is None else id, self._folder
        with self._registry:
            self._lock = self._locks.get(key) or _WriteLock(self.path)
            self._locks[key] = self._lock

    def named(self, id: str) -> None:
        """Say that the index now has this ``id``, so that later sessions share the lock."""
        with self._registry:
            self._locks[id, self._folder] = self._lock

    def switch(self, action: Callable[[], Place]) -> None:
        """Call ``action``, which switches to new stores and returns their place. No other thread switches meanwhile."""
        with self._finding:
            self._place = action()

    def check_open(self) -> None:
        """Raise an error unless the index can be used.

        Raises:
            UseAfterFork: this process was forked after the index was opened.
            IndexClosed: `close` was called.
            IndexNotFound: the folder was deleted, moved or replaced.
        """
        if self._process != os.getpid():
            raise UseAfterFork.of(f"{self.path}: the index")
        if self._closed:
            raise IndexClosed(f"{self.path}: the index is closed; open it again with SmartIndex.open")
        state = _state(self.path)  # first, so that a later change of the manifest is noticed by the next call
        if state == self._manifest and self._place.is_same():
            return
        with self._finding:
            if (place := self._find_again()) is not None:
                self._place = place
        self._place.check()
        self._check_id(state)

    def _check_id(self, state: tuple[int, int, int] | None) -> None:
        """Raise `IndexNotFound` if another index was copied into the files of this one, which leaves their inodes."""
        found = Manifest.read(self.path).id
        if self._id is not None and found != self._id:
            raise self._place.replaced()
        self._manifest, self._id = state, found  # an index of an older version gets its id at the first write

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Lock out other writers: other threads while the block runs, and other processes until `close`.

        Raises:
            IndexClosed, IndexNotFound, UseAfterFork: as in `check_open`.
            IndexLocked: another process holds the lock.
            IndexReadOnly: this user cannot write to the index.
        """
        self.check_open()  # before the mutex, because in a forked process, a thread of the parent may hold it
        with self._lock.mutex:
            self.check_open()
            if self not in self._lock.holders:
                self._take_lock()
                logger.debug("process %d writes to %s", os.getpid(), self.path)
                try:
                    self._on_first_write()
                except BaseException:
                    self._give_back_lock()  # the next write calls the function again
                    raise
            self._lock.depth += 1
            try:
                yield
            finally:
                self._lock.depth -= 1

    @contextmanager
    def unless_writing(self) -> Iterator[bool]:
        """Yield whether this process may write and does not write. While the block runs, no thread begins to write.

        This function does not wait.
        """
        mutex = self._lock.mutex
        if not mutex.acquire(blocking=False):
            yield False
            return
        try:
            yield self._lock.file.is_locked and not self._lock.depth
        finally:
            mutex.release()

    def _take_lock(self) -> None:
        self._place.check_writable()
        if not self._lock.file.is_locked:
            try:
                self._lock.file.acquire()
            except Timeout:
                raise IndexLocked(
                    f"{self.path}: another process has the index open for writing; close it there, or wait until it is "
                    "done"
                ) from None
        self._lock.holders.add(self)

    def close(self, release: Callable[[], object]) -> None:
        """End the session: call ``release``. The last open session releases the lock. A second call does nothing.

        In a forked process, `close` does nothing, because everything belongs to the parent.
        """
        if self._process != os.getpid():
            return
        with self._lock.mutex:
            if not self._closed:
                self._closed = True
                release()
                self._give_back_lock()

    def _give_back_lock(self) -> None:
        self._lock.holders.discard(self)
        if not self._lock.holders:
            self._lock.file.release()


def _state(folder: Path) -> tuple[int, int, int] | None:
    """Return numbers that change when the manifest in ``folder`` is written. Return None if there is no manifest."""
    try:
        stat = (folder / FILE_NAME).stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns

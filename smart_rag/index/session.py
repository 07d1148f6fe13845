"""`Session`: whether an index is open, and whether this process may write to it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar

from filelock import FileLock, Timeout

from smart_rag.errors import IndexClosed, IndexLocked, UseAfterFork
from smart_rag.store.place import Identity, Place

logger = logging.getLogger(__name__)


class Session:
    """The time from opening the index at ``path`` to closing it.

    The first write takes a lock on the folder. Until `close`, no other process can write. Threads of this process take
    turns.

    Args:
        place: the folder of the index.
        on_first_write: called once, as soon as the lock is held.
    """

    _writing: ClassVar[set[Identity | None]] = set()  # indexes that this process writes to

    def __init__(self, place: Place, on_first_write: Callable[[], object]) -> None:
        self.path = place.folder
        self._place = place
        self._on_first_write = on_first_write
        self._mutex = threading.RLock()
        self._lock = FileLock(self.path / "write.lock", timeout=0, thread_local=False)
        self._closed = False
        self._process = os.getpid()

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
        self._place.check()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep others from writing: other threads while the block runs, other processes until `close`.

        Raises:
            IndexClosed, IndexNotFound, UseAfterFork: as in `check_open`.
            IndexLocked: another process, or another session of this one, holds the lock.
        """
        self.check_open()  # before the mutex: in a forked process, a thread of the parent may have held it
        with self._mutex:
            self.check_open()
            if not self._lock.is_locked:
                self._take_lock()
                logger.debug("process %d writes to %s", os.getpid(), self.path)
                self._on_first_write()
            yield

    def _take_lock(self) -> None:
        try:
            self._lock.acquire()
        except Timeout:
            advice = (
                "it is a SmartIndex of this process: close that one first, or write with it"
                if self._place.identity in self._writing
                else "close it there, or wait until it is done"
            )
            raise IndexLocked(f"{self.path}: another writer has the index open; {advice}") from None
        self._writing.add(self._place.identity)

    def close(self, release: Callable[[], object]) -> None:
        """End the session: call ``release``, then release the lock. Later calls do nothing.

        In a forked process, this does nothing, because everything belongs to the parent.
        """
        if self._process != os.getpid():
            return
        with self._mutex:
            if not self._closed:
                self._closed = True
                release()
                if self._lock.is_locked:
                    self._writing.discard(self._place.identity)
                    self._lock.release()

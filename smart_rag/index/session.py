"""`Session`: whether an index is open, and whether this process may write to it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from smart_rag.errors import IndexClosed, IndexLocked, UseAfterFork

logger = logging.getLogger(__name__)


class Session:
    """The time from opening the index at ``path`` to closing it.

    The first write takes a lock on the folder. Until `close`, no other process can write. Threads of this process take
    turns.

    Args:
        path: the folder of the index.
        on_first_write: called once, as soon as the lock is held.
    """

    def __init__(self, path: Path, on_first_write: Callable[[], object]) -> None:
        self.path = path
        self._on_first_write = on_first_write
        self._mutex = threading.RLock()
        self._lock = FileLock(path / "write.lock", timeout=0, thread_local=False)
        self._closed = False
        self._process = os.getpid()

    def check_open(self) -> None:
        """Raise `IndexClosed` if `close` was called, and `UseAfterFork` in a process that was forked since."""
        if self._process != os.getpid():
            raise UseAfterFork.of(f"{self.path}: the index")
        if self._closed:
            raise IndexClosed(f"{self.path}: the index is closed; open it again with SmartIndex.open")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep others from writing: other threads while the block runs, other processes until `close`.

        Raises:
            IndexClosed: `close` was called.
            UseAfterFork: the index was opened before this process was forked.
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
            raise IndexLocked(
                f"{self.path}: another writer has the index open; close it there, or wait until it is done"
            ) from None

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
                self._lock.release()

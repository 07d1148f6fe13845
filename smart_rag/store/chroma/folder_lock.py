"""Locks of a Chroma folder: `FolderLock` for users who can write, `SharedLock` for users who can only read.

A process that writes all the time takes the lock again as soon as it has released it. Another process would seldom find
the lock free. So there is a second lock, the *turn*. A process takes the turn before it waits for the lock, and gives
the turn back when it has the lock. So at most one process waits for the lock, and gets it as soon as it is free.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock

LOCK, TURN = "smart_rag.lock", "smart_rag.turn"
# Seconds between two attempts to get a lock that another process holds.
_POLL_SECONDS = 0.001


class FolderLock:
    """The lock of the Chroma folder ``folder``. One thread of one process holds it, and may take it again."""

    def __init__(self, folder: Path) -> None:
        self._lock = FileLock(folder / LOCK, thread_local=False)
        self._turn = FileLock(folder / TURN, thread_local=False)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock while the block runs. The threads of this process must have taken turns already."""
        if self._lock.is_locked:  # another process may have the turn, and wait for this lock
            with self._lock:
                yield
            return
        with self._turn.acquire(poll_interval=_POLL_SECONDS):
            self._lock.acquire(poll_interval=_POLL_SECONDS)
        try:
            yield
        finally:
            self._lock.release()


class SharedLock:
    """The same lock for users who can only read the folder. It keeps writers out, but no other readers.

    If the system does not let such users lock a file, or if a file is missing, there is no lock.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._depth = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock while the block runs. The threads of this process must have taken turns already."""
        with ExitStack() as stack:
            if self._depth == 0:
                with _shared(self._folder / TURN):
                    stack.enter_context(_shared(self._folder / LOCK))
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1


@contextmanager
def _shared(path: Path) -> Iterator[None]:
    if sys.platform == "win32":
        yield
        return
    import fcntl

    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        yield
        return
    try:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(file)

"""Chroma's client for an index, the caller's own or one for its folder, and Chroma's errors as ours.

Chroma keeps what it has read in memory and does not notice that another process writes. It may
also write when it opens: it applies and purges its log. So two files of ours lie beside its own.
`smart_rag.lock` is held for one write, or while Chroma is opened: an opening never sees half a
write, and two processes never write to the files at once. `smart_rag.writes` is a byte longer
for each write: before each read its length is compared, and where it is not the one known,
Chroma is opened anew. (Chroma's own files tell nothing: a mere opening changes them.)

A forked process has none of Chroma's threads. Some of them serve every client of a process (Rayon's
global pool), so a new client in the child waits for ever, too, even if the parent has closed its own.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from filelock import FileLock

from smart_rag.errors import (
    ChromaFailure,
    DimensionMismatch,
    IndexClosed,
    InvalidInput,
    SmartRagError,
    StorageFull,
    UseAfterFork,
)

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from chromadb.api.models.Collection import Collection

_NO_ROOM = 16 << 20
# Seconds between two looks at a lock that another process holds.
_POLL = 0.001


class GivenClient:
    """A Chroma client of the caller's."""

    def __init__(self, client: ClientAPI) -> None:
        self._client = client
        self._collections: dict[str, Collection] = {}

    @contextmanager
    def still(self) -> Iterator[ClientAPI]:
        yield self._client

    def read(self, name: str, method: str, arguments: Mapping[str, Any]) -> Any:
        if name not in self._collections:
            self._collections[name] = self._client.get_collection(name, embedding_function=None)
        return getattr(self._collections[name], method)(**arguments)

    write = read

    def release(self) -> None:
        """Leave the client open: it is the caller's."""


class FolderClient:
    """The Chroma in a folder: one client for every `PooledIndex` of this process on that path.

    It is opened anew where another process has written, in a moment when no thread is inside of
    a call to it.
    """

    _open: ClassVar[dict[Path, FolderClient]] = {}
    _registry = threading.Lock()
    _process: ClassVar[int | None] = None  # that opened Chroma first; a forked one inherits it

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._users = 0
        self._calls = 0
        self._reopening = False
        self._closed = False
        self._condition = threading.Condition()
        self._thread_lock = threading.RLock()
        self._process_lock = FileLock(path / "smart_rag.lock", thread_local=False)
        self._writes = path / "smart_rag.writes"
        self._writes.touch()
        self._known = -1  # writes that the client knows of
        self._client: Any = None
        self._collections: dict[str, Collection] = {}

    @classmethod
    def at(cls, path: Path) -> FolderClient:
        """Return the Chroma in the folder ``path``, for one user more."""
        path = path.resolve()
        cls._check_process(path)
        cls._process = os.getpid()
        with cls._registry:
            folder = cls._open.get(path) or cls(path)
            cls._open[path] = folder
            folder._users += 1
            return folder

    def release(self) -> None:
        """Count one user less; when none is left, close. In a forked process, nothing is there to close."""
        if self._process != os.getpid():
            return
        with self._registry:
            self._users -= 1
            if self._users == 0:
                del self._open[self._path]
                with self._thread_lock, self._alone():
                    self._closed = True
                    self._close()

    @contextmanager
    def still(self) -> Iterator[ClientAPI]:
        """Yield the client, which knows of every write; there is none by another thread or process in the block."""
        self._check_process(self._path)  # first: a forked process may wait for ever at any lock
        with self._thread_lock, self._process_lock.acquire(poll_interval=_POLL):
            if self._closed:
                raise IndexClosed(f"{self._path}: the pooled index is closed; open it again")
            if self._known != (written := self._written()):
                with self._alone():
                    self._close()
                    self._client = _persistent(self._path)
                    self._known = written
            yield self._client

    def read(self, name: str, method: str, arguments: Mapping[str, Any]) -> Any:
        """Call a method of the collection; what fails while another process writes is done again after that."""
        self._check_process(self._path)
        written = self._written()
        try:
            return self._call(name, method, arguments)
        except Exception:
            if written == self._written():
                raise
        with self.still():
            return self._call(name, method, arguments)

    def write(self, name: str, method: str, arguments: Mapping[str, Any]) -> None:
        """Call a method of the collection that writes."""
        with self.still():
            # Told first: a process that is killed while it writes has told the others.
            with self._writes.open("ab") as file:
                file.write(b".")
            self._known = self._written()
            self._call(name, method, arguments)

    @classmethod
    def _check_process(cls, path: Path) -> None:
        if cls._process not in (None, os.getpid()):
            raise UseAfterFork.of(f"{path}: Chroma")

    def _call(self, name: str, method: str, arguments: Mapping[str, Any]) -> Any:
        collection = None
        while collection is None:
            if self._known != self._written() or name not in self._collections:
                with self.still() as client:
                    found = client.get_collection(name, embedding_function=None)
                    found.count()  # the first call has Chroma apply its log, which is to happen in here
                    self._collections[name] = found
            with self._condition:
                self._condition.wait_for(lambda: not self._reopening)
                collection = self._collections.get(name)
                self._calls += collection is not None
        try:
            return getattr(collection, method)(**arguments)
        finally:
            with self._condition:
                self._calls -= 1
                self._condition.notify_all()

    def _written(self) -> int:
        """Return how many writes there were, by all processes."""
        return self._writes.stat().st_size

    def _close(self) -> None:
        self._known = -1
        self._collections.clear()
        client, self._client = self._client, None
        if client is not None:
            client.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep calls out, once those that are in have ended."""
        with self._condition:
            self._reopening = True
            try:
                self._condition.wait_for(lambda: self._calls == 0)
                yield
            finally:
                self._reopening = False
                self._condition.notify_all()


def _keep_clients() -> None:
    """Keep Chroma's clients until a forked process has ended: to free one is to wait for the parent's threads."""
    for folder in FolderClient._open.values():
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(folder))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_clients)


def _persistent(path: Path) -> ClientAPI:
    import chromadb
    from chromadb.config import Settings

    return chromadb.PersistentClient(path, settings=Settings(anonymized_telemetry=False))


@contextmanager
def chroma_errors(folder: Path | None = None) -> Iterator[None]:
    """Turn Chroma's errors into ours; ``folder`` is where Chroma writes, if that is on this machine."""
    from chromadb.errors import InvalidArgumentError, InvalidDimensionException

    try:
        yield
    except SmartRagError:
        raise
    except InvalidDimensionException as error:
        raise DimensionMismatch(str(error)) from error
    except InvalidArgumentError as error:
        kind = DimensionMismatch if "dimension" in str(error) else InvalidInput
        raise kind(f"Chroma does not take this: {error}") from error
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"Chroma does not take this: {error}") from error
    except Exception as error:  # ChromaError, OSError, an HTTP client's own; it is chained
        # Chroma does not pass the system's error on: a disk without room is found by looking.
        if folder is not None and shutil.disk_usage(folder).free < _NO_ROOM:
            raise StorageFull(
                f"{folder}: no space left on the disk; make room and open the index again: "
                f"what was acknowledged is safe ({error})"
            ) from error
        raise ChromaFailure(f"{type(error).__name__}: {error}") from error

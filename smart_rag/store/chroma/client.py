"""Clients of Chroma: one that the caller brings, or one for a folder. Chroma's errors become ours.

Chroma caches what it reads, and does not notice when another process writes. When Chroma is opened, it may also write,
because it applies and purges its log. So we keep two files of our own beside Chroma's files:

- `smart_rag.lock` is locked during each write, and while Chroma is opened. So Chroma never reads half a write when it
  is opened, and two processes never write at the same time. See `smart_rag.store.chroma.folder_lock`.
- `smart_rag.writes` gets one byte longer with each write. Each read compares this length with the last length that the
  client has seen. If they differ, Chroma is opened again. (Chroma's own files do not show writes, because opening them
  changes them, too.) The folder is also identified by this file (see `Place`).

A third file, `smart_rag.checksums`, has the checksums of the files of Chroma's vectors; see `VectorFiles`.

A forked process has none of Chroma's threads. Some of these threads serve all clients of a process (the global pool of
Rayon). So a new client in the child would also wait for ever, even if the parent has closed its own client.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from smart_rag.errors import (
    ChromaFailure,
    DimensionMismatch,
    IndexClosed,
    InvalidInput,
    SmartRagError,
    StorageFull,
    UseAfterFork,
)
from smart_rag.store.checks.chroma_settings import check_settings, damage_of_settings, refuse_functions
from smart_rag.store.checks.chroma_tables import connection, damage_of_tables
from smart_rag.store.checks.vector_files import VectorFiles
from smart_rag.store.chroma.files import files_of
from smart_rag.store.place import Place, identity_of
from smart_rag.wording import one_line

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from chromadb.api.models.Collection import Collection

# SQLite's code for an error of a function. Only the function of $regex has errors.
_PATTERN_TOO_LARGE = "(code: 1043)"
# If fewer bytes than this are free, a failed write is reported as a full disk.
_FULL_DISK_BYTES = 16 << 20
_ADVICE = (
    "`smart-rag verify` says whether its files are damaged, and with --repair builds the index again from its texts"
)
# Seconds after which a thread looks again whether another thread has opened Chroma.
_POLL_SECONDS = 0.001


class GivenClient:
    """Chroma client that the caller brings. It has no lock: the caller's server or process orders the writes."""

    def __init__(self, client: ClientAPI) -> None:
        self.client = client
        self._collections: dict[str, Collection] = {}

    @contextmanager
    def write_lock(self) -> Iterator[ClientAPI]:
        """Yield the client. There is no lock, so other programs may write at the same time."""
        yield self.client

    caught_up = write_lock

    def read(self, name: str, method: str, arguments: Mapping[str, Any]) -> Any:
        """Call a method of the collection ``name``."""
        if name not in self._collections:
            found = self.client.get_collection(name, embedding_function=None)
            refuse_functions(found)
            self._collections[name] = found
        return getattr(self._collections[name], method)(**arguments)

    write = read

    def version(self) -> None:
        """Return None: other programs may write, and nobody counts their writes."""

    def damage(self) -> None:
        """Return None: the files are not known."""

    def release(self) -> None:
        """Do nothing: the caller closes the client."""


class FolderClient:
    """Chroma client for a folder. All `PooledStore` objects of this process with the same path share one.

    If another process has written, the client is opened again. This happens as soon as no thread is in a call to the
    client.
    """

    _open: ClassVar[dict[Path, FolderClient]] = {}
    _registry = threading.Lock()
    _process: ClassVar[int | None] = None  # process that first opened Chroma. Forked processes inherit this value

    def __init__(self, path: Path) -> None:
        self._path = path
        self._users = 0
        self._calls = 0
        self._reopening = False
        self._closed = False
        self._condition = threading.Condition()
        self._thread_lock = threading.RLock()
        self._thread = threading.local()  # has the block of `caught_up`, if this thread is in one
        self._files = files_of(path)
        self.vectors = VectorFiles(path, is_read_only=self._files.is_read_only)
        self._place = Place(path, self._files.writes, identity_of(self._files.writes))
        self._known = -1  # number of writes that the open client has seen
        self._client: Any = None
        self._collections: dict[str, Collection] = {}

    @classmethod
    def at(cls, path: Path) -> FolderClient:
        """Return the client for the folder ``path``, and count one more user. Each user calls `release` at the end.

        Raises:
            UseAfterFork: the parent of this process has used Chroma.
        """
        path = path.resolve()
        cls._check_process(path)
        cls._process = os.getpid()
        with cls._registry:
            folder = cls._open.get(path)
            if folder is not None and not folder._place.is_same():
                # For the new folder, Chroma would use its old client, because it finds clients by the path.
                folder._shut()
                folder = None
            folder = folder or cls(path)
            cls._open[path] = folder
            folder._users += 1
            return folder

    def release(self) -> None:
        """Count one user less. The last user closes the client. A forked process leaves this to its parent."""
        if self._process != os.getpid():
            return
        with self._registry:
            self._users -= 1
            if self._users == 0:
                if self._open.get(self._path) is self:
                    del self._open[self._path]
                self._shut()
                self._files.close()

    def _shut(self) -> None:
        """Close Chroma for good."""
        with self._thread_lock, self._alone():
            self._closed = True
            self._close()

    @contextmanager
    def write_lock(self) -> Iterator[ClientAPI]:
        """Keep other threads and processes from writing while the block runs. Yield a client that has seen all writes.

        Raises:
            IndexClosed: the last user has released the client.
            IndexNotFound: the folder was deleted, moved or replaced.
            UseAfterFork: this process was forked after Chroma was opened.
        """
        self._check_process(self._path)  # first, because in a forked process, any lock may wait for ever
        self._place.check()  # before the lock, because the lock is a file in the folder
        with self._thread_lock, self._files.lock():
            if self._closed:
                raise IndexClosed(f"{self._path}: the pooled store is closed; open it again")
            if self._known != (written := self._written()):
                with self._alone():
                    self._close()
                    opened = self._files.prepare()
                    check_settings(opened)
                    self.vectors.check(written)  # first, because Chroma follows damaged numbers as addresses
                    self._client = _persistent(opened)
                    self._place.check()  # Chroma opens what the path leads to now
                    self._known = written
            with self._closed_on_failure():
                yield self._client

    def read(self, name: str, method: str, arguments: Mapping[str, Any]) -> Any:
        """Call a method of the collection ``name``. If it fails and another process has written, call it again."""
        self._check_process(self._path)
        has_failed = False
        while True:
            with ExitStack() as stack:
                # If another thread has the lock, no other process writes. It may wait for this thread (`caught_up`).
                if has_failed and self._thread_lock.acquire(blocking=False):
                    stack.callback(self._thread_lock.release)
                    stack.enter_context(self.write_lock())
                written = self._written()
                try:
                    found = self._call(name, method, arguments)
                    self._place.check()  # Chroma may open files by their paths in each call
                    return found
                except Exception:
                    if written == self._written():
                        raise
                    has_failed = True

    @contextmanager
    def caught_up(self) -> Iterator[None]:
        """While the block runs, open Chroma again at most once for this thread.

        As soon as a read finds that another process has written, no other process may write until the block ends. If
        another process writes all the time, each read of the block would otherwise open Chroma again.
        """
        outer = getattr(self._thread, "block", None)
        with ExitStack() as stack:
            self._thread.block = outer or stack
            try:
                yield
            finally:
                self._thread.block = outer

    def write(self, name: str, method: str, arguments: Mapping[str, Any]) -> None:
        """Call a writing method of the collection ``name``."""
        with self.write_lock():
            # Bump the counter before writing, so that readers also notice a write that crashes.
            self._files.count_write()
            self._known = self._written()
            self._call(name, method, arguments)
            self.vectors.note(self._known)

    def version(self) -> int:
        """Return the number of writes so far, by all processes."""
        return self._written()

    def damage(self) -> str | None:
        """Return in one line what is wrong with the files, or None. Every byte of them is read."""
        with self.write_lock():
            opened = self._files.opened
            return self.vectors.damage(self._written()) or damage_of_settings(opened) or damage_of_tables(opened)

    @classmethod
    def _check_process(cls, path: Path) -> None:
        if cls._process not in (None, os.getpid()):
            raise UseAfterFork.of(f"{path}: Chroma")

    def _call(self, name: str, method: str, arguments: Mapping[str, Any]) -> Any:
        collection = None
        while collection is None:
            if self._is_behind(name):
                self._catch_up(name)
            with self._condition:
                self._condition.wait_for(lambda: not self._reopening)
                collection = self._collections.get(name)
                self._calls += collection is not None
        with self._closed_on_failure():
            try:
                return getattr(collection, method)(**arguments)
            finally:
                with self._condition:
                    self._calls -= 1
                    self._condition.notify_all()

    @contextmanager
    def _closed_on_failure(self) -> Iterator[None]:
        """If Chroma fails in the block, close the client. The next call opens it again.

        After a failure, such as a full disk, Chroma may leave a transaction of SQLite open. Then each later write, also
        of other processes, would wait for its lock for 1,000 seconds. In this process, it would also keep Python's own
        lock.
        """
        from chromadb.errors import InternalError

        try:
            yield
        except InternalError:
            with self._thread_lock, self._alone():
                self._close()
            raise

    def _is_behind(self, name: str) -> bool:
        return self._known != self._written() or name not in self._collections

    def _catch_up(self, name: str) -> None:
        """Open Chroma again, if another thread does not do so first.

        Such a thread may hold the lock for long (see `caught_up`), and may wait for this thread. So do not wait for it.
        """
        while not self._thread_lock.acquire(timeout=_POLL_SECONDS):
            if not self._is_behind(name):
                return
        try:
            with ExitStack() as stack:
                client = (getattr(self._thread, "block", None) or stack).enter_context(self.write_lock())
                if name not in self._collections:
                    # Here, too, because `caught_up` may keep the lock, and the next call must not use this client.
                    with self._closed_on_failure():
                        found = client.get_collection(name, embedding_function=None)
                        found.count()  # in the first call, Chroma applies its log, and this needs the lock
                    self.vectors.note(self._known)
                    self._collections[name] = found
        finally:
            self._thread_lock.release()

    def _written(self) -> int:
        """Return the number of writes of all processes so far."""
        self._place.check()
        return self._files.writes.stat().st_size

    def _close(self) -> None:
        self._known = -1
        self._collections.clear()
        client, self._client = self._client, None
        if client is not None:
            client.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no thread is in a call, and keep threads from starting one while the block runs."""
        with self._condition:
            self._reopening = True
            try:
                self._condition.wait_for(lambda: self._calls == 0)
                yield
            finally:
                self._reopening = False
                self._condition.notify_all()


def _keep_clients() -> None:
    """Never free Chroma's clients in a forked process. Freeing them would wait for threads of the parent."""
    for folder in FolderClient._open.values():
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(folder))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_clients)


def _persistent(path: Path) -> ClientAPI:
    import chromadb
    from chromadb.api.shared_system_client import SharedSystemClient
    from chromadb.config import Settings

    systems, name = SharedSystemClient._identifier_to_system, str(path)
    is_shared = name in systems  # a client of the caller uses the same system
    try:
        # Chroma would read settings from a file ``.env`` of the working directory, which may be somebody else's index.
        settings = Settings(_env_file=None, anonymized_telemetry=False)  # type: ignore[call-arg]
        return chromadb.PersistentClient(path, settings=settings)
    except BaseException:
        # Chroma keeps a system that failed to start, and would use it for the next client with this path.
        if not is_shared:
            systems.pop(name, None)
        raise


@contextmanager
def existing_collection(folder: Path, name: str | None = None) -> Iterator[Collection]:
    """Yield the collection ``name`` from a Chroma ``folder`` of another program, for reading. Nothing is created.

    Without ``name``, the folder must have only one collection. When Chroma is opened, it may write to its own files,
    because it applies and purges its log.

    Raises:
        InvalidInput: the folder is not a folder of Chroma, or it has no collection ``name``. Or no ``name`` is given,
            and the folder does not have exactly one collection.
        CorruptStore: the SQLite file is damaged, or SQLite would run something that does not come from Chroma.
    """
    if not (folder / "chroma.sqlite3").is_file():
        raise InvalidInput(f"{folder}: expected a folder of Chroma, with a file chroma.sqlite3; there is none")
    with chroma_errors(folder):
        with connection(folder):  # first, because this refuses what SQLite would run
            pass
        client = _persistent(folder)
    try:
        with chroma_errors(folder):
            names = sorted(found.name for found in client.list_collections())
            if name not in names if name is not None else len(names) != 1:
                wanted = "a single collection" if name is None else f"the collection {name!r}"
                raise InvalidInput(f"{folder}: expected {wanted}, found {', '.join(names) or 'none'}; name one of them")
            collection = client.get_collection(name or names[0], embedding_function=None)
        yield collection
    finally:
        client.close()  # type: ignore[attr-defined]


@contextmanager
def chroma_errors(folder: Path | None = None, what: str = "this") -> Iterator[None]:
    """Turn Chroma's errors into ours.

    Args:
        folder: Chroma's folder, if it is on this machine.
        what: what the caller passed to Chroma, for messages.

    Raises:
        DimensionMismatch: the dimension of a vector is not that of the collection.
        InvalidInput: Chroma does not accept an argument.
        StorageFull: Chroma failed and the disk is full.
        ChromaFailure: Chroma failed for another reason. Its own error is the cause.
    """
    from chromadb.errors import InvalidArgumentError, InvalidDimensionException

    try:
        yield
    except SmartRagError:
        raise
    except InvalidDimensionException as error:
        raise DimensionMismatch(str(error)) from error
    except InvalidArgumentError as error:
        kind = DimensionMismatch if "dimension" in str(error) else InvalidInput
        raise kind(f"Chroma does not accept {what}: {one_line(error)}") from error
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"Chroma does not accept {what}: {one_line(error)}") from error
    except Exception as error:  # such as ChromaError, OSError, or an error of an HTTP client
        # Chroma hides the error of the operating system, so check whether the disk is full.
        if folder is not None and shutil.disk_usage(_existing(folder)).free < _FULL_DISK_BYTES:
            raise StorageFull(
                f"{folder}: no space left on the disk; make room and open the index again; "
                f"documents that were added before are safe ({error})"
            ) from error
        if _PATTERN_TOO_LARGE in str(error):
            raise InvalidInput(
                f"Chroma does not accept {what}: the pattern of $regex is too large, because repetitions such as "
                "{500} count for as many patterns; use a smaller one"
            ) from error
        if folder is None:
            raise ChromaFailure(f"{type(error).__name__}: {error}") from error
        raise ChromaFailure(
            f"{folder}: Chroma failed ({type(error).__name__}: {one_line(error)}); {_ADVICE}"
        ) from error
    except BaseException as error:
        # A panic of Chroma's Rust code is no `Exception`. Damaged files can cause it.
        if type(error).__name__ != "PanicException":
            raise
        raise ChromaFailure(f"{folder or 'Chroma'}: Chroma failed ({one_line(error)}); {_ADVICE}") from error


def _existing(folder: Path) -> Path:
    """Return ``folder``, or the first of its parents that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())

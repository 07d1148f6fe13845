"""`Worker`: a process that reads files for the current process, with limits on time and memory.

A hostile or damaged file can crash a parser, or keep it busy for ever. If the parser runs in a process of its own, the
only harm is that this one file cannot be read.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from smart_rag.config import DEFAULT_FILE_MEMORY, DEFAULT_FILE_SECONDS, Number
from smart_rag.errors import DocumentError, InvalidInput, MissingExtra, SmartRagError
from smart_rag.files.worker_process import OUT_OF_MEMORY, READY, receive, send
from smart_rag.values import plain_value

T = TypeVar("T")

# Other systems cannot pass a socket to a program. A frozen program cannot start a Python.
_CAN_START = os.name == "posix" and not getattr(sys, "frozen", False)
_SECONDS_TO_START = 60.0
_GIGABYTE = 10**9
# The program of the worker. It gets this process's paths of modules, which may differ from those of a new Python.
_PROGRAM = """
import sys
sys.path[:] = sys.argv[5:]
from smart_rag.files.worker_process import serve
descriptor, parent, seconds, memory = (float(value) if value else None for value in sys.argv[1:5])
serve(int(descriptor), int(parent), seconds, memory)
"""


@dataclass(frozen=True, slots=True)
class _Limits:
    """Seconds and gigabytes that a file may take; None for no limit."""

    seconds: float | None
    memory: float | None


_DEFAULT = _Limits(DEFAULT_FILE_SECONDS, DEFAULT_FILE_MEMORY)
_limits = ContextVar("limits", default=_DEFAULT)


@contextmanager
def limits(
    *, file_seconds: Number | None = DEFAULT_FILE_SECONDS, file_memory: Number | None = DEFAULT_FILE_MEMORY
) -> Iterator[None]:
    """Change the limits for reading files. Use this function in a ``with`` statement.

    >>> with limits(file_seconds=600, file_memory=8):    # doctest: +SKIP
    ...     index.add_files(["plans/"])

    PDF, office and HTML files, mails and tables, and text files of more than 1 MB, are read in a process of their own.
    Pages of PDFs and SVG pictures are also drawn there, and HEIC pictures are decoded. If reading a file or drawing a
    page exceeds a limit or crashes, `DocumentError` is raised. `SmartIndex.add_files` reports the file in ``failed``
    and goes on. The limit of time also holds for the digest of a file's bytes, which is computed in this process.

    If both limits are None, files are read in this process. Files are also read in this process on Windows, and in a
    program without a Python interpreter, such as one that PyInstaller made.

    Args:
        file_seconds: the seconds that reading a file or drawing a page may take; None for no limit.
        file_memory: the gigabytes of memory that this may take; None for no limit.

    Raises:
        InvalidInput: a limit is not a number above 0.
    """
    token = _limits.set(_Limits(_checked("file_seconds", file_seconds), _checked("file_memory", file_memory)))
    try:
        yield
    finally:
        _limits.reset(token)


def _checked(name: str, value: Number | None) -> float | None:
    plain = plain_value(value, name)
    if plain is not None and (isinstance(plain, bool) or not isinstance(plain, int | float) or not 0 < plain < 1e9):
        raise InvalidInput(f"{name} must be a number above 0, or None for no limit; got {value!r}")
    return plain


def call(function: Callable[..., T], path: Path, *arguments: Any, task: str = "reading it") -> T:
    """Return ``function(str(path), *arguments)``, called in the worker process, within the limits.

    Args:
        function: a function of a module of this package. It returns a JSON value, or a tuple of a JSON value and bytes.
            A worker that has read a hostile file cannot be trusted, so nothing that it sends is unpickled.
        path: the file.
        arguments: more arguments, which are JSON values.
        task: words for error messages.

    Raises:
        DocumentError: ``function`` raised it, exceeded a limit or crashed.
        InvalidInput, MissingExtra: ``function`` raised it.
        SmartRagError: the worker process cannot be started.
    """
    allowed = _limits.get()
    if not _CAN_START or allowed == _Limits(None, None):
        return function(str(path), *arguments)
    with _lock:
        result: T = _running(allowed).call(function, path, arguments, task)
        return result


def call_alone(function: Callable[..., T], path: Path, *arguments: Any, seconds: float, task: str) -> T:
    """Return ``function(str(path), *arguments)``, called in a process that ends after this call.

    If this process cannot start another one, the function is called in this process. The arguments and errors are those
    of `call`. The function may take so many ``seconds``.
    """
    if not _CAN_START:
        return function(str(path), *arguments)
    worker = Worker(_Limits(seconds, None))
    try:
        result: T = worker.call(function, path, arguments, task)
        return result
    finally:
        worker.stop()


class Worker:
    """A process that calls functions, one at a time. It ends with the first call that exceeds a limit or crashes.

    Raises:
        SmartRagError: the process cannot be started.
    """

    def __init__(self, limits: _Limits) -> None:
        from multiprocessing.spawn import get_executable  # programs that embed Python set it

        self.limits = limits
        self._max_bytes = None if limits.memory is None else limits.memory * _GIGABYTE
        self._channel, other = socket.socketpair()
        numbers = (other.fileno(), os.getpid(), limits.seconds or "", self._max_bytes or "")
        program = [get_executable(), "-P", "-c", _PROGRAM, *map(str, numbers), *sys.path]
        with other:
            try:
                self._process = subprocess.Popen(
                    program,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                    pass_fds=[other.fileno()],
                    start_new_session=True,  # Ctrl-C is for this process, which ends the worker
                )
            except BaseException as error:
                self._channel.close()
                if isinstance(error, OSError | TypeError):
                    raise self._cannot_start(error) from error
                raise
        try:
            if receive(self._channel, _SECONDS_TO_START, 1000)[0] != READY:
                raise EOFError
        except (EOFError, OSError, ValueError) as error:
            raise self._cannot_start(f"exit code {self.stop()}") from error
        except BaseException:
            self.stop()
            raise

    def _cannot_start(self, reason: object) -> SmartRagError:
        return SmartRagError(
            f"the process that reads files cannot be started with {sys.executable} ({reason}); "
            "smart_rag.files.limits(file_seconds=None, file_memory=None) reads files in this process"
        )

    def is_running(self) -> bool:
        """Return whether the process can be called."""
        return self._process.poll() is None

    def call(self, function: Callable[..., T], path: Path, arguments: tuple[Any, ...], task: str) -> T:
        """Return the result of ``function``; see the function `call` of this module."""
        try:
            self._channel.settimeout(self.limits.seconds)
            send(self._channel, [function.__module__, function.__name__, [str(path), *arguments]])
            reply, data = receive(self._channel, self.limits.seconds, self._max_bytes)
            result: T = _result(path, reply, data)
            if reply["worn"]:
                self.stop()
            return result
        except SmartRagError:
            raise
        except TimeoutError as error:
            self.stop()
            raise DocumentError(path, _too_slow(task, self.limits.seconds)) from error
        except (EOFError, OSError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
            raise DocumentError(path, self._reason(self.stop(), task)) from error
        except BaseException:  # such as KeyboardInterrupt: the answer would be taken for that of the next call
            self.stop()
            raise

    def stop(self) -> int:
        """End the process, and return its exit code."""
        self._channel.close()
        self._process.kill()
        return self._process.wait()

    def forget(self) -> None:
        """Leave the worker process to the parent, which started it, because this process was forked."""
        self._channel.close()
        self._process.returncode = 0

    def _reason(self, code: int, task: str) -> str:
        """Return the reason why the process ended during a call."""
        if code == OUT_OF_MEMORY:
            return f"{task} takes more than {self.limits.memory:g} GB of memory; {_more('memory')}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"exit code {code}"
        reason = f"{task} crashed the parser ({name}); the file is damaged"
        if self.limits.memory is None:
            return reason
        # The system refuses a large allocation, and most parsers then crash.
        return f"{reason}, or needs more than {self.limits.memory:g} GB of memory ({_more('memory')})"


def check_time(path: Path, begin: float, task: str) -> None:
    """Raise `DocumentError` if ``task`` takes longer than a file may take. ``begin`` is a time of `time.monotonic`."""
    seconds = _limits.get().seconds
    if seconds is not None and time.monotonic() - begin > seconds:
        raise DocumentError(path, _too_slow(task, seconds))


def _too_slow(task: str, seconds: float | None) -> str:
    return f"{task} takes more than {seconds:g} seconds; {_more('seconds')}"


def _more(limit: str) -> str:
    return f"smart_rag.files.limits(file_{limit}=...) or the option --file-{limit} allows more"


def _result(path: Path, reply: Any, data: bytes) -> Any:
    """Return the result in a reply, or raise the error in it."""
    match reply.get("error"):
        case None:
            return (reply["value"], data) if data else reply["value"]
        case ["DocumentError", str(reason)]:
            raise DocumentError(path, reason)
        case ["MissingExtra", str(package), str(extra), str(purpose)]:
            raise MissingExtra(package, extra, purpose)
        case ["InvalidInput", str(message)]:
            raise InvalidInput(message)
        case _:
            raise ValueError("unknown error")


_lock = threading.Lock()
_worker: Worker | None = None


def _running(limits: _Limits) -> Worker:
    """Return the worker of this process. The caller holds the lock."""
    global _worker
    if _worker is None or _worker.limits != limits or not _worker.is_running():
        _stop()
        _worker = Worker(limits)
    return _worker


@atexit.register
def _stop() -> None:
    global _worker
    if _worker is not None:
        _worker.stop()
        _worker = None


def _after_fork() -> None:
    """Let a forked process start its own worker."""
    global _lock, _worker
    _lock = threading.Lock()
    if _worker is not None:
        _worker.forget()
        _worker = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

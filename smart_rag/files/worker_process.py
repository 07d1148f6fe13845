"""The process that reads files for another process. `smart_rag.files.worker` starts it.

It gets requests through a socket, calls functions of this package and sends their results. It ends when the socket is
closed, when its parent has ended, when a call takes too long, or when a call takes too much memory.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
import threading
import time
from importlib import import_module
from typing import Any

from smart_rag.errors import DocumentError, InvalidInput, MissingExtra
from smart_rag.wording import one_line

# Exit code of the process when a call takes too much memory.
OUT_OF_MEMORY = 77
READY = "ready"
# Lengths of the two parts of a message: JSON, and bytes.
_HEADER = struct.Struct("!QQ")
_BLOCK = 1 << 20
_SECONDS_BETWEEN_CHECKS = 0.02
# The parent ends a call that takes too long. The alarm is for the case that the parent no longer exists.
_SECONDS_FOR_PARENT = 5.0


def send(channel: socket.socket, value: Any, data: bytes = b"") -> None:
    """Send a message: a JSON value, and bytes."""
    text = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    channel.sendall(_HEADER.pack(len(text), len(data)) + text)
    channel.sendall(data)


def receive(channel: socket.socket, seconds: float | None = None, max_bytes: float | None = None) -> tuple[Any, bytes]:
    """Return the next message.

    Raises:
        EOFError: the other process has closed the socket, or has ended.
        TimeoutError: the message is not complete after ``seconds``.
        ValueError: the message is longer than ``max_bytes``, or is not JSON.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    lengths = _HEADER.unpack(_receive_bytes(channel, _HEADER.size, deadline))
    if max_bytes is not None and sum(lengths) > max_bytes:
        raise ValueError(f"a message of {sum(lengths):,} bytes")
    text, data = (_receive_bytes(channel, length, deadline) for length in lengths)
    return json.loads(text.decode("utf-8", "surrogatepass")), data


def _receive_bytes(channel: socket.socket, length: int, deadline: float | None) -> bytes:
    data = bytearray()
    while len(data) < length:
        if deadline is not None:
            channel.settimeout(max(deadline - time.monotonic(), 1e-3))
        part = channel.recv(min(length - len(data), _BLOCK))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


def serve(descriptor: int, parent: int, seconds: float | None, memory: float | None) -> None:
    """Answer requests until the socket is closed.

    Args:
        descriptor: the file descriptor of the socket.
        parent: the process that sends the requests.
        seconds: the time that a call may take.
        memory: the bytes that a call may take.
    """
    watch = _Watch(parent, memory)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # it ends the process, even inside of a parser
    with socket.socket(fileno=descriptor) as channel:
        send(channel, READY)
        while True:
            try:
                request, _ = receive(channel)
            except (EOFError, OSError):
                return
            signal.setitimer(signal.ITIMER_REAL, 0 if seconds is None else seconds + _SECONDS_FOR_PARENT)
            try:
                with watch:
                    reply, data = _answer(*request)
                    send(channel, {**reply, "worn": watch.is_worn()}, data)
            except MemoryError:
                os._exit(OUT_OF_MEMORY)
            signal.setitimer(signal.ITIMER_REAL, 0)


def _answer(module: str, name: str, arguments: list[Any]) -> tuple[dict[str, Any], bytes]:
    """Return the result of a function, or its error. A function returns JSON, or a tuple of JSON and bytes."""
    try:
        result = getattr(import_module(module), name)(*arguments)
        value, data = result if isinstance(result, tuple) else (result, b"")
        return {"value": value}, data
    except MemoryError:
        raise
    except DocumentError as error:
        return {"error": ["DocumentError", error.reason]}, b""
    except MissingExtra as error:
        return {"error": ["MissingExtra", *error.__reduce__()[1]]}, b""
    except InvalidInput as error:
        return {"error": ["InvalidInput", str(error)]}, b""
    except Exception as error:
        return {"error": ["DocumentError", f"cannot be read ({type(error).__name__}: {one_line(error)})"]}, b""


class _Watch:
    """A thread that ends this process if a call takes too much memory, or if the parent has ended.

    Each call runs inside a ``with`` statement of this object. pdfium and lxml let this thread run while they work.
    """

    def __init__(self, parent: int, memory: float | None) -> None:
        self._parent = parent
        self._memory = memory
        self._most = float("inf")
        self._busy = threading.Event()
        _set_system_limits(memory)
        threading.Thread(target=self._run, daemon=True).start()

    def __enter__(self) -> None:
        if self._memory is not None:
            self._most = _used_memory() + self._memory
        self._busy.set()

    def __exit__(self, *exception: object) -> None:
        self._busy.clear()

    def is_worn(self) -> bool:
        """Return whether earlier calls left so much memory in use that a new process should replace this one."""
        return self._memory is not None and _used_memory() > self._memory / 4

    def _run(self) -> None:
        while True:
            self._busy.wait(1)
            if os.getppid() != self._parent:
                os._exit(1)
            if _used_memory() > self._most:
                os._exit(OUT_OF_MEMORY)
            time.sleep(_SECONDS_BETWEEN_CHECKS)


def _used_memory() -> int:
    """Return the bytes of memory that this process uses; on other systems than Linux, the most it has used."""
    if sys.platform == "linux":
        return _pages_of_memory(1)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _pages_of_memory(column: int) -> int:
    """Return a number of bytes from ``/proc/self/statm``: column 0 is the address space, 1 the memory in use."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[column]) * os.sysconf("SC_PAGE_SIZE")


def _set_system_limits(memory: float | None) -> None:
    """Forbid core dumps. On Linux, also forbid what the watch would see too late: a very large single allocation."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if memory is not None and sys.platform == "linux":
        most = int(_pages_of_memory(0) + 1.5 * memory)
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard == resource.RLIM_INFINITY or most < hard:
            resource.setrlimit(resource.RLIMIT_AS, (most, hard))

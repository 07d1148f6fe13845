"""Functions for the worker process that crash, hang, or need memory. The worker imports this module."""

from __future__ import annotations

import os
import signal
import sys
import time

from smart_rag.errors import DocumentError, InvalidInput, MissingExtra

kept = []


def process(path):
    return os.getpid()


def modules(path):
    return sorted(sys.modules)


def echo(path, *arguments):
    return [path, *arguments]


def segfault(path):
    import ctypes

    return ctypes.string_at(0)


def abort(path):
    os.abort()


def leave(path):
    os._exit(3)


def killed(path):
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(path, seconds=100):
    print(end="")
    time.sleep(seconds)


def hold_the_interpreter(path):
    """No other thread of Python runs in the meantime."""
    import re

    re.match(r"(a+)+$", "a" * 60 + "b")


def grow(path, step=20_000_000):
    grown = []
    while True:
        grown.append(b"x" * step)


def allocate_at_once(path, size=10**9):
    """The system gives the memory only when it is used, so the process does not grow."""
    import numpy as np

    return len(np.zeros(size, np.uint8))


def keep(path, size):
    kept.append(b"x" * size)
    return os.getpid()


def fail(path, error):
    raise {
        "DocumentError": DocumentError("elsewhere", "the reason"),
        "InvalidInput": InvalidInput("a wrong page"),
        "MissingExtra": MissingExtra("one", "other", "reading a.pdf"),
        "KeyError": KeyError("two\nlines"),
        "RecursionError": RecursionError("too deep"),
    }[error]


def lie(path, message):
    """Send a message that the worker does not send."""
    for descriptor in range(3, 4096):
        try:
            os.write(descriptor, bytes.fromhex(message))
        except OSError:
            continue
    time.sleep(1)

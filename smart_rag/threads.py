"""Threads for async callers: `in_reader_thread` and `in_writer_thread` run a function outside of the event loop.

All indexes, encoders and event loops of a process share these threads. There are few reader threads, because many
calls at once do not make a model faster, and can make it slower. There is only one writer thread, because writers take
turns anyway. It is separate, so that a long write does not delay searches. The default threads of asyncio stay free
for the application.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# With two cores, 2 threads search a tenth faster than 1. More threads are not faster, and encode documents more slowly.
_READERS = max(2, min(4, (os.cpu_count() or 1) // 2))


async def in_reader_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run ``function`` in one of a few threads, and return its result.

    Use it for functions that search or that encode queries. The function sees the context variables of the caller. If
    all threads are busy, a call waits for its turn. If the caller is cancelled, a waiting call is dropped. A running
    call goes on to its end, and its result is lost.
    """
    return await _in_pool(_readers(os.getpid()), function, *args, **kwargs)


async def in_writer_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Do the same in the only writer thread, for a function that writes documents or that encodes documents."""
    return await _in_pool(_writer(os.getpid()), function, *args, **kwargs)


async def _in_pool(pool: ThreadPoolExecutor, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    call = partial(contextvars.copy_context().run, function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(pool, call)


# The threads of a process do not exist in its forks, so each process has its own pools.
@cache
def _readers(process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_READERS, "smart_rag_reader")


@cache
def _writer(process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "smart_rag_writer")

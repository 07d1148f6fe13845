"""Threads for async callers: `in_reader_thread` and `in_writer_thread` run a function outside of the event loop.

The threads are those of this process, for all indexes, encoders and event loops. There are few readers, because a model
that many threads call at once is not faster, and can be slower. There is one writer, because writers take turns anyway,
and because a long writing must not keep searches waiting. The default threads of asyncio stay free for the application.
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

# With two cores, 2 threads search a tenth faster than 1. More are not faster, and encode documents more slowly.
_READERS = max(2, min(4, (os.cpu_count() or 1) // 2))


async def in_reader_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Return the result of ``function``, which searches, or encodes queries, in one of a few threads.

    The function sees the context variables of the caller. More calls than threads wait for their turn. If the caller is
    cancelled, a call that waits is dropped. A call that runs goes on to its end in its thread, and its result is lost.
    """
    return await _in_pool(_readers(os.getpid()), function, *args, **kwargs)


async def in_writer_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Do the same as `in_reader_thread`, for a function that writes or encodes documents, in the one other thread."""
    return await _in_pool(_writer(os.getpid()), function, *args, **kwargs)


async def _in_pool(pool: ThreadPoolExecutor, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    call = partial(contextvars.copy_context().run, function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(pool, call)


# A forked process has no threads of its parent, so it gets pools of its own.
@cache
def _readers(process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_READERS, "smart_rag_reader")


@cache
def _writer(process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "smart_rag_writer")

"""`Batcher`: encodes what several requests need in one call."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from smart_rag.embeddings.representation import Representation
from smart_rag.threads import in_reader_thread

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, eq=False)
class _Call(Generic[Item]):
    """The items of one request, and the place of their result."""

    items: Sequence[Item]
    result: asyncio.Future[Representation]


class Batcher(Generic[Item]):
    """Calls ``function`` with the items of all requests that wait. It runs in a reader thread, once at a time.

    While it runs, further requests wait, and are served together after it. If the last call was for several requests,
    the next one begins after a short ``window``, in which others may arrive. So a client that is alone never waits.

    Args:
        function: encodes items, in their order.
        window: seconds.
        most: the largest number of items in one call. The items of one request stay together, even if there are more.
        on_call: a function that gets the number of items of each call.
    """

    def __init__(
        self,
        function: Callable[[list[Item]], Representation],
        window: float,
        most: int,
        on_call: Callable[[int], None],
    ) -> None:
        self._function = function
        self._window = window
        self._most = most
        self._on_call = on_call
        self._waiting: deque[_Call[Item]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._is_busy = False

    async def encode(self, items: Sequence[Item]) -> Representation:
        """Return the representation of ``items``, in their order. Errors of other requests' items do not matter."""
        call = _Call(items, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._serve())
        return await call.result

    async def _serve(self) -> None:
        while self._waiting:
            if self._is_busy:
                await asyncio.sleep(self._window)
            calls = self._next()
            self._is_busy = len(calls) > 1
            await self._run(calls)

    def _next(self) -> list[_Call[Item]]:
        """Return the calls to serve together: the first, and those after it that fit. A dropped one is left out."""
        calls: list[_Call[Item]] = []
        count = 0
        while self._waiting and (not calls or count + len(self._waiting[0].items) <= self._most):
            call = self._waiting.popleft()
            if not call.result.done():  # the client has not gone away
                calls.append(call)
                count += len(call.items)
        return calls

    async def _run(self, calls: Sequence[_Call[Item]]) -> None:
        """Serve ``calls``. If this fails, serve each half alone. So only the call that has the error gets it."""
        if not calls:
            return
        items = [item for call in calls for item in call.items]
        self._on_call(len(items))
        try:
            vectors = await in_reader_thread(self._function, items)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # a panic of the tokenizer's Rust code is no Exception
            if len(calls) == 1:
                _set(calls[0].result, error if isinstance(error, Exception) else RuntimeError(repr(error)))
                return
            middle = len(calls) // 2
            await self._run(calls[:middle])
            await self._run(calls[middle:])
            return
        start = 0
        for call in calls:
            _set(call.result, vectors.slice(start, start + len(call.items)))
            start += len(call.items)


def _set(result: asyncio.Future[Representation], found: Representation | Exception) -> None:
    if result.done():
        return
    if isinstance(found, Exception):
        result.set_exception(found)
    else:
        result.set_result(found)

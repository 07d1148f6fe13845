"""`Batcher`: encodes the texts of several requests together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from smart_rag.embeddings.representation import Representation
from smart_rag.threads import in_reader_thread


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    """The texts of one request, and the place of their result."""

    texts: Sequence[str]
    result: asyncio.Future[Representation]


class Batcher:
    """Calls ``function`` with the texts of all requests that wait. It runs in a reader thread, once at a time.

    While it runs, further requests wait, and are served together after it. Then those that are about as long share a
    call, so that little is padded. If several requests were served together, the next ones begin after a short
    ``window``, in which others may arrive. So a client that is alone never waits.

    Args:
        function: encodes texts, in their order.
        window: seconds.
        most: the largest number of texts in one call. The texts of one request stay together, even if there are more.
        on_call: a function that gets the number of texts of each call.
    """

    def __init__(
        self,
        function: Callable[[list[str]], Representation],
        window: float,
        most: int,
        on_call: Callable[[int], None],
    ) -> None:
        self._function = function
        self._window = window
        self._most = most
        self._on_call = on_call
        self._waiting: list[_Request] = []
        self._task: asyncio.Task[None] | None = None

    async def encode(self, texts: Sequence[str]) -> Representation:
        """Return the representation of ``texts``, in their order. Errors of other requests' texts do not matter."""
        request = _Request(texts, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._serve())
        return await request.result

    async def _serve(self) -> None:
        is_busy = False
        while self._waiting:
            if is_busy:
                await asyncio.sleep(self._window)
            requests, self._waiting = self._waiting, []
            is_busy = len(requests) > 1
            for call in self._calls(requests):
                await self._run(call)

    def _calls(self, requests: list[_Request]) -> Iterator[list[_Request]]:
        """Yield the requests that share a call. A client that has gone away is left out."""
        call: list[_Request] = []
        count = 0
        for request in sorted(requests, key=lambda one: max(map(len, one.texts), default=0)):
            if call and count + len(request.texts) > self._most:
                yield call
                call, count = [], 0
            if not request.result.done():
                call.append(request)
                count += len(request.texts)
        if call:
            yield call

    async def _run(self, requests: Sequence[_Request]) -> None:
        """Serve ``requests``. If this fails, serve each half alone. So only the request that has the error gets it."""
        texts = [text for request in requests for text in request.texts]
        self._on_call(len(texts))
        try:
            vectors = await in_reader_thread(self._function, texts)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # a panic of the tokenizer's Rust code is no Exception
            if len(requests) == 1:
                _set(requests[0].result, error if isinstance(error, Exception) else RuntimeError(repr(error)))
                return
            middle = len(requests) // 2
            await self._run(requests[:middle])
            await self._run(requests[middle:])
            return
        start = 0
        for request in requests:
            _set(request.result, vectors.slice(start, start + len(request.texts)))
            start += len(request.texts)


def _set(result: asyncio.Future[Representation], found: Representation | Exception) -> None:
    if result.done():
        return
    if isinstance(found, Exception):
        result.set_exception(found)
    else:
        result.set_result(found)

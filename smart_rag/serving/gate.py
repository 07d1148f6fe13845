"""`Gate`: every request passes it. It refuses, limits, counts and logs."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smart_rag.serving.guard import Guard
from smart_rag.serving.metrics import Metrics
from smart_rag.serving.problems import Refused, problem_of
from smart_rag.serving.settings import ServerSettings
from smart_rag.wording import size_text

logger = logging.getLogger(__name__)

# They are answered even if as many requests run as may.
_ALWAYS = ("/health", "/metrics")
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)


class Gate:
    """An ASGI application around ``application``. ``names`` are the names of the indexes' folders.

    Every answer has a header ``X-Request-ID``. The log has the same id. It never has a query or a token.
    """

    def __init__(
        self, application: ASGIApp, settings: ServerSettings, metrics: Metrics, names: Mapping[Path, str]
    ) -> None:
        self._application = application
        self._settings = settings
        self._guard = Guard(settings)
        self._metrics = metrics
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._application(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        id, started, status = secrets.token_hex(8), time.perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name.lower() for name, _ in message["headers"]}
                own = [(name, value) for name, value in _HEADERS if name not in given]
                message = {**message, "headers": [*message["headers"], *own, (b"x-request-id", id.encode())]}
            await send(message)

        self._metrics.in_progress += 1
        try:
            self._check(scope)
            await self._application(scope, self._limited(receive), sending)
        except Exception as error:
            if not isinstance(error, Refused):
                logger.exception("request %s: %s %s failed", id, scope["method"], self._shown(scope))
            if not status:
                await problem_of(error, self._names)(scope, receive, sending)
        finally:
            self._metrics.in_progress -= 1
            seconds = time.perf_counter() - started
            self._metrics.count_request(scope["path"], status, seconds)
            logger.info("%s %s %s %d, %.0f ms", id, scope["method"], self._shown(scope), status, 1e3 * seconds)

    def _check(self, scope: Scope) -> None:
        self._guard.check(scope)
        most = self._settings.max_concurrency
        if self._metrics.in_progress > most and scope["path"] not in _ALWAYS:
            raise Refused(503, f"{most:,} requests run already, which is the most at a time; ask again in a moment")
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self._settings.body_bytes:
                raise self._too_large()

    def _limited(self, receive: Receive) -> Receive:
        """Return ``receive`` with an error if the body is too large or arrives too slowly."""
        received, deadline, is_complete = 0, time.monotonic() + self._settings.body_seconds, False

        async def limited() -> Message:
            nonlocal received, is_complete
            if is_complete:  # this waits until the client goes away
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                seconds = self._settings.body_seconds
                raise Refused(408, f"the body did not arrive within {seconds:g} seconds") from None
            received += len(message.get("body", b""))
            is_complete = not message.get("more_body", False)
            if received > self._settings.body_bytes:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> Refused:
        return Refused(413, f"the body is larger than {size_text(self._settings.body_bytes)}; send it in parts")

    @staticmethod
    def _shown(scope: Scope) -> str:
        """Return the path of a request for the log: on one line, and without the words of a query."""
        return repr(scope["path"][:200])[1:-1]

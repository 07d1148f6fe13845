"""`serve`: opens indexes, and answers requests until it is stopped."""

from __future__ import annotations

import logging
import re
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smart_rag.errors import InvalidInput, MissingExtra
from smart_rag.index.smart_index import SmartIndex
from smart_rag.serving.settings import ServerSettings
from smart_rag.wording import one_line

Opener = Callable[[], SmartIndex]

logger = logging.getLogger(__name__)

# Exit code by which a worker tells uvicorn that no new worker could start either.
_FAILED = 3
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def serve(
    indexes: Mapping[str, Opener],
    settings: ServerSettings | None = None,
    on_start: Callable[[str], object] | None = None,
) -> None:
    """Answer requests until the process gets SIGINT or SIGTERM. Then running requests end, and the indexes are closed.

    Args:
        indexes: functions that open an index, by the names of the indexes. With several workers, each worker calls
            them, so they must be picklable, such as ``functools.partial(SmartIndex.open, "my.index")``.
        settings: the settings of the server.
        on_start: a function that gets the address of the server as soon as clients can connect.

    Raises:
        InvalidInput: there is no index, a name cannot be part of an address, or the port is in use.
        MissingExtra: the extra ``serve`` is not installed, or ``mcp`` is asked for and not installed.
        IndexNotFound, ModelNotFound, NotTrusted, IndexMismatch: an index cannot be used.
    """
    settings = settings or ServerSettings()
    check_names(indexes)
    try:
        import fastapi  # noqa: F401
        import uvicorn
        from uvicorn.supervisors import Multiprocess
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "fastapi", "serve", "smart-rag serve") from error
    if settings.mcp:
        try:
            import mcp  # noqa: F401
        except ModuleNotFoundError as error:
            raise MissingExtra("mcp", "mcp", "smart-rag serve --mcp") from error
    with ExitStack() as stack:
        listening = stack.enter_context(_listening(settings))
        folder = None
        if settings.workers > 1:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smart_rag_metrics_")))
        worker = _Worker(dict(indexes), settings, folder)
        opened = worker.open()
        app: Any = worker
        if settings.workers > 1:  # they were opened only to see that they can be
            for index in opened.values():
                index.close()
        else:
            app = worker.application(opened)
        config = uvicorn.Config(
            app,
            factory=settings.workers > 1,
            workers=settings.workers,
            lifespan="on",
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=max(1, round(settings.shutdown_seconds)),
            timeout_worker_healthcheck=60,  # while a worker loads a large model, it may not answer
        )
        if on_start is not None:
            on_start(_address(listening))
        with _ends_orderly():
            if settings.workers > 1:
                processes = Multiprocess(config, sockets=[listening])
                processes.run()
                if any(process.exitcode == _FAILED for process in processes.processes):
                    raise InvalidInput("a worker process could not start, so the server has ended; see the log")
            else:
                uvicorn.Server(config).run(sockets=[listening])


def check_names(names: Mapping[str, object]) -> None:
    """Raise `InvalidInput` unless there are names, and each can be part of an address."""
    if not names:
        raise InvalidInput("expected the name and the folder of at least one index")
    for name in names:
        if not _NAME.fullmatch(name):
            raise InvalidInput(
                f"the name {name!r} of an index cannot be part of an address; use up to 64 letters, digits, '-', '_' "
                "and '.', beginning with a letter or a digit"
            )


@dataclass(frozen=True)
class _Worker:
    """The application of one worker process, which opens the indexes itself."""

    indexes: Mapping[str, Opener]
    settings: ServerSettings
    folder: Path | None

    def __call__(self) -> Any:
        try:
            return self.application(self.open())
        except Exception as error:  # with any other exit code, new workers would be started again and again
            logger.error("a worker could not start: %s", one_line(error))
            raise SystemExit(_FAILED) from error

    def open(self) -> dict[str, SmartIndex]:
        """Return the open indexes, with their models. If one of them cannot be opened, the others are closed."""
        with ExitStack() as stack:
            opened = {name: stack.enter_context(opener()) for name, opener in self.indexes.items()}
            for index in opened.values():
                if index.manifest.encoder is not None:
                    index.encode_queries(["warm up"])
            stack.pop_all()
        return opened

    def application(self, opened: Mapping[str, SmartIndex]) -> Any:
        from smart_rag.serving.application import application
        from smart_rag.serving.metrics import Metrics

        return application(opened, self.settings, Metrics(self.folder))


@contextmanager
def _listening(settings: ServerSettings) -> Iterator[socket.socket]:
    """Yield a socket at the address of ``settings``. Clients can connect at once, and wait for the first answer."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listening = socket.create_server((settings.host.strip("[]"), settings.port), family=family, backlog=2048)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InvalidInput(
            f"cannot listen on {settings.host}, port {settings.port} ({reason}); choose another host or port, or port "
            "0 for a free one"
        ) from error
    with listening:
        listening.set_inheritable(True)
        yield listening


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _ends_orderly() -> Iterator[None]:
    """Leave the block after SIGINT or SIGTERM, as if the server had ended by itself.

    uvicorn ends the running requests, and then raises the signal again, to which this process would succumb.
    """

    def leave(number: int, frame: object) -> None:
        raise SystemExit(0)

    signals = (signal.SIGINT, signal.SIGTERM)
    try:
        before = [signal.signal(one, leave) for one in signals]
    except ValueError:  # not in the main thread, where no signal arrives
        yield
        return
    try:
        yield
    except SystemExit as error:
        if error.code:
            raise
    finally:
        for one, handler in zip(signals, before, strict=True):
            signal.signal(one, handler)

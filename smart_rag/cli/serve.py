"""The commands serve, inspect and mcp."""

from __future__ import annotations

import threading
import webbrowser
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from smart_rag.cli import display
from smart_rag.cli.console import out
from smart_rag.cli.opening import open_index
from smart_rag.cli.options import Adapter, BaseModel, Device, MovedModel, SourcePaths, Trusted
from smart_rag.errors import InvalidInput, MissingExtra
from smart_rag.paths import absolute
from smart_rag.serving.settings import ServerSettings

if TYPE_CHECKING:
    from smart_rag.index.smart_index import SmartIndex

_DEFAULT_NAME = "default"
_DEFAULTS = ServerSettings(token=None)

Folders = Annotated[
    list[str],
    typer.Option("--db", metavar="[NAME=]DIR", help="Folder of an index. With several, each needs a name."),
]


def serve(
    db: Folders,
    host: Annotated[
        str, typer.Option(metavar="H", help="Address to listen on. Others than loopback need a token.")
    ] = _DEFAULTS.host,
    port: Annotated[int, typer.Option(min=0, max=65_535, metavar="P", help="Port; 0 for a free one.")] = _DEFAULTS.port,
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--allowed-hosts", metavar="NAME", help="A name of this server, such as a proxy's. May be given again."
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, metavar="N", help="Number of processes, each with its own model.")
    ] = _DEFAULTS.workers,
    max_body: Annotated[
        float, typer.Option(min=0, metavar="MB", help="Largest body of a request.")
    ] = _DEFAULTS.max_body,
    max_items: Annotated[
        int, typer.Option(min=1, metavar="N", help="Most queries, texts or documents in one request.")
    ] = _DEFAULTS.max_items,
    max_query_length: Annotated[
        int, typer.Option(min=1, metavar="N", help="Most characters of a query.")
    ] = _DEFAULTS.max_query_length,
    max_hits: Annotated[
        int, typer.Option(min=1, metavar="N", help="Largest top_k, and most candidates.")
    ] = _DEFAULTS.max_hits,
    max_concurrency: Annotated[
        int, typer.Option(min=1, metavar="N", help="Most requests at a time; further ones get status 503.")
    ] = _DEFAULTS.max_concurrency,
    max_batch: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Most queries in one call of the model; by default 8, or 64 on a GPU."),
    ] = None,
    batch_window: Annotated[
        float,
        typer.Option(min=0, metavar="MS", help="Milliseconds to wait for more queries if several clients ask."),
    ] = _DEFAULTS.batch_window,
    body_seconds: Annotated[
        float, typer.Option(min=0, metavar="S", help="Seconds in which the body of a request must arrive.")
    ] = _DEFAULTS.body_seconds,
    write_seconds: Annotated[
        float, typer.Option(min=0, metavar="S", help="Seconds that a write waits for another process that writes.")
    ] = _DEFAULTS.write_seconds,
    shutdown_seconds: Annotated[
        float, typer.Option(min=0, metavar="S", help="Seconds that running requests have to end after Ctrl-C.")
    ] = _DEFAULTS.shutdown_seconds,
    mcp: Annotated[
        bool, typer.Option("--mcp", help="Also answer assistants at /mcp, by the Model Context Protocol.")
    ] = _DEFAULTS.mcp,
    model: MovedModel = None,
    base_model: BaseModel = None,
    adapter: Adapter = None,
    device: Device = None,
    trust_remote_code: Trusted = False,
    sources: SourcePaths = None,
) -> None:
    """Answer searches by HTTP, for programs in any language.

    With several indexes, the address of each is /indexes/NAME. If the environment variable SMART_RAG_TOKEN is set,
    clients must send it as "Authorization: Bearer TOKEN". The address /openapi.json describes all requests.
    """
    from smart_rag.serving import serve as start

    folders = _folders(db)
    openers = _openers(folders, model, base_model, adapter, device, trust_remote_code, sources)
    settings = ServerSettings(
        host=host,
        port=port,
        allowed_hosts=tuple(allowed_hosts or ()),
        workers=workers,
        max_body=max_body,
        max_items=max_items,
        max_query_length=max_query_length,
        max_hits=max_hits,
        max_concurrency=max_concurrency,
        max_batch=max_batch,
        batch_window=batch_window,
        body_seconds=body_seconds,
        write_seconds=write_seconds,
        shutdown_seconds=shutdown_seconds,
        mcp=mcp,
    )

    def started(address: str) -> None:
        shown = ", ".join(display.short_path(str(folder)) for folder in folders.values())
        out.print(f"{shown} at {address}; Ctrl-C ends it", soft_wrap=True)
        out.file.flush()  # into a pipe, Python would write it much later

    start(openers, settings, started)


def inspect(
    db: Folders,
    port: Annotated[int, typer.Option(min=0, max=65_535, metavar="P", help="Port; 0 for a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
    model: MovedModel = None,
    base_model: BaseModel = None,
    adapter: Adapter = None,
    device: Device = None,
    trust_remote_code: Trusted = False,
    sources: SourcePaths = None,
) -> None:
    """Look at an index in a browser: what each ranking finds, and what matched where.

    Only this machine can open the page. The command serve has the same page, and takes more options.
    """
    from smart_rag.serving import serve as start

    openers = _openers(_folders(db), model, base_model, adapter, device, trust_remote_code, sources)
    settings = ServerSettings(port=port)

    def started(address: str) -> None:
        out.print(f"{address}; Ctrl-C ends it", soft_wrap=True)
        if settings.token is not None and out.is_terminal:
            # Not for the browser that is opened here: other users could read the command by which it starts.
            out.print(f"signed in at once: {address}/#token={quote(settings.token, safe='')}", soft_wrap=True)
        out.file.flush()
        if browser:  # a browser in the terminal ends only when it is closed
            threading.Thread(target=webbrowser.open, args=[f"{address}/"], daemon=True).start()

    start(openers, settings, started)


def mcp(
    db: Folders,
    allow_add: Annotated[
        Path | None,
        typer.Option("--allow-add", metavar="DIR", help="The assistant may add files below this folder to the index."),
    ] = None,
    model: MovedModel = None,
    base_model: BaseModel = None,
    adapter: Adapter = None,
    device: Device = None,
    trust_remote_code: Trusted = False,
    sources: SourcePaths = None,
) -> None:
    """Let an assistant search, by the Model Context Protocol. The assistant starts this command itself."""
    try:
        from smart_rag.serving.mcp import serve_stdio
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "mcp", "mcp", "smart-rag mcp") from error

    openers = _openers(_folders(db), model, base_model, adapter, device, trust_remote_code, sources)
    serve_stdio(openers, None if allow_add is None else absolute(allow_add))


def _openers(
    folders: Mapping[str, Path],
    model: str | None,
    base_model: str | None,
    adapter: Path | None,
    device: str | None,
    trust_remote_code: bool,
    sources: list[Path] | None,
) -> dict[str, Callable[[], SmartIndex]]:
    """Return a function for each folder that opens the index in it."""
    of_model: dict[str, Any] = {"base_model": base_model, "adapter": adapter}
    if len(folders) > 1 and (model is not None or any(of_model.values())):
        raise typer.BadParameter("--model, --base-model and --adapter are for a single index")
    options = {**of_model, "device": device, "trust_remote_code": trust_remote_code}
    return {name: partial(open_index, folder, model, sources=sources, **options) for name, folder in folders.items()}


def _folders(given: list[str]) -> dict[str, Path]:
    """Return the folders of the indexes by their names. ``a/b=c`` is a folder, because names have no slash."""
    found: dict[str, Path] = {}
    for text in given:
        name, mark, folder = text.partition("=")
        if not mark or "/" in name or "\\" in name:
            name, folder = _DEFAULT_NAME, text
        if name in found:
            raise InvalidInput(
                f"--db {text}: two indexes have the name {name!r}; give each a name, such as --db papers=my.index"
            )
        found[name] = absolute(folder)
    return found

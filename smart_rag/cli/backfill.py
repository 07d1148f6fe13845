"""The command backfill, for a LangChain or LlamaIndex application that now uses smart_rag."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from smart_rag.cli import display
from smart_rag.cli.console import on_terminal, out
from smart_rag.cli.options import Device, Trusted
from smart_rag.errors import InvalidInput, MissingExtra
from smart_rag.paths import absolute
from smart_rag.wording import number

Framework = Literal["langchain", "llama-index"]
# The embedding class of each integration. It makes the same texts that the integration's reranker looks up.
_EMBEDDINGS = {
    "langchain": ("langchain_smart_rag", "SmartEmbeddings"),
    "llama-index": ("llama_index_smart_rag", "SmartEmbedding"),
}


def backfill(
    framework: Annotated[Framework, typer.Option("--for", help="The framework of the application.")],
    chroma: Annotated[Path, typer.Option(metavar="DIR", parser=absolute, help="Folder of the application's Chroma.")],
    token_store: Annotated[
        Path, typer.Option(metavar="DIR", parser=absolute, help="The application's token_store; it is made if missing.")
    ],
    model: Annotated[str, typer.Option("--model", metavar="M", help="The application's model: name or folder.")],
    collection: Annotated[
        str | None, typer.Option(metavar="NAME", help="Collection in Chroma; by default the only one.")
    ] = None,
    options: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help='The other arguments that the application gives to its embedding, such as {"dtype": "float32"}.',
        ),
    ] = None,
    device: Device = None,
    trust_remote_code: Trusted = False,
) -> None:
    """Encode the documents of an application's Chroma store, so that the first queries do not wait for the encoding.

    The documents and vectors of the store are not changed. Stop the application first, because Chroma tidies its own
    files whenever a program opens them, even if it only reads.
    """
    from smart_rag.store.chroma.client import existing_collection

    arguments = _arguments(options)
    if device is not None:
        arguments["device"] = device
    if trust_remote_code:
        arguments["trust_remote_code"] = True
    embedding = _embedding_class(framework)
    with existing_collection(chroma, collection) as found:
        try:
            embeddings = embedding(model, token_store, **arguments)
        except TypeError as error:  # an argument that the class does not have
            raise InvalidInput(f"--options: {error}") from error
        report = embeddings.backfill(found, calibrate=True, show_progress_bar=on_terminal())
    counts = {"added": report.added, "unchanged": report.unchanged, "left out": report.left_out}
    out.print("documents: " + (", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "none"))
    count = report.added + report.unchanged
    scale = ", and the scale of relevance" if count else ""
    out.print(f"{display.short_path(str(token_store))} has the token embeddings of {number(count, 'document')}{scale}")


def _arguments(options: str | None) -> dict[str, Any]:
    try:
        arguments = json.loads(options or "{}")
    except ValueError as error:
        raise InvalidInput(f"--options is not JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise InvalidInput(f'--options: expected a JSON object such as {{"dtype": "float32"}}, got {options}')
    return arguments


def _embedding_class(framework: Framework) -> Any:
    """Return the class. It is imported by its name, because no module of this package may import the integrations."""
    module, name = _EMBEDDINGS[framework]
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or module, framework, f"--for {framework}") from error

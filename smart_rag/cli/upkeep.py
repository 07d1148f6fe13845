"""Commands that keep an index in order: verify, vacuum, compact, convert, backup, restore.

Also backfill, which brings the store of a LangChain or LlamaIndex application up to date.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from smart_rag.cli import display
from smart_rag.cli.console import note, on_terminal, out
from smart_rag.cli.opening import open_index
from smart_rag.cli.options import (
    Adapter,
    Backend,
    BaseModel,
    Db,
    Device,
    DocumentPrompt,
    Dtype,
    MaxPixels,
    ProfileName,
    QueryPrompt,
    Trusted,
)
from smart_rag.embeddings.codec import PRESETS
from smart_rag.errors import ChromaFailure, CorruptStore, InvalidInput, MissingExtra
from smart_rag.paths import absolute, model_location
from smart_rag.types import VerifyReport
from smart_rag.wording import number

Framework = Literal["langchain", "llama-index"]
# The embedding class of each integration. It makes the same texts that the integration's reranker looks up.
_EMBEDDINGS = {
    "langchain": ("langchain_smart_rag", "SmartEmbeddings"),
    "llama-index": ("llama_index_smart_rag", "SmartEmbedding"),
}
# Number of passages that a message names.
_NAMED = 10


def verify(
    db: Db,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Encode broken passages again, and remove token embeddings of no passage."),
    ] = False,
) -> None:
    """Read the whole index, and report what is missing, damaged or lost. The exit code is 1 if something still is."""
    from smart_rag.index.smart_index import SmartIndex

    try:
        report, left, count = _verified(db, repair)
    except (CorruptStore, ChromaFailure) as error:
        if not repair:
            raise
        note(f"{error}\nThe index cannot be opened, so it is built again from its texts.")
        SmartIndex.rebuild(db, show_progress_bar=on_terminal())
        report, left, count = _verified(db, repair)
    for line in _findings(report):
        out.print(line)
    if repair and not report.sound:
        out.print("repaired" if left.sound else "repaired, except:")
        for line in _findings(left):
            out.print(line)
    if left.sound:
        out.print(f"all {number(count, 'passage')} are sound" if count != 1 else "the only passage is sound")
        return
    if left.altered or left.lost:
        note(
            "what is altered or lost cannot be repaired; restore a backup, or index these passages again; `smart-rag "
            "delete` removes them"
        )
    if not repair and (left.missing or left.damaged or left.chroma_damage):
        note("to repair the index: smart-rag verify --repair")
    raise SystemExit(1)


def _verified(db: Path, repair: bool) -> tuple[VerifyReport, VerifyReport, int]:
    """Return what `verify` finds in the index ``db``, what it finds after a repair, and the number of passages."""
    with open_index(db) as opened:
        report = left = opened.verify(repair=repair)
        if repair and not (report.altered or report.lost):
            opened.vacuum()
        if repair and not (report.sound and not report.orphans):
            left = opened.verify()
        return report, left, opened.count()


def _findings(report: VerifyReport) -> Iterator[str]:
    """Yield a line for each kind of damage in ``report``."""
    for ids, what in (
        (report.missing, "without token embeddings or terms"),
        (report.damaged, "with damaged token embeddings or terms"),
        (report.altered, "with other text or metadata than was added"),
        (report.lost, "whose text is lost"),
    ):
        if ids:
            yield f"{number(len(ids), 'passage')} {what}: {_some(ids)}"
    if report.orphans:
        yield f"{number(report.orphans, 'entry')} of no passage, which `smart-rag vacuum` removes"
    if report.chroma_damage:
        yield f"Chroma's files are damaged, so searches may be wrong: {report.chroma_damage}"


def vacuum(db: Db) -> None:
    """Remove token embeddings, terms and images that belong to no passage. An interrupted run leaves such entries."""
    with open_index(db) as opened:
        removed = opened.vacuum()
    out.print(f"{number(removed, 'entry')} removed")


def compact(db: Db) -> None:
    """Make the files of an index smaller after passages were removed. Searches go on meanwhile."""
    with open_index(db) as opened:
        freed = opened.compact(show_progress_bar=on_terminal())
    out.print(f"{freed / 1e6:,.1f} MB freed")


def convert(
    db: Db,
    codec: Annotated[
        str | None,
        typer.Option("--codec", metavar="NAME", help=f"The new codec: {', '.join(PRESETS)}."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="M", help="Name or folder of the new sentence-transformers model.")
    ] = None,
    base_model: BaseModel = None,
    adapter: Adapter = None,
    profile: ProfileName = None,
    query_prompt: QueryPrompt = None,
    document_prompt: DocumentPrompt = None,
    backend: Backend = None,
    dtype: Dtype = None,
    max_pixels: MaxPixels = None,
    device: Device = None,
    trust_remote_code: Trusted = False,
) -> None:
    """Change the model or the codec of an index. Without --model, the options belong to the model of the index.

    If it is interrupted, the index stays as it was, and the same command goes on where it stopped.
    """
    from smart_rag.encoders.smart_encoder import SmartEncoder

    if codec is None and model is None:
        raise typer.BadParameter("give a codec with --codec, or a model with --model")
    options: dict[str, Any] = {"base_model": base_model, "adapter": adapter, "profile": profile}
    options |= {"query_prompt": query_prompt, "document_prompt": document_prompt, "backend": backend, "dtype": dtype}
    options |= {"max_pixels": max_pixels, "device": device}
    options = {name: value for name, value in options.items() if value is not None}
    own = {} if model is not None else {**options, "trust_remote_code": trust_remote_code}
    with open_index(db, **own) as opened:
        encoder = None
        if model is not None:
            kept = _chosen_before(opened.manifest.encoder or {}, model)
            kept = {name: value for name, value in kept.items() if name not in options}
            for name, value in kept.items():
                note(f"{name}={value}, as in the index")
            encoder = SmartEncoder(model, trust_remote_code=trust_remote_code, **{**kept, **options})
            for name, before, now in _changed(opened.manifest.encoder or {}, encoder.describe(), {*options, *kept}):
                note(f"{name} is {now!r}; in the index, it is {before!r}")
        opened.convert(encoder, codec=codec, show_progress_bar=on_terminal())
        settings = opened.manifest
    name = "vectors of your own" if settings.encoder is None else settings.encoder["model"]
    out.print(f"{display.short_path(str(db))}: {name}, codec {settings.config.codec}")


def _chosen_before(described: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return what the caller chose when the index was made, if it is converted to the same model once more."""
    if described.get("model") != model_location(model):
        return {}
    return {name: described[name] for name in ("adapter", "max_pixels", "paper") if described.get(name)}


def _changed(before: Mapping[str, Any], now: Mapping[str, Any], given: set[str]) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, old value and new value of those settings of the same model that the caller has not named."""
    if before.get("model") != now.get("model"):
        return
    for name in ("query_prompt", "document_prompt", "max_length", "profile", "query_tokens", "document_tokens"):
        if name not in given and before.get(name) != now.get(name):
            yield name, before.get(name), now.get(name)


def backup(
    target: Annotated[Path, typer.Argument(metavar="FOLDER", parser=absolute, help="A new folder for the copy.")],
    db: Db,
) -> None:
    """Copy an index to another folder, while others may read and write."""
    with open_index(db) as opened:
        opened.snapshot(target)
    out.print(f"copied to {display.short_path(str(target))}")


def restore(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", parser=absolute, help="A folder that backup made.")],
    db: Db,
) -> None:
    """Check a copy that `backup` made, and copy it to the folder --db, which must not exist."""
    with open_index(source) as opened:
        report = opened.verify()
        if not report.sound:
            raise CorruptStore(f"{source}: the copy is damaged, so it was not restored; `smart-rag verify` says where")
        opened.snapshot(db)
        count = opened.count()
    out.print(f"{number(count, 'passage')} in {display.short_path(str(db))}")


def _some(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return ", ".join(ids[:_NAMED]) + more


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

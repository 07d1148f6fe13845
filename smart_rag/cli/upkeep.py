"""Commands that keep an index in order: verify, vacuum, compact, convert, backup, restore."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from smart_rag.cli import display
from smart_rag.cli.console import note, on_terminal, out
from smart_rag.cli.opening import open_index
from smart_rag.cli.options import Adapter, BaseModel, Db, Device, MaxPixels, ProfileName, Trusted
from smart_rag.embeddings.codec import PRESETS
from smart_rag.errors import CorruptStore
from smart_rag.paths import absolute
from smart_rag.types import VerifyReport
from smart_rag.wording import number

# Number of passages that a message names.
_NAMED = 10


def verify(
    db: Db,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Encode broken passages again, and remove token embeddings of no passage."),
    ] = False,
) -> None:
    """Read the whole index, and report what is missing, damaged or lost."""
    from smart_rag.index.smart_index import SmartIndex

    try:
        report, count = _verified(db, repair)
    except CorruptStore as error:
        if not repair:
            raise
        note(f"{error}\nAll passages are encoded again.")
        SmartIndex.rebuild(db, show_progress_bar=on_terminal())
        report, count = _verified(db, repair)
    beyond_repair = [*report.altered, *report.lost]
    if report.sound and not report.orphans:
        out.print(f"all {number(count, 'passage')} are sound")
        return
    out.print(
        f"{number(len(report.missing), 'passage')} without token embeddings or terms, {len(report.damaged)} with "
        f"damaged ones, {number(report.orphans, 'entry')} of no passage" + ("; repaired" if repair else "")
    )
    if report.altered:
        found = number(len(report.altered), "passage")
        out.print(f"{found} with other text or metadata than was added: {_some(report.altered)}")
    if report.lost:
        out.print(f"{number(len(report.lost), 'passage')} whose text is lost: {_some(report.lost)}")
    if report.chroma_damage:
        were, so = ("were", "") if repair else ("are", ", so searches may be wrong")
        out.print(f"Chroma's files {were} damaged{so}: {report.chroma_damage}")
    if beyond_repair:
        note("what is altered or lost cannot be repaired; restore a backup, or index these passages again")
    if beyond_repair or not (report.sound or repair):
        raise SystemExit(1)


def _verified(db: Path, repair: bool) -> tuple[VerifyReport, int]:
    """Return what `verify` finds in the index ``db``, and the number of its passages."""
    with open_index(db) as opened:
        report = opened.verify(repair=repair)
        if repair and not report.altered and not report.lost:
            opened.vacuum()
        return report, opened.count()


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
    options |= {"max_pixels": max_pixels, "device": device}
    options = {name: value for name, value in options.items() if value is not None}
    own = {} if model is not None else {**options, "trust_remote_code": trust_remote_code}
    with open_index(db, **own) as opened:
        encoder = None if model is None else SmartEncoder(model, trust_remote_code=trust_remote_code, **options)
        opened.convert(encoder, codec=codec, show_progress_bar=on_terminal())
        settings = opened.manifest
    name = "vectors of your own" if settings.encoder is None else settings.encoder["model"]
    out.print(f"{display.short_path(str(db))}: {name}, codec {settings.config.codec}")


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

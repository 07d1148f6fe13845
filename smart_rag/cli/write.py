"""Commands that change the documents of an index: index, delete."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from smart_rag.cli import display
from smart_rag.cli.console import note, on_terminal, out
from smart_rag.cli.opening import config_with_codec, open_index
from smart_rag.cli.options import (
    Adapter,
    Backend,
    BaseModel,
    Codec,
    Db,
    Device,
    DocumentPrompt,
    Dtype,
    MaxPixels,
    Model,
    ProfileName,
    QueryPrompt,
    Trusted,
)
from smart_rag.config import DEFAULT_FILE_MEMORY, DEFAULT_FILE_SECONDS, IndexConfig
from smart_rag.errors import InvalidInput
from smart_rag.paths import absolute
from smart_rag.types import AddReport
from smart_rag.wording import number

# The first search calibrates a smaller index in a moment.
_WORTH_CALIBRATING = 200


def index(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", parser=absolute, help="Files and folders.")],
    db: Db,
    model: Model = None,
    base_model: BaseModel = None,
    adapter: Adapter = None,
    include: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help='Take only files that match, such as "*.md".')
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="Leave out files that match.")] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Remove the passages of files that no longer exist.")] = False,
    file_seconds: Annotated[
        float, typer.Option(min=0, metavar="S", help="Leave out a file if reading it takes longer; 0 for no limit.")
    ] = DEFAULT_FILE_SECONDS,
    file_memory: Annotated[
        float, typer.Option(min=0, metavar="GB", help="Leave out a file if reading it takes more; 0 for no limit.")
    ] = DEFAULT_FILE_MEMORY,
    codec: Codec = None,
    profile: ProfileName = None,
    query_prompt: QueryPrompt = None,
    document_prompt: DocumentPrompt = None,
    backend: Backend = None,
    dtype: Dtype = None,
    max_pixels: MaxPixels = None,
    device: Device = None,
    trust_remote_code: Trusted = False,
) -> None:
    """Index files and folders. A second run adds new files and replaces changed files."""
    from smart_rag.files import limits
    from smart_rag.files.reader import find

    # If a path is wrong, fail before a model is loaded or a folder is made. The model's modalities are not known yet.
    find(paths, include or (), exclude or (), ("text", "image", "video"), warns=False)
    config = IndexConfig() if codec is None else config_with_codec(codec, db)
    is_new = not db.exists()
    with (
        limits(file_seconds=file_seconds or None, file_memory=file_memory or None),
        open_index(
            db,
            model,
            config=config,
            base_model=base_model,
            adapter=adapter,
            profile=profile,
            query_prompt=query_prompt,
            document_prompt=document_prompt,
            backend=backend,
            dtype=dtype,
            max_pixels=max_pixels,
            device=device,
            trust_remote_code=trust_remote_code,
        ) as opened,
    ):
        report = opened.add_files(
            paths, include=include or (), exclude=exclude or (), prune=prune, show_progress_bar=on_terminal()
        )
        count = opened.count()
        # With a vision-language model, this would take long. A small index is calibrated by the first search that needs
        # it.
        if count >= _WORTH_CALIBRATING and opened.modalities == {"text"} and not opened.is_calibrated:
            opened.calibrate()
    print_report(report)
    if is_new and not count:
        shutil.rmtree(db, ignore_errors=True)
    else:
        out.print(f"{number(count, 'passage')} in {display.short_path(str(db))}")
    if report.failed and report == AddReport(failed=report.failed):
        raise SystemExit(1)


def delete(
    db: Db,
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Ids of passages.")] = None,
    source: Annotated[list[Path] | None, typer.Option(metavar="PATH", help="All passages of this file.")] = None,
) -> None:
    """Remove passages by their ids, or all passages of a file."""
    if not ids and not source:
        raise typer.BadParameter("give ids, or files with --source")
    with open_index(db) as opened:
        removed = [(f"no passage {id!r}", opened.delete([id])) for id in dict.fromkeys(ids or [])]
        removed += [(f"no passage of the file {path}", opened.delete_source(path)) for path in source or []]
    absent = [message for message, count in removed if not count]
    if len(absent) == len(removed):
        raise InvalidInput(f"{', '.join(absent)} in {db}; nothing was removed")
    out.print(f"{number(sum(count for _, count in removed), 'passage')} removed")
    for message in absent:
        note(f"{message} in {display.short_path(str(db))}")


def print_report(report: AddReport) -> None:
    """Print the counts of ``report`` to standard output, and the files that were left out to standard error."""
    counts = {name: getattr(report, name) for name in ("added", "replaced", "unchanged", "removed")}
    out.print("passages: " + (", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "none"))
    if report.failed:
        were = "was" if len(report.failed) == 1 else "were"
        note(f"{number(len(report.failed), 'file')} {were} left out:", "bold yellow")
        for failed in report.failed:
            note(f"  {display.short_path(str(failed.path))}: {failed.reason}")

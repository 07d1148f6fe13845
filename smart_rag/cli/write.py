"""Commands that change the documents of an index: index, delete."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smart_rag.cli import display
from smart_rag.cli.console import check_report_file, note, on_terminal, out, print_json, write_json
from smart_rag.cli.opening import config_with_codec, open_index
from smart_rag.cli.options import (
    Adapter,
    Backend,
    BaseModel,
    Codec,
    Db,
    DbOrNone,
    Device,
    DocumentPrompt,
    Dtype,
    MaxPixels,
    Model,
    ProfileName,
    QueryPrompt,
    Trusted,
)
from smart_rag.cli.report import print_report, print_survey, report_json
from smart_rag.config import DEFAULT_FILE_MEMORY, DEFAULT_FILE_SECONDS, IndexConfig
from smart_rag.errors import IndexLocked, InvalidInput
from smart_rag.index.manifest import FILE_NAME, Manifest
from smart_rag.paths import absolute, shown
from smart_rag.reports import AddReport, ReadFile, SkippedFile
from smart_rag.wording import number

if TYPE_CHECKING:
    from smart_rag.encoders.protocol import Encoder
    from smart_rag.files.finder import Found
    from smart_rag.index.smart_index import SmartIndex

# The first search calibrates a smaller index in a moment.
_WORTH_CALIBRATING = 200
# While another process writes, the next try to write is after so many seconds.
_SECONDS_TO_WAIT = 2.0


def index(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", parser=absolute, help="Files and folders.")],
    db: DbOrNone = None,
    model: Model = None,
    base_model: BaseModel = None,
    adapter: Adapter = None,
    include: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help='Take only files that match, such as "*.md".')
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="Leave out files that match.")] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Remove the passages of files that no longer exist.")] = False,
    gitignore: Annotated[
        bool, typer.Option("--gitignore/--no-gitignore", help="Leave out what .gitignore and .smartragignore name.")
    ] = True,
    max_file_size: Annotated[
        float | None, typer.Option(min=0, metavar="MB", help="Leave out larger files of folders.")
    ] = None,
    ocr: Annotated[
        bool, typer.Option("--ocr", help="Recognise the text of images, and of pages without text, for a text model.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be read and what would be left out. Write nothing.")
    ] = False,
    watches: Annotated[
        bool, typer.Option("--watch", help="Go on, and take up changes of the files as they come, until Ctrl-C.")
    ] = False,
    report_file: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", parser=absolute, help="Write what became of each file as JSON."),
    ] = None,
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
    from smart_rag.files.finder import ALL_MODALITIES
    from smart_rag.files.ocr.engine import check_installed
    from smart_rag.index.smart_index import remove_empty

    if db is None and not dry_run:
        raise typer.BadParameter("expected the folder of the index; only --dry-run needs none", param_hint="--db")
    if dry_run and (watches or prune):
        raise typer.BadParameter(f"{'--watch' if watches else '--prune'} does nothing with --dry-run; leave one out")
    if ocr:
        check_installed()
    check_report_file(report_file, "--report")
    within_limits = partial(limits, file_seconds=file_seconds or None, file_memory=file_memory or None)
    wanted = _Wanted(paths, include or (), exclude or (), gitignore, max_file_size, ocr)
    # If a path is wrong, fail before a model is loaded or a folder is made. The model's modalities are not known yet.
    if not prune and not watches:
        replace(wanted, ocr=False).find(ALL_MODALITIES, warns=False)
    if db is None or dry_run:
        with within_limits():
            report = _surveyed(wanted, _modalities(db, model, device, trust_remote_code))
        _tell_of_survey(report, report_file, has_index=db is not None and (db / FILE_NAME).exists())
        return
    config = IndexConfig() if codec is None else config_with_codec(codec, db)
    is_new = not db.exists()
    with (
        within_limits(),
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
        report = wanted.add_to(opened, prune=prune or watches, show_progress_bar=on_terminal())
        count = opened.count()
        # With a vision-language model, this would take long. A small index is calibrated by the first search that needs
        # it.
        if count >= _WORTH_CALIBRATING and opened.modalities == {"text"} and not opened.is_calibrated:
            opened.calibrate()
        print_report(report)
        if report_file:
            write_json(report_file, report_json(report))
        if count or not is_new:
            out.print(f"{number(count, 'passage')} in {display.short_path(str(db))}")
        encoder = opened.encoder if watches else None
        if is_new and not count and not watches:
            remove_empty(opened)
    if encoder is not None:
        with within_limits():
            _follow(db, encoder, wanted)
    if _has_missing(report) or (report.failed and report == AddReport(failed=report.failed, skipped=report.skipped)):
        raise SystemExit(1)


def _tell_of_survey(report: AddReport, report_file: Path | None, has_index: bool) -> None:
    print_survey(report, has_index)
    if report_file:
        write_json(report_file, report_json(report))
    if _has_missing(report) or (report.failed and not report.read):
        raise SystemExit(1)


def _has_missing(report: AddReport) -> bool:
    """Return whether one of the paths that the user named does not exist."""
    from smart_rag.files.finder import MISSING

    return any(one.reason == MISSING for one in report.failed)


def _follow(db: Path, encoder: Encoder, wanted: _Wanted) -> None:
    """Take up changes of what is ``wanted`` as they come, until Ctrl-C."""
    from smart_rag.files.watcher import changes

    note(f"watching {', '.join(map(str, wanted.paths))}; Ctrl-C ends it", "dim")
    for changed in changes(wanted.paths, db):
        report = _add_changed(db, encoder, wanted, changed)
        if report != AddReport(unchanged=report.unchanged):
            print_report(report)
            out.file.flush()  # into a pipe or a file, Python would write it much later


def _add_changed(db: Path, encoder: Encoder, wanted: _Wanted, changed: set[Path]) -> AddReport:
    """Write what is ``wanted`` of the paths that have ``changed``, and remove the passages of files that are gone.

    If more has changed than files that are there, all files are read: a file that is gone may be in another place, and
    patterns leave out other files. Other processes can write before and after. While one of them writes, this is
    tried again and again.
    """
    from smart_rag.index.smart_index import SmartIndex

    is_told = False
    while True:
        try:
            with SmartIndex.open(db, encoder) as opened:
                found = wanted.find(opened.modalities, warns=False, may_be_empty=True)
                if _concerns_others(changed, found, opened):
                    return wanted.add_to(opened, prune=True)
                files = [file for file in found.files if file in changed]
                return opened.add_files(files, ocr=wanted.ocr) if files else AddReport()
        except IndexLocked as error:
            if not is_told:
                note(f"{error}; {number(len(changed), 'changed file')} will be tried again", "yellow")
            is_told = True
            time.sleep(_SECONDS_TO_WAIT)


def _concerns_others(changed: Collection[Path], found: Found, opened: SmartIndex) -> bool:
    """Return whether other files must be read than those in ``found`` that have ``changed``.

    They must be if patterns or a folder have changed, or if the index has a file that is gone or is left out now.
    """
    from smart_rag.files.finder import is_asked
    from smart_rag.files.ignored import NAMES

    taken = {*found.files, *(one.path for one in found.failed)}
    left_out = {one.path: one.reason for one in found.skipped}
    absent: set[Path] = set()
    for path in changed:
        # What is below a folder that is left out is not in `found`.
        place = next((one for one in (*reversed(path.parents), path) if one in left_out), path)
        if place == path and (path.name in NAMES or (path not in left_out and os.path.isdir(path))):
            return True
        if place not in taken and not is_asked(left_out.get(place, "")):
            absent.add(place)
    if not absent:
        return False
    return any(not absent.isdisjoint([file.path, *file.path.parents]) for file in opened.sources())


@dataclass(frozen=True)
class _Wanted:
    """The files that the options of `index` ask for."""

    paths: Sequence[Path]
    include: Sequence[str]
    exclude: Sequence[str]
    gitignore: bool
    max_file_size: float | None
    ocr: bool = False

    def find(self, modalities: Collection[str], warns: bool = True, may_be_empty: bool = False) -> Found:
        from smart_rag.files.finder import find
        from smart_rag.files.reader import with_ocr

        return find(
            self.paths,
            self.include,
            self.exclude,
            with_ocr(modalities) if self.ocr else modalities,
            gitignore=self.gitignore,
            max_file_size=self.max_file_size,
            warns=warns,
            may_be_empty=may_be_empty,
        )

    def add_to(self, index: SmartIndex, *, prune: bool, show_progress_bar: bool = False) -> AddReport:
        """Write these files to ``index``."""
        return index.add_files(
            self.paths,
            include=self.include,
            exclude=self.exclude,
            prune=prune,
            gitignore=self.gitignore,
            max_file_size=self.max_file_size,
            ocr=self.ocr,
            show_progress_bar=show_progress_bar,
        )


def _modalities(db: Path | None, model: str | None, device: str | None, trust_remote_code: bool) -> Collection[str]:
    """Return the modalities of the index, or of the model that a new index would have."""
    if db is not None and (db / FILE_NAME).exists():
        return Manifest.read(db).modalities
    if model is None:
        return ("text",)
    from smart_rag.encoders.smart_encoder import SmartEncoder

    return SmartEncoder(model, device=device, trust_remote_code=trust_remote_code).modalities


def _surveyed(wanted: _Wanted, modalities: Collection[str]) -> AddReport:
    """Return what a new index would read and leave out, as a report without passages."""
    from smart_rag.files.content import digest_of_file
    from smart_rag.files.finder import SAME_CONTENT
    from smart_rag.files.reader import survey
    from smart_rag.index.writing.file_ingest import failed_file

    found = wanted.find(modalities)
    read: list[ReadFile] = []
    failed = list(found.failed)
    skipped = list(found.skipped)
    first: dict[tuple[str, str], Path] = {}  # as in `FileIngest`: the first file of these bytes and this suffix
    for path in found.files:
        try:
            content = digest_of_file(path), path.suffix.lower()
            if content in first:
                skipped.append(SkippedFile(path, SAME_CONTENT, shown(first[content])))
                continue
            read.append(survey(path, modalities, wanted.ocr))
            first[content] = path
        except Exception as error:  # whatever a parser raises, the other files are still looked at
            failed.append(failed_file(path, error))
    return AddReport(failed=tuple(failed), read=tuple(read), skipped=tuple(skipped))


def delete(
    db: Db,
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Ids of passages.")] = None,
    source: Annotated[
        list[str] | None,  # an index may have any text as a source. An empty Path would be the working directory
        typer.Option(metavar="PATH", help="All passages of this file or folder."),
    ] = None,
) -> None:
    """Remove passages by their ids, or all passages of a file or a folder."""
    if not ids and not source:
        raise typer.BadParameter("give ids, or files with --source")
    with open_index(db) as opened:
        removed = [(f"no passage {id!r}", opened.delete([id])) for id in dict.fromkeys(ids or [])]
        removed += [(f"no passage of the file {shown(path)}", opened.delete_source(path)) for path in source or []]
    absent = [message for message, count in removed if not count]
    if len(absent) == len(removed):
        raise InvalidInput(f"{', '.join(absent)} in {db}; nothing was removed")
    out.print(f"{number(sum(count for _, count in removed), 'passage')} removed")
    for message in absent:
        note(f"{message} in {display.short_path(str(db))}")


def sources(
    db: Db,
    gone: Annotated[bool, typer.Option("--gone", help="Only files that no longer exist.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove the passages of files that no longer exist.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the files in an index, and say which of them no longer exist."""
    with open_index(db) as opened:
        before = opened.sources()
        found = [file for file in before if not gone or file.exists is False]
        removed = opened.prune() if prune else 0
        known = {file.path for file in before}
        new = [file for file in opened.sources() if file.path not in known] if prune else []
    if as_json:
        print_json([{"path": str(file.path), "passages": file.passages, "exists": file.exists} for file in found])
    else:
        for file in found:
            mark = {True: "", False: " (gone)", None: " (cannot be looked at)"}[file.exists]
            passages = number(file.passages, "passage")
            out.print(f"{display.short_path(shown(file.path))}: {passages}{mark}", soft_wrap=True)
        if not found:
            note("no file" + (" is gone" if gone else " in the index"))
    if prune:
        for file in new:  # it was left out before, because a file that is gone had the same bytes
            passages = number(file.passages, "passage")
            note(f"{display.short_path(shown(file.path))}: {passages} of a file that is gone, with the same content")
        note(f"{number(removed, 'passage')} removed")

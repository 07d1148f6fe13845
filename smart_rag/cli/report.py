"""Report of a run that reads files: text for people, JSON values for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from smart_rag.cli.console import err, note, out
from smart_rag.cli.display import short_path
from smart_rag.files.finder import is_expected
from smart_rag.files.formats.known import suffix_of
from smart_rag.json_shapes import counts_json
from smart_rag.paths import shown
from smart_rag.reports import AddReport, ReadFile
from smart_rag.wording import number

# Files with losses that are named on the terminal. The file of --report names all of them.
_MOST_NAMES = 20


def report_json(report: AddReport) -> dict[str, Any]:
    """Return a report as JSON values: counts of passages, a summary by type, and what became of each file."""
    return {
        "passages": counts_json(report),
        "by_type": _by_type(report.read),
        "read": [
            {
                "path": str(file.path),
                "passages": file.passages,
                "characters": file.characters,
                "left_out": list(file.left_out),
            }
            for file in report.read
        ],
        "failed": [{"path": str(file.path), "reason": file.reason} for file in report.failed],
        "skipped": [{"path": str(file.path), "reason": file.reason, "detail": file.detail} for file in report.skipped],
    }


def print_report(report: AddReport) -> None:
    """Print the counts of ``report`` to standard output, and what was left out to standard error."""
    counts = ", ".join(f"{count:,} {name}" for name, count in counts_json(report).items() if count)
    out.print(f"passages: {counts or 'none'}")
    if len({suffix_of(file.path) for file in report.read}) > 1:
        err.print(_type_table(report.read))
    losses = [(file.path, "; ".join(file.left_out)) for file in report.read if file.left_out]
    _print_files("lacks something in the index", "lack something in the index", losses)
    _print_left_out(report)


def _print_left_out(report: AddReport) -> None:
    failures = [(file.path, file.reason) for file in report.failed]
    _print_files("was left out", "were left out", failures, most=len(failures))
    # A warning of the library has named the others.
    expected = Counter(file.reason for file in report.skipped if is_expected(file.reason))
    if expected:
        note("not looked at: " + ", ".join(f"{count:,} {reason}" for reason, count in expected.most_common()))


def print_survey(report: AddReport, has_index: bool = False) -> None:
    """Print what would be read: each file with its number of characters, what would be left out, and the totals.

    ``has_index`` says whether there is an index, which may have some of the files.
    """
    for file in report.read:
        is_seen = not file.characters and not file.left_out
        taken = "seen by the model" if is_seen else number(file.characters, "character")
        losses = f" ({'; '.join(file.left_out)})" if file.left_out else ""
        out.print(f"{short_path(shown(file.path))}: {taken}{losses}", soft_wrap=True)
    _print_left_out(report)
    characters = number(sum(file.characters for file in report.read), "character")
    note(f"{number(len(report.read), 'file')} would be read, with {characters}; passages overlap, so they have more")
    if has_index:
        note("files that the index has already are among them")


def _print_files(one: str, several: str, files: Sequence[tuple[Path, str]], most: int = _MOST_NAMES) -> None:
    if not files:
        return
    note(f"{number(len(files), 'file')} {one if len(files) == 1 else several}:", "bold yellow")
    for path, reason in files[:most]:
        note(f"  {short_path(shown(path))}: {reason}")
    if len(files) > most:
        note(f"  and {len(files) - most:,} more; --report FILE names all of them")


def _by_type(files: Iterable[ReadFile]) -> dict[str, dict[str, int]]:
    """Return, for each suffix, the number of files, passages and characters, and of files that lack something."""
    found: dict[str, Counter[str]] = {}
    for file in files:
        counts = found.setdefault(suffix_of(file.path), Counter(files=0, passages=0, characters=0, with_losses=0))
        counts.update(files=1, passages=file.passages, characters=file.characters, with_losses=bool(file.left_out))
    return {suffix: dict(counts) for suffix, counts in sorted(found.items())}


def _type_table(files: Iterable[ReadFile]) -> Table:
    table = Table.grid(padding=(0, 2))
    for justify in ("left", "right", "right", "right", "left"):
        table.add_column(justify=justify)
    for suffix, counts in _by_type(files).items():
        lacking = f"{counts['with_losses']:,} with losses" if counts["with_losses"] else ""
        words = (number(counts[f"{name}s"], name) for name in ("file", "passage", "character"))
        table.add_row(f"  {suffix or 'no suffix'}", *words, lacking)
    return table

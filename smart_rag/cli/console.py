"""Output of the command line: text for people, JSON for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from smart_rag.errors import InvalidInput
from smart_rag.paths import absolute

# Characters that a terminal may obey: controls, other ends of lines, and changes of the direction of writing. Halves
# of surrogate pairs, too: they are in file names that are not UTF-8, and cannot be written.
_OBEYED = [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_OBEYED += range(0xD800, 0xE000)
_UNLIMITED = 10_000  # columns
_SHOWN = dict.fromkeys(_OBEYED, "\ufffd") | {ord("\n"): "\n", ord("\t"): "\t", ord("\r"): " "}


def printable(text: str) -> str:
    r"""Return ``text`` without the characters that a terminal obeys. So the text can neither hide nor forge output.

    The result has the same length. Ends of lines and tabs stay.

    >>> printable("a\x1b[2Jb\r\n")
    'a\ufffd[2Jb \n'
    """
    return text.translate(_SHOWN)


def on_one_line(name: str) -> str:
    """Return ``name`` without characters that a terminal would not show, and without line breaks."""
    return printable(name).replace("\n", "\ufffd")


_ESCAPED = {code: f"\\u{code:04x}" for code in _OBEYED if code >= 0x7F}  # `json.dumps` has escaped the others


class _Console(Console):
    """A console for texts of documents, models, file names and errors: what they say is shown, and nothing else.

    Control characters in these texts have no effect, and what looks like rich's markup or like the name of an emoji is
    text. Styles are given as `Text`.
    """

    def __init__(self, *, stderr: bool = False, width: int | None = None) -> None:
        super().__init__(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)

    def print_tables(self, tables: RenderableType) -> None:
        """Print ``tables``. Where no terminal limits the width, each cell is on one line, and no figure is cut."""
        if self.is_terminal or "COLUMNS" in os.environ:
            self.print(tables)
            return
        parts = tables.renderables if isinstance(tables, Group) else [tables]
        unlimited = self.options.update(width=_UNLIMITED)
        widths = (Measurement.get(self, unlimited, part).maximum for part in parts if isinstance(part, Table))
        _Console(stderr=self.stderr, width=max([self.width, *widths])).print(tables)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)


out = _Console()
err = _Console(stderr=True)


def on_terminal() -> bool:
    """Return whether standard error is a terminal, where a progress bar can be seen."""
    return sys.stderr.isatty()


def print_json(value: Any) -> None:
    """Print JSON values to standard output. Characters that a terminal obeys are escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    sys.stdout.write(text.translate(_ESCAPED) + "\n")


def note(message: str, style: str = "") -> None:
    """Print ``message`` to standard error, exactly as it is: without markup, and with its own line breaks."""
    err.print(Text(message, style=style), soft_wrap=True)


def check_report_file(path: str | Path | None, option: str = "--json", suffix: str = ".json") -> None:
    """Before the work begins, check that the file that ``option`` names can be written.

    Raises:
        InvalidInput: the folder of the file does not exist, or ``path`` is a folder, or the file may not be written, or
            it exists and does not end in ``suffix``. So a wrong name costs nobody a document.
    """
    if path in (None, "-"):
        return
    file = absolute(path)
    if not os.path.isdir(file.parent):
        raise InvalidInput(f"{option} {path}: the folder {file.parent} does not exist")
    if os.path.isdir(file):
        raise InvalidInput(f"{option} {path} is a folder; name a file")
    is_new = not os.path.lexists(file)
    if not is_new and not os.path.isfile(file):  # such as a device, where writing is the only test
        return
    try:
        with file.open("ab") as opened:
            is_empty = not opened.tell()
        if is_new:
            file.unlink()
    except OSError as error:
        raise InvalidInput(f"{option} {path} cannot be written ({error.strerror or error})") from error
    if not is_empty and file.suffix.lower() != suffix:
        raise InvalidInput(f"{option} {path} exists and does not end in {suffix}; name a new file, or remove this one")


def show_figures(figures: Any, shown: RenderableType, path: str | None) -> None:
    """Print ``shown``, and write ``figures`` to ``path`` as JSON. If ``path`` is ``-``, print only ``figures``."""
    if path == "-":
        print_json(figures)
        return
    out.print_tables(shown)
    if path:
        write_json(absolute(path), figures)


def write_json(file: Path, value: Any) -> None:
    """Write JSON values to ``file``.

    Raises:
        InvalidInput: the file cannot be written.
    """
    try:
        file.write_text(json.dumps(value, indent=2), encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"{file} cannot be written ({error.strerror or error}); the rest was done") from error

"""Output of the command line: text for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from smart_rag.errors import InvalidInput
from smart_rag.paths import absolute

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def on_terminal() -> bool:
    """Return whether standard error is a terminal, where a progress bar can be seen."""
    return sys.stderr.isatty()


def print_json(value: Any) -> None:
    """Print JSON values to standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def note(message: str, style: str = "") -> None:
    """Print ``message`` to standard error, exactly as it is: without markup, and with its own line breaks."""
    err.print(Text(message, style=style), soft_wrap=True)


def check_report_file(path: str | None) -> None:
    """Check, before the work begins, that `show_figures` can write to the file that ``--json`` names.

    Raises:
        InvalidInput: the folder of the file does not exist.
    """
    if path not in (None, "-") and not absolute(path).parent.is_dir():
        raise InvalidInput(f"--json {path}: the folder {absolute(path).parent} does not exist")


def show_figures(figures: Any, shown: RenderableType, path: str | None) -> None:
    """Print ``shown``, and write ``figures`` to ``path`` as JSON. With the path ``-``, print only ``figures``."""
    if path == "-":
        print_json(figures)
        return
    out.print(shown)
    if path:
        absolute(path).write_text(json.dumps(figures, indent=2), encoding="utf-8")

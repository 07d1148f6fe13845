"""Where the command line speaks: to people, or to programs in JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from smart_rag.errors import InvalidInput

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def on_terminal() -> bool:
    """Return whether someone is there to see a progress bar."""
    return sys.stderr.isatty()


def print_json(value: Any) -> None:
    """Print JSON values."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def check_report_file(path: str | None) -> None:
    """Raise `InvalidInput`, before the work, if `show_figures` could not write to what ``--json`` names."""
    if path not in (None, "-") and not Path(path).absolute().parent.is_dir():
        raise InvalidInput(f"--json {path}: the folder {Path(path).parent} does not exist")


def show_figures(figures: Any, shown: RenderableType, path: str | None) -> None:
    """Print ``shown``, and write ``figures`` to the file that ``--json`` names; where that is ``-``, print these."""
    if path == "-":
        print_json(figures)
        return
    out.print(shown)
    if path:
        Path(path).write_text(json.dumps(figures, indent=2), encoding="utf-8")

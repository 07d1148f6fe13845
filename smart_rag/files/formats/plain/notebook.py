"""Jupyter notebooks: the cells, and what they printed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from smart_rag.errors import DocumentError
from smart_rag.files.formats.page import Page
from smart_rag.files.formats.text import read_text
from smart_rag.wording import number, some

_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def read_notebook(path: Path) -> Iterator[Page]:
    """Yield the cells of a notebook, each followed by the text of its outputs, as one page.

    A cell that is no cell is left out, and named.

    Raises:
        DocumentError: the file is no notebook.
    """
    (page,) = read_text(path)
    try:
        notebook = json.loads(page.text)
        cells = notebook.get("cells")
        if cells is None:  # before version 4
            cells = [cell for sheet in notebook["worksheets"] for cell in sheet["cells"]]
        if not isinstance(cells, list):
            raise TypeError(f"expected a list of cells, got {type(cells).__name__}")
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise DocumentError(path, "damaged, or not a notebook") from error
    blocks: list[str] = []
    silent = 0
    unread: list[int] = []
    for place, cell in enumerate(cells, 1):
        try:
            blocks.append(_source(cell))
            outputs = [(_printed(output), _data(output)) for output in cell.get("outputs") or ()]
        except (AttributeError, TypeError, ValueError):
            unread.append(place)
            continue
        blocks += [text for text, _ in outputs]
        silent += sum(1 for text, data in outputs if not text and data)
    left_out = [f"{number(silent, 'output')} without text"] * bool(silent)
    if unread:
        left_out.append(f"{number(len(unread), 'cell')} damaged in whole or in part: cell {some(unread)}")
    yield Page("\n\n".join(filter(None, blocks)), left_out=(*page.left_out, *left_out))


def _source(cell: Mapping[str, Any]) -> str:
    return _joined(cell.get("source", cell.get("input")))


def _printed(output: Mapping[str, Any]) -> str:
    """Return the text of an output: what was printed, an error, or the plain form of a value."""
    if output.get("output_type") in ("error", "pyerr"):
        lines = output.get("traceback") or f"{output.get('ename')}: {output.get('evalue')}"
        text = lines if isinstance(lines, str) else "\n".join(lines)
    else:
        data = _data(output)
        kinds = ("text", "text/markdown", "text/latex", "text/plain")
        text = next((_joined(data[kind]) for kind in kinds if kind in data), "")
    return _COLOURS.sub("", text).strip()


def _data(output: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the forms of an output by their kinds."""
    if "data" in output:
        return dict(output["data"])
    return {key: value for key, value in output.items() if key in ("text", "png", "jpeg", "svg", "html")}


def _joined(text: str | list[str] | None) -> str:
    return text if isinstance(text, str) else "".join(text or ())

"""Word documents (.docx): paragraphs and tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smart_rag.errors import MissingExtra
from smart_rag.files.formats.page import Page


def read_docx(path: Path) -> Iterator[Page]:
    """Yield the paragraphs and tables of a Word document, in their order, as one page.

    Raises:
        MissingExtra: python-docx is not installed.
    """
    try:
        import docx
    except ImportError as error:
        raise MissingExtra("python-docx", "docx", f"reading {path.name}") from error
    blocks = docx.Document(str(path)).iter_inner_content()
    yield Page("\n\n".join(line for block in blocks for line in _lines(block)))


def _lines(block: Any) -> list[str]:
    """Return the text of a paragraph, or the text of each row of a table."""
    if hasattr(block, "rows"):
        return [" | ".join(_cells(row)) for row in block.rows]
    return [block.text]


def _cells(row: Any) -> Iterator[str]:
    """Yield the text of each cell of a row. A cell that continues a merged cell above is left out.

    ``row.cells`` repeats a cell for each column that it spans. A damaged file may state millions of columns.
    """
    from docx.table import _Cell

    for cell in row._tr.tc_lst:
        if cell.vMerge != "continue":
            yield _Cell(cell, row.table).text

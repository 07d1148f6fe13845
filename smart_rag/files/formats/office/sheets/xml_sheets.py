"""Sheets in the XML of Excel 2003 ("XML Spreadsheet 2003"), which web applications like to export as .xls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from smart_rag.errors import DocumentError, MissingExtra
from smart_rag.files.formats.office.archive import MOST_BYTES, parse, recovered, value
from smart_rag.files.formats.page import Page
from smart_rag.files.formats.plain.tables import table_text

if TYPE_CHECKING:
    from lxml.etree import _Element

_MOST_EMPTY = 20  # empty cells that are kept between two others


def read_xml_sheets(path: Path) -> Iterator[Page]:
    """Yield each sheet as a page. The name of the sheet and its first row are the header, which each chunk repeats.

    Raises:
        DocumentError: the file is damaged, or very large.
        MissingExtra: lxml is not installed.
    """
    try:
        from lxml.etree import XMLSyntaxError
    except ImportError as error:
        raise MissingExtra("lxml", "office", f"reading {path.name}") from error
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise DocumentError(path, f"more than {MOST_BYTES // 10**6} MB of XML; split the file")
    left_out = []
    try:
        root = parse(data)
    except XMLSyntaxError:
        root = recovered(data)
        left_out.append("its XML is damaged, and what follows the damage may be missing")
    sheets = [] if root is None else list(root.iter("{*}Worksheet"))
    for number, sheet in enumerate(sheets, 1):
        name = value(sheet, "Name") or ""
        header, text = table_text(_cells(row) for row in sheet.iter("{*}Row"))
        notes = [shown for note in sheet.iter("{*}Comment") if (shown := _text(note))]
        yield Page(
            "\n\n".join(filter(None, (text, *notes))), number, metadata={"sheet": name}, header=f"{name}\n{header}"
        )
    yield Page("", left_out=tuple(left_out))


def _cells(row: _Element) -> list[str]:
    cells: list[str] = []
    column = 0
    for cell in row.iterchildren("{*}Cell"):
        stated = value(cell, "Index") or ""
        place = int(stated) if stated.isdecimal() and len(stated) < 8 else column + 1
        cells += [""] * min(max(place - column - 1, 0), _MOST_EMPTY)
        cells.append(" ".join(map(_shown, cell.iterchildren("{*}Data"))))
        column = place
    return cells


def _shown(data: _Element) -> str:
    text = _text(data)
    match value(data, "Type"):
        case "DateTime":
            day, _, time = text.partition("T")
            time = time.partition(".")[0]
            return time if day == "1899-12-31" else day if time in ("", "00:00:00") else f"{day} {time}"
        case "Boolean":
            return "TRUE" if text == "1" else "FALSE"
    return text


def _text(element: _Element) -> str:
    """Return the text of a cell or of a comment, which may have markup in it."""
    return "".join(map(str, element.itertext("{*}*"))).strip()

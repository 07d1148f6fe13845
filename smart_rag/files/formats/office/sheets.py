"""Sheets (.xlsx and its kin): the cells as they are shown, with comments and text boxes.

The rows are read one after another. Libraries that hold a whole sheet need gigabytes for a small file with one cell
at its far end.
"""

from __future__ import annotations

import io
import posixpath
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from smart_rag.errors import DocumentError
from smart_rag.files.formats.office.archive import Archive, elements, inner, local, value
from smart_rag.files.formats.office.drawing import diagram_text
from smart_rag.files.formats.office.missing import embedded_files
from smart_rag.files.formats.page import Page
from smart_rag.files.formats.plain.tables import table_text
from smart_rag.wording import number

if TYPE_CHECKING:
    from lxml.etree import _Element

_BUILTIN_DATES = {*range(14, 23), *range(27, 37), *range(45, 48), *range(50, 59)}
_BUILTIN_PERCENTAGES = {9: "0%", 10: "0.00%"}
_NO_CODE = re.compile(r'"[^"]*"|\\.|\[[^\]]*\]|_.|\*.')  # texts, colours and spaces in the code of a number format
_MOST_EMPTY = 20  # empty cells that are kept between two others
_MOST_TEXT = 256_000_000  # characters: many cells may show the same long text
_MOST_LETTERS = 7  # of a column: Excel has at most three
_MOST_DIGITS = 30  # Excel shows as many
_LAST_DATE = 2_958_466  # days after the first: the year 9999
_ESCAPED = re.compile("_x([0-9A-F]{4})_")
_WHOLE = re.compile("-?[0-9]{1,20}")  # other numbers have at most 15 digits that are right


def read_xlsx(path: Path) -> Iterator[Page]:
    """Yield each sheet as a page. The name of the sheet and its first row are the header, which each chunk repeats.

    Raises:
        DocumentError: the file is encrypted or damaged.
        MissingExtra: lxml is not installed.
    """
    with Archive(path) as archive:
        book = _Book(archive)
        said = 0
        for position, (name, part) in enumerate(book.sheets(), 1):
            header, text = table_text(book.rows(part))
            text = "\n\n".join(filter(None, (text, *book.around(part))))
            left_out = (*archive.left_out[said:], *embedded_files(archive.related(part)))
            said = len(archive.left_out)
            yield Page(text, position, metadata={"sheet": name}, header=f"{name}\n{header}", left_out=left_out)
        yield Page("", left_out=(*archive.left_out[said:], *book.unread()))


class _Book:
    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._main = archive.main("xl/workbook.xml")
        self._related = archive.related(self._main)
        self._root = archive.xml(self._main)
        self._strings = [_shared(element) for element in self._each("sharedStrings", "si")]
        self._unread = set(range(len(self._strings)))
        self._lost = 0
        self._room = _MOST_TEXT
        styles = self._part("styles")
        self._formats = [] if styles is None else list(_formats(styles))
        settings = next((element for element in elements(self._root) if local(element) == "workbookPr"), None)
        since_1904 = settings is not None and settings.get("date1904") in ("1", "true")
        self._first_day = datetime(1904, 1, 1) if since_1904 else datetime(1899, 12, 30)

    def sheets(self) -> Iterator[tuple[str, str]]:
        """Yield the name and the part of each sheet, in their order."""
        for element in elements(self._root):
            if local(element) == "sheet":
                _, part = self._related.get(value(element, "id") or "", ("", ""))
                yield element.get("name", ""), part

    def rows(self, part: str) -> Iterator[list[str]]:
        """Yield the cells of each row of a sheet."""
        import lxml.etree

        try:
            data = io.BytesIO(self._archive.read(part))
        except DocumentError as error:
            self._archive.left_out.append(f"cannot be read ({error.reason})")
            return
        options = {"resolve_entities": False, "no_network": True, "load_dtd": False, "huge_tree": True}
        try:
            for _, row in lxml.etree.iterparse(data, tag="{*}row", **options):
                cells = self._cells(row)
                self._room -= sum(map(len, cells))
                if self._room < 0:
                    raise DocumentError(
                        self._archive.path,
                        f"its cells show more than {_MOST_TEXT // 10**6} million characters; expected a document",
                    )
                yield cells
                row.clear()
                while row.getprevious() is not None:
                    del row.getparent()[0]
        except lxml.etree.XMLSyntaxError:
            self._archive.left_out.append("damaged XML, and what follows the damage is missing")

    def around(self, part: str) -> Iterator[str]:
        """Yield the comments, text boxes, charts and diagrams of a sheet."""
        for kind, name in self._archive.related(part).values():
            root = self._archive.part(name) if kind in ("comments", "threadedComment", "drawing") else None
            for element in () if root is None else elements(root):
                if local(element) in ("comment", "threadedComment"):
                    yield f"{element.get('ref', '')}: {_shared(element)}"
                elif local(element) in ("chart", "relIds"):
                    id = value(element, "id" if local(element) == "chart" else "dm") or ""
                    _, drawing = self._archive.related(name).get(id, ("", ""))
                    drawn = self._archive.part(drawing) if drawing in self._archive.names else None
                    yield from () if drawn is None else diagram_text(drawn)
            if kind == "drawing" and root is not None:
                yield from diagram_text(root)

    def unread(self) -> Iterator[str]:
        """Yield a phrase for the texts that no cell shows, and one for the cells whose text is nowhere."""
        words = sum(len(self._strings[i].split()) for i in self._unread)
        if words:
            yield f"{number(words, 'word')} that the raw text of the file has and no cell shows"
        if self._lost:
            yield f"{number(self._lost, 'cell')} whose text is not in the file"

    def _part(self, kind: str) -> _Element | None:
        usual = posixpath.join(posixpath.dirname(self._main), f"{kind}.xml")
        name = next((name for found, name in self._related.values() if found == kind), usual)
        return self._archive.part(name) if name in self._archive.names else None

    def _each(self, kind: str, name: str) -> Iterator[_Element]:
        root = self._part(kind)
        yield from () if root is None else (element for element in elements(root) if local(element) == name)

    def _cells(self, row: _Element) -> list[str]:
        cells: list[str] = []
        column = 0
        for cell in row:
            if local(cell) == "c":
                place = _column(cell.get("r")) or column + 1
                cells += [""] * min(max(place - column - 1, 0), _MOST_EMPTY)
                cells.append(self._shown(cell))
                column = place
        return cells

    def _shown(self, cell: _Element) -> str:
        """Return the text of a cell. A formula whose value is not stored stands for itself."""
        parts = {local(part): part for part in cell}
        if "is" in parts:
            return _shared(parts["is"])
        stored = inner(parts["v"]) if "v" in parts else ""
        if not stored:
            return f"={inner(parts['f'])}" if "f" in parts and inner(parts["f"]) else ""
        match cell.get("t", "n"):
            case "s":
                return self._string(stored)
            case "b":
                return "TRUE" if stored.lower() in ("1", "true") else "FALSE"
            case "n":
                return self._number(stored, cell.get("s", "0"))
        return _unescaped(stored)

    def _string(self, place: str) -> str:
        if _whole(place) >= len(self._strings):
            self._lost += 1
            return ""
        self._unread.discard(int(place))
        return self._strings[int(place)]

    def _number(self, stored: str, style: str) -> str:
        code = self._formats[_whole(style)] if _whole(style) < len(self._formats) else ""
        try:
            found = float(stored)
        except ValueError:
            return stored
        if code == "date" and 0 <= found < _LAST_DATE:
            return self._date(found)
        if code.endswith("%"):
            digits = len(code.partition(".")[2]) - 1 if "." in code else 0
            return f"{found:.{min(digits, _MOST_DIGITS)}%}"
        return stored if _WHOLE.fullmatch(stored) else f"{found:.15g}"

    def _date(self, days: float) -> str:
        moment = self._first_day + timedelta(seconds=round(days * 86_400))
        if days < 1:
            return moment.time().isoformat()
        return (moment.date() if days == int(days) else moment).isoformat(*(() if days == int(days) else (" ",)))


def _shared(element: _Element) -> str:
    """Return the text of a string or of a comment, without hints to pronounce it."""
    parts = (part for part in elements(element) if local(part) in ("t", "text"))
    return _unescaped("".join(inner(part) for part in parts if local(part.getparent()) != "rPh")).strip()


def _unescaped(text: str) -> str:
    """Return a text with the characters that Excel writes by their numbers: ``_x000D_`` is the end of a line."""
    return _ESCAPED.sub(lambda code: "\n" if code[1] == "000D" else chr(int(code[1], 16)), text)


def _formats(styles: _Element) -> Iterator[str]:
    """Yield for each style of cells: ``"date"``, the code of a percentage, or an empty text."""
    codes = {
        element.get("numFmtId"): element.get("formatCode", "")
        for element in elements(styles)
        if local(element) == "numFmt"
    }
    for group in (element for element in elements(styles) if local(element) == "cellXfs"):
        for style in (element for element in elements(group) if local(element) == "xf"):
            id = style.get("numFmtId", "0")
            code = _NO_CODE.sub("", codes.get(id, "")).partition(";")[0]
            built_in = 0 if id in codes else _whole(id)
            if built_in in _BUILTIN_DATES or re.search("[dmyhs]", code.lower().replace("general", "")):
                yield "date"
            else:
                yield _BUILTIN_PERCENTAGES.get(built_in, code if code.endswith("%") else "")


def _whole(text: str) -> int:
    """Return a number that is the place of something, or a very large one if ``text`` is none."""
    return int(text) if text.isdecimal() and len(text) < 10 else 10**9


def _column(reference: str | None) -> int:
    """Return the number of a column, from 1 on, such as 28 for ``"AB7"``. Return 0 if there is none."""
    column = 0
    for letter in (reference or "")[:_MOST_LETTERS].upper():
        if not "A" <= letter <= "Z":
            break
        column = column * 26 + ord(letter) - 64
    return column

"""Sheets (.xlsx and its kin): the cells as they are shown, with comments and text boxes.

The rows are read one after another. Libraries that hold a whole sheet need gigabytes for a small file with one cell
at its far end.
"""

from __future__ import annotations

import io
import math
import posixpath
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from smart_rag.errors import DocumentError
from smart_rag.files.formats.office.archive import Archive, elements, inner, local, value
from smart_rag.files.formats.office.drawing import DESCRIBED, description, diagram_text
from smart_rag.files.formats.office.missing import embedded_files
from smart_rag.files.formats.office.sheets.codes import NotFollowed
from smart_rag.files.formats.office.sheets.number_format import BUILT_IN, NumberFormat, general
from smart_rag.files.formats.page import Page
from smart_rag.files.formats.plain.tables import table_text
from smart_rag.wording import number

if TYPE_CHECKING:
    from lxml.etree import _Element

_MOST_EMPTY = 20  # empty cells that are kept between two others
_MOST_TEXT = 256_000_000  # characters: many cells may show the same long text
_MOST_LETTERS = 7  # of a column: Excel has at most three
_MOST_NAMED = 3  # number formats
_MOST_CODE = 60  # characters of a number format that are named
_TAGS = ("{*}row", *(f"{{*}}{which}{kind}" for kind in ("Header", "Footer") for which in ("odd", "even", "first")))
_MARGIN_CODE = re.compile(r'&(?:"[^"]*"|[Kk][0-9A-Fa-f+-]{6}|[0-9]+|.)', re.DOTALL)
_MARGIN_PLACE = re.compile("(?<!&)&[LCR]")  # left, in the centre, right
_MOST_AROUND_NUMBER = 2  # words, such as "Page 3 of 5"
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
        self._margins: list[str] = []
        self._lost = 0
        self._room = _MOST_TEXT
        self._not_followed: Counter[str] = Counter()
        self._hidden = 0
        styles = self._part("styles")
        settings = next((element for element in elements(self._root) if local(element) == "workbookPr"), None)
        since_1904 = settings is not None and settings.get("date1904") in ("1", "true")
        self._formats = [] if styles is None else list(_formats(styles, since_1904))

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
            for _, row in lxml.etree.iterparse(data, tag=_TAGS, **options):
                if local(row) != "row":
                    self._margins.append(_margin(inner(row)))
                    continue
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
        """Yield the printed headers and footers of a sheet whose rows are read, its comments, drawings and charts."""
        yield from dict.fromkeys(filter(None, self._margins))
        self._margins.clear()
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
                elif local(element) in DESCRIBED:
                    yield from filter(None, [description(element)])
            if kind == "drawing" and root is not None:
                yield from diagram_text(root)

    def unread(self) -> Iterator[str]:
        """Yield a phrase for the texts that no cell shows, and one for the cells whose text is nowhere."""
        words = sum(len(self._strings[i].split()) for i in self._unread)
        if words:
            yield f"{number(words, 'word')} that the raw text of the file has and no cell shows"
        if self._lost:
            yield f"{number(self._lost, 'cell')} whose text is not in the file"
        if self._hidden:
            yield f"{number(self._hidden, 'cell')} whose number format hides what is in it"
        if self._not_followed:
            codes = [repr(code[:_MOST_CODE]) for code, _ in self._not_followed.most_common(_MOST_NAMED)]
            more = ["others"] * (len(self._not_followed) > _MOST_NAMED)
            cells = number(self._not_followed.total(), "cell")
            yield f"{cells} with the stored number, because its format is not followed ({', '.join(codes + more)})"

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
                return self._text(self._string(stored), cell)
            case "str":
                return self._text(_unescaped(stored), cell)
            case "b":
                return "TRUE" if stored.lower() in ("1", "true") else "FALSE"
            case "n":
                return self._number(stored, cell)
        return _unescaped(stored)

    def _string(self, place: str) -> str:
        if _whole(place) >= len(self._strings):
            self._lost += 1
            return ""
        self._unread.discard(int(place))
        return self._strings[int(place)]

    def _format(self, cell: _Element) -> NumberFormat | None:
        style = _whole(cell.get("s", "0"))
        return self._formats[style] if style < len(self._formats) else None

    def _text(self, text: str, cell: _Element) -> str:
        style = self._format(cell)
        shown = text if style is None else style.of_text(text)
        self._hidden += bool(text) and not shown
        return shown

    def _number(self, stored: str, cell: _Element) -> str:
        try:
            found = float(stored)
        except ValueError:
            return stored
        style = self._format(cell)
        if style is not None and math.isfinite(found):
            try:
                shown = style.of_number(found)
                self._hidden += bool(found) and not shown
                return shown
            except NotFollowed:
                self._not_followed[style.code] += 1
        return stored if _WHOLE.fullmatch(stored) else general(found)


def _shared(element: _Element) -> str:
    """Return the text of a string or of a comment, without hints to pronounce it."""
    parts = (part for part in elements(element) if local(part) in ("t", "text"))
    return _unescaped("".join(inner(part) for part in parts if local(part.getparent()) != "rPh")).strip()


def _margin(code: str) -> str:
    """Return the text of a header or a footer on paper, without the codes for fonts, and without numbers of pages."""
    found = []
    for place in _MARGIN_PLACE.split(_unescaped(code)):
        is_number = any(one.upper() in ("&P", "&N") for one in _MARGIN_CODE.findall(place))
        words = _MARGIN_CODE.sub(lambda one: "&" if one[0] == "&&" else " ", place).split()
        if any(map(str.isalnum, "".join(words))) and not (is_number and len(words) <= _MOST_AROUND_NUMBER):
            found.append(" ".join(words))
    return " ".join(found)


def _unescaped(text: str) -> str:
    """Return a text with the characters that Excel writes by their numbers: ``_x000D_`` is the end of a line."""
    return _ESCAPED.sub(lambda code: "\n" if code[1] == "000D" else chr(int(code[1], 16)), text)


def _formats(styles: _Element, since_1904: bool) -> Iterator[NumberFormat | None]:
    """Yield for each style of cells its number format, or None if it shows what is stored."""
    codes = {
        element.get("numFmtId"): element.get("formatCode", "")
        for element in elements(styles)
        if local(element) == "numFmt"
    }
    made: dict[str, NumberFormat | None] = {"": None, "general": None, "@": None}
    for group in (element for element in elements(styles) if local(element) == "cellXfs"):
        for style in (element for element in elements(group) if local(element) == "xf"):
            id = style.get("numFmtId", "0")
            code = codes.get(id, BUILT_IN.get(_whole(id), ""))
            if code.lower() not in made:
                made[code.lower()] = NumberFormat(code, since_1904)
            yield made[code.lower()]


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

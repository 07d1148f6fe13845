"""OpenDocument (.odt, .odp, .ods and their kin): texts, slides and sheets of LibreOffice and others."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from smart_rag.errors import DocumentError
from smart_rag.files.formats.office.archive import Archive, elements, local, value
from smart_rag.files.formats.office.drawing import of_person
from smart_rag.files.formats.office.missing import missing_words
from smart_rag.files.formats.office.symbols import shown
from smart_rag.files.formats.page import Page
from smart_rag.files.formats.plain.tables import table_text
from smart_rag.wording import number

if TYPE_CHECKING:
    from lxml.etree import _Element

# What is not shown: deleted text, the number of a note, the author and the date of a comment, forms and scripts.
_UNSEEN = {"tracked-changes", "note-citation", "date-string", "forms", "scripts"}
# So are these, unless they are fields in the text or titles of charts: the same names have the author and the date of
# a comment, and the description of a drawing.
_UNSEEN_OUTSIDE = {"creator", "date", "title", "desc"}
_TEXT = "{urn:oasis:names:tc:opendocument:xmlns:text:1.0}"
_CHART = "{urn:oasis:names:tc:opendocument:xmlns:chart:1.0}"
_DESCRIPTIONS = {f"{{urn:oasis:names:tc:opendocument:xmlns:svg-compatible:1.0}}{name}" for name in ("title", "desc")}
_CONTAINERS = {"table-row", "table-cell", "covered-table-cell", "text-box", "note-body", "annotation", "notes"}
_PARAGRAPHS = {"p", "h"}
_NUMBER = f"{_TEXT}number"  # of a list or of a heading, as some programs write it
_MOST_FRAMES = 100  # of paragraphs in paragraphs
_MOST_REPEATED = 20  # a cell may say that it is repeated a million times
_SPACES = re.compile(r"[ \t\r\n]+")
_BLOCK = "\n\n"


def read_odt(path: Path) -> Iterator[Page]:
    """Yield a text document as one page: headers, body, footers. Notes, comments and text boxes follow their paragraph.

    Raises:
        DocumentError: the file is encrypted or damaged.
        MissingExtra: lxml is not installed.
    """

    def pages(document: _Document, body: _Element) -> Iterator[Page]:
        found = [*document.margins("header"), *document.blocks(body), *document.margins("footer")]
        yield Page(_BLOCK.join(found))

    yield from _read(path, pages)


def read_odp(path: Path) -> Iterator[Page]:
    """Yield each slide as a page, with its notes.

    Raises:
        DocumentError, MissingExtra: as `read_odt`.
    """

    def pages(document: _Document, body: _Element) -> Iterator[Page]:
        for place, slide in enumerate(body.iter("{*}page"), 1):
            yield Page(_BLOCK.join(document.blocks(slide)), place)

    yield from _read(path, pages)


def read_ods(path: Path) -> Iterator[Page]:
    """Yield each sheet as a page. The name of the sheet and its first row are the header, which each chunk repeats.

    Raises:
        DocumentError, MissingExtra: as `read_odt`.
    """

    def pages(document: _Document, body: _Element) -> Iterator[Page]:
        for place, sheet in enumerate(body.iterchildren("{*}table"), 1):
            name = value(sheet, "name") or ""
            header, text = table_text(document.rows(sheet))
            others = [block for shapes in sheet.iterchildren("{*}shapes") for block in document.blocks(shapes)]
            text = _BLOCK.join(filter(None, (text, *others)))
            yield Page(text, place, metadata={"sheet": name}, header=f"{name}\n{header}")

    yield from _read(path, pages)


def _read(path: Path, pages: Callable[[_Document, _Element], Iterator[Page]]) -> Iterator[Page]:
    """Yield ``pages`` of a document, then a page without text that has what is left out of the whole document."""
    with Archive(path) as archive:
        document = _Document(archive)
        given = []
        for page in pages(document, document.body):
            given += [page.header, page.text]
            yield page
        # In a sheet, cells that are repeated are given more often than they stand in the file.
        raw = "".join([*_raw(document.body), *map(_description, document.body.iter(*_DESCRIPTIONS))])
        cut = [number(document.cut_cells, "cell") + " that repeat others"] if document.cut_cells else []
        yield Page("", left_out=(*archive.left_out, *missing_words([raw], given), *cut, *document.left_out()))


class _Document:
    """The body of a document. ``cut_cells`` counts the cells that `rows` did not repeat as often as the file says."""

    def __init__(self, archive: Archive) -> None:
        self.cut_cells = 0
        self.lost_symbols = 0
        self._unread: set[str] = set()
        self._archive = archive
        self._embedded: set[str] = set()
        manifest = archive.part("META-INF/manifest.xml") if "META-INF/manifest.xml" in archive.names else None
        if manifest is not None and next(manifest.iter("{*}encryption-data"), None) is not None:
            raise DocumentError(archive.path, "encrypted; save it without a password")
        root = archive.xml("content.xml")
        # The body is <office:body>, and what it holds is named after the kind of the document.
        bodies = [element for body in root.iterchildren("{*}body") for element in body.iterchildren("{*}*")]
        if not bodies:
            raise DocumentError(archive.path, f"damaged, or not a {archive.path.suffix} file (it has no body)")
        self.body = bodies[0]
        fields = (field for forms in self.body.iter("{*}forms") for field in elements(forms))
        self._fields = {id: field for field in fields if (id := value(field, "id"))}

    def left_out(self) -> Iterator[str]:
        """Yield a phrase for each kind of what stands in the document and was not read."""
        if self.lost_symbols:
            yield f"{number(self.lost_symbols, 'symbol')} of fonts such as Wingdings"
        if self._unread:
            yield f"{number(len(self._unread), 'embedded file')} not read"

    def margins(self, kind: str) -> list[str]:
        """Return the headers or the footers of the pages, each text once."""
        styles = self._archive.part("styles.xml") if "styles.xml" in self._archive.names else None
        found: dict[str, None] = {}
        for page in () if styles is None else styles.iter("{*}master-page"):
            for element in page:
                if local(element) in (kind, f"{kind}-first", f"{kind}-left"):
                    found[_BLOCK.join(self.blocks(element))] = None
        return [text for text in found if text]

    def rows(self, sheet: _Element) -> Iterator[list[str]]:
        """Yield the cells of each row of a sheet."""
        for row in sheet.iter("{*}table-row"):
            if next(row.iterancestors("{*}table")) is not sheet:
                continue  # a row of a table in a cell
            cells: list[str] = []
            others: list[str] = []  # the same cells without their comments, which stand in the first of them
            for cell in row:
                if local(cell) in ("table-cell", "covered-table-cell"):
                    text = " ".join(self.blocks(cell)) or _stored(cell)
                    has_comment = cell.find("{*}annotation") is not None
                    other = (" ".join(self.blocks(cell, ("annotation",))) or _stored(cell)) if has_comment else text
                    times = self._repeated(cell, "number-columns-repeated", bool(other))
                    cells += [text, *[other] * (times - 1)][:times]
                    others += [other] * times
            filled = sum(map(bool, others))
            yield cells
            for _ in range(self._repeated(row, "number-rows-repeated", filled) - 1 if filled else 0):
                yield others

    def _repeated(self, element: _Element, name: str, filled: int) -> int:
        """Return how often a row or cell with so many ``filled`` cells is given, and count the cells that are cut."""
        count = value(element, name) or "1"
        times = int(count) if count.isdecimal() and len(count) < 10 else 1
        given = min(times, _MOST_REPEATED)
        self.cut_cells += (times - given) * filled
        return given

    def blocks(self, root: _Element, without: Collection[str] = ()) -> list[str]:
        """Return the paragraphs below an element, and the rows of its tables, each as one text.

        Args:
            root: the element.
            without: the names of elements that are left out.
        """
        return _Walk(self, without).blocks(root)

    def control(self, id: str) -> str:
        """Return what a field of a form shows: its label, and its value or state."""
        field = self._fields.get(id)
        if field is None or local(field) in ("password", "hidden"):
            return ""
        label = value(field, "label") or ""
        match local(field):
            case "checkbox" | "radio":
                states = (value(field, name) for name in ("current-state", "state", "current-selected", "selected"))
                box = "\u2612" if next(filter(None, states), "") in ("checked", "true") else "\u2610"
                return f"{box} {label}".strip()
            case "listbox":
                options = field.iterfind("{*}option")
                chosen = [one for one in options if "true" in (value(one, "current-selected"), value(one, "selected"))]
                return ", ".join(value(option, "label") or "" for option in chosen)
        return label or value(field, "current-value") or value(field, "value") or ""

    def embedded(self, element: _Element) -> list[str]:
        """Return the text of a formula or of a chart in a document."""
        object = (value(element, "href") or "").removeprefix("./").rstrip("/")
        name = f"{object}/content.xml"
        if object and name not in self._archive.names:
            self._unread.add(object)
        known = name in self._archive.names and name not in self._embedded  # an object may say that it is in itself
        self._embedded.add(name)
        root = self._archive.part(name) if known else None
        if root is None:
            return []
        if local(root) == "math":
            shown = (part for part in elements(root) if local(part) in ("mi", "mn", "mo", "mtext"))
            return [" ".join((part.text or "").strip() for part in shown)]
        return list(dict.fromkeys(self.blocks(root)))


def _description(element: _Element) -> str:
    """Return the title or the description of a drawing, or an empty text if a program wrote it."""
    return of_person(element.text or "")


def _stored(cell: _Element) -> str:
    """Return the value of a cell that was written without the text that shows it."""
    found = (value(cell, name) for name in ("string-value", "date-value", "time-value", "boolean-value", "value"))
    return next(filter(None, found), "")


@dataclass(slots=True)
class _Frame:
    """What was read of a container; see `smart_rag.files.formats.office.walk`. ``paragraphs`` counts the open ones.

    If ``is_shape``, it is that of a paragraph in a shape that has no box for its text.
    """

    blocks: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    paragraphs: int = 0
    is_shape: bool = False

    def close_paragraph(self) -> None:
        text = "".join(self.text).strip()
        self.blocks += [text] * bool(text) + self.after
        self.text, self.after = [], []

    def add(self, name: str, blocks: list[str]) -> None:
        if name == "table-cell" or (name == "covered-table-cell" and blocks):
            self.blocks.append("\n".join(blocks))
        elif name == "table-row":
            self.blocks += [" | ".join(blocks)] * any(blocks)
        elif self.paragraphs:
            self.after += blocks
        else:
            self.blocks += blocks


class _Walk:
    """A walk through a tree. It takes no recursion, because a hostile file nests deeply."""

    def __init__(self, document: _Document, without: Collection[str] = ()) -> None:
        self._document = document
        self._without = without
        self._frames = [_Frame()]

    def blocks(self, root: _Element) -> list[str]:
        import lxml.etree

        walk = lxml.etree.iterwalk(root, events=("start", "end"), tag="{*}*")
        skipped: _Element | None = None
        for event, element in walk:
            if event == "start":
                if _is_unseen(element) or local(element) in self._without:
                    if element.tag in _DESCRIPTIONS:
                        self._frames[-1].add("", list(filter(None, [_description(element)])))
                    walk.skip_subtree()
                    skipped = element
                else:
                    self._start(element)
            else:
                if element is not skipped:
                    self._end(element)
                skipped = None
                if element is not root:
                    self._say(element.tail)
        self._frames[0].close_paragraph()
        return self._frames[0].blocks

    def _start(self, element: _Element) -> None:
        name, frame = local(element), self._frames[-1]
        if name in _CONTAINERS:
            self._frames.append(_Frame())
        elif name in _PARAGRAPHS:
            if frame.paragraphs and len(self._frames) < _MOST_FRAMES:
                self._frames.append(_Frame(is_shape=True))
            self._frames[-1].paragraphs += 1
        elif element.tag == _NUMBER:  # it stands before a paragraph, or at its begin
            frame.paragraphs += 1
        elif name == "s":
            frame.text.append(" " * min(int(count) if (count := value(element, "c") or "1").isdecimal() else 1, 100))
        elif name == "tab":
            frame.text.append("\t")
        elif name == "line-break":
            frame.text.append("\n")
        elif name == "control":
            frame.add("", list(filter(None, [self._document.control(value(element, "control") or "")])))
        elif name in ("object", "object-ole"):
            frame.after += self._document.embedded(element)
        self._say(element.text)

    def _end(self, element: _Element) -> None:
        name = local(element)
        if name in _CONTAINERS:
            inner = self._frames.pop()
            inner.close_paragraph()
            self._frames[-1].add(name, inner.blocks)
        elif name in _PARAGRAPHS:
            self._frames[-1].paragraphs -= 1
            self._frames[-1].close_paragraph()
            if self._frames[-1].is_shape and not self._frames[-1].paragraphs:
                self._frames[-2].add("", self._frames.pop(-1).blocks)
        elif element.tag == _NUMBER:
            self._frames[-1].paragraphs -= 1
            self._frames[-1].text.append(" ")

    def _say(self, text: str | None) -> None:
        """Add a text to the paragraph. Between paragraphs, there are only spaces."""
        if text and self._frames[-1].paragraphs:
            text, lost = shown(_SPACES.sub(" ", text), "")
            self._document.lost_symbols += lost
            self._frames[-1].text.append(text)


def _raw(root: _Element) -> Iterator[str]:
    """Yield all text that stands in paragraphs, without a regard to what surrounds it."""
    import lxml.etree

    depth, skipped = 0, 0
    for event, element in lxml.etree.iterwalk(root, events=("start", "end"), tag="{*}*"):
        name, step = local(element), 1 if event == "start" else -1
        depth += step * (name in _PARAGRAPHS)
        skipped += step * _is_unseen(element)
        text = element.text if event == "start" else element.tail
        if text and depth and not skipped:
            yield text


def _is_unseen(element: _Element) -> bool:
    name = local(element)
    return name in _UNSEEN or (name in _UNSEEN_OUTSIDE and not str(element.tag).startswith((_TEXT, _CHART)))

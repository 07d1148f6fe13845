"""Word documents (.docx and its kin): all text that Word shows, in its order.

python-docx and docx2python each lack some of the places where text can stand: content controls, tracked insertions,
text boxes, fields, formulas, notes or headers. So this module walks through the XML itself. Nothing is lost: the text
of an element that the walk does not know is read, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from smart_rag.files.formats.office.archive import Archive, inner, local, value
from smart_rag.files.formats.office.drawing import diagram_text, is_repeated
from smart_rag.files.formats.office.missing import missing_words
from smart_rag.files.formats.page import Page
from smart_rag.wording import number

if TYPE_CHECKING:
    from lxml.etree import _Element

# What Word does not show: properties, deleted and moved text, and the names and defaults of fields.
_UNSEEN = {
    *("pPr", "tblPr", "tblPrEx", "tcPr", "sectPr", "sdtPr", "sdtEndPr", "tblGrid"),
    *("del", "moveFrom", "instrText", "ffData", "fldData"),
}
_SIGNS = {"tab": "\t", "ptab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-", "den": "/"}
_NOTES = {"footnoteReference": "footnotes", "endnoteReference": "endnotes", "commentReference": "comments"}
_REFERENCES = {*_NOTES, "chart", "relIds"}
_CONTAINERS = {"tr", "tc", "txbxContent", "txBody"}
_RAW = """.//*[local-name()='t'][not(ancestor::*[
    local-name()='del' or local-name()='moveFrom' or local-name()='Fallback'
    or @*[local-name()='type' and (contains(., 'eparator') or .='continuationNotice')]])]"""
_BLOCK = "\n\n"


def read_docx(path: Path) -> Iterator[Page]:
    """Yield the text of a Word document as one page.

    The headers stand first, then the body, then the footers. A footnote, endnote, comment, chart, diagram or text box
    follows the paragraph that it belongs to.

    Raises:
        DocumentError: the file is encrypted or damaged.
        MissingExtra: lxml is not installed.
    """
    with Archive(path) as archive:
        document = _Document(archive)
        text = document.text()
        yield Page(text, left_out=(*archive.left_out, *document.left_out(text)))


class _Document:
    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._main = archive.main("word/document.xml")
        self._related = archive.related(self._main)
        self._notes = {kind: self._read_notes(kind) for kind in _NOTES.values()}
        self._hidden: list[str] = []

    def text(self) -> str:
        blocks = [*self._margins("header"), *self._blocks(self._archive.xml(self._main)), *self._margins("footer")]
        # Notes that nothing refers to are shown nowhere, but nothing should be lost.
        blocks += [
            text for notes in self._notes.values() for element in notes.values() for text in self._blocks(element)
        ]
        return _BLOCK.join(blocks)

    def left_out(self, text: str) -> Iterator[str]:
        """Yield a phrase for each kind of text that `text` lacks."""
        hidden = sum(len(part.split()) for part in self._hidden)
        if hidden:
            yield number(hidden, "hidden word")
        raw = {"".join(part.split()): part for part in (_raw(self._archive.part(name)) for name in self._parts())}
        yield from missing_words(raw.values(), [text, *self._hidden])
        chunks = sum(kind == "aFChunk" for kind, _ in self._related.values())
        if chunks:
            yield number(chunks, "embedded document")

    def _parts(self) -> Iterator[str]:
        """Yield the names of the parts that hold text."""
        yield self._main
        for kind, name in dict.fromkeys(self._related.values()):
            if kind in (*_NOTES.values(), "header", "footer") and name in self._archive.names:
                yield name

    def _margins(self, kind: str) -> Iterator[str]:
        """Yield the text of the headers or of the footers. Sections may repeat a text: it is read once."""
        texts: dict[str, None] = {}
        for found, name in self._related.values():
            root = self._archive.part(name) if found == kind else None
            if root is not None:
                texts[_BLOCK.join(self._blocks(root))] = None
        yield from filter(None, texts)

    def _read_notes(self, kind: str) -> dict[str, _Element]:
        """Return the footnotes, endnotes or comments, by id."""
        name = next((name for found, name in self._related.values() if found == kind), None)
        root = None if name is None else self._archive.part(name)
        notes = () if root is None else root.iterchildren("{*}*")
        # Those with a type are lines that separate notes from the text.
        return {value(note, "id") or "": note for note in notes if value(note, "type") in (None, "normal")}

    def _blocks(self, root: _Element) -> list[str]:
        """Return the paragraphs below an element, and the rows of its tables, each as one text."""
        return _Walk(self).blocks(root)

    def after(self, element: _Element) -> list[str]:
        """Return what a reference in a paragraph leads to: a note, a comment, a chart or a diagram."""
        name = local(element)
        if name in _NOTES:
            note = self._notes[_NOTES[name]].pop(value(element, "id") or "", None)
            return [] if note is None else self._blocks(note)
        id = value(element, "dm" if name == "relIds" else "id") or ""
        _, part = self._related.get(id, ("", ""))
        drawing = self._archive.part(part) if part in self._archive.names else None
        return [] if drawing is None else diagram_text(drawing)

    def hide(self, run: _Element) -> bool:
        """Return whether a run is hidden. Note its text if it is."""
        vanish = run.find("{*}rPr/{*}vanish")
        hidden = vanish is not None and value(vanish, "val") not in ("0", "false", "off")
        if hidden:
            self._hidden.append(_raw(run))
        return hidden


@dataclass(slots=True)
class _Frame:
    """What was read of a container, such as the body, a row, a cell or a text box.

    Attributes:
        blocks: the paragraphs and rows that are complete.
        text: the parts of the paragraph that is not complete.
        after: the blocks that follow this paragraph.
    """

    blocks: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)

    def add(self, name: str, blocks: list[str], element: _Element) -> None:
        """Add the blocks of a container inside of this one. An empty cell that continues the one above is no cell."""
        if name == "tc":
            if blocks or element.find("{*}tcPr/{*}vMerge") is None:
                self.blocks.append("\n".join(blocks))
        elif name == "tr":
            self.blocks += [" | ".join(blocks)] * any(blocks)
        else:
            self.after += blocks

    def close_paragraph(self) -> None:
        text = "".join(self.text).strip()
        self.blocks += [text] * bool(text) + self.after
        self.text, self.after = [], []


class _Walk:
    """A walk through a tree. It takes no recursion, because a hostile file nests deeply."""

    def __init__(self, document: _Document) -> None:
        self._document = document
        self._frames = [_Frame()]  # from the outermost container to the innermost

    def blocks(self, root: _Element) -> list[str]:
        import lxml.etree

        walk = lxml.etree.iterwalk(root, events=("start", "end"), tag="{*}*")
        skipped: _Element | None = None
        for event, element in walk:
            if event == "start":
                if self._is_unseen(element):
                    walk.skip_subtree()
                    skipped = element
                else:
                    self._start(element)
            elif element is skipped:
                skipped = None
            else:
                self._end(element)
        self._frames[0].close_paragraph()
        return self._frames[0].blocks

    def _is_unseen(self, element: _Element) -> bool:
        name = local(element)
        if name == "r":
            return self._document.hide(element)
        if name == "tr":
            return element.find("{*}trPr/{*}del") is not None
        return name in _UNSEEN or is_repeated(element)

    def _start(self, element: _Element) -> None:
        name, frame = local(element), self._frames[-1]
        if name in _CONTAINERS:
            self._frames.append(_Frame())
        elif name == "t":
            frame.text.append(inner(element))
        elif name in _SIGNS:
            frame.text.append(_SIGNS[name])
        elif name == "sym":
            frame.text.append(_symbol(value(element, "char") or ""))
        elif name in _REFERENCES:
            frame.after += self._document.after(element)

    def _end(self, element: _Element) -> None:
        name = local(element)
        if name in _CONTAINERS:
            inner = self._frames.pop()
            inner.close_paragraph()
            self._frames[-1].add(name, inner.blocks, element)
        elif name == "p" and element.find("{*}pPr/{*}rPr/{*}del") is None:  # else it is joined with the next paragraph
            self._frames[-1].close_paragraph()


def _symbol(code: str) -> str:
    """Return the character of a symbol. Those of fonts such as Wingdings stand for no character."""
    try:
        character = chr(int(code, 16))
    except (ValueError, OverflowError):
        return ""
    return character if character.isprintable() else ""


def _raw(root: _Element | None) -> str:
    """Return the text of all text elements that are not deleted, without a regard to what surrounds them."""
    return "" if root is None else " ".join(inner(element) for element in root.xpath(_RAW))

"""Word documents (.docx and its kin): all text that Word shows, in its order."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from smart_rag.errors import DocumentError
from smart_rag.files.formats.encoding import decode
from smart_rag.files.formats.html import text_of_html
from smart_rag.files.formats.office.archive import Archive, local, value
from smart_rag.files.formats.office.drawing import diagram_text
from smart_rag.files.formats.office.missing import embedded_files, missing_words
from smart_rag.files.formats.office.numbering import Numbering
from smart_rag.files.formats.office.rtf import page_of_rtf
from smart_rag.files.formats.office.walk import blocks, lost_symbols, raw_text
from smart_rag.files.formats.page import Page
from smart_rag.files.formats.plain.mail import text_of_web_archive
from smart_rag.wording import number

if TYPE_CHECKING:
    from lxml.etree import _Element

_NOTES = {"footnoteReference": "footnotes", "endnoteReference": "endnotes", "commentReference": "comments"}
_BLOCK = "\n\n"
_MOST_RUNS = 1000  # of a paragraph: a hostile file nests hidden paragraphs


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
        self._numbering = Numbering(self._part_of("numbering"), self._part_of("styles"))
        self._is_body = True
        self._labels: list[str] = []
        self._hidden: list[str] = []
        self._chunks: dict[str, str] = {}

    def text(self) -> str:
        found = [*self._margins("header"), *self._blocks(self._archive.xml(self._main)), *self._margins("footer")]
        # Notes that nothing refers to are shown nowhere, but nothing should be lost.
        found += [text for notes in self._notes.values() for element in notes.values() for text in self._apart(element)]
        return _BLOCK.join(found)

    def left_out(self, text: str) -> Iterator[str]:
        """Yield a phrase for each kind of text that `text` lacks."""
        hidden = sum(len(part.split()) for part in self._hidden)
        if hidden:
            yield number(hidden, "hidden word")
        parts = [self._archive.part(name) for name in self._parts()]
        symbols = sum(lost_symbols(part) for part in parts if part is not None)
        if symbols:
            yield f"{number(symbols, 'symbol')} of fonts such as Wingdings"
        raw = {"".join(part.split()): part for part in map(raw_text, parts)}
        others = [*self._chunks.values(), *self._labels]
        yield from self._numbering.left_out()
        yield from missing_words([*raw.values(), *others], [text, *self._hidden])
        yield from embedded_files(self._related, self._chunks)

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
                texts[_BLOCK.join(self._apart(root))] = None
        yield from filter(None, texts)

    def _read_notes(self, kind: str) -> dict[str, _Element]:
        """Return the footnotes, endnotes or comments, by id."""
        root = self._part_of(kind)
        notes = () if root is None else root.iterchildren("{*}*")
        # Those with a type are lines that separate notes from the text.
        return {value(note, "id") or "": note for note in notes if value(note, "type") in (None, "normal")}

    def _part_of(self, kind: str) -> _Element | None:
        """Return the part of a kind, of which a document has one, such as ``styles``."""
        name = next((name for found, name in self._related.values() if found == kind), None)
        return None if name is None or name not in self._archive.names else self._archive.part(name)

    def _blocks(self, root: _Element) -> list[str]:
        """Return the paragraphs below an element, and the rows of its tables, each as one text."""
        return blocks(self, root)

    def _apart(self, root: _Element) -> list[str]:
        """Do the same as `_blocks` outside of the body, whose numbers do not count there. So none are given."""
        self._is_body, before = False, self._is_body
        try:
            return self._blocks(root)
        finally:
            self._is_body = before

    def after(self, element: _Element) -> list[str]:
        """Return what a reference in a paragraph leads to: a note, a comment, a chart or a diagram."""
        name = local(element)
        if name == "altChunk":
            return self._chunk(self._related.get(value(element, "id") or "", ("", ""))[1])
        if name in _NOTES:
            note = self._notes[_NOTES[name]].pop(value(element, "id") or "", None)
            return [] if note is None else self._apart(note)
        id = value(element, "dm" if name == "relIds" else "id") or ""
        _, part = self._related.get(id, ("", ""))
        drawing = self._archive.part(part) if part in self._archive.names else None
        return [] if drawing is None else diagram_text(drawing)

    def _chunk(self, name: str) -> list[str]:
        """Return the text of a file of another format that Word shows as a part of the document."""
        read = _CHUNKS.get(posixpath.splitext(name)[1].lower())
        if read is None or name not in self._archive.names or name in self._chunks:
            return [text] if (text := self._chunks.get(name)) else []
        try:
            page = read(self._archive, name)
        except DocumentError as error:
            self._archive.left_out.append(f"the part {name!r} cannot be read ({error.reason})")
            return []
        self._archive.left_out += page.left_out
        self._chunks[name] = page.text
        return [page.text] if page.text else []

    def label(self, paragraph: _Element) -> str:
        """Return the number that Word shows before a paragraph. Empty ones count, too, but hidden ones do not."""
        return self._numbering.label(paragraph) if self._is_body and not _is_hidden(paragraph) else ""

    def numbered(self, label: str, text: str) -> str:
        """Return the ``text`` of a paragraph after the number that Word shows before it."""
        self._labels.append(label)
        return f"{label} {text}".strip()

    def hides(self, run: _Element) -> bool:
        """Return whether a run is hidden. Note its text if it is."""
        hidden = _vanishes(run.find("{*}rPr"))
        if hidden:
            self._hidden.append(raw_text(run))
        return hidden


def _is_hidden(paragraph: _Element) -> bool:
    """Return whether a paragraph is hidden: its end, and whatever is in it."""
    if not _vanishes(paragraph.find("{*}pPr/{*}rPr")):
        return False
    return all(_vanishes(run.find("{*}rPr")) for run in islice(paragraph.iter("{*}r"), _MOST_RUNS))


def _vanishes(properties: _Element | None) -> bool:
    vanish = None if properties is None else properties.find("{*}vanish")
    return vanish is not None and value(vanish, "val") not in ("0", "false", "off")


def _read_html(archive: Archive, name: str) -> Page:
    return text_of_html(archive.read(name), archive.path)


def _read_web_archive(archive: Archive, name: str) -> Page:
    return text_of_web_archive(archive.read(name), archive.path)


def _read_rtf(archive: Archive, name: str) -> Page:
    return page_of_rtf(archive.read(name))


def _read_text(archive: Archive, name: str) -> Page:
    found = decode(archive.read(name), archive.path)
    return Page(found.text.strip(), left_out=tuple(found.left_out))


def _read_docx(archive: Archive, name: str) -> Page:
    """Return the text of a Word document in another one. What is in it in turn is read, too, to a bound."""
    with archive.within(name) as inside:
        document = _Document(inside)
        text = document.text()
        return Page(text, left_out=(*inside.left_out, *document.left_out(text)))


# What Word can show as a part of a document, by the suffix of the part.
_CHUNKS: dict[str, Callable[[Archive, str], Page]] = {
    **dict.fromkeys((".html", ".htm", ".xhtml"), _read_html),
    **dict.fromkeys((".docx", ".docm", ".dotx", ".dotm"), _read_docx),
    **dict.fromkeys((".mht", ".mhtml"), _read_web_archive),
    ".rtf": _read_rtf,
    ".txt": _read_text,
}

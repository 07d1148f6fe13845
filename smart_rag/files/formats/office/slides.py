"""Slides (.pptx and its kin): the text of each slide, with its notes and comments."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from smart_rag.files.formats.office.archive import Archive, elements, inner, local, value
from smart_rag.files.formats.office.drawing import diagram_text
from smart_rag.files.formats.office.missing import embedded_files, missing_words
from smart_rag.files.formats.office.walk import blocks, lost_symbols, raw_text
from smart_rag.files.formats.page import Page
from smart_rag.wording import number

if TYPE_CHECKING:
    from lxml.etree import _Element


def read_pptx(path: Path) -> Iterator[Page]:
    """Yield each slide as a page: its shapes, its tables, charts and diagrams, then its notes and comments.

    Raises:
        DocumentError: the file is encrypted or damaged.
        MissingExtra: lxml is not installed.
    """
    with Archive(path) as archive:
        main = archive.main("ppt/presentation.xml")
        related = archive.related(main)
        listed = [element for element in elements(archive.xml(main)) if local(element) == "sldId"]
        said = 0
        for position, element in enumerate(listed, 1):
            # Another attribute, without a namespace, is called id, too.
            ids = [id for key, id in element.attrib.items() if str(key).endswith("}id")]
            _, name = related.get(str(ids[0]) if ids else "", ("", ""))
            slide = _Slide(archive, name)
            text = slide.text()
            yield Page(text, position, left_out=(*archive.left_out[said:], *slide.left_out(text)))
            said = len(archive.left_out)


class _Slide:
    def __init__(self, archive: Archive, name: str) -> None:
        self._archive = archive
        self._related = archive.related(name)
        self._slide = archive.part(name)
        self._notes = [self._archive.part(part) for kind, part in self._related.values() if kind == "notesSlide"]

    def text(self) -> str:
        found = [] if self._slide is None else blocks(self, self._slide)
        for notes in self._notes:
            for shape in () if notes is None else notes.iter("{*}sp"):
                if _kind(shape) != "sldNum":
                    found += blocks(self, shape)
        for kind, name in self._related.values():
            comments = self._archive.part(name) if kind == "comments" else None
            for element in () if comments is None else elements(comments):
                if local(element) in ("text", "t"):
                    found.append(inner(element).strip())
        return "\n\n".join(filter(None, found))

    def left_out(self, text: str) -> Iterator[str]:
        """Yield a phrase for each kind of what `text` lacks."""
        symbols = 0 if self._slide is None else lost_symbols(self._slide)
        if symbols:
            yield f"{number(symbols, 'symbol')} of fonts such as Wingdings"
        yield from missing_words([raw_text(self._slide)], [text])
        yield from embedded_files(self._related)

    def after(self, element: _Element) -> list[str]:
        """Return the text of a chart or of a diagram."""
        _, name = self._related.get(value(element, "dm" if local(element) == "relIds" else "id") or "", ("", ""))
        drawing = self._archive.part(name) if name in self._archive.names else None
        return [] if drawing is None else diagram_text(drawing)

    def label(self, paragraph: _Element) -> str:
        """Return an empty text: PowerPoint's own numbers are not counted."""
        return ""

    def numbered(self, label: str, text: str) -> str:
        return text

    def hides(self, run: _Element) -> bool:
        return False


def _kind(shape: _Element) -> str | None:
    """Return the kind of a placeholder, such as ``"sldNum"`` for the number of the slide."""
    placeholder = shape.find("{*}nvSpPr/{*}nvPr/{*}ph")
    return None if placeholder is None else placeholder.get("type")

"""`Walk`: a walk through the XML of a Word document or of slides. It gives every text, in its order.

python-docx, python-pptx and docx2python each lack some of the places where text can stand: content controls, tracked
insertions, groups, text boxes, fields, formulas, notes or headers. Here the text of an element that is not known is
read, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from smart_rag.files.formats.office.archive import local, value
from smart_rag.files.formats.office.drawing import DESCRIBED, SHAPES, description, is_repeated
from smart_rag.files.formats.office.symbols import text_of

if TYPE_CHECKING:
    from lxml.etree import _Element

# What is not shown: properties, deleted and moved text, and the names and defaults of fields.
UNSEEN = {
    *("pPr", "tblPr", "tblPrEx", "tcPr", "sectPr", "sdtPr", "sdtEndPr", "tblGrid", "lstStyle"),
    *("del", "moveFrom", "instrText", "ffData", "fldData"),
}
_SIGNS = {"tab": "\t", "ptab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-", "den": "/"}
REFERENCES = {"footnoteReference", "endnoteReference", "commentReference", "chart", "relIds"}
_CONTAINERS = {"tr", "tc", "txbxContent", "txBody"}
_NAMED = " or ".join(f"local-name()='{name}'" for name in ("t", *sorted(DESCRIBED)))
_RAW = f""".//*[{_NAMED}][not(ancestor::*[
    local-name()='del' or local-name()='moveFrom' or local-name()='Fallback'
    or @*[local-name()='type' and (contains(., 'eparator') or .='continuationNotice')]])]"""


class Document(Protocol):
    """What a walk asks of the document that it walks through."""

    def after(self, element: _Element) -> list[str]:
        """Return the paragraphs that an element of `REFERENCES`, or a part of another format, leads to."""

    def hides(self, run: _Element) -> bool:
        """Return whether the text of a run is hidden."""

    def label(self, paragraph: _Element) -> str:
        """Return the number that is shown before a paragraph, or an empty text. Each is asked for once, in order."""

    def numbered(self, label: str, text: str) -> str:
        """Return the ``text`` of a paragraph after its number."""


def blocks(document: Document, root: _Element) -> list[str]:
    """Return the paragraphs below an element, and the rows of its tables, each as one text."""
    return _Walk(document).blocks(root)


def raw_text(root: _Element | None) -> str:
    """Return the text of all text elements, and the descriptions of all pictures, that are not deleted.

    What surrounds them does not matter.
    """
    found = [] if root is None else root.xpath(_RAW)
    return " ".join(description(one) if local(one) in DESCRIBED else text_of(one)[0] for one in found)


def lost_symbols(root: _Element) -> int:
    """Return the number of letters that are pictures in their font, such as in Wingdings, and stand for nothing."""
    # DrawingML also calls a font so.
    found = (
        one for one in root.iter("{*}t", "{*}sym") if local(one) == "t" or value(one, "font") or value(one, "char")
    )
    return sum(text_of(one)[1] for one in found)


@dataclass(slots=True)
class _Frame:
    """What was read of a container, such as the body, a row, a cell or a text box.

    Attributes:
        blocks: the paragraphs and rows that are complete.
        text: the parts of the paragraph that is not complete.
        after: the blocks that follow this paragraph.
        label: the number of this paragraph.
        is_cell: whether this is a cell, in which a number may stand alone.
    """

    blocks: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    label: str = ""
    is_cell: bool = False

    def add(self, name: str, blocks: list[str], element: _Element) -> None:
        """Add the blocks of a container inside of this one. An empty cell that continues the one above is no cell."""
        if name == "tc":
            if blocks or not _continues(element):
                self.blocks.append("\n".join(blocks))
        elif name == "tr":
            self.blocks += [" | ".join(blocks)] * any(blocks)
        elif self.text or self.after or self.label:
            self.after += blocks
        else:
            self.blocks += blocks

    def close_paragraph(self, numbered: Callable[[str, str], str]) -> None:
        text = "".join(self.text).strip()
        if self.label and (text or self.is_cell):
            text = numbered(self.label, text)
        self.blocks += [text] * bool(text) + self.after
        self.text, self.after, self.label = [], [], ""


class _Walk:
    """A walk through a tree. It takes no recursion, because a hostile file nests deeply."""

    def __init__(self, document: Document) -> None:
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
        self._frames[0].close_paragraph(self._document.numbered)
        return self._frames[0].blocks

    def _is_unseen(self, element: _Element) -> bool:
        name = local(element)
        if name == "r":
            return self._document.hides(element)
        return name in UNSEEN or is_repeated(element)

    def _start(self, element: _Element) -> None:
        name, frame = local(element), self._frames[-1]
        if name in _CONTAINERS:
            self._frames.append(_Frame(is_cell=name == "tc"))
        elif name == "p":
            # Text boxes in a paragraph are numbered after it.
            frame.label = frame.label if _is_joined(element) else self._document.label(element)
        elif name in ("t", "sym"):
            frame.text.append(text_of(element)[0])
        elif name in _SIGNS:
            frame.text.append(_SIGNS[name])
        elif name == "fldChar":
            frame.text.append(_field(element))
        elif name in DESCRIBED:
            # Shapes of slides stand in no paragraph.
            (frame.blocks if name in SHAPES else frame.after).extend(filter(None, [description(element)]))
        elif name == "altChunk":  # it stands between paragraphs
            frame.blocks += self._document.after(element)
        elif name in REFERENCES:
            frame.after += self._document.after(element)

    def _end(self, element: _Element) -> None:
        name = local(element)
        if name in _CONTAINERS:
            inner = self._frames.pop()
            inner.close_paragraph(self._document.numbered)
            self._frames[-1].add(name, inner.blocks, element)
        elif name == "p" and not _is_joined(element):
            self._frames[-1].close_paragraph(self._document.numbered)


def _is_joined(paragraph: _Element) -> bool:
    """Return whether the end of a paragraph is deleted or moved away, so that the next one continues it."""
    return any(paragraph.find(f"{{*}}pPr/{{*}}rPr/{{*}}{name}") is not None for name in ("del", "moveFrom"))


def _field(element: _Element) -> str:
    """Return the state of a form field of older documents that begins here: the chosen entry of a list, or a box."""
    box = element.find("{*}ffData/{*}checkBox")
    if box is not None:
        states = (state for name in ("checked", "default") if (state := box.find(f"{{*}}{name}")) is not None)
        state = next(states, None)
        is_checked = state is not None and (value(state, "val") or "1") not in ("0", "false", "off")
        return "\u2612" if is_checked else "\u2610"
    entries = [value(entry, "val") or "" for entry in element.iterfind("{*}ffData/{*}ddList/{*}listEntry")]
    chosen = [element.find(f"{{*}}ffData/{{*}}ddList/{{*}}{name}") for name in ("result", "default")]
    place = next((value(one, "val") or "" for one in chosen if one is not None), "0")
    return entries[int(place)] if place.isdecimal() and len(place) < 9 and int(place) < len(entries) else ""


def _continues(cell: _Element) -> bool:
    """Return whether a cell continues the one above or before it."""
    merged = cell.get("vMerge"), cell.get("hMerge")  # of slides
    return cell.find("{*}tcPr/{*}vMerge") is not None or any(state in ("1", "true") for state in merged)

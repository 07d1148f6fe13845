"""`Walk`: a walk through the XML of a Word document or of slides. It gives every text, in its order.

python-docx, python-pptx and docx2python each lack some of the places where text can stand: content controls, tracked
insertions, groups, text boxes, fields, formulas, notes or headers. Here the text of an element that is not known is
read, too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from smart_rag.files.formats.office.archive import inner, local, value
from smart_rag.files.formats.office.drawing import description, is_repeated

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
_RAW = """.//*[local-name()='t' or local-name()='pic'][not(ancestor::*[
    local-name()='del' or local-name()='moveFrom' or local-name()='Fallback'
    or @*[local-name()='type' and (contains(., 'eparator') or .='continuationNotice')]])]"""


class Document(Protocol):
    """What a walk asks of the document that it walks through."""

    def after(self, element: _Element) -> list[str]:
        """Return the paragraphs that an element of `REFERENCES` leads to."""

    def hides(self, run: _Element) -> bool:
        """Return whether the text of a run is hidden."""


def blocks(document: Document, root: _Element) -> list[str]:
    """Return the paragraphs below an element, and the rows of its tables, each as one text."""
    return _Walk(document).blocks(root)


def raw_text(root: _Element | None) -> str:
    """Return the text of all text elements, and the descriptions of all pictures, that are not deleted.

    What surrounds them does not matter.
    """
    found = [] if root is None else root.xpath(_RAW)
    return " ".join(description(element) if local(element) == "pic" else inner(element) for element in found)


# The letters of the font Symbol.
_LETTERS: dict[int, str] = dict(
    zip(
        (*range(0x41, 0x5B), *range(0x61, 0x7B)),
        "\u0391\u0392\u03a7\u0394\u0395\u03a6\u0393\u0397\u0399\u03d1\u039a\u039b\u039c\u039d\u039f\u03a0\u0398\u03a1\u03a3\u03a4\u03a5\u03c2\u03a9\u039e\u03a8\u0396"
        "\u03b1\u03b2\u03c7\u03b4\u03b5\u03c6\u03b3\u03b7\u03b9\u03d5\u03ba\u03bb\u03bc\u03bd\u03bf\u03c0\u03b8\u03c1\u03c3\u03c4\u03c5\u03d6\u03c9\u03be\u03c8\u03b6",
        strict=True,
    )
)


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
            if blocks or not _continues(element):
                self.blocks.append("\n".join(blocks))
        elif name == "tr":
            self.blocks += [" | ".join(blocks)] * any(blocks)
        elif self.text or self.after:
            self.after += blocks
        else:
            self.blocks += blocks

    def close_paragraph(self) -> None:
        text = "".join(self.text).strip()
        self.blocks += [text] * bool(text) + self.after
        self.text, self.after = [], []


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
        self._frames[0].close_paragraph()
        return self._frames[0].blocks

    def _is_unseen(self, element: _Element) -> bool:
        name = local(element)
        if name == "r":
            return self._document.hides(element)
        return name in UNSEEN or is_repeated(element)

    def _start(self, element: _Element) -> None:
        name, frame = local(element), self._frames[-1]
        if name in _CONTAINERS:
            self._frames.append(_Frame())
        elif name == "t":
            frame.text.append(inner(element))
        elif name in _SIGNS:
            frame.text.append(_SIGNS[name])
        elif name == "sym":
            frame.text.append(symbol(element))
        elif name == "pic":
            frame.after += filter(None, [description(element)])
        elif name in REFERENCES:
            frame.after += self._document.after(element)

    def _end(self, element: _Element) -> None:
        name = local(element)
        if name in _CONTAINERS:
            inner = self._frames.pop()
            inner.close_paragraph()
            self._frames[-1].add(name, inner.blocks, element)
        elif name == "p" and element.find("{*}pPr/{*}rPr/{*}del") is None:  # else it is joined with the next paragraph
            self._frames[-1].close_paragraph()


def symbol(element: _Element) -> str:
    """Return the character of a symbol. Those of fonts such as Wingdings are pictures, and stand for no character."""
    try:
        code = int(value(element, "char") or "", 16)
        character = chr(code)
    except (ValueError, OverflowError):
        return ""
    if value(element, "font") == "Symbol":
        return _LETTERS.get(code & 0xFF, "")
    return character if character.isprintable() else ""


def _continues(cell: _Element) -> bool:
    """Return whether a cell continues the one above or before it."""
    merged = cell.get("vMerge"), cell.get("hMerge")  # of slides
    return cell.find("{*}tcPr/{*}vMerge") is not None or any(state in ("1", "true") for state in merged)

"""Drawings, which text documents, slides and sheets have in common: shapes, charts and diagrams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smart_rag.files.formats.office.archive import elements, inner, local

if TYPE_CHECKING:
    from lxml.etree import _Element

# The labels of a chart: a copy of what the cells show, in one level or in several, or without cells.
_LABELS = ("strCache", "multiLvlStrCache", "strLit")


def is_repeated(element: _Element) -> bool:
    """Return whether an element repeats the one before it for older programs, which is done with each text box."""
    if local(element) != "Fallback":
        return False
    return any(has_text(choice) for choice in element.itersiblings("{*}Choice", preceding=True))


def has_text(element: _Element) -> bool:
    """Return whether there is text in an element."""
    return any(inner(part).strip() for part in element.iter("{*}t"))


def diagram_text(root: _Element) -> list[str]:
    """Return the texts of a chart or of a diagram, each once: its titles, its labels, its shapes."""
    found: dict[str, None] = {}
    for element in elements(root):
        name = local(element)
        if name == "p":
            found["".join(inner(part) for part in element.iter("{*}t")).strip()] = None
        elif name in _LABELS:
            found.update(dict.fromkeys(inner(part).strip() for part in element.iter("{*}v")))
    return [text for text in found if text]

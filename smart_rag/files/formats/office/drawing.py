"""Drawings, which text documents, slides and sheets have in common: shapes, pictures, charts and diagrams."""

from __future__ import annotations

import re
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


# Programs write these as the description of a picture: the name of its file, its number, and a note of their own.
_NO_DESCRIPTION = re.compile(
    r"[^\n]*\.(?:png|jpe?g|gif|bmp|tiff?|emf|wmf|svg|webp|heic|pdf)|(?:picture|image|photo|graphic|bild|grafik)?\s*\d*",
    re.IGNORECASE,
)
_NOTE = re.compile(
    r"(?:Description automatically generated(?: with \w+ confidence)?|AI-generated content may be incorrect\.?)\s*$",
    re.IGNORECASE,
)


# Shapes, groups, charts and tables of slides and sheets have their names and descriptions in these.
SHAPES = {"nvSpPr", "nvGrpSpPr", "nvGraphicFramePr", "nvCxnSpPr"}
DESCRIBED = {"pic", "imagedata", "textpath", *SHAPES}  # also pictures, pictures in the older VML, and WordArt in it


def description(picture: _Element) -> str:
    """Return the alternative text of a picture or a shape, or the text of WordArt. It is empty if nobody wrote one.

    No viewer shows it on the page, but it may be the only text about the picture. Word says it of the drawing, too, and
    there it is newer.
    """
    if local(picture) == "textpath":
        return str(picture.get("string", "")).strip()
    if local(picture) == "imagedata":
        shape = picture.getparent()
        return "" if shape is None else of_person(shape.get("alt", ""))
    if local(picture) in SHAPES:
        named = picture.find("{*}cNvPr")
        return "" if named is None else of_person(named.get("descr", ""))
    drawing = next(picture.iterancestors("{*}inline", "{*}anchor", "{*}wgp"), None)
    places = (None if drawing is None else drawing.find("{*}docPr"), picture.find("{*}nvPicPr/{*}cNvPr"))
    for place in places:
        text = "" if place is None else of_person(place.get("descr", ""))
        if text:
            return text
    return ""


def of_person(text: str) -> str:
    """Return a description, or an empty text if a program wrote it."""
    text = _NOTE.sub("", text).strip()
    return "" if _NO_DESCRIPTION.fullmatch(text) else text


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

"""Letters in fonts of symbols, such as Symbol and Wingdings: what a person sees in their place.

Such a font has signs in the places of letters, so an ``a`` in the font Symbol is an alpha. Some programs write the
letters as characters from U+F000 on.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from smart_rag.files.formats.office.archive import inner, local, value

if TYPE_CHECKING:
    from lxml.etree import _Element

_IS_SYMBOLS = re.compile(r"symbol|wingdings(?: [23])?|webdings|zapf ?dingbats|marlett", re.IGNORECASE)
_PRIVATE = range(0xF000, 0xF100)
_OF_PRIVATE = re.compile("[\uf000-\uf0ff]")


def _table(*rows: tuple[int, str]) -> dict[int, str]:
    return {first + i: sign for first, signs in rows for i, sign in enumerate(signs)}


# The encoding of the font Symbol, without the pieces of large brackets.
_SYMBOL = _table(
    (0x20, " !∀#∃%&∋()∗+,−./0123456789:;<=>?≅ΑΒΧΔΕΦΓΗΙϑΚΛΜΝΟΠΘΡΣΤΥςΩΞΨΖ[∴]⊥_‾αβχδεφγηιϕκλμνοπθρστυϖωξψζ{|}∼"),  # noqa: RUF001
    (0xA0, "€ϒ′≤⁄∞ƒ♣♦♥♠↔←↑→↓°±″≥×∝∂•÷≠≡≈…⏐⎯↵ℵℑℜ℘⊗⊕∅∩∪⊃⊇⊄⊂⊆∈∉∠∇®©™∏√⋅¬∧∨⇔⇐⇑⇒⇓◊〈®©™∑"),  # noqa: RUF001
    (0xF1, "〉∫"),
)
# Of the pictures in Wingdings, those that say something: marks, boxes, arrows and bullets.
_WINGDINGS = {
    **_table((0x20, " "), (0x6C, "●"), (0x6E, "■□"), (0x78, "☒"), (0xA1, "○"), (0xA7, "▪☐"), (0xDF, "←→↑↓")),
    **_table((0xE7, "←→↑↓"), (0xF0, "⇨"), (0xFB, "✗✓☒☑")),
}


@lru_cache(maxsize=1024)
def is_symbols(font: str) -> bool:
    """Return whether a font has signs in the places of letters."""
    return _IS_SYMBOLS.fullmatch(font.strip()) is not None


def shown(text: str, font: str) -> tuple[str, int]:
    """Return what a text shows in a font, and the number of its characters that are pictures and stand for nothing.

    >>> shown("abc", "Symbol"), shown("abc", "Arial"), shown("b\uf0fe", "Wingdings")
    (('αβχ', 0), ('abc', 0), ('☑', 1))
    """
    if not is_symbols(font) and not _OF_PRIVATE.search(text):
        return text, 0
    signs = {"symbol": _SYMBOL, "wingdings": _WINGDINGS}.get(font.strip().lower(), {})
    found, lost = [], 0
    for character in text:
        code = ord(character)
        if character.isspace() or not (code in _PRIVATE or (code < 0x100 and is_symbols(font))):
            found.append(character)
        else:
            found.append(signs.get(code & 0xFF, ""))
            lost += not found[-1]
    return "".join(found), lost


def text_of(element: _Element) -> tuple[str, int]:
    """Return what a text or a symbol in a run shows, as `shown`."""
    if local(element) == "sym":
        return _symbol(element)
    text = inner(element)
    run = element.getparent()
    properties = None if run is None else run.find("{*}rPr")
    return (text, 0) if not text else shown(text, "" if properties is None else font_of(properties))


def _symbol(element: _Element) -> tuple[str, int]:
    try:
        code = int(value(element, "char") or "", 16)
        character = chr(code)
    except (ValueError, OverflowError):
        return "", 1
    text, lost = shown(character, value(element, "font") or "")
    return (text, lost) if text.isprintable() and text else ("", 1)


def font_of(properties: _Element) -> str:
    """Return the font of a run if it is one of symbols, or an empty text."""
    for place in properties.iterchildren("{*}rFonts", "{*}latin", "{*}sym"):
        for name in ("ascii", "hAnsi", "typeface"):
            font = value(place, name) or ""
            if is_symbols(font):
                return font
    return ""

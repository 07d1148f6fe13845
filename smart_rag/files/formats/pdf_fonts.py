"""Letters of fonts that pdfium does not know, because their glyphs are named by codes: G41 for A, G42 for B.

The printer driver of old versions of Windows made such fonts, and many reports of companies from about 2000 have them.
Which code of a text means which glyph stands in the PDF, in an array named Differences. pdfium does not give it, so it
is searched in the file. It belongs to the font that has exactly the same glyphs.
"""

from __future__ import annotations

import ctypes
import mmap
import re
from collections.abc import Callable
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

_DIFFERENCES = re.compile(rb"/Differences\s*\[([^\]]{1,20000})\]")
_GLYPH = re.compile(rb"G([0-9A-F]{2})(?:\._)?\Z")  # the driver named a second glyph of the same letter G46._
_LARGEST_FONT = 1 << 24
_LONGEST_NAME = 20


class NamedGlyphs:
    """The letters of the characters of a PDF whose fonts name their glyphs by codes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def letters(self, raw: Any, text_page: Any) -> Callable[[int, str], str]:
        """Return a function from the index and the code of a character to its letter, or to ``""`` if unknown."""
        fonts: dict[int, dict[int, str]] = {}

        def letter(index: int, code: str) -> str:
            shown = raw.FPDFText_GetTextObject(text_page, index)
            font = raw.FPDFTextObj_GetFont(shown) if shown else None
            if not font:
                return ""
            address = ctypes.addressof(font.contents)
            if address not in fonts:
                names = _glyph_names(_font_data(raw, font))
                fonts[address] = self._encodings.get(names, {}) if names else {}
            return fonts[address].get(ord(code), "")

        return letter

    @cached_property
    def _encodings(self) -> dict[frozenset[bytes], dict[int, str]]:
        """The letters of codes, for each set of glyphs. If two fonts have the same glyphs, none of them is known."""
        found: dict[frozenset[bytes], dict[int, str]] = {}
        with self._path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for match in _DIFFERENCES.finditer(content):
                encoding, names = _encoding(match[1])
                if names and found.setdefault(names, encoding) != encoding:
                    found[names] = {}
        return found


def _encoding(differences: bytes) -> tuple[dict[int, str], frozenset[bytes]]:
    """Return the letters and the names of an array such as ``[1 /G41 /G42]``."""
    letters, names, code = {}, set(), 0
    for part in re.findall(rb"\d+|/[^\s/]+", differences):
        if part[:1] != b"/":
            code = int(part[:9])
            continue
        if glyph := _GLYPH.match(part[1:]):
            names.add(part[1:])
            letters[code] = bytes.fromhex(glyph[1].decode()).decode("cp1252", "ignore")
        code += 1
    return letters, frozenset(names)


def _font_data(raw: Any, font: Any) -> bytes:
    """Return the embedded font. It is empty if there is none, or if it is very large."""
    size = ctypes.c_size_t()
    raw.FPDFFont_GetFontData(font, None, 0, size)
    if not 0 < size.value < _LARGEST_FONT:
        return b""
    buffer = (ctypes.c_uint8 * size.value)()
    raw.FPDFFont_GetFontData(font, buffer, size.value, size)
    return bytes(buffer)


def _glyph_names(font: bytes) -> frozenset[bytes]:
    """Return the names of the glyphs of a font in the format CFF, as far as they are codes."""
    if font[:1] != b"\x01":
        return frozenset()
    place = int.from_bytes(font[2:3], "big")
    for _ in range(3):  # behind the header, there are the lists of fonts, of dictionaries, and of strings
        strings, place = _list(font, place)
    return frozenset(string for string in strings if _GLYPH.match(string))


def _list(font: bytes, place: int) -> tuple[list[bytes], int]:
    """Return the items of an INDEX, a list in a font, and the place behind it. Long items are empty."""
    count = int.from_bytes(font[place : place + 2], "big")
    size = int.from_bytes(font[place + 2 : place + 3], "big")
    if not count or count * size > len(font):
        return [], place + 2
    first = place + 3
    offsets = [int.from_bytes(font[first + i * size : first + (i + 1) * size], "big") for i in range(count + 1)]
    before = first + (count + 1) * size - 1
    items = [font[before + a : before + b] if b - a <= _LONGEST_NAME else b"" for a, b in pairwise(offsets)]
    return items, before + offsets[-1]

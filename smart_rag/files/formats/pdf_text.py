"""Text layer of a page of a PDF, as a person reads the page: whole words, and only characters that mean something.

pdfium keeps a list of characters for each page. Every character of a text here knows its place in this list, so that
the boxes of any part of the text can be found.
"""

from __future__ import annotations

import ctypes
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from smart_rag.files.formats.pdf_fonts import NamedGlyphs
from smart_rag.types import Span

# pdfium joins two lines if the first one ends with a hyphen in a word. This character takes the place of the hyphen.
HYPHEN = "\ufffe"
# Characters that no reader sees. A font without a map of its characters gives numbers of glyphs, which look like this.
_CONTROL_CODES = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
_CONTROL = re.compile(f"[{_CONTROL_CODES}]")
_ODD = re.compile(
    f"[{_CONTROL_CODES}\ud800-\udfff\ue000-\uf8ff\ufdd0-\ufdef\ufffd-\uffff\U000f0000-\U0010ffff]"  # private use
)
# What TeX's bitmap fonts have in the place of control characters.
_LIGATURES = {
    **{"\x0b": "ff", "\x0c": "fi", "\x0e": "ffi", "\x0f": "ffl"},
    **{"\x1b": "ff", "\x1c": "fi", "\x1d": "fl", "\x1e": "ffi", "\x1f": "ffl"},
}
# Small capitals and old-style digits, as Adobe's fonts name them.
_CAPITALS = {0xF700 + code: chr(code) for code in (*range(0x30, 0x3A), *range(0x61, 0x7B))}
# If more of the characters without a map are control characters, all of them are numbers of glyphs. Most texts in such
# fonts have spaces, and the space is one of these control characters.
_MOST_CONTROL = 0.05
# If more of the characters with a map are control characters, the map is wrong.
_MOST_WRONG = 0.2
# TeX's bitmap fonts have no map, and control characters in formulas. But the most of their texts are small letters.
_FEWEST_LETTERS = 0.4

# Annotations without a text of their own: links, pop-ups, fields and more. Fields are drawn.
_NO_NOTES = frozenset((0, 2, 16, *range(18, 28)))
_DEEPEST_PICTURE = 3  # pictures stand in forms, which stand in forms
_HIDDEN = 2 | 32  # by its flags, or not to be shown on a screen

_BLANK = (*" \t\r\n\xa0\0", HYPHEN, "")
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_BEFORE = re.compile(r"[^\W_]+(?:-[^\W_]+)*\Z")
_AFTER = re.compile(r"[^\W_]+")
_LONGEST_WORD = 100


def _set_of(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Words that mostly keep the hyphen after them, or before them. They are chosen from 5,456 words that are broken in 73
# PDFs and whole elsewhere in the same PDF.
_FIRST = _set_of(
    "cross double few fine first five floating four free full half hard high large left long low many multiple nine "
    "non one open real right second self short single six small ten third three top two user well"
)
_LAST = _set_of(
    "aware based century defined dependent dimensional driven grained independent insensitive level like oriented "
    "quality related scale sensitive shaped specific"
)
_PREFIXES = ("inter", "under", "over")
# A page with so little text on pictures that cover so much of it is a scan with a stamp or a page number.
_SHORT, _MOST_OF_PAGE = 400, 0.6


@dataclass(frozen=True, slots=True)
class Layer:
    """A text, and the place of each of its characters in pdfium's list.

    Attributes:
        text: the text. In the layer of `read_layer`, it has `HYPHEN` where a word is broken.
        places: for each character of ``text``, its index in the list.
        unknown: number of characters that were left out, because the font does not say which letters they are.
        is_scan: whether the page is a picture, and the text in it is not read; see `is_scan`.
    """

    text: str
    places: Sequence[int]
    unknown: int = 0
    is_scan: bool = False

    def rectangles(self, text_page: Any, span: Span) -> Iterator[tuple[float, float, float, float]]:
        """Yield the rectangle of each line of a part of the text: (left, bottom, right, top) in points."""
        places = self.places[slice(*span)]
        if places:
            for i in range(text_page.count_rects(places[0], places[-1] + 1 - places[0])):
                yield text_page.get_rect(i)

    def words(self) -> Counter[str]:
        """Return how often each word occurs, in lower case. Broken words are left out."""
        whole = re.sub(rf"\w*{HYPHEN}\w*", " ", self.text)
        return Counter(match[0].lower() for match in _WORD.finditer(whole))


def read_layer(page: Any, glyphs: NamedGlyphs) -> Layer:
    """Return what is visible of a page's text layer. Broken words are not joined yet; see `joined`.

    ``glyphs`` has the letters of those fonts of the PDF that pdfium does not know.
    """
    import pypdfium2

    raw, text_page = pypdfium2.raw, page.get_textpage()
    characters = _characters(raw, text_page)
    shown = _shown(page, text_page, characters)
    unknown = 0
    if _ODD.search("".join(characters)):
        unmapped = {i for i in shown if raw.FPDFText_HasUnicodeMapError(text_page, i) == 1}
        letter = glyphs.letters(raw, text_page)
        for i in unmapped:
            characters[i] = letter(i, characters[i]) or characters[i]
        unknown = _clean(characters, unmapped, shown)
    for i in shown:
        if characters[i] == "\r":
            characters[i] = "" if characters[i + 1 : i + 2] == ["\n"] else "\n"
    places = [i for i in shown for _ in characters[i]]
    text = "".join(characters[i] for i in shown)
    return Layer(text, places, unknown, is_scan(page, text))


def joined(layer: Layer, words: Callable[[], Counter[str]]) -> Layer:
    """Return ``layer`` with whole words in place of words that are broken at the end of a line.

    A hyphen stays if a reader would keep it (``free-software``). What the pages nearby have more often decides. If they
    have neither, the rules in `_keeps_hyphen` decide.

    Args:
        layer: a result of `read_layer`.
        words: returns how often each word occurs nearby, in lower case. It is called if there is a broken word.
    """
    text = layer.text
    if HYPHEN not in text:
        return layer
    counts = words()
    characters = list(text)
    for match in re.finditer(HYPHEN, text):
        i = match.start()
        before = _BEFORE.search(text[max(0, i - _LONGEST_WORD) : i])
        after = _AFTER.match(text, i + 1, i + 1 + _LONGEST_WORD)
        if after is None:
            characters[i] = "-\n"
        elif before is None or _keeps_hyphen(before[0], after[0], counts):
            characters[i] = "-"
        else:
            characters[i] = ""
    places = [place for place, part in zip(layer.places, characters, strict=True) for _ in part]
    return Layer("".join(characters), places, layer.unknown, layer.is_scan)


def is_scan(page: Any, text: str) -> bool:
    """Return whether pictures cover most of ``page``, and ``text``, which is on it, does not say what they show.

    Such a text is a stamp, a page number or a filled field. Or it is what pdfium finds in a layer of recognised text
    whose font it does not know. Recognised text that pdfium finds is invisible, and may be short.
    """
    from pypdfium2 import raw

    if _picture_share(page) <= _MOST_OF_PAGE:
        return False
    objects = list(page.get_objects(filter=[raw.FPDF_PAGEOBJ_TEXT], max_depth=_DEEPEST_PICTURE))
    modes = {raw.FPDFTextObj_GetTextRenderMode(one) for one in objects}
    if len(text.strip()) < _SHORT and modes != {raw.FPDF_TEXTRENDERMODE_INVISIBLE}:
        return True
    text_page = page.get_textpage()
    found = (raw.FPDFText_GetTextObject(text_page, i) for i in range(raw.FPDFText_CountChars(text_page)))
    known = {ctypes.addressof(one.contents) for one in found if one}
    unknown = sum(ctypes.addressof(one.raw.contents) not in known for one in objects)
    return 2 * unknown > len(objects)


def _picture_share(page: Any) -> float:
    """Return the share of ``page`` that its pictures cover, from 0 to 1. Scanners cut a page into strips."""
    from pypdfium2 import raw

    left, bottom, right, top = page.get_bbox()
    covered = 0.0
    for picture in page.get_objects(filter=[raw.FPDF_PAGEOBJ_IMAGE], max_depth=_DEEPEST_PICTURE):
        a, b, c, d = picture.get_bounds()
        covered += max(0.0, min(c, right) - max(a, left)) * max(0.0, min(d, top) - max(b, bottom))
    return min(1.0, float(covered / ((right - left) * (top - bottom))))


def notes_of(page: Any) -> tuple[list[str], list[str]]:
    """Return the texts of the notes on a page, as a reader shows them, and the names of the files in them.

    A sticky note, the comment of a highlight, and a note without an appearance are no part of what is drawn.
    """
    import pypdfium2

    raw = pypdfium2.raw
    texts, files = [], []
    for i in range(raw.FPDFPage_GetAnnotCount(page)):
        note = raw.FPDFPage_GetAnnot(page, i)
        if not note:
            continue
        try:
            if raw.FPDFAnnot_GetSubtype(note) not in _NO_NOTES and not raw.FPDFAnnot_GetFlags(note) & _HIDDEN:
                texts.append(string_of(raw.FPDFAnnot_GetStringValue, note, b"Contents"))
            attached = raw.FPDFAnnot_GetFileAttachment(note)
            if attached:
                files.append(string_of(raw.FPDFAttachment_GetName, attached))
        finally:
            raw.FPDFPage_CloseAnnot(note)
    return [text for text in texts if text], files


def string_of(function: Callable[..., int], *arguments: Any) -> str:
    """Return the text that a function of pdfium writes into a buffer, in UTF-16."""
    size = function(*arguments, None, 0)
    buffer = (ctypes.c_ushort * (size // 2 + 1))()
    function(*arguments, buffer, size)
    text = bytes(buffer)[:size].decode("utf-16-le", "replace").split("\0")[0].replace(HYPHEN, "")
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def _keeps_hyphen(before: str, after: str, counts: Counter[str]) -> bool:
    left, right = before.lower(), after.lower()
    last = left.rpartition("-")[2]
    together, apart = counts[last + right] + counts[left + right], counts[f"{last}-{right}"] + counts[f"{left}-{right}"]
    if together or apart:
        return apart > together
    if not (before[-1].isalpha() and after[0].islower()):
        return True
    return "-" in left or left in _FIRST or (right in _LAST and len(left) > 3 and left not in _PREFIXES)


def _characters(raw: Any, text_page: Any) -> list[str]:
    """Return the characters of pdfium's list."""
    count = text_page.count_chars()
    if count < 1:
        return []
    buffer = (ctypes.c_ushort * (count + 1))()
    raw.FPDFText_GetText(text_page, 0, count, buffer)
    # pdfium leaves out some characters of its list, and writes others as two. Then we ask for one after the other.
    text = bytes(buffer)[:-2].decode("utf-16-le", "surrogatepass")
    if len(text) != count or "\0" in text:
        codes = (raw.FPDFText_GetUnicode(text_page, i) for i in range(count))
        text = "".join(chr(code) if code < 0x110000 else "\ufffd" for code in codes)
    characters = list(text)
    for match in re.finditer("[\x02\ufffe]", text):
        if raw.FPDFText_IsHyphen(text_page, match.start()) == 1:
            characters[match.start()] = HYPHEN
    for match in re.finditer("[\ud800-\udbff][\udc00-\udfff]", text):
        whole = match[0].encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        characters[match.start() : match.end()] = whole, ""
    return characters


def _shown(page: Any, text_page: Any, characters: Sequence[str]) -> list[int]:
    """Return the indices of the characters that are on the page, and not beside it."""
    inside = "".join(text_page.get_text_bounded().split())
    if len(inside) >= len("".join("".join(characters).replace("\0", "").split())):
        return list(range(len(characters)))
    left, bottom, right, top = page.get_bbox()
    shown: list[int] = []
    for i, character in enumerate(characters):
        if character.isspace():
            is_inside = bool(shown) and (shown[-1] == i - 1 or not characters[shown[-1]].isspace())
        else:
            a, b, c, d = text_page.get_charbox(i)
            is_inside = left <= (a + c) / 2 <= right and bottom <= (b + d) / 2 <= top
        if is_inside:
            shown.append(i)
    return shown


def _clean(characters: list[str], unmapped: set[int], shown: Sequence[int]) -> int:
    """Replace what is no text by spaces, and return how many characters are left out for it."""
    visible = {i for i in shown if characters[i] not in _BLANK}
    unknown = 0
    for group, most in ((visible & unmapped, _MOST_CONTROL), (visible - unmapped, _MOST_WRONG)):
        control = sum(_CONTROL.match(characters[i]) is not None for i in group if not _is_ligature(characters, i))
        letters = sum("a" <= characters[i] <= "z" for i in group)
        if control > most * len(group) and letters < _FEWEST_LETTERS * len(group):
            unknown += len(group)
            for i in group:
                characters[i] = " "
    for i in visible:
        if i in unmapped and _is_ligature(characters, i):
            characters[i] = _LIGATURES[characters[i]]
        elif _ODD.match(characters[i]):
            known = _CAPITALS.get(ord(characters[i]))
            unknown += known is None
            characters[i] = known or " "
    for i in shown:
        if characters[i] == "\0":
            characters[i] = ""
    return unknown


def _is_ligature(characters: list[str], i: int) -> bool:
    """Return whether character ``i`` stands for a ligature of TeX: beside of it, there are letters of our alphabet."""
    if characters[i] not in _LIGATURES:
        return False
    beside = "".join(characters[max(0, i - 1) : i] + characters[i + 1 : i + 2])
    return any(c.isascii() and c.isalpha() for c in beside)

"""`Numbering`: the numbers that Word writes before paragraphs, such as 2.1 before a heading or (a) before an item.

They stand in no paragraph. Word counts them by the definitions of the document (ECMA-376, part 1, section 17.9).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from smart_rag.files.formats.office.archive import value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lxml.etree import _Element

_MOST_LEVELS = 9
_MOST_STYLES = 50  # in a chain, each of which is based on the next
_LONGEST_LABEL = 100
_LARGEST = 2**31
_PLACE = re.compile(r"%([1-9])")
_NO_NUMBER = ("bullet", "none")
# Larger numbers than these are written with digits. Word repeats a letter: after z comes aa, then bb.
_MOST_LETTERS, _MOST_ROMAN, _MOST_CHINESE = 780, 3999, 99
_ROMAN = (
    *((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl"), (10, "x")),
    *((9, "ix"), (5, "v"), (4, "iv"), (1, "i")),
)
_CHINESE_DIGITS = "一二三四五六七八九"
_CHINESE = (
    *("chineseCounting", "chineseCountingThousand", "taiwaneseCounting", "taiwaneseCountingThousand"),
    *("japaneseCounting", "ideographDigital", "taiwaneseDigital", "japaneseDigitalTenThousand"),
)
_OFF = ("0", "false", "off")


@dataclass(frozen=True, slots=True)
class _Level:
    """How one level of a list is numbered.

    Attributes:
        start: the first number.
        form: the name of the form of the number, such as ``upperRoman``.
        text: the label, where ``%1`` stands for the number of the first level.
        style: the id of the style whose paragraphs have this level.
        restart: the number begins again after a paragraph of this level or a higher one, counted from 1. Never, if 0.
        is_legal: whether all numbers in the label are written with digits.
    """

    start: int = 1
    form: str = "decimal"
    text: str = ""
    style: str | None = None
    restart: int | None = None
    is_legal: bool = False


@dataclass(slots=True)
class _List:
    """The levels of a list, the number of each that came last, and which lists of the document began to count anew."""

    levels: dict[int, _Level]
    numbers: dict[int, int]
    begun: set[str]


class Numbering:
    """The labels of a document's paragraphs, which must be asked for in their order.

    Args:
        numbering: the part with the definitions of the lists, or None.
        styles: the part with the styles, or None.
    """

    def __init__(self, numbering: _Element | None, styles: _Element | None) -> None:
        self._styles = {} if styles is None else {value(one, "styleId") or "": one for one in styles.iter("{*}style")}
        self._default = next(
            (
                id
                for id, one in self._styles.items()
                if (value(one, "type"), value(one, "default")) == ("paragraph", "1")
            ),
            None,
        )
        self._of_style: dict[str | None, _Element | None] = {}  # because many paragraphs have the same style
        self._used: dict[str, str] = {}  # from the id of a list to that of its definition
        self._lists: dict[str, _List] = {}
        self._changed: dict[str, dict[int, _Element]] = {}
        self._levels: dict[str, tuple[dict[int, _Level], list[int]]] = {}
        links: dict[str, str] = {}
        if numbering is None:
            return
        for one in numbering.iterchildren("{*}abstractNum"):
            id = value(one, "abstractNumId") or ""
            self._lists[id] = _List(dict(_levels(one)), {}, set())
            if link := _of_child(one, "numStyleLink"):
                links[id] = link
        for one in numbering.iterchildren("{*}num"):
            id = value(one, "numId") or ""
            self._used[id] = _of_child(one, "abstractNumId") or ""
            self._changed[id] = {_whole(value(part, "ilvl"), 0): part for part in one.iterchildren("{*}lvlOverride")}
        for id, style in links.items():  # the style has a list, whose definition counts
            numbered = self._property(style)
            definition = None if numbered is None else self._used.get(_of_child(numbered, "numId") or "")
            if definition in self._lists and definition not in links:
                self._lists[id] = self._lists[definition]

    def label(self, paragraph: _Element) -> str:
        """Return what stands before a paragraph, or an empty text. Bullets are left out."""
        style = _style(paragraph)
        own, of_style = paragraph.find("{*}pPr/{*}numPr"), self._property(style or self._default)
        id = next((id for one in (own, of_style) if one is not None and (id := _of_child(one, "numId"))), None)
        found = self._lists.get(self._used.get(id or "", ""))
        if id is None or found is None:
            return ""
        level = next((level for one in (own, of_style) if one is not None and (level := _of_child(one, "ilvl"))), None)
        if level is None:
            level = next((str(i) for i, one in found.levels.items() if style and one.style == style), "0")
        return self._next(id, found, min(_whole(level, 0), _MOST_LEVELS - 1))

    def _property(self, style: str | None) -> _Element | None:
        """Return the numbering of a style, or of a style that it is based on."""
        if style not in self._of_style:
            self._of_style[style] = self._inherited(style)
        return self._of_style[style]

    def _inherited(self, style: str | None) -> _Element | None:
        for _ in range(_MOST_STYLES):
            element = self._styles.get(style or "")
            if element is None:
                return None
            found = element.find("{*}pPr/{*}numPr")
            if found is not None and found.find("{*}numId") is not None:
                return found
            style = _of_child(element, "basedOn")
        return None

    def _levels_of(self, id: str, of: _List) -> tuple[dict[int, _Level], list[int]]:
        """Return the levels of a list, with its own changes of the definition, and those that it begins to count."""
        levels, anew = {i: _Level() for i in range(_MOST_LEVELS)} | of.levels, []
        for i, change in self._changed.get(id, {}).items():
            levels[i] = dict(_levels(change)).get(i, levels.get(i, _Level()))
            first = _of_child(change, "startOverride")
            if first is not None:
                levels[i] = replace(levels[i], start=_whole(first, 1))
                anew.append(i)
        return levels, anew

    def _next(self, id: str, of: _List, place: int) -> str:
        """Count one paragraph of the level ``place``, and return its label."""
        if id not in self._levels:
            self._levels[id] = self._levels_of(id, of)
        levels, anew = self._levels[id]
        if id not in of.begun:
            for i in anew:
                of.numbers.pop(i, None)
        of.begun.add(id)
        of.numbers[place] = of.numbers[place] + 1 if place in of.numbers else levels[place].start
        for i in [i for i in of.numbers if i > place]:
            restart = levels[i].restart
            if restart is None or 0 < place + 1 <= restart:
                del of.numbers[i]
        level = levels[place]
        if level.form in _NO_NUMBER and not _PLACE.search(level.text):
            return ""

        def written(match: re.Match[str]) -> str:
            i = int(match[1]) - 1
            form = "decimal" if level.is_legal else levels[i].form
            return _written(of.numbers.get(i, levels[i].start), form)

        return _PLACE.sub(written, level.text)[:_LONGEST_LABEL].strip()


def _levels(element: _Element) -> Iterator[tuple[int, _Level]]:
    """Yield the levels that are defined below an element, with their places from 0."""
    for one in element.iterchildren("{*}lvl"):
        restart, legal = _of_child(one, "lvlRestart"), one.find("{*}isLgl")
        yield (
            _whole(value(one, "ilvl"), 0),
            _Level(
                _whole(_of_child(one, "start"), 0),
                _of_child(one, "numFmt") or "decimal",
                (_of_child(one, "lvlText") or "")[:_LONGEST_LABEL],
                _of_child(one, "pStyle"),
                None if restart is None else _whole(restart, 0),
                legal is not None and value(legal, "val") not in _OFF,
            ),
        )


def _style(paragraph: _Element) -> str | None:
    found = paragraph.find("{*}pPr/{*}pStyle")
    return None if found is None else value(found, "val")


def _of_child(element: _Element, name: str) -> str | None:
    found = element.find(f"{{*}}{name}")
    return None if found is None else value(found, "val")


def _whole(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isdecimal() and len(text) < 11 and int(text) < _LARGEST else default


def _written(count: int, form: str) -> str:
    """Return a number in a form that ECMA-376 names. Forms that are not known are written with digits.

    >>> [_written(28, form) for form in ("decimal", "lowerLetter", "upperRoman", "decimalZero", "japaneseCounting")]
    ['28', 'bb', 'XXVIII', '28', '二十八']
    """
    if form in _NO_NUMBER:
        return ""
    if form in ("lowerLetter", "upperLetter") and 0 < count <= _MOST_LETTERS:
        letter = chr(ord("a") + (count - 1) % 26) * ((count - 1) // 26 + 1)
        return letter.upper() if form == "upperLetter" else letter
    if form in ("lowerRoman", "upperRoman") and 0 < count <= _MOST_ROMAN:
        letters = ""
        for size, sign in _ROMAN:
            letters += sign * (count // size)
            count %= size
        return letters.upper() if form == "upperRoman" else letters
    if form in _CHINESE and 0 < count <= _MOST_CHINESE:
        tens, ones = divmod(count, 10)
        before = f"{_CHINESE_DIGITS[tens - 1] if tens > 1 else ''}十" if tens else ""
        return before + (_CHINESE_DIGITS[ones - 1] if ones else "")
    if form == "ordinal":
        ending = "th" if count % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(count % 10, "th")
        return f"{count}{ending}"
    return f"{count:02}" if form == "decimalZero" else str(count)

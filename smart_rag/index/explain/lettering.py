"""`Lettering`: measures and draws lines of text in any script, and keeps the letters that no font here has."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache

from PIL import ImageDraw, ImageFont

from smart_rag.index.explain.fonts import Font, fonts_of, is_missing, usual_font
from smart_rag.types import Span

_Colour = tuple[int, int, int]
_WORD = re.compile(r"\s+|\S+")
_RIGHT_TO_LEFT = ("R", "AL")
_LEFT_TO_RIGHT = ("L", "EN", "AN")


@dataclass(frozen=True, slots=True)
class _Run:
    """A part of a line that has one font and one direction."""

    start: int
    text: str
    font: Font
    is_rtl: bool

    def width(self, stop: int | None = None) -> float:
        return _length(self.font, self.text[:stop], self.is_rtl)


@dataclass(slots=True)
class Lettering:
    """Draws texts in one size.

    Attributes:
        size: the size of the letters in pixels.
        missing: the letters drawn so far that no font here has. A box stands for each.
    """

    size: int
    missing: dict[str, None] = field(default_factory=dict)

    def width(self, line: str) -> float:
        """Return the width of ``line`` in pixels."""
        return sum(run.width() for run in _runs(line, self.size))

    def spans(self, line: str, span: Span) -> Iterator[tuple[float, float]]:
        """Yield the left and the right end of each part of ``line`` that shows ``span``, from the left end of the line.

        If a line has words in both directions, a span may be shown in several parts.
        """
        x = 0.0
        for run in _in_sight(line, self.size):
            begin, end = (min(max(at - run.start, 0), len(run.text)) for at in span)
            if begin < end:
                left, right = run.width(begin), run.width(end)
                width = run.width()
                yield (x + width - right, x + width - left) if run.is_rtl else (x + left, x + right)
            x += run.width()

    def draw(self, draw: ImageDraw.ImageDraw, place: tuple[float, float], line: str, colour: _Colour) -> None:
        """Draw ``line`` with the upper left corner at ``place``."""
        x, baseline = place[0], place[1] + usual_font(self.size).getmetrics()[0]
        for run in _in_sight(line, self.size):
            draw.text(
                (x, baseline), run.text, colour, run.font, anchor="ls", direction=_direction(run.font, run.is_rtl)
            )
            x += run.width()
        self.missing.update(dict.fromkeys(filter(is_missing, line)))

    @staticmethod
    def is_rtl(line: str) -> bool:
        """Return whether ``line`` is read from right to left, by its first letter that has a direction."""
        return next((way for way in map(_way_of, line) if way is not None), False)


def _in_sight(line: str, size: int) -> list[_Run]:
    """Return the runs of ``line`` from left to right."""
    runs = list(_runs(line, size))
    if Lettering.is_rtl(line):
        return runs[::-1]
    found: list[_Run] = []
    at = 0
    while at < len(runs):  # neighbours that are read from right to left change places
        end = at + 1
        while runs[at].is_rtl and end < len(runs) and runs[end].is_rtl:
            end += 1
        found += reversed(runs[at:end])
        at = end
    return found


@lru_cache(maxsize=10_000)
def _runs(line: str, size: int) -> tuple[_Run, ...]:
    """Return the runs of ``line`` in the order in which they are read."""
    keys = list(zip(_fonts(line, size), _ways(line), strict=True))
    runs: list[_Run] = []
    start = 0
    for end in range(1, len(line) + 1):
        if end == len(line) or keys[end] != keys[start]:
            font, is_rtl = keys[start]
            runs.append(_Run(start, line[start:end], font, is_rtl))
            start = end
    return tuple(runs)


def _fonts(line: str, size: int) -> Iterator[Font]:
    for word in _WORD.findall(line):
        yield from fonts_of(word, size)


def _ways(line: str) -> list[bool]:
    """Return of each letter whether it is read from right to left. What has no direction has that of its neighbours."""
    base = Lettering.is_rtl(line)
    given = list(map(_way_of, line))
    before, last = [], base
    for way in given:
        last = last if way is None else way
        before.append(last)
    after, last = [], base
    for way in reversed(given):
        last = last if way is None else way
        after.append(last)
    return [one if one == other else base for one, other in zip(before, reversed(after), strict=True)]


@cache
def _way_of(letter: str) -> bool | None:
    kind = unicodedata.bidirectional(letter)
    if kind in _RIGHT_TO_LEFT:
        return True
    return False if kind in _LEFT_TO_RIGHT else None


@lru_cache(maxsize=50_000)
def _length(font: Font, text: str, is_rtl: bool) -> float:
    return float(font.getlength(text, direction=_direction(font, is_rtl)))


def _direction(font: Font, is_rtl: bool) -> str | None:
    """Return the direction as Pillow wants it. Without the library raqm, a font knows no directions."""
    if font.layout_engine != ImageFont.Layout.RAQM:
        return None
    return "rtl" if is_rtl else "ltr"

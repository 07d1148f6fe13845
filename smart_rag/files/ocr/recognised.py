"""What is recognised on a page: its text in reading order, and the place of each character."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smart_rag.files.formats.pdf_text import HYPHEN, Layer, joined
from smart_rag.files.ocr.engine import ReadLine, read_lines
from smart_rag.files.ocr.reading_order import Line, rows_of
from smart_rag.types import Box, Span

# From a point of the image that was read to the point of the page, both in fractions.
_Back: TypeAlias = Callable[[float, float], tuple[float, float]]

# What a page lacks, for the report.
NOTHING = "no text recognised in it"
UNCLEAR = "some of its lines could not be recognised"

# If the score of a page is lower, the page may stand on its head.
_GOOD_SCORE = 0.9
# The engine may read the lines of a page that lies on its side, but not their order. So if it reads almost as much of
# the turned page, this is taken.
_ALMOST = 0.9
# The turns of a page, each with the function from a point of the turned page to the point of the page.
_Turns: TypeAlias = Sequence[tuple[Image.Transpose, _Back]]
_ON_ITS_HEAD: _Turns = ((Image.Transpose.ROTATE_180, lambda x, y: (1 - x, 1 - y)),)
_ON_ITS_SIDE: _Turns = (
    (Image.Transpose.ROTATE_90, lambda x, y: (1 - y, x)),
    (Image.Transpose.ROTATE_270, lambda x, y: (y, 1 - x)),
)


@dataclass(frozen=True, slots=True)
class Recognised:
    """What was recognised on a page.

    Attributes:
        text: the text, in which a line break ends each row.
        places: for each character of ``text``, its index in ``characters``.
        characters: for each character that was read, the number of its line and its box.
        left_out: what the text lacks.
    """

    text: str
    places: Sequence[int] = ()
    characters: Sequence[tuple[int, Box]] = ()
    left_out: tuple[str, ...] = ()

    def boxes(self, span: Span) -> list[Box]:
        """Return the box of each line of a part of the text."""
        lines: dict[int, list[Box]] = {}
        for place, letter in zip(self.places[slice(*span)], self.text[slice(*span)], strict=True):
            if not letter.isspace():
                line, box = self.characters[place]
                lines.setdefault(line, []).append(box)
        return [_around(found) for found in lines.values()]


def recognise_image(image: Image.Image) -> Recognised:
    """Return the text of an upright RGB image. A page that lies on its side or on its head is turned.

    Raises:
        MissingExtra: the extra ``ocr`` is not installed.
    """
    page = _Lines(read_lines(image), image.size, lambda x, y: (x, y))
    turns = page.turns()
    turned = [(image.transpose(turn), back) for turn, back in turns]
    best = max(
        (_Lines(read_lines(one), one.size, back) for one, back in turned), key=_Lines.certain_characters, default=page
    )
    least = page.certain_characters() * (_ALMOST if turns is _ON_ITS_SIDE else 1)
    return (best if best.certain_characters() > least else page).as_text()


@dataclass(frozen=True, slots=True)
class _Lines:
    """The lines of an image of this ``size``. ``back`` gives the point of the page for a point of the image."""

    lines: Sequence[ReadLine]
    size: tuple[int, int]
    back: _Back

    def certain_characters(self) -> float:
        return sum(line.score * len(line.text) for line in self.lines if line.is_clear())

    def turns(self) -> _Turns:
        """Return the turns of the image that may give a better text. Of a good page, there are none."""
        count = sum(len(line.text) for line in self.lines)
        upright = sum(len(line.text) for line in self.lines if line.sides[1] > 1.5 * line.sides[0])
        score = sum(line.score * len(line.text) for line in self.lines)
        if 2 * upright > count:
            return _ON_ITS_SIDE
        return _ON_ITS_HEAD if score < _GOOD_SCORE * count else ()

    def as_text(self) -> Recognised:
        """Return the text of the lines in reading order, with whole words."""
        clear = [line for line in self.lines if line.is_clear()]
        left_out = (UNCLEAR,) if len(clear) < len(self.lines) else ()
        if not clear:
            return Recognised("", left_out=(NOTHING,))
        straight = _straight([line.corners for line in clear])
        rows = rows_of(
            [Line(i, box, len(line.text)) for i, (line, box) in enumerate(zip(clear, straight, strict=True))]
        )
        written: list[str] = []
        characters: list[tuple[int, Box]] = []
        for row in rows:
            for index in row:
                line = clear[index]
                written += [*line.text, " "]
                characters += [(index, self._on_page(box)) for box in (*line.letters, line.letters[-1])]
            written[-1] = "\n"
        layer = joined(_broken("".join(written), range(len(written))), lambda: _broken("".join(written), ()).words())
        return Recognised(layer.text.rstrip("\n"), layer.places, characters, left_out)

    def _on_page(self, box: Box) -> Box:
        """Return a box in pixels of the image as fractions of the page."""
        width, height = self.size
        points = [self.back(x / width, y / height) for x, y in (box[:2], box[2:])]
        (ax, ay), (bx, by) = [(min(max(x, 0.0), 1.0), min(max(y, 0.0), 1.0)) for x, y in points]
        return min(ax, bx), min(ay, by), max(ax, bx), max(ay, by)


def _broken(text: str, places: Sequence[int]) -> Layer:
    """Return ``text`` as a layer for `joined`, in which `HYPHEN` takes the place of a hyphen at the end of a line."""
    characters: list[str] = []
    kept: list[int] = []
    for i, letter in enumerate(text):
        at_end = letter == "\n" and i >= 2 and text[i - 1] in "-\u2010\xad" and text[i - 2].isalpha()
        if at_end and text[i + 1 : i + 2].isalpha():
            characters[-1] = HYPHEN
        else:
            characters.append(letter)
            kept.append(i)
    return Layer("".join(characters), [places[i] for i in kept] if places else ())


def _straight(quads: Sequence[NDArray[np.float64]]) -> Iterator[Box]:
    """Yield the boxes of lines, after the page was turned by the angle at which its lines run."""
    x, y = np.sum([quad[1] - quad[0] for quad in quads], axis=0)  # so long lines count for more
    angle = math.atan2(y, x)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    for quad in quads:
        (left, top), (right, bottom) = (quad @ turn).min(axis=0), (quad @ turn).max(axis=0)
        yield float(left), float(top), float(right), float(bottom)


def _around(found: Sequence[Box]) -> Box:
    lefts, tops, rights, bottoms = zip(*found, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)

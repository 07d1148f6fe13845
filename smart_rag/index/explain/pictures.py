"""Pictures of the matches: a heat map over an image, marks in a text, and a legend. Pillow draws them.

Heat is a number from 0 to 1. Heat 0 changes no pixel. Medium heat is yellow. Heat 1 is a red that is light enough for
black letters. A higher heat always has a darker colour. So the order of heats can also be seen in grey, and by people
who cannot see red.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from smart_rag.files.formats.images import fit
from smart_rag.types import Box, Span

# Words of a legend, each with its heat.
Chips = Sequence[tuple[str, float]]

_COLOURS = np.array([[255, 245, 180], [253, 174, 97], [215, 25, 28]], dtype=np.float64)
_OPACITY = 0.75
_INK, _GREY = (20, 20, 20), (110, 110, 110)
_TEXT_WIDTH = 900
_TEXT_LINES = 48
_LEAST_WIDTH = 480
_MARGIN = 12
_SIZE, _SMALL = 20, 15
_ENLARGED = 16  # a tiny image gets up to 16 times as many pixels, so that its patches can be seen
_MOST_LETTERS = 400  # no line has more letters, so longer lines need not be measured
# A line ends before a word. If a word is longer than a line, it is cut.
_PIECE = re.compile(r"\S+\s*|\s+")


def draw_heat_map(image: Image.Image, values: NDArray[np.float32], max_pixels: int) -> Image.Image:
    """Return ``image`` in grey under a heat map of ``values`` (rows, columns).

    The lowest value has heat 0, and the highest has heat 1. The picture has the aspect ratio of ``image`` and about
    ``max_pixels``. If ``image`` is small, the picture has fewer pixels.
    """
    size = fit(*image.size, max_pixels, _ENLARGED**0.5)
    grey = np.asarray(image.convert("L").resize(size, Image.Resampling.LANCZOS))
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / ((high - low) or 1)
    smooth = Image.fromarray(scaled.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    return Image.fromarray(_tinted(np.repeat(grey[..., None], 3, axis=2), np.asarray(smooth)))


def mark_boxes(image: Image.Image, marks: Sequence[tuple[Box, float]]) -> Image.Image:
    """Return ``image`` with each box of ``marks`` in the colour of its heat. All other pixels stay the same."""
    heat = np.zeros((image.height, image.width))
    for (left, top, right, bottom), value in marks:
        rows = slice(int(top * image.height), math.ceil(bottom * image.height))
        columns = slice(int(left * image.width), math.ceil(right * image.width))
        heat[rows, columns] = np.maximum(heat[rows, columns], value)
    paper = np.full((image.height, image.width, 3), 255, np.uint8)
    return Image.fromarray(np.minimum(np.asarray(image.convert("RGB")), _tinted(paper, heat)))  # letters stay black


def draw_marked_text(text: str, marks: Sequence[tuple[Span, float]]) -> Image.Image:
    """Return a picture of ``text`` with each span of ``marks`` in the colour of its heat.

    If the text has too many lines, the picture shows only some consecutive lines: those with the most marks.
    """
    lines = list(_lines(text))
    begins = [sum(start <= mark[0] < stop for mark, _ in marks) for start, stop in lines]
    first = max(range(max(1, len(lines) - _TEXT_LINES + 1)), key=lambda i: sum(begins[i : i + _TEXT_LINES]))
    shown = lines[first : first + _TEXT_LINES]
    height = int(1.4 * _SIZE)
    dots = (first > 0, first + len(shown) < len(lines))
    image = Image.new("RGB", (_TEXT_WIDTH, 2 * _MARGIN + height * (len(shown) + sum(dots))), "white")
    draw = ImageDraw.Draw(image)
    y = _MARGIN
    if dots[0]:
        draw.text((_MARGIN, y), "…", _GREY, _font(_SIZE))
        y += height
    for line in shown:
        for (start, stop), heat in marks:
            begin, end = max(start, line[0]), min(stop, line[1])
            if begin < end:
                left, right = (_MARGIN + _width(text[line[0] : at]) for at in (begin, end))
                draw.rectangle((left - 2, y, right + 1, y + height - 4), _colour(heat))
        draw.text((_MARGIN, y), _one_line(text[slice(*line)]), _INK, _font(_SIZE))
        y += height
    if dots[1]:
        draw.text((_MARGIN, y), "…", _GREY, _font(_SIZE))
    return image


def add_legend(image: Image.Image, title: str, chips: Chips, scale: tuple[float, float] | None = None) -> Image.Image:
    """Return ``image`` with a legend below it.

    The legend has three parts: ``title``, the words of ``chips`` in the colours of their heat, and a bar. The ends of
    the bar show the two numbers of ``scale``: the similarities that have heat 0 and heat 1.
    """
    width = max(image.width, _LEAST_WIDTH)
    rows = [[(title, 0.0)], *_rows(chips, width)]
    height = int(1.6 * _SIZE)
    strip = Image.new("RGB", (width, 2 * _MARGIN + height * (len(rows) + (scale is not None))), "white")
    draw = ImageDraw.Draw(strip)
    y = _MARGIN
    for row in rows:
        x = float(_MARGIN)
        for word, heat in row:
            end = x + _width(word, _SMALL)
            draw.rectangle((x - 4, y, end + 4, y + height - 8), _colour(heat))
            draw.text((x, y + 2), word, _INK, _font(_SMALL))
            x = end + _MARGIN
        y += height
    if scale is not None:
        low, high = (f"{value:.2f}" for value in scale)
        left = int(_MARGIN + _width(low, _SMALL) + 8)
        right = int(max(left + 60, min(width / 2, width - 2 * _MARGIN - _width(high, _SMALL))))
        bar = _tinted(np.full((height - 12, right - left, 3), 255, np.uint8), np.linspace(0, 1, right - left)[None])
        draw.text((_MARGIN, y + 2), low, _GREY, _font(_SMALL))
        strip.paste(Image.fromarray(bar), (left, y + 2))
        draw.text((right + 8, y + 2), f"{high}  similarity", _GREY, _font(_SMALL))
    whole = Image.new("RGB", (width, image.height + strip.height), "white")
    whole.paste(image, (0, 0))
    whole.paste(strip, (0, image.height))
    return whole


def _tinted(base: NDArray[np.uint8], heat: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return ``base`` (rows, columns, 3), coloured by ``heat``. Heat is in [0, 1] and broadcasts to (rows,
    columns).
    """
    heat = np.clip(heat, 0, 1)
    steps = np.linspace(0, 1, len(_COLOURS))
    colours = np.stack([np.interp(heat, steps, channel) for channel in _COLOURS.T], axis=-1)
    opacity = _OPACITY * heat[..., None]
    return np.asarray(np.rint((1 - opacity) * base + opacity * colours), dtype=np.uint8)


def _colour(heat: float) -> tuple[int, int, int]:
    red, green, blue = _tinted(np.full((1, 1, 3), 255, np.uint8), np.full((1, 1), heat))[0, 0].tolist()
    return red, green, blue


def _lines(text: str) -> Iterator[Span]:
    """Yield the spans of the lines in which ``text`` is drawn. The text's own line ends and empty lines are kept."""
    at = 0
    for paragraph in text.splitlines(keepends=True) or [""]:
        start, stop = at, at + len(paragraph.rstrip("\r\n"))
        at += len(paragraph)
        end = start
        for piece in _PIECE.finditer(text, start, stop):
            if end > start and not _fits(text[start : piece.end()].rstrip()):
                yield start, end
                start = end
            while not _fits(text[start : piece.end()].rstrip()):
                cuts = range(start + 2, min(piece.end(), start + _MOST_LETTERS))
                cut = start + 1 + bisect_left(cuts, True, key=lambda at: not _fits(text[start:at]))
                yield start, cut
                start = cut
            end = piece.end()
        yield start, stop


def _rows(chips: Chips, width: int) -> Iterator[Chips]:
    """Yield ``chips`` in rows that fit into ``width``."""
    row: list[tuple[str, float]] = []
    used = 0.0
    for word, heat in chips:
        needed = _width(word, _SMALL) + _MARGIN
        if row and used + needed > width - _MARGIN:
            yield row
            row, used = [], 0.0
        row.append((word, heat))
        used += needed
    if row:
        yield row


def _fits(text: str) -> bool:
    return len(text) <= _MOST_LETTERS and _width(text) <= _TEXT_WIDTH - 2 * _MARGIN


def _width(text: str, size: int = _SIZE) -> float:
    return float(_font(size).getlength(_one_line(text)))


def _one_line(text: str) -> str:
    return re.sub(r"\s|[\x00-\x1f]", " ", text)


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)

"""Pictures of the matches: a heat map over an image, marks in a text, and a legend. Pillow draws them.

Heat is a number from 0 to 1. Heat 0 changes no pixel. The colours are the steps 1 to 6 of ColorBrewer's YlOrRd. So heat
1 is a red that is light enough for black letters. A higher heat always has a darker colour, so the order of heats can
also be seen in grey, and by people who cannot see red. The inspector page has the same colours.
"""

from __future__ import annotations

import logging
import math
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from smart_rag.files.formats.images import fit
from smart_rag.index.explain.lettering import Lettering
from smart_rag.types import Box, Span
from smart_rag.wording import number

logger = logging.getLogger(__name__)

# Words of a legend, each with its heat.
Chips = Sequence[tuple[str, float]]

_COLOURS = np.array(
    [[255, 255, 204], [255, 237, 160], [254, 217, 118], [254, 178, 76], [253, 141, 60], [252, 78, 42]], dtype=np.float64
)
_OPACITY = 0.75  # of heat 1
# Of marks in a text: few enough to tell apart. For those who see no colours, a higher level has a thicker line below.
_LEVELS = 5
_INK, _GREY, _PAPER = (20, 20, 20), (110, 110, 110), (255, 255, 255)
_TEXT_WIDTH = 900
_TEXT_LINES = 48
_LEAST_WIDTH = 480
_MARGIN = 12
_SIZE, _SMALL = 20, 15
_MOST_NAMED = 5  # of the letters that no font has
_ENLARGED = 16  # a tiny image gets up to 16 times as many pixels, so that its patches can be seen
_MOST_LETTERS = 400  # no line has more letters, so longer lines need not be measured
# A line ends before a word. If a word is longer than a line, it is cut.
_PIECE = re.compile(r"\S+\s*|\s+")


def draw_heat_map(image: Image.Image, values: NDArray[np.float32], max_pixels: int) -> Image.Image:
    """Return ``image`` in grey under a heat map of ``values`` (rows, columns).

    The lowest value has heat 0, and the highest has heat 1. The patch with the highest value has a frame. The picture
    has the aspect ratio of ``image`` and about ``max_pixels``. If ``image`` is small, the picture has fewer pixels.
    """
    size = fit(*image.size, max_pixels, _ENLARGED**0.5)
    grey = np.asarray(image.convert("L").resize(size, Image.Resampling.LANCZOS))
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / ((high - low) or 1)
    smooth = Image.fromarray(scaled.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    drawn = Image.fromarray(_tinted(np.repeat(grey[..., None], 3, axis=2), np.asarray(smooth)))
    if high > low:
        _outline(drawn, values)
    return drawn


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
    draw, lettering = ImageDraw.Draw(image), Lettering(_SIZE)
    y = _MARGIN
    if dots[0]:
        lettering.draw(draw, (_MARGIN, y), _left_out(first), _GREY)
        y += height
    for line in shown:
        written = _one_line(text[slice(*line)])
        x = _TEXT_WIDTH - _MARGIN - lettering.width(written) if lettering.is_rtl(written) else _MARGIN
        for (start, stop), heat in marks:
            level = math.ceil(heat * _LEVELS)
            span = (max(start, line[0]) - line[0], min(stop, line[1]) - line[0])
            for left, right in lettering.spans(written, span) if span[0] < span[1] and level else ():
                bottom = y + height - 4
                draw.rectangle((x + left - 2, y, x + right + 1, bottom), _colour(level / _LEVELS))
                if level > 1:
                    draw.rectangle((x + left - 2, bottom + 2 - level, x + right + 1, bottom), _INK)
        lettering.draw(draw, (x, y), written, _INK)
        y += height
    if dots[1]:
        lettering.draw(draw, (_MARGIN, y), _left_out(len(lines) - first - len(shown)), _GREY)
    _warn(lettering)
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
    draw, lettering = ImageDraw.Draw(strip), Lettering(_SMALL)
    y = _MARGIN
    for row in rows:
        x = float(_MARGIN)
        for word, heat in row:
            end = x + lettering.width(word)
            draw.rectangle((x - 4, y, end + 4, y + height - 8), _colour(heat))
            lettering.draw(draw, (x, y + 2), word, _INK)
            x = end + _MARGIN
        y += height
    if scale is not None:
        low, high = (f"{value:.2f}" for value in scale)
        left = int(_MARGIN + lettering.width(low) + 8)
        right = int(max(left + 60, min(width / 2, width - 2 * _MARGIN - lettering.width(high))))
        bar = _tinted(np.full((height - 12, right - left, 3), 255, np.uint8), np.linspace(0, 1, right - left)[None])
        lettering.draw(draw, (_MARGIN, y + 2), low, _GREY)
        strip.paste(Image.fromarray(bar), (left, y + 2))
        lettering.draw(draw, (right + 8, y + 2), f"{high}  similarity", _GREY)
    _warn(lettering)
    whole = Image.new("RGB", (width, image.height + strip.height), "white")
    whole.paste(image, (0, 0))
    whole.paste(strip, (0, image.height))
    return whole


def _outline(image: Image.Image, values: NDArray[np.float32]) -> None:
    """Draw a frame around the patch with the highest of ``values`` (rows, columns)."""
    row, column = divmod(int(values.argmax()), values.shape[1])
    height, width = image.height / values.shape[0], image.width / values.shape[1]
    box = (round(column * width), round(row * height), round((column + 1) * width) - 1, round((row + 1) * height) - 1)
    draw = ImageDraw.Draw(image)
    for inset, colour in enumerate((_INK, _INK, _PAPER)):  # it can be seen on any ground
        left, top, right, bottom = box[0] + inset, box[1] + inset, box[2] - inset, box[3] - inset
        if left < right and top < bottom:
            draw.rectangle((left, top, right, bottom), outline=colour)


def _tinted(base: NDArray[np.uint8], heat: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return ``base`` (rows, columns, 3), coloured by ``heat``. Heat is in [0, 1] and broadcasts to (rows,
    columns).
    """
    heat = np.clip(heat, 0, 1)
    steps = np.linspace(0, 1, len(_COLOURS))
    colours = np.stack([np.interp(heat, steps, channel) for channel in _COLOURS.T], axis=-1) / 255
    opacity = _OPACITY * heat[..., None]
    # The colours are multiplied with the picture, so what is black stays black.
    return np.asarray(np.rint((1 - opacity) * base + opacity * colours * base), dtype=np.uint8)


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
        needed = Lettering(_SMALL).width(word) + _MARGIN
        if row and used + needed > width - _MARGIN:
            yield row
            row, used = [], 0.0
        row.append((word, heat))
        used += needed
    if row:
        yield row


def _fits(text: str) -> bool:
    return len(text) <= _MOST_LETTERS and Lettering(_SIZE).width(_one_line(text)) <= _TEXT_WIDTH - 2 * _MARGIN


def _one_line(text: str) -> str:
    return re.sub(r"\s|[\x00-\x1f]", " ", text)


def _left_out(lines: int) -> str:
    return f"… {number(lines, 'line')} not shown"


def _warn(lettering: Lettering) -> None:
    """Say which letters are boxes."""
    missing = list(lettering.missing)
    if missing:
        named = ", ".join(f"{letter} (U+{ord(letter):04X})" for letter in missing[:_MOST_NAMED])
        more = f" and {len(missing) - _MOST_NAMED:,} more" if len(missing) > _MOST_NAMED else ""
        logger.warning(
            "the picture has boxes for %s that no font here has: %s%s; install a font for them, such as Noto",
            *(number(len(missing), "character"), named, more),
        )

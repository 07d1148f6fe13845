"""Reading order of the lines on a page: columns one after the other, all else from top to bottom."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from smart_rag.types import Box

# A blank strip between two columns is at least so wide, as a part of a line's height.
_GUTTER = 0.8
# Columns of text have so many lines, and so many characters in a line. What has less is a table, which is read by rows.
_FEWEST_LINES = 3
_FEWEST_CHARACTERS = 15


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text: its number, its box with the line upright, and how many characters it has."""

    index: int
    box: Box
    characters: int

    @property
    def height(self) -> float:
        """The height of the box."""
        return self.box[3] - self.box[1]


def rows_of(lines: Sequence[Line]) -> Iterator[list[int]]:
    """Yield the numbers of ``lines`` in reading order, those of one row together."""
    band: list[list[Line]] = []
    for row in _rows(lines):
        if len(_columns([*band, row])) < 2:
            yield from _in_order(band)
            band = []
        band.append(row)
    yield from _in_order(band)


def _rows(lines: Sequence[Line]) -> Iterator[list[Line]]:
    """Yield lines side by side, from left to right, and the rows from top to bottom."""
    row: list[Line] = []
    for line in sorted(lines, key=lambda line: line.box[1] + line.box[3]):
        if row and (line.box[1] + line.box[3]) / 2 > row[0].box[3]:
            yield sorted(row, key=lambda line: line.box[0])
            row = []
        row.append(line)
    if row:
        yield sorted(row, key=lambda line: line.box[0])


def _columns(rows: Sequence[Sequence[Line]]) -> list[list[Line]]:
    """Return the lines of ``rows`` as columns, which a blank strip divides."""
    lines = sorted((line for row in rows for line in row), key=lambda line: line.box[0])
    gutter = _GUTTER * statistics.median(line.height for line in lines)
    columns: list[list[Line]] = []
    end = float("-inf")
    for line in lines:
        if not columns or line.box[0] > end + gutter:
            columns.append([])
        columns[-1].append(line)
        end = max(end, line.box[2])
    return columns


def _in_order(band: Sequence[list[Line]]) -> Iterator[list[int]]:
    """Yield the rows of a ``band``, which may have columns. Columns of text are read one after the other."""
    columns = _columns(band) if band else []
    if len(columns) > 1 and all(map(_is_text, columns)):
        for column in columns:
            yield from rows_of(column)
    else:
        for row in band:
            yield [line.index for line in row]


def _is_text(column: Sequence[Line]) -> bool:
    return len(column) >= _FEWEST_LINES and statistics.median(line.characters for line in column) >= _FEWEST_CHARACTERS

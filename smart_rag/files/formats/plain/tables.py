"""Tables of text: .csv and .tsv. What separates the columns is found in the file."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from smart_rag.files.formats.page import Page
from smart_rag.files.formats.text import read_text
from smart_rag.wording import number, some

_SEPARATORS = ",;\t|"
_SAMPLE_LINES = 200
_MOST_HEADER = 400  # characters; a longer header would be most of a chunk
_MOST_UNCLOSED = 20  # quotes; for each, the rest of the table is read once more
_MOST_FIELD = 2**31 - 1  # the most that every system takes


def read_table(path: Path) -> Iterator[Page]:
    """Yield a table as one page. Its first row is the header, which each chunk repeats.

    Raises:
        DocumentError: the file holds binary data.
    """
    (page,) = read_text(path)
    text = page.text
    separator = "\t" if path.suffix.lower() == ".tsv" else None
    first, _, rest = text.partition("\n")
    if first.strip().lower().startswith("sep=") and len(first.strip()) == 5:  # so Excel states it
        separator, text = first.strip()[4], rest
    lines = text.splitlines(keepends=True)
    separator = separator or _separator(lines[:_SAMPLE_LINES])
    try:
        rows, unclosed = _closed(lines, separator)
    except csv.Error:
        rows, unclosed = [[line] for line in lines], []
    header, body = table_text(rows)
    noted = f"{number(len(unclosed), 'quote')} without an end, so the row may be cut: line {some(unclosed)}"
    yield Page(body, header=header, left_out=(*page.left_out, *[noted] * bool(unclosed)))


def _closed(lines: Sequence[str], separator: str) -> tuple[list[list[str]], list[int]]:
    """Return the rows of a table, and the lines whose quotes nothing closes.

    Such a quote would make one cell of all that follows. So it counts as a character.
    """
    rows: list[list[str]] = []
    unclosed: list[int] = []
    begin = 0
    while begin < len(lines):
        last = begin  # the line with which the last row begins
        end = begin
        for row, read in _rows(lines[begin:], separator):
            rows.append(row)
            last, end = end, begin + read
        is_open = end - last > 1 and sum(line.count('"') for line in lines[last:]) % 2
        if not is_open or len(unclosed) == _MOST_UNCLOSED:
            break
        rows[-1] = lines[last].replace('"', "").split(separator)
        unclosed.append(last + 1)
        begin = last + 1
    return rows, unclosed


def table_text(rows: Iterable[Sequence[str]]) -> tuple[str, str]:
    """Return the header of a table, and the text of its other rows, without empty rows and empty cells at the end.

    If there is only one row, or if the first row is long, the header is empty.
    """
    lines = [line for line in map(row_text, rows) if line]
    if len(lines) < 2 or len(lines[0]) > _MOST_HEADER:
        return "", "\n".join(lines)
    return f"{lines[0]}\n", "\n".join(lines[1:])


def row_text(cells: Sequence[str]) -> str:
    """Return the text of a row: its cells on one line, without the empty ones at its end."""
    texts = [" ".join(cell.split()) for cell in cells]
    while texts and not texts[-1]:
        texts.pop()
    return " | ".join(texts)


def _rows(lines: Iterable[str], separator: str) -> Iterator[tuple[list[str], int]]:
    """Yield each row, and the number of lines that are read with it."""
    before = csv.field_size_limit(_MOST_FIELD)
    try:
        reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
        yield from ((row, reader.line_num) for row in reader)
    finally:
        csv.field_size_limit(before)


def _separator(lines: Sequence[str]) -> str:
    """Return the character that cuts most of the lines into the same number of columns, of at least two."""

    def fit(separator: str) -> tuple[int, int]:
        try:
            widths = Counter(len(row) for row, _ in _rows(lines, separator) if len(row) > 1)
        except csv.Error:
            return 0, 0
        width, count = max(widths.items(), key=lambda item: item[1], default=(0, 0))
        return count, width

    return max(_SEPARATORS, key=fit)

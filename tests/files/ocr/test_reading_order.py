"""Reading order: columns of text one after the other, tables by rows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smart_rag.files.ocr.reading_order import Line, rows_of


def order(*boxes: tuple[float, float, float, float], characters: int = 40) -> list[list[int]]:
    return list(rows_of([Line(i, box, characters) for i, box in enumerate(boxes)]))


def column(left: float, right: float, tops: list[int]) -> list[tuple[float, float, float, float]]:
    return [(left, top, right, top + 20) for top in tops]


def test_lines_are_read_from_top_to_bottom():
    assert order((0, 60, 500, 80), (0, 0, 500, 20), (0, 30, 300, 50)) == [[1], [2], [0]]


def test_columns_are_read_one_after_the_other_below_their_title_and_above_the_end():
    title, end = [(100, 0, 900, 30)], [(0, 300, 1000, 320)]
    left, right = column(0, 470, [50, 80, 110, 140]), column(530, 1000, [60, 90, 120])  # not at the same heights
    found = order(*right, *end, *left, *title)
    assert found == [[8], [4], [5], [6], [7], [0], [1], [2], [3]]


def test_three_columns():
    boxes = [box for left in (0, 350, 700) for box in column(left, left + 300, [0, 30, 60])]
    assert order(*boxes) == [[i] for i in range(9)]


def test_a_table_is_read_by_rows():
    boxes = [box for left in (0, 350, 700) for box in column(left, left + 100, [0, 30, 60])]
    assert order(*boxes, characters=6) == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]


def test_two_short_columns_are_a_row():
    assert order((600, 0, 900, 20), (0, 2, 300, 22)) == [[1, 0]]


def test_no_lines():
    assert order() == []


SIDE = st.integers(0, 100)


@given(st.lists(st.tuples(SIDE, SIDE, SIDE, SIDE, st.integers(1, 50)), max_size=30))
def test_every_line_is_read_once(given):
    lines = [Line(i, (x, y, x + w, y + h), count) for i, (x, y, w, h, count) in enumerate(given)]
    assert sorted(index for row in rows_of(lines) for index in row) == list(range(len(lines)))

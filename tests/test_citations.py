"""What counts as a citation, and the marks behind numbers that no passage has."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smart_rag.citations import Marker, cited_numbers, mark_unknown, unknown_numbers


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("One [1].", [1]),
        ("Two[2][3], and [3] again", [2, 3]),
        ("[1, 3] [5;6] [ 8 , 9 ]", [1, 3, 5, 6, 8, 9]),
        ("[1-3] [5\u20136] [8 \u2014 9]", [1, 2, 3, 5, 6, 8, 9]),
        ("[1, 4-6, 9]", [1, 4, 5, 6, 9]),
        ("[1\u30013\uff0c5]", [1, 3, 5]),
        ("[3-1]", [1, 2, 3]),
        ("[1\u22123] [5 and 7] [9 & 11] [13, and 14]", [1, 2, 3, 5, 7, 9, 11, 13, 14]),
        ("[007] [0]", [0, 7]),
        ("[9?] [1, 8?]", [1, 8, 9]),
        ("[1998] [1.5] [a1] [1a] [] [,] [1,] [-1] 1] [1 (2) [1-] [1 2] [x] [1", []),
        ("[[4]] [a [5]] ([6]) [7](x.md)", [4, 5, 6, 7]),
        ("", []),
    ],
)
def test_citations(text, numbers):
    assert cited_numbers(text) == numbers


@pytest.mark.parametrize(
    ("text", "marked", "unknown"),
    [
        ("One [1] and [8].", "One [1] and [8].", []),
        ("[9]", "[9?]", [9]),
        ("[0]", "[0?]", [0]),
        ("[1, 9;3]", "[1, 9?;3]", [9]),
        ("[1 and 9]", "[1 and 9?]", [9]),
        ("[7-9] [9 - 10]", "[7-9?] [9? - 10?]", [9, 10]),
        ("9 [1998] [x9]", "9 [1998] [x9]", []),
        ("[9?] [1?]", "[9?] [1?]", [9]),
    ],
)
def test_marks(text, marked, unknown):
    assert mark_unknown(text, 8) == marked
    assert mark_unknown(marked, 8) == marked
    assert unknown_numbers(text, 8) == unknown_numbers(marked, 8) == unknown


PARTS = ["[9]", "[1, 9]", "[1-12]", "[1998]", *"[]09?,;- a\n\u2013"]
ANSWERS = st.lists(st.sampled_from(PARTS), max_size=12).map("".join)


@given(ANSWERS, st.lists(st.integers(0, 40), max_size=8), st.integers(0, 12))
def test_pieces_are_marked_like_the_whole(text, cuts, passages):
    ends = [0, *sorted(cuts), len(text)]
    pieces = [text[start:end] for start, end in pairwise(ends)]
    assert "".join(Marker(passages).mark(pieces)) == mark_unknown(text, passages)


@given(ANSWERS, st.integers(0, 12))
def test_without_its_marks_an_answer_is_what_it_was(text, passages):
    marked = mark_unknown(text, passages)
    assert marked.replace("?", "") == text.replace("?", "")
    assert cited_numbers(marked) == cited_numbers(text)
    for number in re.findall(r"\[([0-9]{1,3})\]", marked):
        assert 1 <= int(number) <= passages


def test_only_what_may_be_a_citation_is_held_back():
    marker = Marker(8)
    shown = [marker.feed(piece) for piece in ("See ", "a[", "i] and ", "[", "1", ",", "9", "]", ".", " [", "2")]
    assert shown == ["See ", "a", "[i] and ", "", "", "", "", "[1,9?]", ".", " ", ""]
    assert (marker.rest(), marker.rest()) == ("[2", "")

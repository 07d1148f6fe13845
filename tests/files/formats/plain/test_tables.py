"""Tables of text: separators are found, the header is repeated, nothing is lost."""

from __future__ import annotations

import csv
import io
import re

import pytest
from helpers.text_files import write
from hypothesis import given
from hypothesis import strategies as st

from smart_rag.files.formats.plain.tables import read_table, table_text


def table(path):
    (page,) = read_table(path)
    return page.header, page.text


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_found(tmp_path, separator):
    rows = ["name,price in €,note", '"Tee, grün",1.50,"says ""hot"""', "Kaffee,2.25,"]
    data = "\r\n".join(rows).replace(",", separator).replace(f"Tee{separator}", "Tee,")
    header, text = table(write(tmp_path / "a.csv", "\ufeff" + data))
    assert header == "name | price in € | note\n"
    assert text == 'Tee, grün | 1.50 | says "hot"\nKaffee | 2.25'


def test_a_separator_that_is_stated_is_used(tmp_path):
    assert table(write(tmp_path / "a.csv", "sep=;\na,x;b\n1,5;2\n")) == ("a,x | b\n", "1,5 | 2")
    assert table(write(tmp_path / "a.tsv", "a,x\tb,y\n1,5\t2,2\n")) == ("a,x | b,y\n", "1,5 | 2,2")


def test_text_without_columns_keeps_its_lines(tmp_path):
    assert table(write(tmp_path / "a.csv", "one\n\ntwo\nthree")) == ("one\n", "two\nthree")
    assert table(write(tmp_path / "a.csv", "only one, row")) == ("", "only one | row")


def test_a_long_header_is_not_repeated(tmp_path):
    row = ",".join(f"column {i}" for i in range(100))
    header, text = table(write(tmp_path / "a.csv", f"{row}\n1,2\n"))
    assert header == ""
    assert text.startswith("column 0 | column 1 |")


def test_a_quote_that_nothing_closes_loses_nothing(tmp_path):
    rest = "x,y\n" * 50_000  # a field of more than 128 kB
    (page,) = read_table(write(tmp_path / "a.csv", f'a,b\n1,"2\n{rest}'))
    assert page.header == "a | b\n"
    assert page.text.split("\n") == ["1 | 2", *["x | y"] * 50_000]
    assert page.left_out == ("1 quote without an end, so the row may be cut: line 2",)
    assert csv.field_size_limit() == 131072


cells = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), max_size=9)


@given(st.lists(st.lists(cells, min_size=2, max_size=4), min_size=2, max_size=6), st.sampled_from(",;\t|"))
def test_all_words_of_any_table_are_there(tmp_path_factory, rows, separator):
    written = io.StringIO()
    csv.writer(written, delimiter=separator).writerows(rows)
    path = tmp_path_factory.mktemp("table") / "a.csv"
    header, text = table(write(path, written.getvalue().encode()))
    found = header + text
    for row in rows:
        for cell in row:
            for word in re.findall(r"\w+", cell):
                assert word in found


def test_empty_rows_and_cells_at_the_end_are_left_out():
    assert table_text([[], ["a", "", "b", ""], ["", ""], ["", "1\n2"]]) == ("a |  | b\n", " | 1 2")


def test_a_cell_of_several_lines_is_closed(tmp_path):
    (page,) = read_table(write(tmp_path / "a.csv", 'a,b\n1,"2\n3"\n4,"5\n""6"""'))
    assert (page.text, page.left_out) == ('1 | 2 3\n4 | 5 "6"', ())

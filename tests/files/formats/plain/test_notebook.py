"""Notebooks: cells with the text of their outputs."""

from __future__ import annotations

import json

import pytest
from helpers.text_files import refused, write

from smart_rag.files.formats.plain.notebook import read_notebook

PRINTED = {"output_type": "stream", "name": "stdout", "text": ["42\n", "43\n"]}
VALUE = {"output_type": "execute_result", "data": {"text/plain": "DataFrame", "text/html": "<table>"}}
PICTURE = {"output_type": "display_data", "data": {"image/png": "iVBOR"}}
ERROR = {"output_type": "error", "ename": "KeyError", "evalue": "'x'", "traceback": ["\x1b[31mKeyError\x1b[0m: 'x'"]}
BARE = {"output_type": "error", "ename": "TypeError", "evalue": "no", "traceback": []}


def test_cells_are_followed_by_their_outputs(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# Pumps\n", "All of them."]},
        {"cell_type": "code", "source": "print(42)", "outputs": [PRINTED, VALUE, PICTURE, ERROR, BARE]},
        {"cell_type": "code", "source": [], "outputs": []},
    ]
    (page,) = read_notebook(write(tmp_path / "a.ipynb", json.dumps({"cells": cells, "nbformat": 4})))
    assert page.text.split("\n\n") == [
        "# Pumps\nAll of them.",
        "print(42)",
        "42\n43",
        "DataFrame",
        "KeyError: 'x'",
        "TypeError: no",
    ]
    assert page.left_out == ("1 output without text",)


def test_a_notebook_of_version_3_is_read(tmp_path):
    cells = [{"cell_type": "code", "input": ["1 + 1"], "outputs": [{"output_type": "pyout", "text": ["2"]}]}]
    (page,) = read_notebook(write(tmp_path / "a.ipynb", json.dumps({"worksheets": [{"cells": cells}], "nbformat": 3})))
    assert page.text == "1 + 1\n\n2"


@pytest.mark.parametrize("data", ["[]", "{}", '{"cells": 3}', "{", "[" * 100_000])
def test_what_is_no_notebook_is_refused(tmp_path, data):
    assert refused(write(tmp_path / "a.ipynb", data)) == "damaged, or not a notebook"


@pytest.mark.parametrize(
    ("cell", "text", "is_damaged"),
    [
        *((cell, "", True) for cell in (5, None, "x", [1], {"source": 5}, {"source": ["x", 5]})),
        *(({"source": "x", "outputs": outputs}, "x", True) for outputs in (5, [5], [{"data": 5}])),
        ({"source": "x", "outputs": [{"data": {"text/plain": 5}}]}, "x", True),
        ({"source": "x", "outputs": [{"output_type": "error", "traceback": [5]}]}, "x", True),
        ({"cell_type": "unknown", "source": "x", "outputs": None}, "x", False),
        ({"cell_type": "code", "source": None}, "", False),
        ({"cell_type": "code"}, "", False),
    ],
)
def test_a_damaged_cell_loses_no_other(tmp_path, cell, text, is_damaged):
    cells = [{"source": "before"}, cell, {"source": "after", "outputs": [PRINTED]}]
    (page,) = read_notebook(write(tmp_path / "a.ipynb", json.dumps({"cells": cells})))
    assert page.text.split("\n\n") == ["before", *[text] * bool(text), "after", "42\n43"]
    assert page.left_out == (("1 cell damaged in whole or in part: cell 2",) if is_damaged else ())

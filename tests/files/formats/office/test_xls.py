"""Sheets in the binary formats."""

from __future__ import annotations

import struct

import pytest
from helpers.ole_files import ole, xls
from helpers.text_files import refused, write

from smart_rag import IndexConfig
from smart_rag.errors import DocumentError
from smart_rag.files.formats.office.xls import read_xls
from smart_rag.files.reader import Reader
from smart_rag.files.worker import limits

pytest.importorskip("python_calamine")


def test_sheets_are_pages_with_a_header(tmp_path):
    path = xls(tmp_path / "a.xls", Drinks=[["Name", "Price"], ["Grüner Tee", 1.5], ["Kaffee", 3, True]], Empty=[])
    drinks, empty = read_xls(path)
    assert (drinks.number, drinks.header) == (1, "Drinks\nName | Price\n")
    assert drinks.text == "Grüner Tee | 1.5\nKaffee | 3 | TRUE"
    assert drinks.metadata == {"sheet": "Drinks"}
    assert (empty.number, empty.text) == (2, "")


def test_what_is_no_workbook_is_refused(tmp_path):
    assert refused(write(tmp_path / "a.xls", b"words\0\1")) == "damaged, or not a .xls file"
    assert refused(ole(tmp_path / "b.xls", {"Other": b"x"})) == "damaged, or not a .xls file"


def test_a_cell_at_the_far_end_ends_no_run(tmp_path):
    """calamine aborts the process if there is no memory for all cells. So it must be that of the worker."""
    path = xls(tmp_path / "a.xls", S=[["a", 1.5], ["b", 2]])
    data = path.read_bytes()
    last = data.rindex(b"\x03\x02\x0e\x00\x01\x00\x01\x00")
    write(path, data[: last + 4] + b"\xff\xff\xff\xff" + data[last + 8 :])
    reader = Reader({"text"}, lambda text: len(text.split()), IndexConfig())
    with pytest.raises(DocumentError), limits(file_memory=1.0):
        reader.read(path)


def test_an_encrypted_workbook_is_named_as_such(tmp_path):
    begin = struct.pack("<HHHHHHII", 0x0809, 16, 0x0600, 5, 0x0DBB, 0x07CC, 0, 6)
    password = struct.pack("<HHHHH48x", 0x002F, 54, 1, 1, 1)
    path = ole(tmp_path / "a.xls", {"Workbook": begin + password + struct.pack("<HH", 0x000A, 0)})
    assert refused(path) == "encrypted; save it without a password"
    packed = ole(tmp_path / "a.xlsb", {"EncryptedPackage": b"x"})
    assert refused(packed) == "encrypted; save it without a password"

"""Sheets in the binary formats."""

from __future__ import annotations

import struct
import zipfile

import pytest
from helpers.ole_files import ole, xls
from helpers.text_files import refused, write

from smart_rag import IndexConfig
from smart_rag.errors import DocumentError
from smart_rag.files.formats.office.sheets.xls import read_xls
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


def test_a_text_that_is_wide_by_mistake_has_no_nuls(tmp_path):
    (sheet,) = read_xls(xls(tmp_path / "a.xls", S=[["G\0r\0ü\0n\0"]]))
    assert sheet.text == "Grün"


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


def _xlsb(path, **sheets):
    """Write a .xlsb with these sheets: one cell with a text, a chart if the text is None, or any bytes of a part."""

    def record(kind, data=b""):
        code = bytes([kind]) if kind < 128 else bytes([kind & 127 | 128, kind >> 7])
        return code + bytes([len(data)]) + data

    def wide(text):
        return struct.pack("<I", len(text)) + text.encode("utf-16-le")

    bundle, relations = b"", ""
    with zipfile.ZipFile(path, "w") as archive:
        for number, (name, text) in enumerate(sheets.items(), 1):
            folder = "chartsheets" if text is None else "worksheets"
            bundle += record(156, struct.pack("<II", 0, number) + wide(f"rId{number}") + wide(name))
            relations += (
                f'<Relationship Id="rId{number}" Type="http://schemas.openxmlformats.org/officeDocument/2006/'
                f'relationships/{folder[:-1]}" Target="{folder}/sheet{number}.bin"/>'
            )
            part = record(129) + record(148, bytes(16)) + record(145) + record(0, struct.pack("<I", 0))
            part += record(6, bytes(8) + wide(str(text))) + record(146) + record(130)
            part = text if isinstance(text, bytes) else record(129) if text is None else part
            archive.writestr(f"xl/{folder}/sheet{number}.bin", part)
        archive.writestr("xl/workbook.bin", record(131) + record(143) + bundle + record(144) + record(132))
        archive.writestr("xl/_rels/workbook.bin.rels", f"<Relationships>{relations}</Relationships>")
    return path


def test_a_chart_or_a_damaged_sheet_costs_no_other_sheet(tmp_path):
    path = _xlsb(tmp_path / "a.xlsb", First="Grüner Tee", Chart=None, Cut=b"\x81\x01", Last="Kaffee")
    first, chart, cut, last = read_xls(path)
    assert (first.text, last.text, last.number) == ("Grüner Tee", "Kaffee", 4)
    assert (chart.text, chart.left_out) == ("", ("a chart, which is not read",))
    assert cut.text == ""
    assert cut.left_out[0].startswith("cannot be read (")

"""Word documents: paragraphs and tables are read in their order, broken files are refused."""

from __future__ import annotations

import re
import sys
import zipfile

import pytest
from helpers.hostile_files import wide_table
from helpers.text_files import refused, text_of, word_file, write

from smart_rag.errors import MissingExtra
from smart_rag.files.formats.office import read_docx


def test_a_docx_gives_paragraphs_and_tables_in_their_order(tmp_path):
    assert text_of(word_file(tmp_path / "a.docx")).split("\n\n") == [
        "Spare parts",
        "They are kept in the workshop.",
        "part | drawer",
        "bearing | four",
        "Ask Tobias for the key.",
    ]


@pytest.mark.parametrize("columns", [2, 30_000_000])
def test_a_cell_over_many_columns_is_read_once(tmp_path, columns):
    """In a second, and in the memory of a small file."""
    assert text_of(wide_table(tmp_path / "a.docx", columns)) == "Before.\n\nwide | narrow\n\nAfter."


def test_merged_cells_are_read_once(tmp_path):
    import docx

    made = docx.Document()
    table = made.add_table(3, 3)
    for i in range(9):
        table.cell(i // 3, i % 3).text = f"cell {i}"
    table.cell(0, 0).merge(table.cell(0, 1)).text = "two columns"
    table.cell(0, 2).merge(table.cell(2, 2)).text = "three rows"
    made.save(str(tmp_path / "a.docx"))
    assert text_of(tmp_path / "a.docx").split("\n\n") == [
        "two columns | three rows",
        "cell 3 | cell 4",
        "cell 6 | cell 7",
    ]


def test_what_is_no_word_file_is_refused(tmp_path):
    reason = "damaged, or not a .docx file"
    assert refused(write(tmp_path / "a.docx", b"not a zip")) == reason
    sound = word_file(tmp_path / "sound.docx").read_bytes()
    assert refused(write(tmp_path / "cut.docx", sound[: len(sound) // 2])) == reason
    with zipfile.ZipFile(tmp_path / "other.docx", "w") as other:
        other.writestr("hello.txt", "a zip of something else")
    assert refused(tmp_path / "other.docx") == reason


@pytest.mark.parametrize("damage", ["deflate", "xml", "no body"])
def test_a_damaged_word_file_is_refused(tmp_path, damage):
    path = word_file(tmp_path / "a.docx")
    data = path.read_bytes()
    if damage == "deflate":  # within the compressed bytes of the first member
        path.write_bytes(data[:100] + b"\xff" * 300 + data[400:])
    else:
        with zipfile.ZipFile(path) as sound:
            members = {name: sound.read(name) for name in sound.namelist()}
        main = members["word/document.xml"]
        members["word/document.xml"] = main[:50] if damage == "xml" else re.sub(rb"(?s)<w:body>.*</w:body>", b"", main)
        with zipfile.ZipFile(path, "w") as damaged:
            for name, member in members.items():
                damaged.writestr(name, member)
    assert "damaged, or not a .docx file" in refused(path)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    path = word_file(tmp_path / "a.docx")
    monkeypatch.setitem(sys.modules, "docx", None)
    with pytest.raises(MissingExtra, match=r"reading a.docx needs the package 'python-docx'.*smart-rag\[docx\]"):
        list(read_docx(path))

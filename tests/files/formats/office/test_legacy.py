"""Word and PowerPoint files of before 2007: pieces of text, slides of the last version, and what is encrypted."""

from __future__ import annotations

import contextlib
import struct

import pytest
from helpers.office_files import docx, p
from helpers.ole_files import doc, ole, ppt
from helpers.text_files import refused, text_of, write

from smart_rag.errors import DocumentError
from smart_rag.files.formats.office.legacy import read_doc, read_ppt

pytest.importorskip("olefile")


def test_pieces_of_one_and_of_two_bytes_are_read(tmp_path):
    assert text_of(doc(tmp_path / "a.doc", "Café\rThe ", "pump Żółć", " ends.\r")) == "Café\n\nThe pump Żółć ends."
    assert text_of(doc(tmp_path / "b.doc", "Other table", flags=0x200)) == "Other table"
    assert text_of(doc(tmp_path / "c.doc", "Word 95\r", version=104)) == "Word 95"


def test_word_95_does_not_say_its_code_page(tmp_path):
    words = ["ВИНА", "БЕЛЫЕ", "Наименование", "продукции", "Тип", "бутылки"]
    russian = text_of(doc(tmp_path / "a.doc", "\x07\x07".join([*words, *[""] * 5]), version=104, encoding="cp1251"))
    assert russian.split() == words
    assert text_of(doc(tmp_path / "b.doc", "Fax number\r", version=104, encoding="utf-16-le")) == "Fax number"


def test_control_characters_are_read_as_they_are_shown(tmp_path):
    field = "See \x13 REF \x13 x \x14y\x15 \x14the \x13 HYPERLINK \x14page\x15\x15."
    assert text_of(doc(tmp_path / "a.doc", f"{field}\ra\x07b\x07\x07c\x07\x07No\x1ebreak\x0bline\x01\x1f\r")) == (
        "See the page.\n\na | b\n\nc\n\nNo-break\nline"
    )


def test_a_newer_file_with_an_older_suffix_is_read(tmp_path):
    assert text_of(docx(tmp_path / "a.doc", p("newer"))) == "newer"
    assert text_of(write(tmp_path / "b.doc", r"{\rtf1 rich}")) == "rich"


def test_slides_of_the_last_version_are_pages(tmp_path):
    assert [(page.number, page.text, page.left_out) for page in read_ppt(ppt(tmp_path / "a.ppt"))] == [
        (1, "First\ntitle\n\nIn a shape", ()),
        (2, "Second\n\nSay this.", ()),
    ]


def test_a_file_for_powerpoint_95_is_read_if_it_is_for_97_too(tmp_path):
    both = read_ppt(ppt(tmp_path / "a.ppt", folder="PP97_DUALSTORAGE/"))
    assert [page.text for page in both] == ["First\ntitle\n\nIn a shape", "Second\n\nSay this."]
    reason = "a presentation of PowerPoint 95 or older, which is not read; save it as .pptx"
    assert refused(ole(tmp_path / "b.ppt", {"PP40": b"x"})) == reason


def test_without_the_list_of_slides_all_text_is_one_page(tmp_path):
    (page,) = read_ppt(ppt(tmp_path / "a.ppt", broken=True))
    assert page.text.split("\n\n") == ["An earlier version", "In a shape", "Say this.", "First\ntitle", "Second"]
    assert page.left_out == ("the numbers of the slides, because the list of them is damaged",)


def test_what_is_encrypted_is_named_as_such(tmp_path):
    reason = "encrypted; save it without a password"
    assert refused(doc(tmp_path / "a.doc", "x", flags=0x100)) == reason
    assert refused(ppt(tmp_path / "a.ppt", encrypted=True)) == reason
    assert refused(ole(tmp_path / "b.doc", {"EncryptedPackage": b"x"})) == reason


@pytest.mark.parametrize("suffix", [".doc", ".ppt"])
def test_what_is_no_such_file_is_refused(tmp_path, suffix):
    assert "damaged, or not a" in refused(write(tmp_path / f"a{suffix}", b"words\0\1"))
    empty = refused(ole(tmp_path / f"b{suffix}", {"Other": b"x"}))
    assert "damaged, or not a" in empty or "no text in it" in empty


def test_text_beyond_the_end_of_the_file_is_counted(tmp_path):
    path = doc(tmp_path / "a.doc", "All words that are left. ")
    data = path.read_bytes()
    write(path, data.replace(struct.pack("<II", 0, 25), struct.pack("<II", 0, 50_000)))
    (page,) = read_doc(path)
    assert page.text.startswith("All words that are left.")
    assert page.left_out == ("46,928 characters that the file does not hold",)


@pytest.mark.parametrize("place", range(0, 120, 3))
def test_a_damaged_list_of_pieces_ends_no_run(tmp_path, place):
    path = doc(tmp_path / "a.doc", "words", "of", "pieces")
    data = bytearray(path.read_bytes())
    table = data.index(b"\x01\x02\x00ab\x02")
    struct.pack_into("<I", data, table + place % 60, 0xFFFFFF00 + place)
    write(path, bytes(data))
    with contextlib.suppress(DocumentError):
        text_of(path)

"""Books: chapters in the order of the spine, whatever is wrong with one of them."""

from __future__ import annotations

import pytest
from helpers.office_files import archive, epub, replaced
from helpers.text_files import refused

from smart_rag.files.formats.office.epub import read_epub

XHTML = (
    '<?xml version="1.0" encoding="UTF-8"?><html xmlns="http://www.w3.org/1999/xhtml">'
    "<head><title/></head><body>{}</body></html>"
)


def test_chapters_are_read_in_the_order_of_the_spine(tmp_path):
    first, second, end = read_epub(epub(tmp_path / "a.epub", XHTML.format("<p>Zwei&nbsp;&amp; Ende</p>"), "<p>Eins"))
    assert (first.text, second.text) == ("Eins", "Zwei\xa0& Ende")
    assert first.metadata == {"title": "Boats", "author": "T. Reed"}
    assert (first.number, end.text, end.left_out) == (None, "", ())


def test_an_encrypted_chapter_does_not_lose_the_others(tmp_path):
    reference = '<encryption><CipherReference URI="OPS/text/c%200.xhtml"/></encryption>'
    sound, end = read_epub(epub(tmp_path / "a.epub", "\x03\x04", "<p>Sound</p>", encryption=reference))
    assert sound.text == "Sound"
    assert end.left_out == ("the chapter 'OPS/text/c 0.xhtml' cannot be read (encrypted)",)


@pytest.mark.parametrize("content", [None, b"", b"garbage", b"\0\1\2"])
def test_a_damaged_chapter_or_list_of_chapters_loses_no_other(tmp_path, content):
    chapters = replaced(epub(tmp_path / "a.epub", "<p>A", "<p>B", "<p>C"), "OPS/text/c 1.xhtml", content)
    assert [page.text for page in read_epub(chapters) if page.text not in ("", "garbage")] == ["C", "A"]
    listed = replaced(epub(tmp_path / "b.epub", "<p>A", "<p>B", "<p>C"), "OPS/book.opf", content)
    *pages, end = read_epub(listed)
    assert [page.text for page in pages] == ["A", "B", "C"]
    assert end.left_out[0].startswith("the part 'OPS/book.opf' cannot be read (")


def book_of(path, spine):
    items = '<item id="c1" href="one.xhtml"/><item id="c2" href="two.xhtml#part"/>'
    return archive(
        path,
        {
            "META-INF/container.xml": '<container><rootfiles><rootfile full-path="b.opf"/></rootfiles></container>',
            "b.opf": f"<package><manifest>{items}</manifest><spine>{spine}</spine></package>",
            "one.xhtml": XHTML.format("<p>One</p>"),
            "two.xhtml": XHTML.format("<p>Two</p>"),
        },
    )


def test_a_chapter_without_a_file_is_named(tmp_path):
    first, second, end = read_epub(
        book_of(tmp_path / "a.epub", '<itemref idref="c2"/><itemref idref="C1"/><itemref idref="c1"/>')
    )
    assert (first.text, second.text) == ("Two", "One")
    assert end.left_out == ("the chapter 'C1' cannot be read (the book does not say which file it is)",)
    (end,) = read_epub(book_of(tmp_path / "b.epub", "".join(f'<itemref idref="x{i}"/>' for i in range(50))))
    assert len(end.left_out) == 21
    assert end.left_out[-1] == "30 more chapters without a file"


def test_a_chapter_is_read_once(tmp_path):
    first, end = read_epub(book_of(tmp_path / "a.epub", '<itemref idref="c1"/>' * 100_000))
    assert (first.text, end.text, end.left_out) == ("One", "", ())


def test_what_is_no_book_is_refused(tmp_path):
    reason = "damaged, or not a .epub file (it has no part 'META-INF/container.xml')"
    assert refused(archive(tmp_path / "a.epub", {"a.txt": "words"})) == reason

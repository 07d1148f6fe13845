"""Fonts of PDFs that do not say which letters their glyphs are."""

from __future__ import annotations

import re

from helpers.odd_files import CATALOG, FONT, PAGES, lines, page, raw_pdf, stream
from helpers.text_files import refused, write
from hypothesis import given
from hypothesis import strategies as st

from smart_rag import IndexConfig
from smart_rag.files.formats.pdf import NO_LETTERS, SOME_LETTERS, read_pdf
from smart_rag.files.formats.pdf_fonts import _glyph_names
from smart_rag.files.reader import Reader
from smart_rag.types import PdfPage


def texts(tmp_path, data):
    return [page.text for page in read_pdf(write(tmp_path / "a.pdf", data))]


TYPE_3 = (
    b"<</Type/Font/Subtype/Type3/FontBBox[0 0 1000 1000]/FontMatrix[.001 0 0 .001 0 0]/CharProcs<</g 7 0 R>>"
    b"/Encoding<</Type/Encoding/Differences[1%s]>>/FirstChar 1/LastChar 120/Widths[%s]>>"
) % (b"/g" * 120, b"500 " * 120)


def with_type_3(content):
    drawn = stream(b"500 0 d0 0 0 400 400 re f")
    font = page().replace(b"/F 5 0 R", b"/F 5 0 R/G 6 0 R")
    return raw_pdf(CATALOG, PAGES, font, stream(content), FONT, TYPE_3, drawn)


GLYPHS = rb"BT /G 8 Tf 10 20 Td (\001\002\003\004\005 \006\016\017\020\021\022\023\024 ABC \025\026\027\030\031) Tj ET "


def test_no_rubbish_is_read_from_a_font_without_letters(tmp_path):
    (found,) = read_pdf(write(tmp_path / "a.pdf", with_type_3(GLYPHS)))
    assert found.text.strip() == ""
    assert found.left_out == (NO_LETTERS,)
    assert refused(tmp_path / "a.pdf") == NO_LETTERS
    reader = Reader(("text", "image"), lambda text: len(text.split()), IndexConfig())
    (document,) = reader.read(tmp_path / "a.pdf").documents
    assert document.image == PdfPage(tmp_path / "a.pdf", 1)


def test_other_fonts_of_the_page_are_read(tmp_path):
    (found,) = read_pdf(write(tmp_path / "a.pdf", with_type_3(GLYPHS + lines("A heading of the page"))))
    assert found.text.strip() == "A heading of the page"
    assert found.left_out == (SOME_LETTERS,)


def test_ligatures_of_tex_are_letters(tmp_path):
    content = (
        rb"BT /G 4 Tf 10 20 Td (the \014rst e\013ect of o\016ces is di\013erent, but the re\014nement is small) Tj ET"
    )
    (found,) = read_pdf(write(tmp_path / "a.pdf", with_type_3(content)))
    assert found.text == "the first effect of offices is different, but the refinement is small"
    assert found.left_out == ()


def cff_list(*items):
    offsets = [1]
    for item in items:
        offsets.append(offsets[-1] + len(item))
    return len(items).to_bytes(2, "big") + b"\2" + b"".join(o.to_bytes(2, "big") for o in offsets) + b"".join(items)


def cff_font(*names):
    """Return a font in the format CFF: a small square for each glyph of these names."""
    number = lambda value: b"\x1d" + value.to_bytes(4, "big")  # noqa: E731
    glyph = bytes([139, 239, 14])  # 0 100 endchar: it draws nothing, and has a width
    strings, glyphs = cff_list(*names), cff_list(*[glyph] * (len(names) + 1))
    charset = b"\0" + b"".join((391 + i).to_bytes(2, "big") for i in range(len(names)))
    private = bytes([139, 20])

    def with_places(charset_at, glyphs_at, private_at):
        top = (
            number(charset_at)
            + b"\x0f"
            + number(glyphs_at)
            + b"\x11"
            + number(len(private))
            + number(private_at)
            + b"\x12"
        )
        return b"\1\0\4\2" + cff_list(b"Old") + cff_list(top) + strings + cff_list()[:2]

    start = len(with_places(0, 0, 0))
    places = (start, start + len(charset), start + len(charset) + len(glyphs))
    return with_places(*places) + charset + glyphs + private


def with_named_glyphs(content, *differences, other=b""):
    return raw_pdf(
        CATALOG,
        PAGES,
        page(),
        stream(content),
        b"<</Type/Font/Subtype/Type1/BaseFont/Old/FontDescriptor 6 0 R/Encoding 7 0 R"
        b"/FirstChar 1/LastChar 40/Widths[%s]>>" % (b"600 " * 40),
        b"<</Type/FontDescriptor/FontName/Old/Flags 4/FontBBox[0 0 1000 1000]/ItalicAngle 0/Ascent 800/Descent 0"
        b"/CapHeight 700/StemV 80/FontFile3 8 0 R>>",
        b"<</Type/Encoding/Differences[1 %s]>>" % b" ".join(b"/" + name for name in differences),
        stream(cff_font(*sorted(set(differences))), b"/Subtype/Type1C"),
        b"<</Type/Encoding/Differences[%s]>>" % other,
    )


NAMES = (b"G50", b"G75", b"G6D", b"G70", b"G20", b"G68", b"G6F", b"G73", b"G65", b"G93")
SHOWN = rb"BT /F 12 Tf 10 40 Td (\012\001\002\003\004\005\006\007\002\010\011) Tj ET"


def test_glyphs_that_are_named_by_codes_are_letters(tmp_path):
    (found,) = read_pdf(write(tmp_path / "a.pdf", with_named_glyphs(SHOWN, *NAMES)))
    assert found.text == "\u201cPump house"
    assert found.left_out == ()


def test_two_fonts_of_the_same_glyphs_are_not_mixed_up(tmp_path):
    other = b"1 " + b" ".join(b"/" + name for name in reversed(NAMES))
    (found,) = read_pdf(write(tmp_path / "a.pdf", with_named_glyphs(SHOWN, *NAMES, other=other)))
    assert found.text.strip() == ""
    assert found.left_out == (NO_LETTERS,)


@given(st.binary(max_size=80))
def test_a_broken_font_has_no_named_glyphs(noise):
    sound = cff_font(*NAMES)
    for font in (noise, b"\1\0\4\2" + noise, sound[: len(noise)] + noise, sound[: len(sound) - len(noise)]):
        assert _glyph_names(font) <= {*NAMES, *re.findall(rb"(?s)(?=(G[0-9A-F]{2}(?:\._)?))", font)}

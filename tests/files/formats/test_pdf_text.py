"""Text of PDF pages: whole words, no rubbish, what forms and notes show, and what the report says is missing."""

from __future__ import annotations

import logging
import re
from collections import Counter

import numpy as np
import pypdfium2
import pytest
from fpdf import FPDF
from helpers.odd_files import CATALOG, FONT, PAGES, one_page, page, raw_pdf, stream
from helpers.text_files import refused, write
from hypothesis import given
from hypothesis import strategies as st

from smart_rag import IndexConfig
from smart_rag.files.formats.page import Page
from smart_rag.files.formats.pdf import NO_LETTERS, NO_TEXT, SOME_LETTERS, XFA, Pdf, read_pdf
from smart_rag.files.formats.pdf import SCAN as COVERED
from smart_rag.files.formats.pdf_fonts import _glyph_names
from smart_rag.files.formats.pdf_text import HYPHEN, Layer, joined
from smart_rag.files.reader import Reader, survey
from smart_rag.types import PdfPage


def lines(*texts):
    """Return the content of a page with these lines."""
    shown = b"".join(b"(%s) Tj T* " % text.encode("latin-1") for text in texts)
    return b"BT /F 12 Tf 10 TL 10 80 Td %sET" % shown


def pages_of(*contents):
    """Return a PDF with a page for each content stream."""
    kids = b" ".join(b"%d 0 R" % (4 + 2 * i) for i in range(len(contents)))
    objects = [CATALOG, b"<</Type/Pages/Kids[%s]/Count %d>>" % (kids, len(contents)), FONT]
    for i, content in enumerate(contents):
        objects += [page(contents=b"/Contents %d 0 R" % (5 + 2 * i)).replace(b"/F 5 0 R", b"/F 3 0 R"), stream(content)]
    return raw_pdf(*objects)


def texts(tmp_path, data):
    return [page.text for page in read_pdf(write(tmp_path / "a.pdf", data))]


# --- words that are broken at the end of a line ------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "whole"),
    [
        (("the reauthori-", "zation of it"), "the reauthorization of it"),
        (("the free-", "software movement"), "the free-software movement"),
        (("state-of-the-", "art work"), "state-of-the-art work"),
        (("an Anglo-", "Saxon law"), "an Anglo-Saxon law"),
        (("a language-", "independent tool"), "a language-independent tool"),
        (("an inter-", "dependent pair"), "an interdependent pair"),
    ],
)
def test_a_broken_word_is_joined_as_a_reader_would(tmp_path, broken, whole):
    (text,) = texts(tmp_path, pages_of(lines(*broken)))
    assert text.split() == whole.split()


def test_what_pdfium_gives_for_a_hyphen_at_the_end_of_a_line(tmp_path):
    """Each supported version gives two characters for it. If this fails, `pdf_text` must learn a third one."""
    path = write(tmp_path / "a.pdf", pages_of(lines("the reauthori-", "zation")))
    with pypdfium2.PdfDocument(path) as document:
        layer = document[0].get_textpage()
        assert "reauthori\x02zation" in layer.get_text_bounded()
        assert "reauthori\ufffezation" in layer.get_text_range()


def test_pages_nearby_say_whether_a_word_has_a_hyphen(tmp_path):
    broken = lines("a trace-", "compilation and a co-", "operation")
    found = texts(tmp_path, pages_of(lines("trace-compilation"), broken, lines("nothing"), lines("co-operation")))
    assert found[1].split() == ["a", "trace-compilation", "and", "a", "co-operation"]
    far = [lines("nothing")] * 3
    found = texts(tmp_path, pages_of(lines("trace-compilation"), *far, broken))
    assert found[-1].split() == ["a", "tracecompilation", "and", "a", "cooperation"]


def test_a_character_that_takes_two_in_utf_16(tmp_path):
    """pdfium counts it once, and writes it as two."""
    names = b"/CIDInit/ProcSet findresource begin begincmap 1 begincodespacerange <00><ff> endcodespacerange"
    to_unicode = names + b" 1 beginbfchar <24> <D83DDE00> endbfchar endcmap end"
    font = FONT.replace(b">>", b"/ToUnicode 6 0 R>>")
    content = stream(lines("a $ of the reauthori-", "zation, a pump"))
    path = write(tmp_path / "a.pdf", raw_pdf(CATALOG, PAGES, page(), content, font, stream(to_unicode)))
    with Pdf(path) as pdf:
        assert pdf.text(1).split() == ["a", "\U0001f600", "of", "the", "reauthorization,", "a", "pump"]
        start = pdf.text(1).index("pump")
        ((box,), (first, second)) = pdf.boxes(1, [(start, start + 4), (start - 18, start - 3)])
    assert box[0] > second[2] > second[0]
    assert first[3] <= second[1] == pytest.approx(box[1], abs=0.03)


def test_a_word_is_the_same_whichever_page_is_read_first(tmp_path):
    """The index and the highlights read a page at different times."""
    contents = [lines(f"page {i} with a pump-", f"house and pump{'-' if i % 3 else ''}house") for i in range(12)]
    path = write(tmp_path / "a.pdf", pages_of(*contents))
    expected = [page.text for page in read_pdf(path)]
    with Pdf(path) as pdf:
        assert [pdf.text(number) for number in range(12, 0, -1)] == expected[::-1]


def test_a_broken_word_has_a_box_in_both_lines(tmp_path):
    path = write(tmp_path / "a.pdf", pages_of(lines("the reauthori-", "zation of a plan")))
    with Pdf(path) as pdf:
        text = pdf.text(1)
        start, plan = text.index("reauthorization"), text.index("plan")
        (first, second), (other,) = pdf.boxes(1, [(start, start + len("reauthorization")), (plan, plan + 4)])
        assert pdf.boxes(1, [(3, 3)]) == [[]]
    assert first[1] < first[3] <= second[3]
    assert first[0] > second[0]  # the second line begins at the left
    assert second[2] < other[0]
    assert other[1] == pytest.approx(second[1], abs=0.03)


@given(
    st.text(st.sampled_from(f"abA1- \n{HYPHEN}"), max_size=30),
    st.dictionaries(st.text("ab-", max_size=5), st.integers(1, 3)),
)
def test_joining_loses_no_character_and_no_place(text, words):
    layer = joined(Layer(text, range(len(text))), lambda: Counter(words))
    assert HYPHEN not in layer.text
    assert len(layer.places) == len(layer.text)
    assert list(layer.places) == sorted(layer.places)
    kept = [text[place] for place in layer.places if text[place] != HYPHEN]
    assert kept == [character for character in text if character != HYPHEN]
    assert all(c == text[place] or text[place] == HYPHEN for c, place in zip(layer.text, layer.places, strict=True))


# --- forms and notes -----------------------------------------------------------------------------


def with_annotation(entries, appearance, acroform=b""):
    look = b"/Type/XObject/Subtype/Form/BBox[0 0 180 20]/Resources<</Font<</F 5 0 R>>>>"
    return raw_pdf(
        b"<</Type/Catalog/Pages 2 0 R%s>>" % acroform,
        PAGES,
        page(entries=b"/Annots[6 0 R]"),
        stream(lines("Name of owner:")),
        FONT,
        b"<</Type/Annot%s/F 4/Rect[10 20 190 40]/AP<</N 7 0 R>>>>" % entries,
        stream(appearance, look),
    )


FIELD = with_annotation(
    b"/Subtype/Widget/FT/Tx/T(name)/V(Maria Example)/DA(/F 12 Tf)",
    b"/Tx BMC BT /F 12 Tf 2 5 Td (Maria Example) Tj ET EMC",
    b"/AcroForm<</Fields[6 0 R]/DR<</Font<</F 5 0 R>>>>>>",
)
NOTE = with_annotation(b"/Subtype/FreeText/Contents(x)", b"BT /F 12 Tf 2 5 Td (Maria Example) Tj ET")
STAMP = with_annotation(b"/Subtype/Stamp", b"BT /F 12 Tf 2 5 Td (Maria Example) Tj ET")


@pytest.mark.parametrize("data", [FIELD, NOTE, STAMP])
def test_fields_notes_and_stamps_are_read(tmp_path, data):
    path = write(tmp_path / "a.pdf", data)
    with Pdf(path) as pdf:
        before = pdf.render(1, 20_000).tobytes()
        assert pdf.text(1).split("\n") == ["Name of owner:", "Maria Example"]
        ((box,),) = pdf.boxes(1, [(pdf.text(1).index("Maria"), pdf.text(1).index("Maria") + 5)])
        assert 0.6 < box[1] < box[3] < 0.8
        assert pdf.render(1, 20_000).tobytes() == before
    assert path.read_bytes() == data


def test_a_hidden_note_is_not_read(tmp_path):
    assert texts(tmp_path, NOTE.replace(b"/F 4", b"/F 2")) == ["Name of owner:"]


@pytest.mark.parametrize("subtype", [b"FreeText", b"Text", b"Highlight", b"StrikeOut", b"Square", b"Caret"])
def test_notes_that_are_not_drawn_are_read_once(tmp_path, subtype):
    note = b"/Annots[<</Type/Annot/Subtype/%s/F 4/Rect[10 20 190 40]/Contents(%s)>>]"
    for contents, more in ((b"Ask Tobias\\rfor the key", "\n\nAsk Tobias\nfor the key"), (b"A few words", "")):
        path = write(tmp_path / "a.pdf", one_page(entries=note % (subtype, contents)))
        with Pdf(path) as pdf:
            before = pdf.render(1, 20_000).tobytes()
            text = pdf.text(1)
            assert text == "A few words" + more
            drawn, noted = pdf.boxes(1, [(0, 5), (len(text) - 3, len(text))])
            assert len(drawn) == 1
            assert len(noted) == (0 if more else 1)
            assert pdf.render(1, 20_000).tobytes() == before
            assert pdf.text(1) == text


@pytest.mark.parametrize(
    "hidden", [b"/Subtype/Link/F 4", b"/Subtype/Popup/F 4", b"/Subtype/Text/F 2", b"/Subtype/Text/F 32"]
)
def test_what_no_reader_shows_of_notes_is_not_read(tmp_path, hidden):
    note = b"/Annots[<</Type/Annot%s/Rect[10 20 190 40]/Contents(Ask Tobias)>>]" % hidden
    assert texts(tmp_path, one_page(entries=note)) == ["A few words"]


def test_embedded_files_are_named(tmp_path):
    made = FPDF()
    made.add_page()
    made.set_font("Helvetica", size=12)
    made.cell(text="A cover sheet")
    for name in ("first.txt", "second.txt"):
        write(tmp_path / name, "embedded words")
    made.embed_file(tmp_path / "first.txt")
    made.file_attachment_annotation(tmp_path / "second.txt", 20, 20)
    first, last = read_pdf(write(tmp_path / "a.pdf", bytes(made.output())))
    assert first.text == "A cover sheet"
    assert last == Page("", left_out=("2 embedded files not read: first.txt, second.txt",))


def test_a_scan_with_a_note_is_still_a_scan(tmp_path):
    picture = b"q 100 0 0 100 0 0 cm BI /W 1 /H 1 /BPC 8 /CS /G ID \x80 EI Q"
    note = b"/Annots[<</Type/Annot/Subtype/Text/F 4/Rect[10 20 190 40]/Contents(Ask Tobias)>>]"
    data = raw_pdf(CATALOG, PAGES, page(entries=note), stream(picture), FONT)
    (found,) = read_pdf(write(tmp_path / "a.pdf", data))
    assert found.text == "Ask Tobias"
    assert found.left_out == (NO_TEXT,)


def test_an_xfa_form_is_named_and_not_logged(tmp_path, caplog):
    data = FIELD.replace(b"/AcroForm<<", b"/NeedsRendering true/AcroForm<</XFA 8 0 R").replace(
        b"xref\n0 ", b"8 0 obj\n" + stream(b"<xdp:xdp xmlns:xdp='http://ns.adobe.com/xdp/'/>") + b"\nendobj\nxref\n0 "
    )
    with caplog.at_level(logging.DEBUG):
        pages = list(read_pdf(write(tmp_path / "a.pdf", data)))
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []
    assert pages[-1] == Page("", left_out=(XFA,))


# --- pages that cannot be read, and pages without text --------------------------------------------


def read(path, *modalities):
    return Reader(modalities, lambda text: len(text.split()), IndexConfig()).read(path)


def bad_page(tmp_path):
    data = pages_of(lines("Page one."), b"", lines("Page three."), lines("Page four."))
    return write(tmp_path / "a.pdf", data.replace(b"[4 0 R 6 0 R", b"[4 0 R 9 9 R"))


@pytest.mark.parametrize("modalities", [("text",), ("text", "image")])
def test_one_bad_page_does_not_lose_the_others(tmp_path, modalities):
    path = bad_page(tmp_path)
    found = read(path, *modalities)
    assert [(d.metadata["page"], d.text) for d in found.documents] == [
        (1, "Page one."),
        (3, "Page three."),
        (4, "Page four."),
    ]
    assert found.left_out == ["page 2: cannot be read"]
    assert next(page for page in read_pdf(path) if page.number == 2) == Page("", 2, left_out=("cannot be read",))


def test_a_file_without_a_readable_page_is_refused(tmp_path):
    path = write(tmp_path / "a.pdf", pages_of(b"").replace(b"[4 0 R]", b"[9 9 R]"))
    assert refused(path) == "no text in it (cannot be read)"


SCAN = b"q 50 0 0 50 10 10 cm BI /W 1 /H 1 /BPC 8 /CS /G ID \x00 EI Q"


def test_pages_without_text_are_counted(tmp_path):
    path = write(tmp_path / "a.pdf", pages_of(SCAN, lines("words"), SCAN, SCAN, b"", SCAN))
    found = read(path, "text")
    assert [d.metadata["page"] for d in found.documents] == [2]
    assert found.left_out == [f"4 of 6 pages (1, 3-4, 6): {NO_TEXT}"]
    assert read(path, "text", "image").left_out == []  # the model sees them
    assert len(read(path, "text", "image").documents) == 6


def picture(left, bottom, width, height):
    return b"q %d 0 0 %d %d %d cm BI /W 1 /H 1 /BPC 8 /CS /G ID \x00 EI Q " % (width, height, left, bottom)


@pytest.mark.parametrize(
    ("content", "is_scan"),
    [
        (b"".join(picture(0, 5 * i, 200, 5) for i in range(20)) + lines("Case 12"), True),  # strips of a scanner
        (picture(0, 0, 95, 100) + picture(105, 0, 95, 100) + lines("Page 3"), True),  # two pages on one sheet
        (picture(0, 0, 200, 100) + lines("A photograph of the boat house", "seen from the pier"), True),
        (picture(0, 0, 200, 50) + lines("Figure 1"), False),
        (picture(0, 0, 200, 100) + lines("Case 12").replace(b"BT", b"BT 3 Tr"), False),  # recognised
        (lines("No picture"), False),
    ],
)
def test_a_little_text_on_pictures_of_the_page_is_said(tmp_path, content, is_scan):
    path = write(tmp_path / "a.pdf", pages_of(content))
    assert [phrase == COVERED for (page,) in [list(read_pdf(path))] for phrase in page.left_out] == [True] * is_scan


def test_recognised_text_that_is_not_found_is_said(tmp_path):
    """As a Chinese layer of a scan whose font is not in the file. Most of its texts have no character at all."""
    found = b"".join(b"BT 3 Tr /F 4 Tf 10 %d Td (line %d that is found) Tj ET " % (90 - 4 * i, i) for i in range(20))
    lost = b"".join(b"BT 3 Tr /F 4 Tf 120 %d Td (\\000) Tj ET " % (99 - 3 * i) for i in range(30))
    (page,) = read_pdf(write(tmp_path / "a.pdf", pages_of(picture(0, 0, 200, 100) + found + lost)))
    assert "found" in page.text
    assert page.left_out == (COVERED,)
    (page,) = read_pdf(write(tmp_path / "b.pdf", pages_of(picture(0, 0, 200, 100) + found)))
    assert page.left_out == ()


def test_a_scan_is_refused_with_what_to_do(tmp_path):
    path = write(tmp_path / "a.pdf", pages_of(SCAN, SCAN))
    assert refused(path) == "no text in it (a scan needs ocr, or a model that reads page images)"
    assert refused(write(tmp_path / "a.txt", b" \n ")) == "no text in it"


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
    (document,) = read(tmp_path / "a.pdf", "text", "image").documents
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


def test_what_lies_beside_the_page_is_not_read(tmp_path):
    data = pages_of(lines("on the page") + b" BT /F 12 Tf 500 40 Td (off the page) Tj ET")
    assert [text.strip() for text in texts(tmp_path, data)] == ["on the page"]


def test_a_page_that_lies_outside_of_itself_is_shown_whole_and_named(tmp_path):
    """Also to a model that sees the page."""
    outside = write(tmp_path / "a.pdf", inheriting(b"/MediaBox[0 0 900 850]", b"/CropBox[2000 2000 2100 2100]"))
    (left_out,) = survey(outside, ("text", "image")).left_out
    assert left_out == "page 1: its CropBox lies outside of its MediaBox, so all of it is shown"
    assert survey(outside, ("text",)).left_out == (left_out,)
    inside = write(tmp_path / "b.pdf", inheriting(b"/MediaBox[0 0 900 850]"))
    assert survey(inside, ("text", "image")).left_out == ()


LINK = b"/Annots[<</Type/Annot/Subtype/Link/Rect[10 10 60 30]/A<</S/URI/URI(http://example.org)>>>>]"


def inheriting(pages, entries=LINK):
    """Return a PDF whose page has ``entries`` and takes its boxes from ``pages``, with a word in every corner."""
    corners = ((b"high", 50, 820), (b"right", 800, 300), (b"low", 50, 20), (b"below", 50, -30))
    shown = b" ".join(b"BT /F 12 Tf %d %d Td (%s) Tj ET" % (x, y, word) for word, x, y in corners)
    whole = page(entries=entries).replace(b"/MediaBox[0 0 200 100]", b"")
    return raw_pdf(CATALOG, PAGES.replace(b"/Kids", pages + b"/Kids"), whole, stream(shown), FONT)


@pytest.mark.parametrize(
    ("pages", "entries", "words"),
    [
        (b"/MediaBox[0 0 900 850]", LINK, "high right low"),
        (b"/MediaBox[0 -50 900 850]", LINK, "high right low below"),
        (b"/MediaBox[0 0 900 850]/CropBox[0 0 900 700]", LINK, "right low"),
        (b"/CropBox[0 0 900 700]", b"/MediaBox[0 0 900 850]" + LINK, "right low"),
        (b"/MediaBox[0 0 900 850]", b"/CropBox[2000 2000 2100 2100]", "high right low"),
        (b"/MediaBox[0 0 900 850]/CropBox[2000 2000 2100 2100]", LINK, "high right low"),
    ],
)
def test_a_page_may_inherit_its_size(tmp_path, pages, entries, words):
    path = write(tmp_path / "a.pdf", inheriting(pages, entries))
    with Pdf(path) as pdf:
        assert pdf.text(1).split() == words.split()
        low = pdf.text(1).index("low")
        ((box,),) = pdf.boxes(1, [(low, low + 3)])
        assert box[0] == pytest.approx(50 / 900, abs=0.01)
        image = np.asarray(pdf.render(1, 400_000).convert("L"))
        rows, columns = image.shape
        assert image[int(box[1] * rows) : int(box[3] * rows), int(box[0] * columns) : int(box[2] * columns)].min() < 99


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "box", [b"[700 0 800 100]", b"[0 0 0 0]", b"[50 50 50 90]", b"[-9 -9 -5 -5]", b"[1e38 0 2e38 9]"]
)
def test_a_crop_box_outside_of_the_page_is_ignored(tmp_path, box):
    path = write(tmp_path / "a.pdf", one_page(entries=b"/CropBox%s" % box))
    with Pdf(path) as pdf:
        assert pdf.text(1) == "A few words"
        assert pdf.dots(1) == (833, 417)
        assert pdf.render(1, 20_000).size == (200, 100)
        assert pdf.render_as(1, (64, 32)).size == (64, 32)
        assert len(pdf.boxes(1, [(0, 5)])[0]) == 1


@pytest.mark.parametrize(
    "box", [b"[0 0 1e39 1e39]", b"[0 0 1e30 100]", b"[-1e38 -1e38 1e38 1e38]", b"[0 0 nan 5]", b"[0 0 -5 5]"]
)
def test_a_page_of_any_size_is_drawn_or_named(tmp_path, box):
    for found in read_pdf(write(tmp_path / "a.pdf", one_page(box=box))):
        if found.left_out and not found.image:
            assert "cannot be drawn" in found.left_out[0]
        else:
            with Pdf(tmp_path / "a.pdf") as pdf:
                columns, rows = pdf.render(1, 10_000).size
                assert 1 <= columns * rows <= 10_000


# --- fonts whose glyphs are named by codes ----------------------------------------------------------


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

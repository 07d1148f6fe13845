"""Text of PDF pages: whole words, no rubbish, what forms and notes show, and what the report says is missing."""

from __future__ import annotations

import logging
from collections import Counter

import pypdfium2
import pytest
from fpdf import FPDF
from helpers.odd_files import CATALOG, FONT, PAGES, lines, one_page, page, pages_of, raw_pdf, stream
from helpers.text_files import write
from hypothesis import given
from hypothesis import strategies as st

from smart_rag.files.formats.page import Page
from smart_rag.files.formats.pdf import NO_TEXT, XFA, Pdf, read_pdf
from smart_rag.files.formats.pdf_text import HYPHEN, Layer, joined


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

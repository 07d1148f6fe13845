"""Pages of PDFs that are scans, have another size or cannot be read."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.odd_files import CATALOG, FONT, PAGES, lines, one_page, page, pages_of, raw_pdf, stream
from helpers.text_files import refused, write

from smart_rag import IndexConfig
from smart_rag.files.formats.page import Page
from smart_rag.files.formats.pdf import NO_TEXT, Pdf, read_pdf
from smart_rag.files.formats.pdf import SCAN as COVERED
from smart_rag.files.reader import Reader, survey


def texts(tmp_path, data):
    return [page.text for page in read_pdf(write(tmp_path / "a.pdf", data))]


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

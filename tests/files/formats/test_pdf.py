"""PDFs: text and image of every page, of any size and rotation; errors name the file and the page."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pypdfium2
import pytest
from fpdf import FPDF
from helpers.odd_files import (
    CATALOG,
    CONTENT,
    FONT,
    PAGES,
    PEAK,
    fpdf_pages,
    noise_image,
    odd_pdfs,
    one_page,
    page,
    raw_pdf,
    stream,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import smart_rag
from smart_rag.errors import DocumentError, InvalidInput, MissingExtra
from smart_rag.files.formats.page import Page
from smart_rag.files.formats.pdf import Pdf, _cached, boxes, dots, read_pdf, render, render_as
from smart_rag.types import PdfPage

SAMPLE = Path(smart_rag.__file__).parent / "samples" / "engineering_report.pdf"
RED, WHITE = (255, 0, 0), (255, 255, 255)
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.fixture(autouse=True)
def _nothing_stays_open():
    yield
    _cached.cache_clear()


def outcome(question):
    """Return the result, or the error of the only allowed class."""
    try:
        return question()
    except DocumentError as error:
        return error


def reason(path, question):
    """Return the reason of the error that ``question`` raises. It must name the file and have one line."""
    with pytest.raises(DocumentError) as caught:
        question()
    assert caught.value.path == path
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    assert "\n" not in caught.value.reason
    return caught.value.reason


def written(tmp_path, data, name="a.pdf"):
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


def texts_and_images(path, most=5):
    """Return the text and the image of each of the first pages, or the error in its place."""
    with Pdf(path) as pdf:
        numbers = range(1, min(len(pdf), most) + 1)
        return [
            part
            for number in numbers
            for part in (outcome(lambda n=number: pdf.text(n)), outcome(lambda n=number: pdf.render(n, 10_000)))
        ]


# --- odd files ------------------------------------------------------------------------------


def test_odd_pdfs_are_read_or_refused(tmp_path, subtests):
    odd_files = list(odd_pdfs())
    assert len({odd.name for odd in odd_files}) == len(odd_files) > 200
    for odd in odd_files:
        with subtests.test(odd.name):
            check_odd_pdf(odd, odd.write(tmp_path))


def check_odd_pdf(odd, path):
    parts = outcome(lambda: texts_and_images(path))
    parts = [parts] if isinstance(parts, DocumentError) else parts
    errors = [part for part in parts if isinstance(part, DocumentError)]
    assert not (odd.sound and errors), errors
    assert odd.sound is not False or errors
    for error in errors:
        assert error.path == path
        assert "\n" not in error.reason
    for image in (part for part in parts if isinstance(part, Image.Image)):
        assert image.mode == "RGB"
        assert 1 <= image.width * image.height <= 10_000
    if odd.size:
        width, height = odd.size
        image = render(path, 1, 1_000_000)
        if min(image.size) > 30:
            assert image.width / image.height == pytest.approx(width / height, rel=0.03)


SOUND = [fpdf_pages("The first page.", "The second page."), one_page(), one_page(entries=b"/Rotate 90"), b""]
SOUND[3] = SAMPLE.read_bytes()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(SOUND),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=8),
    st.floats(0.5, 1),
)
def test_flipped_bytes_raise_no_other_error(tmp_path, data, flips, length):
    data = bytearray(data[: max(1, int(len(data) * length))])
    for place, flip in flips:
        data[int(place * len(data))] ^= flip
    path = written(tmp_path, data)
    parts = outcome(lambda: texts_and_images(path, most=2))
    for part in [parts] if isinstance(parts, DocumentError) else parts:
        assert isinstance(part, str | Image.Image) or "\n" not in part.reason


# --- errors ---------------------------------------------------------------------------------


def test_each_reason(tmp_path):
    for name, data, expected in (
        ("empty.pdf", b"", "the file is empty"),
        ("noise.pdf", b"noise", "damaged, or not a PDF"),
        ("secret.pdf", fpdf_pages("Secret.", password="sesame"), "encrypted; save it without a password"),
        ("none.pdf", raw_pdf(CATALOG, b"<</Type/Pages/Kids[]/Count 0>>"), "no pages in it"),
    ):
        path = written(tmp_path, data, name)
        assert reason(path, lambda path=path: Pdf(path)) == expected
        assert reason(path, lambda path=path: render(path, 1, 100)) == expected
    (tmp_path / "folder.pdf").mkdir()
    assert reason(tmp_path / "folder.pdf", lambda: Pdf(tmp_path / "folder.pdf")) == "cannot be read (Is a directory)"
    gone = tmp_path / "gone.pdf"
    assert reason(gone, lambda: render(gone, 1, 100)) == "cannot be read (No such file or directory)"


def test_a_page_that_cannot_be_read_is_named_and_the_others_are_read(tmp_path):
    pages = b"<</Type/Pages/Kids[3 0 R 9 0 R 3 0 R]/Count 3>>"
    path = written(tmp_path, raw_pdf(CATALOG, pages, page(), stream(CONTENT), FONT))
    with Pdf(path) as pdf:
        assert len(pdf) == 3
        assert reason(path, lambda: pdf.text(2)) == "page 2 cannot be read"
        assert reason(path, lambda: pdf.render(2, 100)) == "page 2 cannot be read"
        assert pdf.text(3) == pdf.text(1) == "A few words"


def test_a_page_that_is_not_there(tmp_path):
    path = written(tmp_path, fpdf_pages("One.", "Two."))
    assert reason(path, lambda: render(path, 3, 100)) == "there is no page 3; the last one is 2"
    for wrong in (0, -1, True, 1.0):
        with pytest.raises(InvalidInput, match="page must be a whole number of at least 1"):
            render(path, wrong, 100)
        with pytest.raises(InvalidInput, match="max_pixels must be a whole number of at least 1"):
            render(path, 1, wrong)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    path = written(tmp_path, one_page())
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    with pytest.raises(MissingExtra, match=r"reading a.pdf needs the package 'pypdfium2'.*smart-rag\[pdf\]"):
        Pdf(path)


# --- text -----------------------------------------------------------------------------------


def test_the_text_layer_is_that_of_pdfium():
    with Pdf(SAMPLE) as pdf, pypdfium2.PdfDocument(SAMPLE) as reference:
        assert len(pdf) == len(reference) > 1
        for i in range(len(reference)):
            expected = reference[i].get_textpage().get_text_bounded()
            assert pdf.text(i + 1) == expected.replace("\r\n", "\n").replace("\ufffe", "-\n")
            assert len(expected) > 100


def test_a_pdf_is_read_page_by_page(tmp_path):
    path = written(tmp_path, fpdf_pages("The first page is about cats.", "", "The third, about dogs."))
    assert list(read_pdf(path)) == [
        Page("The first page is about cats.", 1, PdfPage(path, 1)),
        Page("", 2, PdfPage(path, 2)),
        Page("The third, about dogs.", 3, PdfPage(path, 3)),
    ]


def test_lines_stay_apart_and_words_whole(tmp_path):
    made = FPDF()
    made.set_font("Helvetica", size=12)
    made.add_page()
    made.multi_cell(40, 8, "The inter\u00adnational pump\u00adhouse is a well-known place.", align="L")
    (page,) = read_pdf(written(tmp_path, bytes(made.output())))
    assert page.text.count("\n") >= 1
    assert "\r" not in page.text
    assert page.text.split() == ["The", "international", "pumphouse", "is", "a", "well-known", "place."]


def test_a_pdf_that_only_its_owner_may_change_can_be_read(tmp_path):
    path = written(tmp_path, fpdf_pages("Read me.", owner="secret"))
    assert [page.text for page in read_pdf(path)] == ["Read me."]


@pytest.mark.parametrize("part", [0.01, 0.33, 0.5, 0.9])
def test_a_truncated_pdf_is_refused(tmp_path, part):
    data = fpdf_pages("A page.", "Another page.")
    path = written(tmp_path, data[: int(len(data) * part)])
    assert reason(path, lambda: list(read_pdf(path))) == "damaged, or not a PDF"


def test_a_reopened_document_gives_the_same(tmp_path):
    path = written(tmp_path, fpdf_pages(*[f"Page {i}." for i in range(1, 131)]))
    with Pdf(path) as pdf:
        assert [pdf.text(i) for i in range(1, 131)] == [f"Page {i}." for i in range(1, 131)]
    with pytest.raises(InvalidInput, match=r"a\.pdf was closed"):
        pdf.text(1)


# --- images ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("turn", "size", "red"),
    [(0, (200, 100), (10, 10)), (90, (100, 200), (89, 10)), (180, (200, 100), (189, 89)), (270, (100, 200), (10, 189))],
)
def test_a_page_is_shown_turned(tmp_path, turn, size, red):
    image = render(written(tmp_path, one_page(entries=b"/Rotate %d" % turn)), 1, 20_000)
    assert (image.mode, image.size) == ("RGB", size)
    corners = [(10, 10), (size[0] - 11, 10), (10, size[1] - 11), (size[0] - 11, size[1] - 11)]
    assert {corner: image.getpixel(corner) for corner in corners} == {
        corner: RED if corner == red else WHITE for corner in corners
    }


@pytest.mark.parametrize("max_pixels", [1, 2, 99, 1_000, 12_345, 100_000, 777_777, 3_000_000])
@pytest.mark.parametrize("size", [(210, 297), (297, 210), (100, 100), (333.3, 77.7)])
def test_an_image_is_as_large_as_allowed(tmp_path, size, max_pixels):
    made = FPDF(format=size)
    made.add_page()
    image = render(written(tmp_path, bytes(made.output())), 1, max_pixels)
    dots = [side / 25.4 * 300 for side in size]
    assert image.width * image.height <= max_pixels
    assert image.width <= dots[0]
    assert image.height <= dots[1]
    # One pixel more on each side would be too many.
    assert (image.width + 2) * (image.height + 2) > min(max_pixels, dots[0] * dots[1])


def test_no_more_than_300_dots_to_an_inch(tmp_path):
    assert render(written(tmp_path, one_page(box=b"[0 0 72 36]")), 1, 10**9).size == (300, 150)


def test_a_huge_page_is_no_huge_image(tmp_path):
    path = written(tmp_path, one_page(box=b"[0 0 14400 14400]"))
    assert render(path, 1, 250_000).size == (500, 500)


def test_a_tiny_page_is_an_image(tmp_path):
    path = written(tmp_path, one_page(box=b"[0 0 .01 .01]"))
    assert render(path, 1, 250_000).size == (1, 1)


def test_an_image_is_not_rounded_up(tmp_path):
    """In floats, 51 * (212 / 51) is a little more than 212."""
    assert render(written(tmp_path, one_page(box=b"[0 0 51 51]")), 1, 10**6).size == (212, 212)


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_a_page_of_a_given_size(tmp_path, turn):
    """It is the whole page, stretched to this size."""
    path = written(tmp_path, one_page(entries=b"/Rotate %d" % turn))
    width, height = dots(path, 1)
    assert (width, height) == ((833, 417) if turn % 180 == 0 else (417, 833))
    image = render_as(path, 1, (320, 96))
    assert (image.mode, image.size) == ("RGB", (320, 96))
    usual = np.asarray(render(path, 1, 250_000).resize((320, 96)), dtype=np.int16)
    assert np.abs(np.asarray(image, dtype=np.int16) - usual).mean() < 2
    for wrong in ((0, 5), (5, -1), (5, 2.5)):
        with pytest.raises(InvalidInput, match="must be a whole number of at least 1"):
            render_as(path, 1, wrong)


def test_the_size_of_a_tiny_page(tmp_path):
    assert dots(written(tmp_path, one_page(box=b"[0 0 .01 .01]")), 1) == [1, 1]


def test_annotations_and_forms_are_shown(tmp_path):
    look = b"/Type/XObject/Subtype/Form/BBox[0 0 40 40]"
    path = written(
        tmp_path,
        raw_pdf(
            b"<</Type/Catalog/Pages 2 0 R/AcroForm<</Fields[6 0 R]>>>>",
            PAGES,
            page(entries=b"/Annots[6 0 R 7 0 R]"),
            stream(CONTENT),
            FONT,
            b"<</Type/Annot/Subtype/Widget/FT/Tx/T(a)/F 4/Rect[150 50 190 90]/AP<</N 8 0 R>>>>",
            b"<</Type/Annot/Subtype/Square/F 4/Rect[100 50 140 90]/AP<</N 9 0 R>>>>",
            stream(b"0 0 1 rg 0 0 40 40 re f", look),
            stream(b"0 1 0 rg 0 0 40 40 re f", look),
        ),
    )
    for image in (render(path, 1, 20_000), render_as(path, 1, (200, 100))):
        assert image.getpixel((170, 30)) == (0, 0, 255)
        assert image.getpixel((120, 30)) == (0, 255, 0)


def test_a_page_that_draws_nothing_is_white(tmp_path):
    image = render(written(tmp_path, one_page(contents=b"")), 1, 5_000)
    assert image.getextrema() == ((255, 255),) * 3


# --- files, threads, memory -----------------------------------------------------------------


def test_a_changed_file_is_read_again(tmp_path):
    path = written(tmp_path, one_page())
    assert render(path, 1, 20_000).size == (200, 100)
    written(tmp_path, one_page(box=b"[0 0 100 200]") + b"%longer")
    assert render(path, 1, 20_000).size == (100, 200)


@linux
def test_two_files_stay_open_and_no_more(tmp_path):
    def held():
        return Counter(
            os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink() and entry.exists()
        )

    paths = [written(tmp_path, one_page(), f"{i}.pdf") for i in range(5)]
    for path in paths:
        render(path, 1, 100)
        render(path, 1, 200)
    assert {name: n for name, n in held().items() if name.startswith(str(tmp_path))} == dict.fromkeys(
        map(str, paths[-2:]), 1
    )
    with Pdf(paths[0]) as pdf:
        assert held()[str(paths[0])] == 1
        pdf.text(1)
    assert held()[str(paths[0])] == 0


def test_threads_get_the_same_as_one_thread(tmp_path):
    paths = [written(tmp_path, fpdf_pages(*[f"Page {j} of {i}." for j in range(4)]), f"{i}.pdf") for i in range(4)]

    def all_of(path):
        with Pdf(path) as pdf:
            return [(pdf.text(i + 1), pdf.render(i + 1, 8_000).tobytes()) for i in range(len(pdf))]

    expected = {path: all_of(path) for path in paths}
    wrong = []

    def work(path):
        for i in range(8):
            if all_of(path) != expected[path]:
                wrong.append(path)
            if render(path, i % 4 + 1, 8_000).tobytes() != expected[path][i % 4][1]:
                wrong.append(path)

    threads = [threading.Thread(target=work, args=(path,)) for path in paths * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@linux
def test_a_long_pdf_takes_no_more_memory_than_a_short_one(tmp_path):
    """Each of 300 pages is a scan of 200 kB."""
    scan = stream(
        noise_image("L", (500, 400)).tobytes(),
        b"/Type/XObject/Subtype/Image/Width 500/Height 400/ColorSpace/DeviceGray/BitsPerComponent 8",
    )
    kids = b" ".join(b"%d 0 R" % (3 * i + 3) for i in range(300))
    objects = [CATALOG, b"<</Type/Pages/Kids[%s]/Count 300>>" % kids]
    for i in range(3, 903, 3):
        resources = b"/MediaBox[0 0 200 200]/Resources<</XObject<</I %d 0 R>>>>" % (i + 2)
        objects += [b"<</Type/Page/Parent 2 0 R%s/Contents %d 0 R>>" % (resources, i + 1)]
        objects += [stream(b"200 0 0 200 0 0 cm /I Do"), scan]
    path = written(tmp_path, raw_pdf(*objects))
    code = f"""{PEAK}
from smart_rag.files.formats.pdf import Pdf
peaks = []
with Pdf({str(path)!r}) as pdf:
    for number in range(1, len(pdf) + 1):
        pdf.text(number)
        pdf.render(number, 40_000)
        peaks.append(peak())
print(len(peaks), peaks[19], peaks[-1])
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    pages, early, late = map(int, output.split())
    assert pages == 300
    assert late - early < 25_000  # kB


# --- boxes ----------------------------------------------------------------------------------


def ink(image, box):
    """Return the share of dark pixels in a box."""
    left, top, right, bottom = box
    width, height = image.size
    part = image.crop((int(left * width), int(top * height), int(right * width) + 1, int(bottom * height) + 1))
    return float((np.asarray(part.convert("L")) < 128).mean())


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_boxes_are_where_the_words_are_shown(tmp_path, turn):
    """Also on a turned page, and for a word that occurs twice. No ink is outside the boxes."""
    made = FPDF(format=(200, 100))
    made.set_font("Helvetica", size=24)
    made.add_page()
    made.text(20, 20, "pump")
    made.text(120, 60, "pump house")
    path = written(tmp_path, bytes(made.output()).replace(b"/Type /Page\n", b"/Type /Page\n/Rotate %d\n" % turn))
    with Pdf(path) as pdf:
        text, image = pdf.text(1), pdf.render(1, 200_000)
        assert (image.width < image.height) == (turn in (90, 270))
        second = text.index("pump house")
        first, other, house = pdf.boxes(1, [(0, 4), (second, second + 4), (second + 5, second + 10)])
        assert [len(first), len(other), len(house)] == [1, 1, 1]
        for (box,) in (first, other, house):
            assert 0 <= box[0] < box[2] <= 1
            assert 0 <= box[1] < box[3] <= 1
            assert ink(image, box) > 0.15
        assert first != other
        gone = np.asarray(image.convert("L")).copy()
        for left, top, right, bottom in (first[0], other[0], house[0]):
            rows = slice(int(top * image.height) - 2, int(bottom * image.height) + 3)
            columns = slice(int(left * image.width) - 2, int(right * image.width) + 3)
            gone[rows, columns] = 255
        assert (gone > 128).all()
        assert pdf.boxes(1, [(len(text) + 5, len(text) + 9)]) == [[]]
    assert boxes(path, 1, [(0, 4)]) == [first]

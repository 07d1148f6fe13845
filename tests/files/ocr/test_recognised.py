"""What is recognised on a page: its text, and the place of each word."""

from __future__ import annotations

import socket
import sys

import numpy as np
import pytest
from fpdf import FPDF
from helpers.scans import box_of, scan
from PIL import Image

from smart_rag import IndexConfig
from smart_rag.errors import MissingExtra
from smart_rag.files.ocr.engine import ReadLine, _engine, _letters, check_installed
from smart_rag.files.reader import Reader
from smart_rag.types import RECOGNISED

pytest.importorskip("rapidocr")

from smart_rag.files.ocr.recognised import NOTHING, UNCLEAR, recognise_image

LINES = ("The seawater pump was replaced because", "its bearings were worn out. The new autho-", "rization is late.")
TEXT = "The seawater pump was replaced because\nits bearings were worn out. The new authorization is late."


@pytest.fixture(scope="module")
def page():
    return recognise_image(scan(*LINES))


def test_the_text_has_whole_words(page):
    assert page.text == TEXT
    assert page.left_out == ()


@pytest.mark.parametrize("word", ["The", "seawater", "because", "bearings", "out", "late"])
def test_a_word_has_its_box(page, word):
    start = page.text.index(word)
    (found,) = page.boxes((start, start + len(word)))
    for side, (value, expected) in enumerate(zip(found, box_of(word, LINES), strict=True)):
        assert abs(value - expected) < (0.012 if side % 2 == 0 else 0.04)


def test_a_broken_word_has_two_boxes(page):
    start = page.text.index("authorization")
    first, second = page.boxes((start, start + len("authorization")))
    assert first[0] > second[0]
    assert first[1] < second[1]
    assert page.boxes((start, start)) == []


@pytest.mark.parametrize(
    "angle", [pytest.param(90, marks=pytest.mark.slow), 180, pytest.param(270, marks=pytest.mark.slow)]
)
def test_a_page_that_is_turned_has_the_same_text_and_its_own_boxes(angle):
    image = scan(*LINES).rotate(angle, expand=True)
    found = recognise_image(image)
    assert found.text == TEXT
    start = found.text.index("bearings")
    (box,) = found.boxes((start, start + 8))
    dark = np.zeros((400, 1000), np.uint8)
    left, top, right, bottom = box_of("bearings", LINES)
    dark[int(top * 400) : int(bottom * 400), int(left * 1000) : int(right * 1000)] = 1
    turned = np.asarray(Image.fromarray(dark).rotate(angle, expand=True))
    height, width = turned.shape
    inside = turned[int(box[1] * height) : int(box[3] * height) + 1, int(box[0] * width) : int(box[2] * width) + 1]
    assert inside.sum() > 0.9 * turned.sum()
    assert inside.sum() > 0.5 * inside.size


@pytest.mark.slow
def test_the_lines_of_a_page_on_its_side_keep_their_order():
    """The engine reads these lines as they stand, and is a little more certain of them than of the turned page."""
    lines = ("Docling bundles PDF document conversion to", "JSON and Markdown in an easy self contained", "package")
    image = scan(*lines, size=(1000, 1400)).rotate(270, expand=True)
    assert recognise_image(image).text == "\n".join(lines)


def test_the_characters_of_a_line_fill_it():
    """The engine sometimes places them in a part of the line. If it finds others, all have the same width."""
    corners = np.asarray([[10, 0], [110, 0], [110, 20], [10, 20]], dtype=float)
    found = [(letter, 1.0, [[x, 2], [x + 10, 2], [x + 10, 18], [x, 18]]) for letter, x in (("a", 10), ("b", 50))]
    assert _letters("a b", corners, found) == [(10, 2, 30, 18), (10, 2, 30, 18), (90, 2, 110, 18)]
    third = 100 / 3
    expected = [(10, 0, 10 + third, 20), (10, 0, 10 + third, 20), (10 + 2 * third, 0, 110, 20)]
    assert np.allclose(_letters("a b", corners, found[:1]), expected)


def test_a_table_at_a_slant_is_read_by_rows():
    title = "Parts of the seawater plant and their prices in euros"
    image = scan(title, "Pump", "Valve", "Crane")
    image.paste(scan("", "5,400", "1,200", "7,700").crop((0, 100, 300, 400)), (690, 100))
    slanted = image.rotate(4, expand=True, fillcolor="white", resample=Image.Resampling.BICUBIC)
    assert recognise_image(slanted).text == f"{title}\nPump 5,400\nValve 1,200\nCrane 7,700"


def test_a_page_at_a_slant_and_with_noise_is_read():
    image = scan(*LINES).rotate(2, expand=True, fillcolor="white", resample=Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).normal(0, 15, (image.height, image.width, 1))
    noisy = Image.fromarray((np.asarray(image) * 0.9 + noise).clip(0, 255).astype(np.uint8))
    assert recognise_image(noisy).text == TEXT


def test_an_image_without_text_has_none():
    assert recognise_image(Image.new("RGB", (300, 200), "white")).left_out == (NOTHING,)
    assert recognise_image(Image.new("RGB", (1, 1), "white")).text == ""


def test_what_is_not_clear_is_left_out_and_said():
    """The lower line is too blurred to be read."""
    image = scan("The pump was replaced in March.", "Its bearings were worn out.")
    lower = image.crop((0, 110, 1000, 170)).resize((160, 10)).resize((1000, 60))
    image.paste(lower, (0, 110))
    found = recognise_image(image)
    assert found.text == "The pump was replaced in March."
    assert found.left_out == (UNCLEAR,)


def test_letters_that_the_engine_does_not_know_are_not_clear():
    """Of a line in Russian it finds the commas, with a high score."""
    corners = np.asarray([[0, 0], [600, 0], [600, 30], [0, 30]], dtype=float)
    assert not ReadLine(",  .", 0.95, corners, ()).is_clear()
    assert not ReadLine("seawater", 0.75, corners, ()).is_clear()
    assert ReadLine("seawater", 0.95, corners, ()).is_clear()


def test_nothing_is_loaded_from_the_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    _engine.cache_clear()
    assert recognise_image(scan(*LINES)).text == TEXT


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(MissingExtra, match=r"pip install 'smart-rag\[ocr\]'"):
        check_installed()


def test_a_scan_with_a_stamp_is_recognised_and_named_without(tmp_path):
    """As courts print the number of a case over each scanned page."""
    made = FPDF(format=(210, 120))
    made.add_page()
    made.set_font("helvetica")
    made.image(scan("The valve is closed."), 0, 0, 210, 120)
    made.text(20, 100, "Case 12 filed in May")
    made.add_page()
    made.text(20, 100, "A page without a scan")
    (tmp_path / "a.pdf").write_bytes(bytes(made.output()))
    reader = Reader(("text",), lambda text: len(text.split()), IndexConfig())
    found = reader.read(tmp_path / "a.pdf")
    assert [document.text for document in found.documents] == ["Case 12 filed in May", "A page without a scan"]
    (left_out,) = found.left_out
    assert left_out.startswith("page 1: pictures cover it, and the text in them is not read")
    found = reader.read(tmp_path / "a.pdf", ocr=True)
    assert "The valve is closed." in found.documents[0].text
    assert found.left_out == []


def test_a_note_on_a_scan_is_read_beside_what_is_recognised(tmp_path):
    made = FPDF()
    made.add_page()
    made.image(scan("The valve is closed."), 0, 0, 200)
    made.text_annotation(10, 10, "Ask Tobias first")
    (tmp_path / "a.pdf").write_bytes(bytes(made.output()))
    found = Reader(("text",), lambda text: len(text.split()), IndexConfig()).read(tmp_path / "a.pdf", ocr=True)
    first, note = found.documents
    assert "The valve is closed." in first.text
    assert (note.text, RECOGNISED in note.metadata, note.metadata["page"]) == ("Ask Tobias first", False, 1)

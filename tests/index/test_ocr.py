"""Scans in a text index: recognised where asked for, remembered, and marked where their words stand."""

from __future__ import annotations

import re
import shutil
import sys

import numpy as np
import pytest
from helpers.command_line import error_of, good
from helpers.scans import box_of, scan, scanned_pdf
from helpers.word_encoder import SeeingEncoder, WordEncoder

from smart_rag import SmartIndex
from smart_rag.errors import InvalidInput, MissingExtra
from smart_rag.files import limits
from smart_rag.files.content import open_image
from smart_rag.files.formats.pdf import NO_TEXT
from smart_rag.files.ocr.recognised import NOTHING
from smart_rag.index.explain.explanation import emphasis
from smart_rag.types import PdfPage

LINES = ("The seawater pump was replaced because", "its bearings were worn out.")
TEXT = "\n".join(LINES)


@pytest.fixture
def index(tmp_path):
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as index:
        yield index


@pytest.fixture
def folder(tmp_path):
    """A PDF with a scan, a page with text and a blank scan, and an image."""
    pytest.importorskip("rapidocr")
    folder = tmp_path / "scans"
    folder.mkdir()
    blank = scan()
    blank.putpixel((5, 5), (0, 0, 0))
    scanned_pdf(folder / "report.pdf", scan(*LINES), "Printed words.", blank)
    scan("A crane lifts the boat.").save(folder / "photo.png")
    return folder


def documents(index):
    return {hit.id.rpartition("/")[2]: hit for hit in index.search("pump", top_k=20)}


def test_scans_are_read_and_the_report_says_what_is_not(index, folder):
    report = index.add_files([folder], ocr=True)
    found = documents(index)
    assert {name: hit.text for name, hit in found.items()} == {
        "report.pdf#0": TEXT,
        "report.pdf#1": "Printed words.",
        "photo.png#0": "A crane lifts the boat.",
    }
    pdf, image = found["report.pdf#0"], found["photo.png#0"]
    assert pdf.metadata["ocr"] is True
    assert pdf.page == 1
    assert pdf.image == PdfPage(folder / "report.pdf", 1)
    assert image.metadata["ocr"] is True
    assert image.page is None
    assert open_image(image.image).size == (1000, 400)
    assert "ocr" not in found["report.pdf#1"].metadata
    assert {read.path.name: read.left_out for read in report.read} == {
        "report.pdf": (f"page 3: {NOTHING}",),
        "photo.png": (),
    }


@pytest.mark.slow
def test_a_file_that_was_read_without_is_read_again_with_it_and_never_the_other_way_round(index, folder):
    before = index.add_files([folder])
    assert before.added == 1
    assert before.read[0].left_out == (f"2 of 3 pages (1, 3): {NO_TEXT}",)
    assert [one.path.name for one in before.skipped] == ["photo.png"]
    report = index.add_files([folder], ocr=True)
    assert (report.added, report.replaced, report.removed) == (2, 1, 0)
    for ocr in (False, True):
        report = index.add_files([folder], ocr=ocr)
        assert report.unchanged == (3 if ocr else 2)
        assert report == type(report)(unchanged=report.unchanged)
        assert len(documents(index)) == 3
    # With other bytes, it is still read as it was before.
    scanned_pdf(folder / "report.pdf", scan("The valve is closed."), "Printed words.")
    index.add_files([folder])
    assert documents(index)["report.pdf#0"].text == "The valve is closed."
    assert len(documents(index)) == 3


@pytest.mark.slow
def test_a_moved_scan_is_known_again_and_a_copy_is_no_second_document(index, folder):
    index.add_files([folder], ocr=True)
    shutil.copy(folder / "report.pdf", folder / "copy.pdf")
    report = index.add_files([folder])
    assert [one.path.name for one in report.skipped if one.reason.startswith("the same")] == ["copy.pdf"]
    (folder / "copy.pdf").unlink()
    (folder / "report.pdf").rename(folder / "moved.pdf")
    report = index.add_files([folder])
    assert (report.moved, report.added, report.failed) == (2, 0, ())
    assert documents(index)["moved.pdf#0"].image == PdfPage(folder / "moved.pdf", 1)
    assert index.add_files([folder / "moved.pdf"], ocr=True).unchanged == 2


@pytest.mark.slow
def test_a_moved_file_that_was_read_without_is_recognised(index, folder):
    index.add_files([folder / "report.pdf"])
    (folder / "report.pdf").rename(folder / "moved.pdf")
    index.add_files([folder / "moved.pdf"], ocr=True, prune=True)
    assert documents(index)["moved.pdf#0"].text == TEXT


def test_files_without_any_text_fail_with_a_reason(index, folder):
    scan().save(folder / "white.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    report = index.add_files([folder / "white.png", folder / "broken.jpg"], ocr=True)
    assert [(one.path.name, one.reason[:20]) for one in report.failed] == [
        ("broken.jpg", "not an image of a kn"),
        ("white.png", NOTHING[:20]),
    ]


def test_the_images_of_a_tiff_are_pages(index, folder):
    pages = [scan("The first page."), scan("The second page.")]
    pages[0].save(folder / "fax.tif", save_all=True, append_images=pages[1:])
    index.add_files([folder / "fax.tif"], ocr=True)
    assert {hit.page: hit.text for hit in documents(index).values()} == {1: "The first page.", 2: "The second page."}


def test_the_other_pictures_of_an_animation_are_said_to_be_left_out(index, folder):
    scan("The first page.").save(folder / "a.gif", save_all=True, append_images=[scan("More.")])
    report = index.add_files([folder / "a.gif"], ocr=True)
    assert documents(index)["a.gif#0"].text == "The first page."
    assert report.read[0].left_out == ("the other pictures of the animation",)


def test_a_page_that_takes_too_long_is_named(index, folder):
    with limits(file_seconds=0.05):
        report = index.add_files([folder / "photo.png"], ocr=True)
    assert "more than 0.05 seconds" in report.failed[0].reason


def test_words_are_marked_where_they_stand_on_the_scan(minilm, tmp_path, folder):
    with SmartIndex.create(tmp_path / "other", minilm) as index:
        index.add_files([folder / "report.pdf"], ocr=True)
        (hit,) = (hit for hit in index.search("Which bearings does the pump need?") if hit.page == 1)
        explanation = hit.explain()
        drawn = np.asarray(explanation.picture(legend=False)).astype(int)
        page = np.asarray(open_image(hit.image, 1_000_000)).astype(int)
    assert drawn.shape == page.shape
    coloured = np.abs(drawn - page).max(axis=2) > 20
    height, width = coloured.shape
    expected = np.zeros_like(coloured)
    words = {hit.text[slice(*span)] for span in emphasis(hit.text, explanation.matches)}
    assert {"bearings", "pump"} <= words < set(hit.text.split())
    for word in words:
        left, top, right, bottom = box_of(word, LINES)
        rows = slice(int(top * height), int(bottom * height))
        columns = slice(int(left * width), int(right * width))
        assert coloured[rows, columns][page[rows, columns].min(axis=2) > 250].mean() > 0.9  # letters stay black
        margin = 0.015
        expected[:, int((left - margin) * width) : int((right + margin) * width)] = True
    assert not (coloured & ~expected).any()


@pytest.mark.slow
def test_the_pages_that_are_recognised_have_a_bar_and_each_file_counts_once(index, folder, capsys):
    index.add_files([folder], ocr=True, show_progress_bar=True)
    shown = capsys.readouterr().err
    assert re.search(r"recognising report.pdf: 100%.* 2/2 ", shown)
    assert "recognising photo.png" not in shown  # it has one page
    assert re.findall(r"indexing[^\r\n]* (\d+/\d+) ", shown)[-1] == "2/2"


def test_a_model_that_reads_images_needs_no_recognition(tmp_path, folder):
    with (
        SmartIndex.create(tmp_path / "seeing", SeeingEncoder()) as index,
        pytest.raises(InvalidInput, match="reads images as they are"),
    ):
        index.add_files([folder], ocr=True)


def test_without_the_extra_nothing_is_read(index, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(MissingExtra, match=r"pip install 'smart-rag\[ocr\]'"):
        index.add_files([tmp_path / "a.txt"], ocr=True)
    assert index.count() == 0
    assert "smart-rag[ocr]" in error_of("index", tmp_path / "a.txt", "--db", tmp_path / "db", "--ocr")
    assert not (tmp_path / "db").exists()


def test_the_command_line(folder, tmp_path):
    db = tmp_path / "db"
    dry = good("index", folder, "--db", db, "--ocr", "--dry-run")
    assert "its text would be recognised" in dry
    assert "3 added" in good("index", folder, "--db", db, "--ocr")
    assert "3 unchanged" in good("index", folder, "--db", db, "--ocr")
    assert "bearings" in good("search", "worn bearings", "--db", db)

"""`SmartIndex.add_files`: a file that breaks costs only itself."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import docx
import pytest
from helpers import bad_parsers
from helpers.hostile_files import nested_forms
from helpers.indexed_files import content, expected, texts
from helpers.odd_files import fpdf_pages
from helpers.text_files import write

from smart_rag.files import limits
from smart_rag.files.worker import call
from smart_rag.reports import AddReport


def test_broken_files_are_reported_and_the_rest_is_indexed(index, folder):
    write(folder / "a_binary.txt", b"\x89PNG\r\n\x1a\n\0\0")
    write(folder / "an_empty.md", b"")
    write(folder / "broken.pdf", b"%PDF-1.7 and no more")
    write(folder / "deep" / "word.docx", b"no zip")
    report = index.add_files([folder])
    assert report.added == 6
    assert {d.id: d for d in index.documents()} == expected(
        *(folder / name for name in ("cats.txt", "deep/dogs.md", "tax.html"))
    )
    assert [(failed.path.name, failed.reason) for failed in report.failed][:2] == [
        ("a_binary.txt", "binary data, not text"),
        ("an_empty.md", "the file is empty"),
    ]
    assert [failed.path for failed in report.failed] == [
        (folder / name).resolve() for name in ("a_binary.txt", "an_empty.md", "broken.pdf", "deep/word.docx")
    ]
    again = index.add_files([folder])
    assert (again.unchanged, again.added, again.failed) == (6, 0, report.failed)


def test_a_named_file_of_an_unknown_format_is_reported(index, folder):
    photo = write(folder / "photo.xyz", b"x")
    report = index.add_files([photo, folder / "tax.html"])
    assert report.added == 1
    assert [(failed.path, failed.reason[:27]) for failed in report.failed] == [
        (photo.resolve(), ".xyz is not a known format;")
    ]


@pytest.mark.parametrize("prune", [False, True])
def test_a_file_that_breaks_keeps_what_was_indexed(index, folder, prune):
    index.add_files([folder])
    before = content(index)
    good = (folder / "cats.txt").read_bytes()
    write(folder / "cats.txt", b"\0\1\2")
    report = index.add_files([folder], prune=prune)
    assert (report.unchanged, report.removed, len(report.failed)) == (3, 0, 1)
    assert content(index) == before
    write(folder / "cats.txt", good)
    assert index.add_files([folder]) == AddReport(unchanged=6)


@pytest.mark.parametrize("limit", ["file_seconds", "file_memory"])
def test_a_file_that_exceeds_a_limit_keeps_what_was_indexed(index, folder, limit):
    sound = fpdf_pages("Some words.", "More words.")
    report = write(folder / "a_report.pdf", sound)
    index.add_files([folder])
    nested_forms(report)
    write(folder / "zoo.md", "The zoo is closed.")
    with limits(**{limit: 0.3}):
        added = index.add_files([folder])
    (failed,) = added.failed
    assert failed.path == report.resolve()
    assert failed.reason.startswith("reading it takes more than 0.3 ")
    assert f"--{limit.replace('_', '-')} allows more" in failed.reason
    assert (added.added, added.unchanged, added.removed) == (1, 6, 0)
    assert texts(index, report) == ["Some words.", "More words."]
    report.write_bytes(sound)
    assert index.add_files([folder]) == AddReport(unchanged=9)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a single allocation")
def test_giant_texts_are_left_out_and_the_rest_is_read(index, folder):
    """They are files of holes, which take no place on the disk."""
    for name in ("a.txt", "c.html"):
        os.truncate(write(folder / name, "Some words."), 150_000_000)
    with limits(file_memory=0.05):
        added = index.add_files([folder])
    assert [failed.path.name for failed in added.failed] == ["a.txt", "c.html"]
    assert all(failed.reason.startswith("reading it takes more than 0.05 GB") for failed in added.failed)
    assert added.added == 6


def test_a_giant_file_whose_digest_takes_too_long(index, folder):
    os.truncate(write(folder / "a.txt", "Some words."), 1 << 40)
    with limits(file_seconds=0.05):
        (failed,) = index.add_files([folder / "a.txt"]).failed
    assert failed.reason.startswith("reading it takes more than 0.05 seconds; ")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a single allocation")
def test_a_file_that_needs_more_memory_than_there_is_costs_one_file(index, folder):
    import resource

    os.truncate(write(folder / "a.txt", "Some words."), 300_000_000)
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    try:
        resource.setrlimit(resource.RLIMIT_AS, (used + 250_000_000, before[1]))
        with limits(file_seconds=None, file_memory=None):  # the file is read in this process
            added = index.add_files([folder])
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert [(failed.path.name, failed.reason) for failed in added.failed] == [
        ("a.txt", "reading it takes more memory than there is; split the file")
    ]
    assert added.added == 6


def test_a_crash_of_a_parser_costs_one_file(index, folder):
    """The process is killed while it reads, as the system does when memory runs out."""
    nested_forms(folder / "a_report.pdf")
    with limits(file_memory=None):
        killer = threading.Timer(1.5, os.kill, (call(bad_parsers.process, folder), signal.SIGKILL))
        killer.start()
        added = index.add_files([folder])
    killer.join()
    assert added.added == 6
    (failed,) = added.failed
    assert "crashed the parser (SIGKILL)" in failed.reason


def test_a_damaged_word_file_does_not_end_the_run(index, folder):
    made = docx.Document()
    made.add_paragraph("Words.")
    made.save(str(folder / "word.docx"))
    data = (folder / "word.docx").read_bytes()
    start = data.index(b"word/document.xml") + 40
    write(folder / "word.docx", data[:start] + b"\xff" * 300 + data[start + 300 :])
    report = index.add_files([folder])
    assert report.added == 6
    assert len(report.failed) == 1

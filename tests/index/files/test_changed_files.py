"""`SmartIndex.add_files`: a first run, a second, and files that change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fpdf import FPDF
from helpers.indexed_files import CONFIG, FoldingEncoder, assert_whole, content, expected, found, texts
from helpers.text_files import write

from smart_rag import Document, SmartIndex
from smart_rag.errors import InvalidInput
from smart_rag.index.writing import file_ingest
from smart_rag.reports import AddReport


def test_a_first_run_adds_what_the_files_hold(index, folder, encoder):
    report = index.add_files([folder])
    assert report == AddReport(added=6)
    assert {d.id: d for d in index.documents()} == expected(folder)
    assert sorted(encoder.documents) == sorted(texts(index))
    assert texts(index, folder / "cats.txt") == [
        "The cat sat on the mat.",
        "It purred all day long.",
        "Nobody knew why it purred.",
    ]
    hit = found(index, "strangers bark")
    assert (hit.text, hit.source, hit.page) == (
        "Dogs bark at strangers at night.",
        str((folder / "deep" / "dogs.md").resolve()),
        None,
    )


def test_a_pdf_brings_its_page_numbers(index, tmp_path):
    pdf = FPDF()
    pdf.set_font("Helvetica", size=12)
    for text in ("The cat sat.", "", "Dogs bark loudly."):
        pdf.add_page()
        pdf.cell(0, 8, text)
    index.add_files([write(tmp_path / "a.pdf", bytes(pdf.output()))])
    assert found(index, "dogs bark").page == 3
    assert found(index, "cat sat").page == 1


def test_a_second_run_encodes_nothing(index, folder, encoder):
    index.add_files([folder])
    before = content(index)
    encoder.documents.clear()
    assert index.add_files([folder]) == AddReport(unchanged=6)
    assert encoder.documents == []
    assert content(index) == before


def test_a_second_run_in_an_index_that_was_reopened_encodes_nothing(tmp_path, folder):
    with SmartIndex.create(tmp_path / "index", FoldingEncoder(), config=CONFIG) as index:
        index.add_files([folder])
        before = content(index)
    encoder = FoldingEncoder()
    with SmartIndex.open(tmp_path / "index", encoder) as index:
        assert index.add_files([folder]) == AddReport(unchanged=6)
        assert encoder.documents == []
        assert content(index) == before


def test_a_file_that_was_touched_is_unchanged(index, folder, encoder):
    index.add_files([folder])
    encoder.documents.clear()
    path = folder / "cats.txt"
    path.write_bytes(path.read_bytes())
    os.utime(path, (1, 1))
    assert index.add_files([path]) == AddReport(unchanged=3)
    assert encoder.documents == []


def test_a_path_may_be_a_str_alone(index, folder):
    assert index.add_files(str(folder / "tax.html")) == AddReport(added=1)
    assert index.add_files(folder / "tax.html") == AddReport(unchanged=1)


def test_patterns_are_passed_on(index, folder):
    index.add_files([folder], include=["*.txt", "deep/*"], exclude=["cats.*"])
    assert {Path(d.metadata["source"]).name for d in index.documents()} == {"dogs.md"}


def test_commits_are_told(index, folder):
    told = []
    index.add_files([folder], on_commit=told.extend)
    assert sorted(told) == sorted(d.id for d in index.documents())


def test_a_folder_without_documents_or_a_missing_path_writes_nothing(index, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match=r"no documents found in .*empty"):
        index.add_files([tmp_path / "empty"])
    with pytest.raises(InvalidInput, match="gone does not exist"):
        index.add_files([tmp_path / "gone", tmp_path / "gone"])
    assert index.count() == 0


def test_a_missing_path_among_others_costs_only_itself(index, folder, tmp_path):
    report = index.add_files([tmp_path / "gone", folder])
    assert [(one.path, one.reason[:14]) for one in report.failed] == [(tmp_path / "gone", "does not exist")]
    assert report.added == 6


def test_a_file_that_changed_replaces_its_documents(index, folder, encoder):
    index.add_files([folder])
    others = [text for text in texts(index) if text not in texts(index, folder / "cats.txt")]
    encoder.documents.clear()
    write(folder / "cats.txt", "The cat sat on the mat. A walrus slept on the ice. Nobody knew why it slept.")
    assert index.add_files([folder]) == AddReport(replaced=3, unchanged=3)
    assert sorted(encoder.documents) == ["A walrus slept on the ice.", "Nobody knew why it slept."]
    assert found(index, "walrus slept").text == "A walrus slept on the ice."
    assert not any("purred" in text for text in texts(index))
    assert index.search("purred", where_document={"$contains": "purred"}) == []
    assert set(others) < set(texts(index))
    assert_whole(index)
    assert index.add_files([folder]) == AddReport(unchanged=6)


def test_a_file_that_shrank_loses_its_surplus(index, folder):
    index.add_files([folder])
    write(folder / "cats.txt", "The cat sat on the mat.")
    report = index.add_files([folder])
    assert report == AddReport(replaced=1, unchanged=3, removed=2)
    assert texts(index, folder / "cats.txt") == ["The cat sat on the mat."]
    assert_whole(index)
    assert index.add_files([folder]) == AddReport(unchanged=4)


def test_a_file_that_grew_gains_documents(index, folder):
    index.add_files([folder])
    with (folder / "tax.html").open("a") as file:
        file.write("<p>Fines are due in early May.</p>")
    assert index.add_files([folder]) == AddReport(added=1, replaced=1, unchanged=5)
    assert texts(index, folder / "tax.html") == ["Taxes are due in late April.", "Fines are due in early May."]


def test_a_document_of_the_caller_is_not_replaced_by_a_passage(index, folder):
    own = Document(f"{folder / 'cats.txt'}#0", "My own words.")
    index.add([own])
    report = index.add_files([folder])
    (failed,) = report.failed
    assert failed.path == folder / "cats.txt"
    assert failed.reason == (
        f"its passage would replace the document {own.id!r}, which was not added from a file; delete that document, or "
        "give it another id"
    )
    assert index.get([own.id]) == [own]
    assert {document.metadata.get("source") for document in index.documents()} == {
        *(None, str(folder / "deep" / "dogs.md"), str(folder / "tax.html"))
    }
    moved = folder / "moved.html"
    index.add([Document(f"{moved}#0", "My own words, too.")])
    (folder / "tax.html").rename(moved)
    assert {failed.path for failed in index.add_files([folder]).failed} == {folder / "cats.txt", moved}
    assert index.get([f"{moved}#0"])[0].text == "My own words, too."
    index.delete([own.id, f"{moved}#0"])
    report = index.add_files([folder])
    assert (report.failed, report.moved) == ((), 1)
    assert texts(index, folder / "cats.txt")[0].startswith("The cat sat")


def test_files_are_read_once_more_if_they_are_read_in_a_better_way(index, folder, encoder, monkeypatch):
    monkeypatch.setattr(file_ingest, "_READING", "")  # as releases before did
    index.add_files([folder])
    assert index.add_files([folder]) == AddReport(unchanged=6)
    monkeypatch.undo()
    encoder.documents.clear()
    assert index.add_files([folder]) == AddReport(replaced=6)
    assert encoder.documents == []
    assert index.add_files([folder]) == AddReport(unchanged=6)


def test_long_metadata_of_a_file_are_cut(index, tmp_path):
    """Each passage holds them. The text has all of them."""
    receivers = ", ".join(f"somebody{i}@example.org" for i in range(300))
    write(tmp_path / "a.eml", f"Subject: Keys\nTo: {receivers}\nTo: last@example.org\n\n" + "Keys hang here. " * 200)
    index.add_files([tmp_path / "a.eml"])
    found = list(index.documents())
    assert len(found) > 100
    assert {len(d.metadata["to"]) for d in found} == {501}
    assert {d.metadata["subject"] for d in found} == {"Keys"}
    assert "last@example.org" in " ".join(d.text for d in found)


def test_repeated_passages_of_a_file_are_kept_each(index, tmp_path):
    path = write(tmp_path / "song.txt", "We all live down here now. " * 3)
    assert index.add_files([path]) == AddReport(added=3)
    assert len(index.search("live here")) == 3
    assert index.add_files([path]) == AddReport(unchanged=3)


def test_documents_that_came_from_no_file_are_left_alone(index, folder):
    by_hand = {"mine": {}, "other": {"source": "by hand"}, "gone": {"source": str(folder.resolve() / "gone.txt")}}
    index.add([Document(id, f"A note, {id}.", metadata) for id, metadata in by_hand.items()])
    index.add_files([folder])
    write(folder / "cats.txt", "Changed.")
    (folder / "tax.html").unlink()
    assert index.add_files([folder], prune=True).removed == 3
    assert len(index.get(list(by_hand))) == 3


def test_a_document_of_the_users_own_about_a_file_is_left_alone(index, folder):
    index.add([Document("mine", "A note on the cats.", {"source": str((folder / "cats.txt").resolve())})])
    index.add_files([folder])
    assert index.get(["mine"])

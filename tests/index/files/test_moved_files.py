"""`SmartIndex.add_files`: files that were moved, and other names of a file."""

from __future__ import annotations

import os
import sqlite3

import pytest
from helpers.indexed_files import assert_whole, found
from helpers.text_files import write

from smart_rag.reports import AddReport, SkippedFile


def test_files_with_the_same_bytes_are_added_once(index, tmp_path, encoder):
    one, other = (write(tmp_path / "docs" / name, "The cat sat on the mat.") for name in ("one.txt", "other.txt"))
    third = write(tmp_path / "docs" / "third.md", "The cat sat on the mat.")  # it is read in another way
    for count in (AddReport(added=2), AddReport(unchanged=2)):
        report = index.add_files([tmp_path / "docs"])
        assert report == count
        assert report.skipped == (SkippedFile(other, "the same content as another file", str(one)),)
    assert encoder.documents == ["The cat sat on the mat."]
    # As soon as they differ, both are added.
    write(one, "Dogs bark at strangers at night.")
    assert index.add_files([tmp_path / "docs"]) == AddReport(replaced=1, unchanged=1, moved=1)
    # As soon as they are equal again, one of them goes.
    write(other, "Dogs bark at strangers at night.")
    assert index.add_files([tmp_path / "docs"]) == AddReport(unchanged=2, removed=1)
    # If the file that is in the index goes, the other one takes its place.
    one.unlink()
    assert index.add_files([tmp_path / "docs"]) == AddReport(unchanged=1, moved=1)
    assert {d.id for d in index.documents()} == {f"{other}#0", f"{third}#0"}
    assert encoder.documents[1:] == ["Dogs bark at strangers at night."]
    assert_whole(index)


def test_another_name_of_a_file_that_was_indexed_goes(index, tmp_path):
    """Hard links and links that are left at the old place."""
    docs = tmp_path / "docs"
    first = write(docs / "z.txt", "The cat sat on the mat.")
    index.add_files([docs])
    os.link(first, docs / "a.txt")
    write(first, "Dogs bark at strangers at night.")
    report = index.add_files([docs])
    assert [d.id for d in index.documents()] == [f"{docs / 'a.txt'}#0"]
    assert found(index, "dogs bark").text.startswith("Dogs")
    assert (docs / "z.txt") in {one.path for one in report.skipped}
    (docs / "a.txt").unlink()
    (docs / "z.txt").rename(docs / "moved.txt")
    (docs / "z.txt").symlink_to(docs / "moved.txt")
    assert index.add_files([docs]) == AddReport(moved=1)
    write(docs / "moved.txt", "Fish swim.")
    assert index.add_files([docs]) == AddReport(replaced=1)
    assert [(d.id, d.text) for d in index.documents()] == [(f"{docs / 'moved.txt'}#0", "Fish swim.")]


def test_a_twin_that_is_not_whole_is_no_reason_to_leave_a_file_out(index, tmp_path):
    text = "The cat sat on the mat. It purred all day long. Nobody knew why it purred."
    one = write(tmp_path / "a" / "one.txt", text)
    index.add_files([one])
    index.delete([f"{one}#1"])
    other = write(tmp_path / "b" / "other.txt", text)
    report = index.add_files([tmp_path / "b"])
    assert report.added == report.read[0].passages == 3
    assert {d.metadata["source"] for d in index.documents()} == {str(one), str(other)}


def test_a_folder_that_was_moved_is_known_again(index, folder, encoder):
    index.add_files([folder])
    before = {d.id.removeprefix(str(folder)): (d.text, d.metadata) for d in index.documents()}
    scores = {hit.text: hit.score for hit in index.search("cats and taxes", 6)}
    encoder.documents.clear()
    new = folder.rename(folder.with_name("renamed"))
    assert {one.exists for one in index.sources()} == {False}
    report = index.add_files([new])
    assert report == AddReport(moved=6)
    assert encoder.documents == []
    after = {d.id.removeprefix(str(new)): (d.text, d.metadata) for d in index.documents()}
    assert after.keys() == before.keys()
    for name, (text, metadata) in after.items():
        old = before[name][1]
        assert (text, metadata) == (
            before[name][0],
            {**old, "source": str(new) + old["source"].removeprefix(str(folder))},
        )
    assert {hit.text: hit.score for hit in index.search("cats and taxes", 6)} == pytest.approx(scores)
    assert {one.exists for one in index.sources()} == {True}
    assert index.add_files([new]) == AddReport(unchanged=6)
    assert_whole(index)


def test_a_file_that_was_moved_and_changed_is_another_file(index, folder):
    index.add_files([folder])
    write((folder / "cats.txt").rename(folder / "lions.txt"), "Lions roar.")
    report = index.add_files([folder], prune=True)
    assert (report.added, report.moved, report.removed + report.unchanged) == (1, 0, 6)


def test_rows_of_a_moved_file_that_were_altered_are_read_again(index, folder, encoder):
    index.add_files([folder])
    with sqlite3.connect(index.path / "chroma" / "chroma.sqlite3") as database:
        sql = "update embedding_metadata set string_value='forged' where key='chroma:document' and string_value like ?"
        assert database.execute(sql, ["%cat%"]).rowcount > 0
    (folder / "cats.txt").rename(folder / "lions.txt")
    report = index.add_files([folder], prune=True)
    assert (report.added, report.moved, report.removed) == (3, 0, 3)
    assert_whole(index)

"""`SmartIndex.add_files` and `delete_source`: files that are gone, or left out, or no longer wanted."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from helpers.indexed_files import assert_whole, texts
from helpers.other_users import as_nobody
from helpers.text_files import write

from smart_rag import Document
from smart_rag.errors import InvalidInput
from smart_rag.index.writing.indexed_files import is_gone
from smart_rag.reports import AddReport


def test_files_that_are_left_out_now_are_named_and_pruned(index, folder, caplog):
    index.add_files([folder])
    write(folder / ".gitignore", "cats.txt\n")
    assert index.add_files([folder], exclude=["*.html"]).removed == 0
    assert "1 file of the index is left out now; the option prune removes its passages" in caplog.text
    assert index.add_files([folder], exclude=["*.html"], prune=True).removed == 3
    assert {Path(d.metadata["source"]).name for d in index.documents()} == {"dogs.md", "tax.html"}


def test_prune_of_a_folder_whose_last_file_is_gone(index, folder):
    index.add_files([folder / "deep"])
    (folder / "deep" / "dogs.md").unlink()
    with pytest.raises(InvalidInput, match="no documents found"):
        index.add_files([folder / "deep"])
    assert index.add_files([folder / "deep"], prune=True).removed == 2
    assert index.count() == 0


def test_nobody_knows_whether_a_file_in_a_closed_folder_is_gone():
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        write(root / "closed" / "a.txt", "Words.")
        assert not is_gone(root / "closed" / "a.txt")
        assert is_gone(root / "closed" / "b.txt")
        assert is_gone(root / "closed" / "a.txt" / "b.txt")
        (root / "closed").chmod(0)
        with as_nobody():
            assert not is_gone(root / "closed" / "a.txt")
            assert not is_gone(root / "closed" / "b.txt")
        (root / "closed").chmod(0o700)


def test_sources_and_prune_of_the_whole_index(index, folder, tmp_path):
    index.add_files([folder])
    index.add([Document("mine", "A note.", {"source": str(folder / "nowhere.txt")})])
    names = [one.path.name for one in index.sources()]
    assert len(names) == len(set(names))
    assert sum(one.passages for one in index.sources()) == 6
    (folder / "cats.txt").unlink()
    gone = [one for one in index.sources() if not one.exists]
    assert [one.path.name for one in gone] == ["cats.txt"]
    assert index.prune() == gone[0].passages
    assert index.prune() == 0
    assert "mine" in {d.id for d in index.documents()}


def test_a_folder_can_be_deleted_and_pruned_after_it_is_gone(index, folder, tmp_path):
    other = write(tmp_path / "docs2" / "a.txt", "Not below the folder.")
    index.add_files([folder, other])
    copy = folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(InvalidInput, match="does not exist"):
        index.add_files([folder])
    assert index.add_files([folder], prune=True) == AddReport(removed=6)
    index.add_files([copy])
    assert index.delete_source(copy) == 6
    assert [d.metadata["source"] for d in index.documents()] == [str(other)]


def test_a_file_that_vanished_stays_unless_pruned(index, folder, caplog):
    index.add_files([folder])
    index.add([Document(f"{folder / 'gone.txt'}#0", "A note.", {"source": str(folder / "gone.txt")})])
    (folder / "cats.txt").unlink()
    assert index.add_files([folder]) == AddReport(unchanged=3)
    assert len(texts(index, folder / "cats.txt")) == 3
    gone = "1 file of the index no longer exists; the option prune removes its passages"
    gone = f"{gone}: {(folder / 'cats.txt').resolve()}"
    assert caplog.messages == [gone]
    (folder / "tax.html").unlink()
    for path in (folder / "deep", folder / "deep" / "dogs.md"):
        index.add_files([path])  # nothing is gone there
    assert caplog.messages == [gone]
    index.add_files([folder])
    both = f"{(folder / 'cats.txt').resolve()}, {(folder / 'tax.html').resolve()}"
    assert caplog.messages[1:] == [
        f"2 files of the index no longer exist; the option prune removes their passages: {both}"
    ]
    assert index.add_files([folder], prune=True) == AddReport(unchanged=2, removed=4)
    assert texts(index, folder / "cats.txt") == []
    assert_whole(index)
    index.add_files([folder])
    assert len(caplog.messages) == 2


def test_only_files_below_the_paths_are_pruned(index, folder, tmp_path):
    twin = tmp_path / "docs2"  # of which "docs" is a prefix
    gone = [
        write(path, f"Words of {path.name}.") for path in (folder / "deep" / "a.txt", folder / "b.txt", twin / "c.txt")
    ]
    index.add_files([folder, twin])
    for path in gone:
        path.unlink()
    assert index.add_files([folder / "deep"], prune=True).removed == 1
    assert [len(texts(index, path)) for path in gone] == [0, 1, 1]
    assert index.add_files([folder], prune=True).removed == 1
    assert [len(texts(index, path)) for path in gone] == [0, 0, 1]


def test_a_file_that_is_excluded_now_is_not_pruned(index, folder):
    index.add_files([folder])
    assert index.add_files([folder], exclude=["cats.txt"], prune=True) == AddReport(unchanged=3)
    assert index.count() == 6


def test_delete_source_takes_any_name(index, folder):
    index.add_files([folder])
    assert index.delete_source(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt")) == 0
    assert index.delete_source(folder) == 6


def test_delete_source_takes_relative_and_absolute_paths(index, folder, monkeypatch):
    index.add_files([folder])
    monkeypatch.chdir(folder)
    assert index.delete_source("deep/../cats.txt") == 3
    assert index.delete_source(folder / "tax.html") == 1
    assert index.delete_source(Path("tax.html")) == 0
    assert {d.metadata["source"] for d in index.documents()} == {str((folder / "deep" / "dogs.md").resolve())}
    assert index.delete_source(str((folder / "deep" / "dogs.md").resolve())) == 2
    assert index.count() == 0


def test_delete_source_takes_a_source_that_is_no_path(index):
    index.add([Document("a", "Some words.", {"source": "https://example.org/a b"}), Document("b", "More words.")])
    assert index.delete_source("https://example.org/a b") == 1
    assert [d.id for d in index.documents()] == ["b"]


def test_a_file_that_was_deleted_from_the_index_comes_back(index, folder, encoder):
    index.add_files([folder])
    index.delete_source(folder / "cats.txt")
    assert index.add_files([folder]) == AddReport(added=3, unchanged=3)
    index.delete([d.id for d in index.documents() if "purred all" in d.text])
    encoder.documents.clear()
    assert index.add_files([folder]) == AddReport(added=1, unchanged=5)
    assert encoder.documents == ["It purred all day long."]

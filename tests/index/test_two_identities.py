"""Folders that are moved, replaced or overwritten while they are open: never rows of one with tokens of another."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from helpers.word_encoder import VocabularyEncoder

from smart_rag import Document, IndexConfig, SmartIndex
from smart_rag.errors import CorruptStore, IndexClosed, IndexNotFound


def make(path, texts):
    with SmartIndex.create(path, VocabularyEncoder(), config=IndexConfig(codec="exact")) as index:
        index.add([Document(id, text) for id, text in texts.items()])


OLD = {"a": "pump bearings", "b": "boat keys"}
NEW = {"a": "winter tyres", "b": "summer tyres", "c": "carp"}


@pytest.fixture
def old(tmp_path):
    make(tmp_path / "old", OLD)
    return tmp_path / "old"


@pytest.fixture
def new(tmp_path):
    make(tmp_path / "new", NEW)
    return tmp_path / "new"


def shell(*command):
    """Move folders in another process."""
    subprocess.run([str(word) for word in command], check=True)


def assert_is_gone(index):
    for call in (
        lambda: index.search("tyres"),
        lambda: index.search("tyres", first_stage="terms"),
        lambda: list(index.documents()),
        lambda: index.get(["a"]),
        lambda: index.add_texts(["text"]),
        lambda: index.delete(["a"]),
        index.count,
        index.verify,
        index.vacuum,
    ):
        with pytest.raises(IndexNotFound, match="has been deleted, moved or replaced by another"):
            call()


def assert_holds(path, texts):
    """A reopened index has these documents, all of their parts, and nothing else."""
    with SmartIndex.open(path, VocabularyEncoder()) as index:
        assert {document.id: document.text for document in index.documents()} == texts
        report = index.verify()
        assert report.sound
        assert not report.orphans
        assert {hit.id for hit in index.search("tyres")} == set(texts)
        assert index.vacuum() == 0


def test_another_index_on_the_path(old, new, tmp_path):
    with SmartIndex.open(old, VocabularyEncoder()) as index, SmartIndex.open(old, VocabularyEncoder()) as second:
        assert index.search("bearings")[0].id == "a"
        shell("mv", old, tmp_path / "elsewhere")
        assert_is_gone(index)
        shell("mv", new, old)
        assert_is_gone(second)
        assert_is_gone(index)
        assert_holds(old, NEW)  # a reopen in the same process, while the first objects are still open
        assert_is_gone(second)
        assert_holds(tmp_path / "elsewhere", OLD)
        shell("mv", old, new)
        shell("mv", tmp_path / "elsewhere", old)
        for call in (lambda: index.search("bearings"), second.vacuum):  # it is back, but its rows were closed
            with pytest.raises(IndexClosed, match="open it again"):
                call()
    assert_holds(old, OLD)
    assert_holds(new, NEW)


def test_two_open_indexes_change_places(old, new, tmp_path):
    with SmartIndex.open(old, VocabularyEncoder()) as one, SmartIndex.open(new, VocabularyEncoder()) as other:
        assert (one.count(), other.count()) == (2, 3)
        shell("mv", old, tmp_path / "between")
        shell("mv", new, old)
        shell("mv", tmp_path / "between", new)
        assert_is_gone(one)
        assert_is_gone(other)
        assert_holds(old, NEW)
        assert_holds(new, OLD)
        assert_is_gone(one)
    assert_holds(old, NEW)
    assert_holds(new, OLD)


def test_a_part_that_is_replaced(old, new):
    """A folder with the rows of one index and the tokens of another is refused as long as the index is open."""
    with SmartIndex.open(old, VocabularyEncoder()) as index:
        shell("mv", old / "chroma", old.parent / "chroma")
        shell("mv", new / "chroma", old / "chroma")
        for call in (lambda: index.search("tyres"), index.vacuum, index.count):
            with pytest.raises(IndexNotFound, match="has been deleted, moved or replaced by another"):
                call()
        shell("mv", old / "chroma", new / "chroma")
        shell("mv", old.parent / "chroma", old / "chroma")
    assert_holds(old, OLD)
    with SmartIndex.open(old, VocabularyEncoder()) as index, SmartIndex.open(old, VocabularyEncoder()) as second:
        shell("mv", old / "tokens", old.parent / "tokens")
        shell("mv", new / "tokens", old / "tokens")
        assert_is_gone(index)
        assert_is_gone(second)
    with SmartIndex.open(old, VocabularyEncoder()) as index, pytest.raises(CorruptStore):
        index.search("bearings")


def test_an_index_that_is_copied_into_the_files_of_another(old, new):
    """``cp -r new/. old`` keeps the inodes; the id of the manifest tells them apart."""
    (new / "terms" / "data.mdb").unlink()  # LMDB's files are open, and must not change below LMDB
    (new / "tokens" / "data.mdb").unlink()
    with SmartIndex.open(old, VocabularyEncoder()) as index, SmartIndex.open(old, VocabularyEncoder()) as second:
        index.search("bearings")
        inode = (old / "manifest.json").stat().st_ino
        shutil.copyfile(new / "manifest.json", old / "manifest.json")
        assert (old / "manifest.json").stat().st_ino == inode
        assert_is_gone(index)
        assert_is_gone(second)


def test_a_new_setting_is_not_another_index(old):
    """Each change of the settings writes the manifest anew; the index stays the same."""
    with SmartIndex.open(old, VocabularyEncoder()) as index, SmartIndex.open(old, VocabularyEncoder()) as second:
        index.set_weights((1, 2))
        assert second.count() == index.count() == 2

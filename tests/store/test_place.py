"""`Place`: a folder keeps its identity when it moves, and another one on its path has another identity."""

from __future__ import annotations

import re
import shutil

import pytest

from smart_rag.errors import IndexNotFound
from smart_rag.store.place import Place, identity_of


@pytest.fixture
def place(tmp_path):
    file = tmp_path / "folder" / "file"
    file.parent.mkdir()
    with file.open("wb"):
        yield Place(file.parent, file, identity_of(file))


def test_a_folder_that_is_there(place):
    place.file.write_text("other contents")
    assert place.is_same()
    place.check()


def test_a_folder_that_is_gone(place):
    shutil.rmtree(place.folder)
    message = f"{place.folder}: the folder that was opened here has been deleted, moved or replaced"
    with pytest.raises(IndexNotFound, match=re.escape(message)):
        place.check()


def test_a_folder_that_was_made_again(place):
    for _ in range(10):  # a file system may use an inode again, but not while the file is open
        shutil.rmtree(place.folder)
        place.folder.mkdir()
        place.file.touch()
        assert not place.is_same()


def test_moved_and_copied_folders(place, tmp_path):
    moved, copy = tmp_path / "moved", tmp_path / "copy"
    shutil.copytree(place.folder, copy)
    place.folder.rename(moved)
    assert identity_of(moved / "file") == place.identity != identity_of(copy / "file")
    copy.rename(place.folder)
    assert not place.is_same()


def test_a_folder_that_became_a_file(place):
    shutil.rmtree(place.folder)
    place.folder.write_text("a file")
    assert not place.is_same()

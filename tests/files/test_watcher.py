"""Changes of files as they come, whatever becomes of the folders."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from helpers.other_users import as_nobody
from helpers.text_files import write

from smart_rag.errors import InvalidInput
from smart_rag.files.watcher import changes

pytestmark = pytest.mark.timeout(60)


def test_changes_are_told_without_those_of_hidden_files(tmp_path):
    root = (tmp_path / "docs").resolve()
    write(root / ".git" / "config", b"words")
    told = changes([root], tmp_path / "index")
    assert next(told) == {root}
    write(root / ".git" / "index.lock", b"words")
    write(root / "a.txt", b"words")
    assert next(told) == {root / "a.txt"}
    write(root / ".gitignore", b"words")
    assert next(told) == {root / ".gitignore"}


def test_a_path_that_does_not_exist_is_looked_for(tmp_path):
    root = tmp_path.resolve()
    write(root / "docs" / "a.txt", b"words")
    places = {root / "docs", root / "no" / "such", root / "no" / "file.txt"}
    told = changes(sorted(places), root / "index")
    assert next(told) == places
    write(root / "docs" / "a.txt", b"more words")
    assert next(told) == {root / "docs" / "a.txt"}
    write(root / "no" / "file.txt", b"words")
    assert next(told) == places
    shutil.rmtree(root / "docs")
    while (changed := next(told)) != places:
        assert changed <= {root / "docs" / "a.txt", root / "docs"}


def test_a_folder_above_may_lose_its_permissions():
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve()
        root.chmod(0o755)
        write(root / "p" / "docs" / "a.txt", b"words")
        told = changes([root / "p" / "docs"], root / "index")
        with as_nobody():
            assert next(told) == {root / "p" / "docs"}
        if os.geteuid() == 0:
            os.chown(root / "p", 65534, 65534)
        (root / "p").chmod(0)
        with as_nobody():
            assert next(told) == {root / "p" / "docs"}
        (root / "p").chmod(0o755)
        with as_nobody():
            assert next(told) == {root / "p" / "docs"}  # watched again
        write(root / "p" / "docs" / "b.txt", b"words")
        with as_nobody():
            assert root / "p" / "docs" / "b.txt" in next(told)


def test_a_folder_that_is_replaced_and_removed_at_once_is_told(tmp_path):
    root = (tmp_path / "docs").resolve()
    write(root / "a.txt", b"words")
    told = changes([root], tmp_path / "index")
    assert next(told) == {root}
    root.rename(tmp_path / "elsewhere")
    write(root / "a.txt", b"words")
    assert root in next(told)
    shutil.rmtree(root)  # while the new folder is not watched yet
    assert next(told) == {root}
    write(root / "b.txt", b"words")
    assert root in next(told)


@pytest.mark.skipif(sys.platform != "linux", reason="this system has no names that are not UTF-8")
def test_a_folder_whose_path_is_not_utf8_is_named(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/f\xe9"))
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(InvalidInput, match=r"f\\xe9: a folder cannot be watched"):
        next(changes([tmp_path / "link"], tmp_path / "own"))


@pytest.mark.skipif(sys.platform != "linux", reason="this system has no names that are not UTF-8")
def test_names_that_are_not_utf8_end_nothing(tmp_path):
    """watchfiles raises an error for them. A folder that has one from the start is watched in another way."""
    root = (tmp_path / "docs").resolve()
    write(root / os.fsdecode(b"dir\xfe") / "a.txt", b"words")
    told = changes([root], tmp_path / "index")
    assert next(told) == {root}
    list((root / os.fsdecode(b"dir\xfe")).iterdir())  # reading is an event, too
    write(root / os.fsdecode(b"n\xff.txt"), b"words")
    assert next(told) == {root}
    write(root / "b.txt", b"words")
    while root / "b.txt" not in next(told):
        pass

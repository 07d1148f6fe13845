"""A file is checked before a parser opens it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from smart_rag.errors import DocumentError
from smart_rag.files.formats.readable import check_readable


def reason(path):
    with pytest.raises(DocumentError) as caught:
        check_readable(path)
    assert caught.value.path == path
    return caught.value.reason


def test_a_file_with_one_byte_is_readable(tmp_path):
    (tmp_path / "a").write_bytes(b"\0")
    check_readable(tmp_path / "a")


def test_each_reason(tmp_path):
    (tmp_path / "empty").touch()
    assert reason(tmp_path / "empty") == "the file is empty"
    assert reason(tmp_path / "gone") == "cannot be read (No such file or directory)"
    assert reason(tmp_path) == "cannot be read (Is a directory)"
    assert reason(Path("a\0b")) == "cannot be read (embedded null byte)"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path):
    (tmp_path / "a").write_bytes(b"words")
    (tmp_path / "a").chmod(0)
    assert reason(tmp_path / "a") == "cannot be read (Permission denied)"

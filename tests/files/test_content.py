"""A file is known by its bytes."""

import pytest

from smart_rag.errors import DocumentError
from smart_rag.files.content import digest_of_file


def written(path, data):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


def test_the_hash_is_of_all_bytes_and_nothing_else(tmp_path):
    data = bytes(2_500_000)
    one = digest_of_file(written(tmp_path / "one", data))
    assert digest_of_file(written(tmp_path / "other" / "name.txt", data)) == one
    hashes = {one}
    for changed in (
        b"\1" + data[1:],
        data[:-1] + b"\1",
        data + b"\0",
        data[:1_500_000] + b"\1" + data[1_500_001:],
        b"",
    ):
        hashes.add(digest_of_file(written(tmp_path / "one", changed)))
    assert len(hashes) == 6


def test_the_hash_of_a_missing_file(tmp_path):
    with pytest.raises(DocumentError, match=r"gone: cannot be read \(No such file"):
        digest_of_file(tmp_path / "gone")

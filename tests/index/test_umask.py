"""Two users of one group. The umask of the first lets the second write, and every file has the mode that it says."""

from __future__ import annotations

import shutil

import pytest
from helpers.other_users import need_root, open_folder, run_as

FIRST, SECOND, GROUP = 64001, 64002, 64003

CREATE = """
from PIL import Image
from helpers.word_encoder import SeeingEncoder
from smart_rag import IndexConfig
with SmartIndex.create(path, SeeingEncoder(), config=IndexConfig(codec="exact")) as index:
    index.add([Document(f"d{i}", f"text {i}") for i in range(1100)])  # Chroma writes files after a thousand rows
    index.add([Document("image", "text", image=Image.new("RGB", (8, 8)))])
    index.search("text 1")
    index.set_weights((1, 2))
"""
WRITE = """
from PIL import Image
from helpers.word_encoder import SeeingEncoder
with SmartIndex.open(path, SeeingEncoder()) as index:
    count = index.count()
    index.add([Document(f"{user}-{i}", f"more {i}") for i in range(1100)])
    index.add([Document(f"image of {user}", "text", image=Image.new("RGB", (9, user % 100)))])
    index.delete(["d1"])
    index.set_weights((2, 1))
    index.vacuum()
    assert index.search(f"more 7", 1)[0].text == "more 7"
    say(index.count() - count)
"""


@pytest.fixture
def path():
    need_root()
    folder = open_folder((FIRST, GROUP))
    folder.chmod(0o775)
    yield folder / "index"
    shutil.rmtree(folder)


def modes(path):
    """Return the sets of modes of the files and of the folders."""
    found = [path, *path.rglob("*")]
    files = {oct(one.stat().st_mode & 0o777) for one in found if one.is_file()}
    return files, {oct(one.stat().st_mode & 0o777) for one in found if one.is_dir()}


@pytest.mark.slow
def test_a_group(path):
    run_as(FIRST, path, CREATE, group=GROUP, umask="002")
    names = {one.name for one in path.rglob("*")}
    assert {"lock.mdb", "write.lock", "smart_rag.lock", "chroma.sqlite3", "header.bin", "manifest.json"} <= names
    assert any(name.endswith(".png") for name in names)
    assert modes(path) == ({"0o664"}, {"0o775"})
    assert run_as(SECOND, path, WRITE, group=GROUP, umask="002") == "1100\n"
    assert modes(path) == ({"0o664"}, {"0o775"})
    assert run_as(FIRST, path, WRITE, group=GROUP, umask="002") == "1101\n"


def test_a_user_without_a_group(path):
    """With the usual umask, nobody else can write."""
    run_as(FIRST, path, CREATE, group=GROUP)
    assert modes(path) == ({"0o644"}, {"0o755"})
    code = """
    from helpers.word_encoder import SeeingEncoder
    with SmartIndex.open(path, SeeingEncoder()) as index:
        assert index.count() == 1101
        try:
            index.delete(["d1"])
        except errors.IndexReadOnly as error:
            say("refused")
    """
    assert run_as(SECOND, path, code, group=GROUP) == "refused\n"

"""The record of checksums fits after every write and every opening, and tells damage from a killed process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest
from helpers.rows import create, row, unit_rows
from helpers.word_encoder import TESTS

from smart_rag.errors import CorruptStore
from smart_rag.store.checks.vector_files import FILE_NAME
from smart_rag.store.pooled_store import PooledStore

WIDTH = 8


def add(store, start, stop):
    store.upsert([row(f"d{i}") for i in range(start, stop)], unit_rows(stop - start, WIDTH, start))


def reopened(path):
    return PooledStore.open(path, None, "smart_rag")


def record(path):
    return json.loads((path / FILE_NAME).read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "chroma"
    store = create(path)
    for start in range(0, 1200, 600):
        add(store, start, start + 600)
    store.close()
    return path


@pytest.fixture
def folder(made, tmp_path):
    """A copy, whose files have other inodes and times."""
    for source in made.rglob("*"):
        target = tmp_path / "chroma" / source.relative_to(made)
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    return tmp_path / "chroma"


def vectors(folder):
    return next(folder.glob("*/header.bin")).parent


def flip(file, place=-1):
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def test_the_record_fits_after_every_write_and_opening(tmp_path):
    """So Chroma changes its files only where the record is written again."""
    path = tmp_path / "chroma"
    store = create(path)
    persisted = set()
    for step in range(5):
        if step % 3 == 2:
            store.delete([f"d{i}" for i in range(step * 100, step * 200, 2)])
        else:
            add(store, step * 300, step * 300 + 600)
        assert record(path)["writes"] == store.version()
        assert store.damage() is None
        persisted.add(json.dumps(record(path)["files"]))
        if step % 2:
            store.close()
            store = reopened(path)
            store.query(unit_rows(1, WIDTH), 3)
            assert store.damage() is None
    store.close()
    assert len(persisted) > 2
    other = "import sys; from pathlib import Path; from smart_rag.store.pooled_store import PooledStore\n"
    other += "print(PooledStore.open(Path(sys.argv[1]), None, 'smart_rag').damage())"
    assert subprocess.run([sys.executable, "-c", other, path], capture_output=True, text=True).stdout == "None\n"


def test_a_copy_is_sound(folder):
    store = reopened(folder)
    assert store.count() == 1200
    assert store.damage() is None
    store.close()


@pytest.mark.parametrize("name", ["header.bin", "data_level0.bin", "length.bin", "index_metadata.pickle"])
def test_a_flipped_bit_is_named(folder, name):
    """The last byte of each file, which no other check looks at."""
    flip(vectors(folder) / name, -20 if name == "header.bin" else -1)
    if name != "header.bin":
        store = reopened(folder)
        assert name in store.damage()
        store.close()
    else:
        with pytest.raises(CorruptStore, match=name):
            reopened(folder)


def test_a_later_write_does_not_make_damage_good(folder):
    """The record keeps the checksums of files that Chroma has not written again."""
    flip(vectors(folder) / "length.bin")
    store = reopened(folder)
    add(store, 5000, 5001)
    assert "length.bin" in store.damage()
    store.close()


def test_a_shorter_pickle_is_an_error(folder):
    file = vectors(folder) / "index_metadata.pickle"
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(CorruptStore, match=r"index_metadata.pickle: expected [\d,]+ bytes, found [\d,]+"):
        reopened(folder)


@pytest.mark.parametrize(
    "found",
    [
        *("", "nonsense", "[1]", '{"writes": 1}', '{"writes": Infinity, "files": {}}', None),
        *('{"writes": 1, "files": {"a": [1e999, "b"]}}', '{"writes": 1, "files": {"a": {}}}'),
    ],
)
def test_a_record_that_says_nothing(folder, found):
    """A process that is killed may leave half a record, and an older smart_rag has none."""
    file = folder / FILE_NAME
    if found is None:
        file.unlink()
    else:
        file.write_text(found)
    store = reopened(folder)
    assert store.count() == 1200
    assert store.damage() is None
    assert len(record(folder)["files"]) == 5
    store.close()


def test_a_giant_record_says_nothing(folder):
    """The file is one of holes, which takes no place on the disk."""
    os.truncate(folder / FILE_NAME, 1 << 40)
    store = reopened(folder)
    assert store.count() == 1200
    assert (folder / FILE_NAME).stat().st_size < 2_000
    store.close()


def test_a_process_that_was_killed_while_chroma_wrote(folder):
    """The checksums say nothing, so files that Chroma has written since are no damage."""
    code = f"""
        import os, signal, sys
        sys.path.insert(0, {TESTS!r})
        from pathlib import Path
        from helpers.rows import row, unit_rows
        from smart_rag.store.checks.vector_files import VectorFiles
        from smart_rag.store.pooled_store import PooledStore
        store = PooledStore.open(Path(sys.argv[1]), None, "smart_rag")
        store.count()
        VectorFiles.note = lambda self, writes: os.kill(os.getpid(), signal.SIGKILL)
        store.upsert([row(f"n{{i}}") for i in range(1500)], unit_rows(1500, {WIDTH}, 9))
    """
    before = (vectors(folder) / "index_metadata.pickle").read_bytes()
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code), folder]).returncode == -9
    assert (vectors(folder) / "index_metadata.pickle").read_bytes() != before
    store = reopened(folder)
    assert store.damage() is None
    assert store.count() == 2700
    store.close()

"""Damaged pages of LMDB are an error before LMDB follows them. Intact files never are."""

from __future__ import annotations

import os
import random
import shutil
import struct

import lmdb
import pytest
from helpers.environments import delete, held, put, released

from smart_rag.errors import CorruptStore
from smart_rag.store.checks.lmdb_pages import check_pages, check_start

PAGE = 4096


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An environment with two levels, long values, and free pages."""
    path = tmp_path_factory.mktemp("made") / "lmdb"
    with released(path) as environment:
        put(environment, range(400))
        put(environment, range(1000, 1010), size=9000)
        delete(environment, range(100, 300))
        delete(environment, [1003])
    return path


@pytest.fixture
def file(made, tmp_path):
    shutil.copytree(made, tmp_path / "lmdb")
    return tmp_path / "lmdb" / "data.mdb"


def test_an_intact_file(file):
    check_start(file)
    check_pages(file, PAGE)


def test_any_sequence_of_writes_is_intact(tmp_path):
    """Also those that shrink the tree, and those that make many pages free."""
    rng = random.Random(1)
    for case in range(8):
        with released(tmp_path / str(case)) as environment:
            for _ in range(12):
                numbers = rng.sample(range(3000), rng.choice([1, 30, 600]))
                if rng.random() < 0.5:
                    put(environment, numbers, size=rng.choice([1, 100, 3000, 20_000] if len(numbers) < 100 else [40]))
                else:
                    delete(environment, numbers)
                check_pages(environment._path / "data.mdb", PAGE)


def test_pages_that_lie_beyond_the_end_may_be_free(tmp_path):
    """LMDB does not always write pages that it frees. So an intact file may be shorter than LMDB says."""
    with released(tmp_path) as environment:
        put(environment, range(10))
        size = (tmp_path / "data.mdb").stat().st_size
        put(environment, [10], size=100 * PAGE)
        delete(environment, [10])
        put(environment, [11])
        last = environment._lmdb.info()["last_pgno"]
    file = tmp_path / "data.mdb"
    os.truncate(file, size + 10 * PAGE)
    assert file.stat().st_size < last * PAGE
    check_pages(file, PAGE)
    with released(tmp_path) as environment:
        assert list(held(environment)) == [*range(10), 11]
        put(environment, range(20, 2000))
        assert len(held(environment)) == 1991
    check_pages(file, PAGE)


def test_every_cut(file):
    """A file that lacks a page that LMDB reads is an error, and a file that lacks free pages is not."""
    size = file.stat().st_size
    contents = None
    for length in range(size - 1, -1, -PAGE // 2):
        os.truncate(file, length)
        try:
            check_pages(file, PAGE)
        except CorruptStore:
            continue
        with (
            lmdb.open(str(file.parent), max_dbs=1, readonly=True, lock=False) as environment,
            environment.begin() as transaction,
        ):
            found = [list(transaction.cursor(environment.open_db(b"values", transaction)))]
        contents = contents or found
        assert found == contents


@pytest.mark.parametrize("length", [0, 100, 4096, 6000])
def test_a_file_without_its_first_pages(file, length):
    os.truncate(file, length)
    if length == 100:
        with pytest.raises(CorruptStore, match="not an LMDB file"):
            check_start(file)
    else:
        check_start(file)  # the file may be in the making
    with pytest.raises(CorruptStore, match=r"data\.mdb"):
        check_pages(file, PAGE)


def test_a_page_size_that_lmdb_would_divide_by(file):
    with file.open("r+b") as opened:
        opened.seek(16 + 24)
        opened.write(bytes(4))
    with pytest.raises(CorruptStore, match="not an LMDB file"):
        check_start(file)


def test_flipped_bits_in_the_structure(file):
    """Each bit of the first 16 bytes of a page that is reached, except unused ones, is noticed."""
    data = bytearray(file.read_bytes())
    noticed = 0
    for page in range(2, len(data) // PAGE):
        for place in (0, 10, 12, 14, 16, 17):
            at = page * PAGE + place
            data[at] ^= 4
            file.write_bytes(data)
            try:
                check_pages(file, PAGE)
            except CorruptStore:
                noticed += 1
            data[at] ^= 4
    assert noticed > 100


def newest(file):
    """Return the position of the numbers of the last commit."""
    with file.open("rb") as opened:
        found = [struct.unpack("<Q", os.pread(opened.fileno(), 8, i * PAGE + 16 + 128))[0] for i in (0, 1)]
    return found.index(max(found)) * PAGE + 16


def changed(file, position, value):
    with file.open("r+b") as opened:
        opened.seek(position)
        opened.write(value)


MARKS = [b"\0\0", b"\4\0", b"\x0c\0", b"\x14\0", b"\x2c\0", b"\xff\xff"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((4, struct.pack("<I", version)) for version in (0, 2)),
        (8, b"\0\x10\0\0"),  # the address of the map
        *((16, struct.pack("<Q", size)) for size in (1 << 48, (1 << 64) - PAGE)),  # the size of the map
        *((24, struct.pack("<I", size)) for size in (0, 16, 8192, 1 << 31)),  # the size of a page
        *((28, marks) for marks in MARKS),  # of the database of free pages
        *((72, struct.pack("<I", size)) for size in (16, (1 << 32) - 1)),
        *((76, marks) for marks in [b"\2\0", b"\x08\0", *MARKS[1:]]),  # of the unnamed database
        *((120, struct.pack("<Q", page)) for page in (0, 1 << 16, 1 << 40, (1 << 64) - 2)),  # the last page
        (128, struct.pack("<Q", (1 << 64) - 1)),  # the number of the commit
    ],
)
def test_numbers_on_the_first_pages(file, field, value):
    """LMDB ends the process if it meets some of these numbers, at the first write at the latest."""
    changed(file, newest(file) + field, value)
    with pytest.raises(CorruptStore, match="not an LMDB file"):
        check_start(file)


def test_numbers_of_the_last_commits_that_lmdb_cannot_add_to(file):
    for i in (0, 1):
        changed(file, i * PAGE + 16 + 128, struct.pack("<Q", (1 << 64) - 2 + i))
    with pytest.raises(CorruptStore, match="number of a commit"):
        check_start(file)


@pytest.mark.parametrize(
    ("field", "value"), [(0, b"\x10\0"), *((4, marks) for marks in [b"\2\0", b"\x08\0", *MARKS[1:]])]
)
def test_marks_of_a_named_database(file, field, value):
    root = struct.unpack("<Q", file.read_bytes()[newest(file) + 112 :][:8])[0]
    at = file.read_bytes().index(b"values", root * PAGE) + len("values")
    changed(file, at + field, value)
    check_start(file)
    with pytest.raises(CorruptStore, match="with the marks"):
        check_pages(file, PAGE)


def test_a_list_of_free_pages_of_a_later_commit(file):
    root = struct.unpack("<Q", file.read_bytes()[newest(file) + 64 :][:8])[0]
    at = root * PAGE + struct.unpack("<H", file.read_bytes()[root * PAGE + 16 :][:2])[0]  # the first entry
    changed(file, at + 8, struct.pack("<Q", 1 << 40))
    with pytest.raises(CorruptStore, match="freed by the commits"):
        check_pages(file, PAGE)


def test_a_key_that_is_too_long_or_empty(file):
    root = struct.unpack("<Q", file.read_bytes()[newest(file) + 112 :][:8])[0]
    at = root * PAGE + struct.unpack("<H", file.read_bytes()[root * PAGE + 16 :][:2])[0]
    for length in (0, 512):
        changed(file, at + 6, struct.pack("<H", length))
        with pytest.raises(CorruptStore, match="keys of 1 to 511 bytes"):
            check_pages(file, PAGE)

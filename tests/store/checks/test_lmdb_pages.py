"""Damaged pages of LMDB are an error before LMDB follows them. Intact files never are."""

from __future__ import annotations

import os
import random
import shutil

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
        with pytest.raises(CorruptStore, match="first page"):
            check_start(file)
    with pytest.raises(CorruptStore, match=r"data\.mdb"):
        check_pages(file, PAGE)


def test_a_page_size_that_lmdb_would_divide_by(file):
    with file.open("r+b") as opened:
        opened.seek(16 + 24)
        opened.write(bytes(4))
    with pytest.raises(CorruptStore, match="first page"):
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

"""Damaged files of Chroma's vectors are an error before Chroma loads them. Intact files never are."""

from __future__ import annotations

import os
import shutil
import struct

import numpy as np
import pytest
from helpers.rows import create, row, unit_rows

from smart_rag.config import IndexConfig
from smart_rag.errors import CorruptStore
from smart_rag.store.checks.hnsw_files import FILES, check_files

WIDTH = 8
LINKS = IndexConfig().hnsw_max_neighbors
ELEMENT = 4 + 8 * LINKS + 4 * WIDTH + 8  # neighbours, vector, label


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Chroma's folder with 1,200 vectors, of which some were replaced and some removed."""
    path = tmp_path_factory.mktemp("made") / "chroma"
    store = create(path)
    for start in range(0, 1200, 400):
        store.upsert([row(f"d{i}") for i in range(start, start + 400)], unit_rows(400, WIDTH, start))
    store.delete([f"d{i}" for i in range(0, 1100, 2)])
    store.upsert([row(f"d{i}") for i in range(700)], unit_rows(700, WIDTH, 5))
    store.close()
    return path


def vectors(folder):
    return next(folder.glob("*/header.bin")).parent


def test_intact_files_pass(folder):
    assert check_files(folder) == [vectors(folder)]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(folder, name):
    (vectors(folder) / name).unlink()
    with pytest.raises(CorruptStore, match=rf"{name}: expected .*, found no such file.*verify --repair"):
        check_files(folder)


def test_a_missing_folder(folder):
    shutil.rmtree(vectors(folder))
    with pytest.raises(CorruptStore, match="found no such file"):
        check_files(folder)


@pytest.mark.parametrize("name", [name for name in FILES if name != "index_metadata.pickle"])
@pytest.mark.parametrize("part", [0, 0.5, 1])
def test_a_file_cut_short(folder, name, part):
    """The end of `data_level0.bin` has labels, so even one byte less is too short."""
    file = vectors(folder) / name
    os.truncate(file, min(int(part * file.stat().st_size), file.stat().st_size - 1))
    with pytest.raises(CorruptStore, match=name):
        check_files(folder)


def write(file, position, data):
    with file.open("r+b") as opened:
        opened.seek(position)
        opened.write(data)


@pytest.mark.parametrize(
    ("position", "data"),
    [
        (0, struct.pack("<i", 2)),  # the version
        (12, struct.pack("<Q", 1 << 40)),  # room for so many vectors
        (20, struct.pack("<Q", 3)),  # their number: then the entry is none of them
        (28, struct.pack("<Q", 200)),  # bytes of each
        (52, struct.pack("<i", 40)),  # the highest level
        (56, struct.pack("<I", 1 << 30)),  # the entry
        (60, struct.pack("<Q", 15)),  # neighbours
        (84, struct.pack("<d", 0.5)),  # a number that follows from these
    ],
)
def test_a_number_of_the_header(folder, position, data):
    write(vectors(folder) / "header.bin", position, data)
    with pytest.raises(CorruptStore, match=r"header.bin|data_level0|link_lists"):
        check_files(folder)


@pytest.mark.parametrize(
    ("position", "data"),
    [(4, struct.pack("<I", 1 << 20)), (0, struct.pack("<H", 2 * LINKS + 1)), (700 * ELEMENT + 8, b"\xff" * 4)],
)
def test_neighbours_that_do_not_exist(folder, position, data):
    write(vectors(folder) / "data_level0.bin", position, data)
    with pytest.raises(CorruptStore, match=r"data_level0.bin: expected .*neighbours"):
        check_files(folder)


@pytest.mark.parametrize("damage", ["size", "count", "neighbour", "level"])
def test_neighbours_on_higher_levels(folder, damage):
    file = vectors(folder) / "link_lists.bin"
    words = np.fromfile(file, "<u4")
    first = int(np.flatnonzero(words)[0])  # for each level a count and the neighbours
    assert words[first] % (4 + 4 * LINKS) == 0
    lowest = next(i for i in range(1200) if i < first)  # an element without higher levels
    at, value = {"size": (first, 60), "count": (first + 1, LINKS + 1), "neighbour": (first + 2, 1 << 20)}.get(
        damage, (first + 2, lowest)
    )
    write(file, 4 * at, struct.pack("<I", value))
    with pytest.raises(CorruptStore, match=r"link_lists\.bin"):
        check_files(folder)


def test_a_small_index_has_no_such_files(tmp_path):
    """All vectors are in SQLite, so files are neither missing nor read."""
    store = create(tmp_path / "chroma")
    store.upsert([row("a")], unit_rows(1, WIDTH))
    store.close()
    check_files(tmp_path / "chroma")
    shutil.rmtree(vectors(tmp_path / "chroma"))
    check_files(tmp_path / "chroma")

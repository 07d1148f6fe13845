"""Chroma's SQLite file, read without Chroma."""

from __future__ import annotations

import sqlite3

import pytest
from helpers.rows import create, row, unit_rows

from smart_rag.errors import CorruptStore
from smart_rag.store.checks.chroma_tables import (
    FILE_NAME,
    connection,
    count_of_rows,
    damage_of_tables,
    segments,
)
from smart_rag.store.checks.rows_alone import rows_alone
from smart_rag.store.pooled_store import PooledStore


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "chroma"
    store = create(path)
    store.upsert([row(f"d{i}", f"a text of number{i}", n=i) for i in range(1100)], unit_rows(1100, 8))
    store.close()
    return path


def sql(folder, statement):
    database = sqlite3.connect(folder / FILE_NAME)
    with database:
        database.execute(statement)
    database.close()


def test_segments(folder):
    (segment,) = segments(folder)
    assert (segment.dimension, segment.persisted, segment.logged) == (8, 1100, 1100)
    assert (folder / segment.name / "header.bin").exists()
    assert count_of_rows(folder) == 1100


def test_nothing_can_be_written(folder):
    with connection(folder) as opened, pytest.raises(sqlite3.OperationalError):
        opened.execute("DELETE FROM embeddings")


def test_a_file_that_is_missing_or_other_bytes(folder):
    (folder / FILE_NAME).write_bytes(b"nonsense" * 1000)
    with pytest.raises(CorruptStore, match="SQLite cannot read it"):
        segments(folder)
    (folder / FILE_NAME).unlink()
    with pytest.raises(CorruptStore, match="found none"):
        segments(folder)


def test_sound_tables(folder):
    assert damage_of_tables(folder) is None


def test_an_index_of_sqlite_that_lacks_rows(folder):
    """`PRAGMA integrity_check` finds it."""
    names = ("embedding_metadata_int_value", "embedding_metadata_float_value")
    database = sqlite3.connect(folder / FILE_NAME)
    with database:  # each index gets the pages of the other
        pages = [
            database.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone() for name in names
        ]
        database.execute("PRAGMA writable_schema = 1")
        for name, (page,) in zip(names, reversed(pages), strict=True):
            database.execute("UPDATE sqlite_master SET rootpage = ? WHERE name = ?", (page, name))
    database.close()
    assert "SQLite finds it damaged" in damage_of_tables(folder)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM embedding_fulltext_search_data WHERE id > 10",
        "UPDATE embedding_fulltext_search_content SET c0 = 'another text' WHERE id = 7",
        "DELETE FROM embedding_fulltext_search WHERE rowid = 7",
        "UPDATE embedding_fulltext_search SET string_value = 'another text' WHERE rowid = 7",
    ],
)
def test_an_index_of_words_that_finds_other_texts(folder, statement):
    sql(folder, statement)
    assert "index of words" in damage_of_tables(folder)


def test_rows_are_read_without_damaged_vectors(folder):
    """The files of the vectors are neither read nor written."""
    name = segments(folder)[0].name
    for file in (folder / name).iterdir():
        file.write_bytes(b"damaged")
    with pytest.raises(CorruptStore):
        PooledStore.open(folder, None, "smart_rag")
    with rows_alone(folder, "smart_rag") as store:
        rows = list(store.select())
        assert store.count() == 1100
        place = store.folder
    assert sorted((row.document.id, row.document.text, row.document.metadata["n"]) for row in rows) == sorted(
        (f"d{i}", f"a text of number{i}", i) for i in range(1100)
    )
    assert not place.exists()
    assert {file.read_bytes() for file in (folder / name).iterdir()} == {b"damaged"}

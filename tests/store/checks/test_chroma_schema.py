"""Views, triggers and computed columns in Chroma's SQLite file are found, and nothing of them is run."""

from __future__ import annotations

import sqlite3

import pytest
from helpers.rows import create, row, unit_rows

from smart_rag.errors import CorruptStore
from smart_rag.store.checks.chroma_schema import foreign_part, limited
from smart_rag.store.checks.chroma_tables import FILE_NAME, connection, copy_tables, damage_of_tables, segments
from smart_rag.store.checks.rows_alone import rows_alone
from smart_rag.store.chroma.client import existing_collection
from smart_rag.store.pooled_store import PooledStore

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i AS id FROM n WHERE i < 0"
FOREIGN = {
    "a view": f"CREATE VIEW other AS {ENDLESS}",
    "a view instead of a table": f"ALTER TABLE collections RENAME TO other; CREATE VIEW collections AS {ENDLESS}",
    "a trigger": "CREATE TRIGGER other AFTER INSERT ON embeddings_queue BEGIN DELETE FROM embeddings; END",
    "another kind of virtual table": "CREATE VIRTUAL TABLE other USING fts5(a, content='embeddings')",
    "a virtual table under another name": "CREATE VIRTUAL TABLE other USING fts5(a)",
    "a constraint": "CREATE TABLE other (a CHECK (length(hex(zeroblob(100000000))) > 1))",
    "a default in quotes": "CREATE TABLE other (a DEFAULT 'other')",
    "a generated column": "CREATE TABLE other (a, b GENERATED ALWAYS AS (hex(a)))",
    "a short generated column": "CREATE TABLE other (a, b AS (hex(a)))",
    "a default": "CREATE TABLE other (a DEFAULT (hex(zeroblob(100000000))))",
    "rows that make room": "CREATE TABLE other (a UNIQUE ON CONFLICT REPLACE)",
    "an expression in an index": "CREATE INDEX other ON embeddings (hex(id))",
    "a condition of an index": "CREATE INDEX other ON embeddings (id) WHERE hex(id) > 1",
    "another log": "DROP TABLE embeddings_queue; CREATE TABLE embeddings_queue (seq_id INTEGER, topic TEXT)",
    "many tables": f"BEGIN; {'; '.join(f'CREATE TABLE other{i} (a)' for i in range(1000))}; COMMIT",
}
HARMLESS = [
    "CREATE TABLE later (id INTEGER PRIMARY KEY, -- AS a comment\n name TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)",
    "CREATE TABLE 'later' (id INTEGER DEFAULT 0, \"check\" TEXT)",
    "CREATE UNIQUE INDEX later ON embeddings (segment_id, id) WHERE id IS NOT NULL",
    "ALTER TABLE embeddings_queue ADD COLUMN later INTEGER",
    "ALTER TABLE collections ADD COLUMN later TEXT",
    "ANALYZE",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "chroma"
    store = create(path)
    store.upsert([row(f"d{i}", f"a text of number{i}", n=i) for i in range(5)], unit_rows(5, 8))
    store.close()
    return path


def script(folder, statements):
    database = sqlite3.connect(folder / FILE_NAME)
    database.executescript(statements)
    database.close()


def foreign_in(folder):
    database = sqlite3.connect(folder / FILE_NAME)
    try:
        return foreign_part(database)
    finally:
        database.close()


def test_tables_of_chroma(folder):
    assert foreign_in(folder) is None


@pytest.mark.parametrize("statement", HARMLESS)
def test_tables_of_another_version(folder, statement):
    """The rows can be read and written."""
    script(folder, statement)
    assert foreign_in(folder) is None
    store = PooledStore.open(folder, None, "smart_rag")
    store.upsert([row("new")], unit_rows(1, 8))
    assert store.count() == 6
    store.close()


@pytest.mark.parametrize("name", FOREIGN)
def test_what_chroma_does_not_make(folder, name):
    script(folder, FOREIGN[name])
    before = (folder / FILE_NAME).read_bytes()
    assert foreign_in(folder) is not None
    for read in (segments, damage_of_tables, lambda folder: copy_tables(folder, folder / "copy")):
        with pytest.raises(
            CorruptStore, match=r"chroma\.sqlite3: expected the tables that Chroma makes, found .*backup"
        ):
            read(folder)
    with pytest.raises(CorruptStore, match="found"):
        PooledStore.open(folder, None, "smart_rag")
    with pytest.raises(CorruptStore, match="found"), rows_alone(folder, "smart_rag"):
        pass
    with pytest.raises(CorruptStore, match="found"), existing_collection(folder, "smart_rag"):
        pass
    assert (folder / FILE_NAME).read_bytes() == before


def test_a_view_that_says_it_is_a_table(folder):
    """SQLite goes by the statement, so what is beside it may be anything."""
    script(
        folder,
        f"CREATE VIEW other AS {ENDLESS}; PRAGMA writable_schema = 1; "
        "UPDATE sqlite_master SET type = 'table' WHERE name = 'other'",
    )
    with pytest.raises(CorruptStore), connection(folder):
        pass


@pytest.mark.parametrize("change", ["name = 'one'", "tbl_name = 'one'", "type = 'index'"])
def test_a_table_under_another_name(change):
    database = sqlite3.connect(":memory:")
    database.executescript(
        f"CREATE TABLE other (a); PRAGMA writable_schema = 1; UPDATE sqlite_master SET {change} WHERE name = 'other'"
    )
    assert foreign_part(database) is not None
    database.close()


def test_a_statement_without_end_is_ended():
    database = sqlite3.connect(":memory:")
    with limited(database), pytest.raises(sqlite3.OperationalError, match="interrupted"):
        database.execute(ENDLESS).fetchall()
    with limited(database):
        assert database.execute("SELECT 1").fetchone() == (1,)
    database.close()

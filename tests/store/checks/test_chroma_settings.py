"""Settings and numbers in Chroma's SQLite file that would run code, end the process, or lose documents."""

from __future__ import annotations

import json
import sqlite3

import pytest
from helpers.rows import create, row, unit_rows

from smart_rag.errors import CorruptStore
from smart_rag.store.checks.chroma_settings import check_settings, damage_of_settings
from smart_rag.store.checks.chroma_tables import FILE_NAME, damage_of_tables
from smart_rag.store.checks.rows_alone import rows_alone
from smart_rag.store.pooled_store import PooledStore

FUNCTION = {"type": "known", "name": "sentence_transformer", "config": {"model_name": "theirs"}}
OLD = {"embedding_function": FUNCTION}
ROWS = 1100  # Chroma has written vectors to files, and has removed most of its log


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "chroma"
    store = create(path)
    # Keys of metadata may have the names of settings.
    more = {"space": "l2", "embedding_function": "any", "hnsw": "any", "keys": "any", "max_neighbors": 0}
    store.upsert([row(f"d{i}", f"a text of number{i}", n=i, **more) for i in range(ROWS)], unit_rows(ROWS, 8))
    store.close()
    return path


def sql(folder, *statements):
    database = sqlite3.connect(folder / FILE_NAME)
    with database:
        for statement in statements:
            database.execute(statement)
    database.close()


def change(folder, where, **values):
    """Change the settings of the collection. ``where`` is a path of keys to an object."""
    database = sqlite3.connect(folder / FILE_NAME)
    with database:
        settings = json.loads(database.execute("SELECT schema_str FROM collections").fetchone()[0])
        part = settings
        for key in where:
            part = part[key]
        part.update(values)
        database.execute("UPDATE collections SET schema_str = ?", (json.dumps(settings),))
    database.close()


VECTORS = ("keys", "#embedding", "float_list", "vector_index", "config")
DEFAULTS = ("defaults", "float_list", "vector_index", "config")
SPARSE = ("defaults", "sparse_vector", "sparse_vector_index", "config")
FAULTS = {
    "a function": (lambda at: change(at, VECTORS, embedding_function=FUNCTION), "the embedding function 'sentence_"),
    "a function by default": (lambda at: change(at, DEFAULTS, embedding_function=FUNCTION), "function 'sentence_"),
    "a sparse function": (lambda at: change(at, SPARSE, embedding_function=FUNCTION), "function 'sentence_"),
    "an odd function": (lambda at: change(at, VECTORS, embedding_function=[1]), r"function \[1\]"),
    "a function in the old settings": (
        lambda at: sql(
            at, f"UPDATE collections SET config_json_str = '{json.dumps({'embedding_function': FUNCTION})}'"
        ),
        "function 'sentence_",
    ),
    "another space": (lambda at: change(at, VECTORS, space="l2"), "expected the space 'cosine', found 'l2'"),
    "no space": (lambda at: change(at, VECTORS, space=None), "expected a space, found none"),
    "another index": (lambda at: change(at, VECTORS, spann={"search_nprobe": 1}), "found spann"),
    "no neighbours": (lambda at: change(at, (*VECTORS, "hnsw"), max_neighbors=0), "from 2 to 10,000, found 0"),
    "many neighbours": (lambda at: change(at, (*VECTORS, "hnsw"), max_neighbors=2**62), "found 4611686018427387904"),
    "a text": (lambda at: change(at, (*DEFAULTS, "hnsw"), ef_search="9"), "expected ef_search .* found '9'"),
    "two values": (
        lambda at: sql(at, """UPDATE collections SET schema_str = '{"keys": {}, ' || substr(schema_str, 2)"""),
        "a key is there twice",
    ),
    "nested deeply": (lambda at: sql(at, f"UPDATE collections SET schema_str = '{'[' * 99_999}'"), "RecursionError"),
    "no JSON": (lambda at: sql(at, "UPDATE collections SET schema_str = x'ff'"), r"expected settings in JSON"),
    "no settings": (lambda at: sql(at, "UPDATE collections SET schema_str = NULL"), "expected settings in JSON"),
    "no dimension": (lambda at: sql(at, "UPDATE collections SET dimension = 'zz'"), "of dimensions, found 'zz'"),
    "a later record": (
        lambda at: sql(at, "UPDATE max_seq_id SET seq_id = 100000"),
        "ends with the record 1,100, but the last record that was applied is 100000, so new documents could be lost",
    ),
    "no number": (lambda at: sql(at, "UPDATE max_seq_id SET seq_id = 'zz'"), "that was applied is 'zz'"),
    "a log without its end": (lambda at: sql(at, "UPDATE embeddings_queue SET seq_id = 1090"), "record 1,090"),
    "no log": (lambda at: sql(at, "DELETE FROM embeddings_queue"), "ends with the record 0"),
    "the last number": (
        lambda at: sql(at, "UPDATE embeddings_queue SET seq_id = 9223372036854775807 WHERE seq_id = 1100"),
        "expected a last record with a number below",
    ),
}


def test_what_chroma_has_written(folder):
    check_settings(folder)
    assert damage_of_settings(folder) is None


def test_a_new_folder(tmp_path):
    check_settings(tmp_path)
    (tmp_path / FILE_NAME).touch()
    check_settings(tmp_path)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_and_the_rows_can_be_read(folder, name):
    """Chroma does not open the file. It opens a copy with plain settings, which has all rows."""
    damage, message = FAULTS[name]
    damage(folder)
    with pytest.raises(CorruptStore, match=message) as caught:
        PooledStore.open(folder, None, "smart_rag")
    assert str(caught.value).startswith(f"{folder / FILE_NAME}: ")
    assert "smart-rag verify --repair" in str(caught.value)
    with rows_alone(folder, "smart_rag") as store:
        assert len({one.document.text for one in store.select()}) == ROWS


def test_records_that_chroma_has_left_out_are_read(folder):
    """An older version has acknowledged a row that Chroma never put into its tables. The row is in the log."""
    sql(
        folder,
        "UPDATE max_seq_id SET seq_id = 100000",
        "INSERT INTO embeddings_queue (operation, topic, id, vector, encoding, metadata) "
        "SELECT operation, topic, 'lost', vector, encoding, replace(metadata, 'number1099', 'the lost row') "
        "FROM embeddings_queue WHERE id = 'd1099'",
    )
    with rows_alone(folder, "smart_rag") as store:
        assert store.get(["lost"])["lost"].document.text == "a text of the lost row"
        assert store.count() == ROWS + 1


def test_a_fault_while_the_store_is_open_is_in_its_report(folder):
    store = PooledStore.open(folder, None, "smart_rag")
    assert store.damage() is None
    change(folder, VECTORS, space="l2")
    assert "expected the space 'cosine'" in store.damage()
    store.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE embedding_metadata SET bool_value = 1 WHERE key = 'n' AND id = 7",
        "UPDATE embedding_metadata SET int_value = 'zz' WHERE key = 'n' AND id = 7",
        "UPDATE embedding_metadata SET string_value = x'ff' WHERE key = 'space' AND id = 7",
    ],
)
def test_two_values_and_values_of_another_type(folder, statement):
    sql(folder, statement)
    assert "1 row of embedding_metadata with two values" in damage_of_tables(folder)

"""`PooledStore` on a real Chroma: rows come back as they were written, and scores are cosines."""

import shutil
import sqlite3
import uuid

import chromadb
import numpy as np
import pytest
from helpers.rows import create, row, unit_rows
from helpers.small_disk import small_disk

from smart_rag.config import IndexConfig
from smart_rag.errors import ChromaFailure, CorruptStore, DimensionMismatch, IndexNotFound, InvalidInput, StorageFull
from smart_rag.store.pooled_store import PooledStore
from smart_rag.store.row import FileStamp

RECALL_ROWS = 3_000
MANY_ROWS = 6_000


def key(i):
    return i.to_bytes(16, "big")


def assert_close(found, expected):
    """Chroma normalises the vectors again, so the last bit may differ."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "chroma"


@pytest.fixture
def store(path):
    store = create(path)
    yield store
    store.close()


# --- rows ---------------------------------------------------------------------------------


def test_an_empty_store(store):
    """An empty store answers everything with nothing, before its dimension is known."""
    assert store.count() == 0
    assert store.get(["a"]) == {}
    assert store.embeddings(["a"]) == {}
    assert list(store.select()) == []
    assert list(store.scan()) == []
    assert store.query(unit_rows(2, 3), 5) == [[], []]
    assert store.keys_in_use([key(1)]) == set()
    store.delete(["a"])


def test_nothing_to_do(store):
    """Calls for no rows are fine."""
    assert store.upsert([], np.zeros((0, 3), dtype=np.float32)) == []
    assert (store.get([]), store.embeddings([]), store.keys_in_use([])) == ({}, {}, set())
    store.delete([])
    assert store.count() == 0


def test_rows_come_back_as_they_were(store):
    """Every way to read returns the rows that were written, with their vectors."""
    rows = [row("a", "one", x=1), row("b", "zwei 😀", FileStamp("f00d", 7), y=[1]), row("c", "")]
    vectors = unit_rows(3, 4)
    assert store.upsert(rows, vectors) == []
    by_id = {row.document.id: row for row in rows}
    assert store.count() == 3
    assert store.get(["c", "a", "nobody"]) == {"c": by_id["c"], "a": by_id["a"]}
    assert {row.document.id: row for row in store.select()} == by_id
    embeddings = store.embeddings(["c", "a", "nobody"])
    assert embeddings.keys() == {"a", "c"}
    assert embeddings["a"].dtype == np.float32
    assert_close(embeddings["a"], vectors[0])
    assert_close(embeddings["c"], vectors[2])
    (block,) = store.scan()
    assert block.pooled.dtype == np.float32
    assert sorted(block.ids) == ["a", "b", "c"]
    for id, row_key, vector in zip(block.ids, block.keys, block.pooled, strict=True):
        assert row_key == by_id[id].key
        assert_close(vector, vectors["abc".index(id)])
    (candidates,) = store.query(vectors[1:2], 3)
    assert candidates[0].row == by_id["b"]
    assert {candidate.row.document.id: candidate.row for candidate in candidates} == by_id


def test_upsert_replaces_all_of_a_row(store):
    """Text, vector, metadata, key and stamp of the old row are gone; upsert returns that row."""
    before = row("a", "old", FileStamp("f00d", 3), number=1, gone=1, kept=1, none=None, list=[1])
    other = row("b", "other", FileStamp("f00d", 3), x=1)
    store.upsert([before, other], unit_rows(2, 3))
    after = row("a", "new", number=2, kept=2, fresh=None)
    assert store.upsert([after], unit_rows(1, 3, seed=1)) == [before]
    assert store.get(["a", "b"]) == {"a": after, "b": other}
    assert_close(store.embeddings(["a"])["a"], unit_rows(1, 3, seed=1)[0])
    assert [found.document.id for found in store.select({"gone": 1})] == []
    assert store.keys_in_use([key(1), key(2)]) == {key(2)}
    (candidates,) = store.query(unit_rows(1, 3), 2)
    assert {candidate.row.document.id: candidate.row for candidate in candidates} == {"a": after, "b": other}
    bare = row("a", "bare")
    assert store.upsert([bare, row("c")], unit_rows(2, 3)) == [after]
    assert store.get(["a"]) == {"a": bare}
    stamped = row("a", "bare", FileStamp("beef", 1), gone=None)
    store.upsert([stamped], unit_rows(1, 3))
    assert store.get(["a"]) == {"a": stamped}
    assert store.count() == 3


def test_delete(store):
    """Deleted rows are gone everywhere. Unknown ids are skipped."""
    store.upsert([row("a"), row("b"), row("c")], unit_rows(3, 3))
    store.delete(["a", "nobody", "c"])
    assert store.count() == 1
    assert [found.document.id for found in store.select()] == ["b"]
    assert [found.row.document.id for found in store.query(unit_rows(1, 3), 3)[0]] == ["b"]
    assert store.embeddings(["a", "b"]).keys() == {"b"}


def test_keys_in_use(store):
    """A key is in use while at least one row names it."""
    store.upsert([row("a", number=1), row("b", number=1), row("c", number=2)], unit_rows(3, 3))
    assert store.keys_in_use([key(1), key(2), key(3)]) == {key(1), key(2)}
    store.delete(["a", "c"])
    assert store.keys_in_use([key(1), key(2), key(3)]) == {key(1)}


@pytest.mark.parametrize("read", ["select", "scan"])
@pytest.mark.parametrize("change", ["delete", "replace", "add", "nothing"])
def test_writes_between_the_parts_of_a_scan(store, monkeypatch, read, change):
    """Every row that stays is there, and none twice."""
    monkeypatch.setattr("smart_rag.store.pooled_store._PAGE_ROWS", 7)
    names = [f"r{i:02}" for i in range(40)]
    store.upsert([row(name) for name in names], unit_rows(40, 3))
    found = []
    parts = store.select() if read == "select" else store.scan()
    for number, part in enumerate(parts):
        found += [part.document.id] if read == "select" else part.ids
        if number == (9 if read == "select" else 1):
            if change == "delete":
                store.delete(names[:5])
            elif change == "replace":
                store.upsert([row(name, "new") for name in names[3:9]], unit_rows(6, 3, seed=1))
            elif change == "add":
                store.upsert([row(f"new{i}") for i in range(9)], unit_rows(9, 3, seed=1))
    assert len(found) == len(set(found))
    assert set(found) >= set(names[5:])


def test_more_rows_than_one_call_takes(path):
    """Chroma limits the rows of one call. We split longer calls, and no row is lost or doubled."""
    store = create(path)
    assert store._part_rows < MANY_ROWS
    names = [f"d{i}" for i in range(MANY_ROWS)]
    vectors = unit_rows(MANY_ROWS, 4)
    rows = [row(name, number=i) for i, name in enumerate(names)]
    store.upsert(rows, vectors)
    assert store.count() == MANY_ROWS
    assert store.get(names) == dict(zip(names, rows, strict=True))
    embeddings = store.embeddings(names)
    assert_close(np.stack([embeddings[name] for name in names]), vectors)
    assert sorted(found.key for found in store.select()) == [key(i) for i in range(MANY_ROWS)]
    blocks = list(store.scan())
    assert sorted(name for block in blocks for name in block.ids) == sorted(names)
    for block in blocks:
        positions = [int(name[1:]) for name in block.ids]
        assert block.keys == [key(i) for i in positions]
        assert_close(block.pooled, vectors[positions])
    assert store.keys_in_use([key(i) for i in range(MANY_ROWS + 10)]) == {key(i) for i in range(MANY_ROWS)}
    store.delete(names[1:])
    assert [found.document.id for found in store.select()] == ["d0"]
    store.close()


def test_reopen(path):
    """Rows, vectors and stamps are there after a close; they can be replaced."""
    store = create(path)
    stored = row("a", "text", FileStamp("f00d", 2), x=[1, None])
    store.upsert([stored], unit_rows(1, 5))
    store.close()
    again = PooledStore.open(path, None, "smart_rag")
    assert again.get(["a"]) == {"a": stored}
    (candidates,) = again.query(unit_rows(1, 5), 1)
    assert candidates[0].row == stored
    assert candidates[0].pooled_score == pytest.approx(1, abs=1e-6)
    assert again.upsert([row("a", "new")], unit_rows(1, 5)) == [stored]
    again.close()
    again = PooledStore.open(path, None, "smart_rag")
    assert again.get(["a"]) == {"a": row("a", "new")}
    again.close()


def test_closing_releases_the_folder(path):
    """After a close, the same process can remove the folder and make it again."""
    for text in ("first", "second"):
        store = create(path)
        store.upsert([row("a", text)], unit_rows(1, 3))
        assert store.get(["a"]) == {"a": row("a", text)}
        store.close()
        store.close()
        shutil.rmtree(path)


# --- opening ------------------------------------------------------------------------------


def test_no_folder(path):
    """The error names the missing folder, which is not created."""
    with pytest.raises(IndexNotFound, match=f"{path}: the folder of the pooled embeddings is missing"):
        PooledStore.open(path, None, "smart_rag")
    assert not path.exists()


def test_no_collection(store, path):
    """The error names the missing collection."""
    with pytest.raises(IndexNotFound, match="Chroma has no collection 'another'; index the documents"):
        PooledStore.open(path, None, "another")


def test_a_file_that_is_not_chromas(path):
    """A file of other bytes raises one of our errors."""
    path.mkdir()
    (path / "chroma.sqlite3").write_bytes(b"nonsense" * 1024)
    with pytest.raises(CorruptStore, match="not a database"):
        PooledStore.open(path, None, "smart_rag")


def test_a_file_at_which_chroma_panics(path):
    """A panic of its Rust code would pass all `except Exception`."""
    create(path).close()
    with sqlite3.connect(path / "chroma.sqlite3") as database:
        database.execute("UPDATE migrations SET sql = CAST(X'e7' AS TEXT)")
    database.close()
    with pytest.raises(ChromaFailure, match="says whether its files are damaged"):
        PooledStore.open(path, None, "smart_rag")


def test_a_name_that_chroma_refuses(path):
    """A collection name that Chroma does not accept is invalid input."""
    with pytest.raises(InvalidInput, match="Expected a name"):
        create(path, collection="?")


def test_the_callers_client_stays_open(path):
    """A client of the caller's stays open, and nothing is written to the folder."""
    client = chromadb.EphemeralClient()
    name = f"test-{uuid.uuid4()}"
    store = create(path, client, name)
    store.upsert([row("a")], unit_rows(1, 3))
    store.close()
    assert client.get_collection(name, embedding_function=None).count() == 1
    again = PooledStore.open(path, client, name)
    assert again.get(["a"]) == {"a": row("a")}
    again.close()
    assert not path.exists()
    client.delete_collection(name)


def test_lists_that_a_deleted_collection_left_behind(path):
    """Chroma gives them to the next rows. They are not ours, and `drop` leaves none."""
    client = chromadb.EphemeralClient()
    theirs, name = f"test-{uuid.uuid4()}", f"test-{uuid.uuid4()}"
    collection = client.create_collection(theirs, embedding_function=None)
    ids = [str(i) for i in range(9)]
    lists = [{"colour": ["red"], "_smart_rag.list.colour": ["red"]}] * 9
    collection.add(ids, unit_rows(9, 3), lists, ["text"] * 9)
    client.delete_collection(theirs)
    store = create(path, client, name)
    rows = [row("plain"), row("number", n=1), row("list", tags=["x", 2])]
    store.upsert(rows, unit_rows(3, 3))
    raw = client.get_collection(name, embedding_function=None).get()["metadatas"]
    assert [metadata["colour"] for metadata in raw] == [["red"]] * 3  # otherwise, this test shows nothing
    found = store.get(["plain", "number", "list"])
    assert list(found.values()) == rows
    assert not any(one.is_altered() or one.lacks_checksum() for one in found.values())
    store.drop()
    store.close()
    new = client.create_collection(name, embedding_function=None)
    new.add(["a", "b", "c"], unit_rows(3, 3), [{"n": 1}] * 3, ["text"] * 3)
    assert new.get()["metadatas"] == [{"n": 1}] * 3
    client.delete_collection(name)


# --- filters ------------------------------------------------------------------------------

ANIMALS = [
    row("a", "the cat sat", lang="en", year=1999, good=True),
    row("b", "der Hund bellt", lang="de", year=2005, good=False),
    row("c", "the dog barks", lang="en", year=2010),
    row("d", "no metadata"),
]


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    store = create(tmp_path_factory.mktemp("animals") / "chroma")
    store.upsert(ANIMALS, unit_rows(4, 3))
    yield store
    store.close()


def found_by_query(store, where=None, where_document=None):
    return {found.row.document.id for found in store.query(unit_rows(1, 3), 10, where, where_document)[0]}


def found_by_scan(store, where=None, where_document=None):
    return {name for block in store.scan(where, where_document) for name in block.ids}


def found_by_select(store, where=None):
    return {found.document.id for found in store.select(where)}


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (None, "abcd"),
        ({}, "abcd"),
        ({"lang": "en"}, "ac"),
        ({"good": True}, "a"),
        ({"year": {"$gt": 2000}}, "bc"),
        ({"lang": {"$in": ["de", "fr"]}}, "b"),
        ({"$and": [{"lang": "en"}, {"year": {"$lt": 2000}}]}, "a"),
        ({"$or": [{"lang": "de"}, {"year": 2010}]}, "bc"),
        ({"lang": "fr"}, ""),
        ({"nothing": 1}, ""),
        ({"$and": [{"lang": "en"}]}, "ac"),
        ({"lang": {"$in": []}}, ""),
    ],
)
@pytest.mark.parametrize("find", [found_by_query, found_by_scan, found_by_select])
def test_where(animals, find, where, expected):
    """A filter on metadata selects the same rows in a query, a scan and a selection."""
    assert find(animals, where) == set(expected)


@pytest.mark.parametrize(
    ("where_document", "expected"),
    [
        ({}, "abcd"),
        ({"$contains": "the"}, "ac"),
        ({"$not_contains": "the"}, "bd"),
        ({"$regex": "b(e|a)"}, "bc"),
        ({"$contains": "whale"}, ""),
    ],
)
@pytest.mark.parametrize("find", [found_by_query, found_by_scan])
def test_where_document(animals, find, where_document, expected):
    """A filter on text selects the same rows in a query and a scan."""
    assert find(animals, where_document=where_document) == set(expected)
    assert find(animals, {"lang": "en"}, where_document) == set(expected) & {"a", "c"}


@pytest.mark.parametrize(
    "where",
    [
        {"$unheard": 1},
        {"lang": {"$unheard": 1}},
        {"lang": None},
        {"lang": ["en"]},
        {"lang": {}},
        {"lang": "en", "year": 1},
        {"year": {"$gt": "x"}},
        {"year": float("nan")},
        {1: 2},
        "lang",
    ],
)
@pytest.mark.parametrize("find", [found_by_query, found_by_scan, found_by_select])
def test_an_invalid_where(animals, find, where):
    """A wrong filter is invalid input; `test_where.py` has the messages."""
    with pytest.raises(InvalidInput, match="filter"):
        find(animals, where)


@pytest.mark.parametrize("where_document", [{"$unheard": "x"}, {"$contains": ""}, {"$regex": "["}, {"lang": "en"}])
@pytest.mark.parametrize("find", [found_by_query, found_by_scan])
def test_an_invalid_where_document(animals, find, where_document):
    """A wrong filter on texts is invalid input."""
    with pytest.raises(InvalidInput, match=r"filter on texts|Chroma does not accept the filter: Regex"):
        find(animals, where_document=where_document)


@pytest.mark.parametrize("operator", ["$regex", "$not_regex"])
@pytest.mark.parametrize("find", [found_by_query, found_by_scan])
def test_a_pattern_that_becomes_too_large(animals, find, operator):
    """The pattern is short, but its repetitions make it larger than the engine allows."""
    with pytest.raises(InvalidInput, match=r"the pattern of \$regex is too large.*use a smaller one"):
        find(animals, where_document={operator: r"\p{L}{500}"})


# --- vectors ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def random_rows(tmp_path_factory):
    store = create(tmp_path_factory.mktemp("random") / "chroma")
    vectors = unit_rows(RECALL_ROWS, 384)
    store.upsert([row(str(i), number=i) for i in range(RECALL_ROWS)], vectors)
    yield store, vectors
    store.close()


def test_scores_are_cosines(random_rows):
    """The score of a candidate is its cosine; candidates are sorted, best first."""
    store, vectors = random_rows
    queries = np.concatenate([unit_rows(3, 384, seed=1), vectors[7:8], -vectors[7:8]])
    exact = queries.astype(np.float64) @ vectors.astype(np.float64).T
    for scores, candidates in zip(exact, store.query(queries, 50), strict=True):
        assert len(candidates) == 50
        found = [candidate.pooled_score for candidate in candidates]
        assert found == sorted(found, reverse=True)
        assert found == pytest.approx([scores[int(candidate.row.document.id)] for candidate in candidates], abs=1e-5)
        assert found[0] == pytest.approx(scores.max(), abs=1e-5)


def test_cosines_of_any_sign(store):
    """The same, the opposite and an orthogonal vector score 1, -1 and 0."""
    vectors = np.float32([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0.6, 0.8, 0]])
    store.upsert([row(name) for name in "abcd"], vectors)
    (candidates,) = store.query(np.float32([[1, 0, 0]]), 10)
    assert [candidate.row.document.id for candidate in candidates] == ["a", "d", "c", "b"]
    assert [candidate.pooled_score for candidate in candidates] == pytest.approx([1, 0.6, 0, -1], abs=1e-6)


def test_recall_of_the_first_stage(random_rows):
    """By default more than 98 % of the 100 nearest of random vectors are found, which are the hardest to find."""
    store, vectors = random_rows
    queries = unit_rows(20, 384, seed=2)
    nearest = np.argsort(-(queries @ vectors.T), axis=1)[:, :100]
    found = [{int(candidate.row.document.id) for candidate in candidates} for candidates in store.query(queries, 100)]
    recalls = [len(one & set(exact.tolist())) / 100 for one, exact in zip(found, nearest, strict=True)]
    assert np.mean(recalls) > 0.98


def test_the_configuration_reaches_chroma(path):
    """Chroma builds its graph as the store's configuration says."""
    config = IndexConfig(hnsw_max_neighbors=11, hnsw_ef_construction=77, hnsw_ef_search=33)
    store = PooledStore.create(path, config, None, "smart_rag")
    with store._chroma.write_lock() as client:
        hnsw = client.get_collection("smart_rag")._model.configuration_json["hnsw"]
    store.close()
    expected = {"space": "cosine", "max_neighbors": 11, "ef_construction": 77, "ef_search": 33}
    assert {name: hnsw[name] for name in expected} == expected


def test_dimension_mismatch(store):
    """Vectors of another dimension are refused in writes and queries; the error names both dimensions."""
    store.upsert([row("a")], unit_rows(1, 4))
    with pytest.raises(DimensionMismatch, match="dimension of 4, got 3"):
        store.upsert([row("b")], unit_rows(1, 3))
    with pytest.raises(DimensionMismatch, match="dimension of 4, got 5"):
        store.query(unit_rows(1, 5), 1)
    assert store.count() == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite(store, bad):
    """A vector with NaN or inf is refused, and nothing of its call is written."""
    vectors = unit_rows(3, 4)
    vectors[1, 2] = bad
    with pytest.raises(InvalidInput, match="NaN or Infinity"):
        store.upsert([row("a"), row("b"), row("c")], vectors)
    assert store.count() == 0


# --- a full disk --------------------------------------------------------------------------


def test_full_disk(tmp_path):
    """The error says that the disk is full. Acknowledged rows are there when the disk has room again."""
    with small_disk(tmp_path / "disk", "64m") as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(32 << 20))
        store = create(disk / "chroma")
        written = []
        with pytest.raises(StorageFull, match="no space left on the disk"):  # noqa: PT012
            for start in range(0, 100_000, 50):
                rows = [row(str(i), "x" * 5_000, number=i) for i in range(start, start + 50)]
                store.upsert(rows, unit_rows(50, 4))
                written += rows
        assert written
        store.close()
        ballast.unlink()
        again = PooledStore.open(disk / "chroma", None, "smart_rag")
        found = again.get([stored.document.id for stored in written])
        assert found == {stored.document.id: stored for stored in written}
        again.upsert([row("new")], unit_rows(1, 4))
        assert again.get(["new"]) == {"new": row("new")}
        again.close()

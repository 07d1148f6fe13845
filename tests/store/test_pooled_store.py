"""The pooled index on a real Chroma: rows come back as they went in, cosines are cosines, errors are ours."""

import inspect
import re
import shutil
import subprocess
import uuid

import chromadb
import chromadb.errors
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smart_rag.config import IndexConfig
from smart_rag.errors import (
    ChromaFailure,
    DimensionMismatch,
    IndexNotFound,
    InvalidInput,
    SmartRagError,
    StorageFull,
)
from smart_rag.store.chroma_client import chroma_errors
from smart_rag.store.pooled_store import PooledStore
from smart_rag.store.row import FileStamp, Row, check_metadata
from smart_rag.types import Document

RECALL_ROWS = 3_000
MANY_ROWS = 6_000


def key(i):
    return i.to_bytes(16, "big")


def row(id, text="text", stamp=None, number=None, **metadata):
    return Row(Document(id, text, metadata), key(sum(id.encode()) if number is None else number), stamp)


def unit_rows(n, dimension, seed=0):
    rows = np.random.default_rng(seed).standard_normal((n, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def create(path, client=None, collection="smart_rag"):
    return PooledStore.create(path, IndexConfig(), client, collection)


def assert_close(found, expected):
    """Chroma divides by the norm once more, so the last bit may differ."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "chroma"


@pytest.fixture
def index(path):
    index = create(path)
    yield index
    index.close()


@pytest.fixture(scope="module")
def shared_index(tmp_path_factory):
    """An index for tests that each use ids of their own."""
    index = create(tmp_path_factory.mktemp("shared") / "chroma")
    yield index
    index.close()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount, "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True) if mount else None
    if done is None or done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip() if done else 'no mount command'}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


# --- rows ---------------------------------------------------------------------------------


def test_an_empty_index(index):
    """An empty index answers everything with nothing, before its dimension is known."""
    assert index.count() == 0
    assert index.get(["a"]) == {}
    assert index.embeddings(["a"]) == {}
    assert list(index.select()) == []
    assert list(index.scan()) == []
    assert index.query(unit_rows(2, 3), 5) == [[], []]
    assert index.keys_in_use([key(1)]) == set()
    index.delete(["a"])


def test_nothing_to_do(index):
    """Calls for no rows are fine."""
    assert index.upsert([], np.zeros((0, 3), dtype=np.float32)) == []
    assert (index.get([]), index.embeddings([]), index.keys_in_use([])) == ({}, {}, set())
    index.delete([])
    assert index.count() == 0


def test_rows_come_back_as_they_were(index):
    """Every way to read gives the rows that were written, with their vectors."""
    rows = [row("a", "one", x=1), row("b", "zwei 😀", FileStamp("f00d", 7), y=[1]), row("c", "")]
    vectors = unit_rows(3, 4)
    assert index.upsert(rows, vectors) == []
    by_id = {row.document.id: row for row in rows}
    assert index.count() == 3
    assert index.get(["c", "a", "nobody"]) == {"c": by_id["c"], "a": by_id["a"]}
    assert {row.document.id: row for row in index.select()} == by_id
    embeddings = index.embeddings(["c", "a", "nobody"])
    assert embeddings.keys() == {"a", "c"}
    assert embeddings["a"].dtype == np.float32
    assert_close(embeddings["a"], vectors[0])
    assert_close(embeddings["c"], vectors[2])
    (block,) = index.scan()
    assert block.pooled.dtype == np.float32
    assert sorted(block.ids) == ["a", "b", "c"]
    for id, row_key, vector in zip(block.ids, block.keys, block.pooled, strict=True):
        assert row_key == by_id[id].key
        assert_close(vector, vectors["abc".index(id)])
    (candidates,) = index.query(vectors[1:2], 3)
    assert candidates[0].row == by_id["b"]
    assert {candidate.row.document.id: candidate.row for candidate in candidates} == by_id


def test_upsert_replaces_all_of_a_row(index):
    """Text, vector, metadata, key and stamp of the row before are gone, and it is handed back."""
    before = row("a", "old", FileStamp("f00d", 3), number=1, gone=1, kept=1, none=None, list=[1])
    other = row("b", "other", FileStamp("f00d", 3), x=1)
    index.upsert([before, other], unit_rows(2, 3))
    after = row("a", "new", number=2, kept=2, fresh=None)
    assert index.upsert([after], unit_rows(1, 3, seed=1)) == [before]
    assert index.get(["a", "b"]) == {"a": after, "b": other}
    assert_close(index.embeddings(["a"])["a"], unit_rows(1, 3, seed=1)[0])
    assert [found.document.id for found in index.select({"gone": 1})] == []
    assert index.keys_in_use([key(1), key(2)]) == {key(2)}
    (candidates,) = index.query(unit_rows(1, 3), 2)
    assert {candidate.row.document.id: candidate.row for candidate in candidates} == {"a": after, "b": other}
    bare = row("a", "bare")
    assert index.upsert([bare, row("c")], unit_rows(2, 3)) == [after]
    assert index.get(["a"]) == {"a": bare}
    stamped = row("a", "bare", FileStamp("beef", 1), gone=None)
    index.upsert([stamped], unit_rows(1, 3))
    assert index.get(["a"]) == {"a": stamped}
    assert index.count() == 3


def test_delete(index):
    """Rows that were deleted are gone everywhere; ids that are not there do no harm."""
    index.upsert([row("a"), row("b"), row("c")], unit_rows(3, 3))
    index.delete(["a", "nobody", "c"])
    assert index.count() == 1
    assert [found.document.id for found in index.select()] == ["b"]
    assert [found.row.document.id for found in index.query(unit_rows(1, 3), 3)[0]] == ["b"]
    assert index.embeddings(["a", "b"]).keys() == {"b"}


def test_shared_keys(index):
    """A key is in use while one row names it."""
    index.upsert([row("a", number=1), row("b", number=1), row("c", number=2)], unit_rows(3, 3))
    assert index.keys_in_use([key(1), key(2), key(3)]) == {key(1), key(2)}
    index.delete(["a", "c"])
    assert index.keys_in_use([key(1), key(2), key(3)]) == {key(1)}


@pytest.mark.parametrize("stamp", [FileStamp("f00d", 1), FileStamp("", 0), FileStamp("é" * 100, 2**40), None])
def test_file_stamps_come_back(shared_index, stamp):
    """A stamp is bookkeeping: it comes back as a stamp, and the metadata do not show it."""
    name = str(uuid.uuid4())
    shared_index.upsert([row(name, stamp=stamp, x=1)], unit_rows(1, 3))
    found = shared_index.get([name])[name]
    assert found.stamp == stamp
    assert found.document.metadata == {"x": 1}


def test_more_rows_than_one_call_takes(path):
    """Chroma takes so many rows in one call; we take any number, everywhere, once each."""
    index = create(path)
    assert index._part_rows < MANY_ROWS
    names = [f"d{i}" for i in range(MANY_ROWS)]
    vectors = unit_rows(MANY_ROWS, 4)
    rows = [row(name, number=i) for i, name in enumerate(names)]
    index.upsert(rows, vectors)
    assert index.count() == MANY_ROWS
    assert index.get(names) == dict(zip(names, rows, strict=True))
    embeddings = index.embeddings(names)
    assert_close(np.stack([embeddings[name] for name in names]), vectors)
    assert sorted(found.key for found in index.select()) == [key(i) for i in range(MANY_ROWS)]
    blocks = list(index.scan())
    assert sorted(name for block in blocks for name in block.ids) == sorted(names)
    for block in blocks:
        positions = [int(name[1:]) for name in block.ids]
        assert block.keys == [key(i) for i in positions]
        assert_close(block.pooled, vectors[positions])
    assert index.keys_in_use([key(i) for i in range(MANY_ROWS + 10)]) == {key(i) for i in range(MANY_ROWS)}
    index.delete(names[1:])
    assert [found.document.id for found in index.select()] == ["d0"]
    index.close()


def test_reopen(path):
    """Rows, vectors and stamps are there after a close, and can be replaced."""
    index = create(path)
    stored = row("a", "text", FileStamp("f00d", 2), x=[1, None])
    index.upsert([stored], unit_rows(1, 5))
    index.close()
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
    """After a close the folder can be removed and made again, in the same process."""
    for text in ("first", "second"):
        index = create(path)
        index.upsert([row("a", text)], unit_rows(1, 3))
        assert index.get(["a"]) == {"a": row("a", text)}
        index.close()
        index.close()
        shutil.rmtree(path)


# --- opening ------------------------------------------------------------------------------


def test_no_folder(path):
    """A folder that is not there is named, and not made."""
    with pytest.raises(IndexNotFound, match=f"{path}: the folder of the pooled embeddings is missing"):
        PooledStore.open(path, None, "smart_rag")
    assert not path.exists()


def test_no_collection(index, path):
    """A collection that is not there is named."""
    with pytest.raises(IndexNotFound, match="Chroma has no collection 'another' there"):
        PooledStore.open(path, None, "another")


def test_a_file_that_is_not_chromas(path):
    """A file of other bytes is an error of ours."""
    path.mkdir()
    (path / "chroma.sqlite3").write_bytes(b"nonsense" * 1024)
    with pytest.raises(ChromaFailure, match="not a database"):
        PooledStore.open(path, None, "smart_rag")


def test_a_name_that_chroma_refuses(path):
    """A collection's name has to suit Chroma."""
    with pytest.raises(InvalidInput, match="Expected a name"):
        create(path, collection="?")


def test_the_callers_client_stays_open(path):
    """A client that the caller brought is the caller's to close, and nothing is written to the folder."""
    client = chromadb.EphemeralClient()
    name = f"test-{uuid.uuid4()}"
    index = create(path, client, name)
    index.upsert([row("a")], unit_rows(1, 3))
    index.close()
    assert client.get_collection(name, embedding_function=None).count() == 1
    again = PooledStore.open(path, client, name)
    assert again.get(["a"]) == {"a": row("a")}
    again.close()
    assert not path.exists()
    client.delete_collection(name)


# --- metadata -----------------------------------------------------------------------------

METADATA = {
    "none": None,
    "list": [1, "a", None, [2.5, True]],
    "empty list": [],
    "dict": {"a": {"b": [None, {"c": 1.5}]}, "": 0},
    "empty dict": {},
    "ünïcödé 😀": "Ελληνικά \n\t\0 😀",
    "empty": "",
    "true": True,
    "false": False,
    "zero": 0,
    "int": 7,
    "negative": -7,
    "largest": 2**63 - 1,
    "smallest": -(2**63),
    "over": 2**63,
    "under": -(2**63) - 1,
    "huge": 10**40,
    "float": 0.1,
    "whole float": 3.0,
    "tiny": 5e-324,
    "large": 1.7976931348623157e308,
    "infinite": float("inf"),
    "json": '{"a": 1}',
    "source": "a.pdf",
    "page": 3,
    "key": "k",
    "_smart": "not reserved",
    "a.b": 1,
}


def exact(value):
    """Return a form in which 1, 1.0 and True differ, and the order of keys does not."""
    if isinstance(value, dict):
        return {name: exact(item) for name, item in value.items()}
    if isinstance(value, list):
        return [exact(item) for item in value]
    return type(value), value


def assert_comes_back(index, metadata):
    name = str(uuid.uuid4())
    document = Document(name, "text", metadata)
    check_metadata(document)
    index.upsert([Row(document, key(1), FileStamp("f00d", 1))], unit_rows(1, 3))
    (candidates,) = index.query(unit_rows(1, 3), index.count())
    readings = [index.get([name])[name], *index.select(), *(candidate.row for candidate in candidates)]
    found = [reading.document.metadata for reading in readings if reading.document.id == name]
    assert len(found) == 3
    for came_back in found:
        assert exact(dict(came_back)) == exact(metadata)
    index.delete([name])


@pytest.mark.parametrize("name", list(METADATA))
def test_one_value_comes_back(shared_index, name):
    """Each kind of value comes back exactly, in its type, and no key of ours with it."""
    assert_comes_back(shared_index, {name: METADATA[name]})


def test_many_values_come_back(shared_index):
    """All kinds of values together come back exactly."""
    assert_comes_back(shared_index, METADATA)


REFUSED = ("_smart_rag.", "chroma:", "#", "$")
NAMES = st.text(min_size=1, max_size=8).filter(lambda name: not name.startswith(REFUSED))
SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
EIGHTHS = st.integers(-(2**20), 2**20).map(lambda i: i / 8)
VALUES = EIGHTHS | st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(NAMES, VALUES, max_size=5))
def test_any_metadata_comes_back(shared_index, metadata):
    """Whatever the check admits comes back exactly."""
    assert_comes_back(shared_index, metadata)


def test_any_float_comes_back(shared_index):
    """A float comes back to the last bit, also one of 17 digits."""
    random = np.random.default_rng(0).uniform(0, 2e9, 200).tolist()
    assert_comes_back(
        shared_index, {f"x{i}": x for i, x in enumerate([0.9097462559682401, 9.897669711792001e72, *random])}
    )


@pytest.mark.parametrize("name", ["_smart_rag.key", "_smart_rag.", "chroma:document", 1, None, ("a",)])
def test_metadata_keys_that_are_refused(name):
    """Keys that are Chroma's, ours or no text are refused; the document and the key are named."""
    with pytest.raises(InvalidInput, match=r"document 'my document': metadata key .* must be a str"):
        check_metadata(Document("my document", "text", {"good": 1, name: 1}))


@pytest.mark.parametrize("name", ["", "#document", "$and"])
def test_metadata_keys_that_chroma_refuses(name):
    """Keys that Chroma will not take are refused before anything is written."""
    with pytest.raises(InvalidInput, match=r"document 'my document': metadata key .* must be a str"):
        check_metadata(Document("my document", "text", {"good": 1, name: 1}))


@pytest.mark.parametrize("metadata", [{"a": "\ud800"}, {"\ud800": "a"}])
def test_metadata_with_a_lone_surrogate(shared_index, metadata):
    """Text that UTF-8 cannot write is refused before anything is written, or comes back."""
    try:
        check_metadata(Document("my document", "text", metadata))
    except InvalidInput:
        return
    assert_comes_back(shared_index, metadata)


@pytest.mark.parametrize(
    "value",
    [float("nan"), (1, 2), {1}, b"bytes", object(), {1: "a"}, [float("nan")], [(1,)], np.int64(1), np.ones(2)],
    ids=lambda value: type(value).__name__,
)
def test_metadata_values_that_are_refused(value):
    """Values that would not come back as they are are refused; document, key and type are named."""
    message = f"document 'my document': metadata 'bad' is a {type(value).__name__} that JSON cannot store"
    with pytest.raises(InvalidInput, match=message):
        check_metadata(Document("my document", "text", {"good": 1, "bad": value}))


# --- filters ------------------------------------------------------------------------------

ANIMALS = [
    row("a", "the cat sat", lang="en", year=1999, good=True),
    row("b", "der Hund bellt", lang="de", year=2005, good=False),
    row("c", "the dog barks", lang="en", year=2010),
    row("d", "no metadata"),
]


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    index = create(tmp_path_factory.mktemp("animals") / "chroma")
    index.upsert(ANIMALS, unit_rows(4, 3))
    yield index
    index.close()


def found_by_query(index, where=None, where_document=None):
    return {found.row.document.id for found in index.query(unit_rows(1, 3), 10, where, where_document)[0]}


def found_by_scan(index, where=None, where_document=None):
    return {name for block in index.scan(where, where_document) for name in block.ids}


def found_by_select(index, where=None):
    return {found.document.id for found in index.select(where)}


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
    ],
)
@pytest.mark.parametrize("find", [found_by_query, found_by_scan, found_by_select])
def test_where(animals, find, where, expected):
    """A filter on metadata admits the same rows to a query, a scan and a selection."""
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
    """A filter on text admits the same rows to a query and a scan."""
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
        {"$and": [{"lang": "en"}]},
        {"lang": {"$in": []}},
        {"year": {"$gt": "x"}},
        {"year": float("nan")},
        {1: 2},
        "lang",
    ],
)
@pytest.mark.parametrize("find", [found_by_query, found_by_scan, found_by_select])
def test_where_that_is_none(animals, find, where):
    """A filter that Chroma does not take is invalid input."""
    with pytest.raises(InvalidInput, match="Chroma does not take this: "):
        find(animals, where)


@pytest.mark.parametrize("where_document", [{"$unheard": "x"}, {"$contains": ""}, {"$regex": "["}, {"lang": "en"}])
@pytest.mark.parametrize("find", [found_by_query, found_by_scan])
def test_where_document_that_is_none(animals, find, where_document):
    """A filter on text that Chroma does not take is invalid input."""
    with pytest.raises(InvalidInput, match="Chroma does not take this: "):
        find(animals, where_document=where_document)


# --- vectors ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def random_rows(tmp_path_factory):
    index = create(tmp_path_factory.mktemp("random") / "chroma")
    vectors = unit_rows(RECALL_ROWS, 384)
    index.upsert([row(str(i), number=i) for i in range(RECALL_ROWS)], vectors)
    yield index, vectors
    index.close()


def test_scores_are_cosines(random_rows):
    """A candidate's score is its cosine, higher is better, and candidates come best first."""
    index, vectors = random_rows
    queries = np.concatenate([unit_rows(3, 384, seed=1), vectors[7:8], -vectors[7:8]])
    exact = queries.astype(np.float64) @ vectors.astype(np.float64).T
    for scores, candidates in zip(exact, index.query(queries, 50), strict=True):
        assert len(candidates) == 50
        found = [candidate.pooled_score for candidate in candidates]
        assert found == sorted(found, reverse=True)
        assert found == pytest.approx([scores[int(candidate.row.document.id)] for candidate in candidates], abs=1e-5)
        assert found[0] == pytest.approx(scores.max(), abs=1e-5)


def test_cosines_of_any_sign(index):
    """The same, the opposite and an orthogonal vector score 1, -1 and 0."""
    vectors = np.float32([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0.6, 0.8, 0]])
    index.upsert([row(name) for name in "abcd"], vectors)
    (candidates,) = index.query(np.float32([[1, 0, 0]]), 10)
    assert [candidate.row.document.id for candidate in candidates] == ["a", "d", "c", "b"]
    assert [candidate.pooled_score for candidate in candidates] == pytest.approx([1, 0.6, 0, -1], abs=1e-6)


def test_recall_of_the_first_stage(random_rows):
    """By default more than 99 % of the 400 nearest of random vectors are found."""
    index, vectors = random_rows
    queries = unit_rows(20, 384, seed=2)
    nearest = np.argsort(-(queries @ vectors.T), axis=1)[:, :400]
    found = [{int(candidate.row.document.id) for candidate in candidates} for candidates in index.query(queries, 400)]
    recalls = [len(one & set(exact.tolist())) / 400 for one, exact in zip(found, nearest, strict=True)]
    assert np.mean(recalls) > 0.99


def test_the_configuration_reaches_chroma(path):
    """Chroma builds its graph as the index's configuration says."""
    config = IndexConfig(hnsw_max_neighbors=11, hnsw_ef_construction=77, hnsw_ef_search=33)
    index = PooledStore.create(path, config, None, "smart_rag")
    with index._chroma.write_lock() as client:
        hnsw = client.get_collection("smart_rag")._model.configuration_json["hnsw"]
    index.close()
    expected = {"space": "cosine", "max_neighbors": 11, "ef_construction": 77, "ef_search": 33}
    assert {name: hnsw[name] for name in expected} == expected


def test_dimension_mismatch(index):
    """Vectors of another width are refused, to write and to ask, and both widths named."""
    index.upsert([row("a")], unit_rows(1, 4))
    with pytest.raises(DimensionMismatch, match="dimension of 4, got 3"):
        index.upsert([row("b")], unit_rows(1, 3))
    with pytest.raises(DimensionMismatch, match="dimension of 4, got 5"):
        index.query(unit_rows(1, 5), 1)
    assert index.count() == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite(index, bad):
    """NaN and infinite vectors are refused, and nothing of their call is written."""
    vectors = unit_rows(3, 4)
    vectors[1, 2] = bad
    with pytest.raises(InvalidInput, match="NaN or Infinity"):
        index.upsert([row("a"), row("b"), row("c")], vectors)
    assert index.count() == 0


# --- errors -------------------------------------------------------------------------------


def classes_of_chroma():
    """Return every exception class that chromadb.errors defines."""
    return [
        found
        for found in vars(chromadb.errors).values()
        if inspect.isclass(found) and issubclass(found, Exception) and found.__module__ == chromadb.errors.__name__
    ]


def made(kind):
    """Return an instance of an exception class, with a text for each argument that it needs."""
    try:
        needed = [
            parameter
            for parameter in inspect.signature(kind).parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]
    except ValueError:
        needed = []
    return kind(*(["what it says"] * max(1, len(needed))))


def test_chroma_has_errors():
    """The list of Chroma's errors is not empty by mistake."""
    names = {kind.__name__ for kind in classes_of_chroma()}
    assert {"ChromaError", "InvalidArgumentError", "InvalidDimensionException", "InternalError"} <= names
    assert {kind.__name__ for kind in chromadb.errors.error_types.values()} <= names


@pytest.mark.parametrize("kind", classes_of_chroma(), ids=lambda kind: kind.__name__)
def test_every_error_of_chroma_becomes_ours(kind):
    """No error of Chroma's reaches a user; it is the cause of ours, which says what it said."""
    error = made(kind)
    with pytest.raises(SmartRagError, match="what it says") as ours, chroma_errors():
        raise error
    assert ours.value.__cause__ is error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (chromadb.errors.InvalidDimensionException("x"), DimensionMismatch),
        (chromadb.errors.InvalidArgumentError("expecting embedding with dimension of 4"), DimensionMismatch),
        (chromadb.errors.InvalidArgumentError("x"), InvalidInput),
        (ValueError("x"), InvalidInput),
        (TypeError("x"), InvalidInput),
        (chromadb.errors.InternalError("x"), ChromaFailure),
        (PermissionError("x"), ChromaFailure),
    ],
)
@pytest.mark.parametrize("local", [True, False])
def test_which_error_becomes_which(tmp_path, error, kind, local):
    """Each kind of failure becomes the error that says what the user can do."""
    with pytest.raises(SmartRagError, match=re.escape(str(error))) as ours, chroma_errors(tmp_path if local else None):
        raise error
    assert type(ours.value) is kind
    assert ours.value.__cause__ is error


@pytest.mark.parametrize("error", [DimensionMismatch("ours"), IndexNotFound("ours"), KeyboardInterrupt()])
def test_other_errors_pass(error):
    """Our own errors and interrupts pass as they are."""
    with pytest.raises(type(error)) as passed, chroma_errors():
        raise error
    assert passed.value is error


def test_full_disk(small_disk):
    """A disk without room is said to be one, and what was acknowledged is there once there is room again."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(32 << 20))
    index = create(small_disk / "chroma")
    written = []
    with pytest.raises(StorageFull, match="no space left on the disk"):  # noqa: PT012
        for start in range(0, 100_000, 50):
            rows = [row(str(i), "x" * 5_000, number=i) for i in range(start, start + 50)]
            index.upsert(rows, unit_rows(50, 4))
            written += rows
    assert written
    index.close()
    ballast.unlink()
    again = PooledStore.open(small_disk / "chroma", None, "smart_rag")
    found = again.get([stored.document.id for stored in written])
    assert found == {stored.document.id: stored for stored in written}
    again.upsert([row("new")], unit_rows(1, 4))
    assert again.get(["new"]) == {"new": row("new")}
    again.close()

"""`Row`: documents as Chroma's metadata and back, through a real Chroma."""

import json
import uuid
from pathlib import Path

import numpy as np
import pytest
from helpers.rows import create, row, unit_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from smart_rag.errors import InvalidInput
from smart_rag.store.row import FileStamp, Row, from_chroma, plain_metadata, to_chroma
from smart_rag.types import Document, PdfPage


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory):
    """A store for tests that each use ids of their own."""
    store = create(tmp_path_factory.mktemp("shared") / "chroma")
    yield store
    store.close()


@pytest.mark.parametrize("stamp", [FileStamp("f00d", 1), FileStamp("", 0), FileStamp("é" * 100, 2**40), None])
def test_file_stamps_come_back(shared_store, stamp):
    """A stamp comes back as it was, and is not among the metadata."""
    name = str(uuid.uuid4())
    shared_store.upsert([row(name, stamp=stamp, x=1)], unit_rows(1, 3))
    found = shared_store.get([name])[name]
    assert found.stamp == stamp
    assert found.document.metadata == {"x": 1}


ROOT = Path("/some/index")
BOOKKEEPING = "_smart_rag."


@pytest.mark.parametrize(
    ("document", "modality", "expected"),
    [
        (Document("a", "text", {"n": 1}), "text", {"n": 1}),
        (Document("a", image=ROOT / "images" / "x.png"), "image", {"image": "images/x.png", "modality": "image"}),
        (Document("a", image=Path("/other/x.png")), "image", {"image": "/other/x.png", "modality": "image"}),
        (Document("a", "t", image=PdfPage(ROOT / "b.pdf", 3)), "text", {"image": "b.pdf", "image_page": 3}),
        (Document("a", video=ROOT / "v.mp4"), "video", {"video": "v.mp4", "modality": "video"}),
    ],
)
def test_files_are_relative_to_the_index(document, modality, expected):
    """Paths inside the index's folder are stored relative to it, so that the folder can be moved."""
    made = Row(document, bytes(range(16)), modality=modality)
    metadata = to_chroma(made, ROOT)
    names = {name: f"{BOOKKEEPING}{name}" for name in ("image", "image_page", "video", "modality")}
    assert metadata == {names.get(name, name): value for name, value in expected.items()} | {
        "_smart_rag.key": bytes(range(16)).hex()
    }
    assert from_chroma("a", document.text, metadata, ROOT) == made
    moved = from_chroma("a", document.text, metadata, Path("/moved"))
    if document.video:
        assert moved.document.video == Path("/moved/v.mp4")


def test_a_file_stamp_and_inexact_values_are_bookkeeping():
    """Floats and values that Chroma cannot store are kept as JSON beside the stamp; the row comes back equal."""
    made = row("a", "text", FileStamp("f00d", 7), number=2, x=[1, None], half=0.5, word="w")
    metadata = to_chroma(made, ROOT)
    assert json.loads(metadata.pop("_smart_rag.json")) == {"x": [1, None], "half": 0.5}
    assert metadata == {
        "_smart_rag.list.x": ["1"],
        "word": "w",
        "half": 0.5,
        "_smart_rag.file_hash": "f00d",
        "_smart_rag.file_chunks": 7,
        "_smart_rag.key": made.key.hex(),
    }
    assert from_chroma("a", "text", to_chroma(made, ROOT), ROOT) == made


def test_an_image_in_memory_is_refused():
    """It has to be saved as a file before its row is written."""
    with pytest.raises(InvalidInput, match="document 'a': cannot store an image in memory; save it as a file first"):
        to_chroma(Row(Document("a", image=Image.new("RGB", (2, 2))), bytes(16)), ROOT)


def test_a_revision_is_id_and_key():
    """The same document with another content is another revision."""
    assert row("a", number=1).revision == ("a", (1).to_bytes(16, "big")) != row("a", number=2).revision


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
    """Return a form in which 1, 1.0 and True differ and the order of keys does not matter."""
    if isinstance(value, dict):
        return {name: exact(item) for name, item in value.items()}
    if isinstance(value, list):
        return [exact(item) for item in value]
    return type(value), value


def assert_comes_back(index, metadata):
    name = str(uuid.uuid4())
    document = Document(name, "text", metadata)
    plain_metadata(document)
    index.upsert([Row(document, bytes(16), FileStamp("f00d", 1))], unit_rows(1, 3))
    (candidates,) = index.query(unit_rows(1, 3), index.count())
    readings = [index.get([name])[name], *index.select(), *(candidate.row for candidate in candidates)]
    found = [reading.document.metadata for reading in readings if reading.document.id == name]
    assert len(found) == 3
    for came_back in found:
        assert exact(dict(came_back)) == exact(metadata)
    index.delete([name])


@pytest.mark.parametrize("name", list(METADATA))
def test_one_value_comes_back(shared_store, name):
    """Each kind of value comes back exactly, with its type, and without our own keys."""
    assert_comes_back(shared_store, {name: METADATA[name]})


def test_many_values_come_back(shared_store):
    """All kinds of values together come back exactly."""
    assert_comes_back(shared_store, METADATA)


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
def test_any_metadata_comes_back(shared_store, metadata):
    """All metadata that pass the check come back exactly."""
    assert_comes_back(shared_store, metadata)


def test_any_float_comes_back(shared_store):
    """A float comes back to the last bit, also one with 17 digits."""
    random = np.random.default_rng(0).uniform(0, 2e9, 200).tolist()
    assert_comes_back(
        shared_store, {f"x{i}": x for i, x in enumerate([0.9097462559682401, 9.897669711792001e72, *random])}
    )


@pytest.mark.parametrize("name", ["_smart_rag.key", "_smart_rag.", "chroma:document", "#document", "$and", ""])
def test_metadata_keys_that_are_refused(name):
    """Keys that are ours, that Chroma refuses, or that are no text: the error names document and key."""
    with pytest.raises(
        InvalidInput, match=r"document 'my document': metadata key .* must be a str, not empty, that beg"
    ):
        plain_metadata(Document("my document", "text", {"good": 1, name: 1}))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [({"a": "\ud800"}, "metadata 'a' contains a lone surrogate"), ({"\ud800": "a"}, "metadata key .* must be a str")],
)
def test_metadata_with_a_lone_surrogate(metadata, message):
    """UTF-8 cannot store it, so it is refused before anything is written."""
    with pytest.raises(InvalidInput, match=f"document 'my document': {message}"):
        plain_metadata(Document("my document", "text", metadata))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"a": b"bytes"}, "metadata 'a' is a bytes, which JSON cannot store"),
        ({"a": float("nan")}, "metadata 'a' is NaN"),
        ({1: 2}, "metadata has the key 1, a int; a key must be a str"),
        (None, "metadata must be a dict, got a NoneType"),
    ],
)
def test_metadata_that_are_refused(metadata, message):
    """`test_values.py` has every value that is refused; here the document is named."""
    with pytest.raises(InvalidInput, match=f"document 'my document': {message}"):
        plain_metadata(Document("my document", "text", metadata))

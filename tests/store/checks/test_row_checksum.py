"""Every change of a row is noticed, and no row that is as it was written is called altered."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xxhash
from helpers.rows import create, row, unit_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from smart_rag.store.checks.row_checksum import CHECKSUM, checksum_of, sound_vectors, trace_of, traces_of
from smart_rag.store.row import FileStamp

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"]))
NAMES = st.sampled_from(["a", "b", "Ä", "long name"])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = create(tmp_path_factory.mktemp("rows") / "chroma")
    yield store
    store.close()


def test_the_bytes(store):
    """Of one row, as ``docs/format.md`` says."""
    metadata = {"b": ["y", "x"], "a": 2, "c": 0.5, CHECKSUM: "any"}
    expected = xxhash.xxh3_64_hexdigest('["id","tëxt",[["a",2],["b",["x","y"]],["c",null]]]'.encode())
    assert checksum_of("id", "tëxt", metadata) == expected


@settings(max_examples=25, deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"])),
    metadata=st.dictionaries(NAMES, PLAIN | st.lists(PLAIN, max_size=4), max_size=4),
)
def test_rows_come_back_unaltered(store, text, metadata):
    """Also if they replace other rows, with other metadata."""
    made = row("any", text, FileStamp("f00d", 7), **metadata)
    store.upsert([made], unit_rows(1, 8))
    found = store.get(["any"])["any"]
    assert CHECKSUM in found.stored
    assert not found.lacks_checksum()
    assert not found.is_altered()
    assert CHECKSUM not in found.document.metadata


def test_every_change_is_noticed(store):
    store.upsert([row("a", "text", word="w", n=3, half=0.5, tags=["x", "y"], flag=True)], unit_rows(1, 8))
    found = store.get(["a"])["a"]
    changes = [
        {"word": "v"},
        {"n": 4},
        {"n": 3.5},
        {"half": 0.25},
        {"flag": False},
        {"more": 1},
        {"_smart_rag.list.tags": ['"x"']},
        {"_smart_rag.json": '{"half": 0.5, "tags": ["x", "z"]}'},
        {"_smart_rag.key": "0" * 32},
        {CHECKSUM: "0" * 16},
    ]
    for change in changes:
        store._write("update", ids=["a"], metadatas=[change])
        assert store.get(["a"])["a"].is_altered(), change
        store._write("update", ids=["a"], metadatas=[{**dict.fromkeys(change), **found.stored}])
        assert not store.get(["a"])["a"].is_altered()
    assert replace(found, document=replace(found.document, text="another")).is_altered()


def test_a_row_of_an_older_index_is_not_checked(store):
    store.upsert([row("old", "text", n=1)], unit_rows(1, 8))
    store._write("update", ids=["old"], embeddings=unit_rows(1, 8), metadatas=[{CHECKSUM: None}], documents=["other"])
    assert not store.get(["old"])["old"].is_altered()


def test_the_trace_of_a_vector():
    """The sum of the numbers with weights, by a plain loop. A change of one number changes it at least as much."""
    vectors = unit_rows(3, 5)
    golden = (math.sqrt(5) - 1) / 2
    for vector, trace in zip(vectors, traces_of(vectors), strict=True):
        assert trace == pytest.approx(sum(float(x) * (1 + i * golden % 1) for i, x in enumerate(vector)))
    changed = vectors.copy()
    changed[:, 2] *= -1
    assert (np.abs(traces_of(changed) - traces_of(vectors)) >= 2 * np.abs(vectors[:, 2])).all()
    assert traces_of(np.zeros((0, 5))).shape == (0,)


def test_the_trace_in_an_older_row():
    assert math.isnan(trace_of({}))
    assert math.isnan(trace_of({CHECKSUM: "0" * 16}))
    assert trace_of({CHECKSUM: "0" * 16 + " -1.25"}) == -1.25
    assert trace_of({CHECKSUM: "0" * 16 + " x"}) == math.inf


def test_vectors_are_compared_with_their_traces():
    vectors = unit_rows(4, 5)
    traces = traces_of(vectors)
    traces[1] = math.nan  # unknown
    traces[2] += 1e-4
    traces[3] = math.inf  # damaged
    assert sound_vectors(vectors, traces).tolist() == [True, True, False, False]
    assert sound_vectors(vectors * 2, np.full(4, math.nan)).tolist() == [False] * 4


def test_the_row_of_a_text_without_metadata_has_no_checksum(store):
    store.upsert([row("text", "some text")], unit_rows(1, 8))
    assert store.get(["text"])["text"].stored.keys() == {"_smart_rag.key"}
    store._write("update", ids=["text"], metadatas=[{"n": 1}])
    assert store.get(["text"])["text"].lacks_checksum()


def test_metadata_of_nobody_is_damage(store):
    """A damaged name of the checksum must not make the row look like one of an older index."""
    store.upsert([row("n", "text", n=1)], unit_rows(1, 8))
    store._write("update", ids=["n"], metadatas=[{CHECKSUM: None, "_smart_rag.chucksum": "0" * 16}])
    assert store.get(["n"]) == {}


def test_files_that_the_index_must_not_read_count(tmp_path):
    """Such a row is shown without its image, but its checksum counts the image's path."""
    store = create(tmp_path / "chroma")
    outside = Path("/elsewhere/a.png")
    made = row("a", "text")
    made = replace(made, document=replace(made.document, image=outside), modality="text+image")
    store.upsert([made], unit_rows(1, 8))
    shown = store.get(["a"])["a"]
    assert shown.document.image is None
    assert not shown.is_altered()
    assert shown.stored["_smart_rag.image"] == str(outside)
    store.upsert([shown], unit_rows(1, 8))
    assert not store.get(["a"])["a"].is_altered()
    store.close()

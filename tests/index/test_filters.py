"""Filters in every first stage of a search, in `documents`, and in an index of an older format."""

from __future__ import annotations

import enum
import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import chromadb
import numpy as np
import pytest
from helpers.plain_filters import FILTERS, TEXT_FILTERS, documents, found
from helpers.word_encoder import VocabularyEncoder, WordEncoder
from hypothesis import given, settings

from smart_rag import Document, Representation, SmartIndex
from smart_rag.errors import InvalidInput
from smart_rag.store.checks.row_checksum import CHECKSUM

STAGES = ["exhaustive", "terms", "pooled"]
QUERY = "pump oil number1"


class Kind(enum.Enum):
    REPORT = "report"


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    with SmartIndex.create(tmp_path_factory.mktemp("filters") / "index", VocabularyEncoder()) as index:
        index.add(documents())
        yield index


@pytest.mark.parametrize("first_stage", STAGES)
@settings(max_examples=40, deadline=None)
@given(where=FILTERS)
def test_any_filter(index, first_stage, where):
    hits = index.search(QUERY, 200, where=where, first_stage=first_stage)
    assert {hit.id for hit in hits} == found(where) == {document.id for document in index.documents(where)}


@pytest.mark.parametrize("first_stage", STAGES)
@settings(max_examples=25, deadline=None)
@given(where=FILTERS, where_document=TEXT_FILTERS)
def test_any_filter_on_texts(index, first_stage, where, where_document):
    hits = index.search(QUERY, 200, where=where, where_document=where_document, first_stage=first_stage)
    assert {hit.id for hit in hits} == found(where, where_document)
    assert {document.id for document in index.documents(where, where_document)} == found(where, where_document)


@pytest.mark.parametrize("first_stage", STAGES)
def test_a_limit_counts_documents_that_pass(index, first_stage):
    """The best that pass are found, however many better ones do not pass."""
    where = {"v": {"$lt": 2.5}}
    everything = [hit.id for hit in index.search(QUERY, 200, first_stage="exhaustive") if hit.id in found(where)]
    hits = index.search(QUERY, 3, where=where, candidates=3, first_stage=first_stage)
    assert {hit.id for hit in hits} <= found(where)
    assert len(hits) == 3
    if first_stage == "exhaustive":
        assert [hit.id for hit in hits] == everything[:3]


@pytest.mark.parametrize("first_stage", STAGES)
def test_a_large_filter_ranks_as_a_small_one(index, first_stage):
    """A filter of any size finds the same hits in the same order; so does one on texts beside it."""
    chosen = list(range(3, 30, 2))
    large = {
        "in": {"i": {"$in": [*chosen, *range(1_000, 41_000)]}},
        "or": {"$or": [{"i": i} for i in (*chosen, *range(1_000, 2_000))]},
        "and": {"$and": [{"i": {"$in": chosen}}, *({"v": {"$ne": f"x{i}"}} for i in range(1_000))]},
    }
    texts = {"$or": [{"$contains": f"number{i}"} for i in (*chosen, *range(1_000, 1_500))]}
    for limit in (5, 200):
        options = {"candidates": limit, "first_stage": first_stage}
        small = index.search(QUERY, limit, where={"i": {"$in": chosen}}, **options)
        assert len(small) == min(limit, len(chosen))
        for where in large.values():
            for where_document in (None, texts):
                hits = index.search(QUERY, limit, where=where, where_document=where_document, **options)
                assert [hit.id for hit in hits] == [hit.id for hit in small]
                assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in small], abs=1e-5)
    for where in large.values():
        assert list(index.documents(where)) == list(index.documents({"i": {"$in": chosen}}))


# --- values that are not plain ------------------------------------------------------------------


def values():
    return {
        "count": np.int64(3),
        "share": np.float32(0.25),
        "good": np.bool_(True),
        "day": date(2026, 11, 5),
        "path": Path("a.pdf"),
        "kind": Kind.REPORT,
        "tags": ("a", np.str_("b")),
    }


def test_other_values_in_metadata_and_filters(tmp_path):
    """They are stored and compared as plain values; the caller's document keeps its own."""
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as index:
        given = Document("d", "pump", values())
        index.add([given])
        assert given == Document("d", "pump", values())
        assert index.add([Document("d", "pump", values())]).unchanged == 1
        (hit,) = index.search("pump", np.int64(1), candidates=np.int32(5), weights=np.asarray([1.0, 2.0]))
        assert json.loads(json.dumps(hit.metadata)) == {
            **{"count": 3, "share": 0.25, "good": True, "day": "2026-11-05", "path": "a.pdf"},
            **{"kind": "report", "tags": ["a", "b"]},
        }
        for key, value in values().items():
            where = {key: {"$contains": value[1]}} if key == "tags" else {key: value}
            for stage in STAGES:
                assert len(index.search("pump", where=where, first_stage=stage)) == 1, where
        assert index.search("pump", where={"count": {"$in": [np.int64(2), np.float64(3)]}})
        assert index.diversify([hit], np.int64(1), mmr_lambda=np.float32(0.5), weights=np.ones(2))
        assert index.rerank("pump", [hit], np.int64(1), weights=np.ones(2))
        index.set_weights(np.asarray([1, 3], dtype=np.float32))
    with SmartIndex.open(tmp_path / "index", WordEncoder()) as index:
        assert index.manifest.weights == (1.0, 3.0)


def test_other_ways_to_write(tmp_path):
    """Texts and vectors of the caller's own have the same rule."""
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as index:
        (id,) = index.add_texts(["pump"], metadatas=[values()])
        assert index.add_texts(["pump"], metadatas=[dict(index.get([id])[0].metadata)]) == [id]
        for wrong, message in (({"x": float("nan")}, "the metadata of text 0 'x' is NaN"), (None, "must be a dict")):
            with pytest.raises(InvalidInput, match=message):
                index.add_texts(["pump"], metadatas=[wrong])
    vectors = Representation.from_embeddings(np.ones((1, 3)))
    with SmartIndex.from_embeddings(tmp_path / "own", [Document("d", "t", values())], vectors) as index:
        assert [document.id for document in index.documents({"count": 3})] == ["d"]


# --- an index of an older format ----------------------------------------------------------------


@pytest.fixture
def old(tmp_path):
    """Return the folder of an index as smart_rag wrote it before filters could look into lists."""
    path = tmp_path / "old"
    with SmartIndex.create(path, WordEncoder()) as index:
        index.add(
            [
                Document("a", "pump", {"tags": ["x"], "n": 2, "large": 2**63}),
                Document("b", "oil", {"tags": ["y"]}),
                Document("c", "keys"),
            ]
        )
        replace(index.manifest, format_version=2).write(path)
        chroma = index._store.pooled
        for name in "ab":
            chroma._write(
                "update",
                ids=[name],
                metadatas=[{"_smart_rag.list.tags": ["stale"] if name == "b" else None, "large": None, CHECKSUM: None}],
            )
    return path


def test_an_old_index_is_read(old):
    with SmartIndex.open(old, WordEncoder()) as index:
        assert index.get(["a"])[0].metadata == {"tags": ["x"], "n": 2, "large": 2**63}
        assert [hit.id for hit in index.search("pump", where={"n": {"$lt": 2.5}})] == ["a"]
        for stage in STAGES:
            with pytest.raises(InvalidInput, match=r"filter on 'tags'.*an older smart_rag made it.*verify --repair"):
                index.search("pump", where={"tags": {"$contains": "x"}}, first_stage=stage)


def test_vacuum_brings_an_old_index_up_to_date(old):
    """Then lists are found, nothing was encoded, and the metadata and vectors are the same."""
    with SmartIndex.open(old, WordEncoder()) as index:
        before = list(index.documents()), index.search("pump", 3)
        index.vacuum()
        assert (list(index.documents()), index.search("pump", 3)) == before
        for _ in range(2):
            for value, expected in (("x", ["a"]), ("y", ["b"]), ("stale", [])):
                assert [document.id for document in index.documents({"tags": {"$contains": value}})] == expected
            assert [document.id for document in index.documents({"large": {"$gt": 1}})] == ["a"]
            index.vacuum()
    with SmartIndex.open(old, WordEncoder()) as index:
        assert index.manifest.format_version == 4
        assert [hit.id for hit in index.search("pump", where={"tags": {"$not_contains": "x"}})] != ["a"]


def test_an_old_index_in_a_client(tmp_path):
    """The client's collection is brought up to date, too."""
    client = chromadb.EphemeralClient()
    with SmartIndex.create(tmp_path / "index", WordEncoder(), client=client, collection="old_index") as index:
        index.add([Document("a", "pump", {"tags": ["x"]})])
        replace(index.manifest, format_version=2).write(tmp_path / "index")
    client.get_collection("old_index").update(ids=["a"], metadatas=[{"_smart_rag.list.tags": None, CHECKSUM: None}])
    with SmartIndex.open(tmp_path / "index", WordEncoder(), client=client) as index:
        index.vacuum()
        assert [document.id for document in index.documents({"tags": {"$contains": "x"}})] == ["a"]
    (name,) = [one.name for one in client.list_collections() if one.name.startswith("old_index")]
    client.delete_collection(name)

"""What a search needs of documents: read once in each state of the index."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.word_encoder import VocabularyEncoder

from smart_rag import Document, SmartIndex
from smart_rag.store.chroma import known_documents


@pytest.fixture
def index(tmp_path):
    with SmartIndex.create(tmp_path / "index", VocabularyEncoder()) as index:
        index.add([Document(f"d{i}", f"pump {i}", {"n": i % 3}) for i in range(9)])
        yield index


@pytest.fixture
def reads(index, monkeypatch):
    """The calls of Chroma that read."""
    calls = []
    chroma = index._store.pooled._chroma
    read = chroma.read

    def seen(name, method, arguments):
        calls.append(method)
        return read(name, method, arguments)

    monkeypatch.setattr(chroma, "read", seen)
    return calls


def test_each_is_read_once_in_a_state(index, reads):
    known, ids = index._store.known, ["d1", "d2", "nothing"]
    state = index._store.settled_state()
    rows = index._store.pooled.get(ids)
    pooled = index._store.pooled.embeddings(ids)
    reads.clear()
    for _ in range(2):
        assert {id: row.document for id, row in known.rows(state, ids[:2]).items()} == {
            id: row.document for id, row in rows.items()
        }
        assert known.keys(state, ids[:2]) == {id: row.key for id, row in rows.items()}
        found = known.pooled(state, ids[:2])
        assert all(np.array_equal(found[id], pooled[id]) for id in ids[:2])
        assert known.admitted(state, {"n": 1}, None).ids == {"d1", "d4", "d7"}
    assert reads == ["get"] * 3
    assert known.rows(state, ["nothing"]) == known.keys(state, ["nothing"]) == known.pooled(state, ["nothing"]) == {}


def test_filters_differ(index):
    known, state = index._store.known, index._store.settled_state()
    assert known.admitted(state, {"n": 1}, None).ids == {"d1", "d4", "d7"}
    assert known.admitted(state, {"n": True}, None).ids == set()
    assert known.admitted(state, {"n": "1"}, None).ids == set()
    assert known.admitted(state, {"n": 1}, {"$contains": "4"}).ids == {"d4"}
    assert known.admitted(state, None, {"$contains": "4"}).ids == {"d4"}


def test_a_write_is_seen(index):
    known = index._store.known
    state = index._store.settled_state()
    before = known.keys(state, ["d1"]), known.pooled(state, ["d1"]), known.rows(state, ["d1"])
    assert known.admitted(state, {"n": 1}, None).ids == {"d1", "d4", "d7"}
    index.add([Document("d1", "carp", {"n": 2})])
    state = index._store.settled_state()
    assert known.keys(state, ["d1"]) != before[0]
    assert known.pooled(state, ["d1"])["d1"].tolist() != before[1]["d1"].tolist()
    assert known.rows(state, ["d1"])["d1"].document.text == "carp"
    assert known.admitted(state, {"n": 1}, None).ids == {"d4", "d7"}


def test_keys_of_rows_that_an_older_version_wrote(index):
    """The rows themselves say them."""
    store = index._store
    expected = {id: row.key for id, row in store.pooled.get(["d1", "d2"]).items()}
    store._terms._environment.write(
        lambda transaction: transaction.drop(store._terms._environment.databases["keys"], delete=False)
    )
    assert store.known.keys(store.settled_state(), ["d1", "d2", "nothing"]) == expected
    assert index.search("pump 2", 3, first_stage="terms")[0].id == "d2"
    index.vacuum()
    assert store._terms.keys(["d1", "d2"]) == expected


def test_a_scan_of_all_documents_is_read_once(index, reads):
    """Later scans, with any filter, are those of a new process, until somebody writes."""

    def found(**options):
        return [
            (hit.id, round(hit.score, 5), hit.metadata)
            for hit in index.search("pump 4", 9, first_stage="exhaustive", **options)
        ]

    first = found()
    reads.clear()
    assert found() == first
    assert reads.count("get") == 1  # the texts of the hits
    expected = [hit for hit in first if hit[2] == {"n": 1}]
    assert found(where={"n": 1}) == expected
    assert found(where_document={"$contains": "4"}) == [hit for hit in first if hit[0] == "d4"]
    assert found(where={"n": 7}) == []
    index.add([Document("d4", "carp", {"n": 2}), Document("new", "pump 4", {"n": 1})])
    assert found()[0][0] == "new"
    assert {hit[0] for hit in found(where={"n": 1})} == {"d1", "d7", "new"}
    index.delete(["new"])
    assert "new" not in {hit[0] for hit in found()}


def test_a_large_scan_is_not_remembered(index, reads, monkeypatch):
    monkeypatch.setattr(known_documents, "_SCAN_BYTES", 100)
    first = index.search("pump 4", 9, first_stage="exhaustive")
    assert index._store.known.scan(index._store.settled_state(), None, None) is None
    assert index.search("pump 4", 9, first_stage="exhaustive") == first


def test_a_scan_that_ends_early_is_not_remembered(index):
    known, state = index._store.known, index._store.settled_state()
    next(known.remembered(state, index._store.pooled.scan()))
    assert known.scan(state, None, None) is None
    assert [len(block.ids) for block in known.remembered(state, index._store.pooled.scan())] == [9]
    assert [len(block.ids) for block in known.scan(state, None, None)] == [9]


def test_many_filters_that_nothing_passes_take_bounded_memory(index, monkeypatch):
    state = index._store.settled_state()
    known = known_documents.KnownDocuments(index._store.pooled, index._store._terms)
    known._admitted._most_bytes = 5_000
    for i in range(40):
        assert known.admitted(state, {"n": -1 - i}, None).ids == set()
    assert 5 < len(known._admitted._values) < 30


def test_a_write_frees_what_was_known(index):
    known, state = index._store.known, index._store.settled_state()
    list(known.remembered(state, index._store.pooled.scan()))
    assert known._scans._values
    index.delete(["d1"])
    assert known.scan(index._store.settled_state(), None, None) is None
    assert not known._scans._values

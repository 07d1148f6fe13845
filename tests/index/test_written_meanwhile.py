"""A search remembers the rows that it has read. What is written meanwhile, anywhere, is seen all the same."""

from __future__ import annotations

import chromadb
import numpy as np
import pytest
from helpers.another_process import another_process
from helpers.word_encoder import VocabularyEncoder

from smart_rag import Document, IndexConfig, SmartIndex
from smart_rag.index import candidates
from smart_rag.store.chroma.client import FolderClient

TEXTS = {"a": "pump keys", "b": "boat keys", "c": "carp keys pump", "d": "tax", "e": "oil mat"}
QUERY = "pump keys"
FOUND = {"where": {"kept": True}}


def documents():
    return [Document(id, text, {"kept": True, "tags": ["x"]}) for id, text in TEXTS.items()]


@pytest.fixture(params=["terms", "pooled"])
def search(request, tmp_path):
    """A search of an index that has been searched before."""
    with SmartIndex.create(tmp_path / "index", VocabularyEncoder(), config=IndexConfig(codec="exact")) as index:
        index.add(documents())

        def search(query=QUERY, **options):
            return index.search(query, 5, first_stage=request.param, **options)

        search.index, search.first_stage = index, request.param
        search()
        search(**FOUND)
        yield search


def seen(hits):
    # Chroma rounds cosines in another way than NumPy.
    scores = [np.round([hit.score, hit.pooled_score, hit.late_score], 5).tolist() for hit in hits]
    return [(hit.id, hit.text, hit.metadata, *own, hit.rank) for hit, own in zip(hits, scores, strict=True)]


def reads(monkeypatch):
    """A list that gets the arguments of each call of Chroma that reads."""
    read, calls = FolderClient.read, []

    def noted(self, name, method, arguments):
        calls.append((method, arguments.get("include")))
        return read(self, name, method, arguments)

    monkeypatch.setattr(FolderClient, "read", noted)
    return calls


@pytest.mark.parametrize(("few", "asked"), [(0, [("query", ["distances"])]), (500, [])], ids=["graph", "small"])
def test_what_was_read_is_not_read_again(search, few, asked, monkeypatch):
    monkeypatch.setattr(candidates, "EXHAUSTIVE_DOCUMENTS", few)
    first = seen(search())
    calls = reads(monkeypatch)
    assert seen(search()) == first
    assert calls == asked


def test_a_hit_belongs_to_the_caller(search):
    expected = seen(search())
    for hit in search():
        hit.metadata["kept"] = False
        hit.metadata["tags"].append("y")
        hit.metadata["new"] = 1
    assert seen(search()) == expected


WRITES = {
    "deleted": "index.delete(['a'])",
    "replaced": "index.add_texts(['pump keys keys oil'], ['a'], [{'kept': True}])",
    "added": "index.add_texts(['pump pump keys'], ['f'], [{'kept': True}])",
    "other metadata": "index.add_texts(['pump keys'], ['a'], [{'kept': False, 'n': 1}])",
    "all": "index.delete(list('abcde'))",
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("options", [{}, FOUND], ids=["all", "filter"])
@pytest.mark.parametrize("when", ["before the tokens are read", "after the tokens were read"])
def test_a_write_during_the_search(search, monkeypatch, write, options, when):
    """The hits are those of the index after the write, whole: text, metadata and scores."""
    index, left = search.index, [write]
    gather = index._store.tokens.gather

    def interrupted(keys, ids=None):
        tokens = None if when.startswith("before") else gather(keys, ids)
        while left:
            exec(left.pop(), {"index": index})
        return gather(keys, ids) if tokens is None else tokens

    with monkeypatch.context() as patch:
        patch.setattr(index._store.tokens, "gather", interrupted)
        hits = seen(search(**options))
    assert not left
    assert hits == seen(search(**options))
    with SmartIndex.open(index.path, VocabularyEncoder()) as other:
        assert hits == seen(other.search(QUERY, 5, first_stage=search.first_stage, **options))


@pytest.mark.parametrize("write", [WRITES["deleted"], WRITES["replaced"], WRITES["added"]])
def test_a_write_of_another_process(tmp_path, write):
    """The next search shows it, and remembers again."""
    path = tmp_path / "index"
    with SmartIndex.create(path, VocabularyEncoder(), config=IndexConfig(codec="exact")) as index:
        index.add(documents())
    with another_process(path, "VocabularyEncoder") as writer, SmartIndex.open(path, VocabularyEncoder()) as index:
        before = [seen(index.search(QUERY, 5, first_stage="terms")) for _ in range(2)]
        assert before[0] == before[1]
        writer.run(write)
        after = [seen(index.search(QUERY, 5, first_stage="terms")) for _ in range(2)]
        assert after[0] == after[1]
        assert after[0] != before[0]
        assert index.count() == len(index.search(QUERY, 9, first_stage="exhaustive"))
        ids = {id for id, *_ in after[0]}
        assert ids == {hit.id for hit in index.search(QUERY, 5, first_stage="exhaustive")}


def test_nothing_is_remembered_while_a_batch_is_in_doubt(search, monkeypatch):
    index = search.index
    assert index._store.settled_state() is not None
    with monkeypatch.context() as patch:
        patch.setattr(index._store._terms, "settle", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            index.add([Document("a", "pump pump pump")])
    assert index._store.settled_state() is None
    index._store.settle()
    assert index._store.settled_state() is not None
    assert next(hit.text for hit in search() if hit.id == "a") == "pump keys"


def test_other_programs_may_write_to_the_callers_client(tmp_path):
    """So each search reads the rows again."""
    client = chromadb.EphemeralClient(chromadb.Settings(anonymized_telemetry=False))
    with SmartIndex.create(tmp_path / "index", VocabularyEncoder(), client=client, collection="meanwhile") as index:
        index.add(documents())
        assert index._store.settled_state() is None
        assert next(hit for hit in index.search(QUERY, 5, first_stage="terms") if hit.id == "a").metadata["kept"]
        client.get_collection("meanwhile", embedding_function=None).update(ids=["a"], metadatas=[{"kept": False}])
        found = index.search(QUERY, 5, first_stage="terms", where={"kept": True})
        assert "a" not in [hit.id for hit in found]
        index._store.pooled.drop()

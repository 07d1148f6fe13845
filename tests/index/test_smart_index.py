"""`SmartIndex`: add, delete, search, rerank, reopen, and everything that can go wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import chromadb
import numpy as np
import pytest
from helpers.query_shares import query_shares
from helpers.word_encoder import TESTS, LetterEncoder, SeeingEncoder, VocabularyEncoder
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from smart_rag import Document, Hit, IndexConfig, Representation, SmartIndex, TokenBatch, errors
from smart_rag.config import DEFAULT_WEIGHTS
from smart_rag.embeddings.codec import get_codec
from smart_rag.embeddings.representation import TokenCodes
from smart_rag.index.stopwatch import Stopwatch

TEXTS = {
    "cat": "The cat sat on the mat and purred.",
    "dog": "Dogs bark at strangers in the night.",
    "fish": "The pond is home to forty carp and a pike.",
    "car": "The mechanic changed the oil and both front tyres.",
    "tax": "Taxes are due on the last day of April.",
}


STAGES = ["terms", "pooled", "exhaustive"]


def documents(texts=TEXTS):
    return [Document(name, text, {"length": len(text)}) for name, text in texts.items()]


EXACT = IndexConfig(codec="exact")  # as the references have the tokens


@pytest.fixture
def index(tmp_path):
    with SmartIndex.create(tmp_path / "index", LetterEncoder(), config=EXACT) as index:
        index.add(documents())
        yield index


def reference(encoder, query, texts, weights=DEFAULT_WEIGHTS):
    """Scores by plain loops in float64: id -> (score, pooled, late), tokens as float16 as they are stored."""
    encoded = encoder.encode_query([query])
    scores = {}
    for name, text in texts.items():
        document = encoder._encode([text])
        pooled = sum(float(a) * float(b) for a, b in zip(encoded.pooled[0], document.pooled[0], strict=True))
        best = []
        for query_token in encoded.tokens[0]:
            cosines = []
            for token in document.tokens[0].astype(np.float16):
                cosines.append(sum(float(a) * float(b) for a, b in zip(query_token, token, strict=True)))
            best.append(max(cosines))
        late = sum(best) / len(best)
        scores[name] = (weights[0] * pooled + weights[1] * late, pooled, late)
    return scores


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


def test_a_folder_that_holds_an_index_is_not_free(tmp_path):
    SmartIndex.create(tmp_path / "index", LetterEncoder()).close()
    with pytest.raises(errors.IndexExists, match=r"holds an index; open it with SmartIndex\.open"):
        SmartIndex.create(tmp_path / "index", LetterEncoder())


def test_a_stream_of_any_length_is_read_in_windows(tmp_path, monkeypatch):
    """A generator is taken window by window, committed batch by batch, and never held whole."""
    monkeypatch.setattr("smart_rag.index.ingest._WINDOW", 6)
    monkeypatch.setattr("smart_rag.index.ingest._BATCH", 4)
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
    monkeypatch.setattr("smart_rag.index.ingest._BATCH", 2)
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
    monkeypatch.setattr("smart_rag.index.ingest._BATCH", 2)
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
            with pytest.raises(errors.InvalidInput, match="Chroma does not accept this"):
                index.search("Dogs bark", where={"a": {"$foo": 1}})
            server.terminate()
            server.wait()
            with pytest.raises(errors.ChromaFailure, match="ConnectError"):
                index.search("Dogs bark")
    finally:
        server.kill()
        server.wait()


def connected(port):
    """Return a client of the server on this port, once it answers."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return chromadb.HttpClient(host="127.0.0.1", port=port)
        except ValueError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


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


# --- what can go wrong ----------------------------------------------------------------------


@pytest.mark.parametrize("top_k", [0, -1, 2.5, True])
def test_top_k_must_be_a_positive_whole_number(index, top_k):
    with pytest.raises(errors.InvalidInput, match="top_k must be a whole number of at least 1"):
        index.search("The dog", top_k)


@pytest.mark.parametrize("query", ["", "  \n"])
def test_an_empty_query_is_refused(index, query):
    with pytest.raises(errors.InvalidInput, match="the query is empty"):
        index.search(query)
    with pytest.raises(errors.InvalidInput, match="query 1 is empty"):
        index.search_many(["The dog", query])
    with pytest.raises(errors.InvalidInput, match="query 1 is a NoneType; expected a text"):
        index.search_many(["The dog", None])


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (None, "the query is a NoneType"),
        (5, "the query is a int"),
        (b"dogs", "the query is a bytes"),
        (["dogs", "cats"], "the query is a list"),
        ("dogs\udce9", "the query holds a lone surrogate"),
    ],
)
def test_what_is_no_query_is_refused(index, query, message):
    with pytest.raises(errors.InvalidInput, match=message):
        index.search(query)


def test_several_queries_are_not_one_text(index):
    with pytest.raises(errors.InvalidInput, match="expected several queries, got one str"):
        index.search_many("dogs")


def test_vectors_that_are_refused_leave_no_folder(tmp_path):
    vectors = LetterEncoder().encode_document(["one", "two"])
    with pytest.raises(errors.InvalidInput, match="1 documents with the vectors of 2"):
        SmartIndex.from_embeddings(tmp_path / "own", [Document("a", "one")], vectors)
    assert not (tmp_path / "own").exists()
    with SmartIndex.from_embeddings(tmp_path / "own", [Document("a", "one"), Document("b", "two")], vectors) as own:
        assert own.count() == 2


def test_an_empty_index_finds_nothing(tmp_path):
    with SmartIndex.create(tmp_path / "index", LetterEncoder()) as index:
        assert index.search("anything") == []
        assert index.search("anything", first_stage="exhaustive") == []
        assert index.search_many([]) == []


@pytest.mark.parametrize("first_stage", STAGES)
@pytest.mark.parametrize("where", [{"a": {"$foo": 1}}, {"$and": []}, {"a": None}])
def test_a_filter_that_chroma_does_not_take(index, where, first_stage):
    with pytest.raises(errors.InvalidInput, match="Chroma does not accept this"):
        index.search("The dog", where=where, first_stage=first_stage)


@pytest.mark.parametrize(
    ("weights", "first_stage"),
    [((-1.0, 1.0), "terms"), ((0.0, 0.0), "exhaustive"), ((float("nan"), 1.0), "pooled"), ((1.0,), "exhaustive")],
)
def test_weights_that_make_no_score(index, weights, first_stage):
    with pytest.raises(errors.InvalidInput, match="weights must be two numbers"):
        index.search("The dog", weights=weights, first_stage=first_stage)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([Document("a", "text"), Document("a", "text")], "ids come more than once in one call, the first is 'a'"),
        ([Document("ok", "text"), Document("empty", "  ")], "document 'empty' has no text"),
        ([Document("ok", "text"), Document("", "text")], "id must be a str that is not empty"),
        ([Document("ok", "text"), Document("m", "text", {"k": object()})], "document 'm': metadata 'k'"),
        ([Document("ok", "text"), Document("m", "text", {"_smart_rag.key": "x"})], "metadata key '_smart_rag.key'"),
        (["a bare text"], "expected a Document, got str"),
    ],
)
def test_bad_documents_are_refused_and_nothing_is_written(index, bad, message):
    with pytest.raises(errors.InvalidInput, match=message):
        index.add(bad)
    assert index.count() == 5
    assert index.verify().orphans == 0


def test_vectors_that_do_not_fit(index):
    class Wide(LetterEncoder):
        dimension = 9

    class Broken(LetterEncoder):
        def _encode(self, texts):
            good = super()._encode(texts)
            return Representation(good.pooled * np.nan, good.tokens)

    with pytest.raises(errors.DimensionMismatch, match="9 dimensions, the index has 8"):
        index.search(Wide().encode_query(["The dog"]))
    with pytest.raises(errors.DimensionMismatch, match="9 dimensions, the index has 8"):
        index.add_embeddings([Document("new", "a text")], Wide().encode_document(["a text"]))
    with pytest.raises(errors.InvalidInput, match="NaN"):
        index.add_embeddings([Document("new", "a text")], Broken().encode_document(["a text"]))
    index._encoder.loaded = Broken()
    with pytest.raises(errors.InvalidInput, match="NaN"):
        index.add([Document("new", "a text")])
    with pytest.raises(errors.InvalidInput, match="NaN"):
        index.search("The dog")
    assert index.count() == 5


def test_an_index_of_another_model(tmp_path, minilm):
    with SmartIndex.create(tmp_path / "index", LetterEncoder()) as index:
        index.add(documents())
    for encoder in (LetterEncoder("other"), minilm):
        with pytest.raises(errors.IndexMismatch, match="made with 'letters'"):
            SmartIndex.open(tmp_path / "index", encoder)
    with SmartIndex.open(tmp_path / "index", LetterEncoder()) as index:
        assert index.count() == 5


def test_folders_that_are_no_index(tmp_path):
    with pytest.raises(errors.IndexNotFound, match="does not exist"):
        SmartIndex.open(tmp_path / "nowhere", LetterEncoder())
    with pytest.raises(errors.IndexNotFound, match=r"holds no manifest\.json"):
        SmartIndex.open(tmp_path, LetterEncoder())
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(errors.IndexExists, match="is not empty and holds no index"):
        SmartIndex.create(tmp_path, LetterEncoder())
    assert (tmp_path / "letter.txt").read_text() == "mine"
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(errors.IndexNotFound, match="is not the manifest of an index"):
        SmartIndex.open(tmp_path, LetterEncoder())
    with SmartIndex.create(tmp_path / "index", LetterEncoder()) as index:
        index.add(documents())
    with pytest.raises(errors.IndexExists):
        SmartIndex.create(tmp_path / "index", LetterEncoder())
    shutil.rmtree(tmp_path / "index" / "chroma")
    with pytest.raises(errors.IndexNotFound, match="pooled embeddings is missing"):
        SmartIndex.open(tmp_path / "index", LetterEncoder())


def test_a_newer_format(tmp_path):
    SmartIndex.create(tmp_path / "index", LetterEncoder()).close()
    path = tmp_path / "index" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    with pytest.raises(errors.IndexMismatch, match="format 99, this smart_rag reads format 2"):
        SmartIndex.open(tmp_path / "index", LetterEncoder())


def test_unknown_codec_makes_no_folder(tmp_path):
    with pytest.raises(errors.InvalidInput, match="unknown codec 'float8'"):
        SmartIndex.create(tmp_path / "index", LetterEncoder(), config=IndexConfig(codec="float8"))
    assert not (tmp_path / "index").exists()


def test_a_closed_index(index):
    index.close()
    index.close()
    for call in (
        lambda: index.search("The dog"),
        lambda: index.add(documents()),
        lambda: index.delete(["cat"]),
        lambda: index.count(),
        lambda: index.rerank("The dog", ["a"]),
        lambda: index.info(),
    ):
        with pytest.raises(errors.IndexClosed, match="open it again"):
            call()


def test_two_writers_at_once(index):
    """A second writer is told, in this process or another; readers go on."""
    with SmartIndex.open(index.path, LetterEncoder()) as second:
        assert second.search("Dogs bark", 1)[0].id == "dog"
        with pytest.raises(errors.IndexLocked, match="another writer has the index open"):
            second.add([Document("new", "some text")])
    code = """
        import sys
        from smart_rag import SmartIndex, errors
        with SmartIndex.open(sys.argv[1]) as index:
            print(index.count())
            try:
                index.delete(["cat"])
            except errors.IndexLocked as error:
                print("locked")
    """
    assert python(code, index.path).stdout.split() == ["5", "locked"]
    assert index.count() == 5


def test_the_lock_goes_with_the_index(tmp_path):
    first = SmartIndex.create(tmp_path / "index", LetterEncoder())
    first.add(documents())
    first.close()
    with SmartIndex.open(tmp_path / "index", LetterEncoder()) as second:
        second.delete(["cat"])


def test_lost_and_damaged_tokens_are_named_and_repaired(index):
    """Search says whose tokens are gone; verify lists them; repair encodes the texts again."""
    expected = index.search("The dog and the carp", 5)
    tokens = index._store.tokens
    keys = {row.document.id: row.key for row in index._store.pooled.select()}
    tokens.delete([keys["cat"]])
    places = tokens._environment.databases["places"]
    with tokens._environment.read() as transaction:
        place = bytearray(transaction.get(keys["dog"], db=places))
    place[-1] ^= 1
    tokens._environment.write(lambda transaction: transaction.put(keys["dog"], bytes(place), db=places))

    with pytest.raises(errors.MissingTokens, match=r"'cat'.*repair") as caught:
        index.search("The dog and the carp", 5)
    assert caught.value.ids == ("cat",)
    report = index.verify()
    assert (report.missing, report.damaged, report.sound) == (("cat",), ("dog",), False)
    index.verify(repair=True)
    assert index.verify().sound
    assert index.search("The dog and the carp", 5) == expected


def test_adding_again_heals_what_is_lost(index):
    keys = {row.document.id: row.key for row in index._store.pooled.select()}
    index._store.tokens.delete([keys["cat"]])
    report = index.add(documents())
    assert (report.replaced, report.unchanged) == (1, 4)
    assert index.verify().sound


def test_orphans_are_vacuumed(index):
    """Tokens whose row was never written, as a crash between the two leaves them."""
    index._store.tokens.put([b"x" * 16], TokenBatch.from_list([np.ones((2, 8), dtype=np.float32)]))
    assert index.verify().orphans == 1
    assert index.vacuum() == 1
    assert index.verify().orphans == 0
    assert len(index.search("The dog", 5)) == 5


def test_killed_while_adding(tmp_path):
    """Every acknowledged document is found after SIGKILL; the same add goes on; nothing is doubled."""
    code = """
        import sys
        sys.path.insert(0, sys.argv[2])
        import smart_rag.index.ingest
        smart_rag.index.ingest._BATCH = 8
        from smart_rag import Document, SmartIndex
        from helpers.word_encoder import LetterEncoder
        index = SmartIndex.create(sys.argv[1], LetterEncoder())
        index.add(
            [Document(f"d{i}", f"text number {i}") for i in range(100_000)],
            on_commit=lambda ids: print(*ids, flush=True),
        )
    """
    path = tmp_path / "index"
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(path), TESTS],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    acknowledged = [name for _ in range(20) for name in process.stdout.readline().split()]
    os.kill(process.pid, signal.SIGKILL)
    acknowledged += process.stdout.read().split()  # what was on its way
    process.stdout.close()
    process.wait()
    assert len(acknowledged) >= 160
    with SmartIndex.open(path, LetterEncoder()) as index:
        assert {document.id for document in index.get(acknowledged)} == set(acknowledged)
        assert index.verify().sound
        hits = index.search(f"text number {acknowledged[0][1:]}", 3)
        assert hits[0].id == acknowledged[0]
        wanted = [Document(name, f"text number {name[1:]}") for name in [*acknowledged, "d99999"]]
        report = index.add(wanted)
        assert report.unchanged == len(acknowledged)
        index.vacuum()
        assert len({document.id for document in index.documents()}) == index.count()
        assert index.verify().orphans == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk_loses_nothing(tmp_path):
    """The add that does not fit says so; once there is room, what was acknowledged is there and can be searched."""
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(mount)], check=False).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    try:
        with SmartIndex.create(mount / "index", LetterEncoder()) as index:
            index.add(documents())
            acknowledged: list[str] = []
            with pytest.raises(errors.StorageFull, match="no space left"):
                index.add(
                    (Document(f"d{i}", f"text {i} " + "word " * 400) for i in range(20_000)),
                    on_commit=acknowledged.extend,
                )
        subprocess.run(["mount", "-o", "remount,size=64m", str(mount)], check=True)
        with SmartIndex.open(mount / "index", LetterEncoder()) as index:
            assert {document.id for document in index.get([*TEXTS, *acknowledged])} == {*TEXTS, *acknowledged}
            assert index.verify().sound
            assert index.search("Dogs bark", 1)[0].id == "dog"
            index.add([Document("after", "there is room again")])
            assert index.search("there is room again", 1)[0].id == "after"
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


# --- codecs -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample_passages():
    """Paragraphs of the sample documents."""
    from smart_rag.demo import sample_folder

    text = (sample_folder() / "station_handbook.md").read_text(encoding="utf-8")
    return {f"{i:02}": part for i, part in enumerate(part for part in text.split("\n\n") if len(part) > 150)}


@pytest.mark.parametrize(
    ("given", "name", "bytes_per_token", "factor"),
    [
        ("exact", "float16", 768, 1),
        ("balanced", "2bit", 96, 1),
        ("compact", "2bit/2", 96, 2),
        ("int8", "int8", 384, 1),
        ("4bit/3", "4bit/3", 192, 3),
        (None, "2bit", 96, 1),
    ],
)
def test_every_codec_finds_the_same(tmp_path, minilm, sample_passages, given, name, bytes_per_token, factor):
    """The first hit is as good as that of unrounded tokens; the manifest names the codec; what is lost is made anew."""
    config = IndexConfig() if given is None else IndexConfig(codec=given)
    docs = [Document(id, text) for id, text in sample_passages.items()]
    counts = np.diff(minilm.encode_document(list(sample_passages.values())).tokens.offsets)
    query = "When are the boats fuelled, and who has the keys?"
    exact = {hit.id: hit.score for hit in reranked(minilm, query, docs)}
    with SmartIndex.create(tmp_path / "index", minilm, config=config) as index:
        index.add(docs)
        assert json.loads((tmp_path / "index" / "manifest.json").read_text())["config"]["codec"] == name
        hits = index.search(query, 5, weighting="none")
        assert exact[hits[0].id] == pytest.approx(max(exact.values()), abs=0.1)
        for hit in hits:
            assert hit.score == pytest.approx(exact[hit.id], abs=0.1 * sum(DEFAULT_WEIGHTS))
        info = index.info()
        assert info.tokens == sum(-(-n // factor) for n in counts)
        # A record is padded to pages, and has a header.
        assert bytes_per_token * info.tokens < info.token_bytes < bytes_per_token * info.tokens + 6000 * len(docs)
        key = next(index._store.tokens.keys())
        index._store.tokens.delete([key])
    with SmartIndex.open(tmp_path / "index", minilm) as index:
        assert index.manifest.config.codec == name
        assert len(index.verify(repair=True).missing) == 1
        assert index.verify().sound
        assert next(iter(index._store.tokens.keys())) == key
        again = index.search(query, 5, weighting="none")
        assert [hit.id for hit in again] == [hit.id for hit in hits]
        assert [hit.score for hit in again] == pytest.approx([hit.score for hit in hits], abs=1e-3)
        assert len(index.tokens([hits[0].id])[0]) == -(-counts[list(sample_passages).index(hits[0].id)] // factor)
        assert index.add(docs).unchanged == len(docs)


def reranked(encoder, query, docs):
    """Return the hits of unrounded tokens."""
    from smart_rag import rerank

    return rerank(query, docs, encoder)


@pytest.mark.parametrize("name", ["2bit", "1bit", "2bit/2"])
def test_scores_are_those_of_decoded_tokens(tmp_path, name):
    """By plain loops over what the index gives back; both ways of searching agree."""
    query = "The dog and the carp"
    encoded = LetterEncoder().encode_query([query])
    with SmartIndex.create(tmp_path / "index", LetterEncoder(), config=IndexConfig(codec=name)) as index:
        index.add(documents())
        for first_stage in STAGES:
            for hit in index.search(query, 5, first_stage=first_stage):
                (tokens,) = index.tokens([hit.id])
                late = sum(max(float(a @ b) for b in tokens) for a in encoded.tokens[0]) / len(encoded.tokens[0])
                assert hit.late_score == pytest.approx(late, abs=1e-4)


# --- any sequence of writes -----------------------------------------------------------------

NAMES = st.sampled_from("abcdef")
WORDS = st.lists(st.sampled_from(["red", "green", "blue", "dog", "carp"]), min_size=1, max_size=6).map(" ".join)


class Sequences(RuleBasedStateMachine):
    """After any add, replace, delete and reopen, the index is the one that a dict of the texts describes."""

    @initialize()
    def make(self):
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.index = SmartIndex.create(Path(self.folder.name) / "index", LetterEncoder(), config=EXACT)
        self.texts: dict[str, str] = {}

    @rule(texts=st.dictionaries(NAMES, WORDS, min_size=1))
    def add(self, texts):
        self.index.add([Document(name, text) for name, text in texts.items()])
        self.texts |= texts

    @rule(names=st.lists(NAMES))
    def delete(self, names):
        assert self.index.delete(names) == len(set(names) & set(self.texts))
        for name in names:
            self.texts.pop(name, None)

    @rule()
    def reopen(self):
        self.index.close()
        self.index = SmartIndex.open(self.index.path, LetterEncoder())

    @precondition(lambda self: self.texts)
    @rule(query=WORDS)
    def search(self, query):
        expected = reference(LetterEncoder(), query, self.texts)
        for first_stage in STAGES:
            hits = self.index.search(query, 10, first_stage=first_stage)
            assert {hit.id: hit.text for hit in hits} == self.texts
            for hit in hits:
                assert hit.score == pytest.approx(expected[hit.id][0], abs=1e-5)

    @invariant()
    def holds(self):
        assert {document.id: document.text for document in self.index.documents()} == self.texts
        report = self.index.verify()
        assert (report.sound, report.orphans) == (True, 0)
        words = sum(len(text.split()) for text in set(self.texts.values()))
        assert self.index.info().tokens == words

    def teardown(self):
        if hasattr(self, "index"):
            self.index.close()
            self.folder.cleanup()


TestSequences = Sequences.TestCase
TestSequences.settings = settings(
    max_examples=10, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)


def python(code, *arguments):
    """Run ``code`` in a new process."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )


class CodingEncoder(VocabularyEncoder):
    """Codes tokens itself, where it is asked to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []

    def encode_document(self, texts, codec=None):
        self.asked += [(text, codec) for text in texts]
        encoded = self.encode_query(texts)
        if codec is None:
            return encoded
        coded, tokens = get_codec(codec), encoded.tokens
        codes = coded.encode(tokens.embeddings)
        return Representation(encoded.pooled, TokenCodes(codes, tokens.offsets, self.dimension, coded, tokens.ids))


@pytest.mark.parametrize("name", ["float16", "2bit", "2bit/2"])
def test_an_encoder_that_codes(tmp_path, name):
    """It is told the index's codec, but for one that merges tokens; what is stored and found is the same."""
    encoder, texts = CodingEncoder(), [*TEXTS.values(), TEXTS["cat"]]
    given = [Document(str(i), text) for i, text in enumerate(texts)]
    with SmartIndex.create(tmp_path / "own", encoder, config=IndexConfig(codec=name)) as index:
        index.add(given)
        index.encode_documents(["one more text"])
        # Equal texts once.
        assert sorted(text for text, _ in encoder.asked) == sorted([*TEXTS.values(), "one more text"])
        assert {codec for _, codec in encoder.asked} == {None if "/" in name else name}
        index.add([Document("6", "one more text")])
        for word, id in (("bark", "1"), ("carp", "2"), ("more", "6")):
            assert index.search(word, top_k=1, candidates=1, first_stage="terms")[0].id == id
        own = index.tokens([document.id for document in given])
        assert index.verify().sound
    with SmartIndex.create(tmp_path / "plain", VocabularyEncoder(), config=IndexConfig(codec=name)) as index:
        index.add(given)
        plain = index.tokens([document.id for document in given])
    np.testing.assert_array_equal(own.offsets, plain.offsets)
    np.testing.assert_array_equal(own.embeddings, plain.embeddings)


def test_numbers_that_are_none_are_not_stored_as_codes(tmp_path):
    class Broken(CodingEncoder):
        def encode_query(self, texts):
            good = VocabularyEncoder.encode_query(VocabularyEncoder(), texts)
            bad = [word == "bad" for text in texts for word in text.split()]
            embeddings = np.where(np.asarray(bad)[:, None], np.float32(np.nan), good.tokens.embeddings)
            return Representation(good.pooled, replace(good.tokens, embeddings=embeddings))

    for name in ("float16", "2bit"):
        with SmartIndex.create(tmp_path / name, Broken(), config=IndexConfig(codec=name)) as index:
            with pytest.raises(errors.InvalidInput, match="NaN or inf"):
                index.add([Document("a", "a bad word")])
            index.add([Document("b", "a good word")])
            assert [index.count(), index.verify().sound] == [1, True]


@pytest.mark.parametrize("name", ["float16", "2bit"])
def test_what_an_index_encoded_is_a_query_with_words(tmp_path, name):
    """Coded tokens have their ids: what is rare counts for more, and is a candidate, as of a query in words."""
    encoder = CodingEncoder()
    with SmartIndex.create(tmp_path, encoder, config=IndexConfig(codec=name)) as index:
        index.add([Document(str(i), f"the {word} hall") for i, word in enumerate(["red", "blue", "dark", "wide"])])
        text = "the wide hall"
        coded, words = index.encode_documents([text]), encoder.encode_query([text])
        assert isinstance(coded.tokens, TokenCodes)
        np.testing.assert_array_equal(query_shares(index, coded), query_shares(index, words))
        assert query_shares(index, coded)[1] > query_shares(index, coded)[0]
        # Its pooled embedding is another text's: by its terms alone it finds what has them.
        elsewhere = Representation(encoder.encode_query(["the red hall"]).pooled, coded.tokens)
        assert {hit.id for hit in index.search(elsewhere, top_k=2, candidates=2, first_stage="terms")} == {"0", "3"}

"""Several processes on one index: what one writes, the others find at their next call."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.another_process import another_process
from helpers.word_encoder import WordEncoder

import smart_rag.store.chroma.client
from smart_rag import Document, IndexConfig, SmartIndex
from smart_rag.errors import IndexLocked

SECONDS = 4


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "index"
    with SmartIndex.create(path, WordEncoder(), config=IndexConfig(codec="exact")) as index:
        index.add([Document("a", "pump bearings", {"n": 1}), Document("b", "boat keys", {"n": 2})])
    return path


@pytest.fixture
def writer(path):
    with another_process(path) as writer:
        yield writer


@pytest.fixture
def openings(monkeypatch):
    """The paths at which this process has opened Chroma."""
    paths = []
    persistent = smart_rag.store.chroma.client._persistent
    monkeypatch.setattr(
        smart_rag.store.chroma.client, "_persistent", lambda path: (paths.append(path), persistent(path))[1]
    )
    return paths


def assert_shows(index, texts, query="bearings"):
    """Every way to read the index gives the documents of ``texts``, by id, and nothing else."""
    assert index.count() == len(texts)
    assert {document.id: document.text for document in index.documents()} == texts
    assert {document.id: document.text for document in index.get(["a", "b", "c", "d"])} == texts
    assert {document.id for document in index.documents({"n": {"$gte": 1}})} == set(texts)
    wanted = WordEncoder().encode_query([query])
    expected = {}
    for id, text in texts.items():
        vectors = WordEncoder().encode_document([text])
        tokens = wanted.tokens[0] @ vectors.tokens[0].T
        lengths = np.linalg.norm(wanted.tokens[0]) * np.linalg.norm(vectors.tokens[0], axis=1)
        expected[id] = (float(wanted.pooled[0] @ vectors.pooled[0]), float((tokens[0] / lengths).max()))
    for options in (
        {"first_stage": "terms"},
        {"first_stage": "exhaustive"},
        {"first_stage": "pooled", "where": {"n": {"$gte": 1}}},
        {"first_stage": "exhaustive", "where": {"n": 1}},
    ):
        hits = index.search(query, **options)
        assert {hit.id: hit.text for hit in hits} == {
            id: text for id, text in texts.items() if options.get("where") != {"n": 1} or id == "a"
        }
        for hit in hits:
            assert (hit.pooled_score, hit.late_score) == pytest.approx(expected[hit.id], abs=1e-2)


def test_a_reader_sees_what_a_writer_writes(path, writer):
    """Documents added, replaced and deleted elsewhere, for both of two indexes in one process."""
    with SmartIndex.open(path, WordEncoder()) as index, SmartIndex.open(path, WordEncoder()) as second:
        texts = {"a": "pump bearings", "b": "boat keys"}
        assert_shows(index, texts)
        assert_shows(second, texts)
        writer.run("index.add_texts(['new bearings'], ['c'], [{'n': 3}])")
        texts["c"] = "new bearings"
        assert_shows(index, texts)
        assert_shows(second, texts)
        writer.run("index.add_texts(['a text about bears', 'bearings'], ['a', 'b'], [{'n': 1}, {'n': 2}])")
        texts |= {"a": "a text about bears", "b": "bearings"}
        assert_shows(second, texts)
        assert_shows(index, texts)
        assert index.search("bearings")[0].id == "b"
        writer.run("index.delete(['b'])")
        del texts["b"]
        assert_shows(index, texts)
        with SmartIndex.open(path, WordEncoder()) as third:
            assert_shows(third, texts)
        assert_shows(second, texts)
        with pytest.raises(IndexLocked):
            index.add_texts(["not now"])


def test_an_index_that_was_empty(tmp_path):
    """A reader that has opened an empty index sees the first documents, and the last one go."""
    path = tmp_path / "index"
    with (
        SmartIndex.create(path, WordEncoder(), config=IndexConfig(codec="exact")) as index,
        another_process(path) as writer,
    ):
        assert_shows(index, {})
        writer.run("index.add_texts(['bearings'], ['a'], [{'n': 1}])")
        assert_shows(index, {"a": "bearings"})
        writer.run("index.delete(['a'])")
        assert_shows(index, {})


def test_a_reader_becomes_the_writer(path, writer):
    """What another process wrote stays when this one writes after it."""
    with SmartIndex.open(path, WordEncoder()) as index:
        assert_shows(index, {"a": "pump bearings", "b": "boat keys"})
        writer.run("index.add_texts(['new bearings', 'old keys'], ['c', 'b'], [{'n': 3}, {'n': 2}]); index.close()")
        index.add_texts(["carp"], ["d"], [{"n": 4}])
        texts = {"a": "pump bearings", "b": "old keys", "c": "new bearings", "d": "carp"}
        assert_shows(index, texts)
        assert index.verify().sound
    with SmartIndex.open(path, WordEncoder()) as index:
        assert_shows(index, texts)


def test_more_than_chroma_keeps_in_its_log(path, writer):
    """Chroma writes its vectors to files after a thousand rows; a reader goes on."""
    with SmartIndex.open(path, WordEncoder()) as index:
        for start in range(0, 2600, 1300):
            names = f"[str(i) for i in range({start}, {start} + 1300)]"
            writer.run(f"index.add_texts(['word' + name for name in {names}], {names})")
            assert index.count() == start + 1302
            for i in (start, start + 1299):
                assert (
                    index.search(f"word{i}", 1)[0].id
                    == index.search(f"word{i}", 1, first_stage="exhaustive")[0].id
                    == str(i)
                )


def test_own_writes_open_nothing_anew(path, openings):
    """Neither own writes nor another reader, but a write elsewhere does, once for all indexes of the process."""
    with SmartIndex.open(path, WordEncoder()) as index, SmartIndex.open(path, WordEncoder()) as second:
        for i in range(5):
            index.add_texts([f"text {i}"])
            assert index.search(f"text {i}", 1)[0].text == second.search(f"text {i}", 1)[0].text == f"text {i}"
        index.delete(["a"])
        assert len(openings) == 1
    with (
        SmartIndex.open(path, WordEncoder()) as index,
        SmartIndex.open(path, WordEncoder()) as second,
        another_process(path) as writer,
    ):
        writer.run("index.search('text')")
        assert index.count() == 6
        assert len(openings) == 2
        writer.run("index.delete(['b'])")
        assert [index.count(), second.count(), len(index.search("text"))] == [5, 5, 5]
        assert len(openings) == 3
        writer.run("index.search('text')")
        assert len(second.search("text")) == 5
        assert len(openings) == 3


def test_a_writer_that_is_killed(path, writer):
    """A process killed while it writes blocks nobody, and what it wrote is seen."""
    with SmartIndex.open(path, WordEncoder()) as index:
        writer.start("for i in range(100_000): index.add_texts([f'text {i}'], [f'd{i}'])")
        while index.count() < 10:
            time.sleep(0.01)
        writer.process.kill()
        writer.process.wait()
        hits = index.search("text", 100_000)
        assert len(hits) == index.count() == len(index.search("text", 100_000, first_stage="exhaustive"))
        index.add_texts(["bearings"], ["c"])
        assert index.search("bearings", 1)[0].id == "c"


def test_threads_that_read_while_another_process_writes(path, writer):
    """No call raises, whatever is added, replaced and deleted meanwhile; then all give the right answers."""
    churn = (
        f"import time; end = time.time() + {SECONDS}; n = 0\n"
        "while time.time() < end:\n"
        "    n += 1; names = [f'd{i}' for i in range(30)]\n"
        "    index.add_texts([f'bearings {n} {name}' for name in names], names, [{'n': n}] * 30)\n"
        "    index.delete(names[n % 3 :: 3])\n"
    )
    done = threading.Event()
    errors, calls = [], [0] * 4

    def read(index, i):
        actions = [
            lambda: index.search("bearings", 40),
            lambda: index.search("bearings", 40, where={"n": {"$gt": 0}}),
            lambda: index.search("bearings", 40, first_stage="exhaustive"),
            lambda: [index.get(["a", "d1"]), list(index.documents()), index.count()],
        ]
        while not done.is_set():
            try:
                actions[(calls[i] + i) % 4]()
            except Exception as error:
                errors.append(error)
            calls[i] += 1

    with SmartIndex.open(path, WordEncoder()) as index, SmartIndex.open(path, WordEncoder()) as second:
        threads = [threading.Thread(target=read, args=([index, second][i % 2], i)) for i in range(4)]
        for thread in threads:
            thread.start()
        writer.start(f"exec({churn!r})")
        writer.wait()
        done.set()
        for thread in threads:
            thread.join()
        assert errors == []
        assert min(calls) > 4
        writer.run("index.delete([document.id for document in index.documents({'n': {'$gt': 2}})])")
        texts = {document.id: document.text for document in index.documents()}
        assert texts == {"a": "pump bearings", "b": "boat keys"}
        assert_shows(index, texts)
        assert_shows(second, texts)
        assert index.verify().sound


def test_a_relative_path_and_another_working_directory(tmp_path, monkeypatch):
    """The lock of the index stays where the index is, so only one process writes."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with SmartIndex.create("index", WordEncoder()) as index, another_process(tmp_path / "index") as writer:
        monkeypatch.chdir("elsewhere")
        writer.run("index.add_texts(['bearings'], ['a'])")
        with pytest.raises(IndexLocked):
            index.add_texts(["not now"])
        writer.run("index.close()")
        index.add_texts(["boat keys"], ["b"])
        assert [document.id for document in index.get(["a", "b"])] == ["a", "b"]
    assert list(Path.cwd().iterdir()) == []

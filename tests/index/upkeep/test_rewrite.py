"""An index that is compacted or converted: the same documents, new stores, and nothing lost if a process dies."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import textwrap
import threading

import chromadb
import numpy as np
import pytest
from helpers.another_process import another_process
from helpers.word_encoder import TESTS, LetterEncoder, SeeingEncoder, VocabularyEncoder, WordEncoder
from PIL import Image

from smart_rag import Document, IndexConfig, Representation, SmartIndex
from smart_rag.errors import CorruptStore, IndexLocked, IndexNotFound, InvalidInput, NotTrusted
from smart_rag.index.manifest import FILE_NAME, Manifest
from smart_rag.index.upkeep import rewrite

TEXTS = [f"{word} {other} number{i}" for i, word in enumerate(["pump", "boat", "keys"] * 40) for other in ["lamp"]]
QUESTIONS = ["pump lamp", "boat number7", "keys"]


def documents(texts=TEXTS):
    return [Document(f"d{i}", text, {"n": i, "tags": ["a", i]}) for i, text in enumerate(texts)]


def answers(index):
    return [
        [(hit.id, round(hit.score, 4), dict(hit.metadata)) for hit in index.search(question, 10, first_stage=stage)]
        for question in QUESTIONS
        for stage in ("terms", "pooled", "exhaustive")
    ]


def make(path, encoder=None, codec="exact", client=None):
    index = SmartIndex.create(path, encoder or VocabularyEncoder(), config=IndexConfig(codec=codec), client=client)
    index.add(documents())
    return index


def stores(path):
    return sorted(child.name for child in path.iterdir() if child.is_dir())


def test_compact_gives_space_back_and_changes_no_answer(tmp_path):
    many = [f"word{i} word{i + 1} number{i}" for i in range(600)]
    with SmartIndex.create(tmp_path / "index", VocabularyEncoder()) as index:
        index.add(documents(many))
        index.delete([f"d{i}" for i in range(20, 600)])
        index.vacuum()
        before, size = answers(index), bytes_of(tmp_path / "index")
        freed = index.compact()
        assert answers(index) == before
        assert freed > 0.7 * size
        assert bytes_of(tmp_path / "index") == size - freed
        assert index.verify().sound
        assert index.verify().orphans == 0
        index.add(documents(["a new text"]))
        assert index.get(["d0"])[0].text == "a new text"
    with SmartIndex.open(tmp_path / "index", VocabularyEncoder()) as again:
        assert again.count() == 20
        again.compact()
        assert again.get(["d0"])[0].text == "a new text"
        assert stores(tmp_path / "index") == [again.manifest.data]


def bytes_of(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_an_exact_index_takes_another_codec_without_encoding(tmp_path):
    encoder = LetterEncoder()
    with SmartIndex.create(tmp_path / "index", encoder, config=IndexConfig(codec="exact")) as index:
        index.add(documents())
        calls = len(encoder.encoded)
        index.convert(codec="compact")
        assert len(encoder.encoded) == calls
        assert index.manifest.config.codec == "2bit/2"
        with SmartIndex.create(tmp_path / "fresh", LetterEncoder(), config=IndexConfig(codec="compact")) as fresh:
            fresh.add(documents())
            assert answers(index) == answers(fresh)
            assert index.add(documents()).unchanged == len(TEXTS)
        index.convert(codec="compact")  # nothing to do
        index.convert(codec="4bit")
        assert len(encoder.encoded) > calls
        assert index.verify().sound


def test_another_model_encodes_everything_again(tmp_path):
    with make(tmp_path / "index", WordEncoder()) as index:
        index.set_weights((1, 5))
        index.convert(VocabularyEncoder(), codec="balanced")
        with SmartIndex.create(tmp_path / "fresh", VocabularyEncoder()) as fresh:
            fresh.add(documents())
            assert answers(index) == answers(fresh)
        assert index.manifest.weights == (1.0, 2.0)
        assert index.add(documents()).unchanged == len(TEXTS)
    with SmartIndex.open(tmp_path / "index", VocabularyEncoder()) as again:
        assert again.count() == len(TEXTS)


def test_vectors_of_the_caller_take_another_codec_only_if_they_are_exact(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((40, 16)).astype(np.float32)
    some, query = documents()[:40], Representation.from_embeddings(vectors[3])
    given = Representation.from_embeddings(vectors)
    with SmartIndex.from_embeddings(tmp_path / "index", some, given, config=IndexConfig(codec="exact")) as index:
        index.convert(codec="4bit")
        assert index.search(query, 1)[0].id == "d3"
        with pytest.raises(InvalidInput, match="caller's own"):
            index.convert(codec="2bit")
        assert index.manifest.config.codec == "4bit"
        index.compact()
        assert index.search(query, 1)[0].id == "d3"


def test_images_and_files_stay_with_their_documents(tmp_path):
    picture = tmp_path / "red.png"
    Image.new("RGB", (8, 8), "red").save(picture)
    (tmp_path / "note.txt").write_text("blue boat")
    blue = Image.new("RGB", (8, 8), "blue")
    with SmartIndex.create(tmp_path / "index", SeeingEncoder(), config=IndexConfig(codec="exact")) as index:
        index.add([Document("red", "", {}, picture), Document("blue", "both", {}, blue)])
        index.add_files([tmp_path / "note.txt"])
        before = {one.id: (one.image, one.metadata) for one in index.documents()}
        index.convert(codec="4bit")
        index.compact()
        assert {one.id: (one.image, one.metadata) for one in index.documents()} == before
        assert index.add_files([tmp_path / "note.txt"]).unchanged == 1
        assert index.verify().sound
    with SmartIndex.open(tmp_path / "index", SeeingEncoder()) as again:
        assert {one.id: one.image for one in again.documents()} == {id: image for id, (image, _) in before.items()}


def test_an_image_that_may_not_be_read_is_not_lost(tmp_path, monkeypatch):
    picture = tmp_path / "red.png"
    Image.new("RGB", (8, 8), "red").save(picture)
    with SmartIndex.create(tmp_path / "index", SeeingEncoder()) as index:
        index.add([Document("red", "text", {}, picture)])
    monkeypatch.setenv("SMART_RAG_HOME", str(tmp_path / "another user"))
    with SmartIndex.open(tmp_path / "index", SeeingEncoder()) as index:
        with pytest.raises(NotTrusted, match=r"red\.png.*sources="):
            index.compact()
        assert index.count() == 1
    with SmartIndex.open(tmp_path / "index", SeeingEncoder(), sources=[tmp_path]) as index:
        index.compact()
        assert index.get(["red"])[0].image == picture


def test_damage_is_not_carried_over(tmp_path):
    with make(tmp_path / "index", codec="2bit") as index:
        row = next(iter(index._store.pooled.select()))
        index._store.tokens.delete([row.key])
        with pytest.raises(CorruptStore):
            index.compact()
        index.verify(repair=True)
        index.compact()
        assert index.verify().sound


@pytest.mark.parametrize("change", ["index.compact()", "index.convert(codec='float32')"])
def test_readers_and_later_writers_follow_to_the_new_stores(tmp_path, change):
    with make(tmp_path / "index"):
        pass
    with (
        SmartIndex.open(tmp_path / "index", VocabularyEncoder()) as reader,
        another_process(tmp_path / "index", "VocabularyEncoder") as writer,
    ):
        before = [[hit[0] for hit in hits] for hits in answers(reader)]
        writer.run(change)
        assert [[hit[0] for hit in hits] for hits in answers(reader)] == before
        with pytest.raises(IndexLocked):
            reader.delete(["d0"])
        writer.run("index.add_texts(['keys and more keys'], ['new'])")
        assert "new" in [hit.id for hit in reader.search("keys", 100)]
        writer.run("index.close()")
        assert reader.delete(["new"]) == 1


def test_searches_go_on_while_another_process_compacts(tmp_path):
    with make(tmp_path / "index"):
        pass
    with (
        SmartIndex.open(tmp_path / "index", VocabularyEncoder()) as reader,
        another_process(tmp_path / "index", "VocabularyEncoder") as writer,
    ):
        before, done, searches = answers(reader), threading.Event(), 0
        writer.start("for _ in range(6): index.compact()")
        waiting = threading.Thread(target=lambda: (writer.wait(), done.set()))
        waiting.start()
        while not done.is_set():
            assert answers(reader) == before
            assert reader.get(["d7"])[0].text == TEXTS[7]
            searches += 1
        waiting.join()
        assert searches > 1


def test_two_objects_of_one_process_share_the_new_stores(tmp_path):
    with make(tmp_path / "index") as one, SmartIndex.open(tmp_path / "index", VocabularyEncoder()) as other:
        other.set_weights((1, 7))
        one.compact()
        assert one.manifest.weights == Manifest.read(tmp_path / "index").weights == (1.0, 7.0)
        other.add_texts(["pump"], ["new"])
        assert one.get(["new"])
        other.compact()
        with SmartIndex.open(tmp_path / "index", VocabularyEncoder()) as third:
            third.add_texts(["boat"], ["newer"])
        assert one.get(["newer"])


def test_a_deleted_index_is_not_found_again(tmp_path):
    with make(tmp_path / "index") as index:
        index.compact()
        (tmp_path / "index").rename(tmp_path / "elsewhere")
        with pytest.raises(IndexNotFound):
            index.count()


def test_a_client_of_the_caller_gets_a_new_collection(tmp_path):
    client = chromadb.EphemeralClient()
    others = {collection.name for collection in client.list_collections()}  # of other tests
    with make(tmp_path / "index", client=client) as index:
        before = answers(index)
        index.convert(codec="float32")
        assert [[hit[0] for hit in hits] for hits in answers(index)] == [[hit[0] for hit in hits] for hits in before]
        names = list({collection.name for collection in client.list_collections()} - others)
        assert names == [f"smart_rag-{index.manifest.data}"]
    with SmartIndex.open_or_create(
        tmp_path / "index", VocabularyEncoder(), client=client, collection="smart_rag"
    ) as it:
        assert it.count() == len(TEXTS)
    client.delete_collection(names[0])


KILLED = """
import os, sys, signal
sys.path.insert(0, sys.argv[2])
from helpers.word_encoder import VocabularyEncoder
from smart_rag import SmartIndex
from smart_rag.index.upkeep import documents, rewrite
from smart_rag.store.document_store import DocumentStore
from smart_rag.store.terms.term_store import TermStore
from smart_rag.index.manifest import Manifest
import shutil

def dies(owner, name, calls):
    original, left = getattr(owner, name), [calls]
    def one(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    setattr(owner, name, one)

with SmartIndex.open(sys.argv[1], VocabularyEncoder()) as index:
    index.count()
    owner = {"commit": DocumentStore, "settle": TermStore, "write": Manifest, "rmtree": shutil}[sys.argv[3]]
    dies(owner, sys.argv[3], int(sys.argv[4]))
    index.convert(codec="exact")
"""


@pytest.mark.parametrize(
    ("function", "calls", "done"),
    [
        pytest.param("write", 0, False, marks=pytest.mark.slow),
        ("commit", 0, False),
        pytest.param("commit", 2, False, marks=pytest.mark.slow),
        ("settle", 1, False),  # the rows of the second batch are there, but it is not finished
        pytest.param("write", 1, False, marks=pytest.mark.slow),
        ("rmtree", 0, True),
        pytest.param("rmtree", 2, True, marks=pytest.mark.slow),
    ],
)
def test_a_killed_conversion_leaves_the_old_index_or_the_new_one(tmp_path, function, calls, done):
    texts = [f"word{i % 7} number{i}" for i in range(300)]
    with SmartIndex.create(tmp_path / "index", VocabularyEncoder(), config=IndexConfig(codec="float32")) as index:
        index.add(documents(texts))
        before = [[hit[0] for hit in hits] for hits in answers(index)]
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "index"), TESTS, function, str(calls)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    with SmartIndex.open(tmp_path / "index", VocabularyEncoder()) as index:
        assert index.manifest.config.codec == ("float16" if done else "float32")
        assert [[hit[0] for hit in hits] for hits in answers(index)] == before
        index.delete(["d0"])
        index.add(documents(["changed"])[:1])
        index.add_texts(["word1 later"], ["later"])
        index.convert(codec="exact")
        assert index.get(["d0"])[0].text == "changed"
        assert index.count() == 301
        assert index.verify().sound
        assert stores(tmp_path / "index") == [index.manifest.data]


def test_an_interrupted_conversion_goes_on_where_it_stopped(tmp_path):
    class Stops(LetterEncoder):
        left = 2

        def __init__(self):
            super().__init__("stops")

        def encode_document(self, texts):
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            return super().encode_document(texts)

    texts = [f"word{i % 7} number{i}" for i in range(500)]
    encoder = Stops()
    with SmartIndex.create(tmp_path / "index", VocabularyEncoder()) as index:
        index.add(documents(texts))
        with pytest.raises(KeyboardInterrupt):
            index.convert(encoder)
        assert index.search("word1 number8", 1)[0].id == "d8"
        encoder.left = 100
        done = len(encoder.encoded)
        index.convert(encoder)
        assert len(encoder.encoded) - done <= 500 - 128
        assert index.count() == 500
        assert index.verify().sound


def test_other_unfinished_stores_are_removed(tmp_path):
    with make(tmp_path / "index") as index:
        left = tmp_path / "index" / "data-0123456789abcdef"
        left.mkdir()
        (left / "manifest.json").write_text("{")
        mine = tmp_path / "index" / "data-mine"
        mine.mkdir()
        index.compact()
        assert stores(tmp_path / "index") == sorted([index.manifest.data, "data-mine"])


@pytest.mark.parametrize("name", ["../other", "data-../../x", "/tmp", "data-0123456789abcdeg", 3])
def test_a_manifest_cannot_name_stores_elsewhere(tmp_path, name):
    with make(tmp_path / "index"):
        pass
    file = tmp_path / "index" / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "data": name}))
    with pytest.raises(IndexNotFound, match="data"):
        SmartIndex.open(tmp_path / "index", VocabularyEncoder())


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("is_written", [False, True])
def test_a_switch_that_fails(tmp_path, monkeypatch, error, is_written):
    """Whether the manifest was written or not, later writes go to the stores that it names."""
    path = tmp_path / "index"
    with SmartIndex.create(path, VocabularyEncoder()) as index:
        index.add_texts(["pump", "boat"], ["a", "b"])
        write = Manifest.write

        def fail(self, folder):
            if folder != path:
                return write(self, folder)
            if is_written:
                write(self, folder)
            raise error

        monkeypatch.setattr(Manifest, "write", fail)
        with pytest.raises(type(error)):
            index.compact()
        monkeypatch.undo()
        index.add_texts(["keys"], ["c"])
        index.delete(["a"])
        assert [hit.id for hit in index.search("keys boat")] == ["b", "c"]
    with SmartIndex.open(path, VocabularyEncoder()) as index:
        assert sorted(document.id for document in index.documents()) == ["b", "c"]
        index.compact()
        assert index.verify().sound
        assert sorted(document.id for document in index.documents()) == ["b", "c"]


def test_readers_of_the_same_process_go_on(tmp_path):
    """Searches and lists, by the object that compacts and by another one."""
    with SmartIndex.create(tmp_path / "index", VocabularyEncoder()) as index:
        index.add_texts([f"pump number{i}" for i in range(50)], [str(i) for i in range(50)])
        errors, done = [], threading.Event()

        def read(reader):
            try:
                while not done.is_set():
                    assert len(reader.search("pump", 3)) == 3
                    assert len({document.id for document in reader.documents()}) == 50
            except Exception as error:
                errors.append(error)

        with SmartIndex.open(tmp_path / "index", VocabularyEncoder()) as other:
            threads = [threading.Thread(target=read, args=[reader]) for reader in (index, other)]
            for thread in threads:
                thread.start()
            for _ in range(5):
                index.compact()
            done.set()
            for thread in threads:
                thread.join()
            assert errors == []
            other.add_texts(["boat"], ["new"])
        assert index.search("boat", 1)[0].id == "new"


class Interrupted(VocabularyEncoder):
    """Each of the first ``times`` queries waits while the index in ``path`` is compacted by another object."""

    def __init__(self, path, times):
        super().__init__()
        self.path, self.times = path, times

    def encode_query(self, queries, **options):
        if self.times:
            self.times -= 1
            with SmartIndex.open(self.path, VocabularyEncoder()) as other:
                other.compact()
        return super().encode_query(queries, **options)


def test_a_search_goes_on_however_often_the_index_is_written_anew(tmp_path):
    with SmartIndex.create(tmp_path / "index", VocabularyEncoder()) as index:
        index.add_texts(["pump", "boat"], ["a", "b"])
    with SmartIndex.open(tmp_path / "index", Interrupted(tmp_path / "index", 4)) as reader:
        assert [hit.id for hit in reader.search("boat", 1)] == ["b"]
        assert reader.encoder.times == 0


def test_old_stores_that_were_left_over_are_removed(tmp_path, monkeypatch):
    """A process that dies after the switch leaves them, and a mark in the new ones, which are not unfinished."""
    path = tmp_path / "index"
    with SmartIndex.create(path, VocabularyEncoder()) as index:
        index.add_texts(["pump", "boat"], ["a", "b"])
        with monkeypatch.context() as patched:
            patched.setattr(rewrite.Rewrite, "finish", interrupted)
            with pytest.raises(KeyboardInterrupt):
                index.compact()
        first = index.manifest.data
        assert (path / first / FILE_NAME).exists()
        index.delete(["a"])
        index.compact()
        assert stores(path) == [index.manifest.data]
        assert index.manifest.data != first
        assert [document.id for document in index.documents()] == ["b"]


def interrupted(*arguments):
    raise KeyboardInterrupt

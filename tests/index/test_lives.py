"""Lives of an index: its folder is deleted, moved or replaced while it is open; a creation fails; a cell runs again."""

from __future__ import annotations

import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import chromadb
import lmdb
import numpy as np
import pytest
from helpers.another_process import another_process
from helpers.small_disk import small_disk
from helpers.word_encoder import LetterEncoder, WordEncoder

from smart_rag import Document, IndexConfig, Representation, SmartIndex
from smart_rag.errors import (
    ChromaFailure,
    CorruptStore,
    IndexClosed,
    IndexExists,
    IndexMismatch,
    IndexNotFound,
    InvalidInput,
    SmartRagError,
    StorageFull,
)
from smart_rag.store.chroma.client import FolderClient
from smart_rag.store.lmdb_environment import Environment
from smart_rag.store.place import identity_of


def make(path, name="a", text="pump bearings"):
    index = SmartIndex.create(path, WordEncoder())
    index.add_texts([text], [name])
    return index


def ids(index):
    return [document.id for document in index.documents()]


def assert_gone(index):
    """Every method of ``index`` says that its folder is gone; `close` works."""
    documents = [Document("new", "boat keys")]
    vectors = WordEncoder().encode_document(["boat keys"])
    for action in (
        index.count,
        index.info,
        index.verify,
        index.vacuum,
        lambda: index.documents(),
        lambda: index.get(["a"]),
        lambda: index.tokens(["a"]),
        lambda: index.search("bearings"),
        lambda: index.rerank("bearings", ["a text"]),
        lambda: index.encode_queries(["bearings"]),
        lambda: index.add(documents),
        lambda: index.add_embeddings(documents, vectors),
        lambda: index.delete(["a"]),
        lambda: index.set_weights((1, 1)),
        index._store.pooled.count,
        lambda: index._store.pooled.delete(["a"]),
        lambda: len(index._store.tokens),
        lambda: index._store.tokens.delete([bytes(16)]),
        index._store.sidecar_bytes,
    ):
        with pytest.raises(IndexNotFound, match=f"{re.escape(str(index.path))}.*deleted, moved or replaced.*open"):
            action()


# --- another folder on the same path ------------------------------------------------------------


def test_a_folder_that_was_deleted_and_made_again(tmp_path):
    """The new index works, before and after the old one is closed. The old one does not touch it."""
    path = tmp_path / "index"
    old = make(path)
    documents = old.documents()
    shutil.rmtree(path)
    assert_gone(old)
    new = make(path, "b", "boat keys")
    assert_gone(old)
    with pytest.raises(IndexNotFound):
        next(documents)
    assert new.search("keys", 1)[0].id == "b"
    old.close()
    new.add_texts(["carp"], ["c"])
    assert ids(new) == ["b", "c"]
    assert new.verify().sound
    with another_process(path) as writer, pytest.raises(AssertionError):  # the lock is held
        writer.run("index.add_texts(['not now'])")
    new.close()
    with pytest.raises(IndexClosed):
        old.count()
    with SmartIndex.open(path, WordEncoder()) as again:
        assert ids(again) == ["b", "c"]


def test_a_folder_that_was_made_again_many_times(tmp_path):
    """As by a notebook cell that closes nothing."""
    indexes = []
    for i in range(4):
        shutil.rmtree(tmp_path / "index", ignore_errors=True)
        indexes.append(make(tmp_path / "index", str(i)))
        assert ids(indexes[-1]) == [str(i)]
    for index in indexes[:-1]:
        assert_gone(index)
    for index in indexes:
        index.close()


def test_a_folder_that_was_made_again_by_another_process(tmp_path):
    old = make(tmp_path / "index")
    make(tmp_path / "other", "b").close()
    shutil.rmtree(tmp_path / "index")
    with another_process(tmp_path / "other"):
        shutil.copytree(tmp_path / "other", tmp_path / "index")
    assert_gone(old)
    with SmartIndex.open(tmp_path / "index", WordEncoder()) as new:
        assert ids(new) == ["b"]
        assert_gone(old)
    old.close()


def test_a_folder_that_was_moved(tmp_path):
    """It can be opened where it is now, and another index can be made in its old place."""
    old = make(tmp_path / "a")
    old.delete([])
    (tmp_path / "a").rename(tmp_path / "b")
    assert_gone(old)
    with SmartIndex.open(tmp_path / "b", WordEncoder()) as moved, make(tmp_path / "a", "new") as new:
        assert (ids(moved), ids(new)) == (["a"], ["new"])
        assert_gone(old)
        old.close()
        moved.search("bearings")
        moved.add_texts(["boat keys"], ["b"])
        assert (ids(moved), ids(new)) == (["a", "b"], ["new"])
        assert moved.verify().sound


def test_a_copy_that_was_put_in_the_place(tmp_path):
    """A copy has the same files, but is another index."""
    old = make(tmp_path / "index")
    shutil.copytree(tmp_path / "index", tmp_path / "copy")
    old.add_texts(["boat keys"], ["b"])
    (tmp_path / "index").rename(tmp_path / "kept")
    (tmp_path / "copy").rename(tmp_path / "index")
    assert_gone(old)
    with SmartIndex.open(tmp_path / "index", WordEncoder()) as new:
        assert ids(new) == ["a"]
    old.close()


def test_a_link_that_leads_to_another_index(tmp_path):
    make(tmp_path / "one", "a").close()
    make(tmp_path / "two", "b").close()
    link = tmp_path / "current"
    link.symlink_to("one")
    with SmartIndex.open(link, WordEncoder()) as old, SmartIndex.open(tmp_path / "one", WordEncoder()) as one:
        link.unlink()
        link.symlink_to("two")
        with pytest.raises(IndexNotFound, match="current"):
            old.count()
        with SmartIndex.open(link, WordEncoder()) as new:
            assert (ids(one), ids(new)) == (["a"], ["b"])


# --- a creation that fails ----------------------------------------------------------------------


def refused_by_chroma(path, **options):
    with pytest.raises(InvalidInput, match="Chroma does not accept this"):
        SmartIndex.create(path, LetterEncoder(), collection="not a name!", **options)


def test_a_creation_that_fails_leaves_nothing(tmp_path):
    path = tmp_path / "index"
    refused_by_chroma(path)
    assert not path.exists()
    path.mkdir()
    refused_by_chroma(path)
    assert list(path.iterdir()) == []
    SmartIndex.create(path, LetterEncoder()).close()
    with pytest.raises(IndexExists):
        SmartIndex.create(path, LetterEncoder())
    assert SmartIndex.exists(path)


def test_a_creation_that_fails_in_a_given_client(tmp_path, monkeypatch):
    """Its collection is removed again."""
    client = chromadb.EphemeralClient()

    def fail(*_, **__):
        raise lmdb.DiskError("a disk error")

    with monkeypatch.context() as patch:
        patch.setattr(lmdb, "open", fail)
        with pytest.raises(SmartRagError, match="a disk error"):
            SmartIndex.create(tmp_path / "index", LetterEncoder(), client=client, collection="failed")
    assert not (tmp_path / "index").exists()
    assert "failed" not in [collection.name for collection in client.list_collections()]
    SmartIndex.create(tmp_path / "index", LetterEncoder(), client=client, collection="failed").close()
    client.delete_collection("failed")


def test_a_creation_on_a_full_disk(tmp_path):
    with small_disk(tmp_path / "disk", "1m") as disk:
        (disk / "index").mkdir()
        (disk / "filler").write_bytes(bytes(900_000))
        with pytest.raises((StorageFull, ChromaFailure)):
            SmartIndex.create(disk / "index", LetterEncoder())
        assert list((disk / "index").iterdir()) == []


def test_creations_at_the_same_time(tmp_path):
    """One makes the index. The others are told, and do not remove it."""
    for i in range(5):
        path, start = tmp_path / str(i), threading.Barrier(4)

        def attempt(_, path=path, start=start):
            start.wait()
            try:
                return SmartIndex.create(path, LetterEncoder())
            except IndexExists:
                return None

        with ThreadPoolExecutor(4) as threads:
            made = [index for index in threads.map(attempt, range(4)) if index is not None]
        assert len(made) == 1
        made[0].add_texts(["one"], ["a"])
        assert ids(made[0]) == ["a"]
        made[0].close()


def test_vectors_that_are_not_finite_leave_no_folder(tmp_path):
    sound = LetterEncoder().encode_document(["one"])
    vectors = Representation(sound.pooled * np.nan, sound.tokens)
    with pytest.raises(InvalidInput, match="NaN"):
        SmartIndex.from_embeddings(tmp_path / "own", [Document("a", "one")], vectors)
    assert not (tmp_path / "own").exists()
    SmartIndex.from_embeddings(tmp_path / "own", [Document("a", "one")], sound).close()


def test_an_index_that_cannot_be_opened_is_not_kept_open(tmp_path):
    """What was opened before the error is closed again."""
    path = tmp_path / "index"
    make(path).close()
    shutil.rmtree(path / "terms")
    (path / "terms").write_text("a file")
    tokens = identity_of(path / "tokens" / "data.mdb")
    with pytest.raises(SmartRagError):
        SmartIndex.open(path, WordEncoder())
    assert path / "chroma" not in FolderClient._open
    assert tokens not in Environment._open


def test_a_database_that_was_put_right(tmp_path):
    """Chroma remembers under its path what it failed to start."""
    path = tmp_path / "index"
    make(path).close()
    database = path / "chroma" / "chroma.sqlite3"
    sound = database.read_bytes()
    database.write_bytes(b"no database" * 1000)
    with pytest.raises(CorruptStore):
        SmartIndex.open(path, WordEncoder())
    database.write_bytes(sound)
    with SmartIndex.open(path, WordEncoder()) as index:
        assert ids(index) == ["a"]


# --- open or create -----------------------------------------------------------------------------


def test_open_or_create_can_run_again(tmp_path):
    for count in (0, 1):
        with SmartIndex.open_or_create(tmp_path / "index", WordEncoder(), config=IndexConfig(codec="exact")) as index:
            assert index.count() == count
            assert index.manifest.config.codec == "float16"
            index.add_texts(["pump bearings"])
            index.set_weights((1.0, 3.0))
    with SmartIndex.open_or_create(tmp_path / "index", WordEncoder()) as index:
        assert index.manifest.weights == (1.0, 3.0)


def test_open_or_create_keeps_the_encoder_of_an_index(tmp_path):
    with SmartIndex.open_or_create(tmp_path / "new") as index:
        assert index.manifest.encoder["model"] == "minilm"
    make(tmp_path / "index").close()
    with SmartIndex.open_or_create(tmp_path / "index") as index:
        assert ids(index) == ["a"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"encoder": LetterEncoder()}, "the index was made with 'words' and cannot be used with 'letters'"),
        ({"config": IndexConfig(codec="exact")}, "made with codec='2bit', but codec='float16' is asked for; open it"),
        ({"config": IndexConfig(chunk_tokens=50)}, "made with chunk_tokens=200, but chunk_tokens=50 is asked for"),
        ({"dimension": 7}, "made with dimension=24, but dimension=7 is asked for"),
        ({"collection": "other"}, "made with collection='smart_rag', but collection='other' is asked for"),
        ({"client": chromadb.EphemeralClient()}, "open it without client="),
    ],
)
def test_open_or_create_refuses_what_the_index_is_not(tmp_path, asked, message):
    """Nothing is lost."""
    path = tmp_path / "index"
    make(path).close()
    before = (path / "manifest.json").read_bytes()
    with pytest.raises(IndexMismatch, match=re.escape(message)):
        SmartIndex.open_or_create(path, **asked)
    assert (path / "manifest.json").read_bytes() == before
    with SmartIndex.open_or_create(path, WordEncoder()) as index:
        assert ids(index) == ["a"]


def test_an_index_keeps_the_graph_of_an_older_version(tmp_path):
    """Older versions had other defaults. Who asks for no settings of the graph gets the index as it is."""
    path = tmp_path / "index"
    old = {"hnsw_max_neighbors": 48, "hnsw_ef_construction": 400, "hnsw_ef_search": 1000}
    with SmartIndex.create(path, WordEncoder(), config=IndexConfig(codec="exact", **old)) as index:
        index.add_texts(["a cat", "a dog"])
    with SmartIndex.open_or_create(path, WordEncoder(), config=IndexConfig(codec="exact")) as index:
        assert {name: getattr(index.manifest.config, name) for name in old} == old
        index.compact()
        assert {name: getattr(index.manifest.config, name) for name in old} == old
        collection = index._store.pooled._chroma._collections["smart_rag"]
        assert collection._model.configuration_json["hnsw"]["ef_search"] == 1000
        assert len(index.search("cat")) == 2
    with pytest.raises(IndexMismatch, match="made with hnsw_ef_search=1000, but hnsw_ef_search=77 is asked for"):
        SmartIndex.open_or_create(path, WordEncoder(), config=IndexConfig(codec="exact", hnsw_ef_search=77))


def test_open_or_create_for_own_vectors(tmp_path):
    for _ in range(2):
        with SmartIndex.open_or_create(tmp_path / "own", dimension=2) as index:
            assert index.manifest.encoder is None
            index.add_embeddings([Document("a", "one")], Representation.from_embeddings([[1.0, 0.0]]))
            assert index.count() == 1


def test_a_cell_that_runs_twice_writes_twice(tmp_path):
    """A notebook cell that opens an index, and runs again, has two of them, and hits that hold the first."""
    index = SmartIndex.open_or_create(tmp_path / "index", WordEncoder())
    index.add_texts(["keys"], ["a"])
    kept = index.search("keys")
    for count in (2, 3):
        index = SmartIndex.open_or_create(tmp_path / "index", WordEncoder())
        index.add_texts(["keys", f"text {count}"], ["a", str(count)])
        assert index.count() == count
    with another_process(tmp_path / "index") as other, pytest.raises(AssertionError):  # it ends with IndexLocked
        other.run("index.delete(['a'])")
    assert kept[0].relevance is not None
    index.close()


def test_two_writers_of_one_process_take_turns(tmp_path):
    """In threads, and with what the other has just written; the last one to close lets other processes write."""
    first = make(tmp_path / "index")
    second = SmartIndex.open(tmp_path / "index", WordEncoder())
    with ThreadPoolExecutor(2) as threads:
        for i in range(20):
            for index, name in ((first, "a"), (second, "b")):
                threads.submit(index.add_texts, [f"text {i} of {name}"], [f"{name}{i}"])
    assert first.count() == second.count() == 41
    assert {hit.id for hit in first.search("text 7 of b", 2)} & {"b7"}
    assert second.verify().sound
    first.close()
    with another_process(tmp_path / "index") as other, pytest.raises(AssertionError):
        other.run("index.delete(['a0'])")
    second.close()
    with another_process(tmp_path / "index") as other:
        other.run("index.delete(['a0'])")


def test_whoever_comes_second_opens_what_the_first_makes(tmp_path):
    """Several workers that start together all get the index."""
    with ThreadPoolExecutor(6) as threads:
        opened = list(threads.map(lambda _: SmartIndex.open_or_create(tmp_path / "index", WordEncoder()), range(6)))
    opened[0].add_texts(["keys"], ["a"])
    assert {index.count() for index in opened} == {1}
    for index in opened:
        index.close()

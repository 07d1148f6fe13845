"""Copies of an index that are made while others read and write."""

from __future__ import annotations

import threading

import chromadb
import pytest
from helpers.another_process import another_process
from helpers.small_disk import small_disk
from helpers.word_encoder import SeeingEncoder, VocabularyEncoder
from PIL import Image

from smart_rag import Document, IndexConfig, SmartIndex
from smart_rag.errors import IndexExists, InvalidInput, StorageFull

TEXTS = [f"{word} lamp number{i}" for i, word in enumerate(["pump", "boat", "keys"] * 30)]


def documents(version=0):
    return [Document(f"d{i}", f"{text} version{version}", {"version": version}) for i, text in enumerate(TEXTS)]


def answers(index):
    return [
        [(hit.id, hit.text, round(hit.score, 5)) for hit in index.search(question, 10, first_stage=stage)]
        for question in ("pump lamp", "boat number7 version1", "keys")
        for stage in ("terms", "pooled", "exhaustive")
    ]


@pytest.fixture
def index(tmp_path):
    with SmartIndex.create(tmp_path / "index", VocabularyEncoder()) as index:
        index.add(documents())
        yield index


def test_a_copy_is_an_index_of_its_own(index, tmp_path):
    before = answers(index)
    index.snapshot(tmp_path / "copies" / "monday")
    index.add_texts(["pump pump pump"], ["new"])
    with SmartIndex.open(tmp_path / "copies" / "monday", VocabularyEncoder()) as copy:
        assert answers(copy) == before
        assert copy.verify().sound
        copy.delete(["d1"])
    assert index.get(["d1"])
    assert sorted(path.name for path in (tmp_path / "copies").iterdir()) == ["monday"]
    with pytest.raises(IndexExists):
        index.snapshot(tmp_path / "copies" / "monday")


def test_a_compacted_index_can_be_copied(index, tmp_path):
    before = answers(index)
    index.compact()
    index.snapshot(tmp_path / "copy")
    with SmartIndex.open(tmp_path / "copy", VocabularyEncoder()) as copy:
        assert answers(copy) == before
        copy.compact()
        assert answers(copy) == before


def test_saved_images_are_copied(tmp_path):
    with SmartIndex.create(tmp_path / "index", SeeingEncoder()) as index:
        index.add([Document("blue", "both", {}, Image.new("RGB", (8, 8), "blue"))])
        index.snapshot(tmp_path / "copy")
    with SmartIndex.open(tmp_path / "copy", SeeingEncoder()) as copy:
        image = copy.get(["blue"])[0].image
        assert image.parent == tmp_path / "copy" / "images"
        assert image.read_bytes() == (tmp_path / "index" / "images" / image.name).read_bytes()


def test_each_copy_is_one_moment_of_a_busy_index(index, tmp_path):
    """A version of all documents fits into one batch, so a copy has all documents of one version."""
    index.close()
    with (
        another_process(tmp_path / "index", "VocabularyEncoder") as writer,
        SmartIndex.open(tmp_path / "index", VocabularyEncoder()) as index,
    ):
        writer.run("from smart_rag import Document; texts = [one.text for one in index.documents()]")
        writer.run("texts = [text.rpartition(' ')[0] for text in texts]; ids = [one.id for one in index.documents()]")
        writer.start(
            "for v in range(1, 20): index.add([Document(i, f'{t} version{v}', {'version': v}) "
            "for i, t in zip(ids, texts)])"
        )
        done, found = threading.Event(), []
        waiting = threading.Thread(target=lambda: (writer.wait(), done.set()))
        waiting.start()
        while not done.is_set() and len(found) < 10:
            copy = tmp_path / f"copy{len(found)}"
            index.snapshot(copy)
            with SmartIndex.open(copy, VocabularyEncoder()) as opened:
                assert opened.verify().sound
                found.append({one.metadata["version"] for one in opened.documents()})
                assert opened.count() == len(TEXTS)
                version = next(iter(found[-1]))
                best = opened.search(f"number7 version{version}", 1)[0]
                assert (best.id, best.text) == ("d7", f"{TEXTS[7]} version{version}")
        waiting.join()
    assert all(len(versions) == 1 for versions in found)
    assert len(set(map(tuple, found))) > 1


def test_a_full_disk_leaves_nothing_behind(index, tmp_path):
    with small_disk(tmp_path / "disk", "300k") as disk:
        with pytest.raises(StorageFull):
            index.snapshot(disk / "copy")
        assert list(disk.iterdir()) == []
    assert index.count() == len(TEXTS)


def test_a_copy_inside_the_index_or_without_its_rows_is_refused(index, tmp_path):
    with pytest.raises(InvalidInput, match="inside the index"):
        index.snapshot(index.path / "copy")
    with (
        SmartIndex.create(tmp_path / "server", VocabularyEncoder(), client=chromadb.EphemeralClient()) as other,
        pytest.raises(InvalidInput, match="your own Chroma client"),
    ):
        other.snapshot(tmp_path / "copy")
    other._store.pooled.drop()


def test_a_larger_index_is_copied_with_its_graph(tmp_path):
    """Chroma writes its graph to files when there are a thousand rows."""
    with SmartIndex.create(tmp_path / "index", VocabularyEncoder(), config=IndexConfig(codec="compact")) as index:
        index.add([Document(f"d{i}", f"word{i % 50} number{i}") for i in range(1300)])
        before = answers(index)
        index.snapshot(tmp_path / "copy")
        assert list((tmp_path / "copy" / "chroma").glob("*/data_level0.bin"))
    with SmartIndex.open(tmp_path / "copy", VocabularyEncoder()) as copy:
        assert answers(copy) == before
        assert copy.verify().sound

"""An index with damaged vectors is built again from its rows."""

from __future__ import annotations

import logging
import re
import shutil

import numpy as np
import pytest
from helpers.another_process import another_process
from helpers.command_line import good, run
from helpers.word_encoder import SeeingEncoder, VocabularyEncoder
from PIL import Image

from smart_rag import Document, IndexConfig, Representation, SmartIndex
from smart_rag.errors import ChromaFailure, CorruptStore, IndexLocked
from smart_rag.types import VerifyReport

WORDS = ["pump", "boat", "keys", "carp", "lamp"]


def answers(index):
    return [
        {hit.id: round(hit.score, 4) for hit in index.search(question, 20, first_stage=stage)}
        for question in ("pump boat", "number7 keys", "lamp")
        for stage in ("terms", "pooled", "exhaustive")
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A closed index of 1,200 documents, whose vectors Chroma has written to files, and its answers."""
    path = tmp_path_factory.mktemp("made") / "index"
    with SmartIndex.create(path, VocabularyEncoder()) as index:
        index.add(
            [
                Document(f"d{i}", f"{WORDS[i % 5]} {WORDS[i * 3 % 4]} number{i}", {"n": i, "tags": ["a", i % 3]})
                for i in range(1200)
            ]
        )
        return path, answers(index)


def cut(file):
    file.write_bytes(file.read_bytes()[:-50])


def flip(path):
    """Change a number of the vector of one document."""
    (file,) = (path / "chroma").glob("*/data_level0.bin")
    data, links = bytearray(file.read_bytes()), 4 + 4 * 2 * IndexConfig().hnsw_max_neighbors
    start = 600 * (links + 4 * 24 + 8) + links
    data[start + 3] ^= 0x40
    file.write_bytes(data)


DAMAGE = {
    "vectors gone": lambda path: [shutil.rmtree(child) for child in (path / "chroma").iterdir() if child.is_dir()],
    "vectors cut": lambda path: cut(next((path / "chroma").glob("*/data_level0.bin"))),
    "header cut": lambda path: cut(next((path / "chroma").glob("*/header.bin"))),
    "tokens cut": lambda path: cut(path / "tokens" / "data.mdb"),
    "terms gone and tokens gone": lambda path: [shutil.rmtree(path / name) for name in ("terms", "tokens")],
}


@pytest.mark.parametrize(
    "damage", [pytest.param(name, marks=[pytest.mark.slow] * name.endswith(" cut")) for name in DAMAGE]
)
def test_rebuilt(made, tmp_path, damage):
    shutil.copytree(made[0], tmp_path / "index")
    DAMAGE[damage](tmp_path / "index")
    if "gone" not in damage or damage == "vectors gone":
        with pytest.raises(CorruptStore):
            SmartIndex.open(tmp_path / "index", VocabularyEncoder())
    SmartIndex.rebuild(tmp_path / "index", VocabularyEncoder())
    with SmartIndex.open(tmp_path / "index", VocabularyEncoder()) as index:
        assert answers(index) == made[1]
        assert index.get(["d7"])[0].metadata == {"n": 7, "tags": ["a", 1]}
        assert index.verify().sound
        assert index.count() == 1200


def test_flipped_vectors_are_found_and_repaired(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "index")
    flip(tmp_path / "index")
    with SmartIndex.open(tmp_path / "index", VocabularyEncoder()) as index:
        report = index.verify(repair=True)
        assert not report.sound
        assert "data_level0.bin" in report.chroma_damage
        assert index.verify().sound
        assert answers(index) == made[1]


@pytest.mark.slow
def test_a_document_with_damaged_vectors_is_not_copied(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "index")
    flip(tmp_path / "index")
    with SmartIndex.open(tmp_path / "index", VocabularyEncoder()) as index:
        with pytest.raises(CorruptStore, match="pooled embedding of the document"):
            index.compact()
        index.verify(repair=True)
        index.compact()
        assert answers(index) == made[1]


def test_altered_texts_stay_altered(tmp_path):
    """Until they are added again. The other documents are searched."""
    with SmartIndex.create(tmp_path / "index", VocabularyEncoder()) as index:
        index.add_texts(["pump", "boat", "keys"], ["a", "b", "c"])
        index.add([Document("n", "lamp", {"n": 1})])
        for id, new in (("a", {"documents": ["other"]}), ("n", {"metadatas": [{"n": 2}]})):
            vectors = index._store.pooled.embeddings([id])[id][None]
            index._store.pooled._write("update", ids=[id], embeddings=vectors, **new)
    for _ in range(2):
        SmartIndex.rebuild(tmp_path / "index", VocabularyEncoder())
        with SmartIndex.open(tmp_path / "index", VocabularyEncoder()) as index:
            report = index.verify()
            assert report == VerifyReport(missing=(), damaged=(), orphans=0, altered=("a", "n"))
            assert index.search("boat", 1)[0].id == "b"
            with pytest.raises(CorruptStore, match="'n' is not what was added"):
                index.search("lamp", 1)
    with SmartIndex.open(tmp_path / "index", VocabularyEncoder()) as index:
        index.add_texts(["pump"], ["a"])
        assert index.search("pump", 1)[0].text == "pump"
        index.delete(["n"])
        assert index.verify().sound


def test_a_row_that_does_not_fit_its_sqlite_index(tmp_path):
    """Chroma fails to replace the row, and then fails at every read. A repair keeps all other documents."""
    path = tmp_path / "index"
    with SmartIndex.create(path, VocabularyEncoder()) as index:
        index.add([Document(f"d{i}", f"word{i % 50} number{i}") for i in range(50)])
    file = path / "chroma" / "chroma.sqlite3"
    data = bytearray(file.read_bytes())
    data[data.index(b"chroma:documentword7 number7") + len("chroma:document")] ^= 1
    file.write_bytes(data)
    with SmartIndex.open(path, VocabularyEncoder()) as index:
        shutil.copytree(path, tmp_path / "copy")
        report = index.verify()
        assert report.altered == ("d7",)
        assert "missing from index" in report.chroma_damage
        with pytest.raises(ChromaFailure, match=f"^{re.escape(str(path))}.*`smart-rag verify` says"):
            index.add_texts(["word7 number7"], ["d7"])
    SmartIndex.rebuild(path, VocabularyEncoder())
    with SmartIndex.open(path, VocabularyEncoder()) as index:
        index.add_texts(["word7 number7"], ["d7"])
        assert index.verify().sound
        assert index.count() == 50
    with SmartIndex.open(tmp_path / "copy", VocabularyEncoder()) as index:
        index.verify(repair=True)
        assert index.verify() == VerifyReport(missing=(), damaged=(), orphans=0, altered=("d7",))
        index.add_texts(["word7 number7"], ["d7"])
        assert index.verify().sound


def test_rows_that_cannot_be_read_are_named(tmp_path, caplog):
    with SmartIndex.create(tmp_path / "index", VocabularyEncoder()) as index:
        index.add_texts(["pump", "boat"], ["a", "b"])
        index._store.pooled._write("update", ids=["a"], metadatas=[{"_smart_rag.key": "?"}])
    with caplog.at_level(logging.WARNING):
        SmartIndex.rebuild(tmp_path / "index", VocabularyEncoder())
    assert "1 row cannot be read, and is not in the new index; the first is 'a'" in caplog.text


def test_vectors_of_the_caller_cannot_be_made_again(tmp_path):
    vectors = Representation.from_embeddings(np.eye(3, 8))
    documents = [Document(name, "text") for name in "abc"]
    SmartIndex.from_embeddings(tmp_path / "index", documents, vectors).close()
    with pytest.raises(CorruptStore, match="caller's own"):
        SmartIndex.rebuild(tmp_path / "index")
    with SmartIndex.open(tmp_path / "index") as index:
        assert index.count() == 3


def test_only_one_process_rebuilds(tmp_path):
    with SmartIndex.create(tmp_path / "index", VocabularyEncoder()) as index:
        index.add_texts(["pump"], ["a"])
    with another_process(tmp_path / "index", "VocabularyEncoder") as writer:
        writer.run("index.delete(['b'])")
        with pytest.raises(IndexLocked):
            SmartIndex.rebuild(tmp_path / "index", VocabularyEncoder())


def test_images_stay(tmp_path):
    with SmartIndex.create(tmp_path / "index", SeeingEncoder()) as index:
        index.add([Document("blue", "both", {}, Image.new("RGB", (8, 8), "blue"))])
        before = index.get(["blue"])
    SmartIndex.rebuild(tmp_path / "index", SeeingEncoder())
    with SmartIndex.open(tmp_path / "index", SeeingEncoder()) as index:
        assert index.get(["blue"]) == before


def test_the_command_rebuilds(tmp_path):
    (tmp_path / "notes.txt").write_text("keys and boats\n")
    db = tmp_path / "index"
    good("index", tmp_path / "notes.txt", "--db", db)
    (db / "tokens" / "data.mdb").write_bytes(b"no LMDB")
    code, _, errors = run("verify", "--db", db)
    assert code == 1
    assert "data.mdb" in errors
    code, output, errors = run("verify", "--repair", "--db", db)
    assert (code, output) == (0, "the only passage is sound\n"), errors
    assert "so it is built again from its texts" in errors
    assert "keys" in good("search", "keys", "--db", db)

"""Damage that nobody would see: every lost or altered part is an error, a warning, or in the report of `verify`."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from helpers.command_line import good, run
from helpers.word_encoder import TESTS, SeeingEncoder, VocabularyEncoder, WordEncoder

from smart_rag import Document, Representation, SmartEncoder, SmartIndex
from smart_rag.errors import ChromaFailure, CorruptStore, MissingTokens
from smart_rag.store.checks.row_checksum import CHECKSUM
from smart_rag.store.pooled_store import PooledStore

WORDS = ["pump", "boat", "keys", "carp", "lamp", "door", "dogs", "cats", "night", "river"]
TEXTS = [f"{WORDS[i % 10]} {WORDS[i * 3 % 7]} {WORDS[i * 5 % 9]} number{i}" for i in range(60)]
IDS = [f"d{i}" for i in range(60)]
QUESTIONS = ["pump keys", "river door", "number7 boat", "carp"]


@pytest.fixture
def folder(tmp_path):
    """The folder of a closed index."""
    with SmartIndex.create(tmp_path / "index", VocabularyEncoder()) as index:
        index.add_texts(TEXTS, IDS)
    return tmp_path / "index"


def opened(folder):
    return SmartIndex.open(folder, VocabularyEncoder())


def answers(index):
    return [
        [(hit.id, round(hit.score, 5)) for hit in index.search(question, 10, first_stage=stage)]
        for question in QUESTIONS
        for stage in ("terms", "pooled", "exhaustive")
    ]


# --- terms --------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["all", "half", "one"])
def test_lost_terms_are_an_error_and_repaired(folder, lost):
    with opened(folder) as index:
        expected = answers(index)
    if lost == "all":
        shutil.rmtree(folder / "terms")
    else:
        with opened(folder) as index:
            rows = list(index._store.pooled.select())
            index._store._terms.settle([row.revision for row in rows[: 30 if lost == "half" else 1]])
    count = {"all": 60, "half": 30, "one": 1}[lost]
    with opened(folder) as index:
        for stage in ("terms", "pooled", "exhaustive"):
            with pytest.raises(CorruptStore, match=rf"terms of {count} documents? are lost, the first is 'd.*verify"):
                index.search("pump", first_stage=stage)
        report = index.verify()
        assert len(report.missing) == count
        assert not report.sound
        assert index.add(map(Document, IDS, TEXTS)).unchanged == 60  # not the way to mend it
        index.verify(repair=True)
        assert index.verify().sound
        assert answers(index) == expected


def test_terms_of_other_documents_are_an_error(folder):
    with opened(folder) as index:
        expected = answers(index)
        terms = index._store._terms
        database = terms._environment.databases["slots"]
        with terms._environment.read(buffers=False) as transaction:
            pairs = [(key, value) for key, value in transaction.cursor(database) if len(key) == 16]

        def swap(transaction):
            transaction.put(pairs[0][0], pairs[1][1], db=database)

        terms._environment.write(swap)
        assert len(index.verify().damaged) == 1
        index.verify(repair=True)
        assert index.verify().sound
        assert answers(index) == expected


KILLED = """
    import os, signal, sys
    sys.path.insert(0, sys.argv[2])
    from smart_rag import Document, SmartIndex
    from helpers.word_encoder import VocabularyEncoder

    index = SmartIndex.open(sys.argv[1], VocabularyEncoder())
    store, name = {
        "before the row": (index._store.pooled, "upsert"),
        "before the old terms go": (index._store._terms, "settle"),
        "before the row goes": (index._store.pooled, "delete"),
    }[sys.argv[3]]
    store.__class__ = type("Killed", (type(store),), {name: lambda *_: os.kill(os.getpid(), signal.SIGKILL)})
    if name == "delete":
        index.delete(["d3"])
    index.add([Document("d1", "another pump pump"), Document("new", "pump keys keys")])
"""


@pytest.mark.parametrize("when", ["before the row", "before the old terms go", "before the row goes"])
def test_a_killed_writer_leaves_the_scores_of_a_fresh_index(folder, tmp_path, when):
    """To readers at once, without a repair; and to those who look on while the writer dies.

    Until the next writer, all rows of the last batch are there, or none. The next writer undoes this batch.
    """
    texts = dict(zip(IDS, TEXTS, strict=True))
    undone = scores_of_a_fresh_index(tmp_path / "undone", texts)
    expected = undone
    if when == "before the old terms go":
        written = texts | {"d1": "another pump pump", "new": "pump keys keys"}
        expected = scores_of_a_fresh_index(tmp_path / "written", written)
    with opened(folder) as reader:
        answers(reader)
        command = [sys.executable, "-c", textwrap.dedent(KILLED), str(folder), TESTS, when]
        assert subprocess.run(command, timeout=100).returncode == -9
        assert answers(reader) == expected
    with opened(folder) as index:
        assert answers(index) == expected
        assert index.verify().sound
        index.add([Document("d2", texts["d2"], {"n": 1})])  # the next writer puts it in order
        assert index._store._terms.doubtful() == []
        assert index._store._terms.count() == len(texts)
        index.vacuum()
        assert answers(index) == undone


def scores_of_a_fresh_index(path, texts):
    with SmartIndex.create(path, VocabularyEncoder()) as fresh:
        fresh.add_texts(list(texts.values()), list(texts))
        return answers(fresh)


def test_a_failed_write_leaves_nothing_either(folder, monkeypatch):
    with opened(folder) as index:
        expected = answers(index)
        with monkeypatch.context() as patch:
            patch.setattr(index._store.pooled, "_write", lambda *_, **__: (_ for _ in ()).throw(CorruptStore("no")))
            with pytest.raises(CorruptStore):
                index.add_texts(["pump pump pump"], ["new"])
        assert answers(index) == expected
        index.add_texts(["pump pump pump"], ["new"])
        index.delete(["new"])
        assert answers(index) == expected


def test_encoders_without_vocabulary_ids(tmp_path):
    """Their documents have no terms, and that is no loss."""
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as index:
        index.add_texts(TEXTS, IDS)
        assert index.search("pump")
        assert index.verify().sound
        index.delete(["d1"])
        assert index.verify().sound
        assert index._store._terms.count() == 59


def test_an_older_index_with_vectors_of_the_caller_stays_as_it_is(tmp_path):
    """Its rows look like texts, but their keys are hashes of vectors."""
    encoder = VocabularyEncoder()
    with SmartIndex.create(tmp_path / "index", encoder) as index:
        index.add_texts(TEXTS[:5], IDS[:5])
        index.add_embeddings([Document("own", "its own text")], encoder.encode_document(["pump"]))
        assert index.verify().sound
        assert len(index.search("pump", 10)) == 6
        terms = index._store._terms
        slots = terms._environment.databases["slots"]
        terms._environment.write(lambda transaction: transaction.delete(b"complete", db=slots))
        index._store.pooled._write("update", ids=["own"], metadatas=[{"_smart_rag.modality": None, CHECKSUM: None}])
    with opened(tmp_path / "index") as index:
        for _ in range(2):
            assert len(index.search("pump", 10)) == 6
            assert index.verify().sound
            index.vacuum()


# --- rows ---------------------------------------------------------------------------------------


def sql(folder, statement, *values):
    with sqlite3.connect(folder / "chroma" / "chroma.sqlite3") as database:
        assert database.execute(statement, values).rowcount > 0


def test_an_altered_text_is_an_error(folder):
    sql(
        folder,
        "update embedding_metadata set string_value='forged' where key='chroma:document' and string_value=?",
        TEXTS[7],
    )
    with opened(folder) as index:
        for stage in ("terms", "pooled", "exhaustive"):
            with pytest.raises(CorruptStore, match=r"the text of the document 'd7' is not what was added"):
                index.search("number7", 60, first_stage=stage)
        report = index.verify(repair=True)
        assert (report.altered, report.sound) == (("d7",), False)
        index.add_texts([TEXTS[7]], ["d7"])
        assert index.verify().sound
        assert index.search("number7", 1)[0].text == TEXTS[7]


@pytest.mark.parametrize("key", ["n", "tag", "_smart_rag.checksum"])
def test_altered_metadata_is_an_error(tmp_path, key):
    """The same document, added again, puts it right."""
    document = Document("a", "pump", {"n": 1, "tag": "x"})
    with SmartIndex.create(tmp_path / "index", VocabularyEncoder()) as index:
        index.add([document, Document("b", "boat")])
    column = "int_value" if key == "n" else "string_value"
    statement = f"""
        update embedding_metadata set {column}=?
        where key=? and id in (select id from embeddings where embedding_id='a')
    """
    sql(tmp_path / "index", statement, 2 if key == "n" else "forged", key)
    with opened(tmp_path / "index") as index:
        for read in (
            lambda: index.search("pump"),
            lambda: index.get(["a"]),
            lambda: list(index.documents()),
        ):
            with pytest.raises(CorruptStore, match="metadata of the document 'a' is not what was added"):
                read()
        assert index.get(["b"])
        assert index.verify().altered == ("a",)
        index.add([document])
        assert index.verify().sound
        assert index.get(["a"]) == [document]


# --- Chroma's files -----------------------------------------------------------------------------


def test_a_damaged_index_of_words_is_reported(folder):
    """A filter on texts would miss documents."""
    sql(folder, "delete from embedding_fulltext_search where rowid = 7")
    with opened(folder) as index:
        report = index.verify()
    assert not report.sound
    assert "index of words" in report.chroma_damage


def test_a_damaged_vector_in_the_log_is_reported(folder):
    """Chroma keeps the vectors of a small index in SQLite. A changed sign leaves the length of a vector as it is."""
    with sqlite3.connect(folder / "chroma" / "chroma.sqlite3") as database:
        (vector,) = database.execute("select vector from embeddings_queue where id = 'd7'").fetchone()
        forged = vector[:3] + bytes([vector[3] ^ 0x80]) + vector[4:]
        database.execute("update embeddings_queue set vector = ? where id = 'd7'", (forged,))
    with opened(folder) as index:
        report = index.verify()
    assert "the vectors of 1 document are damaged, the first is 'd7'" in report.chroma_damage


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """The folder of an index of which Chroma has written the files of the vectors."""
    path = tmp_path_factory.mktemp("large") / "index"
    with SmartIndex.create(path, WordEncoder()) as index:
        index.add([Document(f"d{i}", f"{WORDS[i % 10]} number{i % 50}") for i in range(1010)])
    return path


def vectors_of(folder):
    return next((folder / "chroma").glob("*/header.bin")).parent


@pytest.mark.parametrize("is_recorded", [True, False])
def test_a_damaged_vector_in_a_file_is_reported(large, tmp_path, is_recorded):
    """By its checksum, and by the traces in the rows if an older smart_rag has written last."""
    folder = shutil.copytree(large, tmp_path / "index")
    file = vectors_of(folder) / "data_level0.bin"
    data = bytearray(file.read_bytes())
    data[403] ^= 0x80  # behind the neighbours of the first vector: the sign of a number
    file.write_bytes(data)
    if not is_recorded:
        (folder / "chroma" / "smart_rag.checksums").unlink()
    with SmartIndex.open(folder, WordEncoder()) as index:
        report = index.verify()
    assert not report.sound
    assert ("data_level0.bin" if is_recorded else "the vectors of 1 document are damaged") in report.chroma_damage


def test_a_missing_folder_of_vectors(large, tmp_path):
    folder = shutil.copytree(large, tmp_path / "index")
    shutil.rmtree(vectors_of(folder))
    with pytest.raises(CorruptStore, match=r"header\.bin: expected 100 bytes, found no file.*verify --repair"):
        SmartIndex.open(folder, WordEncoder())


@pytest.mark.parametrize("text", ["a\0b", "\n lines \r\n", "ünï 😀", " x"])
def test_every_text_is_read_back_as_it_was_added(tmp_path, text):
    with SmartIndex.create(tmp_path / "index", VocabularyEncoder()) as index:
        index.add_texts([text, "other"], ["a", "b"])
        assert index.get(["a"])[0].text == text
        assert index.verify().sound
        assert len(index.search("x")) == 2


def test_lost_rows_are_named_and_kept(folder, caplog):
    """Vacuum would remove all that is left of them."""
    with opened(folder) as index:
        index._store.pooled.delete(["d3", "d4"])
        index.search("pump")
        index.search("pump")
    assert caplog.text.count("the rows of 2 documents are lost, the first is 'd3'") == 1
    with opened(folder) as index:
        report = index.verify()
        assert (report.lost, report.orphans, report.sound) == (("d3", "d4"), 2, False)
        with pytest.raises(CorruptStore, match=r"rows of 2 documents are lost or damaged, the first is 'd3'"):
            index.vacuum()
        assert index.verify() == report
        index.add_texts([TEXTS[3]], ["d3"])  # one comes back, one is given up
        assert index.delete(["d4", "unknown"]) == 1
        assert index.verify().lost == ()
        index.vacuum()
        assert index.verify().orphans == 0


FOREIGN = {
    "no metadata": ({"a": 1}, "was not written by smart_rag"),
    "no key": ({"_smart_rag.modality": "text"}, "was not written by smart_rag"),
    "a key of letters": ({"_smart_rag.key": "xyz"}, "damaged key"),
    "a number as key": ({"_smart_rag.key": 3}, "damaged key"),
    "no json": ({"_smart_rag.key": "0" * 32, "_smart_rag.json": "{"}, "damaged metadata"),
    "deep json": ({"_smart_rag.key": "0" * 32, "_smart_rag.json": "[" * 100_000}, "damaged metadata"),
    "a number as image": ({"_smart_rag.key": "0" * 32, "_smart_rag.image": 3}, "damaged metadata"),
    "no chunks": ({"_smart_rag.key": "0" * 32, "_smart_rag.file_hash": "x"}, "damaged metadata"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_rows_of_others_are_left_out_and_named(folder, kind, caplog):
    """One such row does not stop a search."""
    metadata, reason = FOREIGN[kind]
    with opened(folder) as index:
        expected = answers(index)
        index._store.pooled._write(
            "upsert", ids=["foreign"], embeddings=[index._store.pooled.embeddings(["d1"])["d1"]], metadatas=[metadata],
            documents=["pump"],
        )  # fmt: skip
        if "_smart_rag.key" in metadata and "key" not in reason:  # it looks like a row of ours that is damaged
            with pytest.raises(MissingTokens, match="'foreign'"):
                index.search("pump", first_stage="exhaustive")
        else:
            assert answers(index) == expected
        assert list(index.get(["foreign"])) == []
        assert len(list(index.documents())) == 60
        assert re.search(rf"the row 'foreign' .*{reason}.*verify", caplog.text)
        report = index.verify()
        assert (report.lost, report.sound) == (("foreign",), False)


def test_verify_of_a_real_model(tmp_path, minilm):
    """And of images: only texts are hashed into their keys."""
    with SmartIndex.create(tmp_path / "index", minilm) as index:
        index.add_texts(["The keys are in the boat.", "Dogs bark."])
        assert index.verify().sound
        shutil.rmtree(tmp_path / "index" / "terms")
    with SmartIndex.open(tmp_path / "index", minilm) as index:
        assert len(index.verify(repair=True).missing) == 2
        assert index.verify().sound
    from PIL import Image

    with SmartIndex.create(tmp_path / "seen", SeeingEncoder()) as index:
        index.add([Document("a", "text", image=Image.new("RGB", (8, 8))), Document("b", "only a text")])
        assert index.verify().sound
        assert index.search("text")
    assert isinstance(minilm, SmartEncoder)


def test_the_command_line(tmp_path, minilm):
    with SmartIndex.create(tmp_path / "index", minilm) as index:
        index.add_texts(["The keys are in the boat.", "Dogs bark."], ["a", "b"])
        index._store.pooled.delete(["a"])
    code, output, errors = run("verify", "--db", tmp_path / "index", "--repair")
    assert code == 1
    assert "1 passage whose text is lost: a" in output
    assert "cannot be repaired" in errors
    code, _, errors = run("vacuum", "--db", tmp_path / "index")
    assert code == 1
    assert "the first is 'a'" in errors
    assert "1 passage removed" in good("delete", "a", "--db", tmp_path / "index")
    assert "1 entry removed" in good("vacuum", "--db", tmp_path / "index")
    assert "the only passage is sound" in good("verify", "--db", tmp_path / "index")


def test_an_undone_batch_restores_the_traces(tmp_path, monkeypatch):
    """The vectors of the caller: the same tokens, and another pooled vector."""
    path, document = tmp_path / "index", Document("a", "pump")

    def vectors(pooled):
        return Representation.from_embeddings(np.asarray([pooled], dtype=np.float32), [np.eye(2, 4)])

    with SmartIndex.create(path, None, dimension=4) as index:
        index.add_embeddings([document], vectors([1, 0, 0, 0]))
        with monkeypatch.context() as patched:
            patched.setattr(PooledStore, "upsert", _fails)
            with pytest.raises(ChromaFailure):
                index.add_embeddings([document], vectors([0, 1, 0, 0]))
        index.delete(["nobody"])
        assert index.verify().sound
        index.compact()
        assert index.search(vectors([1, 0, 0, 0]), 1)[0].pooled_score == pytest.approx(1)


def _fails(*arguments):
    raise ChromaFailure("no")

"""An index that this user cannot write: it is searched, and nothing is written."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import time
from pathlib import Path

import lmdb
import pytest
from helpers.command_line import error_of, good
from helpers.other_users import NOBODY, open_folder, run_as, start_as
from helpers.word_encoder import VocabularyEncoder

from smart_rag import Document, IndexConfig, SmartIndex, errors
from smart_rag.store.terms.term_store import TermStore

TEXTS = {"a": "pump bearings", "b": "boat keys", "c": "winter tyres"}


@pytest.fixture
def path():
    """An index in a folder that everybody can read, and only its owner can write."""
    folder = open_folder()
    with SmartIndex.create(folder / "index", VocabularyEncoder(), config=IndexConfig(codec="exact")) as index:
        index.add([Document(id, text, {"n": len(text)}) for id, text in TEXTS.items()])
    yield folder / "index"
    shutil.rmtree(folder)


@pytest.fixture
def mounted(path):
    """The same index on a file system that is read-only."""
    place = path.parent / "mounted"
    place.mkdir()
    for command in (["mount", "--bind", path, place], ["mount", "-o", "remount,bind,ro", place]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"cannot mount: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def contents(path):
    """Return a dict from each file to its bytes and time."""
    return {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in path.rglob("*") if file.is_file()}


READ = """
with SmartIndex.open(path, VocabularyEncoder()) as index:
    assert [hit.id for hit in index.search("bearings")][0] == "a"
    assert index.search("bearings", 1, first_stage="terms")[0].id == "a"
    assert index.search("boat", where={"n": 9})[0].id == "b"
    assert [document.text for document in index.get(["b"])] == ["boat keys"]
    assert sorted(document.id for document in index.documents()) == ["a", "b", "c"]
    assert index.count() == index.info().documents == 3
    assert index.verify().sound and index.verify(repair=True).sound
    for write in (
        lambda: index.add_texts(["new"]),
        lambda: index.delete(["a"]),
        lambda: index.set_weights((1, 2)),
        index.vacuum,
    ):
        try:
            write()
        except errors.IndexReadOnly as error:
            assert f"{path}: this user can search the index, but cannot write to " in str(error), error
        else:
            raise AssertionError
say("done")
"""


def test_another_user_reads(path):
    before = contents(path)
    assert run_as(NOBODY, path, READ) == "done\n"
    assert contents(path) == before


def test_a_disk_that_is_read_only(mounted):
    before = contents(mounted)
    exec(READ, {**globals(), "path": str(mounted), "say": print})
    assert contents(mounted) == before


def test_files_without_the_permission_in_a_folder_with_it(path):
    """The folder alone does not make an index writable."""
    path.chmod(0o777)
    assert run_as(NOBODY, path, READ) == "done\n"


def test_nothing_is_left_behind(path):
    """The copies of Chroma's files are removed by close, and at the end of a process that does not close."""
    code = """
    import glob, pathlib
    tempfile.tempdir = tempfile.mkdtemp()
    index = SmartIndex.open(path, VocabularyEncoder())
    assert len(list(pathlib.Path(tempfile.tempdir).glob("smart_rag_*/*/chroma.sqlite3"))) == 1
    index.close()
    assert list(pathlib.Path(tempfile.tempdir).iterdir()) == []
    index = SmartIndex.open(path, VocabularyEncoder())
    say(tempfile.tempdir)
    """
    left = run_as(NOBODY, path, code).strip()
    assert subprocess.run(["ls", left], capture_output=True, text=True).stdout == ""


def test_a_reader_sees_what_the_owner_writes(path):
    """The owner adds, replaces and deletes. The other user sees it at the next call, and no error."""
    code = """
    with SmartIndex.open(path, VocabularyEncoder()) as index:
        say(index.count())
        for line in sys.stdin:
            hits = index.search("bearings", 10)
            say(*sorted(hit.id for hit in hits), "sound" if index.verify().sound else "damaged")
    """
    with start_as(NOBODY, path, code) as reader, SmartIndex.open(path, VocabularyEncoder()) as index:

        def ask():
            reader.stdin.write("\n")
            reader.stdin.flush()
            return reader.stdout.readline()

        assert reader.stdout.readline() == "3\n"
        index.add_texts(["bearings of a boat"], ["d"])
        assert ask() == "a b c d sound\n"
        index.delete(["a"])
        index.vacuum()
        index.add_texts(["a pump"], ["d"])
        assert ask() == "b c d sound\n"
        reader.stdin.close()


def test_a_reader_while_the_owner_writes_all_the_time(path):
    """No error and no wrong hit, although the reader cannot register with LMDB."""
    code = """
    import time
    with SmartIndex.open(path, VocabularyEncoder()) as index:
        say("ready")
        known, searches, end = {"a": "pump bearings", "b": "boat keys", "c": "winter tyres"}, 0, time.monotonic() + 1.5
        while time.monotonic() < end:
            for stage in ("terms", "exhaustive", "pooled"):
                found = {hit.id: hit.text for hit in index.search("bearings", 100, first_stage=stage)}
                assert {id: found.get(id) for id in known} == known, found
                assert all(text.startswith("new ") for id, text in found.items() if id not in known)
                searches += 1
        say(searches)
    """
    rounds, names = 0, [f"d{i}" for i in range(20)]
    with start_as(NOBODY, path, code) as reader, SmartIndex.open(path, VocabularyEncoder()) as index:
        assert reader.stdout.readline() == "ready\n"
        end = time.monotonic() + 2
        while time.monotonic() < end:
            rounds += 1
            index.add_texts([f"new {rounds} {name}" for name in names], names)
            index.delete(names[rounds % 3 :: 3])
        assert int(reader.stdout.readline()) > 0
    assert rounds > 3


def test_the_command_line(path, mounted, minilm):
    for file in path.iterdir():
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    with SmartIndex.create(path, minilm) as index:
        index.add_texts(["The cat sat on the mat.", "Dogs bark at night."], ["cat", "dog"])
    assert "Dogs bark at night." in good("search", "Which animal barks?", "-k", "1", "--db", mounted)
    assert good("verify", "--db", mounted) == "all 2 passages are sound\n"
    assert "minilm" in good("info", "--db", mounted)
    for command in (["index", Path(__file__)], ["delete", "cat"], ["vacuum"]):
        assert "this user can search the index, but cannot write to" in error_of(*command, "--db", mounted)
    shutil.rmtree(path / "terms")
    assert f"{mounted / 'terms' / 'data.mdb'} is missing" in error_of("info", "--db", mounted)


def test_a_new_index_where_nothing_can_be_made(mounted):
    for place in (mounted / "new", mounted / "terms" / "new"):
        with pytest.raises(errors.IndexReadOnly, match=re.escape(f"{place}: this user cannot make a folder there")):
            SmartIndex.create(place, VocabularyEncoder())


def test_the_copy_is_checked_before_chroma_opens_it(path):
    database = sqlite3.connect(path / "chroma" / "chroma.sqlite3")
    with database:
        database.execute("CREATE VIEW other AS SELECT 1")
    database.close()
    code = """
    try:
        SmartIndex.open(path, VocabularyEncoder())
    except errors.CorruptStore as error:
        say(error)
    """
    assert "expected the tables that Chroma makes, found the view 'other'" in run_as(NOBODY, path, code)


def test_a_term_store_without_traces():
    """An older smart_rag has made it. Who may write gets the database, and who may not can read the rest."""
    folder = open_folder() / "terms"
    TermStore(folder).close()
    with lmdb.open(str(folder), max_dbs=3) as environment, environment.begin(write=True) as transaction:
        transaction.drop(environment.open_db(b"traces", transaction))
    code = """
    from smart_rag.store.terms.term_store import TermStore
    store = TermStore(path)
    say(store.traces([("a", bytes(16))]).tolist(), store.count())
    """
    assert run_as(NOBODY, folder, code) == "[nan] 0\n"
    store = TermStore(folder)
    revision = "a", bytes(16)
    store.put([revision], [None], traces={revision: 1.0})
    assert store.traces([revision]).tolist() == [1.0]
    store.close()
    shutil.rmtree(folder.parent)

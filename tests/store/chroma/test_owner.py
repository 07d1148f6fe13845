"""Two copies of a folder over one collection: the second one to write is refused."""

from __future__ import annotations

import shutil
import uuid

import chromadb
import pytest
from helpers.chroma_server import server
from helpers.five_texts import documents
from helpers.word_encoder import LetterEncoder

from smart_rag import Document, SmartIndex
from smart_rag.errors import IndexMismatch
from smart_rag.index import folder
from smart_rag.index.manifest import Manifest
from smart_rag.store.chroma.owner import INDEX, OWNER, owner_of, set_owner

REFUSED = "another copy of this index has written to the collection"


@pytest.fixture(params=["memory", "folder"])
def client(request, tmp_path):
    if request.param == "memory":
        return chromadb.EphemeralClient()
    return chromadb.PersistentClient(tmp_path / "chroma of the caller")


@pytest.fixture
def name():
    return f"rows-{uuid.uuid4().hex}"


@pytest.fixture
def path(tmp_path, client, name):
    with SmartIndex.create(tmp_path / "index", LetterEncoder(), client=client, collection=name) as index:
        index.add(documents())
    return tmp_path / "index"


def opened(path, client):
    return SmartIndex.open(path, LetterEncoder(), client=client)


def test_a_copy_is_refused_after_the_other_has_written(path, client, name):
    copy = path.with_name("copy")
    shutil.copytree(path, copy)
    with opened(path, client) as index, opened(copy, client) as second:
        index.delete(["cat"])
        for write in (lambda: second.add_texts(["text"]), lambda: second.delete(["dog"]), second.vacuum):
            with pytest.raises(IndexMismatch, match=REFUSED):
                write()
        assert index.count() == 4
        index.add_texts(["more"])
    with pytest.raises(IndexMismatch, match=f"{copy}: {REFUSED} '{name}'"):
        opened(copy, client)
    with opened(path, client) as index:
        assert index.verify().sound
    client.get_collection(name).modify(metadata={"kept": 1})  # the advice: the user removes the token
    with opened(copy, client) as index:
        report = index.verify(repair=True)
        assert (len(report.missing), report.lost) == (1, ("cat",))  # what the other copy added and deleted
        index.delete(["cat"])
        assert index.verify().sound
    with pytest.raises(IndexMismatch, match=REFUSED):
        opened(path, client)
    assert client.get_collection(name).metadata["kept"] == 1


def test_a_copy_that_writes_first(path, client):
    """Whoever writes first owns the collection, be it the copy."""
    copy = path.with_name("copy")
    shutil.copytree(path, copy)
    with opened(copy, client) as index:
        index.delete(["cat"])
    with pytest.raises(IndexMismatch, match=REFUSED):
        opened(path, client)


def test_each_session_that_writes_has_its_own_token(path, client, name):
    tokens = {owner_of(client, name)}
    for i in range(3):
        with opened(path, client) as index:
            assert index.count() == 5 + i  # reading changes nothing
            assert owner_of(client, name) in tokens
            index.add([Document(f"new{i}", "text")])
            index.add([Document(f"new{i}", "text again")])
            tokens.add(owner_of(client, name))
            assert len(tokens) == i + 2
            assert index.manifest.owners == Manifest.read(path).owners == (owner_of(client, name),)
        metadata = client.get_collection(name).metadata
        assert metadata == {INDEX: index.manifest.id, OWNER: owner_of(client, name)}


def test_an_index_without_the_mark(path, client, name):
    """It is marked at the first write."""
    client.get_collection(name).modify(metadata={"of": "the caller"})
    manifest = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(manifest.replace(f'"{Manifest.read(path).owners[0]}"', ""))
    with opened(path, client) as index:
        assert index.manifest.owners == ()
        assert index.search("Dogs bark", 1)[0].id == "dog"
        assert owner_of(client, name) is None
        index.delete(["cat"])
    assert owner_of(client, name) is not None
    assert client.get_collection(name).metadata["of"] == "the caller"
    with opened(path, client) as index:
        assert index.count() == 4


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_process_that_dies_between_two_steps(path, client, name, steps, monkeypatch):
    """The folder can be opened and written, at whichever step a process ends."""

    class Killed(BaseException):
        pass

    done = []

    def counted(function):
        def call(*arguments):
            if len(done) == steps:
                raise Killed
            done.append(function)
            return function(*arguments)

        return call

    with monkeypatch.context() as patch, opened(path, client) as index:
        patch.setattr(Manifest, "write", counted(Manifest.write))
        patch.setattr(folder, "set_owner", counted(set_owner))
        with pytest.raises(Killed):
            index.delete(["cat"])
    with opened(path, client) as index:
        assert index.count() == 5
        assert index.delete(["cat"]) == 1
        assert len(index.manifest.owners) == 1
    with opened(path, client) as index:
        assert index.count() == 4


def test_a_server(tmp_path):
    with server(tmp_path / "server") as client:
        with SmartIndex.create(tmp_path / "index", LetterEncoder(), client=client) as index:
            index.add(documents())
        shutil.copytree(tmp_path / "index", tmp_path / "copy")
        with opened(tmp_path / "index", client) as index, opened(tmp_path / "copy", client) as second:
            index.delete(["cat"])
            with pytest.raises(IndexMismatch, match=REFUSED):
                second.delete(["dog"])
            assert index.search("Dogs bark", 1)[0].id == "dog"

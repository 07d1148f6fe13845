"""`client`: one Chroma for a folder, and Chroma's errors as ours."""

import inspect
import re
import threading

import chromadb
import chromadb.errors
import pytest
from chromadb.api.types import EmbeddingFunction
from chromadb.utils.embedding_functions import known_embedding_functions, register_embedding_function

from smart_rag.errors import (
    ChromaFailure,
    DimensionMismatch,
    IndexClosed,
    IndexNotFound,
    InvalidInput,
    NotTrusted,
    SmartRagError,
)
from smart_rag.store.chroma.client import FolderClient, GivenClient, chroma_errors

ONE = {"ids": ["a"], "embeddings": [[1.0, 0.0]], "documents": ["text"]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "chroma"


@pytest.fixture
def folder(path):
    """The client of a folder, with an empty collection "rows"."""
    folder = FolderClient.at(path)
    with folder.write_lock() as client:
        client.create_collection("rows", embedding_function=None, configuration={"hnsw": {"space": "cosine"}})
    yield folder
    folder.release()


def count(client):
    return client.read("rows", "count", {})


def test_users_of_a_folder_share_one_client(folder, path):
    """It closes with the last user, however the path is written; a closed one can be opened anew."""
    link = path.with_name("link")
    link.symlink_to(path)
    second = FolderClient.at(link)
    assert second is folder
    second.release()
    folder.write("rows", "upsert", ONE)
    assert count(folder) == 1
    other = FolderClient.at(path.with_name("other"))
    assert other is not folder
    other.release()
    with pytest.raises(IndexClosed, match="the pooled store is closed; open it again"), other.write_lock():
        pass
    again = FolderClient.at(path.with_name("other"))
    assert again is not other
    again.release()


def test_each_write_makes_the_counter_longer_first(folder, path):
    """Other processes compare its length. A write that fails, or that a kill ends, has to be noticed too."""
    writes = path / "smart_rag.writes"
    before = writes.stat().st_size
    folder.write("rows", "upsert", ONE)
    assert writes.stat().st_size == before + 1
    with pytest.raises(Exception, match="dimension"):
        folder.write("rows", "upsert", ONE | {"embeddings": [[1.0, 0.0, 0.0]]})
    assert writes.stat().st_size == before + 2
    count(folder)
    assert writes.stat().st_size == before + 2


def test_a_client_that_missed_a_write_is_opened_again(folder, path):
    """A longer counter stands for a write of another process."""
    assert count(folder) == 0
    with folder.write_lock() as before:
        pass
    with folder.write_lock() as same:
        assert same is before
    with (path / "smart_rag.writes").open("ab") as file:
        file.write(b".")
    assert count(folder) == 0
    with folder.write_lock() as after:
        assert after is not before


def test_the_write_lock_keeps_writers_out(folder):
    """While one thread has the lock, a write of another waits; reads do not."""
    written = threading.Event()

    def write():
        folder.write("rows", "upsert", ONE)
        written.set()

    thread = threading.Thread(target=write, daemon=True)
    with folder.write_lock():
        thread.start()
        assert not written.wait(0.3)
        assert count(folder) == 0
    assert written.wait(20)
    thread.join()
    assert count(folder) == 1


def test_a_given_client_is_the_callers():
    """It is used as it is, and stays open when it is released."""
    client = chromadb.EphemeralClient()
    collection = client.create_collection("given", embedding_function=None)
    given = GivenClient(client)
    given.write("given", "upsert", ONE)
    with given.write_lock() as found:
        assert found is client
    given.release()
    assert collection.count() == given.read("given", "count", {}) == 1
    client.delete_collection("given")


def test_a_server_may_not_name_an_embedding_function():
    """Chroma makes the function that the collection names, even if the caller passes none."""
    made = []

    @register_embedding_function
    class Theirs(EmbeddingFunction):
        def __init__(self):
            made.append(self)

        def __call__(self, input):
            return [[1.0, 0.0]] * len(input)

        @staticmethod
        def name():
            return "theirs"

        def get_config(self):
            return {}

        @staticmethod
        def build_from_config(config):
            return Theirs()

    client = chromadb.EphemeralClient()
    collection = client.create_collection("given", embedding_function=Theirs())
    try:
        collection.upsert(**ONE)
        assert len(made) > 1  # so does Chroma
        made.clear()
        for call in ("count", {}), ("upsert", ONE):
            with pytest.raises(NotTrusted, match="'given' of your Chroma client names the embedding function 'theirs'"):
                GivenClient(client).read("given", *call)
        assert not made
    finally:
        client.delete_collection("given")
        del known_embedding_functions["theirs"]


# --- errors -------------------------------------------------------------------------------


def classes_of_chroma():
    """Return all exception classes that chromadb.errors defines."""
    return [
        found
        for found in vars(chromadb.errors).values()
        if inspect.isclass(found) and issubclass(found, Exception) and found.__module__ == chromadb.errors.__name__
    ]


def made(kind):
    """Return an exception of this class, with a text for each argument that it needs."""
    try:
        needed = [
            parameter
            for parameter in inspect.signature(kind).parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]
    except ValueError:
        needed = []
    return kind(*(["what it says"] * max(1, len(needed))))


def test_chroma_has_errors():
    """The list above is not empty by mistake."""
    names = {kind.__name__ for kind in classes_of_chroma()}
    assert {"ChromaError", "InvalidArgumentError", "InvalidDimensionException", "InternalError"} <= names
    assert {kind.__name__ for kind in chromadb.errors.error_types.values()} <= names


@pytest.mark.parametrize("kind", classes_of_chroma(), ids=lambda kind: kind.__name__)
def test_every_error_of_chroma_becomes_ours(kind):
    """No error of Chroma's reaches a user. It is the cause of ours, which repeats its message."""
    error = made(kind)
    with pytest.raises(SmartRagError, match="what it says") as ours, chroma_errors():
        raise error
    assert ours.value.__cause__ is error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (chromadb.errors.InvalidDimensionException("x"), DimensionMismatch),
        (chromadb.errors.InvalidArgumentError("expecting embedding with dimension of 4"), DimensionMismatch),
        (chromadb.errors.InvalidArgumentError("x"), InvalidInput),
        (ValueError("x"), InvalidInput),
        (TypeError("x"), InvalidInput),
        (chromadb.errors.InternalError("x"), ChromaFailure),
        (PermissionError("x"), ChromaFailure),
    ],
)
@pytest.mark.parametrize("local", [True, False])
def test_which_error_becomes_which(tmp_path, error, kind, local):
    """Each kind of failure becomes the error class that tells the user what to do."""
    with pytest.raises(SmartRagError, match=re.escape(str(error))) as ours, chroma_errors(tmp_path if local else None):
        raise error
    assert type(ours.value) is kind
    assert ours.value.__cause__ is error
    if kind is ChromaFailure and local:
        assert str(ours.value).startswith(f"{tmp_path}: ")
        assert "`smart-rag verify`" in str(ours.value)


@pytest.mark.parametrize("error", [DimensionMismatch("ours"), IndexNotFound("ours"), KeyboardInterrupt()])
def test_other_errors_pass(error):
    """Our own errors and interrupts are not changed."""
    with pytest.raises(type(error)) as passed, chroma_errors():
        raise error
    assert passed.value is error

"""A pickle of an index holds its folder. A copy is an index of its own, with the same encoder."""

import copy
import pickle
import threading

import chromadb
import pytest
from helpers.word_encoder import WordEncoder

from smart_rag import SmartIndex
from smart_rag.errors import IndexClosed, IndexMismatch, IndexNotFound, InvalidInput

TEXTS = ["Dogs bark at night.", "Cats sleep."]


@pytest.fixture
def index(tmp_path):
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as index:
        index.add_texts(TEXTS)
        yield index


@pytest.mark.parametrize("again", [lambda index: pickle.loads(pickle.dumps(index)), copy.copy, copy.deepcopy])
def test_it_is_opened_again(index, again):
    """Also after it was closed."""
    hits = index.search("dogs")
    with again(index) as other:
        assert [(hit.id, hit.score) for hit in other.search("dogs")] == [(hit.id, hit.score) for hit in hits]
    assert index.search("dogs")
    index.close()
    with again(index) as other:
        assert other.count() == 2
    with pytest.raises(IndexClosed):
        index.count()


def test_a_copy_shares_the_encoder(index):
    with copy.deepcopy(index) as other:
        assert other.encoder is index.encoder


def test_sources_are_kept(tmp_path, index, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with SmartIndex.open(index.path, WordEncoder(), sources=["images"]) as opened:
        monkeypatch.chdir(index.path)
        for again in (pickle.loads(pickle.dumps(opened)), copy.deepcopy(opened)):
            assert again._store.pooled.sources.admits(tmp_path / "images" / "a.png")
            assert not again._store.pooled.sources.admits(tmp_path / "a.png")
            again.close()


def test_an_index_that_was_opened_without_its_encoder(index):
    """The pickle has no encoder either."""
    with SmartIndex.open(index.path) as opened, pickle.loads(pickle.dumps(opened)) as other:
        assert other.count() == 2
        with pytest.raises(IndexMismatch, match="open the index with encoder="):
            other.search("dogs")


def test_what_cannot_be_pickled_is_named(tmp_path, index):
    encoder = WordEncoder()
    encoder.lock = threading.Lock()
    with (
        SmartIndex.open(index.path, encoder) as opened,
        pytest.raises(InvalidInput, match=r"WordEncoder cannot be pickled .*SmartIndex.open\('.*index', encoder=...\)"),
    ):
        pickle.dumps(opened)
    client = chromadb.EphemeralClient()
    with SmartIndex.create(tmp_path / "other", WordEncoder(), client=client, collection="of_pickles") as held:
        held.add_texts(TEXTS)
        with pytest.raises(InvalidInput, match=r"Chroma client .*SmartIndex.open\('.*other', client=...\)"):
            pickle.dumps(held)
        assert copy.deepcopy(held).count() == 2


def test_a_folder_that_is_gone(index):
    pickled = pickle.dumps(index)
    index.path.rename(index.path.with_name("elsewhere"))
    with pytest.raises(IndexNotFound):
        pickle.loads(pickled)

"""Image files that the metadata of somebody else's documents name."""

from __future__ import annotations

import logging

import pytest
from helpers.word_encoder import WordEncoder
from langchain_smart_rag import SmartRetriever, SmartVectorStore

from smart_rag import Document, SmartIndex


@pytest.fixture
def index(tmp_path):
    """An index whose documents name a file in the folder "scans", and one elsewhere."""
    (tmp_path / "scans").mkdir()
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as index:
        index.add(
            [
                Document("scan", "a boat", {"image_path": str(tmp_path / "scans" / "boat.png")}),
                Document("secret", "a boat", {"image_path": str(tmp_path / "secret.png")}),
                Document("address", "a boat", {"image_path": "http://example.org/boat.png"}),
                Document("number", "a boat", {"image_path": 7}),
                Document("none", "a boat"),
            ]
        )
    return tmp_path / "index"


@pytest.fixture
def foreign(index, monkeypatch):
    """The index, seen by a user who has not made it."""
    monkeypatch.setenv("SMART_RAG_HOME", str(index.parent / "another user"))
    return index


def named(documents):
    return sorted(document.id for document in documents if "image_path" in document.metadata)


def test_what_the_index_may_not_read_is_left_out(foreign, caplog):
    index = foreign
    with SmartIndex.open(index, WordEncoder()) as opened:
        assert not opened.may_read(index.parent / "secret.png")
        assert opened.may_read(opened.path / "images" / "x.png")
        assert not opened.may_read("a\0b")
        store, retriever = SmartVectorStore(opened), SmartRetriever(opened, k=9)
        for read in (
            lambda: retriever.invoke("boat"),
            lambda: store.similarity_search("boat", k=9),
            lambda: [document for document, _ in store.similarity_search_with_score("boat", k=9)],
            lambda: store.max_marginal_relevance_search("boat", k=9),
            lambda: store.get_by_ids(["scan", "secret", "address", "number", "none"]),
        ):
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                found = read()
            assert (len(found), named(found)) == (5, [])
            (message,) = [record.getMessage() for record in caplog.records]
            assert message.startswith("4 documents, such as ")


def test_sources(foreign):
    index = foreign
    with SmartIndex.open(index, WordEncoder(), sources=[index.parent / "scans"]) as opened:
        assert opened.may_read(index.parent / "scans" / "boat.png")
        assert named(SmartRetriever(opened, k=9).invoke("boat")) == ["scan"]


def test_sources_of_a_folder(tmp_path, minilm):
    """Both classes open an index by its folder with these sources, also from a pickle."""
    import pickle

    with SmartIndex.create(tmp_path / "index", "minilm") as index:
        index.add([Document("scan", "a boat", {"image_path": str(tmp_path / "scans" / "boat.png")})])
    for opened in (
        SmartRetriever(tmp_path / "index", sources=[tmp_path / "scans"]),
        SmartVectorStore(tmp_path / "index", sources=[tmp_path / "scans"]),
    ):
        for one in (opened, pickle.loads(pickle.dumps(opened))):
            assert one.index.may_read(tmp_path / "scans" / "boat.png")
            assert not one.index.may_read(tmp_path / "secret.png")
            one.index.close()


def test_what_an_application_adds_comes_back(tmp_path):
    """Also if the model reads no images, and later, in another session."""
    files = [str(tmp_path / "a.png"), f"file://{tmp_path}/b.png", "https://example.org/c.png"]
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as index:
        store = SmartVectorStore(index)
        store.add_texts(["boat", "boat", "boat"], [{"image_path": file} for file in files])
    with SmartIndex.open(tmp_path / "index", WordEncoder()) as index:
        found = SmartVectorStore(index).similarity_search("boat", k=3)
    assert sorted(document.metadata["image_path"] for document in found) == sorted(files)

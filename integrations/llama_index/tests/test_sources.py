"""Files and addresses that somebody else's nodes name."""

from __future__ import annotations

import logging

import pytest
from helpers.word_encoder import WordEncoder
from llama_index.core.schema import ImageNode, MediaResource, Node
from llama_index.core.vector_stores.types import VectorStoreQuery
from llama_index.core.vector_stores.utils import node_to_metadata_dict
from llama_index_smart_rag import SmartRetriever, SmartVectorStore

from smart_rag import Document, SmartIndex


@pytest.fixture
def path(tmp_path):
    scan, secret, web = str(tmp_path / "scans" / "boat.png"), str(tmp_path / "secret.png"), "http://example.org/x.png"
    nodes = [
        ImageNode(id_="scan", text="a boat", image_path=scan),
        ImageNode(id_="secret", text="a boat", image_path=secret),
        ImageNode(id_="file", text="a boat", image_url=f"file://{secret}"),
        ImageNode(id_="web", text="a boat", image_url=web),
        Node(id_="resource", text_resource=MediaResource(text="a boat"), image_resource=MediaResource(path=secret)),
        Node(id_="address", text_resource=MediaResource(text="a boat"), video_resource=MediaResource(url=web)),
    ]
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as index:  # not by the store, which would name the files
        index.add([Document(node.node_id, "a boat", node_to_metadata_dict(node)) for node in nodes])
    return tmp_path / "index"


def named(nodes):
    """Return the ids of the nodes that name a file or an address."""
    resources = ("text_resource", "image_resource", "video_resource")
    owners = {node.node_id: [node, *(getattr(node, name, None) for name in resources)] for node in nodes}
    fields = ("image_path", "image_url", "path", "url")
    return sorted(
        id
        for id, of_one in owners.items()
        if any(getattr(owner, field, None) is not None for owner in of_one for field in fields)
    )


@pytest.fixture
def foreign(path, monkeypatch):
    """The index, seen by a user who has not made it."""
    monkeypatch.setenv("SMART_RAG_HOME", str(path.parent / "another user"))
    return path


def test_addresses_in_an_index_of_your_own_stay(path):
    with SmartIndex.open(path, WordEncoder()) as index:
        assert named(SmartVectorStore(index).get_nodes()) == ["address", "web"]
        assert index.may_read("https://example.org/x.png")


def test_what_the_index_may_not_read_is_left_out(foreign, caplog):
    with SmartIndex.open(foreign, WordEncoder()) as index:
        store, retriever = SmartVectorStore(index), SmartRetriever(index)
        ids = ["scan", "secret", "file", "web", "resource", "address"]
        query = VectorStoreQuery(query_str="boat", similarity_top_k=9)
        for read in (
            lambda: [found.node for found in retriever.retrieve("boat")],
            lambda: store.query(query).nodes,
            store.get_nodes,
            lambda: store.get_nodes(ids),
        ):
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                found = read()
            assert (len(found), named(found)) == (6, [])
            assert [record.getMessage()[:8] for record in caplog.records] == ["6 nodes,"]


def test_sources_and_addresses(foreign):
    with SmartIndex.open(foreign, WordEncoder(), sources=[foreign.parent / "scans"]) as index:
        assert named(SmartVectorStore(index).get_nodes()) == ["scan"]
        assert named(SmartVectorStore(index, allow_urls=True).get_nodes()) == ["address", "scan", "web"]
        hits = SmartRetriever(index, allow_urls=True).retrieve("boat")
        assert named(hit.node for hit in hits) == ["address", "scan", "web"]


def test_sources_of_a_folder(tmp_path, minilm):
    """The classes open an index by its folder with these sources, also from their descriptions."""
    SmartIndex.create(tmp_path / "index", "minilm").close()
    for kind in (SmartRetriever, SmartVectorStore):
        opened = kind(tmp_path / "index", sources=[tmp_path / "scans"])
        for one in (opened, kind.from_dict(opened.to_dict())):
            assert one.index.may_read(tmp_path / "scans" / "boat.png")
            assert not one.index.may_read(tmp_path / "secret.png")
            one.index.close()


def test_what_an_application_adds_comes_back(path, tmp_path):
    with SmartIndex.open(path, WordEncoder()) as index:
        nodes = SmartVectorStore(index, allow_urls=True).get_nodes()
    nodes.append(Node(id_="mine", text_resource=MediaResource(text="boat", path=str(tmp_path / "boat.txt"))))
    with SmartIndex.create(tmp_path / "own", WordEncoder()) as index:
        SmartVectorStore(index).add(nodes)
    with SmartIndex.open(tmp_path / "own", WordEncoder()) as index:
        assert named(SmartVectorStore(index).get_nodes()) == named(nodes) == ["address", "mine", "web"]

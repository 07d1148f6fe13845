"""The async methods: the same results as without async, in the threads of `smart_rag.threads`."""

from __future__ import annotations

import asyncio
import threading

import pytest
from helpers.word_encoder import WordEncoder
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index_smart_rag import SmartEmbedding, SmartRerank, SmartRetriever, SmartVectorStore

from smart_rag import SmartIndex
from smart_rag.errors import IndexMismatch


class NamingEncoder(WordEncoder):
    """Keeps the names of the threads in which it is called."""

    def __init__(self):
        self.threads = set()

    def encode_query(self, texts):
        self.threads.add(threading.current_thread().name.rpartition("_")[0])
        return super().encode_query(texts)

    encode_document = encode_query


READERS, WRITER = {"smart_rag_reader"}, {"smart_rag_writer"}
NODES = [TextNode(id_=f"n{i}", text=f"passage {i} is about {w}") for i, w in enumerate(["cats", "dogs", "boats"])]


@pytest.fixture
def encoder():
    return NamingEncoder()


@pytest.fixture
def store(tmp_path, encoder):
    with SmartIndex.create(tmp_path / "naming", encoder) as index:
        yield SmartVectorStore(index)


def test_embedding(encoder):
    embed_model = SmartEmbedding(encoder=encoder)
    texts = asyncio.run(embed_model.aget_text_embedding_batch(["cats dogs"]))
    (node,) = asyncio.run(embed_model.acall([TextNode(text="cats dogs")]))
    assert encoder.threads == WRITER
    encoder.threads.clear()
    query = asyncio.run(embed_model.aget_query_embedding("cats dogs"))
    assert encoder.threads == READERS
    assert texts == [query] == [node.embedding]


def test_rerank(encoder):
    reranker = SmartRerank(SmartEmbedding(encoder=encoder))
    given = [NodeWithScore(node=node) for node in NODES]
    found = asyncio.run(reranker.apostprocess_nodes(given, query_str="boats"))
    assert encoder.threads == READERS
    assert found == reranker.postprocess_nodes(given, query_str="boats")


def test_store(store, encoder):
    assert asyncio.run(store.async_add(NODES)) == ["n0", "n1", "n2"]
    assert encoder.threads == WRITER
    encoder.threads.clear()
    query = VectorStoreQuery(query_str="boats", similarity_top_k=2)
    found = asyncio.run(store.aquery(query))
    assert encoder.threads == READERS
    assert found == store.query(query)
    assert asyncio.run(store.aget_nodes(["n1"])) == store.get_nodes(["n1"])
    asyncio.run(store.adelete_nodes(["n1"], MetadataFilters(filters=[])))
    asyncio.run(store.adelete_nodes(["n0"], MetadataFilters(filters=[MetadataFilter(key="a", value=1)])))
    assert {node.node_id for node in store.get_nodes()} == {"n0", "n2"}


def test_nodes_of_another_model_are_refused(store):
    bad = NODES[0].model_copy(update={"embedding": [1.0] + [0.0] * 23})
    with pytest.raises(IndexMismatch):
        asyncio.run(store.async_add([bad]))
    assert store.index.count() == 0


def test_retriever(store, encoder):
    store.add(NODES)
    retriever = SmartRetriever(store.index, similarity_top_k=2)
    expected = retriever.retrieve("boats")
    encoder.threads.clear()
    assert asyncio.run(retriever.aretrieve("boats")) == expected
    assert encoder.threads == READERS

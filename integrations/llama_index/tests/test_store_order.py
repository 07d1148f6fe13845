"""A reranker notices that another model has made the vectors of a store."""

from __future__ import annotations

import logging

import pytest
from helpers.word_encoder import WordEncoder
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index_smart_rag import SmartEmbedding, SmartRerank
from llama_index_smart_rag.store_order import StoreOrder

WORDS = ["pump", "boat", "keys", "carp", "lamp", "door", "dogs", "cats", "night", "river"]
NODES = [TextNode(text=f"{WORDS[i % 10]} {WORDS[i * 3 % 7]} {WORDS[i * 7 % 9]} number{i}") for i in range(40)]


class OtherEncoder(WordEncoder):
    """Its vectors of a text have nothing to do with those of `WordEncoder`."""

    fingerprint = "other"

    def describe(self):
        return {"model": "other"}

    def encode_query(self, texts):
        return super().encode_query([text[::-1].replace(" ", "") for text in texts])

    encode_document = encode_query


def messages(caplog, retrieved, encoder):
    """Rerank what ``retrieved`` gives for five questions, and return the warnings."""
    reranker = SmartRerank(SmartEmbedding(encoder=encoder), top_n=3)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        for i in range(5):
            question = f"{WORDS[i]} {WORDS[i + 3]}"
            nodes = reranker.postprocess_nodes(retrieved(question), query_bundle=QueryBundle(question))
            assert len(nodes) == 3
    return [message for message in caplog.messages if "rank correlation" in message]


@pytest.mark.parametrize(("encoder", "expected"), [(WordEncoder(), 0), (OtherEncoder(), 1)])
def test_the_vectors_of_another_model_are_noticed_once(caplog, encoder, expected):
    index = VectorStoreIndex(NODES, embed_model=SmartEmbedding(encoder=WordEncoder()))
    found = messages(caplog, index.as_retriever(similarity_top_k=10).retrieve, encoder)
    assert len(found) == expected
    assert all("'other' has made them" in message for message in found)


@pytest.mark.parametrize("scores", [None, 30.0, 1 / 60])
def test_scores_that_are_no_cosines_say_nothing(caplog, scores):
    """Such as none at all, those of BM25, and those of a fusion of ranks."""

    def retrieved(question):
        return [NodeWithScore(node=node, score=scores and scores / (i + 1)) for i, node in enumerate(NODES[:10])]

    assert messages(caplog, retrieved, OtherEncoder()) == []


def test_few_nodes_say_nothing():
    order = StoreOrder()
    for _ in range(5):
        assert order.unlike([0.9, 0.8, 0.7], [0.1, 0.2, 0.3]) is None

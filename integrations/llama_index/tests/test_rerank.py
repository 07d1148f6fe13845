"""`SmartRerank` behind any retriever."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers.word_encoder import WordEncoder, plain_scores
from llama_index.core import Settings, VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.schema import ImageNode, MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index_smart_rag import SmartEmbedding, SmartRerank

from smart_rag import CachedEncoder, rerank
from smart_rag.errors import InvalidInput

WORDS = ["cats", "dogs", "boats", "keys", "taxes", "rain"]
TEXTS = [f"{word} is what passage {i} is about" for i, word in enumerate(WORDS)]


def scored(texts=TEXTS) -> list[NodeWithScore]:
    nodes = [TextNode(id_=f"n{i}", text=text, metadata={"page": i}) for i, text in enumerate(texts)]
    return [NodeWithScore(node=node, score=1 - i / 10) for i, node in enumerate(nodes)]


def words(path=None, **options) -> SmartRerank:
    return SmartRerank(SmartEmbedding(encoder=CachedEncoder(WordEncoder(), path, codec="exact")), **options)


def test_scores_are_smart_rags_own_and_sorted():
    nodes = scored()
    texts = [node.node.get_content(MetadataMode.EMBED) for node in nodes]
    expected = plain_scores("keys for boats", texts, weights=(1.0, 2.0))
    result = words(top_n=6).postprocess_nodes(nodes, query_str="keys for boats")
    assert [node.node_id for node in result] == [f"n{i}" for i in np.argsort(-np.asarray(expected), kind="stable")]
    for node in result:
        assert node.score == pytest.approx(expected[int(node.node_id[1:])], abs=1e-5)
    hits = rerank("keys for boats", texts, WordEncoder())
    assert [node.score for node in result] == pytest.approx([hit.score for hit in hits], abs=1e-6)


class LateEncoder(WordEncoder):
    """An encoder that was trained for late interaction alone."""

    default_weights = (0.0, 1.0)


def test_weights_are_those_of_the_model():
    reranked = SmartRerank(SmartEmbedding(encoder=LateEncoder()), top_n=6).postprocess_nodes(scored(), query_str="keys")
    texts = [node.node.get_content(MetadataMode.EMBED) for node in scored()]
    hits = rerank("keys", texts, LateEncoder())
    assert [node.score for node in reranked] == pytest.approx([hit.score for hit in hits], abs=1e-6)
    assert reranked[0].score <= 1 + 1e-6


def test_the_embedding_of_the_settings_is_taken(monkeypatch):
    """A model that is named, or another class in the settings, makes a new embedding."""
    shared = SmartEmbedding(encoder=WordEncoder())
    monkeypatch.setattr(Settings, "_embed_model", shared)
    assert SmartRerank(top_n=2).embed_model is shared
    assert SmartRerank(model_name="minilm").embed_model is not shared
    monkeypatch.setattr(Settings, "_embed_model", MockEmbedding(3))
    assert SmartRerank().embed_model.model_name == "minilm"


def test_relevance(tmp_path):
    embed_model = SmartEmbedding("minilm", tmp_path / "tokens")
    for options in ({"min_relevance": 0.5}, {"with_relevance": True}):
        with pytest.raises(InvalidInput, match="calibrate=True"):
            SmartRerank(embed_model, **options).postprocess_nodes(scored(), query_str="keys")
    nodes = [node.node for node in scored()]
    embed_model.backfill(nodes, calibrate=True)
    scores = [node.score for node in SmartRerank(embed_model, top_n=9).postprocess_nodes(scored(), query_str="keys")]
    scale = embed_model.encoder.relevance_scale(embed_model.encoder.default_weights)
    rated = SmartRerank(embed_model, top_n=9, with_relevance=True).postprocess_nodes(scored(), query_str="keys")
    assert [node.score for node in rated] == [scale.relevance(score) for score in scores]
    kept = SmartRerank(embed_model, top_n=9, min_relevance=rated[1].score).postprocess_nodes(scored(), query_str="keys")
    assert [node.score for node in kept] == scores[: len(kept)]
    assert 2 <= len(kept) < len(scores)


def test_stored_tokens_give_the_same_scores(tmp_path):
    direct = words(top_n=6).postprocess_nodes(scored(), query_str="keys")
    for _ in range(2):  # what is missing is stored, then found
        stored = words(tmp_path / "tokens", top_n=6).postprocess_nodes(scored(), query_str="keys")
        assert [node.node_id for node in stored] == [node.node_id for node in direct]
        assert [node.score for node in stored] == pytest.approx([node.score for node in direct], abs=2e-3)


def test_the_order_that_comes_in_does_not_matter():
    nodes = scored()
    expected = words(top_n=6).postprocess_nodes(nodes, query_str="dogs")
    shuffled = words(top_n=6).postprocess_nodes(nodes[::-1], query_str="dogs")
    assert [node.node_id for node in shuffled] == [node.node_id for node in expected]
    assert [node.score for node in shuffled] == pytest.approx([node.score for node in expected], abs=1e-6)


def test_equal_nodes_stay_in_the_retrievers_order():
    nodes = [NodeWithScore(node=TextNode(id_=f"n{11 - i}", text="the same text"), score=None) for i in range(12)]
    result = words(top_n=12).postprocess_nodes(nodes, query_str="text")
    assert [node.node_id for node in result] == [f"n{11 - i}" for i in range(12)]


def test_the_retrievers_nodes_are_not_changed():
    nodes = scored()
    before = copy.deepcopy(nodes)
    for keep in (False, True):
        result = words(top_n=2, keep_retrieval_score=keep).postprocess_nodes(nodes, query_str="rain")
        assert nodes == before
        assert len(result) == 2
        assert ("retrieval_score" in result[0].metadata) is keep
    assert result[0].metadata["retrieval_score"] == nodes[5].score
    assert result[0].metadata["page"] == 5


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (0.25, 2.0)])
def test_weights(weights):
    nodes = scored()
    texts = [node.node.get_content(MetadataMode.EMBED) for node in nodes]
    hits = rerank("keys for boats", texts, WordEncoder(), weights=weights)
    result = words(top_n=6, weights=weights).postprocess_nodes(nodes, query_str="keys for boats")
    assert [node.score for node in result] == pytest.approx([hit.score for hit in hits])


def test_async_and_threads_give_the_same(tmp_path):
    reranker = words(tmp_path / "tokens", top_n=3)
    expected = reranker.postprocess_nodes(scored(), query_str="dogs")
    assert asyncio.run(reranker.apostprocess_nodes(scored(), query_str="dogs")) == expected
    with ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda _: reranker.postprocess_nodes(scored(), query_str="dogs"), range(64))
    assert all(result == expected for result in results)


def test_events():
    seen = []

    class Handler(BaseEventHandler):
        def handle(self, event, **kwargs):
            seen.append(event)

    dispatcher = get_dispatcher()
    handler = Handler()
    dispatcher.add_event_handler(handler)
    try:
        result = words(top_n=2).postprocess_nodes(scored(), query_str="cats")
    finally:
        dispatcher.event_handlers.remove(handler)
    start, end = (event for event in seen if event.class_name().startswith("ReRank"))
    assert (start.query.query_str, start.top_n, len(start.nodes), start.model_name) == ("cats", 2, 6, "words")
    assert end.nodes == result


def test_behind_a_retriever_of_another_embedding(tmp_path):
    """The nodes come from a store without token embeddings."""
    nodes = [node.node for node in scored()]
    engine = VectorStoreIndex(nodes, embed_model=MockEmbedding(5)).as_retriever(similarity_top_k=6)
    result = words(tmp_path / "tokens", top_n=1).postprocess_nodes(engine.retrieve("taxes"), query_str="taxes")
    assert result[0].node_id == "n4"


@pytest.mark.parametrize("keep", [False, True])
def test_serialisation(tmp_path, keep, caplog):
    embed_model = SmartEmbedding("minilm", tmp_path / "tokens", text_instruction="passage: ", query_tokens="input")
    reranker = SmartRerank(embed_model, top_n=2, weights=(1.0, 0.5), keep_retrieval_score=keep)
    expected = reranker.postprocess_nodes(scored(), query_str="dogs")
    assert reranker.class_name() == reranker.to_dict()["class_name"] == "SmartRerank"
    with caplog.at_level(logging.WARNING):
        copies = [SmartRerank.from_dict(reranker.to_dict()), pickle.loads(pickle.dumps(reranker))]
    assert not caplog.records
    for copied in copies:
        assert copied.to_dict() == reranker.to_dict()
        assert copied.postprocess_nodes(scored(), query_str="dogs") == expected
        assert copied.embed_model.encoder.fingerprint == embed_model.encoder.fingerprint


def test_an_empty_node_is_ranked_like_any_other():
    """A scanned page can have no text; the stores take it, so it must not stop the application."""
    nodes = [NodeWithScore(node=TextNode(text="")), *scored()]
    assert len(SmartRerank(top_n=9).postprocess_nodes(nodes, query_str="dogs")) == 7


def test_bad_input(tmp_path):
    reranker = words()
    with pytest.raises(InvalidInput, match="needs the query"):
        reranker.postprocess_nodes(scored())
    for query in ("", "  "):
        with pytest.raises(InvalidInput, match="query is empty"):
            reranker.postprocess_nodes(scored(), query_bundle=QueryBundle(query))
    with pytest.raises(InvalidInput, match="'i' has no text"):
        reranker.postprocess_nodes([NodeWithScore(node=ImageNode(id_="i", image_path="x.png"))], query_str="x")
    with pytest.raises(InvalidInput, match="weights"):
        words(weights=(0.0, 0.0)).postprocess_nodes(scored(), query_str="x")
    with pytest.raises(InvalidInput, match="MockEmbedding"):
        SmartRerank(MockEmbedding(3))
    with pytest.raises(InvalidInput, match="leave out model_name"):
        SmartRerank(SmartEmbedding("minilm"), token_store=tmp_path / "tokens")
    with pytest.raises(ValueError, match="top_n"):
        words(top_n=0)
    assert reranker.postprocess_nodes([], query_str="x") == []

"""`query_engine` answers from numbered passages, and `citations` lists them."""

from __future__ import annotations

import pytest
from helpers.word_encoder import WordEncoder
from llama_index.core.llms import MockLLM
from llama_index_smart_rag import SmartEmbedding, SmartRerank, SmartRetriever, citations, query_engine

from smart_rag import CachedEncoder, Document, SmartIndex
from smart_rag.errors import InvalidInput

TEXTS = {word: f"{word} is what this passage is about" for word in ["cats", "dogs", "boats", "keys", "taxes", "rain"]}


@pytest.fixture
def index(tmp_path):
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as index:
        index.add(
            [Document(id, text, {"source": f"{id}.md", "page": i + 1}) for i, (id, text) in enumerate(TEXTS.items())]
        )
        yield index


def test_answers_come_with_citations(index):
    # MockLLM returns its prompt.
    engine = query_engine(SmartRetriever(index, 3), MockLLM())
    response = engine.query("keys for boats")
    hits = index.search("keys for boats", 3)
    prompt = str(response)
    places = [prompt.index(f"Source {i}:\n{hit.text}") for i, hit in enumerate(hits, start=1)]
    assert places == sorted(places)
    assert prompt.rindex("keys for boats") > places[-1]
    found = citations(response)
    assert [(c.number, c.source, c.page, c.text) for c in found] == [
        (i, hit.source, hit.page, hit.text) for i, hit in enumerate(hits, start=1)
    ]
    assert [c.score for c in found] == pytest.approx([hit.score for hit in hits])


def test_a_query_engine_that_reranks(index):
    embed_model = SmartEmbedding(encoder=CachedEncoder(WordEncoder()))
    engine = query_engine(
        SmartRetriever(index, 6, weights=(1.0, 0.0)), MockLLM(), node_postprocessors=[SmartRerank(embed_model, top_n=2)]
    )
    # Nodes carry their metadata into what is embedded, so scores are the reranker's own.
    found = citations(engine.query("taxes"))
    assert found[0].source == "taxes.md"
    assert len(found) == 2


def test_it_needs_a_retriever(index):
    with pytest.raises(InvalidInput, match="expected a retriever"):
        query_engine(index, MockLLM())

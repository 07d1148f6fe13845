"""`query_engine` answers from numbered passages, and `citations` lists them."""

from __future__ import annotations

from itertools import accumulate

import pytest
from helpers.word_encoder import WordEncoder
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata, MockLLM
from llama_index.core.schema import QueryBundle
from llama_index_smart_rag import (
    SmartEmbedding,
    SmartRerank,
    SmartRetriever,
    citations,
    query_engine,
    unknown_citations,
)

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


class Writer(CustomLLM):
    """Always gives the same answer, in pieces if it is asked for a stream."""

    pieces: list[str]

    @property
    def metadata(self):
        return LLMMetadata()

    def complete(self, prompt, formatted=False, **kwargs):
        return CompletionResponse(text="".join(self.pieces))

    def stream_complete(self, prompt, formatted=False, **kwargs):
        texts = accumulate(self.pieces)
        return (CompletionResponse(text=text, delta=piece) for text, piece in zip(texts, self.pieces, strict=True))


@pytest.mark.asyncio
async def test_cited_sources_and_unknown_numbers(index):
    """In a stream, a citation comes in pieces."""
    llm = Writer(pieces=["Keys [", "3", "], boats [1, ", "9] and [", "0]."])
    pieces = ["Keys ", "[3], boats ", "[1, 9?] and ", "[0?]."]

    def check(response):
        assert str(response) == "".join(pieces)
        assert [(c.number, c.cited) for c in citations(response)] == [(1, True), (2, False), (3, True)]
        assert unknown_citations(response) == [0, 9]

    engine = query_engine(SmartRetriever(index, 3), llm)
    check(engine.query("keys for boats"))
    check(await engine.aquery("keys for boats"))
    nodes = engine.retrieve(QueryBundle("keys for boats"))
    check(engine.synthesize(QueryBundle("keys for boats"), nodes))
    check(await engine.asynthesize(QueryBundle("keys for boats"), nodes))

    streaming = query_engine(SmartRetriever(index, 3), llm, streaming=True)
    check(streaming.query("keys for boats"))
    response = streaming.query("keys for boats")
    assert [c.cited for c in citations(response)] == [None] * 3
    assert unknown_citations(response) == []
    assert list(response.response_gen) == pieces
    check(response)
    response = await streaming.aquery("keys for boats")
    assert [c.cited for c in citations(response)] == [None] * 3
    assert [piece async for piece in response.async_response_gen()] == pieces
    check(response)
    response = await streaming.aquery("keys for boats")
    assert [piece async for piece in response.response_gen] == pieces
    check(response)


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

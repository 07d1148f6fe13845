"""Queries that were encoded before: their hits know the query, as if the search had encoded it."""

from __future__ import annotations

import pytest
from helpers.five_texts import EXACT, documents
from helpers.word_encoder import CountingEncoder

from smart_rag import SmartIndex
from smart_rag.errors import InvalidInput

QUERIES = ["cats and rain", "night"]


@pytest.fixture
def counted(tmp_path):
    with SmartIndex.create(tmp_path / "index", CountingEncoder(), config=EXACT) as index:
        index.add(documents())
        yield index


def test_a_search_uses_them(counted):
    expected = counted.search_many(QUERIES, 3)
    encoded = counted.encode_queries(QUERIES)
    del counted.encoder.queries[:]
    found = counted.search_many(QUERIES, 3, encoded=encoded)
    assert found == expected
    assert counted.encoder.queries == []
    assert [hits[0].relevance for hits in found] == [hits[0].relevance for hits in expected]


def test_a_rerank_uses_them(counted):
    texts = ["the cat sat", "dogs at night", "rain"]
    expected = counted.rerank(QUERIES[1], texts)
    encoded = counted.encode_queries(QUERIES[1:])
    del counted.encoder.queries[:]
    assert counted.rerank(QUERIES[1], texts, encoded=encoded) == expected
    assert counted.encoder.queries == []


def test_there_must_be_one_for_each_query(counted):
    encoded = counted.encode_queries(QUERIES)
    with pytest.raises(InvalidInput, match="encoded has 2 texts, expected one for each of 1 query"):
        counted.search_many(QUERIES[:1], encoded=encoded)
    with pytest.raises(InvalidInput, match="encoded has 2 texts"):
        counted.rerank(QUERIES[0], ["a text"], encoded=encoded)

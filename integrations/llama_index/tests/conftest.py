"""Fixtures of the tests of LlamaIndex."""

import pytest
from helpers.word_encoder import CountingEncoder
from llama_index_smart_rag import SmartVectorStore

from smart_rag import SmartIndex


@pytest.fixture
def encoder():
    return CountingEncoder()


@pytest.fixture
def store(tmp_path, encoder):
    with SmartIndex.create(tmp_path / "index", encoder) as index:
        yield SmartVectorStore(index)

"""Fixtures of the tests of LangChain, beside those of the root's `conftest.py`."""

import hashlib

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_smart_rag import SmartEmbeddings

from smart_rag import SmartIndex


@pytest.fixture(scope="session")
def embeddings(minilm):
    return SmartEmbeddings(encoder=minilm)


@pytest.fixture
def index(minilm, tmp_path):
    with SmartIndex.create(tmp_path / "made.index", minilm) as index:
        yield index


@pytest.fixture
def documents():
    """Return twelve documents, whose metadata hold every kind of JSON value."""
    texts = [
        "The cat sat on the mat and looked at the rain.",
        "Dogs bark at night, when nobody is there to hear them.",
        "Interest rates rose by a quarter of a point in March.",
        "A query is short; a document is long, and says many things.",
        "The embedding of a sentence is the mean of its token embeddings.",
        "Photosynthesis turns light, water and carbon dioxide into sugar.",
        "The Danube flows through Vienna, Budapest and Belgrade.",
        "The quick brown fox jumps over the lazy dog.",
        "Keys of the boats hang behind the barometer in the hall.",
        "Cats and dogs seldom sleep in one basket.",
        "The boat house is locked at ten in the evening.",
        "Dogs bark at night, when nobody is there to hear them at all.",
    ]
    return [
        Document(
            text,
            id=f"d{i}",
            metadata={"source": f"{i % 3}.txt", "page": i, "year": 2000 + i, "odd": i % 2 == 1, "tags": ["a", str(i)]}
            | ({"none": None, "nested": {"x": [1, 2.5]}, "share": i / 7} if i % 4 == 0 else {}),
        )
        for i, text in enumerate(texts)
    ]


class HashEmbeddings(Embeddings):
    """Embeddings without token embeddings that cost nothing: the bytes of a hash."""

    model = "hash"

    def __init__(self, size=16):
        self.size = size

    def embed_query(self, text):
        return [byte - 127.5 for byte in hashlib.blake2b(text.encode(), digest_size=self.size).digest()]

    def embed_documents(self, texts):
        return [self.embed_query(text) for text in texts]


@pytest.fixture
def plain():
    return HashEmbeddings

"""The async methods: the same results as without async, in the threads of `smart_rag.threads`."""

import asyncio
import threading

import pytest
from helpers.word_encoder import WordEncoder
from langchain_core.documents import Document
from langchain_smart_rag import SmartEmbeddings, SmartReranker, SmartRetriever, SmartVectorStore


class NamingEncoder(WordEncoder):
    """Keeps the names of the threads in which it is called."""

    def __init__(self):
        self.threads = set()

    def encode_query(self, texts):
        self.threads.add(threading.current_thread().name.rpartition("_")[0])
        return super().encode_query(texts)

    encode_document = encode_query


READERS, WRITER = {"smart_rag_reader"}, {"smart_rag_writer"}
GIVEN = [Document(f"passage {i} is about {word}", id=f"d{i}") for i, word in enumerate(["cats", "dogs", "boats"])]


@pytest.fixture
def encoder():
    return NamingEncoder()


@pytest.fixture
def store(tmp_path, encoder):
    with SmartVectorStore(tmp_path / "index", SmartEmbeddings(encoder=encoder)) as store:
        yield store


def test_embeddings(encoder):
    embeddings = SmartEmbeddings(encoder=encoder)
    documents = asyncio.run(embeddings.aembed_documents(["cats\ndogs"]))
    assert encoder.threads == WRITER
    encoder.threads.clear()
    query = asyncio.run(embeddings.aembed_query("cats dogs"))
    assert encoder.threads == READERS
    assert documents == embeddings.embed_documents(["cats dogs"]) == [query]


def test_reranker(encoder):
    reranker = SmartReranker(SmartEmbeddings(encoder=encoder))
    found = asyncio.run(reranker.acompress_documents(GIVEN, "boats"))
    assert encoder.threads == READERS
    assert found == reranker.compress_documents(GIVEN, "boats")


def test_store_writes(store, encoder):
    assert asyncio.run(store.aadd_documents(GIVEN[:2])) == ["d0", "d1"]
    assert asyncio.run(store.aadd_documents(GIVEN[:1], ids=["other"])) == ["other"]
    assert asyncio.run(store.aadd_texts(["rain"], [{"a": 1}], ids=["rain"])) == ["rain"]
    assert encoder.threads == WRITER
    with pytest.raises(ValueError, match="got one str"):
        asyncio.run(store.aadd_texts("rain"))
    assert asyncio.run(store.adelete(["d1", "other"]))
    assert {document.id for document in store.index.documents()} == {"d0", "rain"}
    assert asyncio.run(store.aget_by_ids(["rain"])) == [Document("rain", id="rain", metadata={"a": 1})]


VECTOR = WordEncoder().encode_query(["boats"]).pooled[0].tolist()
SEARCHES = {
    "similarity_search": ("boats", {"k": 2}),
    "similarity_search_with_score": ("boats", {"k": 2, "first_stage": "terms"}),
    "similarity_search_by_vector": (VECTOR, {"k": 2}),
    "max_marginal_relevance_search": ("boats", {"k": 2, "fetch_k": 3, "lambda_mult": 0.2}),
    "max_marginal_relevance_search_by_vector": (VECTOR, {"k": 2, "fetch_k": 3, "lambda_mult": 0.2}),
    "similarity_search_with_relevance_scores": ("boats", {"k": 2}),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_store_searches(store, encoder, name):
    store.add_documents(GIVEN)
    query, options = SEARCHES[name]
    expected = getattr(store, name)(query, **options)
    encoder.threads.clear()
    assert asyncio.run(getattr(store, f"a{name}")(query, **options)) == expected
    assert len(expected) == 2
    assert encoder.threads == (READERS if query == "boats" else set())


def test_retrievers(store, encoder):
    store.add_documents(GIVEN)
    for retriever in (SmartRetriever(index=store.index, k=2), store.as_retriever(search_kwargs={"k": 2})):
        expected = retriever.invoke("boats")
        encoder.threads.clear()
        assert asyncio.run(retriever.ainvoke("boats")) == expected
        assert encoder.threads == READERS

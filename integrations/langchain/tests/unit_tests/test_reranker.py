"""`SmartReranker`: copies of a retriever's documents, best first."""

import pickle
from copy import deepcopy

import pytest
from helpers.word_encoder import CountingEncoder, WordEncoder
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_smart_rag import RerankingRetriever, SmartEmbeddings, SmartReranker

from smart_rag import rerank
from smart_rag.errors import InvalidInput


class Fixed(BaseRetriever):
    """Returns its first ``k`` documents for every query."""

    documents: list[Document]

    def _get_relevant_documents(self, query, *, run_manager, k=None):
        return self.documents[:k]

    async def _aget_relevant_documents(self, query, *, run_manager, k=None):
        return self.documents[:k]


@pytest.mark.parametrize(("top_n", "weights"), [(5, (1.0, 1.0)), (None, (0.0, 1.0)), (99, (1.0, 0.0))])
def test_scores_are_smart_rags_on_copies(embeddings, minilm, documents, top_n, weights):
    given = deepcopy(documents)
    reranker = SmartReranker(embeddings, top_n=top_n, weights=weights)
    found = reranker.compress_documents(documents, "Which animal barks?")
    assert documents == given
    hits = rerank("Which animal barks?", [d.page_content for d in given], minilm, top_n, weights=weights)
    assert [document.page_content for document in found] == [hit.text for hit in hits]
    scores = [document.metadata["relevance_score"] for document in found]
    assert scores == pytest.approx([hit.score for hit in hits], abs=1e-6)
    assert scores == sorted(scores, reverse=True)
    for document in found:
        before = next(other for other in given if other.id == document.id)
        assert document == Document(
            before.page_content,
            id=before.id,
            metadata={**before.metadata, "relevance_score": document.metadata["relevance_score"]},
        )


class LateEncoder(WordEncoder):
    """An encoder that was trained for late interaction alone."""

    default_weights = (0.0, 1.0)


def test_weights_are_those_of_the_model(documents):
    found = SmartReranker(SmartEmbeddings(encoder=LateEncoder())).compress_documents(documents, "dogs bark")
    hits = rerank("dogs bark", [d.page_content for d in documents], LateEncoder(), 5)
    scores = [document.metadata["relevance_score"] for document in found]
    assert scores == pytest.approx([hit.score for hit in hits], abs=1e-6)
    assert max(scores) <= 1 + 1e-6


def test_equal_documents_without_ids_stay_in_order(embeddings):
    alike = [Document("Dogs bark.", metadata={"n": n}) for n in range(12)]
    found = SmartReranker(embeddings, top_n=None).compress_documents([Document("Rain falls."), *alike], "dogs")
    assert [document.metadata.get("n") for document in found] == [*range(12), None]
    assert SmartReranker(embeddings).compress_documents([], "dogs") == []


def test_min_relevance(documents, tmp_path):
    embeddings = SmartEmbeddings("minilm", tmp_path / "tokens")
    reranker = SmartReranker(embeddings, min_relevance=0.5)
    with pytest.raises(InvalidInput, match="calibrate=True"):
        reranker.compress_documents(documents, "dogs bark")
    assert embeddings.backfill(documents, calibrate=True).unchanged == len(documents)  # the query has encoded them
    hits = rerank("dogs bark", [document.page_content for document in documents], embeddings.encoder)
    wanted = [hit.text for hit in hits if hit.relevance >= 0.5]
    assert 0 < len(wanted) < len(documents)
    assert [found.page_content for found in reranker.compress_documents(documents, "dogs bark")] == wanted[:5]
    assert reranker.compress_documents(documents, "Which spices are in a green curry?") == []
    with pytest.raises(InvalidInput, match="min_relevance"):
        SmartReranker(embeddings, min_relevance=2)


def test_bad_input(embeddings, documents):
    reranker = SmartReranker(embeddings)
    for query in ("", "  "):
        with pytest.raises(InvalidInput):
            reranker.compress_documents(documents, query)
    with pytest.raises(ValueError, match="top_n"):
        SmartReranker(embeddings, top_n=0)
    with pytest.raises(InvalidInput, match="leave out"):
        SmartReranker(embeddings, token_store="tokens")
    with pytest.raises(TypeError, match="top_k"):
        SmartReranker(embeddings, top_k=3)


def test_an_empty_document_is_ranked_like_any_other(embeddings, documents):
    """A scanned page can have no text; the stores take it, so it must not stop the application."""
    found = SmartReranker(embeddings, top_n=None).compress_documents([Document(""), *documents], "dogs")
    assert len(found) == len(documents) + 1
    assert found[0].page_content


@pytest.mark.asyncio
async def test_any_retriever_can_be_wrapped(embeddings, documents):
    reranker = SmartReranker(embeddings, top_n=3)
    expected = reranker.compress_documents(documents, "boats")
    store = InMemoryVectorStore(embeddings)
    store.add_documents(documents)
    for base in (
        Fixed(documents=documents),
        store.as_retriever(search_kwargs={"k": 12}),
        RunnableLambda(lambda query: documents),
    ):
        wrapped = reranker.wrap(base)
        assert isinstance(wrapped, RerankingRetriever)
        assert wrapped.invoke("boats") == expected
        assert await wrapped.ainvoke("boats") == expected
    few = reranker.wrap(Fixed(documents=documents))
    assert len(few.invoke("boats", k=2)) == len(await few.ainvoke("boats", k=2)) == 2


@pytest.mark.asyncio
async def test_callbacks_see_both_retrievers(embeddings, documents):
    class Watcher(BaseCallbackHandler):
        def __init__(self):
            self.runs = {}

        def on_retriever_start(self, serialized, query, *, run_id, parent_run_id=None, name=None, **kwargs):
            self.runs[name] = (run_id, parent_run_id)

    wrapped = SmartReranker(embeddings).wrap(Fixed(documents=documents))
    for asynchronous in (False, True):
        watcher = Watcher()
        config = {"callbacks": [watcher]}
        await wrapped.ainvoke("boats", config) if asynchronous else wrapped.invoke("boats", config)
        assert watcher.runs["RerankingRetriever"][1] is None
        assert watcher.runs["Fixed"][1] == watcher.runs["RerankingRetriever"][0]


def test_a_store_and_the_reranker_share_embeddings(documents, tmp_path):
    """Each text and each query is encoded once."""
    encoder = CountingEncoder()
    embeddings = SmartEmbeddings(encoder=encoder, token_store=tmp_path / "tokens")
    store = InMemoryVectorStore(embeddings)
    store.add_documents(documents)
    retriever = SmartReranker(embeddings).wrap(store.as_retriever(search_kwargs={"k": 12}))
    for query in ("boats", "dogs", "boats"):
        assert len(retriever.invoke(query)) == 5
    assert (len(encoder.documents), encoder.queries) == (12, ["boats", "dogs"])


def test_settings_survive_a_pickle(documents, tmp_path):
    reranker = SmartReranker(model_name="minilm", token_store=tmp_path / "tokens", top_n=2, weights=(0.5, 1))
    assert isinstance(reranker, BaseDocumentCompressor)
    expected = reranker.compress_documents(documents, "dogs")
    wrapped = pickle.loads(pickle.dumps(reranker.wrap(Fixed(documents=documents))))
    assert wrapped.invoke("dogs") == expected
    assert wrapped.reranker.weights == (0.5, 1)

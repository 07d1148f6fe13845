"""LangChain's own integration tests of integrations."""

import inspect

import pytest
from langchain_smart_rag import SmartEmbeddings, SmartRetriever, SmartVectorStore
from langchain_tests.integration_tests import (
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
    VectorStoreIntegrationTests,
)

# The suites expect pytest-asyncio's automatic mode. A mark on a class would mark its plain tests, too.
for suite in (EmbeddingsIntegrationTests, RetrieversIntegrationTests, VectorStoreIntegrationTests):
    for _, coroutine in inspect.getmembers(suite, inspect.iscoroutinefunction):
        pytest.mark.asyncio(coroutine)


class TestEmbeddings(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self):
        return SmartEmbeddings

    @property
    def embedding_model_params(self):
        return {"model_name": "minilm", "device": "cpu"}


class TestVectorStoreOfPlainEmbeddings(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path):
        with SmartVectorStore(tmp_path / "index", self.get_embeddings()) as store:
            yield store


class TestVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path, embeddings):
        with SmartVectorStore(tmp_path / "index", embeddings) as store:
            yield store


class TestRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _index(self, index):
        index.add_texts(["Cats sleep.", "Dogs bark.", "Rain falls.", "Rates rise."])
        self.index = index

    @property
    def retriever_constructor(self):
        return SmartRetriever

    @property
    def retriever_constructor_params(self):
        return {"index": self.index}

    @property
    def retriever_query_example(self):
        return "Which animal barks?"

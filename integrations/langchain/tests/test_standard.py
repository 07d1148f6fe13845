"""LangChain's own suites for integrations."""

import inspect

import pytest
from langchain_smart_rag import SmartEmbeddings, SmartRetriever, SmartVectorStore
from langchain_tests.integration_tests import (
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
    VectorStoreIntegrationTests,
)
from langchain_tests.unit_tests import EmbeddingsUnitTests

# The suites expect pytest-asyncio's automatic mode. Marking a whole class would mark its plain tests too.
for suite in (EmbeddingsIntegrationTests, RetrieversIntegrationTests, VectorStoreIntegrationTests):
    for _, coroutine in inspect.getmembers(suite, inspect.iscoroutinefunction):
        pytest.mark.asyncio(coroutine)


class TestEmbeddingsUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self):
        return SmartEmbeddings

    @property
    def embedding_model_params(self):
        return {"model_name": "minilm"}


class TestEmbeddings(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self):
        return SmartEmbeddings

    @property
    def embedding_model_params(self):
        return {"model_name": "minilm", "device": "cpu"}


class TestStoreOfPlainEmbeddings(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path):
        with SmartVectorStore(tmp_path / "index", self.get_embeddings()) as store:
            yield store


class TestStore(VectorStoreIntegrationTests):
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

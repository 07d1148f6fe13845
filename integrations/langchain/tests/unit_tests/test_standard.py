"""LangChain's own unit tests of integrations."""

from langchain_smart_rag import SmartEmbeddings
from langchain_tests.unit_tests import EmbeddingsUnitTests


class TestEmbeddings(EmbeddingsUnitTests):
    @property
    def embeddings_class(self):
        return SmartEmbeddings

    @property
    def embedding_model_params(self):
        return {"model_name": "minilm"}

"""Find passages that answer questions, as in LangChain's documentation: with a vector store and a retriever."""

from __future__ import annotations

from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_smart_rag import SmartEmbeddings, SmartReranker


class PassageSearch:
    """Finds passages that answer a question. The documents are in a vector store in a folder."""

    def __init__(self, folder: str, model_name: str = "sentence-transformers/all-MiniLM-L6-v2") -> None:
        embeddings = SmartEmbeddings(model_name=model_name, token_store=f"{folder}/tokens")
        self.store = Chroma("passages", embedding_function=embeddings, persist_directory=folder)
        self.retriever: BaseRetriever = self.store.as_retriever(search_kwargs={"k": 20})
        self.retriever = SmartReranker(embeddings, top_n=10).wrap(self.retriever)

    def add(self, documents: list[Document]) -> list[str]:
        """Write ``documents`` and return their ids."""
        return self.store.add_documents(documents)

    def search(self, question: str, k: int = 10) -> list[Document]:
        """Return the ``k`` best passages for ``question``."""
        return self.retriever.invoke(question)[:k]

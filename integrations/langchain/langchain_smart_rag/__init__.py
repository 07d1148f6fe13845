"""smart_rag for LangChain: it ranks with your present embedding model, by pooled cosine plus late interaction.

With `SmartEmbeddings` and `SmartReranker`, you change two lines of an application and keep its vector store.
`SmartVectorStore` is smart_rag's own vector store. `SmartRetriever` searches an index that smart_rag made.
"""

from __future__ import annotations

from langchain_smart_rag.chain import answer_chain
from langchain_smart_rag.embeddings import SmartEmbeddings
from langchain_smart_rag.messages import message_content
from langchain_smart_rag.reranker import RerankingRetriever, SmartReranker
from langchain_smart_rag.retriever import SmartRetriever
from langchain_smart_rag.vector_store import SmartVectorStore

__all__ = [
    "RerankingRetriever",
    "SmartEmbeddings",
    "SmartReranker",
    "SmartRetriever",
    "SmartVectorStore",
    "answer_chain",
    "message_content",
]

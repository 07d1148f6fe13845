"""smart_rag for LlamaIndex.

Two lines for an application that keeps its vector store: `SmartEmbedding` and `SmartRerank`.
Or take `SmartVectorStore`, or `SmartRetriever` over an index that smart_rag made, whole.
"""

from llama_index_smart_rag.embedding import SmartEmbedding
from llama_index_smart_rag.query_engine import Citation, citations, query_engine
from llama_index_smart_rag.rerank import SmartRerank
from llama_index_smart_rag.retriever import SmartRetriever
from llama_index_smart_rag.vector_store import SmartVectorStore

__all__ = [
    "Citation",
    "SmartEmbedding",
    "SmartRerank",
    "SmartRetriever",
    "SmartVectorStore",
    "citations",
    "query_engine",
]

"""smart_rag for LlamaIndex: it ranks with your present embedding model, by pooled cosine plus late interaction.

With `SmartEmbedding` and `SmartRerank`, you change two lines of an application and keep its vector store.
`SmartVectorStore` is smart_rag's own vector store. `SmartRetriever` searches an index that smart_rag made.
"""

from llama_index_smart_rag.embedding import SmartEmbedding
from llama_index_smart_rag.query_engine import Citation, citations, query_engine, unknown_citations
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
    "unknown_citations",
]

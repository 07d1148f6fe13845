"""smart_rag for LlamaIndex: ranking by pooled cosine plus late interaction with your present embedding model.

`SmartEmbedding` and `SmartRerank` change two lines of an application, which keeps its vector store.
`SmartVectorStore` is a vector store of its own. `SmartRetriever` searches an index that smart_rag made.
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

"""Peer of the benchmarks: LlamaIndex with its Hugging Face embedding and Chroma, set up as its documentation does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import chromadb
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from llama_index.vector_stores.chroma import ChromaVectorStore

from smart_rag import Document


def embedding(model_folder: str) -> HuggingFaceEmbedding:
    """Return LlamaIndex's embedding of the same model."""
    return HuggingFaceEmbedding(model_name=model_folder, device="cpu")


def ingest(folder: Path, documents: Sequence[Document], embed_model: HuggingFaceEmbedding) -> VectorStoreIndex:
    """Return a vector index of ``documents`` in a new Chroma collection in ``folder``."""
    store = ChromaVectorStore(chroma_collection=_client(folder).create_collection("peer", embedding_function=None))
    nodes = [TextNode(id_=document.id, text=document.text) for document in documents]
    return VectorStoreIndex(
        nodes, storage_context=StorageContext.from_defaults(vector_store=store), embed_model=embed_model
    )


def opened(folder: Path, embed_model: HuggingFaceEmbedding) -> VectorStoreIndex:
    """Return the vector index that `ingest` made in ``folder``."""
    store = ChromaVectorStore(chroma_collection=_client(folder).get_collection("peer", embedding_function=None))
    return VectorStoreIndex.from_vector_store(store, embed_model=embed_model)


def _client(folder: Path) -> chromadb.ClientAPI:
    return chromadb.PersistentClient(str(folder), settings=chromadb.Settings(anonymized_telemetry=False))

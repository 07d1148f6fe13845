"""Calls as applications write them, for the type checkers. Nothing here runs.

A call that a checker must refuse has a comment; without the error, mypy reports the comment.
"""

from __future__ import annotations

from pathlib import Path

import llama_index_smart_rag as llama_index
import numpy as np
from langchain_smart_rag import SmartEmbeddings, SmartReranker, SmartRetriever, SmartVectorStore

from smart_rag import CachedEncoder, SmartIndex, rerank


def paths(index: SmartIndex, folder: Path) -> None:
    for place in (index, "my.index", folder):
        SmartRetriever(place)
        SmartRetriever(index=place)
        SmartVectorStore(place, "minilm")
        SmartVectorStore(place, folder)
        SmartVectorStore(place, None)
        llama_index.SmartRetriever(place)
        llama_index.SmartVectorStore(place, "minilm")
        llama_index.SmartVectorStore(place, folder)
        llama_index.SmartVectorStore(place, None)
    for model in ("minilm", folder):
        SmartEmbeddings(model, token_store=folder, cache_folder=folder)
        SmartReranker(model_name=model, token_store=folder)
        llama_index.SmartEmbedding(model, token_store=folder, cache_folder=folder)
        llama_index.SmartRerank(model_name=model, token_store=folder)
        SmartIndex.create(folder, model)
        SmartIndex.open(folder, model)
        SmartIndex.open_or_create(folder, model)
        CachedEncoder(model, folder)


def numbers(index: SmartIndex, count: np.int64, weight: np.float32) -> None:
    weights = (weight, 1)
    SmartRetriever(index, k=count, candidates=count, weights=weights)
    SmartVectorStore(index, candidates=count, weights=weights)
    SmartReranker(top_n=count, weights=weights)
    llama_index.SmartRetriever(index, count, candidates=count, weights=weights)
    llama_index.SmartVectorStore(index, candidates=count, weights=weights)
    llama_index.SmartRerank(top_n=count, weights=weights)
    SmartRetriever(index, min_relevance=weight)
    SmartRetriever(index, per_source=count, source_key="author", fold_duplicates=True, neighbours=1)
    llama_index.SmartRetriever(index, min_relevance=weight)
    llama_index.SmartRetriever(index, per_source=count, source_key="author", fold_duplicates=True, neighbours=1)
    index.search("", per_source=count, fold_duplicates=True)[0].neighbours(1)[0].text.upper()
    hits = index.search("keys", count, candidates=count, weights=weights, min_relevance=weight)
    index.search_many(["keys"], count, candidates=count, weights=weights)
    index.rerank("keys", hits, count, weights=weights)
    index.diversify(hits, count, mmr_lambda=weight, weights=weights)
    index.set_weights(weights)
    rerank("keys", hits, CachedEncoder(), count, weights=weights)


def nothing(index: SmartIndex) -> None:
    SmartRetriever(index, weights=None, filter=None, where_document=None)
    SmartVectorStore(index, None, weights=None)
    SmartReranker(None, top_n=None, weights=None, token_store=None)
    SmartEmbeddings(token_store=None, device=None, encoder=None, cache_folder=None)
    llama_index.SmartRetriever(index, filters=None, where_document=None, weights=None)
    llama_index.SmartVectorStore(index, None, weights=None)
    llama_index.SmartRerank(None, model_name=None, token_store=None, weights=None)
    llama_index.SmartEmbedding(token_store=None, device=None, encoder=None, cache_folder=None)


def wrong(index: SmartIndex) -> None:
    SmartRetriever(3)  # type: ignore[arg-type]
    SmartRetriever(index, k=None)  # type: ignore[arg-type]
    SmartVectorStore(3)  # type: ignore[arg-type]
    SmartReranker(index)  # type: ignore[arg-type]
    SmartReranker(top_k=4)  # type: ignore[call-arg]
    SmartEmbeddings(index)  # type: ignore[arg-type]
    llama_index.SmartRetriever(3)  # type: ignore[arg-type]
    llama_index.SmartRerank(index)  # type: ignore[arg-type]

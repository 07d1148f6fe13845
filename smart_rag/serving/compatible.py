"""Endpoints in the shapes of others: ``/v1/rerank`` as Cohere and Jina have it, ``/v1/embeddings`` as OpenAI has it.

Applications such as Open WebUI, Dify and RAGFlow call them.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
from fastapi import APIRouter
from numpy.typing import NDArray
from starlette.responses import Response

from smart_rag.serving.answers import answer_of
from smart_rag.serving.bodies import CohereRerankBody, OpenAIEmbeddingsBody
from smart_rag.serving.problems import Refused
from smart_rag.serving.served_index import ServedIndex
from smart_rag.types import Hit


def compatible_routes(served: ServedIndex) -> APIRouter:
    """Return the endpoints of the index ``served`` in the shapes of others."""
    router = APIRouter()

    @router.post("/v1/rerank")
    async def rerank(body: CohereRerankBody) -> Response:
        """Rank texts by a query, in the shape of Cohere and Jina. `relevance_score` is from 0 to 1."""
        texts = [_text_of(item, i) for i, item in enumerate(body.documents)]
        hits = await served.rerank(body.query, texts, body.top_n)
        relevance = _relevance(served)

        def results() -> dict[str, Any]:
            return {
                "model": served.name,
                "results": [
                    {
                        "index": int(hit.id),
                        "relevance_score": relevance(hit),
                        **({"document": {"text": hit.text}} if body.return_documents else {}),
                    }
                    for hit in hits
                ],
            }

        # The first relevance of an index takes seconds, so it has to wait for its turn.
        if hits:
            await served.read(lambda: relevance(hits[0]))
        return await answer_of(results)

    @router.post("/v1/embeddings")
    async def embed(body: OpenAIEmbeddingsBody) -> Response:
        """Return the pooled embeddings of texts, in the shape of OpenAI."""
        texts = _texts(body.input)
        encode = served.encode_queries if body.input_type == "query" else served.encode_texts
        vectors = await encode(texts)
        pooled = vectors.pooled
        if body.dimensions not in (None, pooled.shape[1]):
            raise Refused(422, f"dimensions must be {pooled.shape[1]}, as the model has it, got {body.dimensions}")

        def result() -> dict[str, Any]:
            embeddings = [_coded(row) for row in pooled] if body.encoding_format == "base64" else pooled.tolist()
            data = [{"object": "embedding", "index": i, "embedding": one} for i, one in enumerate(embeddings)]
            tokens = int(vectors.tokens.offsets[-1])  # without special tokens
            usage = {"prompt_tokens": tokens, "total_tokens": tokens}
            return {"object": "list", "data": data, "model": served.name, "usage": usage}

        return await answer_of(result)

    return router


def _coded(row: NDArray[np.float32]) -> str:
    """Return an embedding as OpenAI codes it."""
    return base64.b64encode(row.astype("<f4").tobytes()).decode()


def _relevance(served: ServedIndex) -> Callable[[Hit], float]:
    """Return the function that gives the ``relevance_score`` of a hit.

    An index without documents knows no relevance. Then it is the mean of the two cosines, by the index's weights.
    """
    weights = served.index.manifest.weights

    def relevance(hit: Hit) -> float:
        known = hit.relevance
        return min(1.0, max(0.0, hit.score / sum(weights))) if known is None else known

    return relevance


def _text_of(item: str | dict[str, Any], i: int) -> str:
    text = item if isinstance(item, str) else item.get("text")
    if not isinstance(text, str):
        raise Refused(422, f"document {i} must be a text, or an object with a text under the name text")
    return text


def _texts(given: Any) -> list[str]:
    """Return the texts in ``input``."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts:
        raise Refused(422, "input must be a text, or a list of texts that is not empty")
    if not all(isinstance(text, str) for text in texts):
        raise Refused(
            422,
            "input has something else than texts; numbers of tokens are not taken, so set "
            "check_embedding_ctx_length=False in LangChain's OpenAIEmbeddings",
        )
    return texts

"""Better retrieval from the embedding model you already have.

    score(query, document) = pooled cosine + late interaction of the frozen last hidden states

Use `SmartIndex` for an index in a folder. Use `SmartEncoder` if you only need representations.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from smart_rag import errors
from smart_rag._version import __version__
from smart_rag.config import IndexConfig
from smart_rag.embeddings.representation import Representation
from smart_rag.embeddings.tokens import TokenBatch
from smart_rag.reports import AddReport
from smart_rag.types import Content, Document, Hit, IndexInfo, Match, PdfPage, VerifyReport

if TYPE_CHECKING:
    from smart_rag.encoders.cached.cached_encoder import CachedEncoder
    from smart_rag.encoders.protocol import Encoder
    from smart_rag.encoders.smart_encoder import SmartEncoder
    from smart_rag.encoders.vocabulary import Vocabulary
    from smart_rag.index.explain.explanation import Explanation
    from smart_rag.index.reranking import arerank, rerank
    from smart_rag.index.smart_index import SmartIndex

# Loaded on first use, so `import smart_rag` loads neither torch nor chromadb.
_HOMES = {
    "CachedEncoder": "encoders.cached.cached_encoder",
    "Encoder": "encoders.protocol",
    "Explanation": "index.explain.explanation",
    "SmartEncoder": "encoders.smart_encoder",
    "SmartIndex": "index.smart_index",
    "Vocabulary": "encoders.vocabulary",
    "arerank": "index.reranking",
    "rerank": "index.reranking",
}

__all__ = [
    "AddReport",
    "CachedEncoder",
    "Content",
    "Document",
    "Encoder",
    "Explanation",
    "Hit",
    "IndexConfig",
    "IndexInfo",
    "Match",
    "PdfPage",
    "Representation",
    "SmartEncoder",
    "SmartIndex",
    "TokenBatch",
    "VerifyReport",
    "Vocabulary",
    "__version__",
    "arerank",
    "errors",
    "rerank",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"smart_rag.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

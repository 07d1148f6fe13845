"""Better retrieval from the embedding model you already have.

    score(query, document) = pooled cosine + late interaction of the frozen last hidden states

See `SmartIndex` for an index in a folder and `SmartEncoder` for representations alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from smart_rag import errors
from smart_rag._version import __version__
from smart_rag.config import IndexConfig
from smart_rag.embeddings.representation import Representation, TokenBatch
from smart_rag.types import AddReport, Content, Document, Hit

if TYPE_CHECKING:
    from smart_rag.encoders.cached_encoder import CachedEncoder
    from smart_rag.encoders.protocol import Encoder
    from smart_rag.encoders.smart_encoder import SmartEncoder
    from smart_rag.index.search import rerank
    from smart_rag.index.smart_index import SmartIndex

__all__ = [
    "AddReport",
    "CachedEncoder",
    "Content",
    "Document",
    "Encoder",
    "Hit",
    "IndexConfig",
    "Representation",
    "SmartEncoder",
    "SmartIndex",
    "TokenBatch",
    "__version__",
    "errors",
    "rerank",
]

# torch and chromadb are loaded when they are needed, not by `import smart_rag`.
_HOMES = {
    "CachedEncoder": "encoders.cached_encoder",
    "Encoder": "encoders.protocol",
    "SmartEncoder": "encoders.smart_encoder",
    "SmartIndex": "index.smart_index",
    "rerank": "index.search",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"smart_rag.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Every error a user of smart_rag can meet.

SmartRagError
├── InvalidInput (ValueError)      an argument or a document that cannot be used
│   └── DimensionMismatch          vectors of another width than the index holds
├── DocumentError                  a file that cannot be read; carries ``path`` and ``reason``
├── ModelNotFound                  a model name or folder that cannot be loaded
├── EncoderError                   a model that does not give what smart_rag needs
├── IndexNotFound (FileNotFoundError)  a folder that holds no index
├── IndexExists (FileExistsError)      a folder that is not free for a new index
├── IndexMismatch                  an index of another model, codec or format
├── IndexLocked                    another writer has the index
├── IndexClosed                    an index used after ``close``
├── UseAfterFork                   an index opened before ``os.fork`` and used in the child
├── CorruptStore                   token embeddings that cannot be read back
│   └── MissingTokens              token embeddings that are not there; carries ``ids``
├── StorageFull                    no room left on the disk
├── ChromaFailure                  Chroma refused or failed; the cause is chained
├── LanguageModelError             an endpoint that cannot be reached, refuses, or sends no whole answer
└── MissingExtra (ImportError)     an optional dependency that is not installed
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = [
    "ChromaFailure",
    "CorruptStore",
    "DimensionMismatch",
    "DocumentError",
    "EncoderError",
    "IndexClosed",
    "IndexExists",
    "IndexLocked",
    "IndexMismatch",
    "IndexNotFound",
    "InvalidInput",
    "LanguageModelError",
    "MissingExtra",
    "MissingTokens",
    "ModelNotFound",
    "SmartRagError",
    "StorageFull",
    "UseAfterFork",
]


class SmartRagError(Exception):
    """Base of every error that smart_rag raises on purpose."""


class InvalidInput(SmartRagError, ValueError):
    """An argument or a document that cannot be used as it is."""


class DimensionMismatch(InvalidInput):
    """Vectors of another width than expected."""


class DocumentError(SmartRagError):
    """A file that cannot be turned into text.

    ``path`` is the file, ``reason`` one line that says what is wrong with it.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason


class ModelNotFound(SmartRagError):
    """A model name or folder that cannot be loaded."""


class EncoderError(SmartRagError):
    """A model that does not give what smart_rag needs, such as token embeddings."""


class IndexNotFound(SmartRagError, FileNotFoundError):
    """A folder that holds no index."""


class IndexExists(SmartRagError, FileExistsError):
    """A folder that is not free for a new index."""


class IndexMismatch(SmartRagError):
    """An index made with another model, other settings or in another format."""


class IndexLocked(SmartRagError):
    """Another writer has the index open for writing."""


class IndexClosed(SmartRagError):
    """An index that was used after ``close``."""


class UseAfterFork(SmartRagError):
    """An index or a store that was opened before ``os.fork`` and is used or opened again in the child.

    Chroma's threads are only in the parent: the child would wait for them for ever.
    """

    @classmethod
    def of(cls, subject: str) -> UseAfterFork:
        """Return the error for what is called ``subject``."""
        return cls(
            f"{subject} was opened before this process was forked, and works only in the parent; start processes with "
            "multiprocessing.get_context('spawn'), or fork before it is first opened"
        )


class CorruptStore(SmartRagError):
    """Token embeddings on disk that fail their checksum or cannot be read."""


class MissingTokens(CorruptStore):
    """Token embeddings that should be stored and are not; ``ids`` says whose."""

    def __init__(self, message: str, ids: Sequence[str]) -> None:
        super().__init__(message)
        self.ids = tuple(ids)


class StorageFull(SmartRagError):
    """No room left on the disk that holds the index."""


class ChromaFailure(SmartRagError):
    """Chroma refused or failed; its own error is the cause."""


class LanguageModelError(SmartRagError):
    """A language model's endpoint that cannot be reached, refuses, or sends no whole answer."""


class MissingExtra(SmartRagError, ImportError):
    """An optional dependency that is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed; "
            f"install it with: pip install 'smart-rag[{extra}]'"
        )
        self.package = package
        self.extra = extra

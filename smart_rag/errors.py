"""All errors that smart_rag raises.

SmartRagError
├── InvalidInput (ValueError)          an argument or a document cannot be used
│   └── DimensionMismatch              vectors have a different width than expected
├── DocumentError                      a file cannot be read; has ``path`` and ``reason``
├── ModelNotFound                      a model name or folder cannot be loaded
├── NotTrusted                         an index from somebody else would read, write or run what the user has not named
├── EncoderError                       a model lacks something that smart_rag needs
├── IndexNotFound (FileNotFoundError)  a folder holds no index
├── IndexExists (FileExistsError)      a folder is not free for a new index
├── IndexMismatch                      an index has another model, other settings or another format
├── IndexLocked                        another process writes to the index
├── IndexReadOnly                      this user cannot write to the index
├── IndexClosed                        an index was used after ``close``
├── UseAfterFork                       an index was opened before ``os.fork`` and used in the child
├── CorruptStore                       stored data is damaged or lost
│   └── MissingTokens                  stored token embeddings are missing; has ``ids``
├── StorageFull                        the disk is full
├── ChromaFailure                      Chroma raised an error, which is the cause
├── LanguageModelError                 an endpoint cannot be reached, refuses, or sends no complete answer
└── MissingExtra (ImportError)         an optional package is not installed
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
    "IndexReadOnly",
    "InvalidInput",
    "LanguageModelError",
    "MissingExtra",
    "MissingTokens",
    "ModelNotFound",
    "NotTrusted",
    "SmartRagError",
    "StorageFull",
    "UseAfterFork",
]


class SmartRagError(Exception):
    """Base class of all errors that smart_rag raises. They can be pickled, so processes can exchange them."""


class InvalidInput(SmartRagError, ValueError):
    """An argument or a document cannot be used."""


class DimensionMismatch(InvalidInput):
    """Vectors have a different width than expected."""


class DocumentError(SmartRagError):
    """A file cannot be read.

    Attributes:
        path: the file.
        reason: one line that describes the problem.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[Path, str]]:
        return type(self), (self.path, self.reason)


class ModelNotFound(SmartRagError):
    """A model name or folder cannot be loaded."""


class NotTrusted(SmartRagError):
    """An index would read, write or run something that its user has not named. See ``docs/security.md``."""


class EncoderError(SmartRagError):
    """A model lacks something that smart_rag needs, such as token embeddings."""


class IndexNotFound(SmartRagError, FileNotFoundError):
    """A folder holds no index."""


class IndexExists(SmartRagError, FileExistsError):
    """A folder is not free for a new index: it holds an index or other files."""


class IndexMismatch(SmartRagError):
    """An index was made with another model, with other settings or in another format."""


class IndexLocked(SmartRagError):
    """Another process has the index open for writing."""


class IndexReadOnly(SmartRagError):
    """A user can only read the folder of an index, or the whole disk, so nothing can be written."""


class IndexClosed(SmartRagError):
    """An index was used after ``close``."""


class UseAfterFork(SmartRagError):
    """An index or a store was opened before ``os.fork``, and then used or opened again in the child.

    Chroma's threads exist only in the parent. The child would wait for them for ever.
    """

    @classmethod
    def of(cls, subject: str) -> UseAfterFork:
        """Return the error for ``subject``, which the message names. An example is ``"my.index: the index"``."""
        return cls(
            f"{subject} was opened before this process was forked, and works only in the parent; start processes with "
            "multiprocessing.get_context('spawn'), or fork before it is first opened"
        )


class CorruptStore(SmartRagError):
    """Token embeddings on disk do not match their checksum, or cannot be read."""


class MissingTokens(CorruptStore):
    """Token embeddings that should be stored are missing.

    Attributes:
        ids: ids of the documents whose token embeddings are missing.
    """

    def __init__(self, message: str, ids: Sequence[str]) -> None:
        super().__init__(message)
        self.ids = tuple(ids)

    def __reduce__(self) -> tuple[type, tuple[str, tuple[str, ...]]]:
        return type(self), (str(self), self.ids)


class StorageFull(SmartRagError):
    """The disk that holds the index is full."""


class ChromaFailure(SmartRagError):
    """Chroma raised an error, which is the cause of this one."""


class LanguageModelError(SmartRagError):
    """The endpoint of a language model cannot be reached, refuses, or sends no complete answer."""


class MissingExtra(SmartRagError, ImportError):
    """An optional package is not installed.

    Attributes:
        package: the name of the package.
        extra: the extra of smart-rag that installs it.
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed; "
            f"install it with: pip install 'smart-rag[{extra}]'"
        )
        self.package = package
        self.extra = extra
        self._purpose = purpose

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.package, self.extra, self._purpose)

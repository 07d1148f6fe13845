"""Reports of calls that write to an index or a store: what was taken, and what was left out. They are frozen."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FailedFile:
    """A file or folder that could not be read, and the reason."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file or folder that was left out on purpose.

    Attributes:
        path: the file, or the folder with all that is in it.
        reason: one of a few phrases, such as ``"of a type that is not read"``, so that equal ones can be counted.
        detail: what differs from file to file, such as the suffix. It may be empty.
    """

    path: Path
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ReadFile:
    """What was taken from a file.

    Attributes:
        path: the file.
        passages: number of documents that were made of it.
        characters: number of characters of their texts. Characters in the overlap of two chunks count twice.
        left_out: what the file has and the documents lack, such as ``"page 2: cannot be read"``.
    """

    path: Path
    passages: int
    characters: int
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """A file whose documents are in an index.

    Attributes:
        path: the file.
        passages: number of its documents.
        exists: whether it exists, as a file. None if the system does not say, because its folder may not be read.
    """

    path: Path
    passages: int
    exists: bool | None


@dataclass(frozen=True, slots=True)
class AddReport:
    """Result of a call that writes to an index: counts of documents, and what became of each file.

    Two reports are equal if their counts and failures are. `smart-rag index --report FILE` writes one as JSON.

    Attributes:
        added: number of new documents.
        replaced: number of documents whose content or metadata changed.
        unchanged: number of documents that are as they were.
        removed: number of documents that were removed.
        moved: number of documents that got another path, because their file was moved, or because another file with
            the same bytes takes its place. They were not encoded again.
        failed: files that could not be read, and paths that do not exist. Earlier documents of such a file stay, unless
            the file has become empty.
        read: the files that were read.
        skipped: the files and folders that were left out on purpose.
    """

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    removed: int = 0
    failed: tuple[FailedFile, ...] = ()
    moved: int = 0
    read: tuple[ReadFile, ...] = field(default=(), compare=False)
    skipped: tuple[SkippedFile, ...] = field(default=(), compare=False)

    def __add__(self, other: AddReport) -> AddReport:
        return AddReport(
            self.added + other.added,
            self.replaced + other.replaced,
            self.unchanged + other.unchanged,
            self.removed + other.removed,
            self.failed + other.failed,
            self.moved + other.moved,
            self.read + other.read,
            self.skipped + other.skipped,
        )


@dataclass(frozen=True, slots=True)
class BackfillReport:
    """Result of `CachedEncoder.add`: counts of documents, and the reasons why some were left out.

    Attributes:
        added: number of documents that were encoded and stored.
        unchanged: number of documents whose content was stored before this call, or earlier in this call.
        left_out: number of documents that cannot be encoded.
        reasons: the id and the reason of each of the first ten documents that were left out.
    """

    added: int = 0
    unchanged: int = 0
    left_out: int = 0
    reasons: tuple[tuple[str, str], ...] = ()

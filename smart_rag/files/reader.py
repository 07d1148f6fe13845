"""Documents from files: find files, read the text of each file, and split it into chunks.

A file that cannot be read raises `DocumentError`, whose reason is one line. Large files, and files that need a parser,
are read in the worker process (`smart_rag.files.worker`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from smart_rag.config import IndexConfig
from smart_rag.errors import DocumentError, InvalidInput, SmartRagError
from smart_rag.files.chunks import Chunker
from smart_rag.files.formats import images, video
from smart_rag.files.formats.known import FORMATS, format_of
from smart_rag.files.formats.page import Page
from smart_rag.files.formats.pdf import Pdf
from smart_rag.files.formats.readable import check_readable
from smart_rag.files.formats.text import read_text
from smart_rag.files.worker import call
from smart_rag.paths import absolute
from smart_rag.types import Document, PdfPage
from smart_rag.wording import number

logger = logging.getLogger(__name__)

# Small files of plain text are read in this process. They need no parser, and this takes less time.
_SMALL_BYTES = 1 << 20

# A warning names at most this number of files.
_MOST_NAMES = 5

_ALL_MODALITIES = ("text", "image", "video")


def suffixes(modalities: Collection[str] = ("text",)) -> tuple[str, ...]:
    """Return the suffixes of the files that an encoder with these ``modalities`` can use."""
    visual = (images.SUFFIXES if "image" in modalities else ()) + (video.SUFFIXES if "video" in modalities else ())
    return (*FORMATS, *visual)


def _is_known(path: Path, modalities: Collection[str]) -> bool:
    """Return whether an encoder with these ``modalities`` can use a file."""
    return path.suffix.lower() in suffixes(modalities) or (not path.suffix and format_of(path) is not None)


def find(
    paths: Iterable[str | Path],
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    modalities: Collection[str] = ("text",),
    *,
    warns: bool = True,
) -> list[Path]:
    """Return the files at and below ``paths``: absolute paths without links, sorted, each once.

    A file that ``paths`` names is always in the result. For a folder, the result has the files in it whose suffix
    belongs to ``modalities`` (see `suffixes`), but no hidden files. If ``modalities`` lacks images or videos, a
    warning counts the images or videos that are left out.

    A folder may come from somebody else, and a link in it may lead to any file of this machine. So a link is left out
    if it leads to a file or folder that is not at or below one of ``paths``. A warning names these links.

    Args:
        paths: files and folders.
        include: patterns such as ``"*.md"`` or ``"drafts/*"``. If there are such patterns, only files that match a
            pattern are taken from folders, whatever suffix these files have. A pattern is compared with the name of a
            file and with its path below the folder.
        exclude: patterns of files to leave out of folders.
        modalities: the modalities of the encoder: ``"text"``, ``"image"``, ``"video"``.
        warns: whether to log the warnings.

    Raises:
        InvalidInput: a path does not exist, or no file is found.
    """
    found: set[Path] = set()
    unusable: set[Path] = set()
    outside: list[Path] = []
    given = [absolute(path) for path in paths]
    roots = [Path(os.path.realpath(path)) for path in given]  # `Path.resolve` raises an error if links lead in a circle
    for path, root in zip(given, roots, strict=True):
        if root.is_file():
            found.add(root)
        elif root.is_dir():
            for file in _entries_in(root, include, exclude):
                target = file.resolve()
                if not any(map(target.is_relative_to, roots)):
                    outside.append(file)
                elif target.is_file():
                    usable = include or _is_known(file, modalities)
                    (found if usable else unusable).add(target)
        else:
            raise InvalidInput(f"{path} does not exist; expected a file or a folder of documents")
    refused = _refusal(outside)
    if not found:
        named = ", ".join(map(str, given))
        known = ", ".join(suffixes(modalities))
        raise InvalidInput(
            f"no documents found in {named or 'nothing'}; the formats are {known}{refused and '; '}{refused}"
        )
    if warns:
        _warn_of(unusable - found, modalities)
        if refused:
            logger.warning("%s", refused)
    return sorted(found)


def _entries_in(folder: Path, include: Sequence[str], exclude: Sequence[str]) -> Iterator[Path]:
    """Yield the files below ``folder`` that match the patterns, and links to folders.

    Without ``include``, yield the files of any modality. Nothing is yielded twice, because links are not followed.
    """
    for file in folder.rglob("*"):
        path = file.relative_to(folder)
        if any(part.startswith(".") for part in path.parts) or _matches(path, exclude):
            continue
        wanted = _matches(path, include) if include else _is_known(file, _ALL_MODALITIES)
        if (wanted and file.is_file()) or (file.is_symlink() and file.is_dir()):
            yield file


def _refusal(links: Collection[Path]) -> str:
    """Return the text of a warning of ``links`` that lead out of the folders. It is empty if there are no links."""
    if not links:
        return ""
    shown = [f"{path} (to {path.resolve()})" for path in sorted(links)[:_MOST_NAMES]]
    more = ["..."] if len(links) > _MOST_NAMES else []
    return (
        f"{number(len(links), 'link')} left out, leading out of the named folders: {', '.join([*shown, *more])}; "
        "to add such a file, name the file itself"
    )


def _matches(path: Path, patterns: Sequence[str]) -> bool:
    return any(fnmatch(path.name, pattern) or fnmatch(path.as_posix(), pattern) for pattern in patterns)


def _warn_of(unusable: Collection[Path], modalities: Collection[str]) -> None:
    if unusable:
        logger.warning(
            "%s left out (%s): this model takes %s",
            number(len(unusable), "file"),
            ", ".join(sorted({file.suffix.lower() for file in unusable})),
            ", ".join(sorted(modalities)),
        )


def read(path: Path, pages_without_text: bool = False) -> Iterator[Page]:
    """Yield those pages of a file that have text, or that left something out. A format without pages gives one page.

    Args:
        path: a file.
        pages_without_text: also yield numbered pages that have no text, such as scanned pages of a PDF.

    Raises:
        DocumentError: the file cannot be read, has no text, or its format is unknown.
        MissingExtra: the package that reads its format is not installed.
    """
    if path.suffix and format_of(path) is None:
        raise DocumentError(path, f"{path.suffix} is not a known format; the formats are {', '.join(FORMATS)}")
    check_readable(path)
    empty = True
    left_out: list[str] = []
    for page in _parse(path):
        wanted = page.text.strip() or (pages_without_text and page.number is not None)
        if wanted or page.left_out:
            empty = empty and not wanted
            left_out += page.left_out
            # Some PDFs hold half of a surrogate pair. It cannot be stored.
            yield replace(page, text=page.text.encode("utf-8", "replace").decode())
    if empty:
        reason = "; ".join(left_out) or "a scan needs a model that reads page images"
        raise DocumentError(path, f"no text in it ({reason})")


def _parse(path: Path) -> Iterator[Page]:
    """Yield all pages of a file. If a parser raises any error, raise `DocumentError` with this error as the cause."""
    try:
        yield from (format_of(path) or read_text)(path)
    except (SmartRagError, MemoryError):
        raise
    except OSError as error:
        raise DocumentError(path, f"cannot be read ({error.strerror or error})") from error
    except Exception as error:
        raise DocumentError(path, f"damaged, or not a {path.suffix} file") from error


def _pages(path: Path, pages_without_text: bool = False) -> Iterator[Page]:
    """Do the same as `read`, in the worker process if the format needs a parser or if the file is large."""
    known = format_of(path)
    if known is None or (known is read_text and _size(path) <= _SMALL_BYTES):
        yield from read(path, pages_without_text)
        return
    for text, page, has_image, metadata, header, left_out in call(_plain_pages, path, pages_without_text):
        yield Page(text, page, PdfPage(path, page) if has_image else None, metadata, header, tuple(left_out))


def _size(path: Path) -> int:
    """Return the number of bytes of a file. Return 0 if it cannot be read, which `read` reports."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _plain_pages(path: str, pages_without_text: bool) -> list[list[Any]]:
    """Return the pages of a file in a form that the worker process can send."""
    return [
        [page.text, page.number, page.image is not None, dict(page.metadata), page.header, list(page.left_out)]
        for page in read(Path(path), pages_without_text)
    ]


def _count_pages(path: str) -> int:
    with Pdf(path) as pdf:
        return len(pdf)


@dataclass(frozen=True, slots=True)
class ReadFile:
    """The documents of a file, and what they lack: phrases such as ``"page 2: cannot be read"``."""

    documents: list[Document]
    left_out: list[str] = field(default_factory=list)


class Reader:
    """Makes documents from files for an encoder.

    For an encoder that reads images, each page of a PDF is one document with its image and its text, and each image
    file is one document. For an encoder that reads videos, each video file is one document. All other text is split
    into chunks.

    Args:
        modalities: the modalities of the encoder: ``"text"``, ``"image"``, ``"video"``.
        count_tokens: returns the number of tokens of a text.
        config: the settings of the index.
    """

    def __init__(self, modalities: Collection[str], count_tokens: Callable[[str], int], config: IndexConfig) -> None:
        self._modalities = modalities
        self._chunker = Chunker(count_tokens, config)

    def read(self, path: Path) -> ReadFile:
        """Return the documents of a file, and what they lack.

        The metadata of a document has ``source``, ``chunk`` and, if there are pages, ``page``. Images and videos are
        not opened here. A broken one raises `DocumentError` when it is encoded.

        Raises:
            DocumentError: the file cannot be read, has nothing that the encoder can read, or its format is unknown.
            MissingExtra: the package that reads its format is not installed.
        """
        suffix = path.suffix.lower()
        if suffix in images.SUFFIXES:
            self._check_modality(path, "image")
            return ReadFile([_document(path, 0, Page("", image=path))])
        if suffix in video.SUFFIXES:
            self._check_modality(path, "video")
            return ReadFile([_document(path, 0, Page(""), video=path)])
        return self._read_text(path)

    def count_pages(self, path: Path) -> int:
        """Return the number of pages that `read` makes into documents. Without pages, or on an error, return 1."""
        if not self._is_paged(path):
            return 1
        try:
            return call(_count_pages, path)
        except DocumentError:  # `read` raises it again, and `add_files` reports it
            return 1

    def _read_text(self, path: Path) -> ReadFile:
        paged = self._is_paged(path)
        pages = _pages(path, pages_without_text=True) if paged else self._chunker.split(_pages(path))
        found = ReadFile([])
        for page in pages:
            if page.text or paged:
                found.documents.append(_document(path, len(found.documents), page))
            where = "" if page.number is None else f"page {page.number}: "
            found.left_out.extend(f"{where}{phrase}" for phrase in page.left_out)
        if not found.documents:
            raise DocumentError(path, "no text in it")
        return found

    def _is_paged(self, path: Path) -> bool:
        return path.suffix.lower() == ".pdf" and "image" in self._modalities

    def _check_modality(self, path: Path, modality: str) -> None:
        if modality not in self._modalities:
            raise DocumentError(
                path, f"needs a model that takes {modality}s; this one takes {', '.join(sorted(self._modalities))}"
            )


def _document(path: Path, chunk: int, page: Page, video: Path | None = None) -> Document:
    metadata: dict[str, Any] = {**page.metadata, "source": str(path), "chunk": chunk}
    if page.number is not None:
        metadata["page"] = page.number
    return Document(f"{path}#{chunk}", page.text, metadata, page.image, video)


def source_of(id: str) -> str:
    """Return the path of a document's file. ``id`` is the id of the document. `Reader` must have made this id."""
    return id.rpartition("#")[0]

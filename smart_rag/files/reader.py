"""Files in, documents out: find files, read their text page by page, cut it into chunks.

A page is a text with its number, where the format has pages. Reading raises `DocumentError`
with one line that says what is wrong with the file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from smart_rag.config import IndexConfig
from smart_rag.errors import DocumentError, InvalidInput, MissingExtra, SmartRagError
from smart_rag.files import images, video
from smart_rag.files.pdf import Pdf
from smart_rag.types import Document, PdfPage
from smart_rag.wording import number

logger = logging.getLogger(__name__)

_ALL = ("text", "image", "video")


@dataclass(frozen=True, slots=True)
class Page:
    """A text; where the format has pages, the 1-based number of the page, and what it looks like."""

    text: str
    number: int | None = None
    image: PdfPage | None = None


def formats(modalities: Collection[str] = ("text",)) -> tuple[str, ...]:
    """Return the suffixes of the files that an encoder of these ``modalities`` can make something of."""
    seen = (images.FORMATS if "image" in modalities else ()) + (video.FORMATS if "video" in modalities else ())
    return (*FORMATS, *seen)


def find(
    paths: Iterable[str | Path],
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    modalities: Collection[str] = ("text",),
) -> list[Path]:
    """Return the files at and below ``paths``, resolved, sorted, each once.

    In a folder, files of the `formats` of ``modalities`` are taken, without hidden ones; ``include``
    and ``exclude`` are patterns such as ``"*.md"`` or ``"drafts/*"``, matched against a file's
    name and its path below the folder. A file that is named itself is always taken. Images and videos
    in a folder that are left out because they are none of ``modalities`` are counted in a warning.

    Raises:
        InvalidInput: a path does not exist, or no file is found.
    """
    found: dict[Path, None] = {}
    others: set[Path] = set()
    for path in (Path(path).expanduser() for path in paths):
        if path.is_file():
            found[path.resolve()] = None
        elif path.is_dir():
            root = path.resolve()
            for file in sorted(root.rglob("*")):
                if file.is_file() and _wanted(file.relative_to(root), include, exclude, formats(_ALL)):
                    if include or file.suffix.lower() in formats(modalities):
                        found[file.resolve()] = None
                    else:
                        others.add(file.resolve())
        else:
            raise InvalidInput(f"{path} does not exist; expected a file or a folder of documents")
    others -= found.keys()
    if others:
        logger.warning(
            "%s left out (%s): this model takes %s",
            number(len(others), "file"),
            ", ".join(sorted({file.suffix.lower() for file in others})),
            ", ".join(sorted(modalities)),
        )
    if not found:
        named = ", ".join(str(path) for path in paths)
        known = ", ".join(formats(modalities))
        raise InvalidInput(f"no documents found in {named or 'nothing'}; the formats are {known}")
    return sorted(found)


def read(path: Path, pages_without_text: bool = False) -> Iterator[Page]:
    """Yield the pages of a file that have text; where it has pages, on request those without any, too.

    Raises:
        DocumentError: the file cannot be read, holds no text, or is of no known format.
        MissingExtra: reading its format needs a package that is not installed.
    """
    try:
        reader = FORMATS[path.suffix.lower()]
    except KeyError:
        raise DocumentError(
            path, f"{path.suffix or 'no suffix'} is not a known format; the formats are {', '.join(FORMATS)}"
        ) from None
    empty = True
    try:
        if path.stat().st_size == 0:
            raise DocumentError(path, "the file is empty")
        for page in reader(path):
            if page.text.strip() or (pages_without_text and page.number is not None):
                empty = False
                # A lone half of a surrogate pair, as some PDFs have, can be stored nowhere.
                yield replace(page, text=page.text.encode("utf-8", "replace").decode())
    except SmartRagError:
        raise
    except OSError as error:
        raise DocumentError(path, f"cannot be read ({error.strerror or error})") from error
    except Exception as error:  # whatever a parser makes of a broken file; it is chained
        raise DocumentError(path, f"not a sound {path.suffix} file") from error
    if empty:
        raise DocumentError(path, "no text in it (a scan needs a model that reads page images)")


class Chunker:
    """Cuts pages into chunks of at most ``chunk_tokens`` tokens that end at sentences where they can.

    Neighbouring chunks share up to ``chunk_overlap`` tokens. semantic-text-splitter does the work,
    by ``count_tokens``, which returns the number of tokens of a text.
    """

    def __init__(self, count_tokens: Callable[[str], int], config: IndexConfig) -> None:
        from semantic_text_splitter import TextSplitter

        self._splitter = TextSplitter.from_callback(count_tokens, config.chunk_tokens, overlap=config.chunk_overlap)

    def cut(self, pages: Iterable[Page], source: str) -> Iterator[Document]:
        """Yield the chunks of a file's pages, with the metadata ``source``, ``page`` and ``chunk``."""
        number = 0
        for page in pages:
            for text in self._splitter.chunks(page.text):
                yield _document(source, number, text, page)
                number += 1


class Reader:
    """Makes documents of files, for an encoder of these ``modalities``.

    For an encoder that takes images, a page of a PDF is one document, with its image and its text, and so are an image
    file and, if it takes videos, a video file. Any other text is cut into chunks.
    """

    def __init__(self, modalities: Collection[str], count_tokens: Callable[[str], int], config: IndexConfig) -> None:
        self._modalities = modalities
        self._chunker = Chunker(count_tokens, config)

    def documents(self, path: Path) -> Iterator[Document]:
        """Yield the documents of a file, with the metadata ``source``, ``page`` (where there are pages) and ``chunk``.

        Whether an image, a page or a video is a sound one shows when it is encoded.

        Raises:
            DocumentError: the file cannot be read, holds nothing this encoder takes, or is of no known format.
            MissingExtra: reading its format needs a package that is not installed.
        """
        suffix, source = path.suffix.lower(), str(path)
        if suffix in images.FORMATS:
            self._check_taken(path, "image")
            yield Document(_id(source, 0), "", {"source": source, "chunk": 0}, image=path)
        elif suffix in video.FORMATS:
            self._check_taken(path, "video")
            yield Document(_id(source, 0), "", {"source": source, "chunk": 0}, video=path)
        elif suffix == ".pdf" and "image" in self._modalities:
            for number, page in enumerate(read(path, pages_without_text=True)):
                yield _document(source, number, page.text, page)
        else:
            chunk = None
            for chunk in self._chunker.cut(read(path), source):
                yield chunk
            if chunk is None:
                raise DocumentError(path, "no text in it")

    def pages(self, path: Path) -> int:
        """Return how many pages of a file become documents of their own; 1 where it has none, or cannot be read."""
        if path.suffix.lower() != ".pdf" or "image" not in self._modalities:
            return 1
        try:
            with Pdf(path) as pdf:
                return len(pdf)
        except DocumentError:  # which `documents` raises again, where it is reported
            return 1

    def _check_taken(self, path: Path, kind: str) -> None:
        if kind not in self._modalities:
            raise DocumentError(
                path, f"needs a model that takes {kind}s; this one takes {', '.join(sorted(self._modalities))}"
            )


def _document(source: str, number: int, text: str, page: Page) -> Document:
    metadata: dict[str, Any] = {"source": source, "chunk": number}
    if page.number is not None:
        metadata["page"] = page.number
    return Document(_id(source, number), text, metadata, page.image)


def _id(source: str, number: int) -> str:
    return f"{source}#{number}"


def source_of(id: str) -> str:
    """Return the file whose document has this id, if `Reader` made it; of another id, anything."""
    return id.rpartition("#")[0]


def _wanted(path: Path, include: Sequence[str], exclude: Sequence[str], suffixes: Collection[str]) -> bool:
    """Return whether a file below a folder is to be indexed."""

    def matches(patterns: Sequence[str]) -> bool:
        return any(fnmatch(path.name, pattern) or fnmatch(path.as_posix(), pattern) for pattern in patterns)

    if any(part.startswith(".") for part in path.parts) or matches(exclude):
        return False
    return matches(include) if include else path.suffix.lower() in suffixes


def _read_text(path: Path) -> Iterator[Page]:
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        from charset_normalizer import from_bytes

        best = from_bytes(data).best()
        if best is None:
            raise DocumentError(path, "binary data, not text") from None
        text = str(best)
    if "\0" in text:
        raise DocumentError(path, "binary data, not text")
    yield Page(text)


def _read_html(path: Path) -> Iterator[Page]:
    try:
        from inscriptis import get_text
    except ImportError as error:
        raise MissingExtra("inscriptis", "html", f"reading {path.name}") from error
    for page in _read_text(path):
        yield Page(get_text(page.text))


def _read_pdf(path: Path) -> Iterator[Page]:
    with Pdf(path) as pdf:
        for number in range(1, len(pdf) + 1):
            yield Page(pdf.text(number), number, PdfPage(path, number))


def _read_docx(path: Path) -> Iterator[Page]:
    try:
        import docx
        import docx.table
    except ImportError as error:
        raise MissingExtra("python-docx", "docx", f"reading {path.name}") from error
    document = docx.Document(str(path))
    blocks = []
    for block in document.iter_inner_content():
        if isinstance(block, docx.table.Table):
            blocks += [" | ".join(cell.text for cell in row.cells) for row in block.rows]
        else:
            blocks.append(block.text)
    yield Page("\n\n".join(blocks))


FORMATS: dict[str, Callable[[Path], Iterator[Page]]] = {
    ".txt": _read_text,
    ".md": _read_text,
    ".html": _read_html,
    ".htm": _read_html,
    ".pdf": _read_pdf,
    ".docx": _read_docx,
}

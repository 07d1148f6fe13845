"""Documents from files: read the text of each file, and split it into chunks.

A file that cannot be read raises `DocumentError`, whose reason is one line. Large files, and files that need a parser,
are read in the worker process (`smart_rag.files.worker`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from smart_rag.config import IndexConfig
from smart_rag.errors import DocumentError, InvalidInput, MissingExtra, SmartRagError
from smart_rag.files.chunking.chunks import Chunker
from smart_rag.files.chunking.token_places import TokenSpans
from smart_rag.files.formats import images, video
from smart_rag.files.formats.known import FORMATS, format_of, is_pdf, suffix_of
from smart_rag.files.formats.page import Page, is_visible, without_controls
from smart_rag.files.formats.pdf import NO_LETTERS, NO_TEXT, SCAN, WHOLE_PAGE, Pdf
from smart_rag.files.formats.pictures import svg, svg_drawing
from smart_rag.files.formats.pictures.heif import is_heif
from smart_rag.files.formats.readable import EMPTY, check_readable
from smart_rag.files.formats.text import read_text
from smart_rag.files.ocr import pages as ocr_pages
from smart_rag.files.ocr.engine import check_installed
from smart_rag.files.worker import call
from smart_rag.paths import shown
from smart_rag.progress import Progress
from smart_rag.reports import ReadFile
from smart_rag.types import RECOGNISED, Document, PdfPage
from smart_rag.wording import number, one_line

_KINDS = "known are texts, source code, HTML, PDF, office files, mails, tables, JSON (smart_rag.files.FORMATS has all)"
# Small files of plain text are read in this process. They need no parser, and this takes less time.
_SMALL_BYTES = 1 << 20
# What a page lacks if its text can be recognised, and what is said of it before this is done.
_UNREADABLE = (NO_TEXT, NO_LETTERS, SCAN, svg.NO_WORDS)
_TO_RECOGNISE = "its text would be recognised"
# What is said of a file that can be read, and that has no text at all.
_BLANK = "no text in it"
# What an animation lacks, of which one picture is taken.
_ANIMATION = "the other pictures of the animation"
# What a TIFF lacks.
_BROKEN = "a broken or truncated image; more may follow it"
_MORE_IMAGES = "more images than a file of pages has"
# What a page lacks is said with at most so many ranges of pages.
_MOST_RANGES = 5
# Characters of a value that a file gives as metadata, such as the receivers of a mail.
_MOST_METADATA = 500


def suffixes(modalities: Collection[str] = ("text",)) -> tuple[str, ...]:
    """Return the suffixes of the files that an encoder with these ``modalities`` can use."""
    visual = (images.SUFFIXES if "image" in modalities else ()) + (video.SUFFIXES if "video" in modalities else ())
    return (*FORMATS, *visual)


def read(path: Path, pages_without_text: bool = False) -> Iterator[Page]:
    """Yield those pages of a file that have text, or that left something out. A format without pages gives one page.

    Args:
        path: a file.
        pages_without_text: also yield pages that have an image and no text, such as scanned pages of a PDF.

    Raises:
        DocumentError: the file cannot be read, has no text, or its format is unknown.
        MissingExtra: the package that reads its format is not installed.
    """
    if path.suffix and format_of(path) is None:
        raise DocumentError(path, f"{suffix_of(path)} is not a known format; {_KINDS}")
    check_readable(path)
    empty = True
    left_out: list[str] = []
    for page in map(_cleaned, _parse(path)):
        seen = is_visible(page.text)
        wanted = seen or (pages_without_text and page.image is not None)
        if wanted or page.left_out:
            empty = empty and not wanted
            left_out += page.left_out
            yield page if seen else replace(page, text="")
    if empty:
        reason = "; ".join(dict.fromkeys(left_out))
        is_complete = not reason or "text in it" in reason
        raise DocumentError(path, (reason or _BLANK) if is_complete else f"no text in it ({reason})")


def _cleaned(page: Page) -> Page:
    """Return ``page`` without control characters, which are counted, and without halves of characters."""
    text, count = without_controls(page.text)
    header, in_header = without_controls(page.header)
    metadata = {
        key: without_controls(value)[0] if isinstance(value, str) else value for key, value in page.metadata.items()
    }
    count += in_header
    left_out = (*page.left_out, f"{number(count, 'control character')} left out") if count else page.left_out
    return replace(page, text=text, header=header, metadata=metadata, left_out=left_out)


def _parse(path: Path) -> Iterator[Page]:
    """Yield all pages of a file. If a parser raises any error, raise `DocumentError` with this error as the cause."""
    try:
        yield from (format_of(path) or read_text)(path)
    except (SmartRagError, MemoryError):
        raise
    except OSError as error:
        raise DocumentError(path, f"cannot be read ({error.strerror or error})") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise DocumentError(path, f"damaged, or not a {path.suffix} file ({reason})") from error


def _pages(path: Path, pages_without_text: bool = False) -> Iterator[Page]:
    """Do the same as `read`, in the worker process if the format needs a parser or if the file is large."""
    known = format_of(path)
    if known is None or (known is read_text and _size(path) <= _SMALL_BYTES):
        yield from read(path, pages_without_text)
        return
    for text, page, has_image, metadata, header, left_out in call(_plain_pages, path, pages_without_text):
        yield Page(text, page, PdfPage(path, page or 1) if has_image else None, metadata, header, tuple(left_out))


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
class Reading:
    """The documents of a file, and what they lack: phrases such as ``"page 2: cannot be read"``."""

    documents: list[Document]
    left_out: list[str] = field(default_factory=list)


def with_ocr(modalities: Collection[str]) -> tuple[str, ...]:
    """Return the modalities of the files that an encoder with these ``modalities`` can use if text is recognised.

    Raises:
        InvalidInput: the encoder reads images, so that it needs no recognition.
        MissingExtra: the extra ``ocr`` is not installed.
    """
    if "image" in modalities:
        raise InvalidInput("ocr is for models that read only text; this one reads images as they are, so leave it out")
    check_installed()
    return (*modalities, "image")


def can_be_recognised(path: Path) -> bool:
    """Return whether the text of a file of this type can be recognised: of a PDF, an SVG or an image."""
    return path.suffix.lower() in (*svg.SUFFIXES, *images.SUFFIXES) or is_pdf(path)


def has_no_text(error: DocumentError) -> bool:
    """Return whether ``error`` says that the file can be read and is empty, or has only blanks.

    A file that has something else, such as a scan, is not meant.
    """
    return error.reason in (EMPTY, _BLANK)


def survey(path: Path, modalities: Collection[str], ocr: bool = False) -> ReadFile:
    """Return what an encoder with these ``modalities`` would get from a file. Its passages are not counted.

    If ``ocr`` is True, ``left_out`` says which pages would be recognised. None is recognised here.

    Raises:
        DocumentError, MissingExtra: as `Reader.read`.
    """
    if ocr and path.suffix.lower() in images.SUFFIXES:
        return ReadFile(path, 0, 0, (_TO_RECOGNISE,))
    if visual := _visual_modality(path, modalities):
        return ReadFile(path, 0, 0, tuple(_read_image(path).left_out) if visual == "image" else ())
    is_seen = _is_paged(path, modalities)
    undrawn = _undrawn(path) if is_seen else []
    pages = list(_pages(path, pages_without_text=is_seen or (ocr and can_be_recognised(path))))
    if ocr:
        pages = [replace(page, left_out=(_TO_RECOGNISE,)) if _lacks_text(page) else page for page in pages]
    characters, left_out = sum(len(page.text) for page in pages), (*_losses(pages, is_seen), *undrawn)
    if not (characters or is_seen or _TO_RECOGNISE in {phrase for page in pages for phrase in page.left_out}):
        raise DocumentError(path, "; ".join(left_out) or _BLANK)
    return ReadFile(path, 0, characters, left_out)


def _is_paged(path: Path, modalities: Collection[str]) -> bool:
    """Return whether each page of a file is one document with its image: of a PDF, or of an SVG, which has one page."""
    return "image" in modalities and (path.suffix.lower() in svg.SUFFIXES or is_pdf(path))


def _undrawn(path: Path) -> list[str]:
    """Return phrases of what is in an SVG and not in the picture that is drawn of it. A PDF is drawn as it is."""
    return call(svg_drawing.losses, path, task="drawing it") if svg.is_svg(path) else []


def _losses(pages: Iterable[Page], seen: bool) -> Iterator[str]:
    """Yield what ``pages`` left out, each phrase with the numbers of its pages.

    If the pages are ``seen`` as images, no text is lost of those that have an image.
    """
    lacking: dict[str, list[int]] = {}
    last = 0
    for page in pages:
        last = max(last, page.number or 0)
        phrases = {WHOLE_PAGE}.intersection(page.left_out) if seen and page.image is not None else page.left_out
        for phrase in phrases:
            lacking.setdefault(phrase, []).extend([] if page.number is None else [page.number])
    return (_of_pages(phrase, numbers, last) for phrase, numbers in lacking.items())


def _visual_modality(path: Path, modalities: Collection[str]) -> str:
    """Return ``"image"`` or ``"video"`` for a file of this kind, and an empty text for any other file.

    Raises:
        DocumentError: ``modalities`` lack what is returned.
    """
    suffix = path.suffix.lower()
    modality = "image" if suffix in images.SUFFIXES else "video" if suffix in video.SUFFIXES else ""
    if modality and modality not in modalities:
        has_words = modality == "image" and "text" in modalities
        advice = ", or add its text with --ocr (in Python: ocr=True)" if has_words else ""
        raise DocumentError(
            path, f"needs a model that takes {modality}s; this one takes {', '.join(sorted(modalities))}{advice}"
        )
    return modality


class Reader:
    """Makes documents from files for an encoder.

    For an encoder that reads images, each page of a PDF is one document with its image and its text, and so is an SVG.
    Each image file is one document, or one for each image of a TIFF or HEIF file. For an encoder that reads videos,
    each video file is one document. All other text is split into chunks.

    Args:
        modalities: the modalities of the encoder: ``"text"``, ``"image"``, ``"video"``.
        count_tokens: returns the number of tokens of a text.
        config: the settings of the index.
        token_spans: returns the first and last place of each token of a text; see `Chunker`.
    """

    def __init__(
        self,
        modalities: Collection[str],
        count_tokens: Callable[[str], int],
        config: IndexConfig,
        token_spans: TokenSpans | None = None,
    ) -> None:
        self._modalities = modalities
        self._chunker = Chunker(count_tokens, config, token_spans)

    def read(self, path: Path, ocr: bool = False, show_progress_bar: bool = False) -> Reading:
        """Return the documents of a file, and what they lack.

        If ``ocr`` is True, the text of images, and of those pages of a PDF that have no usable text, is recognised.
        Their documents have the metadata `RECOGNISED`. ``show_progress_bar`` is for these pages.

        The metadata of a document has ``source``, ``chunk`` and, if there are pages, ``page``. A broken image or video
        raises `DocumentError` when it is encoded.

        Raises:
            DocumentError: the file cannot be read, has nothing that the encoder can read, or its format is unknown.
            MissingExtra: the package that reads its format is not installed.
        """
        if ocr and can_be_recognised(path):
            return self._recognise(path, show_progress_bar)
        match _visual_modality(path, self._modalities):
            case "image":
                return _read_image(path)
            case "video":
                return Reading([_document(path, 0, Page(""), video=path)])
        return self._read_text(path)

    def count_pages(self, path: Path) -> int:
        """Return the number of pages that `read` makes into documents. Without pages, or on an error, return 1."""
        if not _is_paged(path, self._modalities) or svg.is_svg(path):
            return 1
        try:
            return call(_count_pages, path)
        except (DocumentError, MissingExtra):  # `read` raises it again, and `add_files` reports it
            return 1

    def _read_text(self, path: Path) -> Reading:
        if _is_paged(path, self._modalities):
            undrawn = _undrawn(path)
            found = list(_pages(path, pages_without_text=True))
            taken = [page for page in found if page.text or page.image is not None]
            reading = _reading(path, found, taken, True)
            return replace(reading, left_out=[*reading.left_out, *undrawn])
        return self._chunked(path, _pages(path))

    def _chunked(self, path: Path, pages: Iterable[Page]) -> Reading:
        suffix = path.suffix.lower() if format_of(path) is read_text else ""
        found = list(self._chunker.split(pages, suffix))
        return _reading(path, found, [page for page in found if page.text])

    def _recognise(self, path: Path, show_progress_bar: bool) -> Reading:
        """Return the documents of a PDF, an SVG or an image file. What cannot be read in another way is recognised."""
        is_image = path.suffix.lower() in images.SUFFIXES
        pages = _pages_of_image(path) if is_image else list(_pages(path, pages_without_text=True))
        return self._chunked(path, _recognised(path, pages, show_progress_bar))


def _reading(path: Path, found: Sequence[Page], taken: Sequence[Page], seen: bool = False) -> Reading:
    """Return the documents of the pages or chunks that are ``taken`` of those that were ``found``."""
    left_out = list(_losses(found, seen))
    if not taken:
        raise DocumentError(path, "; ".join(left_out) or _BLANK)
    return Reading([_document(path, i, page) for i, page in enumerate(taken)], left_out)


def _lacks_text(page: Page) -> bool:
    """Return whether the text of ``page`` can only be recognised. The texts of notes on it may be known."""
    return page.image is not None and not set(page.left_out).isdisjoint(_UNREADABLE)


def _recognised(path: Path, pages: Sequence[Page], show_progress_bar: bool) -> Iterator[Page]:
    """Yield ``pages``, with the text that is recognised on those without one. Each may take as long as a file may."""
    count = sum(map(_lacks_text, pages))
    with Progress(count, f"recognising {shown(Path(path.name))}", "page", show_progress_bar and count > 1) as progress:
        for page in pages:
            image = page.image
            if not (isinstance(image, PdfPage) and _lacks_text(page)):
                yield page
                continue
            try:
                text, left_out = call(ocr_pages.recognise, path, image.page, task=f"recognising page {image.page}")
                yield replace(page, text=text, metadata={**page.metadata, RECOGNISED: True}, left_out=tuple(left_out))
                if page.text:
                    yield replace(page, left_out=())
            except DocumentError as error:
                yield replace(page, left_out=(error.reason.removeprefix(f"page {image.page} "),))
            progress.update(1)


def _pages_of_image(path: Path) -> list[Page]:
    """Return the pages of an image file, whose text can be recognised. A single image has no number."""
    numbers, is_animation, damaged, has_more = call(_image_pages, path)
    pages = [Page("", page, PdfPage(path, page), left_out=(NO_TEXT,)) for page in numbers]
    if len(pages) == 1:
        pages = [replace(pages[0], number=None)]
    pages += [Page("", left_out=(_ANIMATION,))] if is_animation else []
    return [*pages, *_lost_pages(damaged, has_more)]


def _image_pages(path: str) -> list[Any]:
    """Return the numbers of the pages of an image file, whether it is an animation, and what `lost_pages` returns."""
    return [images.pages(Path(path)), images.is_animation(Path(path)), *images.lost_pages(Path(path))]


def _lost_pages(damaged: Sequence[int], has_more: bool) -> list[Page]:
    """Return what a TIFF lacks, as pages without text."""
    more = [Page("", left_out=(_MORE_IMAGES,))] if has_more else []
    return [*(Page("", number, left_out=(_BROKEN,)) for number in damaged), *more]


def _read_image(path: Path) -> Reading:
    """Return a document for each page of an image file: a TIFF may have several. Of an animation, one is taken."""
    pages, is_animation, *lost = call(_image_pages, path) if is_heif(path) else _image_pages(str(path))
    left_out = list(_losses(_lost_pages(*lost), seen=False))
    if len(pages) == 1:
        left_out += [_ANIMATION] if is_animation else []
        return Reading([_document(path, 0, Page("", image=path))], left_out)
    return Reading([_document(path, i, Page("", page, PdfPage(path, page))) for i, page in enumerate(pages)], left_out)


def _of_pages(phrase: str, numbers: Sequence[int], last: int) -> str:
    """Return ``phrase`` with the pages that it is about, of a file with ``last`` pages.

    >>> _of_pages("no text", [2, 7, 8, 9], 30), _of_pages("no text", [2], 30)
    ('4 of 30 pages (2, 7-9): no text', 'page 2: no text')
    """
    if len(numbers) < 2:
        return f"page {numbers[0]}: {phrase}" if numbers else phrase
    ranges: list[tuple[int, int]] = []
    for page in numbers:
        if ranges and page == ranges[-1][1] + 1:
            ranges[-1] = ranges[-1][0], page
        else:
            ranges.append((page, page))
    shown = [str(first) if first == end else f"{first}-{end}" for first, end in ranges[:_MOST_RANGES]]
    more = ["..."] if len(ranges) > _MOST_RANGES else []
    return f"{len(numbers):,} of {last:,} pages ({', '.join([*shown, *more])}): {phrase}"


def _document(path: Path, chunk: int, page: Page, video: Path | None = None) -> Document:
    given = {key: _short(value) for key, value in page.metadata.items()}
    metadata: dict[str, Any] = {**given, "source": str(path), "chunk": chunk}
    if page.number is not None:
        metadata["page"] = page.number
    return Document(id_of(path, chunk), page.text, metadata, page.image, video)


def _short(value: str | int | float | bool) -> str | int | float | bool:
    """Return ``value``, cut if it is a long text: every document of the file holds it. The text has all of it."""
    is_long = isinstance(value, str) and len(value) > _MOST_METADATA
    return f"{str(value)[:_MOST_METADATA]}…" if is_long else value


def id_of(path: Path, chunk: int) -> str:
    """Return the id of a document: the path of its file, and the number of the document in this file."""
    return f"{path}#{chunk}"


def source_of(id: str) -> str:
    """Return the path of a document's file. ``id`` is the id of the document. `id_of` must have made this id."""
    return id.rpartition("#")[0]

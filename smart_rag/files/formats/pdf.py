"""PDF: the text layer and the image of each page, and the position of its words.

Filled fields of forms, notes and stamps belong to the text. So a page is flattened in memory before its text is read:
they become a part of the page, as if it was printed. The file is never written.

pdfium is not thread-safe, not even for two different documents. So every call to pdfium holds the same lock, which the
whole process shares. No method returns a pdfium page: each method opens its page and closes it. The document is
reopened from time to time, so that a long PDF needs no more memory than a short one.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import math
import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smart_rag.config import check_count
from smart_rag.errors import DocumentError, InvalidInput, MissingExtra
from smart_rag.files.formats.images import fit
from smart_rag.files.formats.page import Page
from smart_rag.files.formats.pdf_fonts import NamedGlyphs
from smart_rag.files.formats.pdf_text import Layer, joined, notes_of, read_layer, string_of
from smart_rag.files.formats.readable import check_readable
from smart_rag.paths import absolute
from smart_rag.types import Box, PdfPage, Span
from smart_rag.wording import number as count_of

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_DPI = 300  # a page that was made for print shows no more details at a higher resolution
_POINTS_PER_INCH = 72
# For every page that was opened, pdfium keeps the embedded images until the document is closed.
_PAGES_BEFORE_REOPENING = 50
_PDFIUM = threading.RLock()
# Whether a broken word has a hyphen is looked up on so many pages before and after it.
_NEARBY_PAGES = 2
# What a page lacks, for the report.
WHOLE_PAGE = "its CropBox lies outside of its MediaBox, so all of it is shown"
NO_TEXT = "no text in it (a scan needs ocr, or a model that reads page images)"
SCAN = "pictures cover it, and the text in them is not read (it needs ocr, or a model that reads page images)"
NO_LETTERS = "no usable text in it (its fonts do not say which letters they show)"
SOME_LETTERS = "some of its text is not usable (a font does not say which letters it shows)"
XFA = "an XFA form, which only Adobe's programs show"
# Of embedded files, so many are named. The others are counted.
_MOST_NAMES = 20
# A page with fewer characters of unknown fonts, such as bullets and arrows, lacks nothing that a search would find.
_FEWEST_UNKNOWN = 20


class Pdf:
    """An open PDF, for use in a ``with`` statement; ``len(pdf)`` is the number of pages.

    Raises:
        DocumentError: the file cannot be read, is encrypted, is damaged, is not a PDF or has no pages.
        MissingExtra: pypdfium2 is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = absolute(path)
        try:
            import pypdfium2
        except ImportError as error:
            raise MissingExtra("pypdfium2", "pdf", f"reading {self.path.name}") from error
        check_readable(self.path)
        self._pdfium = pypdfium2
        with _PDFIUM:
            self._document = self._load()
            self._pages = len(self._document)
        self._pages_opened = 0
        self._is_flattened = False
        self._drawn: set[int] = set()  # pages with annotations; pdfium adds appearances to them when it draws them
        self._layers: dict[int, Layer] = {}
        self._notes: dict[int, list[str]] = {}
        self._embedded: dict[str, None] = {}  # an ordered set
        self._whole: set[int] = set()  # pages of which all is shown, against what the file says
        self._glyphs = NamedGlyphs(self.path)

    def _load(self) -> Any:
        """Return the file as a document of pdfium. The caller holds the lock."""
        raw = self._pdfium.raw
        # For a file without pages, PdfDocument(path) would report the error of the previous file.
        handle = raw.FPDF_LoadDocument(os.fsencode(self.path), None)
        if not handle:
            encrypted = raw.FPDF_GetLastError() == raw.FPDF_ERR_PASSWORD
            raise DocumentError(
                self.path, "encrypted; save it without a password" if encrypted else "damaged, or not a PDF"
            )
        document = self._pdfium.PdfDocument(handle)
        if len(document) < 1:
            document.close()
            raise DocumentError(self.path, "no pages in it")
        logging.getLogger("pypdfium2._helpers.document").addFilter(_is_not_of_xfa)
        try:
            document.init_forms()
        except self._pdfium.PdfiumError as error:
            raise DocumentError(self.path, "its forms cannot be read") from error
        return document

    def __len__(self) -> int:
        return self._pages

    def __enter__(self) -> Pdf:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Closing it again does nothing."""
        with _PDFIUM:
            self._document.close()

    def text(self, number: int) -> str:
        """Return the text layer of page ``number``, counted from 1. It is empty if the page is only an image.

        The texts of notes follow that are not on the page itself. They have no boxes.

        Raises:
            DocumentError: there is no such page, or it cannot be read.
        """
        text = self._layer(number).text
        shown = "".join(text.split())
        notes = [note for note in self._notes.get(number, ()) if "".join(note.split()) not in shown]
        return "\n\n".join([*([text] if text else []), *notes])

    def left_out(self, number: int) -> tuple[str, ...]:
        """Return what the text of page ``number`` lacks, as phrases for `Page.left_out`.

        Raises:
            DocumentError: there is no such page, or it cannot be read.
        """
        layer = self._layer(number)
        phrases = []
        if not layer.text.strip():
            with self._page(number) as page:
                is_empty = self._pdfium.raw.FPDFPage_CountObjects(page) < 1
            if layer.unknown or not is_empty:
                phrases.append(NO_LETTERS if layer.unknown else NO_TEXT)
        elif layer.unknown >= _FEWEST_UNKNOWN:
            phrases.append(SOME_LETTERS)
        elif layer.is_scan:
            phrases.append(SCAN)
        return (*phrases, WHOLE_PAGE) if number in self._whole else tuple(phrases)

    def is_xfa(self) -> bool:
        """Return whether the file is an XFA form. Its only page asks for a program that can show it."""
        with _PDFIUM:
            return bool(self._document.get_formtype() == self._pdfium.raw.FORMTYPE_XFA_FULL)

    def embedded(self) -> list[str]:
        """Return the names of the files in this one. Those in notes are known when the pages have been read."""
        raw = self._pdfium.raw
        with _PDFIUM:
            count = raw.FPDFDoc_GetAttachmentCount(self._document)
            files = (raw.FPDFDoc_GetAttachment(self._document, i) for i in range(count))
            names = [string_of(raw.FPDFAttachment_GetName, file) for file in files if file]
        return [name or "(no name)" for name in dict.fromkeys([*names, *self._embedded])]

    def render(self, number: int, max_pixels: int) -> Image:
        """Return page ``number``, counted from 1: an upright RGB image on white, with annotations and forms.

        The image is as large as ``max_pixels`` and the aspect ratio of the page allow, but at most 300 dpi.

        Raises:
            DocumentError: there is no such page, or it cannot be read.
        """
        check_count("max_pixels", max_pixels)
        with self._drawable(number) as page:
            width, height = page.get_size()
            columns, rows = fit(width, height, max_pixels, MAX_DPI / _POINTS_PER_INCH)
            # pdfium rounds up. Without the last factor, 800.0000001 would become 801.
            scale = min(columns / width, rows / height) * (1 - 1e-9)
            bitmap = page.render(scale=scale)
            try:
                image: Image = bitmap.to_pil()
            finally:
                bitmap.close()
        return image

    def dots(self, number: int) -> tuple[int, int]:
        """Return the (width, height) of page ``number``, counted from 1, in pixels at 300 dpi.

        Raises:
            DocumentError: there is no such page, or it cannot be read.
        """
        with self._page(number) as page:
            width, height = page.get_size()
        scale = MAX_DPI / _POINTS_PER_INCH
        return max(1, round(width * scale)), max(1, round(height * scale))

    def render_as(self, number: int, size: tuple[int, int]) -> Image:
        """Return page ``number`` as `render` does, but with exactly this ``size``: (width, height) in pixels.

        A model reads images of whole patches. So its ``size`` is not exactly the shape of the page, and the image is
        a little wider or higher.

        Raises:
            DocumentError: there is no such page, or it cannot be read.
        """
        width, height = check_count("width", size[0]), check_count("height", size[1])
        raw = self._pdfium.raw
        with self._drawable(number) as page:
            bitmap = self._pdfium.PdfBitmap.new_native(width, height, raw.FPDFBitmap_BGR)
            try:
                bitmap.fill_rect((255, 255, 255, 255), 0, 0, width, height)
                place = (bitmap, page, 0, 0, width, height, 0, raw.FPDF_ANNOT)
                raw.FPDF_RenderPageBitmap(*place)
                if self._document.formenv:
                    raw.FPDF_FFLDraw(self._document.formenv, *place)
                image: Image = bitmap.to_pil()
            finally:
                bitmap.close()
        return image

    def boxes(self, number: int, spans: Sequence[Span]) -> list[list[Box]]:
        """Return the boxes of each of ``spans`` on page ``number``. If a span is not found, it has no boxes.

        Args:
            number: the page, counted from 1.
            spans: (start, stop) in the characters of `text`.

        Returns:
            For each span, the boxes of its lines: (left, top, right, bottom) as fractions of the page that `render`
            returns.

        Raises:
            DocumentError: there is no such page, or it cannot be read.
        """
        layer = self._layer(number)
        with self._flat_page(number) as page:
            text_page = page.get_textpage()
            return [[_box_of(page, *rect) for rect in layer.rectangles(text_page, span)] for span in spans]

    def _layer(self, number: int) -> Layer:
        """Return the text of page ``number``, with whole words."""
        return joined(self._broken_layer(number), lambda: self._words_near(number))

    def _broken_layer(self, number: int) -> Layer:
        """Return the text of page ``number``, in which words are broken at the end of a line."""
        if number not in self._layers:
            with self._flat_page(number) as page:
                layer = read_layer(page, self._glyphs)
            near = {i: kept for i, kept in self._layers.items() if abs(i - number) <= 2 * _NEARBY_PAGES}
            self._layers = {**near, number: layer}
        return self._layers[number]

    def _words_near(self, number: int) -> Counter[str]:
        """Return how often each word occurs on page ``number`` and the pages around it. Unreadable ones have none."""
        counts: Counter[str] = Counter()
        for near in range(max(1, number - _NEARBY_PAGES), min(self._pages, number + _NEARBY_PAGES) + 1):
            try:
                counts += self._broken_layer(near).words()
            except DocumentError:  # the reader of that page reports it
                continue
        return counts

    @contextmanager
    def _flat_page(self, number: int) -> Iterator[Any]:
        """Do the same as `_page`, and make annotations and fields a part of the page. This is seen when it is opened
        again.
        """
        raw = self._pdfium.raw
        with _PDFIUM:
            with self._page(number) as page:
                if raw.FPDFPage_GetAnnotCount(page) < 1:
                    yield page
                    return
                if number not in self._notes:
                    self._notes[number], files = notes_of(page)
                    self._embedded.update(dict.fromkeys(files))
                # Flattening does not see boxes that the page inherits. It would cut the page to 612 x 792 points.
                box = page.get_bbox()
                page.set_mediabox(*box)
                page.set_cropbox(*box)
                self._is_flattened |= raw.FPDFPage_Flatten(page, raw.FLAT_NORMALDISPLAY) == raw.FLATTEN_SUCCESS
            with self._page(number) as page:
                yield page

    @contextmanager
    def _drawable(self, number: int) -> Iterator[Any]:
        with self._page(number, as_filed=True) as page:
            if self._pdfium.raw.FPDFPage_GetAnnotCount(page) > 0:
                self._drawn.add(number)
            yield page

    @contextmanager
    def _page(self, number: int, as_filed: bool = False) -> Iterator[Any]:
        """Open page ``number``, counted from 1, and hold the lock while the page is open.

        Args:
            number: the page.
            as_filed: whether it must not be flattened. Then the document is reopened if any page of it was flattened.
                Otherwise it is reopened if this page was drawn.
        """
        check_count("page", number)
        if number > self._pages:
            raise DocumentError(self.path, f"there is no page {number}; the last one is {self._pages}")
        with _PDFIUM:
            if self._document.raw is None:
                raise InvalidInput(f"{self.path} was closed; use it inside the `with` statement that opened it")
            is_changed = self._is_flattened if as_filed else number in self._drawn
            if self._pages_opened == _PAGES_BEFORE_REOPENING or is_changed:
                reopened = self._load()
                self._document.close()
                self._document, self._pages_opened, self._is_flattened = reopened, 0, False
                self._drawn.clear()
            self._pages_opened += 1
            try:
                page = self._open(number)
                try:
                    yield page
                finally:
                    page.close()
            except self._pdfium.PdfiumError as error:
                raise DocumentError(self.path, f"page {number} cannot be read") from error

    def _open(self, number: int) -> Any:
        """Return page ``number`` with a size. If its CropBox lies outside of its MediaBox, the MediaBox is shown.

        The PDF standard does not say what to show then. pdf.js shows the MediaBox.
        """
        page = self._document[number - 1]
        if not _has_size(page):
            self._whole.add(number)
            page.set_cropbox(0, 0, 0, 0)  # pdfium takes the MediaBox for an empty one, also where it is inherited
            page.close()
            page = self._document[number - 1]
            if not _has_size(page):
                width, height = page.get_size()
                page.close()
                raise DocumentError(
                    self.path, f"page {number} cannot be drawn (its size is {width:g} x {height:g} points)"
                )
        return page


def _has_size(page: Any) -> bool:
    return all(math.isfinite(side) and side > 0 for side in page.get_size())


def _is_not_of_xfa(record: logging.LogRecord) -> bool:
    """Return whether to log a message of pypdfium2. It would say of each XFA form that pdfium cannot read XFA."""
    return "XFA" not in str(record.msg)


def _box_of(page: Any, left: float, bottom: float, right: float, top: float) -> Box:
    """Return a rectangle in points as a box: in fractions of the page as it is shown, rotated and cropped."""
    import pypdfium2

    x, y, scale = ctypes.c_int(), ctypes.c_int(), 10_000
    corners = []
    for corner in ((left, top), (right, bottom)):
        pypdfium2.raw.FPDF_PageToDevice(page, 0, 0, scale, scale, 0, *corner, x, y)
        corners.append((x.value / scale, y.value / scale))
    (ax, ay), (bx, by) = corners
    return min(ax, bx), min(ay, by), max(ax, bx), max(ay, by)


def read_pdf(path: Path) -> Iterator[Page]:
    """Yield every page of a PDF, with its text, its number and its image.

    A page that cannot be read has neither a text nor an image, and ``left_out`` says so.

    Raises:
        DocumentError: the file cannot be read.
        MissingExtra: pypdfium2 is not installed.
    """
    with Pdf(path) as pdf:
        for number in range(1, len(pdf) + 1):
            try:
                yield Page(pdf.text(number), number, PdfPage(path, number), left_out=pdf.left_out(number))
            except DocumentError as error:
                yield Page("", number, left_out=(error.reason.removeprefix(f"page {number} "),))
        if pdf.is_xfa():
            yield Page("", left_out=(XFA,))
        if embedded := pdf.embedded():
            named = ", ".join([*embedded[:_MOST_NAMES], *(["..."] if len(embedded) > _MOST_NAMES else [])])
            yield Page("", left_out=(f"{count_of(len(embedded), 'embedded file')} not read: {named}",))


def boxes(path: str | Path, number: int, spans: Sequence[Span]) -> list[list[Box]]:
    """Return the boxes of spans of text on one page of a PDF; see `Pdf.boxes` and `render`."""
    with _PDFIUM:
        return _open(path).boxes(number, spans)


def render(path: str | Path, number: int, max_pixels: int) -> Image:
    """Return one page of a PDF as an image; see `Pdf.render`. The two PDFs that were used last stay open.

    Raises:
        DocumentError: the file or the page cannot be read.
        MissingExtra: pypdfium2 is not installed.
    """
    with _PDFIUM:  # a file that leaves the cache is closed here, and closing it needs the lock
        return _open(path).render(number, max_pixels)


def dots(path: str | Path, number: int) -> list[int]:
    """Return the width and the height of one page of a PDF in pixels at 300 dpi; see `Pdf.dots` and `render`.

    They are a list, because the worker process sends a tuple as a value and bytes.
    """
    with _PDFIUM:
        return list(_open(path).dots(number))


def render_as(path: str | Path, number: int, size: tuple[int, int]) -> Image:
    """Return one page of a PDF as an image of this ``size``; see `Pdf.render_as` and `render`."""
    with _PDFIUM:
        return _open(path).render_as(number, size)


def text(path: str | Path, number: int) -> str:
    """Return the text layer of one page of a PDF; see `Pdf.text` and `render`."""
    with _PDFIUM:
        return _open(path).text(number)


def _open(path: str | Path) -> Pdf:
    path = absolute(path)
    check_readable(path)
    state = path.stat()
    return _cached(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=2)
def _cached(path: Path, mtime: int, size: int) -> Pdf:
    """Return an open PDF. If the file changes, its ``mtime`` or ``size`` changes, so it is opened again."""
    pdf = Pdf(path)
    _close_at_exit()
    return pdf


@lru_cache(maxsize=1)
def _close_at_exit() -> None:
    """Close the cached files before pypdfium2's exit handler runs, because that handler would report open files."""
    atexit.register(_cached.cache_clear)

"""PDF: the text layer and the image of each page, and the position of its words.

pdfium is not thread-safe, not even for two different documents. So every call to pdfium holds the same lock, which the
whole process shares. No method returns a pdfium page: each method opens its page and closes it. The document is
reopened from time to time, so that a long PDF needs no more memory than a short one.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smart_rag.config import check_count
from smart_rag.errors import DocumentError, InvalidInput, MissingExtra
from smart_rag.files.formats.images import fit
from smart_rag.files.formats.page import Page
from smart_rag.files.formats.readable import check_readable
from smart_rag.paths import absolute
from smart_rag.types import Box, PdfPage, Span

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_DPI = 300  # a page that was made for print shows no more details at a higher resolution
_POINTS_PER_INCH = 72
# For every page that was opened, pdfium keeps the embedded images until the document is closed.
_PAGES_BEFORE_REOPENING = 50
_PDFIUM = threading.RLock()


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

        Raises:
            DocumentError: there is no such page, or it cannot be read.
        """
        with self._page(number) as page:
            text: str = page.get_textpage().get_text_bounded()
        return text.replace("\r\n", "\n").replace("\ufffe", "-\n")

    def render(self, number: int, max_pixels: int) -> Image:
        """Return page ``number``, counted from 1: an upright RGB image on white, with annotations and forms.

        The image is as large as ``max_pixels`` and the aspect ratio of the page allow, but at most 300 dpi.

        Raises:
            DocumentError: there is no such page, or it cannot be read.
        """
        check_count("max_pixels", max_pixels)
        with self._page(number) as page:
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
        with self._page(number) as page:
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
        text = self.text(number)
        with self._page(number) as page:
            layer = page.get_textpage()
            return [[_box_of(page, *rect) for rect in _rectangles(layer, text, *span)] for span in spans]

    @contextmanager
    def _page(self, number: int) -> Iterator[Any]:
        """Open page ``number``, counted from 1, and hold the lock while the page is open."""
        check_count("page", number)
        if number > self._pages:
            raise DocumentError(self.path, f"there is no page {number}; the last one is {self._pages}")
        with _PDFIUM:
            if self._document.raw is None:
                raise InvalidInput(f"{self.path} was closed; use it inside the `with` statement that opened it")
            if self._pages_opened == _PAGES_BEFORE_REOPENING:
                reopened = self._load()
                self._document.close()
                self._document, self._pages_opened = reopened, 0
            self._pages_opened += 1
            try:
                page = self._document[number - 1]
                try:
                    yield page
                finally:
                    page.close()
            except self._pdfium.PdfiumError as error:
                raise DocumentError(self.path, f"page {number} cannot be read") from error


def _rectangles(layer: Any, text: str, start: int, stop: int) -> Iterator[tuple[float, float, float, float]]:
    """Yield the rectangle of each line of ``text[start:stop]``: (left, bottom, right, top) in points.

    pdfium counts characters in a different way. So this function searches the page for this part of the text, and skips
    the places where the same characters occur earlier.
    """
    if not text[start:stop]:
        return
    search = layer.search(text[start:stop], match_case=True)
    found = search.get_next()
    for _ in range(text.count(text[start:stop], 0, start)):
        found = found and search.get_next()
    if found:
        for i in range(layer.count_rects(*found)):
            yield layer.get_rect(i)


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

    Raises:
        DocumentError: the file or a page cannot be read.
        MissingExtra: pypdfium2 is not installed.
    """
    with Pdf(path) as pdf:
        for number in range(1, len(pdf) + 1):
            yield Page(pdf.text(number), number, PdfPage(path, number))


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

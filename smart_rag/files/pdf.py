"""One PDF, page by page: its text layer, and the page as an image.

pdfium is not safe among threads, not even on two documents: whatever calls it here holds one lock,
and no page leaves it. A page is opened for each question and closed after it, and the document is
opened anew from time to time, so that a long PDF takes no more memory than a short one.
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
from smart_rag.files.access import check_readable
from smart_rag.files.images import fit
from smart_rag.types import Box, Span

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_DPI = 300  # more shows no more of a page that was made to be printed
_POINTS = 72  # to an inch
# A document keeps the images of all pages that were read, as they are in the file: after so many it is opened anew.
_ANSWERS = 50
_PDFIUM = threading.RLock()


class Pdf:
    """An open PDF, to be used in a ``with``; ``len`` of it is its pages.

    Raises:
        DocumentError: the file cannot be read, is encrypted, is no sound PDF or has no pages.
        MissingExtra: pypdfium2 is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            import pypdfium2
        except ImportError as error:
            raise MissingExtra("pypdfium2", "pdf", f"reading {self.path.name}") from error
        check_readable(self.path)
        self._pdfium = pypdfium2
        with _PDFIUM:
            self._document = self._opened()
            self._pages = len(self._document)
        self._answers = 0

    def _opened(self) -> Any:
        """Return pdfium's document, with the lock held."""
        raw = self._pdfium.raw
        # Not by PdfDocument itself: for a file without pages, it takes the last file's error for this one's.
        handle = raw.FPDF_LoadDocument(os.fsencode(self.path), None)
        if not handle:
            encrypted = raw.FPDF_GetLastError() == raw.FPDF_ERR_PASSWORD
            raise DocumentError(self.path, "encrypted, a password is needed" if encrypted else "not a sound PDF")
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
        """Return the text layer of a page, counted from 1; it is empty where a page is only an image.

        Raises:
            DocumentError: there is no such page, or it cannot be read.
        """
        with self._page(number) as page:
            text: str = page.get_textpage().get_text_bounded()
        return text.replace("\r\n", "\n").replace("\ufffe", "-\n")

    def render(self, number: int, max_pixels: int) -> Image:
        """Return a page, counted from 1, as it is shown: RGB on white, turned, with annotations and forms.

        It has as many pixels of ``max_pixels`` as its aspect allows, but no more than 300 to an inch.

        Raises:
            DocumentError: there is no such page, or it cannot be read.
        """
        check_count("max_pixels", max_pixels)
        with self._page(number) as page:
            width, height = page.get_size()
            columns, rows = fit(width, height, max_pixels, MAX_DPI / _POINTS)
            # pdfium rounds up: without the last factor, 800.0000001 would become 801.
            scale = min(columns / width, rows / height) * (1 - 1e-9)
            bitmap = page.render(scale=scale)
            try:
                image: Image = bitmap.to_pil()
            finally:
                bitmap.close()
        return image

    def boxes(self, number: int, spans: Sequence[Span]) -> list[list[Box]]:
        """Return where parts of a page's text stand: for each of ``spans``, characters of `text`, its boxes.

        They are (left, top, right, bottom) in parts of the page as `render` shows it. What is not found has none.

        Raises:
            DocumentError: there is no such page, or it cannot be read.
        """
        text = self.text(number)
        with self._page(number) as page:
            layer = page.get_textpage()
            return [[_shown(page, *rect) for rect in _rectangles(layer, text, *span)] for span in spans]

    @contextmanager
    def _page(self, number: int) -> Iterator[Any]:
        """Open a page, counted from 1, with the lock held."""
        check_count("page", number)
        if number > self._pages:
            raise DocumentError(self.path, f"there is no page {number}, only {self._pages}")
        with _PDFIUM:
            if self._document.raw is None:
                raise InvalidInput(f"{self.path} was closed; ask within the `with` that opened it")
            if self._answers == _ANSWERS:
                anew = self._opened()
                self._document.close()
                self._document, self._answers = anew, 0
            self._answers += 1
            try:
                page = self._document[number - 1]
                try:
                    yield page
                finally:
                    page.close()
            except self._pdfium.PdfiumError as error:
                raise DocumentError(self.path, f"page {number} cannot be read") from error


def _rectangles(layer: Any, text: str, start: int, stop: int) -> Iterator[tuple[float, float, float, float]]:
    """Yield left, bottom, right and top of a part of ``text``, in points.

    pdfium counts its characters in another way. So the part is searched for, as often as it comes up to there.
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


def _shown(page: Any, left: float, bottom: float, right: float, top: float) -> Box:
    """Return a rectangle of a page in parts of it as it is shown, turned and cut."""
    import pypdfium2

    x, y, parts = ctypes.c_int(), ctypes.c_int(), 10_000
    corners = []
    for corner in ((left, top), (right, bottom)):
        pypdfium2.raw.FPDF_PageToDevice(page, 0, 0, parts, parts, 0, *corner, x, y)
        corners.append((x.value / parts, y.value / parts))
    (ax, ay), (bx, by) = corners
    return min(ax, bx), min(ay, by), max(ax, bx), max(ay, by)


def boxes(path: str | Path, number: int, spans: Sequence[Span]) -> list[list[Box]]:
    """Return where parts of the text of one page of a PDF stand; see `Pdf.boxes` and `render`."""
    with _PDFIUM:
        return _open(path).boxes(number, spans)


def render(path: str | Path, number: int, max_pixels: int) -> Image:
    """Return one page of a PDF as an image; see `Pdf.render`. The two files asked for last stay open.

    Raises:
        DocumentError: the file or the page cannot be read.
        MissingExtra: pypdfium2 is not installed.
    """
    with _PDFIUM:  # a file that is no longer kept is closed when its last reference goes, here
        return _open(path).render(number, max_pixels)


def text(path: str | Path, number: int) -> str:
    """Return the text layer of one page of a PDF; see `Pdf.text` and `render`."""
    with _PDFIUM:
        return _open(path).text(number)


def _open(path: str | Path) -> Pdf:
    path = Path(path)
    check_readable(path)
    state = path.stat()
    return _kept(path.absolute(), state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=2)
def _kept(path: Path, mtime: int, size: int) -> Pdf:
    """Return an open PDF; a file that has changed is another."""
    pdf = Pdf(path)
    _forget_at_exit()
    return pdf


@lru_cache(maxsize=1)
def _forget_at_exit() -> None:
    """Have the files closed before pypdfium2, whose own last words come after, complains of them."""
    atexit.register(_kept.cache_clear)

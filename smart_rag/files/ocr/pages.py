"""Pages of files whose text is recognised. The worker process (`smart_rag.files.worker`) calls these functions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from smart_rag.config import check_count
from smart_rag.files.formats import images
from smart_rag.files.formats.pictures.drawn import drawing_of
from smart_rag.files.formats.readable import check_readable
from smart_rag.files.ocr.engine import LONGEST_SIDE
from smart_rag.files.ocr.recognised import Recognised, recognise_image
from smart_rag.paths import absolute
from smart_rag.types import Box, Span

# Small print of low resolution is read better if it is enlarged: 98.2 in place of 95.3 % of the words at 100 dpi.
_MOST_ENLARGED = 2.0


def recognise(path: str, number: int) -> list[Any]:
    """Return the text of page ``number`` of a file, and what it lacks: phrases for `Page.left_out`.

    The file is a PDF, an SVG or an image.

    Raises:
        DocumentError: the file or the page cannot be read.
        MissingExtra: the extra ``ocr`` is not installed.
    """
    page = _page(path, number)
    return [page.text, list(page.left_out)]


def text(path: str, number: int) -> str:
    """Return the text of a page; see `recognise`."""
    return _page(path, number).text


def boxes(path: str, number: int, spans: Sequence[Span]) -> list[list[Box]]:
    """Return the boxes of each of ``spans`` of `text`, one for each line, as fractions of the page's image."""
    page = _page(path, number)
    return [page.boxes(span) for span in spans]


def _page(path: str, number: int) -> Recognised:
    file = absolute(path)
    check_readable(file)
    state = file.stat()
    return _cached(file, check_count("page", number), state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4)
def _cached(path: Path, number: int, mtime: int, size: int) -> Recognised:
    """Return what is recognised on a page. If the file changes, its ``mtime`` or ``size`` changes."""
    if path.suffix.lower() in images.SUFFIXES:
        image = images.open_image(path, size_of=_fitting, page=number)
    else:
        drawing = drawing_of(path)
        width, height = drawing.dots(str(path), number)
        image = drawing.render_as(str(path), number, _fitting(width, height))
    return recognise_image(image)


def _fitting(width: int, height: int) -> tuple[int, int]:
    """Return the size in which an image is read: so large as the engine can take, but at most twice its own size."""
    scale = min(_MOST_ENLARGED, LONGEST_SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))

"""Formats whose pages are drawn: PDF and SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from PIL.Image import Image

from smart_rag.files.formats import pdf
from smart_rag.files.formats.pictures import svg_drawing
from smart_rag.files.formats.pictures.svg import is_svg


class Drawing(Protocol):
    """The functions that draw the pages of a format."""

    def render(self, path: str, number: int, max_pixels: int) -> Image:
        """Return page ``number`` of a file as an image of at most ``max_pixels``."""

    def dots(self, path: str, number: int) -> list[int]:
        """Return the width and the height of a page in pixels at 300 dpi."""

    def render_as(self, path: str, number: int, size: tuple[int, int]) -> Image:
        """Return a page as an image of this ``size``."""


def drawing_of(path: str | Path) -> Drawing:
    """Return the functions that draw the pages of a file: of an SVG, or else of a PDF."""
    return svg_drawing if is_svg(Path(path)) else pdf

"""Scans: images of text, and PDFs that hold nothing but such images."""

from __future__ import annotations

import io
from pathlib import Path

from fpdf import FPDF
from PIL import Image, ImageDraw, ImageFont

from smart_rag.types import Box

_SIZE = 30
_MARGIN = 60
_FONT = ImageFont.load_default(_SIZE)


def scan(*lines: str, size: tuple[int, int] = (1000, 400), left: int = _MARGIN) -> Image.Image:
    """Return an image of ``lines``."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for row, line in enumerate(lines):
        draw.text((left, _top(row)), line, "black", _FONT)
    return image


def box_of(word: str, lines: tuple[str, ...], size: tuple[int, int] = (1000, 400)) -> Box:
    """Return the box of the first ``word`` in `scan` of ``lines``, as fractions of the image."""
    row = next(i for i, line in enumerate(lines) if word in line)
    start = _MARGIN + _FONT.getlength(lines[row][: lines[row].index(word)])
    _, top, _, bottom = _FONT.getbbox(word)
    return (
        start / size[0],
        (_top(row) + top) / size[1],
        (start + _FONT.getlength(word)) / size[0],
        (_top(row) + bottom) / size[1],
    )


def scanned_pdf(path: Path, *pages: Image.Image | str) -> Path:
    """Write a PDF with a page for each image, and a page with a text layer for each text."""
    made = FPDF()
    for page in pages:
        if isinstance(page, str):
            made.add_page()
            made.set_font("Helvetica", size=12)
            made.multi_cell(0, text=page)
        else:
            data = io.BytesIO()
            page.save(data, "PNG")
            made.add_page(format=(page.width / 6, page.height / 6))
            made.image(data, 0, 0, page.width / 6, page.height / 6)
    path.write_bytes(bytes(made.output()))
    return path


def _top(row: int) -> int:
    return _MARGIN + 2 * _SIZE * row

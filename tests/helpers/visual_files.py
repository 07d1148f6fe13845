"""A folder of two pictures and a report of two pages, for tests of what becomes of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from fpdf import FPDF
from PIL import Image


def write(folder: Path) -> Path:
    """Make ``folder`` with ``boat.png``, ``chart.png`` and ``report.pdf``, and return it."""
    folder.mkdir()
    for name, seed in (("boat", 1), ("chart", 2)):
        pixels = np.random.default_rng(seed).integers(0, 255, (64, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    pdf = FPDF()
    for text in ("The boat keys hang in the hall.", "Taxes are due in April."):
        pdf.add_page()
        pdf.set_font("Helvetica", size=20)
        pdf.cell(text=text)
    pdf.output(str(folder / "report.pdf"))
    return folder

"""Files that keep a parser busy for ever, or need more memory than there is."""

from __future__ import annotations

import zlib
from pathlib import Path

from helpers.odd_files import CATALOG, FONT, PAGES, page, raw_pdf, stream


def nested_forms(path: Path) -> Path:
    """Write a PDF of 3 kB. Its page draws a form that draws a form ten times, and so on: 10 ** 9 times some words."""
    words = b"BT /F 12 Tf 60 40 Td (A few words) Tj ET"
    forms = []
    for i in range(10):
        inner = b"" if i == 9 else b"/XObject<</X %d 0 R>>" % (i + 7)
        resources = b"/Type/XObject/Subtype/Form/BBox[0 0 200 100]/Resources<</Font<</F 5 0 R>>%s>>" % inner
        forms.append(stream(words if i == 9 else b"/X Do " * 10, resources))
    first = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 100]/Contents 4 0 R/Resources<</XObject<</X 6 0 R>>>>>>"
    path.write_bytes(raw_pdf(CATALOG, PAGES, first, stream(b"/X Do"), FONT, *forms))
    return path


def many_characters(path: Path) -> Path:
    """Write a PDF of 200 kB whose page has 200 million characters, one over the other."""
    compressor = zlib.compressobj(9)
    parts = [compressor.compress(b"BT /F 12 Tf 60 40 Td -6.67 Tc ")]
    parts += [compressor.compress(b"(%s) Tj " % (b"ab " * 33_333)) for _ in range(2_000)]
    parts += [compressor.compress(b"ET"), compressor.flush()]
    content = stream(b"".join(parts), b"/Filter/FlateDecode")
    path.write_bytes(raw_pdf(CATALOG, PAGES, page(), content, FONT))
    return path


def wide_table(path: Path, columns: int = 30_000_000) -> Path:
    """Write a .docx with a table of one row, whose first cell spans ``columns``."""
    import docx

    made = docx.Document()
    made.add_paragraph("Before.")
    row = made.add_table(1, 2).rows[0]
    for cell, text in zip(row.cells, ["wide", "narrow"], strict=True):
        cell.text = text
    row.cells[0]._tc.grid_span = columns
    made.add_paragraph("After.")
    made.save(str(path))
    return path

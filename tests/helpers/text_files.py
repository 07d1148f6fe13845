"""Files with text, and the reason why one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from smart_rag.errors import DocumentError
from smart_rag.files.reader import read

PUMP = "The bearings of the seawater pump are of the type 6205-2RS, and two spares lie in the drawer."


def write(path: Path, data: bytes | str) -> Path:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def word_file(path: Path) -> Path:
    """Write a .docx with a heading, and a table between two paragraphs."""
    import docx

    made = docx.Document()
    made.add_heading("Spare parts")
    made.add_paragraph("They are kept in the workshop.")
    table = made.add_table(2, 2)
    for i, text in enumerate(["part", "drawer", "bearing", "four"]):
        table.cell(i // 2, i % 2).text = text
    made.add_paragraph("Ask Tobias for the key.")
    made.save(str(path))
    return path


def text_of(path: Path) -> str:
    """Return the text of a file without pages."""
    (page,) = read(path)
    assert page.number is None
    return page.text


def refused(path: Path) -> str:
    """Return the reason why `read` refuses ``path``. The error must name the file and have one line."""
    with pytest.raises(DocumentError) as caught:
        list(read(path))
    assert caught.value.path == path
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    assert "\n" not in caught.value.reason
    return caught.value.reason


def write_documents(folder: Path) -> Path:
    """Write a text about cats, one about dogs, and a PDF whose second page is about a pump."""
    from fpdf import FPDF

    folder.mkdir()
    (folder / "cats.txt").write_text("The cat sat on the mat. It purred all day long.")
    (folder / "dogs.md").write_text("# Dogs\n\nDogs bark at strangers in the night.")
    pdf = FPDF()
    pdf.set_font("Helvetica", size=12)
    for text in ("Half-yearly report of the station's engineer.", PUMP):
        pdf.add_page()
        pdf.multi_cell(0, 8, text)
    pdf.output(str(folder / "report.pdf"))
    return folder

"""HTML files, as the text that a browser shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from smart_rag.errors import MissingExtra
from smart_rag.files.formats.encoding import decode
from smart_rag.files.formats.page import Page


def read_html(path: Path) -> Iterator[Page]:
    """Yield the visible text of an HTML file as one page.

    Raises:
        DocumentError: the file holds binary data.
        MissingExtra: inscriptis is not installed.
    """
    try:
        from inscriptis import get_text
    except ImportError as error:
        raise MissingExtra("inscriptis", "html", f"reading {path.name}") from error
    found = decode(path.read_bytes(), path, is_html=True)
    yield Page(get_text(found.text), left_out=found.left_out)

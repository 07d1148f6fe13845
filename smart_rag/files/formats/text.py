"""Plain text and Markdown, in any usual encoding."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from smart_rag.files.formats.encoding import decode
from smart_rag.files.formats.page import Page


def read_text(path: Path) -> Iterator[Page]:
    """Yield the text of a file as one page; see `smart_rag.files.formats.encoding`.

    Raises:
        DocumentError: the file holds binary data.
    """
    found = decode(path.read_bytes(), path)
    yield Page(found.text, left_out=found.left_out)

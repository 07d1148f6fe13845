"""Plain text and Markdown, in any usual encoding."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from smart_rag.errors import DocumentError
from smart_rag.files.formats.page import Page


def decode(path: Path) -> str:
    """Return the text of a file. If it is not UTF-8, charset-normalizer detects the encoding.

    Raises:
        DocumentError: the file holds binary data.
    """
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        from charset_normalizer import from_bytes

        best = from_bytes(data).best()
        text = "\0" if best is None else str(best)
    if "\0" in text:
        raise DocumentError(path, "binary data, not text")
    return text


def read_text(path: Path) -> Iterator[Page]:
    """Yield the text of a file as one page.

    Raises:
        DocumentError: the file holds binary data.
    """
    yield Page(decode(path))

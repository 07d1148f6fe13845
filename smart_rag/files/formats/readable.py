"""Before a file is parsed, check that it can be read."""

from __future__ import annotations

from pathlib import Path

from smart_rag.errors import DocumentError

EMPTY = "the file is empty"


def check_readable(path: Path) -> None:
    """Raise `DocumentError` unless ``path`` is a file that can be opened and that is not empty."""
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except (OSError, ValueError) as error:  # ValueError: the path contains a NUL
        raise DocumentError(path, f"cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if empty:
        raise DocumentError(path, EMPTY)

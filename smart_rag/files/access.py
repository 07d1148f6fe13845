"""What every reader and writer of files asks first, before a parser gives its own opinion."""

from __future__ import annotations

from pathlib import Path

from smart_rag.errors import DocumentError, InvalidInput


def check_readable(path: Path) -> None:
    """Raise `DocumentError` unless ``path`` is a file with something in it that may be read."""
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DocumentError(path, f"cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if empty:
        raise DocumentError(path, "the file is empty")


def check_folder(path: Path) -> None:
    """Raise `InvalidInput` if no folder can be at ``path``, as there is a file, or one on the way to it."""
    there = next(part for part in (path.absolute(), *path.absolute().parents) if part.exists())
    if not there.is_dir():
        raise InvalidInput(f"{there} is a file, where a folder is to be; choose another place")


def one_line(error: Exception) -> str:
    """Return a parser's own words in one line, its name where it has none, to be quoted in a reason."""
    return " ".join(str(error).split()) or type(error).__name__

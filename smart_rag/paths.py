"""Paths and model names that a caller gives. Paths become absolute once, when they enter the library.

This module also gives the folder in which smart_rag remembers what this user has named.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
import weakref
from pathlib import Path

from smart_rag.config import DEFAULT_MODEL
from smart_rag.errors import InvalidInput, StorageFull


def absolute(path: str | Path) -> Path:
    """Return ``path`` in full, so that it stays valid if the program changes its working directory.

    ``~`` is the home folder. Links are not resolved. If no user has the name after ``~``, the path is taken as it is,
    because Word makes files such as ``~$report.docx``.

    Raises:
        InvalidInput: the path is empty, or has a NUL character, which no file name has.
    """
    if path == "":  # such as that of a variable that is not set. Path("") would be the working directory
        raise InvalidInput("a path is empty; expected the name of a file or folder, or '.' for the folder you are in")
    if "\0" in str(path):
        raise InvalidInput(f"a path with a NUL character cannot exist: {str(path)!r}")
    return Path(os.path.expanduser(path)).absolute()


def shown(path: str | Path) -> str:
    r"""Return ``path`` on one line, for messages. Bytes that are no UTF-8 and control characters are escaped.

    >>> shown("a\nb.txt")
    'a\\nb.txt'
    """
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def user_folder() -> Path:
    """Return the folder in which smart_rag remembers what this user has named, such as ``~/.config/smart_rag``.

    The environment variable ``SMART_RAG_HOME`` can name another folder.
    """
    from typer import get_app_dir

    return absolute(os.environ.get("SMART_RAG_HOME") or get_app_dir("smart_rag"))


def cache_folder() -> Path:
    """Return the folder for files that smart_rag can make again, such as ``~/.cache/smart_rag``.

    The environment variable ``SMART_RAG_CACHE`` can name another folder.
    """
    given = os.environ.get("SMART_RAG_CACHE")
    return absolute(given or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "smart_rag"))


def bytes_below(folder: Path) -> int:
    """Return the number of bytes of all files in ``folder`` and below it."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def is_writable(path: Path) -> bool:
    """Return whether this user can write to ``path``, a file or a folder. The result is False if there is none."""
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def temporary_folder(owner: object) -> Path:
    """Return a new folder for temporary files. It is removed when ``owner`` is freed, or when the process ends.

    A forked process leaves the folder to its parent.
    """
    folder = Path(tempfile.mkdtemp(prefix="smart_rag_"))
    weakref.finalize(owner, _remove_in, os.getpid(), folder)
    return folder


def _remove_in(process: int, folder: Path) -> None:
    if process == os.getpid():
        shutil.rmtree(folder, ignore_errors=True)


def write_whole(path: Path, text: str) -> None:
    """Write ``text`` to the file ``path``. After a crash, the file is the old one or the new one, never a part.

    Raises:
        StorageFull: the disk is full. The old file stays.
    """
    # A unique name, because another process or thread may write the same file.
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.new")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise StorageFull(f"{path.parent}: no space left on the disk; make room and try again") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_room(folder: Path, needed: int) -> None:
    """Raise `StorageFull` if the disk with ``folder`` has less than ``needed`` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageFull(
            f"{folder}: no space left on the disk: this write needs about {needed / 1e6:.1f} MB, {free / 1e6:.1f} MB "
            "are free; make room and try again"
        )


def model_location(model: str | Path) -> str:
    """If ``model`` is a folder, return its full path. If it is the name of a model, return it unchanged.

    Raises:
        InvalidInput: ``model`` is empty, or is neither a str nor a path.
    """
    if not isinstance(model, str | Path) or not str(model).strip():
        raise InvalidInput(f"a model must be the name of a model or its folder, got {model!r:.80}")
    if model == DEFAULT_MODEL:
        return DEFAULT_MODEL
    is_folder = isinstance(model, Path) or model.startswith("~") or Path(model).exists()
    return str(absolute(model) if is_folder else model)

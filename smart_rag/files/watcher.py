"""Watch files and folders, and say which files have changed."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from smart_rag.errors import InvalidInput
from smart_rag.files.ignored import NAMES
from smart_rag.paths import shown

# Milliseconds of quiet after which changes are told. An editor writes a file in several steps.
_QUIET = 300
# After so many milliseconds, and then again and again, it is known that the system tells changes.
_FIRST = 1_000


def changes(paths: Sequence[Path], own: Path) -> Iterator[set[Path]]:
    """Yield the paths at or below ``paths`` that have changed, come or gone, whenever there are some.

    Hidden files do not count, unless ``paths`` name them. As soon as changes are noticed, ``paths`` themselves are
    yielded once, because something may have changed before. A path that does not exist, or that may not be read, is
    looked for every second.

    Args:
        paths: files and folders.
        own: a folder whose changes do not count, such as that of an index.

    Raises:
        InvalidInput: the path of a folder is not UTF-8, which watchfiles cannot watch.
    """
    is_lost = polls = False
    while True:
        # A folder that came, went, or was replaced by another one is watched anew: the system tells nothing of it.
        places = [Path(os.path.realpath(path)) for path in paths]
        # A file that is watched itself would be lost when an editor replaces it. So its folder is watched.
        folders = {place.parent if os.path.isfile(place) else place for place in places}
        numbers = {folder: _number(folder) for folder in folders}
        for folder in folders:
            if not _is_utf8(folder):
                raise InvalidInput(
                    f"{shown(folder)}: a folder cannot be watched if its path is not UTF-8; rename it, or index it "
                    "again after changes"
                )
        if any(numbers.values()):
            polls = yield from _changes(places, numbers, Path(os.path.realpath(own)), polls)
        elif not is_lost:
            yield set(places)
        is_lost = not any(numbers.values())
        time.sleep(_FIRST / 1000)


def _changes(
    places: Sequence[Path], numbers: dict[Path, int | None], own: Path, polls: bool
) -> Generator[set[Path], None, bool]:
    """Do the same as `changes`, until one of the folders has another number than in ``numbers``.

    With ``polls``, the folders are read again and again. Return whether this is needed from now on.
    """
    from watchfiles import watch
    from watchfiles._rust_notify import WatchfilesRustInternalError

    watched = [folder for folder, number in numbers.items() if number is not None]
    options = {"step": _QUIET, "rust_timeout": _FIRST, "yield_on_timeout": True, "ignore_permission_denied": True}
    options |= {"force_polling": True, "poll_delay_ms": _FIRST} if polls else {}
    is_first = True
    try:
        for batch in watch(*watched, watch_filter=None, **options):  # type: ignore[arg-type]
            changed = {path for _, name in batch if _counts(path := Path(name), places, own)}
            if changed or is_first:
                yield changed.union(places) if is_first else changed
            is_first = False
            if any(_number(folder) != number for folder, number in numbers.items()):
                yield set(places)
                return polls
    except (FileNotFoundError, PermissionError):  # since the folder was looked at, it has gone
        return polls
    except WatchfilesRustInternalError:
        # A name that is not UTF-8. The system tells of it whenever it is read, and watchfiles then ends. Where the
        # folders are read again and again, watchfiles ends only when such a file changes.
        return True
    return polls


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _number(folder: Path) -> int | None:
    """Return the number by which the system knows ``folder``. Return None if there is none, or it may not be read."""
    try:
        return folder.stat().st_ino
    except OSError:
        return None


def _counts(path: Path, places: Sequence[Path], own: Path) -> bool:
    """Return whether ``path`` is at or below one of ``places`` and not hidden there. Files of patterns always count."""
    if path.is_relative_to(own):
        return False
    below = [path.relative_to(place).parts for place in places if path.is_relative_to(place)]
    return any(not any(part.startswith(".") for part in parts if part not in NAMES) for parts in below)

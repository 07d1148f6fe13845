"""Watch files and folders, and say which files have changed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

# Milliseconds of quiet after which changes are told. An editor writes a file in several steps.
_QUIET = 300
# After so many milliseconds, and then again and again, it is known that the system tells changes.
_FIRST = 1_000


def changes(paths: Sequence[Path], own: Path) -> Iterator[set[Path]]:
    """Yield the paths at or below ``paths`` that have changed, come or gone, whenever there are some.

    As soon as changes are noticed, ``paths`` themselves are yielded once, because something may have changed before.

    Args:
        paths: files and folders.
        own: a folder whose changes do not count, such as that of an index.
    """
    while True:
        yield from _changes(paths, own)
        # A folder was replaced by another one, of which the system tells nothing. So it is watched anew.
        while not all(path.exists() for path in paths):
            time.sleep(_FIRST / 1000)


def _changes(paths: Sequence[Path], own: Path) -> Iterator[set[Path]]:
    """Do the same as `changes`, until one of the folders is gone or replaced."""
    from watchfiles import watch

    places = [path.resolve() for path in paths]
    # A file that is watched itself would be lost when an editor replaces it. So its folder is watched.
    folders = {place if place.is_dir() else place.parent for place in places}
    watched = {folder: folder.stat().st_ino for folder in folders}
    options = {"step": _QUIET, "rust_timeout": _FIRST, "yield_on_timeout": True, "ignore_permission_denied": True}
    is_first = True
    for batch in watch(*folders, watch_filter=None, **options):  # type: ignore[arg-type]
        changed = {path for _, name in batch if any(map((path := Path(name)).is_relative_to, places))}
        changed = {path for path in changed if not path.is_relative_to(own.resolve())}
        if changed or is_first:
            yield changed.union(places) if is_first else changed
        is_first = False
        if any(not folder.exists() or folder.stat().st_ino != number for folder, number in watched.items()):
            yield set(places)
            return

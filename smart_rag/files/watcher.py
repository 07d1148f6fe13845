"""Watch files and folders, and say which files have changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from smart_rag.files.finder import Found

# Milliseconds of quiet after which changes are told. An editor writes a file in several steps.
_QUIET = 300


def changes(paths: Sequence[Path], find: Callable[[], Found], own: Path) -> Iterator[list[Path]]:
    """Yield the files at or below ``paths`` that have changed, and paths that are gone, whenever there are some.

    Args:
        paths: files and folders.
        find: returns the files at and below ``paths`` that are wanted.
        own: a folder whose changes do not count, such as that of an index.
    """
    from watchfiles import watch

    places = [path.resolve() for path in paths]
    # A file that is watched itself would be lost when an editor replaces it. So its folder is watched.
    folders = {place if place.is_dir() else place.parent for place in places}
    for batch in watch(*folders, watch_filter=None, step=_QUIET, raise_interrupt=True, ignore_permission_denied=True):
        changed = {Path(name) for _, name in batch}
        changed = {path for path in changed if any(map(path.is_relative_to, places))}
        changed = {path for path in changed if not path.is_relative_to(own.resolve())}
        wanted = _wanted(changed, find()) if changed else []
        if wanted:
            yield wanted


def _wanted(changed: Collection[Path], found: Found) -> list[Path]:
    """Return the files of ``found`` that have changed or lie in a changed folder, and the paths that are gone."""
    gone = [path for path in changed if not path.exists()]
    folders = [path for path in changed if path.is_dir()]
    files = [file for file in found.files if file in changed or any(map(file.is_relative_to, folders))]
    return sorted({*gone, *files})

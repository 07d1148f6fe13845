"""`index --watch`: take up changes of files as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from smart_rag.cli.console import note
from smart_rag.errors import IndexLocked
from smart_rag.files.finder import Found
from smart_rag.reports import AddReport
from smart_rag.wording import number

# Milliseconds of quiet after which changes are taken up. An editor writes a file in several steps.
_QUIET = 300
# While another process writes, the next try is after so many seconds.
_SECONDS_TO_WAIT = 2.0


def follow(
    paths: Sequence[Path], find: Callable[[], Found], add: Callable[[Sequence[Path]], AddReport], own: Path
) -> Iterator[AddReport]:
    """Whenever files at or below ``paths`` change, write these files, and yield the report. Ctrl-C ends it.

    Args:
        paths: files and folders.
        find: returns the files at and below ``paths`` that are wanted.
        add: writes files, and removes the documents of files that no longer exist.
        own: a folder whose changes do not count: that of the index.
    """
    from watchfiles import watch

    places = [path.resolve() for path in paths]
    note(f"watching {', '.join(map(str, paths))}; Ctrl-C ends it", "dim")
    # A file that is watched itself would be lost when an editor replaces it. So its folder is watched.
    folders = {place if place.is_dir() else place.parent for place in places}
    changes = watch(*folders, watch_filter=None, step=_QUIET, raise_interrupt=True, ignore_permission_denied=True)
    for batch in changes:
        changed = {Path(name) for _, name in batch}
        changed = {
            path for path in changed if any(map(path.is_relative_to, places)) and not path.is_relative_to(own.resolve())
        }
        if not changed:
            continue
        wanted = _wanted(changed, find())
        if wanted:
            yield _added(wanted, add)


def _wanted(changed: Collection[Path], found: Found) -> list[Path]:
    """Return the files of ``found`` that have changed or lie in a changed folder, and the paths that are gone."""
    gone = [path for path in changed if not path.exists()]
    folders = [path for path in changed if path.is_dir()]
    files = [file for file in found.files if file in changed or any(map(file.is_relative_to, folders))]
    return sorted({*gone, *files})


def _added(wanted: Sequence[Path], add: Callable[[Sequence[Path]], AddReport]) -> AddReport:
    """Return the report of ``add``. While another process writes to the index, try again and again."""
    is_told = False
    while True:
        try:
            return add(wanted)
        except IndexLocked as error:
            if not is_told:
                note(f"{error}; {number(len(wanted), 'changed file')} will be tried again", "yellow")
            is_told = True
            time.sleep(_SECONDS_TO_WAIT)

"""Files whose documents are in an index: list them, and see whether they still exist."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path

from smart_rag.files.reader import source_of
from smart_rag.reports import IndexedFile
from smart_rag.store.pooled_store import PooledStore
from smart_rag.store.row import OF_FILES


def indexed_files(pooled: PooledStore) -> list[IndexedFile]:
    """Return the files whose documents are stored, sorted by path."""
    counts = Counter(map(source_of, pooled.ids(OF_FILES)))
    return [IndexedFile(Path(source), count, is_file(Path(source))) for source, count in sorted(counts.items())]


def ids_below(
    pooled: PooledStore, roots: Collection[Path], wanted: Callable[[Path], bool] = lambda _: True
) -> list[str]:
    """Return the ids of the documents of files that are at or below one of ``roots`` and that are ``wanted``."""
    places = set(roots)

    @cache
    def is_one(source: str) -> bool:
        path = Path(source)
        return is_below(path, places) and wanted(path)

    if not places:
        return []
    # This looks at ids first, because reading every row takes twenty times as long.
    ids = [id for id in pooled.ids() if is_one(source_of(id))]
    return [id for id, row in pooled.get(ids).items() if row.stamp is not None]


def is_below(path: Path, roots: Collection[Path]) -> bool:
    """Return whether ``path`` is one of the set ``roots``, or below one of them."""
    return any(place in roots for place in (path, *path.parents))


def is_gone(path: Path) -> bool:
    """Return whether there is certainly no file of this path any more.

    If its folder may not be read, nobody knows. A folder in the place of a file is not this file. If the path is, or
    lies behind, a link, it is a name of another path, by which `find` finds this file.
    """
    exists = is_file(path)
    return exists is False or (exists is True and os.path.realpath(path) != str(path))


def is_file(path: Path) -> bool | None:
    """Return whether ``path`` is a file. The result is None if the system does not say, because of permissions."""
    mode = _mode(path)
    return None if mode is None else stat.S_ISREG(mode)


def is_missing(path: Path) -> bool:
    """Return whether there is certainly nothing at ``path``."""
    return _mode(path) == 0


def _mode(path: Path) -> int | None:
    """Return the mode of ``path``, 0 if there is nothing, or None if the system does not say."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError:
        return None

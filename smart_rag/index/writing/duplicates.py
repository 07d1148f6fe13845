"""`Duplicates`: the files that were left out of an index because another file has the same bytes and suffix.

Of such files, one is in the index. The file ``duplicates.json`` in the folder of the index remembers each of the others
by its path and the digest of its bytes. So if the one file is changed, removed or left out, another takes its place
(`smart_rag.index.writing.moves`).

What is remembered may no longer be true, and in an index from elsewhere, anybody may have written it. So a path is used
only if the index may read it, and if a file is there that still has these bytes. If ``duplicates.json`` is missing or
damaged, nothing is remembered until the next look at the files.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from smart_rag.paths import write_whole
from smart_rag.values import is_unicode

logger = logging.getLogger(__name__)

FILE_NAME = "duplicates.json"
# A larger file was not written by smart_rag.
_MOST_BYTES = 1 << 26


class Duplicates:
    """The paths of duplicates, with the digests of their bytes. ``folder`` is the folder of the index."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE_NAME
        self._digests = _read(self._file)
        self._saved = dict(self._digests)
        self._paths: dict[tuple[str, str], dict[Path, None]] = {}
        for path, digest in self._digests.items():
            self._paths.setdefault(_content(path, digest), {})[path] = None

    @classmethod
    @contextmanager
    def of(cls, folder: Path) -> Iterator[Duplicates]:
        """Yield the duplicates of the index in ``folder``, and save them when the block ends, also by an error.

        Only a process that may write to the index may call this.
        """
        duplicates = cls(folder)
        try:
            yield duplicates
        finally:
            duplicates.save()

    def __len__(self) -> int:
        return len(self._digests)

    def with_bytes(self, digest: str, suffix: str) -> list[Path]:
        """Return the paths that had the bytes with this ``digest``. Their suffixes may differ from ``suffix`` by case.

        They are in the order in which they were added.
        """
        return list(self._paths.get((digest, suffix.lower()), ()))

    def add(self, path: Path, digest: str) -> None:
        """Remember that the file ``path`` is left out, and has the bytes with this ``digest``."""
        self.forget(path)
        self._digests[path] = digest
        self._paths.setdefault(_content(path, digest), {})[path] = None

    def forget(self, path: Path) -> None:
        """Forget ``path``: it is in the index, or it is not wanted there."""
        digest = self._digests.pop(path, None)
        if digest is not None:
            del self._paths[_content(path, digest)][path]

    def forget_all(self, unwanted: Callable[[Path], bool]) -> None:
        """Forget all ``unwanted`` paths."""
        for path in [path for path in self._digests if unwanted(path)]:
            self.forget(path)

    def save(self) -> None:
        """Write what is remembered, if it has changed.

        Raises:
            StorageFull: the disk is full.
        """
        if self._digests == self._saved:
            return
        if self._digests:
            write_whole(self._file, json.dumps({str(path): self._digests[path] for path in sorted(self._digests)}))
        else:
            self._file.unlink(missing_ok=True)
        self._saved = dict(self._digests)


def _content(path: Path, digest: str) -> tuple[str, str]:
    return digest, path.suffix.lower()


def _read(file: Path) -> dict[Path, str]:
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise ValueError(f"more than {_MOST_BYTES:,} bytes")
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not all(map(_is_entry, found, found.values())):
            raise ValueError("expected an object of paths and digests")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        logger.warning(
            "%s: cannot be read (%s), so the index no longer knows which other files have the same bytes as those in "
            "it; add the files again",
            *(file, error),
        )
        return {}
    return {Path(path): digest for path, digest in found.items()}


def _is_entry(path: object, digest: object) -> bool:
    return isinstance(path, str) and "\0" not in path and is_unicode(path) and isinstance(digest, str)

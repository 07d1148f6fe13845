"""`Sources`: the files and folders whose images and videos an index may read.

A row names the file of its image. If somebody else made the index, the row may name any file of this machine. If such
a file is read, others may see it: a language model that gets it in a prompt, or people to whom a program shows the
hit. So an index reads only files in its own folder and files that its user has named. The user names a file in a call
that adds it, or with ``sources=``. Files that a call adds are remembered in the user's own folder
(`smart_rag.paths.user_folder`), under the id of the index. Nobody can guess this id.

If the user has made the index on this machine, the addresses on the web in its rows come from the user's own programs.
In an index from elsewhere, they may come from anybody.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from smart_rag.paths import absolute, user_folder

logger = logging.getLogger(__name__)

# It becomes the name of a file.
_ID = re.compile("[0-9a-f]{32}")


class Sources:
    """The files and folders that an index may read.

    Args:
        folder: the folder of the index.
        id: the id of the index. None if the index has no id.
        given: files and folders that the caller names.
    """

    def __init__(self, folder: Path, id: str | None = None, given: Iterable[str | Path] = ()) -> None:
        self._folder = folder
        self.given = tuple(map(absolute, given))
        self._named = {_real(folder), *map(_real, self.given), *(_real(path.parent) / path.name for path in self.given)}
        self._record: Path | None = None
        self.is_own = False  # whether this user has made the index on this machine
        self.remember(id)

    def remember(self, id: str | None) -> None:
        """From now on, record under ``id`` each path that is named.

        Also admit the paths that are already recorded there.
        """
        if id is None or not _ID.fullmatch(id):
            return
        self._record = user_folder() / "sources" / f"{id}.txt"
        self.is_own = self._record.with_suffix(".own").is_file()
        if self._record.is_file():
            lines = self._record.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
            self._named |= {Path(line) for line in lines if line}

    def admit(self, folder: Path) -> None:
        """Admit the files in ``folder``, but only in this session."""
        self._named.add(_real(folder))

    def own(self) -> None:
        """Remember that this user has made the index on this machine."""
        self.is_own = True
        if self._record is not None:
            self._write(self._record.with_suffix(".own"), ())

    def name(self, paths: Iterable[Path]) -> None:
        """Admit ``paths``, now and in later sessions. The user of the index has named them."""
        given = [path for path in map(absolute, paths) if not self.admits(path)]
        # A file may be a link. `admits` looks for the link itself.
        new = {place for path in given for place in (_real(path), _real(path.parent) / path.name)}
        if not new:
            return
        self._named |= new
        if self._record is not None:
            self._write(self._record, (f"{path}\n" for path in sorted(new) if "\n" not in str(path)))

    def _write(self, file: Path, lines: Iterable[str]) -> None:
        """Append ``lines`` to ``file``. If this is not possible, log a warning."""
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a", encoding="utf-8", errors="surrogateescape") as opened:
                opened.writelines(lines)
        except OSError as error:
            logger.warning(
                "cannot remember the sources of the index in %s (%s); name them by sources= when you open it again",
                *(self._folder, error),
            )

    def admits(self, path: Path) -> bool:
        """Return whether the index may read ``path``.

        A link in a folder that was named must not lead out of this folder, unless the link itself was named.
        """
        real = _real_folder(path.parent) / path.name
        if os.path.islink(real) and real not in self._named:
            real = _real(real)
        return not self._named.isdisjoint([real, *real.parents])


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # `Path.resolve` raises an error if links lead in a circle


@lru_cache(1024)
def _real_folder(path: Path) -> Path:
    """Return ``path`` without links. The cache saves a slow system call for each of many documents in one folder."""
    return _real(path)

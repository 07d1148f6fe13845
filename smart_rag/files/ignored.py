"""`Ignored`: the files that ``.gitignore`` and ``.smartragignore`` leave out, each for its folder and all below it."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from smart_rag.reports import FailedFile

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

# The later one of a folder decides.
NAMES = (".gitignore", ".smartragignore")
# Of wildcards in one part of a pattern, and of parts that stand for any number of folders.
_MOST_WILDCARDS = 3
_MOST_CHARACTERS = 1 << 20
_MOST_NAMED = 5


def folders_of_repository(folder: Path) -> list[Path]:
    """Return the folders above ``folder`` that belong to the same repository, the highest first."""
    if os.path.exists(folder / ".git"):  # it says no where `Path.exists` raises an error, because of permissions
        return []
    parents = list(folder.parents)
    for i, parent in enumerate(parents):
        if os.path.exists(parent / ".git"):
            return parents[i::-1]
    return []


def _read(file: Path) -> tuple[GitIgnoreSpec, list[int]]:
    """Return the patterns in ``file``, and the numbers of the lines that cannot be used."""
    from pathspec import GitIgnoreSpec

    with file.open(encoding="utf-8", errors="surrogateescape") as opened:
        lines = opened.read(_MOST_CHARACTERS).splitlines()
    usable, unusable = [], []
    for number, line in enumerate(lines, 1):
        try:
            if _takes_too_long(line):
                raise ValueError
            GitIgnoreSpec.from_lines([line])
            usable.append(line)
        except (ValueError, re.error):
            unusable.append(number)
    return GitIgnoreSpec.from_lines(usable), unusable


def _takes_too_long(pattern: str) -> bool:
    """Return whether comparing ``pattern`` with a name could take very long: pathspec tries all ways to match it."""
    parts = pattern.split("/")
    return parts.count("**") > _MOST_WILDCARDS or any(part.count("*") > _MOST_WILDCARDS for part in parts)


@dataclass(frozen=True, slots=True)
class Ignored:
    """The patterns of a folder and of the folders above it. The patterns of a deeper folder decide.

    The syntax is Git's. The package pathspec compares a path with the patterns.
    """

    patterns: tuple[tuple[Path, str, GitIgnoreSpec], ...] = ()

    def inside(self, folder: Path, names: Collection[str]) -> tuple[Ignored, list[FailedFile]]:
        """Return these patterns and those of ``folder``, and what of its files could not be used.

        ``names`` are the names of the files in ``folder``. As in Git, a link is not followed.
        """
        found = list(self.patterns)
        failed = []
        for name in NAMES:
            file = folder / name
            if name not in names or os.path.islink(file) or not os.path.isfile(file):
                continue
            try:
                spec, unusable = _read(file)
            except OSError as error:
                failed.append(FailedFile(file, f"its patterns cannot be read ({error.strerror or error})"))
                continue
            found.append((folder, name, spec))
            if unusable:
                lines = ", ".join(map(str, unusable[:_MOST_NAMED]))
                failed.append(FailedFile(file, f"no sound pattern, or one with too many wildcards, in line {lines}"))
        return (Ignored(tuple(found)) if len(found) > len(self.patterns) else self), failed

    def by(self, path: Path, is_folder: bool) -> str:
        """Return the name of the file that leaves ``path`` out. It is empty if none does."""
        for folder, name, spec in reversed(self.patterns):
            below = path.relative_to(folder).as_posix() + ("/" if is_folder else "")
            answer = spec.check_file(below).include
            if answer is not None:
                return name if answer else ""
        return ""

"""`Ignored`: the files that ``.gitignore`` and ``.smartragignore`` leave out, each for its folder and all below it.

The rules are Git's. What is below an ignored folder is never looked at. A folder that the caller names is looked at,
even if a file of patterns above it leaves it out.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from smart_rag.files.git_patterns import Pattern
from smart_rag.reports import FailedFile

# The later one of a folder decides.
NAMES = (".gitignore", ".smartragignore")
# Of a file, and of the patterns in it. Nobody writes so many, and comparing takes time for each.
_MOST_BYTES = 1 << 24
_MOST_PATTERNS = 10_000
_MOST_BYTES_OF_PATTERNS = 1 << 18
# Of the patterns with wildcards, which take a hundred times as long to compare.
_MOST_WILDCARDS = 2_000
_BOM = b"\xef\xbb\xbf"


def folders_of_repository(folder: Path) -> list[Path]:
    """Return the folders above ``folder`` that belong to the same repository, the highest first."""
    if os.path.exists(folder / ".git"):  # it says no where `Path.exists` raises an error, because of permissions
        return []
    parents = list(folder.parents)
    for i, parent in enumerate(parents):
        if os.path.exists(parent / ".git"):
            return parents[i::-1]
    return []


def _read(file: Path) -> tuple[list[Pattern], str]:
    """Return the patterns in ``file``, the last one first, and which of them are not used. Empty if all are."""
    with file.open("rb") as opened:
        text = opened.read(_MOST_BYTES + 1)
    found: list[Pattern] = []
    size = wildcards = 0
    for line_number, line in enumerate(text[:_MOST_BYTES].removeprefix(_BOM).split(b"\n"), 1):
        size += 0 if line.startswith(b"#") else len(line)
        if len(found) == _MOST_PATTERNS or size > _MOST_BYTES_OF_PATTERNS or wildcards == _MOST_WILDCARDS:
            return found[::-1], f"too many patterns; those from line {line_number:,} on are not used"
        pattern = Pattern.of(line.removesuffix(b"\r"))
        if pattern is not None:
            found.append(pattern)
            wildcards += not isinstance(pattern.expression, bytes)
    return found[::-1], f"only its first {_MOST_BYTES >> 20} MB are read" if len(text) > _MOST_BYTES else ""


@dataclass(frozen=True, slots=True)
class Ignored:
    """The patterns of a folder and of the folders above it. The patterns of a deeper folder decide."""

    patterns: tuple[tuple[Path, str, list[Pattern]], ...] = ()

    def inside(self, folder: Path) -> tuple[Ignored, list[FailedFile]]:
        """Return these patterns and those of ``folder``, and what of its files could not be used.

        As in Git, a link is not followed.
        """
        found = list(self.patterns)
        failed = []
        for name in NAMES:
            file = folder / name
            if os.path.islink(file) or not os.path.isfile(file):
                continue
            try:
                patterns, reason = _read(file)
            except OSError as error:
                failed.append(FailedFile(file, f"its patterns cannot be read ({error.strerror or error})"))
                continue
            found.append((folder, name, patterns))
            if reason:
                failed.append(FailedFile(file, reason))
        return (Ignored(tuple(found)) if len(found) > len(self.patterns) else self), failed

    def by(self, path: Path, is_folder: bool) -> str:
        """Return the name of the file that leaves ``path`` out. It is empty if none does."""
        name = os.fsencode(path.name)
        for folder, file, patterns in reversed(self.patterns):
            below = os.fsencode(path.relative_to(folder).as_posix())
            for pattern in patterns:
                if pattern.matches(below, name, is_folder):
                    return "" if pattern.takes else file
        return ""

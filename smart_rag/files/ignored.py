"""`Ignored`: the files that ``.gitignore`` and ``.smartragignore`` leave out, each for its folder and all below it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from smart_rag.errors import DocumentError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

# The later one of a folder decides.
NAMES = (".gitignore", ".smartragignore")


def folders_of_repository(folder: Path) -> list[Path]:
    """Return the folders above ``folder`` that belong to the same repository, the highest first."""
    if (folder / ".git").exists():
        return []
    parents = list(folder.parents)
    for i, parent in enumerate(parents):
        if (parent / ".git").exists():
            return parents[i::-1]
    return []


@dataclass(frozen=True, slots=True)
class Ignored:
    """The patterns of a folder and of the folders above it. The patterns of a deeper folder decide.

    The syntax is Git's. The package pathspec compares a path with the patterns.
    """

    patterns: tuple[tuple[Path, str, GitIgnoreSpec], ...] = ()

    def inside(self, folder: Path, names: Collection[str]) -> Ignored:
        """Return these patterns and those of ``folder``. ``names`` are the names of the files in it.

        Raises:
            DocumentError: one of the two files cannot be read.
        """
        from pathspec import GitIgnoreSpec

        found = list(self.patterns)
        for name in NAMES:
            if name in names and (folder / name).is_file():
                try:
                    lines = (folder / name).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
                    found.append((folder, name, GitIgnoreSpec.from_lines(lines)))
                except (OSError, ValueError) as error:
                    raise DocumentError(folder / name, f"its patterns cannot be read ({error})") from error
        return Ignored(tuple(found)) if len(found) > len(self.patterns) else self

    def by(self, path: Path, is_folder: bool) -> str:
        """Return the name of the file that leaves ``path`` out. It is empty if none does."""
        for folder, name, spec in reversed(self.patterns):
            below = path.relative_to(folder).as_posix() + ("/" if is_folder else "")
            answer = spec.check_file(below).include
            if answer is not None:
                return name if answer else ""
        return ""

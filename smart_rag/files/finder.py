"""Find files: those at and below some paths that can be read, and those that are left out, with the reasons.

Nothing that is found ends the search: not a folder that cannot be listed, not a name that is no text, not a loop of
links. Whatever is left out is in the result.
"""

from __future__ import annotations

import logging
import os
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from smart_rag.errors import InvalidInput
from smart_rag.files.formats.known import format_of, suffix_of
from smart_rag.files.ignored import Ignored, folders_of_repository
from smart_rag.files.reader import suffixes
from smart_rag.paths import absolute, shown
from smart_rag.reports import FailedFile, SkippedFile
from smart_rag.values import is_unicode
from smart_rag.wording import number, size_text

logger = logging.getLogger(__name__)

# A warning names at most this number of files.
_MOST_NAMES = 5
_MOST_FORMATS = 8
ALL_MODALITIES = ("text", "image", "video")
_MEGABYTE = 10**6
# Folders that programs fill. Nobody wrote the files in them to be read.
_OF_PROGRAMS = ("node_modules", "__pycache__", "__MACOSX")
# A folder with all names of one of these sets belongs to a program, too: a cache, a Python's packages, an index.
_MARKS = ({"CACHEDIR.TAG"}, {"pyvenv.cfg"}, {"CMakeCache.txt"}, {"manifest.json", "chroma", "tokens"})
# So do folders with these names, beside the file of a project whose program makes them.
_BUILT = ("build", "dist", "out", "target")
_PROJECTS = {
    *("pyproject.toml", "setup.py", "package.json", "Cargo.toml", "pom.xml", "build.gradle", "build.gradle.kts"),
    *("CMakeLists.txt", "meson.build"),
}

HIDDEN = "hidden"
EXCLUDED = "named by exclude"
NOT_INCLUDED = "not named by include"
OF_PROGRAMS = "a folder that programs fill"
LINK_OUT = "a link that leads out of the named folders"
SAME_FILE = "the same file as another"
TOO_LARGE = "larger than max_file_size"
NO_FILE = "neither a file nor a folder"
OTHER_MODALITY = "needs a model that takes"
UNKNOWN_TYPE = "of a type that is not read"
SAME_CONTENT = "the same content as another file"
IGNORED = "ignored by"
# Why a path that the caller names fails.
MISSING = "does not exist; expected a file or a folder of documents"
# The user has asked for these, or nobody expects them to be read. So no warning names them.
_EXPECTED = (HIDDEN, EXCLUDED, NOT_INCLUDED, OF_PROGRAMS, SAME_FILE, SAME_CONTENT, IGNORED)


@dataclass(slots=True)
class Found:
    """Result of `find`: absolute paths of files without links, sorted, each once, and what was left out.

    ``hard_links`` maps those of the paths that were left out which are hard links to the file that is taken.
    """

    files: list[Path] = field(default_factory=list)
    skipped: list[SkippedFile] = field(default_factory=list)
    failed: list[FailedFile] = field(default_factory=list)
    hard_links: dict[Path, Path] = field(default_factory=dict)

    def left_out(self, reason: str) -> list[Path]:
        """Return the paths that were left out for this ``reason``."""
        return [one.path for one in self.skipped if one.reason == reason]


def find(
    paths: Iterable[str | Path],
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    modalities: Collection[str] = ("text",),
    *,
    gitignore: bool = True,
    max_file_size: float | None = None,
    warns: bool = True,
    may_be_empty: bool = False,
) -> Found:
    """Return the files at and below ``paths``, and what was left out there.

    A file that ``paths`` names is always in the result. For a folder, the result has the files in it whose suffix
    belongs to ``modalities`` (see `suffixes`), but no hidden files, no files that ``.gitignore`` or
    ``.smartragignore`` name, and nothing in folders that programs fill, such as ``node_modules``.

    A folder may come from somebody else, and a link in it may lead to any file of this machine. So a link is left out
    if it leads to a file or folder that is not at or below one of ``paths``.

    Args:
        paths: files and folders.
        include: patterns such as ``"*.md"`` or ``"drafts/*"``. If there are such patterns, only files that match a
            pattern are taken from folders, whatever suffix these files have. A pattern is compared with the name of a
            file and with its path below the folder.
        exclude: patterns of files and folders to leave out.
        modalities: the modalities of the encoder: ``"text"``, ``"image"``, ``"video"``.
        gitignore: whether to leave out what ``.gitignore`` and ``.smartragignore`` name. The files of the folders
            above count, too, up to the folder that holds the repository.
        max_file_size: leave out larger files of folders, in megabytes.
        warns: whether to log a warning of what was left out, unless anybody would expect it.
        may_be_empty: whether it is no error if no file is found, or a path does not exist.

    Raises:
        InvalidInput: none of ``paths`` exists, or no file is found. If some of them exist, the others have failed.
    """
    given = [absolute(path) for path in paths]
    roots = [Path(os.path.realpath(path)) for path in given]  # `Path.resolve` raises an error if links lead in a circle
    search = _Search(roots, include, exclude, modalities, max_file_size, gitignore)
    for path, root in zip(given, roots, strict=True):
        try:
            mode = root.stat().st_mode
        except PermissionError as error:
            search.fail(root, f"cannot be read ({error.strerror})")
            continue
        except (FileNotFoundError, NotADirectoryError):
            if may_be_empty:
                continue
            mode = 0
        except (OSError, ValueError):
            mode = 0
        if stat.S_ISREG(mode):
            search.name(root)
        elif stat.S_ISDIR(mode):
            search.walk(root)
        else:
            search.fail(path, MISSING)
    found = search.found()
    missing = [one.path for one in found.failed if one.reason == MISSING]
    if missing and len(missing) == len(set(given)):
        raise InvalidInput(f"{', '.join(map(str, missing))} {MISSING}")
    left_out = list(_described(found.skipped))
    if not found.files and not found.failed and not may_be_empty:
        raise InvalidInput(_nothing_found(given, found.skipped, left_out, modalities))
    for sentence in left_out if warns else ():
        logger.warning("%s", sentence)
    return found


class _Search:
    """One call of `find`: what it looks for, and what it has found."""

    def __init__(
        self,
        roots: Sequence[Path],
        include: Sequence[str],
        exclude: Sequence[str],
        modalities: Collection[str],
        max_file_size: float | None,
        gitignore: bool,
    ) -> None:
        self._roots = roots
        self._include = include
        self._exclude = exclude
        self._modalities = modalities
        self._known = frozenset(suffixes(modalities))
        self._known_to_others = frozenset(suffixes(ALL_MODALITIES))
        self._max_bytes = None if max_file_size is None else max_file_size * _MEGABYTE
        self._gitignore = gitignore
        self._files: dict[Path, None] = {}
        self._skipped: dict[Path, SkippedFile] = {}
        self._failed: dict[Path, FailedFile] = {}
        self._inodes: dict[tuple[int, int], Path] = {}
        self._hard_links: dict[Path, Path] = {}
        self._ignored: dict[tuple[Path, Path], Ignored] = {}

    def found(self) -> Found:
        """Return what was found so far."""
        skipped = sorted((one for path, one in self._skipped.items() if path not in self._files), key=_path)
        links = {path: first for path, first in self._hard_links.items() if path not in self._files}
        return Found(sorted(self._files), skipped, sorted(self._failed.values(), key=_path), links)

    def name(self, file: Path) -> None:
        """Take ``file``, which the caller has named."""
        if _is_text(file):
            self._files[file] = None
        else:
            self.fail(file, _NAME)

    def walk(self, root: Path) -> None:
        """Look at everything below the folder ``root``. Links to folders are not followed."""
        folders = [root]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(folder) as listed:
                    entries = sorted(listed, key=lambda entry: entry.name)
            except OSError as error:
                self.fail(folder, f"cannot be listed ({error.strerror or error})")
                continue
            names = {entry.name for entry in entries}
            if folder != root and any(mark <= names for mark in _MARKS):
                self._skip(folder, OF_PROGRAMS)
                continue
            is_project = not names.isdisjoint(_PROJECTS)
            below = [Path(entry.path) for entry in entries if self._is_folder(entry, root, is_project)]
            folders += reversed(below)

    def _ignored_in(self, folder: Path, root: Path) -> Ignored:
        """Return the patterns that count for what is in ``folder``, which is ``root`` or below it."""
        if not self._gitignore:
            return Ignored()
        place = root, folder
        if place not in self._ignored:
            if folder == root:
                above = Ignored()
                for one in folders_of_repository(root):
                    above = self._with_patterns_of(one, above)
            else:
                above = self._ignored_in(folder.parent, root)
            self._ignored[place] = self._with_patterns_of(folder, above)
        return self._ignored[place]

    def _with_patterns_of(self, folder: Path, ignored: Ignored) -> Ignored:
        inside, failed = ignored.inside(folder)
        for one in failed:
            self.fail(one.path, one.reason)
        return inside

    def _is_folder(self, entry: os.DirEntry[str], root: Path, is_project: bool) -> bool:
        """Return whether ``entry`` is a folder to look into. Anything else is taken or left out here."""
        path = Path(entry.path)
        try:
            is_folder = entry.is_dir(follow_symlinks=False)
            reason = self._reason(path, is_folder, root) or (self._reason_of_target(path) if entry.is_symlink() else "")
            if is_folder and is_project and path.name in _BUILT:
                reason = OF_PROGRAMS
            if reason:
                self._skip(path, reason)
            elif not is_folder:
                self._take(path, entry)
            return is_folder and not reason
        except OSError as error:
            self.fail(path, f"cannot be read ({error.strerror or error})")
            return False

    def _reason(self, path: Path, is_folder: bool, root: Path) -> str:
        """Return why the name of ``path`` leaves it out. It is empty if it does not."""
        if path.name.startswith("."):
            return HIDDEN
        if is_folder and path.name in _OF_PROGRAMS:
            return OF_PROGRAMS
        if _matches(path.relative_to(root), self._exclude):
            return EXCLUDED
        by = self._ignored_in(path.parent, root).by(path, is_folder)
        return f"{IGNORED} {by}" if by else ""

    def _reason_of_target(self, link: Path) -> str:
        """Return why the file that ``link`` leads to is left out where it is. It is empty if a root has it."""
        target = Path(os.path.realpath(link))
        reasons = [self._reason_below(root, target) for root in self._roots if target.is_relative_to(root)]
        return reasons[0] if reasons and all(reasons) else ""

    def _reason_below(self, root: Path, target: Path) -> str:
        """Return why ``target``, or a folder between it and ``root``, is left out. It is empty if it is not."""
        path = root
        for part in target.relative_to(root).parts:
            path = path / part
            if reason := self._reason(path, path != target or path.is_dir(), root):
                return reason
        return ""

    def _take(self, path: Path, entry: os.DirEntry[str]) -> None:
        """Take the file ``path`` if it can be read, or note why it is left out."""
        target = Path(os.path.realpath(path)) if entry.is_symlink() else path
        try:
            state = target.stat()
        except FileNotFoundError:  # a link that leads nowhere
            self._skip(path, NO_FILE)
            return
        is_folder = stat.S_ISDIR(state.st_mode)
        reason, detail = ("", "") if is_folder else self._reason_of_file(path, state)
        if not reason and not any(map(target.is_relative_to, self._roots)):
            reason, detail = LINK_OUT, f"to {shown(target)}"
        if not reason and not is_folder and state.st_nlink > 1 and _is_text(target):
            first = self._inodes.setdefault((state.st_dev, state.st_ino), target)
            if first != target:
                reason, detail = SAME_FILE, shown(first)
                self._hard_links[target] = first
        if reason:
            self._skip(path, reason, detail)
        elif is_folder:  # a link to a folder that is looked into anyway
            self._skip(path, SAME_FILE, shown(target))
        elif not _is_text(target):
            self.fail(target, _NAME)
        else:
            self._files[target] = None
            if target != path:
                self._skip(path, SAME_FILE, shown(target))

    def _reason_of_file(self, path: Path, state: os.stat_result) -> tuple[str, str]:
        """Return why a file is left out, in general and in detail. Both are empty if it is taken."""
        suffix = path.suffix.lower()
        if not stat.S_ISREG(state.st_mode):
            return NO_FILE, ""
        if self._include:
            below = [path.relative_to(root) for root in self._roots if path.is_relative_to(root)]
            if not any(_matches(one, self._include) for one in below):
                return NOT_INCLUDED, ""
        elif suffix in self._known_to_others - self._known:
            return f"{OTHER_MODALITY} {'videos' if suffix in suffixes(('video',)) else 'images'}", suffix
        elif suffix not in self._known and format_of(path) is None:
            return UNKNOWN_TYPE, suffix_of(path) or "without a suffix"
        if self._max_bytes is not None and state.st_size > self._max_bytes:
            return TOO_LARGE, size_text(state.st_size)
        return "", ""

    def _skip(self, path: Path, reason: str, detail: str = "") -> None:
        self._skipped.setdefault(path, SkippedFile(path, reason, detail))

    def fail(self, path: Path, reason: str) -> None:
        """Note that ``path`` cannot be read."""
        self._failed.setdefault(path, FailedFile(path, reason))


_NAME = "its name is not UTF-8, and an index stores names as text; rename it"


def _is_text(path: Path) -> bool:
    return is_unicode(str(path))


def _path(one: SkippedFile | FailedFile) -> Path:
    return one.path


def _matches(path: Path, patterns: Sequence[str]) -> bool:
    return any(fnmatch(path.name, pattern) or fnmatch(path.as_posix(), pattern) for pattern in patterns)


def is_asked(reason: str) -> bool:
    """Return whether files are left out for this ``reason`` only because the options of this call say so.

    Without ``ocr``, images are left out, and what was recognised before stays.
    """
    return reason in (EXCLUDED, NOT_INCLUDED, TOO_LARGE) or reason.startswith(OTHER_MODALITY)


def is_expected(reason: str) -> bool:
    """Return whether anybody would expect that files are left out for this ``reason``. No warning names them."""
    return reason.startswith(_EXPECTED)


def _nothing_found(
    given: Sequence[Path], skipped: Collection[SkippedFile], left_out: Sequence[str], modalities: Collection[str]
) -> str:
    """Return the message for a search without a result. It names the formats, unless patterns are the reason."""
    expected = Counter(one.reason for one in skipped if is_expected(one.reason))
    reasons = [f"{count:,} left out, {reason}" for reason, count in expected.most_common()]
    if any(reason.startswith(IGNORED) for reason in expected):
        reasons.append("gitignore=False (--no-gitignore) takes what is ignored")
    else:
        known = [suffix for suffix in suffixes(modalities) if suffix]
        first = ", ".join(known[:_MOST_FORMATS])
        reasons.insert(0, f"the formats are {first} and {len(known) - _MOST_FORMATS} more (smart_rag.files.FORMATS)")
    return f"no documents found in {', '.join(map(shown, given)) or 'nothing'}; {'; '.join([*reasons, *left_out])}"


def _described(skipped: Collection[SkippedFile]) -> Iterator[str]:
    """Yield a sentence for each reason why files were left out, unless anybody would expect it."""
    groups: dict[str, list[SkippedFile]] = {}
    for one in skipped:
        if not is_expected(one.reason):
            groups.setdefault(one.reason, []).append(one)
    for reason, group in groups.items():
        yield f"{_heading(reason, len(group))}: {_names(reason, group)}"


def _heading(reason: str, count: int) -> str:
    if reason == LINK_OUT:
        return f"{number(count, 'link')} left out, leading out of the named folders"
    return f"{number(count, 'file')} left out, {reason}"


def _names(reason: str, group: Sequence[SkippedFile]) -> str:
    """Return words for the first files of ``group``, or for each type of file with their number."""
    if reason == UNKNOWN_TYPE or reason.startswith(OTHER_MODALITY):
        return ", ".join(f"{count:,} {suffix}" for suffix, count in Counter(one.detail for one in group).most_common())
    names = [f"{shown(one.path)} ({one.detail})" if one.detail else shown(one.path) for one in group[:_MOST_NAMES]]
    advice = "; to add such a file, name the file itself" if reason == LINK_OUT else ""
    return ", ".join([*names, "..."] if len(group) > _MOST_NAMES else names) + advice

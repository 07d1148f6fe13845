"""``.gitignore`` against Git itself: a search takes the files that ``git ls-files`` lists as not ignored."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from helpers.text_files import write
from hypothesis import given, settings
from hypothesis import strategies as st

from smart_rag.errors import InvalidInput
from smart_rag.files.finder import find

FOLDERS = ("", "a", "a/b", "b", "b/a", "ab")
FILES = ("a.txt", "b.md", "ab", "b", "a[1].txt", "!a.txt", "#b.txt", "\\a", "a b.txt", "é.txt", "B-9.txt")
# Lines that people write, and pieces of which lines are made.
LINES = (
    *("*", "!*/", "!*.txt", "/*", "!/a", "!a", "!a/**", "a/", "a/**", "**/b", "a/**/b", "b/*", "!/b/", "*.md", "# a"),
    *("[[:alpha:]].txt", "[!a]*", "[^a].txt", "a b.txt ", "a b.txt\\ ", "\\!a.txt", "\\#b.txt", "a[[]1].txt", "*b*/"),
    *(
        "a.txt\r",
        "a.txt\t",
        "/",
        "//a",
        "./a",
        "a/../b",
        "**",
        "é.txt",
        "?.txt",
        "??.txt",
        "a\\[1].txt",
        "\\\\a",
        "b**",
    ),
)
PIECES = (
    *("a", "b", "a", "b", "*", "**", "/", "?", "[", "]", "!", "^", "-", "\\", " ", ".txt", "**/", "/**", "[ab]"),
    *("[!b]", "[[:alpha:]]", "[[:digit:]-]", "[a-c]", "[]a]", "[\\]a-]", "[[:none:]]", "B", "1", "#", "é"),
)
LINE = st.one_of(
    st.sampled_from(LINES),
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join),
    st.sampled_from(LINES).map("!{}".format),
)
PATTERNS = st.lists(LINE, min_size=1, max_size=5).map("\n".join)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    root = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "-q", root], check=True)
    for folder in FOLDERS:
        for name in FILES:
            if f"{folder}/{name}".strip("/") not in FOLDERS:
                write(root / folder / name, b"words")
    return root


def of_git(root: Path) -> set[str]:
    """Return the files that Git would add, without those that are hidden."""
    command = ["git", "-C", root, "-c", "core.ignoreCase=false", "ls-files", "-z", "--others", "--exclude-standard"]
    nobody = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "XDG_CONFIG_HOME": str(root)}
    listed = subprocess.run(command, capture_output=True, check=True, env=os.environ | nobody).stdout
    names = os.fsdecode(listed).split("\0")
    return {name for name in names if name and not Path(name).name.startswith(".")}


def of_search(root: Path) -> set[str]:
    found = find([root], include=["*"], warns=False, may_be_empty=True).files
    return {path.relative_to(root.resolve()).as_posix() for path in found}


@pytest.mark.skipif(os.name == "nt", reason="names such as \\a")
@settings(max_examples=60, deadline=None)
@given(above=PATTERNS, below=st.one_of(st.just(""), PATTERNS), bom=st.booleans())
def test_patterns_are_those_of_git(repository, above, below, bom):
    (repository / ".gitignore").write_bytes(b"\xef\xbb\xbf" * bom + above.encode())
    (repository / "a" / ".gitignore").write_bytes(below.encode())
    assert of_search(repository) == of_git(repository)


@pytest.mark.parametrize(
    ("patterns", "taken"),
    [
        ("\ufeffsecret.txt", ["c.txt", "docs/b.txt", "docs/secrets/a.txt"]),
        ("secrets/\n!/docs", ["c.txt", "docs/b.txt", "secret.txt"]),
        ("*\n!docs\n!docs/**\nsecrets/", ["docs/b.txt"]),
        ("docs/\n!docs/**", ["c.txt", "secret.txt"]),
        ("*\n!*/\n!b.txt", ["docs/b.txt"]),
        ("[[:alpha:]].txt", ["secret.txt"]),
        ("/s_*_*_*_*t\n/s*e*c*r*t*.txt", ["c.txt", "docs/b.txt", "docs/secrets/a.txt"]),
    ],
)
def test_what_people_write(tmp_path, patterns, taken):
    for name in ("c.txt", "secret.txt", "docs/b.txt", "docs/secrets/a.txt"):
        write(tmp_path / name, b"words")
    write(tmp_path / ".gitignore", patterns)
    assert sorted(of_search(tmp_path)) == taken


@pytest.mark.parametrize("options", [{}, {"exclude": ["private"]}])
def test_a_link_to_what_is_left_out_is_left_out(tmp_path, options):
    write(tmp_path / "private" / "x.txt", b"words")
    write(tmp_path / "deep" / "y.txt", b"words")
    if not options:
        write(tmp_path / ".gitignore", "private/\n")
        write(tmp_path / "deep" / ".gitignore", "y.txt\n")
        (tmp_path / "y.txt").symlink_to("deep/y.txt")
    (tmp_path / "pub.txt").symlink_to("private/x.txt")
    (tmp_path / "a.txt").write_text("words")
    (tmp_path / "b.txt").symlink_to("a.txt")
    found = find([tmp_path], **options)
    assert [path.name for path in found.files] == ["a.txt", *(["y.txt"] if options else [])]
    reason = "named by exclude" if options else "ignored by .gitignore"
    assert (tmp_path / "pub.txt").resolve().parent / "x.txt" not in found.files
    assert tmp_path.resolve() / "pub.txt" in found.left_out(reason)
    named = find([tmp_path, tmp_path / "private" / "x.txt"], **options)
    assert [path.name for path in named.files if path.name == "x.txt"] == ["x.txt"]


def test_a_named_folder_that_is_ignored_is_read(tmp_path):
    (tmp_path / ".git").mkdir()
    write(tmp_path / ".gitignore", "docs/\n*.key\n")
    write(tmp_path / "docs" / "a.txt", b"words")
    write(tmp_path / "docs" / "b.key", b"words")
    assert of_search(tmp_path) == set()
    assert of_search(tmp_path / "docs") == {"a.txt"}
    write(tmp_path / ".gitignore", "*\n")
    with pytest.raises(InvalidInput, match=r"2 left out, ignored by \.gitignore; .*--no-gitignore"):
        find([tmp_path / "docs"])

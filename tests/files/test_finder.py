"""Which files are found below some paths, and what is said of those that are left out."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from helpers.other_users import as_nobody
from helpers.text_files import write

from smart_rag.errors import InvalidInput
from smart_rag.files.finder import MISSING, find


@pytest.fixture
def tree(tmp_path):
    """A folder of documents, with what is not to be found among them."""
    root = tmp_path / "tree"
    for name in (
        *("a.txt", "b.md", "c.PDF", "deep/d.html", "deep/er/e.txt", "drafts/f.md", "drafts/old/g.md", "named.txt/h.md"),
        *(".hidden.txt", ".git/i.txt", "deep/.cache/j.txt", "photo.jpg"),
    ):
        write(root / name, b"words")
    write(root / "program", b"\x7fELF\0")
    return root


def names(root: Path, **patterns) -> list[str]:
    return [path.relative_to(root.resolve()).as_posix() for path in find([root], **patterns).files]


def test_a_folder_is_walked_without_what_is_hidden_or_of_other_formats(tree):
    assert names(tree) == [
        "a.txt",
        "b.md",
        "c.PDF",
        "deep/d.html",
        "deep/er/e.txt",
        "drafts/f.md",
        "drafts/old/g.md",
        "named.txt/h.md",
    ]
    assert all(path.is_absolute() for path in find([tree]).files)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ({"include": ["*.txt"]}, ["a.txt", "deep/er/e.txt"]),
        ({"include": ["a.txt", "d.*"]}, ["a.txt", "deep/d.html"]),
        ({"include": ["drafts/*"]}, ["drafts/f.md", "drafts/old/g.md"]),
        ({"include": ["deep/er/e.txt"]}, ["deep/er/e.txt"]),
        ({"include": ["*.jpg"]}, ["photo.jpg"]),
        ({"exclude": ["*.md", "deep/*", "c.PDF"]}, ["a.txt"]),
        ({"include": ["*.md"], "exclude": ["drafts/old/*", "h.md"]}, ["b.md", "drafts/f.md"]),
    ],
)
def test_patterns_match_names_and_paths_below_the_folder(tree, patterns, expected):
    assert names(tree, **patterns) == expected


def test_a_pattern_brings_nothing_hidden_back(tree):
    with pytest.raises(InvalidInput, match="no documents found"):
        find([tree], include=[".hidden.txt", "i.txt"])


def test_a_file_that_is_named_is_taken_whatever_the_patterns_say(tree):
    named = [tree / "a.txt", tree / ".hidden.txt", tree / "photo.jpg"]
    found = find([*named, tree / "drafts"], include=["f.*"], exclude=["a.txt", ".*", "*.jpg"]).files
    assert set(found) == {path.resolve() for path in [*named, tree / "drafts" / "f.md"]}


def test_a_folder_in_a_hidden_folder_can_be_named(tree):
    assert names(tree / ".git") == ["i.txt"]


def test_each_file_is_found_once(tree, monkeypatch):
    monkeypatch.chdir(tree)
    found = find(["a.txt", tree, "deep/../a.txt", tree / "deep", "."]).files
    assert len(found) == len(set(found)) == 8


def test_a_file_with_a_link_to_it_is_found_once(tree):
    (tree / "deep" / "link.txt").symlink_to(tree / "a.txt")
    assert "deep/link.txt" not in names(tree)


def test_files_are_sorted_over_all_paths(tree):
    assert [path.name for path in find([tree / "b.md", tree / "a.txt"]).files] == ["a.txt", "b.md"]


def test_loops_of_links_do_not_hang(tree):
    (tree / "deep" / "up").symlink_to(tree)
    (tree / "self").symlink_to(tree / "self")
    (tree / "nowhere.txt").symlink_to(tree / "gone")
    assert len(names(tree)) == 8


@pytest.fixture
def secret(tmp_path):
    """A file beside the tree, and links to it and to its folder in the tree. One of the links is to a link."""
    secret = write(tmp_path / "private" / "secret.txt", b"words")
    for name in ("link.txt", "deep/notes.md", "drafts/link.txt", ".hidden-link.txt", "link.zip"):
        (tmp_path / "tree" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "tree" / name).symlink_to(secret)
    (tmp_path / "tree" / "twice.txt").symlink_to(tmp_path / "tree" / "link.txt")
    (tmp_path / "tree" / "deep" / "folder").symlink_to(secret.parent)
    return secret


def test_links_that_lead_out_of_the_folder_are_left_out_and_named(tree, secret, caplog):
    assert len(names(tree, exclude=["drafts/link.txt"])) == 8
    (message,) = (message for message in caplog.messages if "link" in message)
    assert message.startswith("4 links left out, leading out of the named folders: ")
    for name, target in [("link.txt", secret), ("deep/notes.md", secret), ("deep/folder", secret.parent)]:
        assert f"{tree / name} (to {target})" in message
    assert message.endswith("to add such a file, name the file itself")


def test_a_link_or_its_target_that_is_named_is_followed(tree, secret, caplog):
    assert secret in find([tree / "link.txt"]).files
    assert secret in find([tree / "deep" / "folder"]).files
    assert secret in find([tree, secret.parent]).files
    assert secret in find([tree.parent]).files
    assert not any("link" in message for message in caplog.messages)


def test_a_folder_beside_with_a_longer_name_is_outside(tree, tmp_path, caplog):
    write(tmp_path / "tree2" / "secret.txt", b"words")
    (tree / "link.txt").symlink_to(tmp_path / "tree2" / "secret.txt")
    assert len(names(tree)) == 8
    assert any("1 link left out" in message for message in caplog.messages)


def test_a_folder_with_nothing_but_links_out_of_it(tree, secret, tmp_path, caplog):
    (tmp_path / "links").mkdir()
    for i in range(7):
        (tmp_path / "links" / f"{i}.txt").symlink_to(secret)
    with pytest.raises(
        InvalidInput, match=r"no documents found in .*; 7 links left out, .*4\.txt \(to .*\), \.\.\.; to add"
    ):
        find([tmp_path / "links"])


def test_a_named_link_that_leads_to_itself(tmp_path):
    (tmp_path / "self").symlink_to(tmp_path / "self")
    with pytest.raises(InvalidInput, match="does not exist"):
        find([tmp_path / "self"])


def test_a_home_folder_is_expanded(tree, monkeypatch):
    monkeypatch.setenv("HOME", str(tree))
    assert find(["~/a.txt"]).files == [(tree / "a.txt").resolve()]


def test_a_path_that_is_missing_is_named(tree):
    with pytest.raises(InvalidInput, match=r"(?=.*nowhere)(?=.*no/such/place).* does not exist; expected a file"):
        find(["no/such/place", tree / "nowhere"])
    found = find([tree, tree / "nowhere"])
    assert found.files == find([tree]).files
    assert [(one.path, one.reason) for one in found.failed] == [(tree / "nowhere", MISSING)]


@pytest.mark.parametrize("patterns", [{}, {"include": ["*.txt"]}])
def test_a_folder_without_documents_is_named(tmp_path, patterns):
    write(tmp_path / "only" / "photo.jpg", b"x")
    with pytest.raises(InvalidInput, match=r"no documents found in .*only; the formats are \.txt, \.md"):
        find([tmp_path / "only"], **patterns)


def test_no_paths_at_all():
    with pytest.raises(InvalidInput, match="no documents found in nothing"):
        find([])


def test_images_and_videos_that_a_model_does_not_take_are_counted(tmp_path, caplog):
    """And files of other types. What is hidden or excluded is only in the result."""
    for name in ("a.txt", "b.png", "c.JPG", "d.mp4", ".hidden.png", "e.zip", "f.zip", "g.xyz", "drafts/f.png"):
        write(tmp_path / name, b"something")

    def warned(*paths, **options):
        caplog.clear()
        found = find(paths, **options)
        return [path.name for path in found.files], [record.getMessage() for record in caplog.records]

    types = "3 files left out, of a type that is not read: 2 .zip, 1 .xyz"
    images = "2 files left out, needs a model that takes images: 1 .png, 1 .jpg"
    video = "1 file left out, needs a model that takes videos: 1 .mp4"
    assert warned(tmp_path, exclude=["drafts/*"]) == (["a.txt"], [images, video, types])
    assert warned(tmp_path, exclude=["drafts/*", "*.png"], modalities=("text", "image")) == (
        ["a.txt", "c.JPG"],
        [video, types],
    )
    assert warned(tmp_path, exclude=["*.zip", "*.xyz"], modalities=("text", "image", "video"))[1] == []
    # Who names a file, or a pattern, hears of it when it is read.
    assert warned(tmp_path / "b.png") == (["b.png"], [])
    assert warned(tmp_path, include=["*.png"])[1] == []


def reasons(*paths, **options) -> dict[str, str]:
    """Return what was left out: names and reasons."""
    return {one.path.name: one.reason for one in find(paths, **options).skipped}


def test_whatever_is_left_out_is_in_the_result(tree):
    for name in ("node_modules/deep/k.txt", "__pycache__/l.txt", "cache/m.txt", "packages/n.txt", "big.txt", "x.bin"):
        write(tree / name, b"words" * 1000 if name == "big.txt" else b"words")
    write(tree / "cache" / "CACHEDIR.TAG", b"Signature")
    write(tree / "packages" / "pyvenv.cfg", b"")
    write(tree / "build" / "o.txt", b"words")
    write(tree / "setup.py", b"words")
    write(tree / "deep" / "build" / "taken.txt", b"words")  # of no project
    os.mkfifo(tree / "pipe.txt")
    os.link(tree / "a.txt", tree / "deep" / "again.txt")
    (tree / "broken.txt").symlink_to(tree / "nowhere")
    found = reasons(tree, exclude=["drafts"], max_file_size=0.001)
    assert found == {
        **dict.fromkeys([".hidden.txt", ".git", ".cache"], "hidden"),
        **dict.fromkeys(["node_modules", "__pycache__", "cache", "packages"], "a folder that programs fill"),
        "drafts": "named by exclude",
        "photo.jpg": "needs a model that takes images",
        **dict.fromkeys(["program", "x.bin"], "of a type that is not read"),
        "big.txt": "larger than max_file_size",
        **dict.fromkeys(["pipe.txt", "broken.txt"], "neither a file nor a folder"),
        "again.txt": "the same file as another",
        "build": "a folder that programs fill",
    }
    assert reasons(tree, include=["a.txt"])["b.md"] == "not named by include"
    # Each file of the tree is found, or in the result, or in a folder that is in the result.
    result = find([tree], exclude=["drafts"], max_file_size=0.001)
    places = [*result.files, *(one.path for one in result.skipped)]
    for folder, _, files in os.walk(tree):
        for name in files:
            assert (
                any((Path(folder) / name).resolve().is_relative_to(place) for place in places) or name == "broken.txt"
            )


def test_a_text_without_a_suffix_is_found(tree):
    write(tree / "README", "words")
    os.mkfifo(tree / "pipe")
    assert "README" in names(tree)


def test_files_that_git_ignores_are_left_out(tmp_path):
    root = tmp_path / "repository" / "docs"
    for name in ("a.txt", "b.txt", "keep.txt", "out/c.txt", "deep/b.txt", "deep/d.txt", "deep/out.txt", "e.md"):
        write(root / name, b"words")
    write(root.parent / ".gitignore", "/docs/out/\nb.txt\n*.md\n")
    write(root / ".gitignore", "keep.*\n!keep.txt\n")
    write(root / "deep" / ".gitignore", "!b.txt\n# d.txt\n")
    write(root / "deep" / ".smartragignore", "d.txt\n")
    taken = ["a.txt", "b.txt", "deep/b.txt", "deep/out.txt", "e.md", "keep.txt", "out/c.txt"]
    assert names(root) == taken  # the folder above is of no repository
    (root.parent / ".git").mkdir()
    assert names(root) == ["a.txt", "deep/b.txt", "deep/out.txt", "keep.txt"]
    assert reasons(root)["e.md"] == "ignored by .gitignore"
    assert reasons(root)["d.txt"] == "ignored by .smartragignore"
    assert len(names(root, gitignore=False)) == 8


def test_a_file_whose_name_is_not_utf_8_is_reported(tmp_path):
    write(tmp_path / "a.txt", b"words")
    bad = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    Path(os.fsdecode(bad)).write_bytes(b"words")
    found = find([tmp_path])
    assert [path.name for path in found.files] == ["a.txt"]
    assert [(os.fsencode(one.path), one.reason) for one in found.failed] == [
        (bad, "its name is not UTF-8, and an index stores names as text; rename it")
    ]
    assert find([os.fsdecode(bad)]).failed == found.failed


@pytest.mark.parametrize("mode", [0o000, 0o600, 0o300])
def test_a_folder_without_permission_is_reported(mode):
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        write(root / "a.txt", b"words")
        write(root / "closed" / "b.txt", b"words")
        (root / "closed").chmod(mode)
        if os.geteuid() == 0:
            os.chown(root / "closed", 65534, 65534)
        with as_nobody():
            found = find([root])
        (root / "closed").chmod(0o700)
        assert [path.name for path in found.files] == ["a.txt"]
        (failed,) = found.failed
        assert failed.path.is_relative_to(root.resolve() / "closed")
        assert "Permission denied" in failed.reason


@pytest.mark.parametrize(
    "line", ["!", "[z-a]", "\\", "*a*a*a*a*ab", "**" * 50, "***a***a***a***b", "/".join(["**", "a"] * 12) + "/zz"]
)
def test_no_pattern_costs_another_one_or_takes_long(tmp_path, line):
    deep = tmp_path.joinpath(*["a"] * 40)
    write(deep / ("a" * 200 + ".md"), b"words")
    write(tmp_path / "b.log", b"words")
    write(tmp_path / "c.tmp.txt", b"words")
    write(tmp_path / ".gitignore", f"*.log\n{line}\n*.tmp.*\n")
    found = find([tmp_path], may_be_empty=True)
    assert [path.parent for path in found.files] == ([] if line == "**" * 50 else [deep.resolve()])
    assert found.failed == []


@pytest.mark.parametrize(("many", "line"), [("b\n" * 10_000, "110,001"), ("b?\n" * 2_000, "102,002")])
def test_patterns_that_are_not_used_are_named(tmp_path, many, line):
    for name in ("secret.txt", "late.txt", "a.txt"):
        write(tmp_path / name, b"words")
    comments = "# a comment\n" * 100_000
    write(tmp_path / ".gitignore", f"{comments}secret.txt\n{many}late.txt\n")
    found = find([tmp_path])
    assert [path.name for path in found.files] == ["a.txt", "late.txt"]
    assert [one.reason for one in found.failed] == [f"too many patterns; those from line {line} on are not used"]


def test_a_named_path_without_permission_is_reported():
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        write(root / "a.txt", b"words")
        write(root / "closed" / "b.txt", b"words")
        write(root / "closed" / "deep" / "c.txt", b"words")
        (root / "closed").chmod(0)
        with as_nobody():
            found = find([root / "a.txt", root / "closed" / "b.txt", root / "closed", root / "closed" / "deep"])
        (root / "closed").chmod(0o700)
        assert [path.name for path in found.files] == ["a.txt"]
        assert {one.path.name for one in found.failed} == {"b.txt", "closed", "deep"}
        assert all("Permission denied" in one.reason for one in found.failed)


def test_a_link_to_what_is_hidden_is_left_out(tmp_path):
    write(tmp_path / ".git" / "config", b"words")
    write(tmp_path / ".env", b"words")
    write(tmp_path / "a.txt", b"words")
    (tmp_path / "notes.txt").symlink_to(tmp_path / ".git" / "config")
    (tmp_path / "n.md").symlink_to(tmp_path / ".env")
    assert names(tmp_path) == ["a.txt"]
    assert reasons(tmp_path)["n.md"] == "hidden"
    assert [path.name for path in find([tmp_path / "n.md"]).files] == [".env"]


def test_patterns_behind_a_link_are_not_read(tmp_path):
    secret = write(tmp_path / "secret", b"*.txt\n")
    write(tmp_path / "docs" / "a.txt", b"words")
    (tmp_path / "docs" / ".gitignore").symlink_to(secret)
    assert [path.name for path in find([tmp_path / "docs"]).files] == ["a.txt"]


def test_of_several_names_of_a_file_one_that_can_be_read_is_taken(tmp_path):
    write(tmp_path / "a.bin", b"words")
    os.link(tmp_path / "a.bin", tmp_path / "b.txt")
    os.link(tmp_path / "a.bin", tmp_path / "c.txt")
    found = find([tmp_path])
    assert [path.name for path in found.files] == ["b.txt"]
    assert {one.path.name: one.reason for one in found.skipped} == {
        "a.bin": "of a type that is not read",
        "c.txt": "the same file as another",
    }
    assert [path.name for path in find([tmp_path], include=["c.*"]).files] == ["c.txt"]

"""Files to documents: which files are found, which documents a file becomes, why a file is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.odd_files import fpdf_pages
from helpers.text_files import refused, word_file, write

from smart_rag import IndexConfig
from smart_rag.errors import DocumentError, InvalidInput
from smart_rag.files.formats.text import read_text
from smart_rag.files.reader import FORMATS, Reader, find, read, source_of
from smart_rag.types import Document, PdfPage

# --- read -----------------------------------------------------------------------------------


def test_the_formats_tested_here_are_all_there_are():
    """The tests of the other formats of text and of code are those of .txt."""
    others = {suffix for suffix, read in FORMATS.items() if read is not read_text}
    assert others == {
        *(".html", ".htm", ".xhtml", ".pdf", ".docx", ".docm", ".dotx", ".dotm"),
        *(".pptx", ".pptm", ".ppsx", ".ppsm", ".potx", ".potm", ".xlsx", ".xlsm", ".xltx", ".xltm"),
        *(".odt", ".ott", ".odp", ".otp", ".ods", ".ots", ".epub", ".eml", ".rtf"),
        *(".doc", ".dot", ".ppt", ".pps", ".pot", ".xls", ".xlt", ".xlsb", ".msg"),
        *(".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".ipynb"),
    }
    usual = {".txt", ".md", ".markdown", ".rst", ".tex", ".org", ".log", ".xml", ".yaml", ".py", ".js", ".c", ".java"}
    assert usual <= set(FORMATS) - others


@pytest.mark.parametrize("suffix", sorted(FORMATS))
def test_an_empty_file_is_refused(tmp_path, suffix):
    assert refused(write(tmp_path / f"a{suffix}", b"")) == "the file is empty"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt", " \n\t\u3000\n"),
        ("a.md", "\n\n"),
        ("a.html", "<html><body><script>x</script><p> </p></body></html>"),
        ("a.html", "  \n"),
        ("a.pdf", fpdf_pages("", "")),
    ],
)
def test_a_blank_file_is_refused(tmp_path, name, data):
    assert "no text in it" in refused(write(tmp_path / name, data))


@pytest.mark.parametrize("name", ["README", "LICENSE", ".txt"])
def test_a_file_without_a_suffix_is_read_if_it_is_text(tmp_path, name):
    assert [page.text for page in read(write(tmp_path / name, "words"))] == ["words"]
    assert refused(write(tmp_path / name, b"\x7fELF\0\0")) == "binary data, not text"


def test_a_file_of_an_unknown_format_is_refused(tmp_path):
    reason = refused(write(tmp_path / "a.xyz", b"words"))
    assert reason.startswith(".xyz is not a known format")
    assert all(known in reason for known in FORMATS)


@pytest.mark.parametrize("suffix", sorted(FORMATS))
def test_a_link_to_nowhere_cannot_be_read(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.symlink_to(tmp_path / "gone")
    assert "cannot be read (No such file" in refused(path)


def test_a_folder_that_calls_itself_a_file_cannot_be_read(tmp_path):
    (tmp_path / "a.txt").mkdir()
    assert "cannot be read (Is a directory)" in refused(tmp_path / "a.txt")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("suffix", sorted(FORMATS))
def test_a_file_without_permission_cannot_be_read(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", fpdf_pages("A page."))
    path.chmod(0)
    assert "Permission denied" in refused(path)


# --- find -----------------------------------------------------------------------------------


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
    return [path.relative_to(root.resolve()).as_posix() for path in find([root], **patterns)]


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
    assert all(path.is_absolute() for path in find([tree]))


def test_a_text_without_a_suffix_is_found(tree):
    write(tree / "README", "words")
    os.mkfifo(tree / "pipe")
    assert "README" in names(tree)


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
    found = find([*named, tree / "drafts"], include=["f.*"], exclude=["a.txt", ".*", "*.jpg"])
    assert set(found) == {path.resolve() for path in [*named, tree / "drafts" / "f.md"]}


def test_a_folder_in_a_hidden_folder_can_be_named(tree):
    assert names(tree / ".git") == ["i.txt"]


def test_each_file_is_found_once(tree, monkeypatch):
    monkeypatch.chdir(tree)
    found = find(["a.txt", tree, "deep/../a.txt", tree / "deep", "."])
    assert len(found) == len(set(found)) == 8


def test_a_file_with_a_link_to_it_is_found_once(tree):
    (tree / "deep" / "link.txt").symlink_to(tree / "a.txt")
    assert "deep/link.txt" not in names(tree)


def test_files_are_sorted_over_all_paths(tree):
    assert [path.name for path in find([tree / "b.md", tree / "a.txt"])] == ["a.txt", "b.md"]


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
    message = caplog.messages[-1]
    assert message.startswith("4 links left out, leading out of the named folders: ")
    for name, target in [("link.txt", secret), ("deep/notes.md", secret), ("deep/folder", secret.parent)]:
        assert f"{tree / name} (to {target})" in message
    assert message.endswith("to add such a file, name the file itself")


def test_a_link_or_its_target_that_is_named_is_followed(tree, secret, caplog):
    assert secret in find([tree / "link.txt"])
    assert secret in find([tree / "deep" / "folder"])
    assert secret in find([tree, secret.parent])
    assert secret in find([tree.parent])
    assert not any("link" in message for message in caplog.messages)


def test_a_folder_beside_with_a_longer_name_is_outside(tree, tmp_path, caplog):
    write(tmp_path / "tree2" / "secret.txt", b"words")
    (tree / "link.txt").symlink_to(tmp_path / "tree2" / "secret.txt")
    assert len(names(tree)) == 8
    assert "1 link left out" in caplog.messages[-1]


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
    assert find(["~/a.txt"]) == [(tree / "a.txt").resolve()]


def test_a_path_that_is_missing_is_named(tree):
    with pytest.raises(InvalidInput, match=r"no/such/place does not exist"):
        find([tree, "no/such/place"])


@pytest.mark.parametrize("patterns", [{}, {"include": ["*.txt"]}])
def test_a_folder_without_documents_is_named(tmp_path, patterns):
    write(tmp_path / "only" / "photo.jpg", b"x")
    with pytest.raises(InvalidInput, match=r"no documents found in .*only; the formats are \.txt, \.md"):
        find([tmp_path / "only"], **patterns)


def test_no_paths_at_all():
    with pytest.raises(InvalidInput, match="no documents found in nothing"):
        find([])


def test_images_and_videos_that_a_model_does_not_take_are_counted(tmp_path, caplog):
    """Only those in folders that would be taken by another model: not what is hidden, excluded or no document."""
    for name in ("a.txt", "b.png", "c.JPG", "d.mp4", ".hidden.png", "e.zip", "drafts/f.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"something")

    def warned(*paths, **options):
        caplog.clear()
        found = [path.name for path in find(paths, **options)]
        return found, [record.getMessage() for record in caplog.records]

    assert warned(tmp_path, exclude=["drafts/*"]) == (
        ["a.txt"],
        ["3 files left out (.jpg, .mp4, .png): this model takes text"],
    )
    assert warned(tmp_path, exclude=["drafts/*", "*.png"], modalities=("text", "image")) == (
        ["a.txt", "c.JPG"],
        ["1 file left out (.mp4): this model takes image, text"],
    )
    assert warned(tmp_path, modalities=("text", "image", "video"))[1] == []
    # Who names a file, or a pattern, hears of it when it is read.
    assert warned(tmp_path / "b.png") == (["b.png"], [])
    assert warned(tmp_path, include=["*.png"])[1] == []
    assert warned(tmp_path, *map(tmp_path.joinpath, ("b.png", "c.JPG", "d.mp4", "drafts/f.png")))[1] == []


# --- Reader ---------------------------------------------------------------------------------


def documents(path: Path, *modalities: str, tokens: int = 200) -> list[Document]:
    config = IndexConfig(chunk_tokens=tokens, chunk_overlap=0)
    reader = Reader(modalities, lambda text: len(text.split()), config)
    return reader.read(path).documents


def test_every_format_becomes_documents(tmp_path):
    """The text of each file is in its documents."""
    write(tmp_path / "a.txt", "The lamp is red.")
    write(tmp_path / "b.md", "# Lamps\n\nThe lamp is green.")
    write(tmp_path / "c.html", "<p>The lamp is <b>blue</b>.</p>")
    write(tmp_path / "d.pdf", fpdf_pages("", "The lamp is white."))
    word_file(tmp_path / "e.docx")
    found = [document for path in find([tmp_path]) for document in documents(path, "text")]
    assert [(Path(d.metadata["source"]).name, d.metadata.get("page")) for d in found] == [
        ("a.txt", None),
        ("b.md", None),
        ("c.html", None),
        ("d.pdf", 2),
        ("e.docx", None),
    ]
    for document, words in zip(found, ["is red", "is green", "is blue", "is white", "bearing | four"], strict=True):
        assert words in document.text


def test_a_chunk_knows_its_file_its_page_and_its_number(tmp_path):
    """For a model of text, a page of a PDF is split. Chunks are numbered in the file, not in the page."""
    path = write(tmp_path / "a.pdf", fpdf_pages("One two three. Four five six.", "", "Seven eight."))
    found = documents(path, "text", tokens=3)
    assert [(d.id, d.text, d.image) for d in found] == [
        (f"{path}#0", "One two three.", PdfPage(path, 1)),
        (f"{path}#1", "Four five six.", PdfPage(path, 1)),
        (f"{path}#2", "Seven eight.", PdfPage(path, 3)),
    ]
    assert found[2].metadata == {"source": str(path), "page": 3, "chunk": 2}
    assert {source_of(document.id) for document in found} == {str(path)}


def test_a_format_without_pages_has_no_page(tmp_path):
    path = write(tmp_path / "a.txt", "Some words.")
    assert documents(path, "text") == [Document(f"{path}#0", "Some words.", {"source": str(path), "chunk": 0})]


def test_a_model_of_images_gets_whole_pages_images_and_videos(tmp_path):
    """Files of images and videos are not opened: their errors come when they are encoded."""
    path = write(tmp_path / "a.pdf", fpdf_pages("One two three. Four five six.", ""))
    found = documents(path, "text", "image", tokens=3)
    assert [(d.id, d.text, d.image, d.metadata["page"]) for d in found] == [
        (f"{path}#0", "One two three. Four five six.", PdfPage(path, 1), 1),
        (f"{path}#1", "", PdfPage(path, 2), 2),
    ]
    image, video = tmp_path / "b.PNG", tmp_path / "c.mp4"
    assert documents(image, "image") == [Document(f"{image}#0", "", {"source": str(image), "chunk": 0}, image=image)]
    assert documents(video, "video") == [Document(f"{video}#0", "", {"source": str(video), "chunk": 0}, video=video)]


@pytest.mark.parametrize(("name", "kind"), [("a.png", "images"), ("a.mp4", "videos")])
def test_a_file_of_a_modality_that_the_model_lacks_is_refused(tmp_path, name, kind):
    with pytest.raises(DocumentError, match=f"needs a model that takes {kind}; this one takes text"):
        documents(tmp_path / name, "text")


def test_the_number_of_pages(tmp_path):
    """It is 1 for whatever is not read page by page."""
    pdf = write(tmp_path / "a.pdf", fpdf_pages("One.", "Two."))
    broken = write(tmp_path / "b.pdf", b"noise")
    visual, textual = (Reader(modalities, len, IndexConfig()) for modalities in (("text", "image"), ("text",)))
    assert [visual.count_pages(path) for path in (pdf, broken, tmp_path / "a.txt")] == [2, 1, 1]
    assert textual.count_pages(pdf) == 1

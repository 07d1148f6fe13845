"""Files to documents: which documents a file becomes, why a file is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.odd_files import animation, fpdf_pages, one_page
from helpers.text_files import refused, word_file, write
from PIL import Image

from smart_rag import IndexConfig
from smart_rag.errors import DocumentError
from smart_rag.files.content import open_image, open_image_as, page_boxes, page_text
from smart_rag.files.finder import find
from smart_rag.files.formats.text import read_text
from smart_rag.files.reader import FORMATS, Reader, read, source_of, survey
from smart_rag.types import Document, PdfPage

# --- read -----------------------------------------------------------------------------------


def test_the_formats_tested_here_are_all_there_are():
    """The tests of the other formats of text and of code are those of .txt."""
    others = {suffix for suffix, read in FORMATS.items() if read is not read_text}
    assert others == {
        *(".html", ".htm", ".xhtml", ".xht", ".shtml", ".pdf", ".docx", ".docm", ".dotx", ".dotm"),
        *(".pptx", ".pptm", ".ppsx", ".ppsm", ".potx", ".potm", ".xlsx", ".xlsm", ".xltx", ".xltm"),
        *(".odt", ".ott", ".odp", ".otp", ".ods", ".ots", ".epub", ".rtf"),
        *(".eml", ".emlx", ".mbox", ".mht", ".mhtml", ".ics", ".ical", ".ifb", ".vcs", ".vcf", ".vcard"),
        *(".doc", ".dot", ".ppt", ".pps", ".pot", ".xls", ".xlt", ".xlsb", ".msg"),
        *(".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".ipynb", ".svg", ".svgz"),
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


@pytest.mark.parametrize(
    ("name", "data", "text", "count"),
    [
        ("a.json", r'{"key": "one\u0000two \u001b[31mred\u001b[0m"}', "key: one two red", 3),
        ("a.jsonl", r'{"key": "one\u0081two\u0093three\u007f"}', "key: one two“three", 2),
        ("a.rtf", r"{\rtf1 one\u0 ?two\'00three\'1bfour}", "one two three four", 3),
        ("a.log", "\x1b[1;31mERROR\x1b[0m N\x08NA\x08AME\tx\f\x7f.", "ERROR NAME\tx\n .", 5),
        ("a.html", "<p>one&#1;two \x9d three don\x92t</p>", "one two   three don’t", 2),  # noqa: RUF001
        ("a.csv", "a\x01b,c\nd,e\n", "a b", 1),
        ("a.eml", "From: =?utf-8?q?a=00=1bb?= <a@example.com>\n\none\x02two", "one two", None),
    ],
)
def test_no_control_character_is_stored(tmp_path, name, data, text, count):
    (page,) = read(write(tmp_path / name, data))
    stored = page.text + page.header + "".join(map(str, page.metadata.values()))
    assert not {c for c in stored if c < " " or "\x7f" <= c <= "\x9f"} - {"\n", "\t"}
    assert text in page.header + page.text
    said = page.left_out[-1]
    assert said.endswith(("control characters left out", "control character left out"))
    assert count is None or said.startswith(f"{count} ")


@pytest.mark.parametrize("name", ["README", "LICENSE", ".txt"])
def test_a_file_without_a_suffix_is_read_if_it_is_text(tmp_path, name):
    assert [page.text for page in read(write(tmp_path / name, "words"))] == ["words"]
    assert refused(write(tmp_path / name, b"\x7fELF\0\0")) == "binary data, not text"


def test_a_file_of_an_unknown_format_is_refused(tmp_path):
    reason = refused(write(tmp_path / "a.xyz", b"words"))
    assert reason.startswith(".xyz is not a known format")
    assert "known are texts, source code, HTML, PDF, office files" in reason
    assert "smart_rag.files.FORMATS" in reason


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
    found = [document for path in find([tmp_path]).files for document in documents(path, "text")]
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
    """The errors of images and videos come when they are encoded."""
    path = write(tmp_path / "a.pdf", fpdf_pages("One two three. Four five six.", ""))
    found = documents(path, "text", "image", tokens=3)
    assert [(d.id, d.text, d.image, d.metadata["page"]) for d in found] == [
        (f"{path}#0", "One two three. Four five six.", PdfPage(path, 1), 1),
        (f"{path}#1", "", PdfPage(path, 2), 2),
    ]
    image, video = tmp_path / "b.PNG", tmp_path / "c.mp4"
    assert documents(image, "image") == [Document(f"{image}#0", "", {"source": str(image), "chunk": 0}, image=image)]
    assert documents(video, "video") == [Document(f"{video}#0", "", {"source": str(video), "chunk": 0}, video=video)]


def test_each_image_of_a_tiff_is_a_document(tmp_path):
    first, *others = [Image.new("L", (20, 10), 40 * i) for i in range(3)]
    path = tmp_path / "a.tif"
    first.save(path, save_all=True, append_images=others)
    found = documents(path, "image")
    assert [(d.id, d.image, d.metadata["page"]) for d in found] == [
        (f"{path}#{i}", PdfPage(path, i + 1), i + 1) for i in range(3)
    ]
    assert [open_image(d.image).getpixel((3, 3)) for d in found] == [(40 * i,) * 3 for i in range(3)]
    assert open_image_as(found[1].image, lambda width, height: (2 * width, height)).size == (40, 10)
    assert page_text(found[1].image) == ""
    assert page_boxes(found[1].image, [(0, 1)]) == [[]]


def test_what_follows_in_a_tiff_that_is_cut_off_is_said(tmp_path):
    first, *others = [Image.new("L", (200, 200), 40 * i) for i in range(6)]
    path = tmp_path / "a.tif"
    first.save(path, save_all=True, append_images=others)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    found = Reader(("image",), len, IndexConfig()).read(path)
    assert [d.metadata["page"] for d in found.documents] == [1, 2, 3, 4]
    assert found.left_out == ["page 5: a broken or truncated image; more may follow it"]


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
def test_an_animation_is_one_document_and_the_rest_is_reported(tmp_path, name):
    (tmp_path / name).write_bytes(animation("GIF" if name == "a.gif" else "WEBP"))
    found = Reader(("image",), len, IndexConfig()).read(tmp_path / name)
    assert [d.image for d in found.documents] == [tmp_path / name]
    assert found.left_out == ["the other pictures of the animation"]


@pytest.mark.parametrize(("name", "kind"), [("a.png", "images"), ("a.mp4", "videos")])
def test_a_file_of_a_modality_that_the_model_lacks_is_refused(tmp_path, name, kind):
    with pytest.raises(DocumentError, match=f"needs a model that takes {kind}; this one takes text"):
        documents(tmp_path / name, "text")


def test_a_survey_refuses_what_a_run_refuses(tmp_path):
    path = write(tmp_path / "blank.pdf", one_page(contents=b""))
    with pytest.raises(DocumentError, match="no text in it"):
        survey(path, {"text"})
    assert survey(path, {"text", "image"}).characters == 0
    with pytest.raises(DocumentError, match="no text in it"):
        Reader({"text"}, len, IndexConfig()).read(path)


def test_the_number_of_pages(tmp_path):
    """It is 1 for whatever is not read page by page."""
    pdf = write(tmp_path / "a.pdf", fpdf_pages("One.", "Two."))
    broken = write(tmp_path / "b.pdf", b"noise")
    visual, textual = (Reader(modalities, len, IndexConfig()) for modalities in (("text", "image"), ("text",)))
    assert [visual.count_pages(path) for path in (pdf, broken, tmp_path / "a.txt")] == [2, 1, 1]
    assert textual.count_pages(pdf) == 1

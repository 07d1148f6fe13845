"""Images and videos of a content: opened as one, named by their bytes."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import pytest
from PIL import Image

from smart_rag.demo import sample_folder
from smart_rag.errors import DocumentError
from smart_rag.files import limits
from smart_rag.files.content import digest_of_file, full_video_source, identity, jpeg, open_image, open_image_as
from smart_rag.types import Content, PdfPage

PAGE = PdfPage(sample_folder() / "engineering_report.pdf", 2)


@pytest.fixture
def red(tmp_path) -> Path:
    path = tmp_path / "red.png"
    Image.new("RGB", (30, 20), "red").save(path)
    return path


def written(path, data):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


# --- images ---------------------------------------------------------------------------------


def test_every_source_is_opened(red):
    """A page of a PDF is drawn as large as it may be; an image is never enlarged."""
    assert open_image(red).size == open_image(str(red)).size == open_image(Image.open(red)).size == (30, 20)
    assert open_image(red, 150).size == (15, 10)
    page = open_image(PAGE, 10_000)
    assert 9_000 < page.width * page.height <= 10_000


def test_a_source_of_a_size_by_rule(red):
    """The rule gets the size of an image, and that of a page at 300 dpi."""
    asked = []

    def rule(width, height):
        asked.append((width, height))
        return 64, 32

    assert [open_image_as(source, rule).size for source in (red, Image.open(red), PAGE)] == [(64, 32)] * 3
    assert asked == [(30, 20), (30, 20), (2480, 3508)]


def test_frames_of_a_video_are_identified_each(red, tmp_path):
    """By their bytes and their order."""
    copy = written(tmp_path / "other" / "copy.png", red.read_bytes())
    blue = Image.new("RGB", (30, 20), "blue")
    assert identity(Content(video=[red, blue])) == identity(Content(video=[copy, blue]))
    assert identity(Content(video=[red, blue])) != identity(Content(video=[blue, red]))
    assert full_video_source([red, blue, PAGE]) == [red, blue, PAGE]
    assert full_video_source(str(red)) == red
    assert full_video_source(None) is None


def test_a_jpeg_is_as_large_as_asked(red):
    for max_pixels, size in ((10_000, (30, 20)), (150, (15, 10))):
        image = Image.open(io.BytesIO(jpeg(red, max_pixels)))
        assert (image.format, image.size) == ("JPEG", size)


# --- identity -------------------------------------------------------------------------------


def test_a_text_is_its_own_identity():
    assert identity(Content("The cat sat.")) == "The cat sat."


def test_a_file_is_identified_by_its_bytes(red, tmp_path):
    copy = written(tmp_path / "other" / "copy.png", red.read_bytes())
    assert identity(Content(image=red)) == identity(Content(image=str(copy)))
    assert identity(Content(image=red)) == identity(Content(image=copy), digest_of_file(red))
    assert identity(Content(video=red)) == identity(Content(video=copy), digest_of_file(red))


def test_what_differs_has_another_identity(red, tmp_path):
    Image.new("RGB", (30, 20), "blue").save(tmp_path / "blue.png")
    contents = [
        Content("red"),
        Content("red", red),
        Content(image=red),
        Content(image=tmp_path / "blue.png"),
        Content(image=Image.open(red)),
        Content(video=red),
        Content(image=PAGE),
        Content(image=PdfPage(PAGE.path, 3)),
        Content(image=PAGE.path),
    ]
    assert len({identity(content) for content in contents}) == len(contents)


# --- digests of files -----------------------------------------------------------------------


def test_a_digest_is_of_all_bytes_and_nothing_else(tmp_path):
    data = bytes(2_500_000)
    one = digest_of_file(written(tmp_path / "one", data))
    assert digest_of_file(written(tmp_path / "other" / "name.txt", data)) == one
    digests = {one}
    for changed in (
        b"\1" + data[1:],
        data[:-1] + b"\1",
        data + b"\0",
        data[:1_500_000] + b"\1" + data[1_500_001:],
        b"",
    ):
        digests.add(digest_of_file(written(tmp_path / "one", changed)))
    assert len(digests) == 6


def test_the_digest_of_a_giant_file_takes_at_most_the_time_of_a_file(tmp_path):
    """The file is one of holes, which takes no place on the disk."""
    os.truncate(written(tmp_path / "giant.png", b"x"), 1 << 40)
    begin = time.monotonic()
    with (
        limits(file_seconds=0.1),
        pytest.raises(DocumentError, match=r"reading it takes more than 0\.1 seconds; .*--file-seconds allows more"),
    ):
        digest_of_file(tmp_path / "giant.png")
    assert time.monotonic() - begin < 10


def test_a_missing_file_has_no_digest(tmp_path):
    with pytest.raises(DocumentError, match=r"gone: cannot be read \(No such file"):
        digest_of_file(tmp_path / "gone")

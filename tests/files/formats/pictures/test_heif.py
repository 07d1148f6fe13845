"""HEIF pictures: upright, in the order that viewers show them, or an error that names the file."""

from __future__ import annotations

import base64
import random
import subprocess
import sys

import pytest
from helpers.text_files import write
from PIL import Image

from smart_rag import IndexConfig
from smart_rag.errors import DocumentError, MissingExtra
from smart_rag.files import limits
from smart_rag.files.content import jpeg, open_image, open_image_as
from smart_rag.files.formats import images
from smart_rag.files.reader import Reader, survey, with_ocr
from smart_rag.types import PdfPage

pytest.importorskip("pi_heif")

# 40 x 24 pixels: red and green above blue and yellow. They are stored so, and are to be turned clockwise. The Exif data
# says so, too, and viewers ignore it.
TURNED = base64.b64decode(
    """
    AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAcdtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9jAAAA
    AERAAAIAAQAAAAAB6wABAAAAAAAAAGQAAgAAAAACTwABAAAAAAAAACQAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAAABVpbmZl
    AgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAABBmlwcnAAAADlaXBjbwAAAHVodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH/
    /wNwAAADAJAAAAMAAAMAHroCQGEAAQApQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbqrprm4CGgwIAAAAyAAAADAIRiAAEABkQBwXPBiQAAABNjb2xy
    bmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABAAAAAQAAAAChjbGFwAAAAKAAAAAEAAAAYAAAAAf///+gAAAAC////2AAAAAIAAAAQcGl4aQAAAAAD
    CAgIAAAACWlyb3QDAAAAGWlwbWEAAAAAAAAAAQABBoECAwWEhgAAABppcmVmAAAAAAAAAA5jZHNjAAIAAQABAAAAkG1kYXQAAABgKAGvC0hs1BL6
    4nDdIZjzZaH51CHy+HGt8U0eTf7TI8FZY2yrbxetcqpeFc9xYC+kLnMt6cLz+EGX4Zv0714GvAdNYgqFdm6OU8iSDqI47aqAqxPz1LKk6E05Fda9
    gL7WAAAABkV4aWYAAE1NACoAAAAIAAEBEgADAAAAAQAGAAAAAAAA
    """
)
# A white picture of 16 x 16 pixels, and then the four colours, not turned. The file says that the second is the first
# to be shown. pillow-heif wrote both files.
TWO = base64.b64decode(
    """
    AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAdNtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9jAAAA
    AERAAAIAAQAAAAAB9wABAAAAAAAAACIAAgAAAAACGQABAAAAAAAAAGQAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAAABVpbmZl
    AgAAAAACAABodmMxAAAAAA5waXRtAAAAAAACAAABLGlwcnAAAAEEaXBjbwAAAHVodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH/
    /wNwAAADAJAAAAMAAAMAHroCQGEAAQApQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbqrprm4CGgwIAAAAyAAAADAIRiAAEABkQBwXPBiQAAABNjb2xy
    bmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABAAAAAQAAAAChjbGFwAAAAEAAAAAEAAAAQAAAAAf///9AAAAAC////0AAAAAIAAAAQcGl4aQAAAAAD
    CAgIAAAAKGNsYXAAAAAoAAAAAQAAABgAAAAB////6AAAAAL////YAAAAAgAAACBpcG1hAAAAAAAAAAIAAQWBAgMFhAACBYECAwWGAAAAjm1kYXQA
    AAAeKAGvC0hJM4D1BFGbx3JM/FsQqinuB56YylSRX/DgAAAAYCgBrwtIbNQS+uJw3SGY82Wh+dQh8vhxrfFNHk3+0yPBWWNsq28XrXKqXhXPcWAv
    pC5zLenC8/hBl+Gb9O9eBrwHTWIKhXZujlPIkg6iOO2qgKsT89SypOhNORXWvYC+1g==
    """
)
RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)


def corners(image):
    right, bottom = image.width - 3, image.height - 3
    places = ((2, 2), (right, 2), (2, bottom), (right, bottom))
    return [tuple(255 * (value > 127) for value in image.getpixel(place)) for place in places]


def refused(path):
    with pytest.raises(DocumentError) as caught:
        open_image(path)
    assert caught.value.path == path
    assert "\n" not in caught.value.reason
    return caught.value.reason


@pytest.mark.parametrize("name", ["a.heic", "a.HEIF", "a.jpg", "a"])
def test_a_picture_is_upright(tmp_path, name):
    """Phones and messengers also name it .jpg."""
    path = write(tmp_path / name, TURNED)
    for image in (open_image(path), images.open_image(path), open_image(str(path), 10**6)):
        assert (image.mode, image.size, corners(image)) == ("RGB", (24, 40), [BLUE, RED, YELLOW, GREEN])
    assert (open_image(path, 240).size, open_image_as(path, lambda w, h: (2 * w, h)).size) == ((12, 20), (48, 40))
    assert jpeg(path, 1000)[:2] == b"\xff\xd8"


def test_each_picture_is_a_page_and_the_one_that_viewers_show_is_the_first(tmp_path):
    path = write(tmp_path / "a.heic", TWO)
    assert corners(open_image(path)) == corners(open_image(PdfPage(path, 1))) == [RED, GREEN, BLUE, YELLOW]
    assert corners(open_image(PdfPage(path, 2))) == [(255, 255, 255)] * 4
    assert "no picture 3" in refused_page(path, 3)
    reading = Reader(("image",), len, IndexConfig()).read(path)
    assert [document.metadata["page"] for document in reading.documents] == [1, 2]
    assert [document.image for document in reading.documents] == [PdfPage(path, 1), PdfPage(path, 2)]


def refused_page(path, page):
    with pytest.raises(DocumentError) as caught:
        open_image(PdfPage(path, page))
    return caught.value.reason


def test_a_file_of_one_picture_is_one_document(tmp_path):
    path = write(tmp_path / "a.heic", TURNED)
    reading = Reader(("text", "image"), len, IndexConfig()).read(path)
    assert [(document.image, document.metadata) for document in reading.documents] == [
        (path, {"source": str(path), "chunk": 0})
    ]
    assert reading.left_out == []
    assert survey(path, ("image",)).left_out == ()


def test_an_animation_is_said_to_be_one(tmp_path):
    path = write(tmp_path / "a.heic", TURNED.replace(b"ftypheic", b"ftypmsf1", 1))
    reading = Reader(("image",), len, IndexConfig()).read(path)
    assert (len(reading.documents), reading.left_out) == (1, ["the other pictures of the animation"])


def test_a_model_that_reads_text_names_what_it_needs(tmp_path):
    path = write(tmp_path / "a.heic", TURNED)
    with pytest.raises(DocumentError, match="needs a model that takes images"):
        Reader(("text",), len, IndexConfig()).read(path)


def test_its_text_is_recognised(tmp_path):
    pytest.importorskip("rapidocr")
    path = write(tmp_path / "a.heic", TURNED)
    assert ".heic" in images.SUFFIXES
    assert with_ocr(("text",)) == ("text", "image")
    assert survey(path, ("text", "image"), ocr=True).left_out == ("its text would be recognised",)
    with pytest.raises(DocumentError, match="no text"):
        Reader(("text",), len, IndexConfig()).read(path, ocr=True)


def test_the_pixels_are_counted_before_decoding(tmp_path):
    place = TURNED.index(b"ispe") + 8
    size = b"".join(side.to_bytes(4, "big") for side in (30_000, 30_000))
    path = write(tmp_path / "a.heic", TURNED[:place] + size + TURNED[place + 8 :])
    assert "too large (30,000 x 30,000 pixels)" in refused(path)


@pytest.mark.parametrize("cut", [12, 40, 100, 300, 500, 600, -1])
def test_a_cut_file_is_refused(tmp_path, cut):
    path = write(tmp_path / "a.heic", TURNED[:cut])
    assert refused(path).startswith("a broken or truncated image (")
    assert images.pages(path) == [1]


def test_a_file_that_crashes_libheif_is_refused(tmp_path):
    """libheif 1.23 crashes at this file, so it runs in the worker process. A later version may just refuse the file."""
    path = write(tmp_path / "a.heic", TURNED[:178] + bytes([135]) + TURNED[179:])
    assert refused(path) != ""
    with pytest.raises(DocumentError):
        open_image_as(path, lambda width, height: (width, height))
    assert open_image(write(tmp_path / "b.heic", TURNED)).size == (24, 40)


def test_a_damaged_file_is_opened_or_refused(tmp_path):
    chance = random.Random(1)
    opened = 0
    for i in range(40):
        data = bytearray(TWO)
        for _ in range(3):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            opened += open_image(write(tmp_path / f"{i}.heic", bytes(data))).mode == "RGB"
        except DocumentError:
            continue
    assert 0 < opened < 40


def test_another_file_of_this_name_is_refused(tmp_path):
    assert "not an image of a known format" in refused(write(tmp_path / "a.heic", b"words and words"))


def test_without_the_package_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    path = write(tmp_path / "a.heic", TURNED)
    with limits(file_seconds=None, file_memory=None):
        for ask in (lambda: open_image(path), lambda: Reader(("image",), len, IndexConfig()).read(path)):
            with pytest.raises(MissingExtra, match=r"a\.heic.*pi-heif.*smart-rag\[heic\]"):
                ask()


def test_pillow_does_not_change(tmp_path):
    """A program that opens pictures itself keeps the formats that it has."""
    path = write(tmp_path / "a.heic", TURNED)
    code = (
        "import sys; from PIL import Image; from smart_rag.files.formats.images import open_image; "
        "before = sorted(Image.EXTENSION), list(Image.ID); open_image(sys.argv[1]); "
        "assert (sorted(Image.EXTENSION), list(Image.ID)) == before and 'HEIF' not in Image.OPEN"
    )
    code = code.replace("before =", "Image.init(); before =")
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    with pytest.raises(Image.UnidentifiedImageError):
        Image.open(path)

"""`SmartIndex.image_file`: a file with the image of a hit or document."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers.word_encoder import SeeingEncoder
from PIL import Image

from smart_rag import Document, SmartIndex
from smart_rag.demo import sample_folder
from smart_rag.errors import DocumentError, InvalidInput
from smart_rag.files.content import open_image
from smart_rag.types import PdfPage


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "red.png"
    Image.new("RGB", (30, 20), "red").save(path)
    return path


@pytest.fixture
def index(tmp_path, picture):
    with SmartIndex.create(tmp_path / "index", SeeingEncoder()) as index:
        page = PdfPage(sample_folder() / "engineering_report.pdf", 2)
        memory = Image.new("RGB", (30, 20), "blue")
        index.add(
            [
                Document("file", image=picture),
                Document("page", "its text", image=page),
                Document("memory", image=memory),
                Document("text", "only words"),
            ]
        )
        yield index


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_a_file_is_its_own(index, picture):
    (document,) = index.get(["file"])
    hit = next(hit for hit in index.search("image") if hit.id == "file")
    assert index.image_file(document) == index.image_file(hit) == picture


def test_an_image_from_memory_lies_in_the_index(index):
    path = index.image_file(index.get(["memory"])[0])
    assert path.parent == (index.path / "images").absolute()
    with Image.open(path) as image:
        assert image.getpixel((1, 1)) == (0, 0, 255)


def test_a_page_is_drawn_once_in_each_size(index):
    (document,) = index.get(["page"])
    path = index.image_file(document)
    assert path.parent == (index.path / "images").absolute()
    drawn = pixels(path)
    assert np.array_equal(drawn, np.asarray(open_image(document.image, 1_500_000)))
    assert 1_400_000 < drawn.shape[0] * drawn.shape[1] <= 1_500_000
    stamp = path.stat().st_mtime_ns
    assert index.image_file(document) == path
    assert path.stat().st_mtime_ns == stamp
    small = index.image_file(document, 10_000)
    assert small != path
    assert np.prod(pixels(small).shape[:2]) <= 10_000


def test_threads_draw_the_same_page(index):
    (document,) = index.get(["page"])
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: index.image_file(document, 50_000), range(16)))
    (path,) = paths
    assert pixels(path).any()
    assert [file for file in path.parent.iterdir() if file.suffix != ".png"] == []


def test_vacuum_takes_drawings_away_and_they_are_made_again(index):
    (document,) = index.get(["page"])
    path = index.image_file(document)
    index.vacuum()
    assert not path.exists()
    assert index.image_file(document) == path
    assert path.exists()
    assert index.image_file(index.get(["memory"])[0]).exists()


def test_no_image_is_an_error(index, picture):
    with pytest.raises(InvalidInput, match="the document 'text' has no image"):
        index.image_file(index.get(["text"])[0])
    with pytest.raises(InvalidInput, match="max_pixels"):
        index.image_file(index.get(["page"])[0], 0)
    picture.unlink()
    with pytest.raises(DocumentError, match=r"red\.png: cannot be read"):
        index.image_file(index.get(["file"])[0])
    with pytest.raises(DocumentError, match=r"gone\.pdf"):
        index.image_file(Document("gone", image=PdfPage(picture.with_name("gone.pdf"), 1)))

"""`ImageStore`: images from memory and drawings of pages, as files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from helpers import odd_files
from PIL import Image

from smart_rag.errors import DocumentError, InvalidInput
from smart_rag.store.image_store import ImageStore
from smart_rag.types import Document, PdfPage


def picture(seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 12, 3), dtype=np.uint8))


@pytest.fixture
def store(tmp_path):
    return ImageStore(tmp_path / "images")


@pytest.fixture
def page(tmp_path):
    """The only page of a PDF, 200 x 100 points."""
    file = tmp_path / "page.pdf"
    file.write_bytes(odd_files.one_page())
    return PdfPage(file, 1)


def test_an_image_in_memory_is_saved(store):
    """Equal images share one file; the pixels are those of the image; other fields stay."""
    document = store.with_saved_images(Document("a", "text", {"n": 1}, picture()))
    assert (document.id, document.text, document.metadata) == ("a", "text", {"n": 1})
    np.testing.assert_array_equal(np.asarray(Image.open(document.image)), np.asarray(picture()))
    assert store.with_saved_images(Document("b", image=picture())).image == document.image
    assert store.with_saved_images(Document("c", image=picture(1))).image != document.image
    assert sorted(store.path.iterdir()) == sorted(
        {document.image, store.with_saved_images(Document("c", image=picture(1))).image}
    )


def test_paths_become_absolute(store, tmp_path, monkeypatch):
    """A program may change its folder later. The files need not exist, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    assert store.with_saved_images(Document("a", image="x.png")).image == tmp_path / "x.png"
    assert store.with_saved_images(Document("a", image=PdfPage(Path("b.pdf"), 2))).image == PdfPage(
        tmp_path / "b.pdf", 2
    )
    assert store.with_saved_images(Document("a", video="~/v.mp4")).video == Path.home() / "v.mp4"
    text = Document("a", "text")
    assert store.with_saved_images(text) is text
    assert not store.path.exists()


def test_the_file_of_an_image(store, tmp_path):
    """An image that is a file is that file. An image in memory is saved."""
    path = tmp_path / "x.png"
    picture().save(path)
    assert store.file_of(str(path), 1000) == path
    assert not store.path.exists()
    saved = store.file_of(picture(), 1000)
    assert saved.parent == store.path
    np.testing.assert_array_equal(np.asarray(Image.open(saved)), np.asarray(picture()))
    with pytest.raises(DocumentError, match=r"gone\.png: "):
        store.file_of(tmp_path / "gone.png", 1000)


def test_a_page_is_drawn_once(store, page):
    """It is drawn again for another size, or when the PDF has changed."""
    drawn = store.file_of(page, 5000)
    with Image.open(drawn) as image:
        assert image.width * image.height <= 5000
        assert image.width == pytest.approx(2 * image.height, abs=2)
    os.utime(drawn, (0, 0))
    assert store.file_of(page, 5000) == drawn
    assert drawn.stat().st_mtime == 0
    assert store.file_of(page, 500) != drawn
    page.path.write_bytes(odd_files.one_page(box=b"[0 0 100 100]"))
    with Image.open(store.file_of(page, 5000)) as image:
        assert image.width == image.height
    page.path.unlink()
    with pytest.raises(DocumentError, match=r"page\.pdf: "):
        store.file_of(page, 5000)


def test_vacuum_removes_files_that_no_document_has(store, page):
    """Drawings go too: they can be made again. Without a folder there is nothing to do."""
    store.vacuum([])
    live = store.with_saved_images(Document("a", image=picture())).image
    store.with_saved_images(Document("b", image=picture(1)))
    store.file_of(page, 5000)
    store.vacuum([live, page, None])
    assert list(store.path.iterdir()) == [live]
    assert page.path.exists()


def test_a_list_of_frames_is_no_video_of_an_index(store):
    frames = [Image.new("RGB", (4, 4))]
    with pytest.raises(InvalidInput, match="'a': an index takes a video as the path of a file, got a list; save"):
        store.with_saved_images(Document("a", video=frames))

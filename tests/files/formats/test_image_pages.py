"""Files with several images: which of them are pages, and what is said of those that cannot be read."""

from __future__ import annotations

import contextlib
import io

import pytest
from helpers.odd_files import animation, noise_image, saved
from PIL import Image, TiffImagePlugin

from smart_rag.errors import DocumentError
from smart_rag.files.formats.images import (
    is_animation,
    lost_pages,
    open_image,
    pages,
)


def tiff_of(*subfile_types, size=(20, 10)):
    """Return a TIFF with an image for each of these types; image ``i`` is of the grey 40 * (i + 1)."""
    file = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(file, True) as appending:
        for i, subfile_type in enumerate(subfile_types):
            tags = TiffImagePlugin.ImageFileDirectory_v2()
            tags[254] = subfile_type
            Image.new("L", size, 40 * (i + 1)).save(appending, "TIFF", tiffinfo=tags)
            appending.newFrame()
    return file.getvalue()


def test_each_image_of_a_tiff_is_a_page(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff_of(0, 2, 2))
    assert pages(tmp_path / "a.tif") == [1, 2, 3]
    greys = [open_image(tmp_path / "a.tif", page=page).getpixel((5, 5)) for page in (1, 2, 3)]
    assert greys == [(40,) * 3, (80,) * 3, (120,) * 3]
    with pytest.raises(DocumentError, match=r"a\.tif"):
        open_image(tmp_path / "a.tif", page=4)


def test_a_smaller_copy_in_a_tiff_is_no_page(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff_of(0, 1, 0, 1))
    assert pages(tmp_path / "a.tif") == [1, 3]


@pytest.mark.parametrize("data", [b"", b"noise", saved(noise_image("RGB", (8, 8)), "PNG"), animation("GIF")])
def test_any_other_file_has_one_page(tmp_path, data):
    (tmp_path / "a.tif").write_bytes(data)
    assert pages(tmp_path / "a.tif") == [1]
    assert pages(tmp_path / "gone.tif") == [1]


@pytest.mark.parametrize("cut", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_cut_tiff_has_pages_that_are_opened_or_refused(tmp_path, cut):
    data = tiff_of(*[0] * 20)
    (tmp_path / "a.tif").write_bytes(data[: int(len(data) * cut)])
    for page in pages(tmp_path / "a.tif"):
        with contextlib.suppress(DocumentError):
            open_image(tmp_path / "a.tif", page=page)


def test_a_tiff_whose_images_lead_in_a_circle_ends(tmp_path):
    data = bytearray(tiff_of(0, 0))
    first = int.from_bytes(data[4:8], "little")
    entries = int.from_bytes(data[first : first + 2], "little")
    second = int.from_bytes(data[first + 2 + 12 * entries :][:4], "little")
    entries = int.from_bytes(data[second : second + 2], "little")
    data[second + 2 + 12 * entries : second + 6 + 12 * entries] = data[4:8]
    (tmp_path / "a.tif").write_bytes(data)
    assert pages(tmp_path / "a.tif") == [1, 2]


def linked(data):
    """Return the places of the tags of each image in a TIFF."""
    places = [int.from_bytes(data[4:8], "little")]
    while places[-1]:
        entries = int.from_bytes(data[places[-1] : places[-1] + 2], "little")
        places.append(int.from_bytes(data[places[-1] + 2 + 12 * entries :][:4], "little"))
    return places[:-1]


def test_images_of_a_tiff_that_cannot_be_read_are_named(tmp_path):
    data = bytearray(tiff_of(*[0] * 6))
    assert lost_pages(written(tmp_path, data)) == ([], False)
    data[linked(data)[2] + 14 : linked(data)[2] + 16] = b"\1\0"  # no width any more
    assert pages(written(tmp_path, data)) == [1, 2, 4, 5, 6]
    assert lost_pages(tmp_path / "a.tif") == ([3], False)
    assert pages(written(tmp_path, data[: linked(data)[4] + 5])) == [1, 2, 4]
    assert lost_pages(tmp_path / "a.tif") == ([3, 5], False)


def test_a_tiff_with_more_images_than_pages_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("smart_rag.files.formats.images._MOST_PAGES", 3)
    assert pages(written(tmp_path, tiff_of(0, 0, 0, 0))) == [1, 2, 3]
    assert lost_pages(tmp_path / "a.tif") == ([], True)
    assert lost_pages(written(tmp_path, tiff_of(0, 0, 0))) == ([], False)


def written(folder, data):
    (folder / "a.tif").write_bytes(data)
    return folder / "a.tif"


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "AVIF"])
def test_an_animation_is_known(tmp_path, format):
    (tmp_path / "a").write_bytes(animation(format))
    (tmp_path / "b").write_bytes(saved(noise_image("RGB", (8, 8)).convert("P" if format == "GIF" else "RGB"), format))
    assert is_animation(tmp_path / "a")
    assert not is_animation(tmp_path / "b")
    assert not is_animation(tmp_path / "gone")

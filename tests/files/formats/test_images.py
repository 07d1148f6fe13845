"""Images: every file becomes an upright RGB image on white of the wanted size, or an error names it."""

from __future__ import annotations

import io
import math
import os
import threading
import warnings

import numpy as np
import pytest
from helpers.odd_files import MODES, animation, noise_image, odd_images, png_bomb, saved, with_orientation
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from smart_rag.errors import DocumentError, InvalidInput
from smart_rag.files.formats.images import (
    MAX_SOURCE_PIXELS,
    SUFFIXES,
    digest,
    fit,
    image_from_bytes,
    open_image,
)

RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
# How a file stores an image that is to be shown upright, by its orientation (Exif 2.3, table 6).
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),  # shown after a turn clockwise
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


def corners(image):
    """Return the colours at top left, top right, bottom left and bottom right; each channel is 0 or 255."""
    right, bottom = image.width - 2, image.height - 2
    places = ((1, 1), (right, 1), (1, bottom), (right, bottom))
    return [tuple(255 * (value > 127) for value in image.getpixel(place)) for place in places]


def four_corners(size=(40, 24)):
    pixels = np.zeros((*size[::-1], 3), dtype=np.uint8)
    half = (size[1] // 2, size[0] // 2)
    pixels[: half[0], : half[1]], pixels[: half[0], half[1] :] = RED, GREEN
    pixels[half[0] :, : half[1]], pixels[half[0] :, half[1] :] = BLUE, YELLOW
    return pixels


def opened(tmp_path, data, name="a.png", **options):
    path = tmp_path / name
    path.write_bytes(data)
    return open_image(path, **options)


def outcome(path, **options):
    """Return the image, or the error of the only allowed class."""
    try:
        return open_image(path, **options)
    except DocumentError as error:
        return error


def refused(path):
    """Return the reason why `open_image` refuses ``path``. The error must name the file and have one line."""
    with pytest.raises(DocumentError) as caught:
        open_image(path)
    assert caught.value.path == path
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    assert "\n" not in caught.value.reason
    return caught.value.reason


# --- odd files ------------------------------------------------------------------------------


def test_odd_images_are_opened_or_refused(tmp_path, subtests):
    odd_files = list(odd_images())
    assert len({odd.name for odd in odd_files}) == len(odd_files) > 250
    for odd in odd_files:
        with subtests.test(odd.name):
            check_odd_image(odd, odd.write(tmp_path))


def check_odd_image(odd, path):
    image = outcome(path)
    if isinstance(image, DocumentError):
        assert not odd.sound, image
        assert image.path == path
        assert "\n" not in image.reason
        assert len(image.reason) < 300
        return
    assert odd.sound is not False
    assert (type(image), image.mode, image.info) == (Image.Image, "RGB", {})
    assert odd.size in (None, image.size)
    small = open_image(path, max_pixels=100)
    assert 1 <= small.width * small.height <= 100


SOUND = [saved(noise_image("L" if format == "GIF" else "RGB", (24, 16)), format) for format in MODES]
SOUND += [animation("WEBP"), animation("GIF"), animation("PNG"), with_orientation(Image.new("RGB", (9, 9)), "JPEG", 6)]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(SOUND), st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=6))
def test_flipped_bytes_raise_no_other_error(tmp_path, data, flips):
    data = bytearray(data)
    for place, flip in flips:
        data[int(place * len(data))] ^= flip
    path = tmp_path / "a.png"
    path.write_bytes(data)
    image = outcome(path, max_pixels=10_000)
    if isinstance(image, DocumentError):
        assert "\n" not in image.reason
    else:
        assert image.mode == "RGB"
        assert image.width * image.height <= 10_000


# --- errors ---------------------------------------------------------------------------------


def test_each_reason(tmp_path):
    (tmp_path / "folder.png").mkdir()
    assert refused(tmp_path / "folder.png") == "cannot be read (Is a directory)"
    assert refused(tmp_path / "gone.png") == "cannot be read (No such file or directory)"
    path = tmp_path / "a.png"
    path.write_bytes(b"")
    assert refused(path) == "the file is empty"
    path.write_bytes(b"words")
    assert refused(path) == f"not an image of a known format; the formats are {', '.join(SUFFIXES)}"
    data = saved(noise_image("RGB", (64, 48)), "JPEG")
    path.write_bytes(data[: len(data) // 2])
    assert refused(path).startswith("a broken or truncated image (image file is truncated")
    path.write_bytes(png_bomb(60_000, 60_000))
    assert refused(path).startswith("too large (")
    path.write_bytes(png_bomb(13_100, 13_100))
    reason = "too large (13,100 x 13,100 pixels); expected at most 170,000,000 pixels, shrink it first"
    assert refused(path) == reason


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(saved(Image.new("RGB", (2, 2)), "PNG"))
    path.chmod(0)
    assert refused(path) == "cannot be read (Permission denied)"


def test_a_bomb_is_not_decoded(tmp_path):
    """A size above the limit is refused. At the limit, decoding starts, and finds that rows are missing."""
    path = tmp_path / "a.png"
    path.write_bytes(png_bomb(MAX_SOURCE_PIXELS + 1, 1))
    assert refused(path).startswith("too large")
    path.write_bytes(png_bomb(10_000, MAX_SOURCE_PIXELS // 10_000))
    assert refused(path).startswith("a broken or truncated image")


@pytest.mark.parametrize("wrong", [b"bytes", None, 3, np.zeros((2, 2, 3), dtype=np.uint8)])
def test_another_type_is_refused(wrong):
    with pytest.raises(InvalidInput, match=f"a path or a PIL image, got {type(wrong).__name__}"):
        open_image(wrong)


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True])
def test_a_wrong_max_pixels_is_refused(wrong):
    with pytest.raises(InvalidInput, match="max_pixels"):
        open_image(Image.new("RGB", (2, 2)), max_pixels=wrong)


@pytest.mark.parametrize("use", [open_image, digest])
def test_an_image_in_memory_that_cannot_be_loaded_is_refused(use):
    closed = Image.new("RGB", (2, 2))
    closed.close()
    data = saved(noise_image("RGB", (64, 48)), "JPEG")
    for broken in (closed, Image.open(io.BytesIO(data[: len(data) // 2]))):
        with pytest.raises(InvalidInput, match="an image in memory cannot be used: a broken or truncated image"):
            use(broken)


def test_a_large_image_in_memory_is_refused():
    class Claim(Image.Image):
        size = (100_000, 100_000)

    with pytest.raises(InvalidInput, match="too large"):
        open_image(Claim())


def test_the_bytes_of_a_file_are_an_image():
    image = noise_image("RGB", (9, 5))
    assert image_from_bytes(saved(image, "PNG")).tobytes() == image.tobytes()
    with pytest.raises(InvalidInput, match="an image in memory cannot be used: not an image of a known format"):
        image_from_bytes(b"words")


# --- modes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "La", "RGBa"])
def test_alpha_is_composed_over_white(mode):
    image = Image.new("LA", (3, 1))
    for x, alpha in enumerate((0, 128, 255)):
        image.putpixel((x, 0), (100, alpha))
    if mode in ("PA", "RGBa"):
        image = image.convert("RGBA")
    if mode != image.mode:
        image = image.convert(mode)
    shown = np.asarray(open_image(image))[0, :, 0].astype(int)
    expected = [255 - (255 - 100) * alpha / 255 for alpha in (0, 128, 255)]
    assert np.abs(shown - expected).max() <= 1


def test_a_transparent_colour_is_white(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([200, 0, 0, 0, 0, 200])
    palette.putpixel((1, 0), 1)
    for options, expected in (
        ({"transparency": 0}, [(255, 255, 255), (0, 0, 200)]),
        ({"transparency": bytes([255, 51])}, [(200, 0, 0), (204, 204, 244)]),
    ):
        image = opened(tmp_path, saved(palette, "PNG", **options))
        assert [image.getpixel((x, 0)) for x in range(2)] == expected
    grey = Image.new("L", (2, 1), 7)
    grey.putpixel((1, 0), 8)
    image = opened(tmp_path, saved(grey, "PNG", transparency=7))
    assert [image.getpixel((x, 0)) for x in range(2)] == [(255,) * 3, (8,) * 3]


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bits_become_8(tmp_path, format):
    values = np.array([[0, 128, 129, 256, 257, 30_000, 65_279, 65_535]], dtype=np.uint16)
    image = opened(tmp_path, saved(Image.fromarray(values), format))
    expected = [round(int(value) / 257) for value in values[0]]
    assert [image.getpixel((x, 0)) for x in range(len(expected))] == [(value,) * 3 for value in expected]


def test_a_transparent_value_of_16_bits_is_white(tmp_path):
    values = np.array([[0, 5_000, 60_000]], dtype=np.uint16)
    image = opened(tmp_path, saved(Image.fromarray(values), "PNG", transparency=5_000))
    assert [image.getpixel((x, 0))[0] for x in range(3)] == [0, 255, round(60_000 / 257)]


def test_16_bits_of_a_big_endian_tiff(tmp_path):
    image = Image.frombytes("I;16B", (3, 1), np.array([0, 257 * 9, 65_535], dtype=">u2").tobytes())
    shown = opened(tmp_path, saved(image, "TIFF"), "a.tif")
    assert [shown.getpixel((x, 0))[0] for x in range(3)] == [0, 9, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 32_768, 65_535]], dtype=np.int32), [0, 128, 255]),
        (np.array([[-100, 0, 100]], dtype=np.int32), [0, 128, 255]),
        (np.array([[0, 1_000_000]], dtype=np.int32), [0, 255]),
        (np.array([[0.5, 1.5, 2.5]], dtype=np.float32), [0, 128, 255]),
        (np.array([[np.nan, -np.inf, 1, 2, np.inf]], dtype=np.float32), [0, 0, 0, 255, 255]),
        (np.array([[np.nan]], dtype=np.float32), [0]),
        (np.array([[7, 7]], dtype=np.float32), [0, 0]),
    ],
)
def test_other_numbers_than_bytes_are_scaled_from_black_to_white(tmp_path, values, expected):
    for image in (open_image(Image.fromarray(values)), opened(tmp_path, saved(Image.fromarray(values), "TIFF"))):
        assert [image.getpixel((x, 0))[0] for x in range(len(expected))] == expected


def test_cmyk_keeps_its_colours(tmp_path):
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    for data in (saved(cmyk, "JPEG"), saved(cmyk, "TIFF")):
        red, green, blue = opened(tmp_path, data).getpixel((8, 8))
        assert (red > 240, green < 15, blue < 15) == (True, True, True)


def test_one_bit_is_black_or_white(tmp_path):
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert [opened(tmp_path, saved(image, "PNG")).getpixel((x, 0)) for x in range(2)] == [(0,) * 3, (255,) * 3]


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_gives_its_first_frame(tmp_path, format):
    assert opened(tmp_path, animation(format)).getpixel((5, 5)) == pytest.approx((40, 40, 40), abs=3)


def test_an_animation_in_memory_gives_its_current_frame():
    image = Image.open(io.BytesIO(animation("PNG")))
    image.seek(2)
    assert open_image(image).getpixel((5, 5)) == (120, 120, 120)
    assert image.tell() == 2


# --- orientation ----------------------------------------------------------------------------


@pytest.mark.parametrize("max_pixels", [None, 500])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", STORED)
def test_an_image_is_upright(tmp_path, format, orientation, max_pixels):
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](four_corners())))
    image = opened(tmp_path, with_orientation(stored, format, orientation), max_pixels=max_pixels)
    assert image.width > image.height
    assert corners(image) == [RED, GREEN, BLUE, YELLOW]
    if max_pixels is None:
        assert image.size == (40, 24)


def test_a_turned_image_is_not_turned_again(tmp_path):
    stored = Image.fromarray(np.ascontiguousarray(STORED[6](four_corners())))
    (tmp_path / "a.jpg").write_bytes(with_orientation(stored, "JPEG", 6))
    with Image.open(tmp_path / "a.jpg") as lazy:
        image = open_image(lazy)
    assert corners(image) == [RED, GREEN, BLUE, YELLOW]
    assert corners(open_image(image)) == [RED, GREEN, BLUE, YELLOW]


# --- size -----------------------------------------------------------------------------------


@given(st.floats(0.01, 1e5), st.floats(0.01, 1e5), st.integers(1, 10_000_000), st.sampled_from([1.0, 300 / 72]))
def test_a_size_is_the_largest_that_fits(width, height, max_pixels, max_scale):
    columns, rows = fit(width, height, max_pixels, max_scale)
    assert columns >= 1
    assert rows >= 1
    assert columns * rows <= max_pixels
    if min(columns, rows) > 1:
        scale = min(max_scale, math.sqrt(max_pixels / (width * height)))
        assert 0 <= width * scale - columns < 1 + 1e-6
        assert 0 <= height * scale - rows < 1 + 1e-6


@given(st.integers(1, 30_000), st.integers(1, 30_000), st.integers(1, 10_000_000))
def test_a_size_that_fits_is_kept(width, height, more):
    assert fit(width, height, width * height + more - 1) == (width, height)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("size", "max_pixels", "expected"),
    [
        ((400, 300), 12_000, (126, 94)),
        ((400, 300), 120_000, (400, 300)),
        ((400, 300), 1_000_000, (400, 300)),
        ((301, 203), 5_000, (86, 58)),
        ((400, 300), 1, (1, 1)),
    ],
)
def test_an_image_is_shrunk_and_never_enlarged(tmp_path, format, size, max_pixels, expected):
    corner = Image.fromarray(four_corners(size))
    image = opened(tmp_path, saved(corner, format), max_pixels=max_pixels)
    assert image.size == expected
    if min(expected) > 4:
        assert corners(image) == [RED, GREEN, BLUE, YELLOW]


def test_a_wide_image_of_few_rows(tmp_path):
    data = saved(noise_image("RGB", (30_000, 3)), "PNG")
    assert opened(tmp_path, data).size == (30_000, 3)
    assert opened(tmp_path, data, max_pixels=40_000).size == (20_000, 2)
    assert opened(tmp_path, data, max_pixels=1_000).size == (1_000, 1)


def test_a_shrunk_jpeg_is_as_good_as_one_shrunk_after_decoding(tmp_path):
    """A JPEG that is decoded at a part of its size shows the same at the same positions."""
    y, x = np.mgrid[:1203, :1601]
    waves = 128 + 60 * np.sin(x / 40) + 60 * np.cos(y / 30)
    data = saved(Image.fromarray(np.rint(waves).astype(np.uint8)), "JPEG", quality=95)
    (tmp_path / "a.jpg").write_bytes(data)
    shrunk = open_image(tmp_path / "a.jpg", max_pixels=40_000)
    with Image.open(tmp_path / "a.jpg") as image:
        whole = image.convert("RGB").resize((230, 173), Image.Resampling.LANCZOS)
    assert shrunk.size == whole.size
    difference = np.abs(np.asarray(shrunk).astype(int) - np.asarray(whole))
    assert difference.mean() < 1
    assert difference.max() < 8


# --- side effects ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "LA", "L", "1", "CMYK", "I;16"])
def test_an_image_in_memory_does_not_change(mode):
    image = noise_image(mode, (40, 20))
    if mode == "P":
        image.info["transparency"] = bytes(range(100))
    image.info["a"] = "mark"

    def state():
        return image.mode, image.size, image.tobytes(), dict(image.info), image.getpalette("RGBA"), digest(image)

    before = state()
    result = open_image(image)
    open_image(image, max_pixels=50)
    result.paste("red", (0, 0, 40, 20))
    assert state() == before


def test_the_settings_of_pillow_do_not_change(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert opened(tmp_path, saved(Image.new("RGB", (15, 10)), "PNG")).size == (15, 10)  # Pillow would warn
    with pytest.raises(DocumentError, match=r"too large \(Image size \(400 pixels\)"):  # the application's own limit
        opened(tmp_path, saved(Image.new("RGB", (20, 20)), "PNG"))
    assert Image.MAX_IMAGE_PIXELS == 100
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_warning_filters_do_not_change_in_threads(tmp_path):
    data = saved(noise_image("RGB", (50, 50)), "PNG")
    (tmp_path / "a.png").write_bytes(data)
    before = list(warnings.filters)
    sizes = []

    def work():
        sizes.extend(open_image(tmp_path / "a.png").size for _ in range(50))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sizes == [(50, 50)] * 400
    assert warnings.filters == before


# --- digest ---------------------------------------------------------------------------------


def test_a_digest_covers_everything_that_is_shown():
    image = noise_image("RGB", (6, 4))
    assert digest(image) == digest(image.copy())
    assert len(digest(image)) == 32
    palette = noise_image("P", (6, 4))
    other_palette = palette.copy()
    other_palette.putpalette([1, 2, 3] * 256)
    transparent = palette.copy()
    transparent.info["transparency"] = 0
    pixel = image.copy()
    pixel.putpixel((5, 3), (1, 2, 3))
    turned = Image.open(io.BytesIO(with_orientation(palette.convert("RGB"), "PNG", 6)))
    plain = Image.open(io.BytesIO(with_orientation(palette.convert("RGB"), "PNG", 1)))
    different = [
        *(image, pixel, Image.frombytes("RGB", (4, 6), image.tobytes())),
        *(Image.frombytes("L", (6, 12), image.tobytes()), palette, other_palette, transparent, turned, plain),
    ]
    assert len({digest(one) for one in different}) == len(different)


@pytest.mark.parametrize(("format", "name"), [("AVIF", "a.avif"), ("JPEG2000", "a.jp2"), ("JPEG2000", "a.j2k")])
def test_newer_formats_are_read(tmp_path, format, name):
    data = saved(Image.fromarray(four_corners()), format, **({"no_jp2": True} if name == "a.j2k" else {}))
    assert corners(opened(tmp_path, data, name)) == [RED, GREEN, BLUE, YELLOW]
    assert opened(tmp_path, data, name, max_pixels=240).size == (20, 12)
    for cut in (0.1, 0.5, 0.8):
        assert isinstance(outcome_of(tmp_path, data[: int(len(data) * cut)], name), Image.Image | DocumentError)


def outcome_of(tmp_path, data, name):
    (tmp_path / name).write_bytes(data)
    return outcome(tmp_path / name)

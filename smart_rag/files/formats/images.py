"""Convert images of any format, mode, orientation and size to upright RGB images."""

from __future__ import annotations

import hashlib
import io
import math
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from smart_rag.config import check_count
from smart_rag.errors import DocumentError, InvalidInput, SmartRagError
from smart_rag.files.formats.pictures import heif
from smart_rag.files.formats.readable import check_readable
from smart_rag.paths import absolute
from smart_rag.wording import one_line

# Of the formats that Pillow reads and writes.
PILLOW_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2", ".j2k")
SUFFIXES = (*PILLOW_SUFFIXES, *heif.SUFFIXES)
# An image is not decoded if its header states more pixels than this. Pillow needs 0.7 GB for this number of pixels. An
# A2 page at 600 dpi has fewer pixels. Pillow's own limit, twice its MAX_IMAGE_PIXELS, is a little higher.
MAX_SOURCE_PIXELS = 170_000_000

A4_PIXELS = 2480 * 3508  # at 300 dpi
# From the (width, height) of an image to another one.
SizeRule: TypeAlias = Callable[[int, int], tuple[int, int]]

# Pillow reads other formats, too. But some of them start a program (EPS) or only refer to other files.
_PILLOW_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000")
# A TIFF with more images is no document of pages. Looking for more of them would take long.
_MOST_PAGES = 10_000
_NEW_SUBFILE_TYPE = 254
# The operation that turns an image upright, for each Exif orientation.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Warning filters are global. If two threads change them at the same time, they restore the wrong filters.
_WARNINGS = threading.RLock()


def open_image(
    source: str | Path | Image.Image, max_pixels: int | None = None, size_of: SizeRule | None = None, page: int = 1
) -> Image.Image:
    """Return an upright RGB image with at most ``max_pixels``. The background of a transparent image is white.

    A larger image is shrunk and keeps its aspect ratio. No image is enlarged. If an animation comes from a file, its
    first frame is used. If it is in memory, its current frame is used. In 16-bit greyscale, 0 becomes black and 65535
    becomes white, whatever values occur. 32-bit values
    and floats are scaled: their smallest value becomes black, and their largest value becomes white. ``source`` is not
    changed.

    Args:
        source: the path of a file, or an image in memory.
        max_pixels: the maximum number of pixels. By default, the image keeps its size.
        size_of: a function from the image's (width, height) to the size that it gets, in place of ``max_pixels``. Then
            the image is decoded as a whole and resized once, by Pillow's bicubic filter.
        page: the number of the image in a file of several images; see `pages`.

    Raises:
        DocumentError: a file cannot be read, is not in one of the formats of `SUFFIXES`, is broken or truncated, or
            has more pixels than `MAX_SOURCE_PIXELS`. The pixels are counted before decoding.
        MissingExtra: a file is HEIF, and pi-heif is not installed.
        InvalidInput: an image in memory cannot be loaded or has too many pixels, or ``source`` is neither an image nor
            a path.
    """
    if max_pixels is not None:
        check_count("max_pixels", max_pixels)
    if isinstance(source, Image.Image):
        with _loading(source):
            _check_size(source.size)
            return _converted(source.copy(), max_pixels, size_of)
    if not isinstance(source, str | Path):
        raise InvalidInput(f"an image must be a path or a PIL image, got {type(source).__name__}")
    path = absolute(source)
    check_readable(path)
    with _loading(path), _opened(path, page) as image:
        _check_size(image.size)
        return _converted(image, max_pixels, size_of)


def pages(path: Path) -> list[int]:
    """Return the numbers of those images of a TIFF that are pages, from 1 on. Smaller copies of a page are left out.

    Each picture of a HEIF file is a page. Any other file has one page, and so has a file that `open_image` cannot read.

    Raises:
        MissingExtra: the file is HEIF, and pi-heif is not installed.
    """
    return _images_of(path)[0] or [1]


def lost_pages(path: Path) -> tuple[list[int], bool]:
    """Return the numbers of those images of a TIFF that cannot be read, and whether it has more than are looked at."""
    found, damaged, has_more = _images_of(path)
    return (damaged if found else []), has_more


def _images_of(path: Path) -> tuple[list[int], list[int], bool]:
    """Return the pages of a TIFF or HEIF, the images that cannot be read, and whether there are too many of them."""
    found: list[int] = []
    damaged: list[int] = []
    try:
        if heif.is_heif(path):
            with _loading(path):
                return list(range(1, heif.count_pictures(path) + 1)), [], False
        with _loading(path), Image.open(path, formats=("TIFF",)) as image:
            for number in range(1, _MOST_PAGES + 2):
                try:
                    image.seek(number - 1)
                except EOFError:  # behind the last image
                    return found, damaged, False
                except Exception:  # the image after it may be sound
                    damaged.append(number)
                    continue
                kind = getattr(image, "tag_v2", {}).get(_NEW_SUBFILE_TYPE, 0)
                if not (isinstance(kind, int) and kind & 1):
                    found.append(number)
            return [number for number in found if number <= _MOST_PAGES], damaged, True
    except DocumentError:  # `open_image` raises it again
        return found, damaged, False


def is_animation(path: Path) -> bool:
    """Return whether a file is an animation of several images. It is False if `open_image` cannot read the file."""
    if heif.is_heif(path):
        return heif.is_sequence(path)
    try:
        with _loading(path), Image.open(path, formats=("GIF", "WEBP", "PNG", "AVIF")) as image:
            return bool(getattr(image, "is_animated", False))
    except DocumentError:
        return False


def image_from_bytes(content: bytes) -> Image.Image:
    """Return the image in the bytes of a file. Pillow decodes the pixels when they are first used.

    Raises:
        InvalidInput: ``content`` is not an image of a known format.
    """
    with _loading(content):
        return Image.open(io.BytesIO(content), formats=_PILLOW_FORMATS)


def blank(pixels: int, aspect: float = 1.0, colour: str = "white") -> Image.Image:
    """Return an image of one ``colour`` with at most ``pixels``. Its width is ``aspect`` times its height."""
    return Image.new("RGB", fit(aspect, 1.0, pixels, math.inf), colour)


def from_pixels(pixels: NDArray[np.uint8]) -> Image.Image:
    """Return an RGB image of ``pixels`` (height, width, 3)."""
    return Image.fromarray(pixels)


def digest(image: Image.Image) -> str:
    """Return a hash of an image in memory: of its pixels, and of everything that changes how they are shown.

    Raises:
        InvalidInput: the image cannot be loaded.
    """
    with _loading(image):
        pixels = image.tobytes()
        shown = (image.mode, image.size, image.getpalette(), image.info.get("transparency"), _orientation(image))
    return hashlib.blake2b(repr(shown).encode() + pixels, digest_size=16).hexdigest()


def fit(width: float, height: float, max_pixels: int, max_scale: float = 1.0) -> tuple[int, int]:
    """Return the largest (width, height) with the same aspect ratio, within ``max_pixels`` and ``max_scale``.

    Width and height of the result are whole numbers of at least 1. For a very thin image, one side of the result is 1.
    If the other side is then longer than ``max_pixels``, this other side is cut. ``max_scale`` limits the ratio of the
    new size to the old size.
    """
    scale = min(max_scale, math.sqrt(max_pixels / (width * height)))
    columns = min(max(1, int(width * scale)), max_pixels)
    return columns, min(max(1, int(height * scale)), max_pixels // columns)


class _TooLarge(Exception):
    """An image has more than `MAX_SOURCE_PIXELS`."""


def _check_size(size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_SOURCE_PIXELS:
        raise _TooLarge(f"{size[0]:,} x {size[1]:,} pixels")


@contextmanager
def _loading(source: Path | Image.Image | bytes) -> Iterator[None]:
    """Ignore Pillow's warnings, and replace its errors by ours, which name ``source``."""
    try:
        with _WARNINGS, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (_TooLarge, Image.DecompressionBombError) as error:
        reason = f"too large ({one_line(error)}); expected at most {MAX_SOURCE_PIXELS:,} pixels, shrink it first"
        raise _error(source, reason) from error
    except UnidentifiedImageError as error:
        raise _error(source, f"not an image of a known format; the formats are {', '.join(SUFFIXES)}") from error
    except SmartRagError:
        raise
    except Exception as error:  # decoders raise errors of many classes for a broken image
        raise _error(source, f"a broken or truncated image ({one_line(error)})") from error


@contextmanager
def _opened(path: Path, page: int) -> Iterator[Image.Image]:
    if heif.is_heif(path):
        yield heif.picture(path, page, _check_size)
        return
    with Image.open(path, formats=_PILLOW_FORMATS) as image:
        image.seek(page - 1)
        yield image


def _error(source: Path | Image.Image | bytes, reason: str) -> DocumentError | InvalidInput:
    if isinstance(source, Path):
        return DocumentError(source, reason)
    return InvalidInput(f"an image in memory cannot be used: {reason}")


def _converted(image: Image.Image, max_pixels: int | None, size_of: SizeRule | None) -> Image.Image:
    """Return ``image`` as `open_image` returns it. ``image`` is our own copy, so this function may change it."""
    size = fit(*image.size, max_pixels or MAX_SOURCE_PIXELS) if size_of is None else size_of(*image.size)
    # A JPEG can be decoded at 1/8, 1/4 or 1/2 of its size. We decode at twice the wanted size, which keeps it sharp.
    is_draft = size_of is None and size != image.size
    draft = image.draft(None, (2 * size[0], 2 * size[1])) if is_draft else None
    image.load()
    turn = _UPRIGHT.get(_orientation(image))  # after load(): it turns a TIFF upright, and a PNG may state it at the end
    image = on_white(image)
    if size_of is not None:
        image = image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
    elif image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS, box=draft and draft[1], reducing_gap=3.0)
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    return orientation if isinstance(orientation, int) else 1


def on_white(image: Image.Image) -> Image.Image:
    """Return a new RGB image without metadata, so that its orientation is not applied a second time."""
    if image.mode[0] in "IF":
        image = _eight_bit(image)
    if image.mode == "La":
        image = image.convert("LA")
    white = Image.new("RGB", image.size, "white")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white.paste(image, mask=image.getchannel("A"))
    else:
        white.paste(image if image.mode == "RGB" else image.convert("RGB"))
    return white


def _eight_bit(image: Image.Image) -> Image.Image:
    """Convert a greyscale image with larger values to 8 bits by scaling. Pillow would clip the values at 255."""
    values = np.asarray(image).astype(np.float32)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if image.mode[0] == "I" and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    grey = np.nan_to_num((values - low) * (255 / ((high - low) or 1)), nan=0, posinf=255, neginf=0)
    if image.info.get("transparency") is not None:
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(np.rint(grey).astype(np.uint8))

"""Images in, upright RGB out, whatever their format, mode, orientation and size."""

from __future__ import annotations

import hashlib
import io
import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from smart_rag.config import check_count
from smart_rag.errors import DocumentError, InvalidInput
from smart_rag.files.access import check_readable, one_line

FORMATS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
# Of an image as its header states them: 0.7 GB as RGB, an A2 page at 600 dpi or more. Pillow's own limit,
# twice its MAX_IMAGE_PIXELS, is a little above.
MAX_SOURCE_PIXELS = 170_000_000

# Pillow knows many more, some of which start other programs (EPS) or only point elsewhere.
_PILLOW_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The filters of warnings belong to the process: two threads that change them at a time restore the wrong ones.
_WARNINGS = threading.RLock()


def open_image(source: str | Path | Image.Image, max_pixels: int | None = None) -> Image.Image:
    """Return an image as RGB, upright, on white where it is transparent, of at most ``max_pixels``.

    It is shrunk where it has more, its aspect kept, and never enlarged. Of an animation the first
    frame is taken, of one in memory the frame it stands at. 16-bit greyscale keeps its range; other
    numbers than bytes (32 bits, floats) run from black to white between their smallest and largest.
    An image in memory is left as it is.

    Raises:
        DocumentError: a file that cannot be read, is no image of `FORMATS`, is broken or truncated,
            or has more than `MAX_SOURCE_PIXELS`, which its header tells before anything is decoded.
        InvalidInput: an image in memory that cannot be loaded or has too many pixels.
    """
    if max_pixels is not None:
        check_count("max_pixels", max_pixels)
    if isinstance(source, Image.Image):
        with _loading(source):
            _check_size(source.size)
            return _converted(source.copy(), max_pixels)
    if not isinstance(source, str | Path):
        raise InvalidInput(f"an image must be a path or a PIL image, got {type(source).__name__}")
    path = Path(source)
    check_readable(path)
    with _loading(path), Image.open(path, formats=_PILLOW_FORMATS) as image:
        _check_size(image.size)
        return _converted(image, max_pixels)


def image_from_bytes(content: bytes) -> Image.Image:
    """Return the image in a file's bytes. Its pixels are decoded when they are first used.

    Raises:
        InvalidInput: ``content`` is not an image of a known format.
    """
    with _loading(content):
        return Image.open(io.BytesIO(content), formats=_PILLOW_FORMATS)


def blank(pixels: int, aspect: float = 1.0, colour: str = "white") -> Image.Image:
    """Return an image of one colour of at most ``pixels``, ``aspect`` times as wide as high."""
    return Image.new("RGB", fit(aspect, 1.0, pixels, math.inf), colour)


def digest(image: Image.Image) -> str:
    """Return a hash of an image in memory: of its pixels and of all that says how they are shown.

    Raises:
        InvalidInput: the image cannot be loaded.
    """
    with _loading(image):
        pixels = image.tobytes()
        shown = (image.mode, image.size, image.getpalette(), image.info.get("transparency"), _orientation(image))
    return hashlib.blake2b(repr(shown).encode() + pixels, digest_size=16).hexdigest()


def fit(width: float, height: float, max_pixels: int, max_scale: float = 1.0) -> tuple[int, int]:
    """Return the largest whole size of this aspect: at most ``max_pixels``, at most ``max_scale`` times as large.

    A side is never below 1; where that changes the aspect, the other is cut to what ``max_pixels`` leaves.
    """
    scale = min(max_scale, math.sqrt(max_pixels / (width * height)))
    columns = min(max(1, int(width * scale)), max_pixels)
    return columns, min(max(1, int(height * scale)), max_pixels // columns)


class _TooLarge(Exception):
    """An image of more than `MAX_SOURCE_PIXELS`."""


def _check_size(size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_SOURCE_PIXELS:
        raise _TooLarge(f"{size[0]:,} x {size[1]:,} pixels")


@contextmanager
def _loading(source: Path | Image.Image | bytes) -> Iterator[None]:
    """Silence what Pillow warns of, and turn what it raises into an error that names ``source``."""
    try:
        with _WARNINGS, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (_TooLarge, Image.DecompressionBombError) as error:
        reason = f"too large ({one_line(error)}); at most {MAX_SOURCE_PIXELS:,} pixels are decoded, shrink it first"
        raise _error(source, reason) from error
    except UnidentifiedImageError as error:
        raise _error(source, f"not an image of a known format; the formats are {', '.join(FORMATS)}") from error
    except Exception as error:  # whatever a decoder makes of a broken image; it is chained
        raise _error(source, f"a broken or truncated image ({one_line(error)})") from error


def _error(source: Path | Image.Image | bytes, reason: str) -> DocumentError | InvalidInput:
    if isinstance(source, Path):
        return DocumentError(source, reason)
    return InvalidInput(f"an image in memory that cannot be used: {reason}")


def _converted(image: Image.Image, max_pixels: int | None) -> Image.Image:
    """Return ``image``, which is ours to change, as `open_image` gives it."""
    size = fit(*image.size, max_pixels or MAX_SOURCE_PIXELS)
    # A JPEG is decoded at an eighth, a quarter or half of its size; twice the wanted size keeps it sharp.
    draft = image.draft(None, (2 * size[0], 2 * size[1])) if size != image.size else None
    image.load()
    turn = _UPRIGHT.get(_orientation(image))  # after loading: a TIFF is upright then, a PNG's may come last
    image = _on_white(image)
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS, box=draft and draft[1], reducing_gap=3.0)
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    return orientation if isinstance(orientation, int) else 1


def _on_white(image: Image.Image) -> Image.Image:
    """Return a new RGB image without metadata: an orientation that stayed would be applied again."""
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
    """Return a greyscale image of larger numbers as bytes; Pillow would cut them off at 255."""
    values = np.asarray(image).astype(np.float32)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if image.mode[0] == "I" and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    grey = np.nan_to_num((values - low) * (255 / ((high - low) or 1)), nan=0, posinf=255, neginf=0)
    if image.info.get("transparency") is not None:
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(np.rint(grey).astype(np.uint8))

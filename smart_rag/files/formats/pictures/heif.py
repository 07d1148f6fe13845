"""HEIF pictures (.heic), as phones take them.

libheif turns each picture upright, by what the container says. Viewers do the same, and ignore the Exif orientation.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from smart_rag.errors import MissingExtra

SUFFIXES = (".heic", ".heif")
_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1")
_SEQUENCES = (b"hevc", b"hevx", b"hevm", b"hevs", b"msf1")
# The box of a size that libheif decodes. It may be larger than the part of it that is shown.
_SIZE = re.compile(rb"ispe\0{4}(.{8})", re.DOTALL)


def is_heif(path: Path) -> bool:
    """Return whether a file is a HEIF picture, whatever its name is. It is False if the file cannot be read.

    Phones and messengers also name such files .jpg.
    """
    return _brand(path) in (*_BRANDS, *_SEQUENCES)


def is_sequence(path: Path) -> bool:
    """Return whether a HEIF file holds an animation beside its pictures."""
    return _brand(path) in _SEQUENCES


def count_pictures(path: Path) -> int:
    """Return the number of pictures in a HEIF file. Thumbnails and maps of depth are none.

    Raises:
        MissingExtra: pi-heif is not installed.
        Exception: the file is broken; libheif has errors of many classes.
    """
    return len(_opened(path, path.read_bytes()))


def picture(path: Path, page: int, check_size: Callable[[tuple[int, int]], None]) -> Image.Image:
    """Return a picture of a HEIF file, upright. Page 1 is the picture that viewers show, then come the others.

    Args:
        path: the file.
        page: the number of the picture.
        check_size: a function that raises an error if a (width, height) is too large. It is called before decoding,
            with every size that the file states.

    Raises:
        EOFError: there is no such picture.
        MissingExtra, Exception: as `count_pictures`, or as ``check_size``.
    """
    data = path.read_bytes()
    for size in _SIZE.findall(data):
        check_size(struct.unpack(">II", size))
    file = _opened(path, data)
    first = file.primary_index
    order = [first, *(i for i in range(len(file)) if i != first)]
    if not 1 <= page <= len(order):
        raise EOFError(f"it has no picture {page}")
    image: Image.Image = file[order[page - 1]].to_pillow()
    return image


def _opened(path: Path, data: bytes) -> Any:
    try:
        import pi_heif
    except ImportError as error:
        raise MissingExtra("pi-heif", "heic", f"reading {path.name}") from error
    return pi_heif.open_heif(io.BytesIO(data))


def _brand(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except (OSError, ValueError):  # ValueError: the path contains a NUL
        return b""
    return start[8:12] if start[4:8] == b"ftyp" else b""

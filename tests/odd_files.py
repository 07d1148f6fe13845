"""Builders of odd files: every format, mode and size, and everything that can be wrong with them."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("1", "L", "P"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"),
}
SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif"}
SIZES = ((1, 1), (37, 23), (16_000, 2), (3, 16_000))
CUTS = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
NOISE = random.Random(0).randbytes(3000)


@dataclass(frozen=True, slots=True)
class OddFile:
    """A file to be written, or a folder where ``data`` is None; ``sound`` is None where both may be right."""

    name: str
    data: bytes | None
    sound: bool | None
    size: tuple[int, int] | None = None

    def write(self, folder: Path) -> Path:
        path = folder / self.name
        if self.data is None:
            path.mkdir()
        else:
            path.write_bytes(self.data)
        return path


def noise_image(mode: str, size: tuple[int, int]) -> Image.Image:
    """Return an image of noise: a decoder has something to do, and every byte of the file counts."""
    random = np.random.default_rng(0)
    shape = size[::-1]
    if mode in ("I;16", "I"):
        image = Image.fromarray(random.integers(0, 65536, shape, dtype=np.uint16))
        return image if mode == "I;16" else image.convert("I")
    if mode == "F":
        return Image.fromarray(random.random(shape, dtype=np.float32))
    rgba = Image.fromarray(random.integers(0, 256, (*shape, 4), dtype=np.uint8))
    return rgba if mode == "RGBA" else rgba.convert("LA" if mode == "LA" else "RGB").convert(mode)


def saved(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def animation(format: str, frames: int = 3) -> bytes:
    """Return an animation whose frame ``i`` is of the grey 40 * (i + 1)."""
    first, *rest = (Image.new("RGB", (20, 10), (40 * (i + 1),) * 3) for i in range(frames))
    return saved(first, format, save_all=True, append_images=rest, duration=100)


def with_orientation(image: Image.Image, format: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x112] = orientation
    return saved(image, format, exif=exif)


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_bomb(width: int, height: int) -> bytes:
    """Return a PNG of 1 kB that claims to be as large as you say."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            png_chunk(b"IHDR", header),
            png_chunk(b"IDAT", zlib.compress(bytes(100_000))),
            png_chunk(b"IEND", b""),
        )
    )


def gif_bomb() -> bytes:
    """Return a GIF that claims 65,535 x 65,535 pixels."""
    side = struct.pack("<H", 65_535)
    return b"GIF89a" + side * 2 + b"\x80\0\0" + b"\0\0\0\xff\xff\xff" + b"," + bytes(4) + side * 2 + b"\0\2\2L\1\0;"


def bmp_bomb() -> bytes:
    """Return a BMP that claims 50,000 x 50,000 pixels."""
    info = struct.pack("<IiiHHIIiiII", 40, 50_000, 50_000, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 100, 0, 0, 54) + info + bytes(100)


def odd_images() -> Iterator[OddFile]:
    """Yield files of images, most of them broken in some way."""
    for format, modes in MODES.items():
        suffix = SUFFIXES[format]
        for mode in modes:
            for size in SIZES:
                name = f"{mode.replace(';', '')}-{size[0]}x{size[1]}{suffix}"
                yield OddFile(name, saved(noise_image(mode, size), format), True, size)
        data = saved(noise_image("L" if format == "GIF" else "RGB", (64, 48)), format)
        for cut in CUTS:
            yield OddFile(f"cut-{cut}{suffix}", data[: int(len(data) * cut)], False)
        yield OddFile(f"one-byte-less{suffix}", data[:-1], None)
        yield OddFile(f"more-behind{suffix}", data + NOISE, True, (64, 48))
        yield OddFile(f"zeroed-behind-300{suffix}", data[:300] + bytes(len(data) - 300), None)
    for format in ("JPEG", "PNG", "WEBP", "TIFF"):
        for turn in range(1, 9):
            size = (8, 16) if turn < 5 else (16, 8)
            name = f"orientation-{turn}{SUFFIXES[format]}"
            yield OddFile(name, with_orientation(noise_image("RGB", (8, 16)), format, turn), True, size)
    exifs = (
        b"Exif\0\0",
        b"Exif\0\0garbage!",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\5\0\x12\1\7\0",
    )
    for i, exif in enumerate(exifs):
        yield OddFile(f"broken-exif-{i}.jpg", saved(noise_image("RGB", (8, 8)), "JPEG", exif=exif), True, (8, 8))
    for format in ("GIF", "WEBP", "PNG", "TIFF"):
        data = animation(format)
        yield OddFile(f"animation{SUFFIXES[format]}", data, True, (20, 10))
        yield OddFile(f"animation-cut{SUFFIXES[format]}", data[: len(data) // 2], None)
    # An APNG that states no frames: Pillow warns, and shows what is there.
    header = struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"acTL", bytes(8)), (b"IDAT", zlib.compress(bytes(20))), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)
    yield OddFile("animation-of-nothing.png", data, True, (4, 4))
    palette = noise_image("P", (9, 9))
    yield OddFile("transparent-palette.png", saved(palette, "PNG", transparency=3), True, (9, 9))
    yield OddFile("translucent-palette.png", saved(palette, "PNG", transparency=bytes(range(200))), True, (9, 9))
    yield OddFile("transparent-palette.gif", saved(palette, "GIF", transparency=3), True, (9, 9))
    yield OddFile("progressive.jpg", saved(noise_image("RGB", (99, 50)), "JPEG", progressive=True), True, (99, 50))
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        data = saved(noise_image("RGB", (64, 48)), "TIFF", compression=compression)
        yield OddFile(f"{compression}.tiff", data, True, (64, 48))
        yield OddFile(f"{compression}-cut.tiff", data[: len(data) // 2], False)
    yield OddFile("30000-wide.png", saved(noise_image("RGB", (30_000, 3)), "PNG"), True, (30_000, 3))
    for i, size in enumerate(((60_000, 60_000), (2**31 - 1, 2**31 - 1), (10_000, 10_000), (13_100, 13_100), (0, 5))):
        yield OddFile(f"bomb-{i}.png", png_bomb(*size), False)
    yield OddFile("bomb.gif", gif_bomb(), False)
    yield OddFile("bomb.bmp", bmp_bomb(), False)
    png = saved(noise_image("RGB", (8, 8)), "PNG")
    for suffix in IMAGE_SUFFIXES:
        yield OddFile(f"in-truth-a-png{suffix}", png, True, (8, 8))
        yield OddFile(f"empty{suffix}", b"", False)
        yield OddFile(f"noise{suffix}", NOISE, False)
        yield OddFile(f"text{suffix}", b"These are words, and no image.\n" * 20, False)
        yield OddFile(f"folder{suffix}", None, False)
    yield OddFile("icon.png", saved(noise_image("RGB", (16, 16)), "ICO"), False)
    yield OddFile("postscript.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", False)

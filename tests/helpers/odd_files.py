"""Builders of odd files: every format, mode and size, and everything that can be wrong with them."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from fpdf import FPDF
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


# Lines for a process of its own: the most memory it has had, in kB. (`ru_maxrss` would begin with its parent's.)
PEAK = """
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
"""


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


# --- PDFs -----------------------------------------------------------------------------------

CATALOG = b"<</Type/Catalog/Pages 2 0 R>>"
PAGES = b"<</Type/Pages/Kids[3 0 R]/Count 1>>"
FONT = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"
# A red square at the top left of the page of 200 x 100, and words.
CONTENT = b"1 0 0 rg 0 80 20 20 re f BT /F 12 Tf 60 40 Td (A few words) Tj ET"


def stream(data: bytes, entries: bytes = b"", length: int | None = None) -> bytes:
    size = len(data) if length is None else length
    return b"<<%s/Length %d>>\nstream\n%s\nendstream" % (entries, size, data)


def page(box: bytes = b"[0 0 200 100]", entries: bytes = b"", contents: bytes = b"/Contents 4 0 R") -> bytes:
    return b"<</Type/Page/Parent 2 0 R/MediaBox%s%s/Resources<</Font<</F 5 0 R>>>>%s>>" % (box, entries, contents)


def raw_pdf(*objects: bytes, trailer: bytes = b"/Root 1 0 R") -> bytes:
    """Return a PDF of these objects, numbered from 1, with a sound cross-reference table."""
    data, places = bytearray(b"%PDF-1.7\n"), []
    for i, body in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (i, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size = len(objects) + 1
    data += b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<</Size %d%s>>\n" % (size, table, size, trailer)
    return bytes(data) + b"startxref\n%d\n%%%%EOF\n" % (data.index(b"xref\n0 "))


def one_page(**options) -> bytes:
    return raw_pdf(CATALOG, PAGES, page(**options), stream(CONTENT), FONT)


def lines(*texts: str) -> bytes:
    """Return the content of a page with these lines."""
    shown = b"".join(b"(%s) Tj T* " % text.encode("latin-1") for text in texts)
    return b"BT /F 12 Tf 10 TL 10 80 Td %sET" % shown


def pages_of(*contents: bytes) -> bytes:
    """Return a PDF with a page for each content stream."""
    kids = b" ".join(b"%d 0 R" % (4 + 2 * i) for i in range(len(contents)))
    objects = [CATALOG, b"<</Type/Pages/Kids[%s]/Count %d>>" % (kids, len(contents)), FONT]
    for i, content in enumerate(contents):
        objects += [page(contents=b"/Contents %d 0 R" % (5 + 2 * i)).replace(b"/F 5 0 R", b"/F 3 0 R"), stream(content)]
    return raw_pdf(*objects)


def fpdf_pages(*texts: str, password: str | None = None, owner: str | None = None) -> bytes:
    """Return a PDF with a page for each text; a password makes it one that only opens with it."""
    made = FPDF()
    if password or owner:
        made.set_encryption(owner_password=owner or "owner", user_password=password)
    made.set_font("Helvetica", size=12)
    for text in texts:
        made.add_page()
        made.multi_cell(0, 8, text)
    return bytes(made.output())


def odd_pdfs() -> Iterator[OddFile]:
    """Yield PDFs, most of them broken in some way; ``size`` is the first page's in points, as it is shown."""
    sound = fpdf_pages("The first page.", "The second page.", "The third page.")
    for i in range(60):
        yield OddFile(f"cut-{i}.pdf", sound[: len(sound) * i // 60], None if i else False)
    for i in range(1, 20):
        yield OddFile(f"cut-{i}-of-the-end.pdf", sound[:-i], None)
    for name, box, size in (
        ("page", b"[0 0 200 100]", (200, 100)),
        ("huge", b"[0 0 14400 14400]", (14_400, 14_400)),
        ("tiny", b"[0 0 .5 .25]", (0.5, 0.25)),
        ("narrow", b"[0 0 1 5000]", (1, 5000)),
        ("moved", b"[-50 -50 150 50]", (200, 100)),
        ("turned-inside-out", b"[200 100 0 0]", (200, 100)),
        ("empty", b"[0 0 0 0]", None),
        ("line", b"[0 0 100 0]", None),
        ("vast", b"[0 0 1000000000 1000000000]", None),
        ("beyond", b"[0 0 1" + b"0" * 60 + b" 5]", None),
        ("no-numbers", b"[/A /B (c) null]", None),
        ("too-short", b"[0 0]", None),
    ):
        for turn in (0, 90, 180, 270, -90, 45, 10**12):
            data = one_page(box=box, entries=b"/Rotate %d" % turn)
            shown = size and (size[::-1] if turn in (90, 270, -90) else size)
            yield OddFile(f"{name}-{turn}.pdf", data, True if shown else None, shown)
    words = stream(CONTENT)
    for name, data in {
        "startxref-wrong": sound.replace(b"startxref\n", b"startxref\n9"),
        "startxref-gone": sound[: sound.rindex(b"startxref")],
        "xref-gone": sound.replace(b"\nxref\n", b"\nnone\n"),
        "xref-garbled": sound.replace(b" 00000 n", b" 99999 z"),
        "trailer-gone": sound.replace(b"trailer", b"nothing"),
        "no-root": raw_pdf(CATALOG, PAGES, page(), words, FONT, trailer=b""),
        "root-elsewhere": raw_pdf(CATALOG, PAGES, page(), words, FONT, trailer=b"/Root 99 0 R"),
        "root-is-a-page": raw_pdf(CATALOG, PAGES, page(), words, FONT, trailer=b"/Root 3 0 R"),
        "no-pages": raw_pdf(b"<</Type/Catalog>>"),
        "zero-pages": raw_pdf(CATALOG, b"<</Type/Pages/Kids[]/Count 0>>"),
        "page-null": raw_pdf(CATALOG, b"<</Type/Pages/Kids[null]/Count 1>>"),
        "page-missing": raw_pdf(CATALOG, b"<</Type/Pages/Kids[9 0 R]/Count 1>>"),
        "page-is-a-number": raw_pdf(CATALOG, PAGES, b"42"),
        "page-is-a-font": raw_pdf(CATALOG, PAGES, FONT),
        "pages-in-a-loop": raw_pdf(CATALOG, b"<</Type/Pages/Kids[2 0 R]/Count 1>>"),
        "page-without-box": raw_pdf(CATALOG, PAGES, b"<</Type/Page/Parent 2 0 R/Contents 4 0 R>>", words),
        "contents-missing": one_page(contents=b"/Contents 44 0 R"),
        "contents-a-page": one_page(contents=b"/Contents 3 0 R"),
        "no-contents": one_page(contents=b""),
        "too-deep": raw_pdf(CATALOG, PAGES, page(), stream(b"q " * 100_000 + CONTENT), FONT),
        "noise-as-contents": raw_pdf(CATALOG, PAGES, page(), stream(NOISE), FONT),
        "no-zlib": raw_pdf(CATALOG, PAGES, page(), stream(NOISE, b"/Filter/FlateDecode"), FONT),
        "no-filter": raw_pdf(CATALOG, PAGES, page(), stream(CONTENT, b"/Filter/Nothing"), FONT),
        "jpeg-as-contents": raw_pdf(CATALOG, PAGES, page(), stream(NOISE, b"/Filter/DCTDecode"), FONT),
        "font-missing": raw_pdf(CATALOG, PAGES, page(), words),
        "unknown-encryption": raw_pdf(
            CATALOG, PAGES, page(), words, FONT, trailer=b"/Root 1 0 R/Encrypt<</Filter/Unknown/V 9>>"
        ),
        "form-in-itself": raw_pdf(
            CATALOG,
            PAGES,
            page(entries=b"/Resources<</XObject<</X 6 0 R>>>>"),
            stream(b"/X Do"),
            FONT,
            stream(b"/X Do", b"/Type/XObject/Subtype/Form/BBox[0 0 9 9]/Resources<</XObject<</X 6 0 R>>>>"),
        ),
    }.items():
        yield OddFile(f"{name}.pdf", data, None)
    for count in (-1, 0, 2, 2**31 - 1, 2**31, 10**15):
        yield OddFile(
            f"count-{count}.pdf",
            raw_pdf(CATALOG, b"<</Type/Pages/Kids[3 0 R]/Count %d>>" % count, page(), words, FONT),
            None,
        )
    for length in (0, 5, len(CONTENT) + 1, 10**9, -3):
        yield OddFile(
            f"length-{length}.pdf", raw_pdf(CATALOG, PAGES, page(), stream(CONTENT, length=length), FONT), None
        )
    yield OddFile("sound.pdf", sound, True)
    yield OddFile("more-behind.pdf", sound + bytes(500), True)
    yield OddFile("more-before.pdf", b"From a mail:\n" + one_page(), None)
    yield OddFile("user-password.pdf", fpdf_pages("Secret.", password="sesame"), False)
    yield OddFile("owner-password.pdf", fpdf_pages("Read me.", owner="secret"), True)
    yield OddFile("empty.pdf", b"", False)
    yield OddFile("noise.pdf", NOISE, False)
    yield OddFile("noise-with-a-header.pdf", b"%PDF-1.7\n" + NOISE, False)
    yield OddFile("text.pdf", b"These are words, and no PDF.\n" * 20, False)
    yield OddFile("in-truth-a-png.pdf", saved(noise_image("RGB", (8, 8)), "PNG"), False)
    yield OddFile("folder.pdf", None, False)


# --- videos ---------------------------------------------------------------------------------

# Each file name with a codec that its format usually holds.
VIDEOS = (
    ("a.mp4", "libx264"),
    ("a.mov", "libx264"),
    ("a.m4v", "mpeg4"),
    ("a.mkv", "libx264"),
    ("vp8.webm", "libvpx"),
    ("vp9.webm", "libvpx-vp9"),
    ("a.avi", "mpeg4"),
)
STEP = 5  # of brightness, from one frame to the next


def video(
    path: Path,
    codec: str = "libx264",
    frames: int = 50,
    rate: int = 25,
    size: tuple[int, int] = (64, 48),
    matrix: tuple[int, ...] | None = None,
    times: list[int] | None = None,
    picture: np.ndarray | None = None,
    **options: str,
) -> Path:
    """Write a video whose frame ``i`` is of the grey ``STEP * i``, or ``picture``; ``times`` are in milliseconds."""
    with av.open(str(path), "w", options=options) as container:
        track = container.add_stream(codec, rate=rate)
        track.width, track.height = size
        track.pix_fmt = "yuv420p"
        track.set_display_matrix(matrix)
        if codec == "mpeg4":
            track.bit_rate = 8_000_000  # with its own, shades are lost
        if times:
            track.codec_context.time_base = Fraction(1, 1000)
        for i in range(frames):
            pixels = np.full((*size[::-1], 3), STEP * i % 256, dtype=np.uint8) if picture is None else picture
            frame = av.VideoFrame.from_ndarray(pixels)
            if times:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            container.mux(track.encode(frame))
        container.mux(track.encode())
    return path


def sound_only(path: Path, cover: bool = False) -> Path:
    """Write a file with a second of silence, and no video; a cover is a picture that goes with it."""
    with av.open(str(path), "w") as container:
        track = container.add_stream("aac", rate=44_100)
        if cover:
            picture = container.add_stream("mjpeg", rate=1)
            picture.width, picture.height, picture.pix_fmt = 32, 32, "yuvj420p"
            picture.disposition = Disposition.attached_pic
            container.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), dtype=np.uint8))))
            container.mux(picture.encode())
        for _ in range(44):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
            frame.sample_rate = 44_100
            container.mux(track.encode(frame))
        container.mux(track.encode())
    return path

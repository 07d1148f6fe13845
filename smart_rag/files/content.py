"""Images and videos of a `Content`: open them when they are encoded, and identify them by their bytes.

Pages of PDFs are drawn and searched in the worker process (`smart_rag.files.worker`). SVG and HEIF pictures are drawn
and decoded there, too.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from smart_rag.config import check_count
from smart_rag.errors import DocumentError
from smart_rag.files.formats import images, pdf
from smart_rag.files.formats.pictures.drawn import drawing_of
from smart_rag.files.formats.pictures.heif import is_heif
from smart_rag.files.formats.pictures.svg import is_svg
from smart_rag.files.ocr import pages as ocr
from smart_rag.files.worker import call, check_time
from smart_rag.paths import absolute
from smart_rag.types import Box, Content, ImageSource, PdfPage, Span, VideoSource


def open_image(source: ImageSource, max_pixels: int = images.MAX_SOURCE_PIXELS) -> Image.Image:
    """Return ``source`` as an upright RGB image of at most ``max_pixels``.

    A page of a PDF, or an SVG, is drawn as large as ``max_pixels`` allows. Any other image is shrunk if necessary, and
    never enlarged. A `PdfPage` of a TIFF or of a HEIF file is one of the images in this file.

    Raises:
        DocumentError: the file cannot be read, or its format is not the one that its name says.
        InvalidInput: an image in memory cannot be used.
        MissingExtra: the package that reads this format is not installed.
    """
    page = _page_apart(source)
    if page is not None:
        arguments = _number(page), check_count("max_pixels", max_pixels)
        size, pixels = call(_pixels, absolute(page.path), *arguments, task=_task(page))
        return Image.frombytes("RGB", size, pixels)
    if isinstance(source, PdfPage):
        return images.open_image(source.path, max_pixels, page=_number(source))
    return images.open_image(source, max_pixels)


def open_image_as(source: ImageSource, size_of: images.SizeRule) -> Image.Image:
    """Return ``source`` as an upright RGB image of the size that ``size_of`` gives for its own size.

    A page of a PDF, or an SVG, has the size that it has at 300 dpi. It is drawn once, at the size that ``size_of``
    gives. The errors are those of `open_image`.
    """
    page = _page_apart(source)
    if page is None:
        if isinstance(source, PdfPage):
            return images.open_image(source.path, size_of=size_of, page=_number(source))
        return images.open_image(source, size_of=size_of)
    if _is_image(page):
        return images.open_image(open_image(page), size_of=size_of)
    number, path, task = _number(page), absolute(page.path), _task(page)
    width, height = call(drawing_of(path).dots, path, number, task=task)
    size, pixels = call(_pixels_as, path, number, *size_of(width, height), task=task)
    return Image.frombytes("RGB", size, pixels)


def page_text(page: PdfPage, recognised: bool = False) -> str:
    """Return the text layer of a page of a PDF. A page of any other file has none.

    If ``recognised`` is True, return the text that `smart_rag.files.ocr` recognises on the page.

    Raises:
        DocumentError: the file or the page cannot be read.
        MissingExtra: pypdfium2 or RapidOCR is not installed.
    """
    if recognised:
        return call(ocr.text, absolute(page.path), _number(page), task=f"recognising page {page.page}")
    if not _has_layer(page):
        return ""
    return call(pdf.text, absolute(page.path), _number(page), task=f"reading page {page.page}")


def page_boxes(page: PdfPage, spans: Sequence[Span], recognised: bool = False) -> list[list[Box]]:
    """Return the boxes of each of ``spans`` in `page_text`; see `Pdf.boxes`. The errors are those of `page_text`."""
    if not (recognised or _has_layer(page)):
        return [[] for _ in spans]
    function, task = (ocr.boxes, "recognising") if recognised else (pdf.boxes, "reading")
    found = call(function, absolute(page.path), _number(page), list(spans), task=f"{task} page {page.page}")
    return [[(left, top, right, bottom) for left, top, right, bottom in boxes] for boxes in found]


def jpeg(source: ImageSource, max_pixels: int) -> bytes:
    """Return ``source`` as the bytes of a JPEG file. JPEG is small, and every language model with vision can read it.

    The image is the one that `open_image` returns, and the same errors are raised.
    """
    data = io.BytesIO()
    # Without chroma subsampling, which would blur coloured print.
    open_image(source, max_pixels).save(data, "JPEG", quality=90, subsampling=0)
    return data.getvalue()


def identity(content: Content, file_digest: str | None = None) -> str:
    """Return a string that identifies ``content`` in a storage key. It holds the text, and a digest for each file.

    Args:
        content: a text, an image, a video, or several of them.
        file_digest: the digest of the file of the image or video, if the caller knows it.

    Raises:
        DocumentError: a file cannot be read.
    """
    if content.image is None and content.video is None:
        return content.text
    parts: dict[str, Any] = {"text": content.text}
    if content.image is not None:
        parts["image"] = _image_identity(content.image, file_digest)
    if content.video is not None:
        parts["video"] = _video_identity(content.video, file_digest)
    # With the NUL, it differs from a text that has the same characters.
    return "\0" + json.dumps(parts, sort_keys=True)


def full_source(source: ImageSource | None) -> Path | PdfPage | Image.Image | None:
    """Return ``source`` with the full path of its file. The result stays valid if the working directory changes."""
    if isinstance(source, PdfPage):
        return PdfPage(absolute(source.path), source.page)
    return absolute(source) if isinstance(source, str | Path) else source


def full_video_source(source: VideoSource | None) -> VideoSource | None:
    """Return ``source`` with full paths; see `full_source`."""
    if source is None or isinstance(source, str | Path):
        return None if source is None else absolute(source)
    frames = [full_source(frame) for frame in source]
    return [frame for frame in frames if frame is not None]


def digest_of_file(path: Path) -> str:
    """Return a digest of the bytes of a file, as 32 hexadecimal digits.

    Raises:
        DocumentError: the file cannot be read, or reading it takes longer than a file may take.
    """
    digest, begin = hashlib.blake2b(digest_size=16), time.monotonic()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
                check_time(path, begin, "reading it")
    except OSError as error:
        raise DocumentError(path, f"cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def _page_apart(source: ImageSource) -> PdfPage | None:
    """Return the page that the worker process draws or decodes, or None for an image that Pillow decodes here."""
    if isinstance(source, str | Path):
        path = absolute(source)
        return PdfPage(path, 1) if is_svg(path) or is_heif(path) else None
    if isinstance(source, PdfPage) and (not _is_image(source) or is_heif(absolute(source.path))):
        return source
    return None


def _task(page: PdfPage) -> str:
    return "decoding it" if _is_image(page) else f"drawing page {page.page}"


def _pixels(path: str, number: int, max_pixels: int) -> tuple[tuple[int, int], bytes]:
    """Return the size of a page in pixels, and its pixels, in a form that the worker process can send."""
    if _is_image(PdfPage(Path(path), number)):
        image = images.open_image(path, max_pixels, page=number)
    else:
        image = drawing_of(path).render(path, number, max_pixels)
    return image.size, image.tobytes()


def _pixels_as(path: str, number: int, width: int, height: int) -> tuple[tuple[int, int], bytes]:
    """Return the size and the pixels of a page, drawn with this ``width`` and ``height``."""
    image = drawing_of(path).render_as(path, number, (width, height))
    return image.size, image.tobytes()


def _is_image(page: PdfPage) -> bool:
    """Return whether ``page`` is an image in a file of images, such as a TIFF."""
    return Path(page.path).suffix.lower() in images.SUFFIXES or is_heif(absolute(page.path))


def _has_layer(page: PdfPage) -> bool:
    """Return whether ``page`` is a page of a PDF, which has a layer of text."""
    return not (_is_image(page) or is_svg(Path(page.path)))


def _number(page: PdfPage) -> int:
    return check_count("page", page.page)


def _video_identity(source: VideoSource, file_digest: str | None) -> Any:
    if isinstance(source, str | Path):
        return file_digest or digest_of_file(absolute(source))
    return [_image_identity(frame, None) for frame in source]


def _image_identity(source: ImageSource, file_digest: str | None) -> list[Any]:
    if isinstance(source, PdfPage):
        return [file_digest or digest_of_file(source.path), source.page]
    if isinstance(source, str | Path):
        return [file_digest or digest_of_file(absolute(source))]
    return [images.digest(source)]

"""Images and videos of a `Content`. They are opened when they are encoded, and identified by their bytes."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smart_rag.errors import DocumentError
from smart_rag.files import images, pdf
from smart_rag.paths import absolute
from smart_rag.types import Content, ImageSource, PdfPage

if TYPE_CHECKING:
    from PIL import Image


def open_image(source: ImageSource, max_pixels: int = images.MAX_SOURCE_PIXELS) -> Image.Image:
    """Return ``source`` as an upright RGB image of at most ``max_pixels``.

    A page of a PDF is drawn as large as ``max_pixels`` allows. Any other image is shrunk if necessary, never enlarged.

    Raises:
        DocumentError: the file cannot be read, or its format is not the one that its name says.
        InvalidInput: an image in memory cannot be used.
        MissingExtra: ``source`` is a page of a PDF, and pypdfium2 is not installed.
    """
    if isinstance(source, PdfPage):
        return pdf.render(source.path, source.page, max_pixels)
    return images.open_image(source, max_pixels)


def jpeg(source: ImageSource, max_pixels: int) -> bytes:
    """Return ``source`` as the bytes of a JPEG file. JPEG is small, and every language model with vision can read it.

    The image is the one that `open_image` returns, and the same errors are raised.
    """
    data = io.BytesIO()
    # Without chroma subsampling, which would blur coloured print.
    open_image(source, max_pixels).save(data, "JPEG", quality=90, subsampling=0)
    return data.getvalue()


def identity(content: Content, file_digest: str | None = None) -> str:
    """Return a string that identifies ``content`` in a storage key. It has the text, and a digest for each file.

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
        parts["video"] = file_digest or digest_of_file(absolute(content.video))
    # With the NUL, it differs from a text that has the same characters.
    return "\0" + json.dumps(parts, sort_keys=True)


def full_source(source: ImageSource | None) -> Path | PdfPage | Image.Image | None:
    """Return ``source`` with the full path of its file. It stays valid if the working directory changes."""
    if isinstance(source, PdfPage):
        return PdfPage(absolute(source.path), source.page)
    return absolute(source) if isinstance(source, str | Path) else source


def digest_of_file(path: Path) -> str:
    """Return a digest of the bytes of a file, as 32 hexadecimal digits.

    Raises:
        DocumentError: the file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DocumentError(path, f"cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def _image_identity(source: ImageSource, file_digest: str | None) -> list[Any]:
    if isinstance(source, PdfPage):
        return [file_digest or digest_of_file(source.path), source.page]
    if isinstance(source, str | Path):
        return [file_digest or digest_of_file(absolute(source))]
    return [images.digest(source)]

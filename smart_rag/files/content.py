"""Images and videos of a `Content`: opened when they are encoded, named by what is in them."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smart_rag.errors import DocumentError
from smart_rag.files import images, pdf
from smart_rag.types import Content, ImageSource, PdfPage

if TYPE_CHECKING:
    from PIL import Image


def open_image(source: ImageSource, max_pixels: int = images.MAX_SOURCE_PIXELS) -> Image.Image:
    """Return ``source`` in RGB, upright, of at most ``max_pixels``; a page of a PDF is drawn as large as that.

    Raises:
        DocumentError: the file cannot be read as what its name says.
        InvalidInput: an image in memory cannot be used.
    """
    if isinstance(source, PdfPage):
        return pdf.render(source.path, source.page, max_pixels)
    return images.open_image(source, max_pixels)


def jpeg(source: ImageSource, max_pixels: int) -> bytes:
    """Return ``source`` as `open_image` gives it, as the bytes of a JPEG file: small, and taken by every model."""
    data = io.BytesIO()
    # Colours at full size: at half of it, coloured print would blur.
    open_image(source, max_pixels).save(data, "JPEG", quality=90, subsampling=0)
    return data.getvalue()


def identity(content: Content, file_digest: str | None = None) -> str:
    """Return what is in ``content``, for a key: a text itself, and files by a digest of their bytes.

    ``file_digest`` is that of its file where the caller knows it.
    """
    if content.image is None and content.video is None:
        return content.text
    parts: dict[str, Any] = {"text": content.text}
    if content.image is not None:
        parts["image"] = _image_identity(content.image, file_digest)
    if content.video is not None:
        parts["video"] = file_digest or digest_of_file(Path(content.video))
    # Begins as no text does that is anybody's: with a NUL.
    return "\0" + json.dumps(parts, sort_keys=True)


def digest_of_file(path: Path) -> str:
    """Return a digest of the file's bytes."""
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
        return [file_digest or digest_of_file(Path(source))]
    return [images.digest(source)]

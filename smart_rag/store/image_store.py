"""The images of an index: those that came from memory, and drawings of pages that somebody needs as files."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from smart_rag.files import content as media
from smart_rag.files import images
from smart_rag.files.readable import check_readable
from smart_rag.types import Document, ImageSource, PdfPage


class ImageFolder:
    """PNG files under names that say what is in them, so that writing one twice changes nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def settled(self, document: Document) -> Document:
        """Return ``document`` with paths that hold wherever the program is, its image in memory saved as a file."""
        image, video = document.image, document.video
        if image is None and video is None:
            return document
        if isinstance(image, PdfPage):
            image = PdfPage(image.path.absolute(), image.page)
        elif isinstance(image, str | Path):
            image = Path(image).expanduser().absolute()
        elif image is not None:
            image = self._file(images.digest(image), image)
        return replace(document, image=image, video=None if video is None else Path(video).expanduser().absolute())

    def file_of(self, image: ImageSource, max_pixels: int) -> Path:
        """Return a file with ``image``: its own, or for a page of a PDF a drawing, made where there is none yet.

        Raises:
            DocumentError: the file is gone, or its page cannot be drawn.
        """
        if isinstance(image, str | Path):
            path = Path(image)
            check_readable(path)
            return path
        if isinstance(image, PdfPage):
            stat = image.path.stat() if image.path.exists() else None
            version = None if stat is None else (stat.st_size, stat.st_mtime_ns)
            what = f"{image.path}\0{version}\0{image.page}\0{max_pixels}"
        else:
            what = images.digest(image)
        return self._file(hashlib.blake2b(what.encode(), digest_size=16).hexdigest(), image, max_pixels)

    def vacuum(self, live: Iterable[ImageSource | None]) -> None:
        """Remove every file but those that are among ``live``; drawings are made again when they are needed."""
        kept = {image for image in live if isinstance(image, Path)}
        if self.path.is_dir():
            for file in self.path.iterdir():
                if file not in kept:
                    file.unlink(missing_ok=True)

    def _file(self, name: str, image: ImageSource, max_pixels: int = images.MAX_SOURCE_PIXELS) -> Path:
        path = self.path / f"{name}.png"
        if not path.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            # A name of its own: another process or thread may draw the same page.
            temporary = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.new")
            media.open_image(image, max_pixels).save(temporary, "PNG")
            temporary.replace(path)  # whole or not at all
        return path

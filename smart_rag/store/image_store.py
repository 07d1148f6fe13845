"""Image files of an index: images that were added from memory, and pages of PDFs that were drawn."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from smart_rag.errors import InvalidInput
from smart_rag.files import content as media
from smart_rag.files.formats import images
from smart_rag.files.formats.readable import check_readable
from smart_rag.paths import absolute, is_writable, temporary_folder
from smart_rag.store.row import files_of
from smart_rag.store.sources import Sources
from smart_rag.types import Document, ImageSource, PdfPage

# A digest, and behind it what the name of an unfinished file has.
_OWN_NAME = re.compile(r"[0-9a-f]{32}\.(png|\d+-\d+\.new)")


class ImageStore:
    """Folder of PNG files. The name of a file is a hash of its image, so equal images share one file."""

    def __init__(self, path: Path, sources: Sources | None = None) -> None:
        self.path = absolute(path)
        self.sources = sources or Sources(self.path.parent)
        self._temporary: Path | None = None

    def with_saved_images(self, document: Document) -> Document:
        """Return ``document`` with absolute paths. From now on, the files at these paths may be read.

        An image in memory is saved as a file first.
        """
        image, video = media.full_source(document.image), document.video
        if image is None and video is None:
            return document
        if not isinstance(video, str | Path | None):
            raise InvalidInput(
                f"document {document.id!r}: an index takes a video as the path of a file, got a "
                f"{type(video).__name__}; save the video as a file first"
            )
        if not isinstance(image, Path | PdfPage | None):
            image = self._file(images.digest(image), image)
        document = replace(document, image=image, video=None if video is None else absolute(video))
        self.sources.name(files_of(document))
        return document

    def file_of(self, image: ImageSource, max_pixels: int) -> Path:
        """Return the path of a file with ``image``. If ``image`` is a page of a PDF, first draw it as a PNG of at
        most ``max_pixels``.

        Raises:
            DocumentError: the file does not exist, or its page cannot be drawn.
        """
        if isinstance(image, str | Path):
            path = absolute(image)
            check_readable(path)
            return path
        if isinstance(image, PdfPage):
            stat = image.path.stat() if image.path.exists() else None
            version = None if stat is None else (stat.st_size, stat.st_mtime_ns)
            source = f"{image.path}\0{version}\0{image.page}\0{max_pixels}"
        else:
            source = images.digest(image)
        return self._file(hashlib.blake2b(source.encode(), digest_size=16).hexdigest(), image, max_pixels)

    def vacuum(self, live: Iterable[ImageSource | None]) -> None:
        """Remove every file that is not in ``live``. Drawn pages are removed, too. They are drawn again when
        needed.
        """
        kept = {image for image in live if isinstance(image, Path)}
        if self.path.is_dir() and not self.path.is_symlink():
            for file in self.path.iterdir():
                if file not in kept and _OWN_NAME.fullmatch(file.name):
                    file.unlink(missing_ok=True)

    def copy_to(self, folder: Path) -> None:
        """Copy all files that this store has saved to ``folder``."""
        for file in sorted(self.path.iterdir()) if self.path.is_dir() else ():
            if _OWN_NAME.fullmatch(file.name) and file.suffix == ".png":
                folder.mkdir(exist_ok=True)
                with suppress(FileNotFoundError):  # another process has removed a file that no row names
                    shutil.copyfile(file, folder / file.name)

    def _folder(self) -> Path:
        """Return the folder for new files. If this user cannot write to the index, it is a temporary folder."""
        if is_writable(self.path if self.path.exists() else self.path.parent):
            self.path.mkdir(parents=True, exist_ok=True)
            return self.path
        self._temporary = self._temporary or temporary_folder(self)
        self.sources.admit(self._temporary)
        return self._temporary

    def _file(self, name: str, image: ImageSource, max_pixels: int = images.MAX_SOURCE_PIXELS) -> Path:
        path = self.path / f"{name}.png"
        if not path.exists():
            path = self._folder() / path.name
        if not path.exists():
            # The name is unique, because another process or thread may write the same image at the same time.
            temporary = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.new")
            media.open_image(image, max_pixels).save(temporary, "PNG")
            temporary.replace(path)  # atomic: readers never see half a file
        return path

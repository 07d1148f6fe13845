"""`Row`: a document as the index stores it, to Chroma's metadata and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smart_rag.errors import InvalidInput
from smart_rag.types import Document, ImageSource, PdfPage, Revision, is_unicode

# Metadata keys with this prefix are our own; they are removed from results.
_RESERVED = "_smart_rag."
KEY = _RESERVED + "key"
_FILE_HASH = _RESERVED + "file_hash"
_FILE_CHUNKS = _RESERVED + "file_chunks"
_MODALITY = _RESERVED + "modality"
_IMAGE = _RESERVED + "image"
_IMAGE_PAGE = _RESERVED + "image_page"
_VIDEO = _RESERVED + "video"
# Values that Chroma cannot store (None, lists, dicts) or stores inexactly (floats), as one JSON object.
_JSON = _RESERVED + "json"

# Prefixes that a caller's metadata key must not have: our own, and those that Chroma refuses.
_REFUSED_PREFIXES = (_RESERVED, "chroma:", "#", "$")


@dataclass(frozen=True, slots=True)
class FileStamp:
    """Version of the file that a document comes from: a hash of its bytes, and the number of its documents."""

    hash: str
    chunks: int


@dataclass(frozen=True, slots=True)
class Row:
    """A document, the key of its token embeddings, the version of its file, and the modality that was encoded."""

    document: Document
    key: bytes
    stamp: FileStamp | None = None
    modality: str = "text"

    @property
    def revision(self) -> Revision:
        """The document's id and key: another content of the same document is another revision."""
        return self.document.id, self.key


def check_metadata(document: Document) -> None:
    """Raise `InvalidInput` if the document's metadata cannot be stored and read back unchanged."""
    for key, value in document.metadata.items():
        if not isinstance(key, str) or not key or key.startswith(_REFUSED_PREFIXES) or not is_unicode(key):
            raise InvalidInput(
                f"document {document.id!r}: metadata key {key!r} must be a str, not empty, that begins with none of "
                f"{', '.join(_REFUSED_PREFIXES)}"
            )
        if isinstance(value, str) and not is_unicode(value):
            raise InvalidInput(
                f"document {document.id!r}: metadata {key!r} contains a lone surrogate; expected Unicode"
            )
        if not _is_scalar(value):
            try:
                same = json.loads(json.dumps(value)) == value
            except (TypeError, ValueError):
                same = False
            if not same:
                raise InvalidInput(
                    f"document {document.id!r}: metadata {key!r} is a {type(value).__name__} that JSON cannot "
                    "store; use str, int, float, bool, None, or lists and dicts of them"
                )


def _is_scalar(value: Any) -> bool:
    if isinstance(value, float):
        return bool(np.isfinite(value))
    # Chroma stores integers of 64 bits.
    return isinstance(value, str | bool) or (isinstance(value, int) and -(2**63) <= value < 2**63)


def to_chroma(row: Row, root: Path) -> dict[str, Any]:
    """Return Chroma's metadata for ``row``. Paths inside ``root``, the index's folder, are stored relative to it."""
    metadata: dict[str, Any] = {key: value for key, value in row.document.metadata.items() if _is_scalar(value)}
    rest = {
        key: value for key, value in row.document.metadata.items() if key not in metadata or isinstance(value, float)
    }
    if rest:
        metadata[_JSON] = json.dumps(rest)
    if row.stamp is not None:
        metadata[_FILE_HASH] = row.stamp.hash
        metadata[_FILE_CHUNKS] = row.stamp.chunks
    if row.modality != "text":
        metadata[_MODALITY] = row.modality
    image, video = row.document.image, row.document.video
    if isinstance(image, PdfPage):
        metadata[_IMAGE], metadata[_IMAGE_PAGE] = _stored_path(image.path, root), image.page
    elif isinstance(image, str | Path):
        metadata[_IMAGE] = _stored_path(Path(image), root)
    elif image is not None:
        raise InvalidInput(f"document {row.document.id!r}: cannot store an image in memory; save it as a file first")
    if video is not None:
        metadata[_VIDEO] = _stored_path(Path(video), root)
    metadata[KEY] = row.key.hex()
    return metadata


def from_chroma(id: str, text: str | None, metadata: Mapping[str, Any], root: Path) -> Row:
    """Return the row whose metadata `to_chroma` returned: its inverse."""
    own = {key: value for key, value in metadata.items() if not key.startswith(_RESERVED)}
    if _JSON in metadata:
        own.update(json.loads(metadata[_JSON]))
    stamp = FileStamp(metadata[_FILE_HASH], metadata[_FILE_CHUNKS]) if _FILE_HASH in metadata else None
    image: ImageSource | None = root / metadata[_IMAGE] if _IMAGE in metadata else None
    if _IMAGE_PAGE in metadata:
        image = PdfPage(root / metadata[_IMAGE], metadata[_IMAGE_PAGE])
    video = root / metadata[_VIDEO] if _VIDEO in metadata else None
    document = Document(id, text or "", own, image, video)
    return Row(document, bytes.fromhex(metadata[KEY]), stamp, metadata.get(_MODALITY, "text"))


def _stored_path(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)

"""`Row`: a document as the index stores it. This module converts rows to Chroma's metadata and back."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smart_rag.errors import CorruptStore, InvalidInput, SmartRagError
from smart_rag.store.checks.row_checksum import CHECKSUM, UNSOUND, checksum_of, fits
from smart_rag.store.where import KEY, RESERVED, is_list_column, item_text, list_column, stored_number
from smart_rag.types import Document, ImageSource, PdfPage, Revision
from smart_rag.values import is_unicode, plain_dict

_FILE_HASH = RESERVED + "file_hash"
_FILE_CHUNKS = RESERVED + "file_chunks"
_MODALITY = RESERVED + "modality"
_IMAGE = RESERVED + "image"
_IMAGE_PAGE = RESERVED + "image_page"
_VIDEO = RESERVED + "video"
# Values that Chroma cannot store (None, lists, dicts, large integers) or stores inexactly (floats), as one JSON object.
# Filters do not read it, so lists and large integers are also stored in a form that filters find.
_JSON = RESERVED + "json"
_OWN = {KEY, CHECKSUM, _FILE_HASH, _FILE_CHUNKS, _MODALITY, _IMAGE, _IMAGE_PAGE, _VIDEO, _JSON}

# Chroma stores floating-point numbers with at least this relative precision.
_PRECISION = 1e-9

# The key of the tokens of a row, as it is written.
_KEY = re.compile("[0-9a-f]{32}")

# Prefixes that the caller's metadata keys must not have: our own prefix, and those that Chroma refuses.
_REFUSED_PREFIXES = (RESERVED, "chroma:", "#", "$")


# The filter that finds the rows that were encoded with an image or a video.
VISUAL = {
    _MODALITY: {"$in": ["image", "video", "text+image", "text+video", "image+video", "text+image+video"]},
}

# The filter that finds the rows of files.
OF_FILES = {_FILE_CHUNKS: {"$gte": 0}}

# The modality of a row whose vectors the caller brought. Its key is a hash of these vectors, and not of its content.
VECTORS = "vectors"


@dataclass(frozen=True, slots=True)
class FileStamp:
    """Version of the file that a document comes from.

    ``hash`` is the digest of its bytes, and may be followed by plus signs and how it was read. ``chunks`` is the number
    of its documents.
    """

    hash: str
    chunks: int

    @property
    def digest(self) -> str:
        """The digest of the file's bytes alone."""
        return self.hash.partition("+")[0]


def of_bytes(hash: str) -> dict[str, Any]:
    """Return the filter that finds the rows of files with this ``hash``; see `FileStamp`."""
    return {_FILE_HASH: hash}


@dataclass(frozen=True, slots=True)
class Row:
    """A document, the key of its token embeddings, the version of its file, and the modality that was encoded.

    ``stored`` is the metadata in Chroma that the row was read from. It is None for a new row. A row that is known not
    to be what was added is ``unsound``. It is written with a checksum that does not fit, so that it stays altered.
    """

    document: Document
    key: bytes
    stamp: FileStamp | None = None
    modality: str = "text"
    stored: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    unsound: bool = False

    @property
    def revision(self) -> Revision:
        """The document's id and key. If the content of the document changes, the revision also changes."""
        return self.document.id, self.key

    def is_same(self, other: Row | None) -> bool:
        """Return whether ``other`` is the same row. In Python, True equals 1 and 1.0, but filters tell them apart."""
        return self == other and other is not None and _typed(self) == _typed(other)

    def lacks_checksum(self) -> bool:
        """Return whether the row has metadata, but no checksum of it. Only rows of older indexes are like this."""
        return self.stored is not None and CHECKSUM not in self.stored and self.stored.keys() != {KEY}

    def is_altered(self) -> bool:
        """Return whether the row does not fit its checksum. A row without a checksum always fits."""
        if self.stored is None or CHECKSUM not in self.stored:
            return False
        if not fits(self.stored, self.document.id, self.document.text):
            return True
        exact = self.document.metadata
        floats = {name: value for name, value in self.stored.items() if isinstance(value, float)}
        return not all(_is_close(value, exact.get(name)) for name, value in floats.items())


def _typed(row: Row) -> str:
    """Return the metadata as text that shows the types of all values."""
    return json.dumps(row.document.metadata, sort_keys=True)


def _is_close(stored: float, exact: Any) -> bool:
    """Return whether ``stored`` is what Chroma stores for the number ``exact``."""
    if isinstance(exact, bool) or not isinstance(exact, int | float):
        return False
    nearest = stored_number(exact)
    return stored == nearest or math.isclose(stored, nearest, rel_tol=_PRECISION, abs_tol=1e-300)


def plain_metadata(document: Document) -> dict[str, Any]:
    """Return the metadata of ``document`` as plain values, which can be stored and read back unchanged.

    Raises:
        InvalidInput: a key or a value cannot be stored.
    """
    owner = f"document {document.id!r}: metadata"
    metadata = plain_dict(document.metadata, owner)
    for key, value in metadata.items():
        if not key or key.startswith(_REFUSED_PREFIXES) or not is_unicode(key):
            raise InvalidInput(
                f"{owner} key {key!r} must be a str, not empty, that begins with none of {', '.join(_REFUSED_PREFIXES)}"
            )
        if isinstance(value, str) and not is_unicode(value):
            raise InvalidInput(f"{owner} {key!r} contains a lone surrogate; expected Unicode")
    return metadata


def to_chroma(row: Row, root: Path) -> dict[str, Any]:
    """Return Chroma's metadata for ``row``. Paths inside the index's folder ``root`` are stored relative to it."""
    metadata: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for key, value in row.document.metadata.items():
        if isinstance(value, str | bool | int | float):
            metadata[key] = value if isinstance(value, str | bool) else stored_number(value)
        elif isinstance(value, list) and (texts := [text for item in value if (text := item_text(item)) is not None]):
            metadata[list_column(key)] = list(dict.fromkeys(texts))
        if not isinstance(value, str | bool | int) or type(metadata[key]) is not type(value):
            rest[key] = value
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


def sealed(row: Row, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return Chroma's ``metadata`` of ``row``, with a checksum if it has more than the key."""
    if row.unsound:
        return {**metadata, CHECKSUM: UNSOUND}
    if metadata.keys() == {KEY}:
        return dict(metadata)
    return {**metadata, CHECKSUM: checksum_of(row.document.id, row.document.text, metadata)}


def from_chroma(id: str, text: str | None, metadata: Mapping[str, Any], root: Path) -> Row:
    """Return the row from the metadata that `to_chroma` made of it.

    Raises:
        CorruptStore: `to_chroma` cannot have returned this metadata.
    """
    key = key_of(metadata)
    metadata = _without_leftovers(metadata)
    unknown = [name for name in metadata if name.startswith(RESERVED) and name not in _OWN and not is_list_column(name)]
    if unknown:
        raise CorruptStore(f"has metadata that smart_rag does not write ({unknown[0]!r:.80})")
    try:
        own = {name: value for name, value in metadata.items() if not name.startswith(RESERVED)}
        if _JSON in metadata:
            own.update(json.loads(metadata[_JSON]))
        stamp = FileStamp(str(metadata[_FILE_HASH]), int(metadata[_FILE_CHUNKS])) if _FILE_HASH in metadata else None
        image: ImageSource | None = root / metadata[_IMAGE] if _IMAGE in metadata else None
        if _IMAGE_PAGE in metadata:
            image = PdfPage(root / metadata[_IMAGE], metadata[_IMAGE_PAGE])
        video = root / metadata[_VIDEO] if _VIDEO in metadata else None
        modality = str(metadata.get(_MODALITY, "text"))
        return Row(Document(id, text or "", own, image, video), key, stamp, modality, metadata)
    except (TypeError, ValueError, KeyError, RecursionError, SmartRagError) as error:
        raise CorruptStore(f"has damaged metadata ({type(error).__name__}: {error})") from error


def _without_leftovers(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return ``metadata`` without lists that `to_chroma` did not write.

    If a collection is deleted, Chroma leaves the lists of its rows behind, and later rows of other collections get
    them. Each list of ours is also in the JSON text.
    """
    if not any(isinstance(value, list) for value in metadata.values()):
        return metadata
    try:
        exact = json.loads(metadata.get(_JSON, "{}"))
        ours = {list_column(name) for name, value in exact.items() if isinstance(value, list)}
    except (TypeError, ValueError, AttributeError, RecursionError):  # damaged, which `from_chroma` reports
        return metadata
    return {name: value for name, value in metadata.items() if not isinstance(value, list) or name in ours}


def key_of(metadata: Mapping[str, Any]) -> bytes:
    """Return the key of the tokens of the row with this ``metadata``.

    Raises:
        CorruptStore: the metadata has no such key, or its value is not a valid key.
    """
    found = metadata.get(KEY)
    if not isinstance(found, str) or not _KEY.fullmatch(found):
        raise CorruptStore(
            "was not written by smart_rag" if found is None else f"has a damaged key of its tokens ({found!r:.80})"
        )
    return bytes.fromhex(found)


def files_of(document: Document) -> list[Path]:
    """Return the files of the image and the video of ``document``. An image in memory has no file."""
    image, video = document.image, document.video
    files = [image.path if isinstance(image, PdfPage) else image, video]
    return [Path(file) for file in files if isinstance(file, str | Path)]


def _stored_path(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)

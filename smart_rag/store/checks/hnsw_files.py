"""The files of Chroma's HNSW index, checked with plain reads before Chroma loads them.

Chroma's library hnswlib loads the files without checking them. It follows their numbers as addresses, so a damaged file
ends the process. A vector with its neighbours is called an *element*. The files of one collection are:

- `header.bin`: 14 numbers, such as the number of elements and the bytes of each
- `data_level0.bin`: for each element its neighbours, its vector and its label
- `length.bin`: a float32 for each element
- `link_lists.bin`: for each element the number of bytes of its neighbours on higher levels, and these neighbours
- `index_metadata.pickle`: which label belongs to which document
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from smart_rag.errors import CorruptStore
from smart_rag.store.checks.chroma_tables import Segment, segments

HEADER, ELEMENTS, LENGTHS, LINKS, LABELS = (
    "header.bin",
    "data_level0.bin",
    "length.bin",
    "link_lists.bin",
    "index_metadata.pickle",
)
FILES = (HEADER, ELEMENTS, LENGTHS, LINKS, LABELS)
_HEADER = struct.Struct("<iQQQQQQiIQQQdQ")
_VERSION = 1
_LABEL_BYTES = 8
# Chroma reserves room for at most twice as many elements as it has, or for a batch. We allow some more.
_MOST_RESERVED = 16
_FEW_ELEMENTS = 10_000
_BLOCK_BYTES = 1 << 20
_MOST_LEVELS = 64


class Header(NamedTuple):
    """Numbers of `header.bin`, in their order. ``elements`` is the number of elements."""

    version: int
    offset: int
    reserved: int
    elements: int
    element_bytes: int
    label_offset: int
    vector_offset: int
    top_level: int
    entry: int
    links: int
    links_level0: int
    links_wanted: int
    multiplier: float
    ef_construction: int


def check_files(folder: Path) -> list[Path]:
    """Check the files of all collections in Chroma's ``folder``. Return the folders that have such files.

    Nobody may write to the folder meanwhile.

    Raises:
        CorruptStore: a file is missing, shorter than it must be, or has numbers that lead nowhere.
    """
    found = []
    for segment in segments(folder):
        place = folder / segment.name
        if segment.persisted:
            check_segment(place, segment)
            found.append(place)
        elif place.is_dir():
            found.append(place)
            # Chroma was killed before it knew these files. It loads them if it finds labels in them.
            if (place / LABELS).exists():
                check_segment(place, segment)
    return found


def check_segment(place: Path, segment: Segment) -> None:
    """Check the files of one collection in the folder ``place``; see `check_files`."""
    for name in FILES:
        if not (place / name).is_file():
            raise _corrupt(place / name, "the vectors of the index", "no such file")
    header = read_header(place / HEADER, segment.dimension)
    for name, expected in ((ELEMENTS, header.elements * header.element_bytes), (LENGTHS, 4 * header.elements)):
        size = (place / name).stat().st_size
        if size < expected:
            raise _corrupt(place / name, f"at least {expected:,} bytes for {header.elements:,} vectors", f"{size:,}")
    if not (place / LABELS).stat().st_size:
        raise _corrupt(place / LABELS, "the labels of the vectors", "an empty file")
    if header.elements:
        levels = _check_links(place / LINKS, header)
        if levels[header.entry] < header.top_level:
            raise _corrupt(
                place / HEADER,
                f"an entry on level {header.top_level}",
                f"the vector {header.entry} on level {levels[header.entry]}",
            )
        _check_elements(place / ELEMENTS, header)


def read_header(file: Path, dimension: int | None) -> Header:
    """Return the header in ``file``, whose vectors have ``dimension`` numbers.

    Raises:
        CorruptStore: the file is too short, or its numbers do not fit each other.
    """
    with file.open("rb") as opened:
        data = opened.read(_HEADER.size + 1)
    if len(data) != _HEADER.size:
        raise _corrupt(file, f"{_HEADER.size} bytes", f"{file.stat().st_size:,}")
    header = Header(*_HEADER.unpack(data))
    links = header.links_wanted
    width = header.element_bytes - header.vector_offset - _LABEL_BYTES
    fits = {
        f"version {_VERSION}": header.version == _VERSION,
        "offset 0": header.offset == 0,
        "a count that fits the room": header.elements <= header.reserved < 1 << 32,
        "room that fits the count": header.reserved <= _MOST_RESERVED * max(header.elements, _FEW_ELEMENTS),
        "2 to 100,000 neighbours": 2 <= links <= 100_000 and header.links == links and header.links_level0 == 2 * links,
        "a multiplier that fits the neighbours": links > 1 and math.isclose(header.multiplier, 1 / math.log(links)),
        "vectors behind the neighbours": header.vector_offset == 4 + 8 * links,
        "labels behind the vectors": header.label_offset == header.element_bytes - _LABEL_BYTES,
        f"vectors of {dimension} numbers": width > 0 and (dimension is None or width == 4 * dimension),
        "an entry among the vectors": header.entry < header.elements or not header.elements,
        f"a level below {_MOST_LEVELS}": 0 <= header.top_level < _MOST_LEVELS or not header.elements,
        "a breadth of building": 1 <= header.ef_construction <= 1 << 24,
    }
    for expected, fine in fits.items():
        if not fine:
            raise _corrupt(file, expected, str(tuple(header)))
    return header


def _check_links(file: Path, header: Header) -> NDArray[np.int64]:
    """Check the neighbours on higher levels. Return the highest level of each element."""
    words = np.fromfile(file, dtype="<u4")
    width = 1 + header.links  # words of one level: the number of neighbours, and the neighbours
    levels = np.zeros(header.elements, dtype=np.int64)
    # Most elements have no higher level, so their entry is a zero. Visit only the entries that are not zero.
    filled = np.flatnonzero(words).tolist()
    found: list[tuple[int, int, int]] = []  # element, its position in the file, its levels
    position, element, at = 0, 0, 0  # the entry of ``element`` begins at ``position``
    while element < header.elements:
        at = bisect_left(filled, position, at)
        following = filled[at] if at < len(filled) else len(words)
        element += following - position
        position = following
        if element >= header.elements or position >= len(words):
            break
        size, rest = divmod(int(words[position]), 4 * width)
        if rest or size >= _MOST_LEVELS or position + 1 + size * width > len(words):
            raise _corrupt(file, f"whole levels of {4 * width} bytes", f"{int(words[position]):,} bytes of {element}")
        found.append((element, position + 1, size))
        position += 1 + size * width
        element += 1
    if element < header.elements:
        raise _corrupt(file, f"the neighbours of {header.elements:,} vectors", f"those of {element:,}, then the end")
    if found:
        elements, positions, sizes = np.asarray(found).T
        levels[elements] = sizes
        below = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # the level, counted from 0
        lists = words[(np.repeat(positions, sizes) + below * width)[:, None] + np.arange(width)]
        neighbours = _checked_lists(file, lists, header)
        # A neighbour on a level must itself be on this level.
        too_low = (neighbours >= 0) & (levels[np.maximum(neighbours, 0)] <= below[:, None])
        if too_low.any():
            owner = np.repeat(elements, sizes)[too_low.any(axis=1)][0]
            raise _corrupt(file, "neighbours on the same level", f"another neighbour of {owner}")
    return levels


def _check_elements(file: Path, header: Header) -> None:
    """Check the neighbours of each element on the lowest level."""
    width = 1 + header.links_level0
    for elements in blocks_of_elements(file, header):
        lists = elements.view("<u4")[:, :width]
        # Places for neighbours that an element does not have hold zeros or earlier neighbours.
        if lists[:, 1:].max() >= header.elements or (lists[:, 0] & 0xFFFF).max() >= width:
            _checked_lists(file, lists, header)


def blocks_of_elements(file: Path, header: Header) -> Iterator[NDArray[np.uint8]]:
    """Yield all elements (n, ``element_bytes``) in blocks. A block is valid until the next one."""
    size = header.element_bytes
    rows = max(1, _BLOCK_BYTES // size)
    buffer = np.empty((rows, size), dtype=np.uint8)
    with file.open("rb", buffering=0) as opened:
        for start in range(0, header.elements, rows):
            part = buffer[: min(rows, header.elements - start)]
            if opened.readinto(part.reshape(-1).data) != part.size:
                raise _corrupt(file, f"{header.elements * size:,} bytes", "a shorter file")
            yield part


def _checked_lists(file: Path, lists: NDArray[np.uint32], header: Header) -> NDArray[np.int64]:
    """Return the neighbours in ``lists`` (n, 1 + most): the number of neighbours, and then these. -1 stands for none.

    Raises:
        CorruptStore: a list is too long, or a neighbour does not exist.
    """
    counts = lists[:, 0] & 0xFFFF  # the other bits say whether the element was deleted
    if (counts > lists.shape[1] - 1).any():
        raise _corrupt(file, f"at most {lists.shape[1] - 1} neighbours", f"{counts.max():,}")
    used = np.arange(lists.shape[1] - 1) < counts[:, None]
    if (lists[:, 1:][used] >= header.elements).any():
        found = lists[:, 1:][used].max()
        raise _corrupt(file, f"neighbours below {header.elements:,}", f"{found:,}")
    return np.where(used, lists[:, 1:].astype(np.int64), -1)


def _corrupt(file: Path, expected: str, found: str) -> CorruptStore:
    return CorruptStore(
        f"{file}: expected {expected}, found {found}; the file is damaged, build it again from the rows with "
        "`smart-rag verify --repair`, or restore the index from a backup"
    )

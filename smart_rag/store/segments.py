"""Entries packed into segments.

LMDB rounds each value up to whole pages. So one LMDB value, a *segment*, holds many entries. An *entry* holds the codes
of one text. The *location* of an entry says which segment holds its bytes, and where they are in this segment. When an
entry is replaced or removed, it leaves a gap. A segment with too many gaps is rewritten: its live entries move to the
last segment. ``docs/format.md`` describes the bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from smart_rag.types import Key

# Version of the byte layout. A store with another layout is refused.
LAYOUT = b"2"
# Names of the databases on disk. "places" holds the locations.
DATABASES = ("places", "segments", "usage")
# When a segment has this length, no entries are added to it. The rounding to pages costs 2 % of the disk with 128 KiB,
# and 1 % with 256 KiB. With 1 MiB, small writes take five times as long, because each write rewrites the whole segment.
SEGMENT_BYTES = 1 << 18
# A segment is rewritten when less than this share of it is live. We replaced documents one by one and measured a token
# of 97 bytes. With 1/2, it takes 134 bytes on disk. With 3/4, it takes 111. Both take the same time: that of the sync.
_MIN_LIVE = 0.75

# Header of an entry in a segment: its key and the number of bytes of its codes.
_HEADER = struct.Struct("<16sI")
_LOCATION = struct.Struct("<IIIIHHQ")
# The same bytes as an array of many locations. Tokens, dimension and codec together are one number: the checksum's
# seed.
_LOCATIONS = np.dtype(
    {
        "names": ["segment", "offset", "length", "tokens", "dimension", "codec", "checksum", "seed"],
        "formats": ["<u4", "<u4", "<u4", "<u4", "<u2", "<u2", "<u8", "<u8"],
        "offsets": [0, 4, 8, 12, 16, 18, 20, 12],
        "itemsize": _LOCATION.size,
    }
)
_USAGE = struct.Struct("<QQQ")
# Big-endian, so that LMDB sorts segments by number.
_NUMBER = struct.Struct(">I")

# Array of locations. It has the fields of `EntryLocation`, and the seed of each checksum.
EntryLocations = NDArray[np.void]


class Entry(NamedTuple):
    """Codes of one text, the number of its tokens, their dimension, and the number of their codec."""

    codes: Any
    tokens: int
    dimension: int
    codec: int


class EntryLocation(NamedTuple):
    """Location of an entry in a segment, the properties of its codes, and its checksum.

    The entry's header begins at ``offset``. ``length`` is the number of bytes of its codes.
    """

    segment: int
    offset: int
    length: int
    tokens: int
    dimension: int
    codec: int
    checksum: int


class Usage(NamedTuple):
    """The length of a segment in bytes, the number of its live bytes, and the number of its live tokens."""

    length: int
    live: int
    tokens: int


# Replacements for values that cannot be read.
_NOWHERE = EntryLocation((1 << 32) - 1, 0, 0, 0, 0, 0, 0)
_UNKNOWN = Usage(0, 0, 0)


class Segments:
    """Entries by key, in the databases ``places``, ``segments`` and ``usage``. Each call runs in a transaction."""

    def __init__(self, databases: Mapping[str, Any], segment_bytes: int = SEGMENT_BYTES) -> None:
        self.segment_bytes = segment_bytes
        self._locations = databases["places"]
        self._segments = databases["segments"]
        self._usage = databases["usage"]

    def count(self, transaction: Any) -> int:
        """Return the number of entries."""
        return int(transaction.stat(self._locations)["entries"])

    def tokens(self, transaction: Any) -> int:
        """Return the number of tokens of all entries."""
        return sum(_usage(value).tokens for _, value in transaction.cursor(self._usage))

    def keys(self, transaction: Any) -> list[Key]:
        """Return the keys of all entries, sorted."""
        return [bytes(key) for key in transaction.cursor(self._locations).iternext(keys=True, values=False)]

    def missing(self, transaction: Any, keys: Sequence[Key]) -> list[int]:
        """Return the positions of the ``keys`` without an entry."""
        cursor = transaction.cursor(self._locations)
        return [i for i, key in enumerate(keys) if not cursor.set_key(key)]

    def locate(self, transaction: Any, keys: Sequence[Key]) -> EntryLocations:
        """Return the locations of the entries, in the order of ``keys``. Keys without an entry are left out."""
        values = [transaction.get(key, db=self._locations) for key in keys]
        return _to_array([value for value in values if value is not None])

    def read(self, transaction: Any, locations: EntryLocations) -> Iterator[tuple[int, Any]]:
        """Yield, for each location, its position in ``locations`` and the codes. They come in the order on disk.

        If the checksum does not match, the codes are None. Otherwise they are a buffer that is valid only inside the
        transaction.
        """
        order = np.lexsort((locations["offset"], locations["segment"]))
        columns = (locations[name][order].tolist() for name in ("segment", "offset", "length", "seed", "checksum"))
        current, segment = -1, b""
        for i, number, start, length, seed, checksum in zip(order.tolist(), *columns, strict=True):
            if number != current:
                current = number
                segment = transaction.get(_NUMBER.pack(number), b"", db=self._segments)
            entry = segment[start : start + _HEADER.size + length]
            yield i, entry[_HEADER.size :] if xxhash.xxh3_64_intdigest(entry, seed) == checksum else None

    def update(self, transaction: Any, removed: Iterable[Key], added: Mapping[Key, Entry]) -> int:
        """Remove the entries under the keys ``removed``. Then add ``added``. Return the number of removed entries."""
        values = [transaction.pop(key, db=self._locations) for key in removed]
        gone = _to_array([value for value in values if value is not None])
        gone = gone[np.argsort(gone["segment"])]
        numbers, starts = np.unique(gone["segment"], return_index=True)
        parts = zip(numbers.tolist(), np.split(gone, starts[1:]), strict=False)  # split returns a part even for nothing
        sparse = [number for number, part in parts if self._mark_free(transaction, number, part)]
        if sparse or added:
            writer = _SegmentWriter(transaction, self, sparse)
            for number in sparse:
                for key, codes, location in self._live_entries(transaction, number):
                    entry = Entry(codes, location.tokens, location.dimension, location.codec)
                    writer.add(key, entry, location.checksum)
                transaction.delete(_NUMBER.pack(number), db=self._segments)
                transaction.delete(_NUMBER.pack(number), db=self._usage)
            for key, entry in added.items():
                writer.add(key, entry)
            writer.write()
        return len(gone)

    def _mark_free(self, transaction: Any, number: int, gone: EntryLocations) -> bool:
        """Subtract the entries ``gone`` from the usage of their segment. Return whether to rewrite the segment."""
        usage = _usage(transaction.get(_NUMBER.pack(number), db=self._usage))
        if usage == _UNKNOWN:  # there is no such segment, so the location was damaged
            return False
        live = max(usage.live - int(gone["length"].sum(dtype=np.int64)) - _HEADER.size * len(gone), 0)
        tokens = max(usage.tokens - int(gone["tokens"].sum(dtype=np.int64)), 0)
        transaction.put(_NUMBER.pack(number), _USAGE.pack(usage.length, live, tokens), db=self._usage)
        return live < _MIN_LIVE * usage.length

    def _live_entries(self, transaction: Any, number: int) -> list[tuple[Key, bytes, EntryLocation]]:
        """Return key, codes and location of each live entry of a segment."""
        segment = transaction.get(_NUMBER.pack(number), b"", db=self._segments)
        found = []
        offset = 0
        while offset + _HEADER.size <= len(segment):
            key, length = _HEADER.unpack_from(segment, offset)
            location = _location(transaction.get(key, b"", db=self._locations))
            if location[:3] == (number, offset, length):
                found.append((key, location))
            offset += _HEADER.size + length
        usage = _usage(transaction.get(_NUMBER.pack(number), db=self._usage))
        if sum(_HEADER.size + location.length for _, location in found) != usage.live:
            # A header is damaged. So search the locations of all segments, which takes longer.
            entries = ((bytes(key), _location(value)) for key, value in transaction.cursor(self._locations))
            found = [(key, location) for key, location in entries if location.segment == number]
        starts = [location.offset + _HEADER.size for _, location in found]
        return [
            (key, segment[start : start + location.length], location)
            for start, (key, location) in zip(starts, found, strict=True)
        ]


class _SegmentWriter:
    """Appends entries to the last segment. If it is full or must be rewritten, it begins a new one."""

    def __init__(self, transaction: Any, segments: Segments, sparse: Collection[int]) -> None:
        self._transaction = transaction
        self._databases = segments
        cursor = transaction.cursor(segments._segments)
        number = _NUMBER.unpack(cursor.key())[0] if cursor.last() else -1
        usage = _usage(transaction.get(cursor.key(), db=segments._usage)) if number >= 0 else _UNKNOWN
        if number in sparse or not 0 < usage.length < segments.segment_bytes:
            self._begin(number + 1, bytearray(), 0, 0)
        else:
            segment = bytearray(transaction.get(_NUMBER.pack(number), b"", db=segments._segments))
            self._begin(number, segment, usage.live, usage.tokens)

    def _begin(self, number: int, segment: bytearray, live: int, tokens: int) -> None:
        self._number = number
        self._segment = segment
        self._live = live
        self._tokens = tokens
        self._locations: list[tuple[Key, bytes]] = []

    def add(self, key: Key, entry: Entry, checksum: int | None = None) -> None:
        """Append an entry, and write the segment if it is full. An entry that is moved keeps its ``checksum``."""
        offset = len(self._segment)
        self._segment += _HEADER.pack(key, len(entry.codes))
        self._segment += entry.codes
        location = EntryLocation(self._number, offset, len(entry.codes), entry.tokens, entry.dimension, entry.codec, 0)
        if checksum is None:
            seed = int(_to_array([_LOCATION.pack(*location)])["seed"][0])
            with memoryview(self._segment) as segment, segment[offset:] as written:
                checksum = xxhash.xxh3_64_intdigest(written, seed)
        self._locations.append((key, _LOCATION.pack(*location._replace(checksum=checksum))))
        self._live += len(self._segment) - offset
        self._tokens += entry.tokens
        if len(self._segment) >= self._databases.segment_bytes:
            self.write()
            self._begin(self._number + 1, bytearray(), 0, 0)

    def write(self) -> None:
        """Write the segment, its usage, and the locations of the entries that were added."""
        if self._locations:
            number = _NUMBER.pack(self._number)
            usage = _USAGE.pack(len(self._segment), self._live, self._tokens)
            self._transaction.put(number, self._segment, db=self._databases._segments)
            self._transaction.put(number, usage, db=self._databases._usage)
            for key, location in sorted(self._locations):  # sorted, because LMDB then writes to neighbouring pages
                self._transaction.put(key, location, db=self._databases._locations)


def _to_array(values: Sequence[Any]) -> EntryLocations:
    joined = b"".join(values)
    if len(joined) != _LOCATION.size * len(values):  # some value is damaged
        joined = b"".join(_LOCATION.pack(*_location(value)) for value in values)
    return np.frombuffer(joined, _LOCATIONS)


def _location(value: Any) -> EntryLocation:
    return EntryLocation._make(_LOCATION.unpack(value)) if len(value) == _LOCATION.size else _NOWHERE


def _usage(value: Any) -> Usage:
    return Usage._make(_USAGE.unpack(value)) if value is not None and len(value) == _USAGE.size else _UNKNOWN

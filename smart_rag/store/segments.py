"""Entries packed into segments: LMDB rounds each value up to whole pages, so one value holds many entries.

An entry is the codes of one text. Its *place* says in which segment it lies, and where there.
What is removed or replaced leaves a gap; a segment of which too little is alive is taken apart,
and what lives in it is packed again. ``docs/format.md`` has the byte layout.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from smart_rag.types import Key

# Of what `Segments` writes, and nothing else can read.
LAYOUT = b"2"
DATABASES = ("places", "segments", "usage")
# A segment that is as long as this takes no further entries. The pages' rounding costs 2 % with 128 KiB, 1 % with 256;
# with 1 MiB, each of which is written again for each entry that it takes, small writes are five times as slow.
SEGMENT_BYTES = 1 << 18
# The part of a segment that is alive, at least; with less it is taken apart. With 1/2, documents replaced one by one
# take 134 bytes a token where 97 are alive, with 3/4 they take 111; the time is that of the disk's sync with both.
_LEAST_ALIVE = 0.75

# What precedes the codes in a segment: their key and how many bytes they are.
_FRAME = struct.Struct("<16sI")
_PLACE = struct.Struct("<IIIIHHQ")
# The same, of many at once. The seed is the tokens, the dimension and the codec together.
_PLACES = np.dtype(
    {
        "names": ["segment", "offset", "length", "tokens", "dimension", "codec", "checksum", "seed"],
        "formats": ["<u4", "<u4", "<u4", "<u4", "<u2", "<u2", "<u8", "<u8"],
        "offsets": [0, 4, 8, 12, 16, 18, 20, 12],
        "itemsize": _PLACE.size,
    }
)
_USAGE = struct.Struct("<QQQ")
# Big-endian: segments lie in the order in which they were begun.
_NUMBER = struct.Struct(">I")

Places = NDArray[np.void]


class Entry(NamedTuple):
    """The codes of one text, and what they are codes of."""

    codes: Any
    tokens: int
    dimension: int
    codec: int


class Place(NamedTuple):
    """Where an entry lies, with its frame; what it is; the checksum of both."""

    segment: int
    offset: int
    length: int
    tokens: int
    dimension: int
    codec: int
    checksum: int


class Usage(NamedTuple):
    """How long a segment is, what of it is alive, and the tokens of that."""

    length: int
    alive: int
    tokens: int


# Of what cannot be read.
_NOWHERE = Place((1 << 32) - 1, 0, 0, 0, 0, 0, 0)
_UNKNOWN = Usage(0, 0, 0)


class Segments:
    """``places``, ``segments`` and ``usage``, the databases of an environment; each call is part of a transaction."""

    def __init__(self, databases: Mapping[str, Any]) -> None:
        self._places = databases["places"]
        self._segments = databases["segments"]
        self._usage = databases["usage"]

    def count(self, transaction: Any) -> int:
        """Return the number of entries."""
        return int(transaction.stat(self._places)["entries"])

    def tokens(self, transaction: Any) -> int:
        """Return the number of tokens of all entries."""
        return sum(_usage(value).tokens for _, value in transaction.cursor(self._usage))

    def keys(self, transaction: Any) -> list[Key]:
        """Return the keys of all entries, sorted."""
        return [bytes(key) for key in transaction.cursor(self._places).iternext(keys=True, values=False)]

    def missing(self, transaction: Any, keys: Sequence[Key]) -> list[int]:
        """Return the positions of the keys that have no entry."""
        cursor = transaction.cursor(self._places)
        return [i for i, key in enumerate(keys) if not cursor.set_key(key)]

    def places(self, transaction: Any, keys: Sequence[Key]) -> Places:
        """Return the places of the entries under those of ``keys`` that have one."""
        values = [transaction.get(key, db=self._places) for key in keys]
        return _places([value for value in values if value is not None])

    def read(self, transaction: Any, places: Places) -> Iterator[tuple[int, Any]]:
        """Yield the position and the codes of each entry, in the order in which they lie on the disk.

        The codes are None where the entry is not as it was written. They are valid inside of the transaction.
        """
        order = np.lexsort((places["offset"], places["segment"]))
        columns = (places[name][order].tolist() for name in ("segment", "offset", "length", "seed", "checksum"))
        current, segment = -1, b""
        for i, number, start, length, seed, checksum in zip(order.tolist(), *columns, strict=True):
            if number != current:
                current = number
                segment = transaction.get(_NUMBER.pack(number), b"", db=self._segments)
            entry = segment[start : start + _FRAME.size + length]
            yield i, entry[_FRAME.size :] if xxhash.xxh3_64_intdigest(entry, seed) == checksum else None

    def update(self, transaction: Any, removed: Iterable[Key], added: Mapping[Key, Entry]) -> int:
        """Remove the entries under ``removed``, then add ``added``; return how many there were to be removed."""
        values = [transaction.pop(key, db=self._places) for key in removed]
        gone = _places([value for value in values if value is not None])
        gone = gone[np.argsort(gone["segment"])]
        numbers, starts = np.unique(gone["segment"], return_index=True)
        parts = zip(numbers.tolist(), np.split(gone, starts[1:]), strict=False)  # of nothing, one part that is empty
        sparse = [number for number, part in parts if self._free(transaction, number, part)]
        if sparse or added:
            last = _LastSegment(transaction, self, sparse)
            for number in sparse:
                for key, codes, place in self._alive(transaction, number):
                    last.add(key, Entry(codes, place.tokens, place.dimension, place.codec), place.checksum)
                transaction.delete(_NUMBER.pack(number), db=self._segments)
                transaction.delete(_NUMBER.pack(number), db=self._usage)
            for key, entry in added.items():
                last.add(key, entry)
            last.write()
        return len(gone)

    def _free(self, transaction: Any, number: int, gone: Places) -> bool:
        """Count the places ``gone`` of a segment as free, and return whether too little of it is alive then."""
        usage = _usage(transaction.get(_NUMBER.pack(number), db=self._usage))
        if usage == _UNKNOWN:  # no such segment: the place was damaged
            return False
        alive = max(usage.alive - int(gone["length"].sum(dtype=np.int64)) - _FRAME.size * len(gone), 0)
        tokens = max(usage.tokens - int(gone["tokens"].sum(dtype=np.int64)), 0)
        transaction.put(_NUMBER.pack(number), _USAGE.pack(usage.length, alive, tokens), db=self._usage)
        return alive < _LEAST_ALIVE * usage.length

    def _alive(self, transaction: Any, number: int) -> list[tuple[Key, bytes, Place]]:
        """Return keys, codes and places of the entries of a segment that are alive."""
        segment = transaction.get(_NUMBER.pack(number), b"", db=self._segments)
        found = []
        offset = 0
        while offset + _FRAME.size <= len(segment):
            key, length = _FRAME.unpack_from(segment, offset)
            place = _place(transaction.get(key, b"", db=self._places))
            if place[:3] == (number, offset, length):
                found.append((key, place))
            offset += _FRAME.size + length
        usage = _usage(transaction.get(_NUMBER.pack(number), db=self._usage))
        if sum(_FRAME.size + place.length for _, place in found) != usage.alive:
            # A frame is damaged. The places know all entries; but they are those of all segments.
            entries = ((bytes(key), _place(value)) for key, value in transaction.cursor(self._places))
            found = [(key, place) for key, place in entries if place.segment == number]
        starts = [place.offset + _FRAME.size for _, place in found]
        return [
            (key, segment[start : start + place.length], place)
            for start, (key, place) in zip(starts, found, strict=True)
        ]


class _LastSegment:
    """The segment that takes the next entries: the last one, as long as it is not full, else a new one."""

    def __init__(self, transaction: Any, segments: Segments, sparse: Collection[int]) -> None:
        self._transaction = transaction
        self._databases = segments
        cursor = transaction.cursor(segments._segments)
        number = _NUMBER.unpack(cursor.key())[0] if cursor.last() else -1
        usage = _usage(transaction.get(cursor.key(), db=segments._usage)) if number >= 0 else _UNKNOWN
        if number in sparse or not 0 < usage.length < SEGMENT_BYTES:
            self._begin(number + 1, bytearray(), 0, 0)
        else:
            segment = bytearray(transaction.get(_NUMBER.pack(number), b"", db=segments._segments))
            self._begin(number, segment, usage.alive, usage.tokens)

    def _begin(self, number: int, segment: bytearray, alive: int, tokens: int) -> None:
        self._number = number
        self._segment = segment
        self._alive = alive
        self._tokens = tokens
        self._places: list[tuple[Key, bytes]] = []

    def add(self, key: Key, entry: Entry, checksum: int | None = None) -> None:
        """Append an entry, with the checksum that it had elsewhere, and write the segment if it is full."""
        offset = len(self._segment)
        self._segment += _FRAME.pack(key, len(entry.codes))
        self._segment += entry.codes
        place = Place(self._number, offset, len(entry.codes), entry.tokens, entry.dimension, entry.codec, 0)
        if checksum is None:
            seed = int(_places([_PLACE.pack(*place)])["seed"][0])
            with memoryview(self._segment) as segment, segment[offset:] as written:
                checksum = xxhash.xxh3_64_intdigest(written, seed)
        self._places.append((key, _PLACE.pack(*place._replace(checksum=checksum))))
        self._alive += len(self._segment) - offset
        self._tokens += entry.tokens
        if len(self._segment) >= SEGMENT_BYTES:
            self.write()
            self._begin(self._number + 1, bytearray(), 0, 0)

    def write(self) -> None:
        """Write the segment, and the places of what it took."""
        if self._places:
            number = _NUMBER.pack(self._number)
            usage = _USAGE.pack(len(self._segment), self._alive, self._tokens)
            self._transaction.put(number, self._segment, db=self._databases._segments)
            self._transaction.put(number, usage, db=self._databases._usage)
            for key, place in sorted(self._places):  # neighbours in the tree are written together
                self._transaction.put(key, place, db=self._databases._places)


def _places(values: Sequence[Any]) -> Places:
    joined = b"".join(values)
    if len(joined) != _PLACE.size * len(values):
        joined = b"".join(_PLACE.pack(*_place(value)) for value in values)
    return np.frombuffer(joined, _PLACES)


def _place(value: Any) -> Place:
    return Place._make(_PLACE.unpack(value)) if len(value) == _PLACE.size else _NOWHERE


def _usage(value: Any) -> Usage:
    return Usage._make(_USAGE.unpack(value)) if value is not None and len(value) == _USAGE.size else _UNKNOWN

"""Token embeddings on disk, in LMDB, under a hash of their content.

The key of an entry is `content_key`, a hash of the content and of how it was encoded. So an entry can never be out of
date, and equal contents share one entry. Writing an entry twice does no harm. ``docs/format.md`` describes the bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from smart_rag.embeddings.token_pooling import pool_tokens
from smart_rag.embeddings.tokens import Codec, Codes, Offsets, TokenCodes, Tokens
from smart_rag.errors import (
    CorruptStore,
    DimensionMismatch,
    IndexClosed,
    InvalidInput,
    MissingTokens,
)
from smart_rag.paths import absolute
from smart_rag.store.lmdb_environment import FILE_NAME, Environment, repeated
from smart_rag.store.place import Place
from smart_rag.store.segments import DATABASES, LAYOUT, SEGMENT_BYTES, Entry, EntryLocations, Segments
from smart_rag.types import Key

_KEY_BYTES = 16
_MAX_DIMENSION = (1 << 16) - 1


def content_key(fingerprint: str, codec: str, content: str | bytes) -> Key:
    """Return the storage key (16 bytes): a hash of ``content`` and of the encoder and codec that encode it.

    ``fingerprint`` is the encoder's. ``codec`` is the name of the codec. A text and its UTF-8 bytes have the same key.
    """
    digest = hashlib.blake2b(f"{fingerprint}\0{codec}\0".encode(), digest_size=_KEY_BYTES)
    digest.update(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    return digest.digest()


def keys_of_vectors(codec: str, tokens: Tokens) -> list[Key]:
    """Return the storage keys (16 bytes each) of the tokens of n texts that the caller brings.

    ``codec`` is the name of the codec that stores them. Codes are not decoded for this, because that takes longer than
    all the rest of writing them. So the same tokens have another key as codes than as numbers.
    """
    if isinstance(tokens, TokenCodes):
        fingerprint, rows = f"codes {tokens.codec.name} {tokens.dimension}", tokens.codes
    else:
        fingerprint, rows = "vectors", tokens.embeddings.astype("<f4", copy=False)
    parts = (np.ascontiguousarray(rows[start:stop]) for start, stop in pairwise(tokens.offsets.tolist()))
    return [content_key(fingerprint, codec, part.tobytes()) for part in parts]


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Number of entries, number of their tokens, and bytes of the pages in use on disk."""

    entries: int
    tokens: int
    used_bytes: int


class TokenStore:
    """Token embeddings by key: ``put``, ``gather``, ``delete``, ``verify``, ``vacuum``.

    Each call is one transaction: either all of it happens, or nothing. When a call that writes returns, its changes
    are on disk. Threads and other processes may read while one thread writes.

    Args:
        path: folder of the store. It is made if it is missing.
        codec: the codec that encodes the token embeddings.
        segment_bytes: no entries are added to a segment of this length or more (see `segments`).
        advice: what the user can do about missing and damaged entries. It is added to error messages.

    >>> store = TokenStore(path, get_codec("float16"))             # doctest: +SKIP
    >>> store.put([key], TokenBatch.from_list([tokens]))           # doctest: +SKIP
    >>> store.gather([key])[0]                                     # doctest: +SKIP
    """

    def __init__(self, path: str | Path, codec: Codec, segment_bytes: int = SEGMENT_BYTES, advice: str = "") -> None:
        self.path = absolute(path)
        self.codec = codec
        self._advice = f"; {advice}" if advice else ""
        self._shared: Environment | None = Environment.at(self.path, LAYOUT, DATABASES)
        self.place = Place(self.path, self.path / FILE_NAME, self._shared.identity)
        self._segments = Segments(self._shared.databases, segment_bytes)

    @property
    def _environment(self) -> Environment:
        if self._shared is None:
            raise IndexClosed(f"{self.path}: the token store is closed; open it again")
        self.place.check()
        return self._shared

    def put(self, keys: Sequence[Key], tokens: Tokens) -> None:
        """Write the tokens of n texts under n ``keys``, and replace earlier entries under these keys.

        `TokenCodes` of this store's codec are written as they are. All other tokens are pooled and encoded first.

        Raises:
            InvalidInput: the number of keys is not the number of texts, the tokens have too many dimensions, or the
                codec cannot store them.
            StorageFull: the disk is full. Nothing was written.
        """
        if len(keys) != len(tokens):
            raise InvalidInput(f"expected one key for each text, got {len(keys)} keys for {len(tokens)} texts")
        if tokens.dimension > _MAX_DIMENSION:
            raise InvalidInput(
                f"token embeddings of {tokens.dimension} dimensions; a token store takes at most {_MAX_DIMENSION}"
            )
        codes, offsets = self._encoded(tokens)
        flat = np.ascontiguousarray(codes).reshape(-1).data
        width = codes.shape[1]
        entries = {
            key: Entry(flat[start * width : stop * width], stop - start, tokens.dimension, self.codec.number)
            for key, (start, stop) in zip(keys, pairwise(offsets.tolist()), strict=True)
        }

        def write(transaction: Any) -> None:
            self._segments.update(transaction, sorted(entries), entries)

        self._environment.write(write, size=codes.nbytes)

    def _encoded(self, tokens: Tokens) -> tuple[Codes, Offsets]:
        if isinstance(tokens, TokenCodes) and tokens.codec == self.codec:
            return tokens.codes, tokens.offsets
        tokens = pool_tokens(tokens, self.codec.pool_factor)
        return self.codec.encode(tokens.embeddings), tokens.offsets

    def __contains__(self, key: Key) -> bool:
        return not self.missing([key])

    @repeated
    def __len__(self) -> int:
        with self._environment.read() as transaction:
            return self._segments.count(transaction)

    @repeated
    def missing(self, keys: Sequence[Key]) -> list[int]:
        """Return the positions of the ``keys`` that are not stored."""
        with self._environment.read() as transaction:
            return self._segments.missing(transaction, keys)

    @repeated
    def gather(self, keys: Sequence[Key], ids: Sequence[str] | None = None) -> TokenCodes:
        """Return the codes of n texts in the order of ``keys``. They are copied into one contiguous matrix.

        Errors name the texts by ``ids``. Without ``ids``, they name the keys in hexadecimal.

        Raises:
            MissingTokens: some keys are not stored. The error names all of them.
            CorruptStore: an entry fails its checksum, or was written by another codec.
            DimensionMismatch: the entries have different dimensions.
        """
        names = ids if ids is not None else [key.hex() for key in keys]
        with self._environment.read() as transaction:
            locations = self._locate(transaction, keys, names)
            # LMDB's buffers are valid only inside the transaction. So each buffer is copied once, into the result.
            starts = [0, *np.cumsum(locations["length"], dtype=np.int64).tolist()]
            flat: Codes = np.empty(starts[-1], dtype=np.uint8)
            target = flat.data
            for i, codes in self._segments.read(transaction, locations):
                if codes is None:
                    raise CorruptStore(f"{self.path}: the entry of {names[i]!r} fails its checksum{self._advice}")
                target[starts[i] : starts[i + 1]] = codes
        dimensions = set(locations["dimension"].tolist())
        if len(dimensions) > 1:
            raise DimensionMismatch(f"{self.path}: the entries have different dimensions: {sorted(dimensions)}")
        dimension = dimensions.pop() if dimensions else 0
        offsets = np.zeros(len(keys) + 1, dtype=np.int64)
        np.cumsum(locations["tokens"], out=offsets[1:])
        matrix = flat.reshape(offsets[-1], self.codec.bytes_per_token(dimension))
        return TokenCodes(matrix, offsets, dimension, self.codec)

    def _locate(self, transaction: Any, keys: Sequence[Key], names: Sequence[str]) -> EntryLocations:
        """Return the location of every key. Raise an error if a key has none, or if another codec wrote its entry."""
        locations = self._segments.locate(transaction, keys)
        if len(locations) < len(keys):
            absent = [names[i] for i in self._segments.missing(transaction, keys)]
            raise MissingTokens(
                f"{self.path}: no token embeddings for {len(absent)} of {len(keys)} documents, the first is "
                f"{absent[0]!r}{self._advice}",
                absent,
            )
        for i, fault in self._faults(locations):
            raise CorruptStore(f"{self.path}: the entry of {names[i]!r} {fault}{self._advice}")
        return locations

    def delete(self, keys: Iterable[Key]) -> int:
        """Remove the entries under ``keys``, and return the number of entries that were removed."""
        removed = 0

        def write(transaction: Any) -> None:
            nonlocal removed
            removed = self._segments.update(transaction, unique, {})

        unique = sorted(set(keys))
        environment = self._environment  # first, so that a closed store raises an error even if there are no keys
        if unique:
            environment.write(write)
        return removed

    @repeated
    def keys(self) -> Iterator[Key]:
        """Return an iterator over the sorted keys. Later writes do not change it."""
        with self._environment.read() as transaction:
            return iter(self._segments.keys(transaction))

    @repeated
    def verify(self) -> list[Key]:
        """Return the keys of the entries that have changed since they were written, or that cannot be read."""
        with self._environment.read() as transaction:
            keys = self._segments.keys(transaction)
            locations = self._segments.locate(transaction, keys)
            damaged = {i for i, _ in self._faults(locations)}
            damaged.update(i for i, codes in self._segments.read(transaction, locations) if codes is None)
        return [keys[i] for i in sorted(damaged)]

    def vacuum(self, live: Collection[Key]) -> int:
        """Remove every entry whose key is not in ``live``, and return the number of entries that were removed."""
        return self.delete(key for key in self.keys() if key not in live)

    @repeated
    def stats(self) -> StoreStats:
        """Return counts of entries and tokens, and the bytes in use."""
        environment = self._environment
        with environment.read() as transaction:
            return StoreStats(
                self._segments.count(transaction),
                self._segments.tokens(transaction),
                environment.used_bytes(transaction),
            )

    def copy_to(self, folder: Path) -> None:
        """Copy the store to the new ``folder``, without free pages. Others may read and write meanwhile."""
        self._environment.copy_to(folder)

    def close(self) -> None:
        """Close the files. A second call does nothing."""
        environment, self._shared = self._shared, None
        if environment is not None:
            environment.release()

    def _faults(self, locations: EntryLocations) -> Iterator[tuple[int, str]]:
        """Yield the position and the fault of each entry that this codec cannot have written."""
        dimensions = locations["dimension"]
        expected = locations["tokens"].astype(np.int64)
        for dimension in set(dimensions.tolist()):
            expected[dimensions == dimension] *= self.codec.bytes_per_token(dimension)
        foreign = locations["codec"] != self.codec.number
        for i in np.flatnonzero(foreign | (locations["length"] != expected)).tolist():
            if foreign[i]:
                yield i, f"has codec number {locations['codec'][i]}, not {self.codec.name!r}"
            else:
                yield i, f"is {locations['length'][i]} bytes, expected {expected[i]}"

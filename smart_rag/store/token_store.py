"""The sidecar: token embeddings on disk, content-addressed, in LMDB.

An entry's key is `content_key`, a hash of what the tokens were made from and how. So a stale
entry cannot exist, writing twice is free, and equal contents share. ``docs/format.md`` has the
byte layout.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from smart_rag.embeddings.representation import Codec, Codes, TokenCodes, Tokens
from smart_rag.embeddings.token_pooling import pool_tokens
from smart_rag.errors import (
    CorruptStore,
    DimensionMismatch,
    IndexClosed,
    InvalidInput,
    MissingTokens,
)
from smart_rag.store.lmdb_environment import Environment
from smart_rag.store.segments import DATABASES, LAYOUT, Entry, Places, Segments
from smart_rag.types import Key

_KEY_BYTES = 16
_MOST_DIMENSIONS = (1 << 16) - 1


def content_key(fingerprint: str, codec: str, content: str | bytes) -> Key:
    """Return the 16-byte key of the tokens that this encoder and codec make of ``content``."""
    digest = hashlib.blake2b(f"{fingerprint}\0{codec}\0".encode(), digest_size=_KEY_BYTES)
    digest.update(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    return digest.digest()


@dataclass(frozen=True, slots=True)
class StoreStats:
    """What a store holds: entries, their tokens, and the bytes of the pages in use on disk."""

    entries: int
    tokens: int
    used_bytes: int


class TokenStore:
    """Token embeddings by key: ``put``, ``gather``, ``delete``, ``verify``, ``vacuum``.

    Each call is one transaction: it happens whole or not at all, and is on disk when it returns.
    Threads and other processes may read while one writes.

    >>> store = TokenStore(path, codec("float16"))                 # doctest: +SKIP
    >>> store.put([key], TokenBatch.from_list([tokens]))           # doctest: +SKIP
    >>> store.gather([key])[0]                                     # doctest: +SKIP
    """

    def __init__(self, path: str | Path, codec: Codec) -> None:
        self.path = Path(path)
        self.codec = codec
        self._shared: Environment | None = Environment.at(self.path, LAYOUT, DATABASES)
        self._segments = Segments(self._shared.databases)

    @property
    def _environment(self) -> Environment:
        if self._shared is None:
            raise IndexClosed(f"{self.path}: the token store is closed; open it again")
        return self._shared

    def put(self, keys: Sequence[Key], tokens: Tokens) -> None:
        """Write ``tokens`` under ``keys``, pooled and coded; what a key held before is replaced.

        Codes of this store's codec are written as they are.

        Raises:
            StorageFull: the disk is full; nothing was written.
        """
        if len(keys) != len(tokens):
            raise InvalidInput(f"{len(keys)} keys for {len(tokens)} texts")
        if tokens.dimension > _MOST_DIMENSIONS:
            raise InvalidInput(f"{tokens.dimension} dimensions; an entry holds at most {_MOST_DIMENSIONS}")
        if not isinstance(tokens, TokenCodes) or tokens.codec != self.codec:
            tokens = pool_tokens(tokens, self.codec.pool_factor)
            codes = self.codec.encode(tokens.embeddings)
        else:
            codes = tokens.codes
        flat = np.ascontiguousarray(codes).reshape(-1).data
        width = codes.shape[1]
        entries = {
            key: Entry(flat[start * width : stop * width], stop - start, tokens.dimension, self.codec.number)
            for key, (start, stop) in zip(keys, pairwise(tokens.offsets.tolist()), strict=True)
        }

        def write(transaction: Any) -> None:
            self._segments.update(transaction, sorted(entries), entries)

        self._environment.write(write, size=codes.nbytes)

    def __contains__(self, key: Key) -> bool:
        return not self.missing([key])

    def __len__(self) -> int:
        with self._environment.read() as transaction:
            return self._segments.count(transaction)

    def missing(self, keys: Sequence[Key]) -> list[int]:
        """Return the positions of the keys that are not stored."""
        with self._environment.read() as transaction:
            return self._segments.missing(transaction, keys)

    def gather(self, keys: Sequence[Key], ids: Sequence[str] | None = None) -> TokenCodes:
        """Return the codes of the token embeddings under ``keys``, in their order, in one contiguous matrix.

        ``ids`` names the documents in errors; by default the keys' hexadecimal form does.

        Raises:
            MissingTokens: keys that are not stored; all of them are named.
            CorruptStore: an entry whose checksum does not match.
        """
        names = ids if ids is not None else [key.hex() for key in keys]
        with self._environment.read() as transaction:
            places = self._segments.places(transaction, keys)
            if len(places) < len(keys):
                absent = [names[i] for i in self._segments.missing(transaction, keys)]
                raise MissingTokens(
                    f"{self.path}: no token embeddings for {len(absent)} of {len(keys)} documents, the first "
                    f"is {absent[0]!r}",
                    absent,
                )
            for i, fault in self._faults(places):
                raise CorruptStore(f"{self.path}: the entry of {names[i]!r} {fault}")
            # The buffers are valid only inside of the transaction: they are copied once, into place.
            starts = [0, *np.cumsum(places["length"], dtype=np.int64).tolist()]
            flat: Codes = np.empty(starts[-1], dtype=np.uint8)
            target = flat.data
            for i, codes in self._segments.read(transaction, places):
                if codes is None:
                    raise CorruptStore(f"{self.path}: the entry of {names[i]!r} fails its checksum")
                target[starts[i] : starts[i + 1]] = codes
        dimensions = set(places["dimension"].tolist())
        if len(dimensions) > 1:
            raise DimensionMismatch(f"{self.path}: documents of different widths: {sorted(dimensions)}")
        dimension = dimensions.pop() if dimensions else 0
        offsets = np.zeros(len(keys) + 1, dtype=np.int64)
        np.cumsum(places["tokens"], out=offsets[1:])
        matrix = flat.reshape(offsets[-1], self.codec.bytes_per_token(dimension))
        return TokenCodes(matrix, offsets, dimension, self.codec)

    def delete(self, keys: Iterable[Key]) -> int:
        """Remove the entries under ``keys`` and return how many there were."""
        removed = 0

        def write(transaction: Any) -> None:
            nonlocal removed
            removed = self._segments.update(transaction, unique, {})

        unique = sorted(set(keys))
        environment = self._environment  # asked for first: a closed store says so whatever the keys
        if unique:
            environment.write(write)
        return removed

    def keys(self) -> Iterator[Key]:
        """Return every key, as of the moment of the call."""
        with self._environment.read() as transaction:
            return iter(self._segments.keys(transaction))

    def verify(self) -> list[Key]:
        """Return the keys of the entries that cannot be read back as they were written."""
        with self._environment.read() as transaction:
            keys = self._segments.keys(transaction)
            places = self._segments.places(transaction, keys)
            damaged = {i for i, _ in self._faults(places)}
            damaged.update(i for i, codes in self._segments.read(transaction, places) if codes is None)
        return [keys[i] for i in sorted(damaged)]

    def vacuum(self, live: Collection[Key]) -> int:
        """Remove every entry whose key is not in ``live`` and return how many there were."""
        return self.delete(key for key in self.keys() if key not in live)

    def stats(self) -> StoreStats:
        """Return counts of entries and tokens, and the bytes in use."""
        environment = self._environment
        with environment.read() as transaction:
            return StoreStats(
                self._segments.count(transaction),
                self._segments.tokens(transaction),
                environment.used_bytes(transaction),
            )

    def close(self) -> None:
        """Release the files. Closing twice does no harm."""
        environment, self._shared = self._shared, None
        if environment is not None:
            environment.release()

    def _faults(self, places: Places) -> Iterator[tuple[int, str]]:
        """Yield the position of each entry that this codec cannot have written, and what is wrong with it."""
        dimensions = places["dimension"]
        expected = places["tokens"].astype(np.int64)
        for dimension in set(dimensions.tolist()):
            expected[dimensions == dimension] *= self.codec.bytes_per_token(dimension)
        foreign = places["codec"] != self.codec.number
        for i in np.flatnonzero(foreign | (places["length"] != expected)).tolist():
            if foreign[i]:
                yield i, f"has codec number {places['codec'][i]}, not {self.codec.name!r}"
            else:
                yield i, f"is {places['length'][i]} bytes, expected {expected[i]}"

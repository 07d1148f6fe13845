"""The sidecar: token embeddings on disk, content-addressed, in LMDB.

An entry's key is `content_key`, a hash of what the tokens were made from and how. So a stale
entry cannot exist, writing twice is free, and equal contents share. ``docs/format.md`` has the
byte layout.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import struct
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import lmdb
import numpy as np
import xxhash

from smart_rag.errors import (
    CorruptStore,
    DimensionMismatch,
    IndexClosed,
    InvalidInput,
    MissingTokens,
    SmartRagError,
    StorageFull,
)
from smart_rag.token_pooling import pool_tokens
from smart_rag.types import Codec, TokenCodes, Tokens

Key = bytes

_KEY_BYTES = 16
# checksum of all that follows, tokens, dimension, codec number
_HEADER = struct.Struct("<QIHH")
_CHECKSUM_BYTES = 8
_FIRST_MAP_BYTES = 1 << 26
_MOST_DIMENSIONS = (1 << 16) - 1
# The file of a sound environment may lack a few pages at its end that were taken and given back.
_SLACK_PAGES = 64
_NO_ROOM = 1 << 20


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
        self._shared: _Environment | None = _Environment.at(self.path)

    @property
    def _environment(self) -> _Environment:
        if self._shared is None:
            raise IndexClosed(f"{self.path}: the token store is closed; open it again")
        return self._shared

    def put(self, keys: Sequence[Key], tokens: Tokens) -> None:
        """Write ``tokens`` under ``keys``, pooled and encoded by the codec; what a key held before is replaced.

        Raises:
            StorageFull: the disk is full; nothing was written.
        """
        if len(keys) != len(tokens):
            raise InvalidInput(f"{len(keys)} keys for {len(tokens)} texts")
        if tokens.dimension > _MOST_DIMENSIONS:
            raise InvalidInput(f"{tokens.dimension} dimensions; an entry holds at most {_MOST_DIMENSIONS}")
        tokens = pool_tokens(tokens, self.codec.pool_factor)
        codes = self.codec.encode(tokens.embeddings)
        records = {}
        for i, key in enumerate(keys):
            start, stop = tokens.offsets[i], tokens.offsets[i + 1]
            body = (
                _HEADER.pack(0, stop - start, tokens.dimension, self.codec.number)[_CHECKSUM_BYTES:]
                + codes[start:stop].tobytes()
            )
            records[key] = xxhash.xxh3_64_intdigest(body).to_bytes(_CHECKSUM_BYTES, "little") + body

        def write(transaction: Any) -> None:
            for key in sorted(records):  # neighbours in the tree are written together
                transaction.put(key, records[key])

        self._environment.write(write, size=sum(map(len, records.values())))

    def __contains__(self, key: Key) -> bool:
        with self._environment.read() as transaction:
            return transaction.get(key) is not None

    def __len__(self) -> int:
        with self._environment.read() as transaction:
            return int(transaction.stat()["entries"])

    def missing(self, keys: Sequence[Key]) -> list[int]:
        """Return the positions of the keys that are not stored."""
        with self._environment.read() as transaction:
            cursor = transaction.cursor()
            return [i for i, key in enumerate(keys) if not cursor.set_key(key)]

    def gather(self, keys: Sequence[Key], ids: Sequence[str] | None = None) -> TokenCodes:
        """Return the codes of the token embeddings under ``keys``, in their order, in one contiguous matrix.

        ``ids`` names the documents in errors; by default the keys' hexadecimal form does.

        Raises:
            MissingTokens: keys that are not stored; all of them are named.
            CorruptStore: an entry whose checksum does not match.
        """
        names = ids if ids is not None else [key.hex() for key in keys]
        with self._environment.read() as transaction:
            records = [transaction.get(key) for key in keys]
            absent = [name for name, record in zip(names, records, strict=True) if record is None]
            if absent:
                raise MissingTokens(
                    f"{self.path}: no token embeddings for {len(absent)} of {len(keys)} documents, the first "
                    f"is {absent[0]!r}",
                    absent,
                )
            # The buffers are valid only inside of the transaction: they are copied once, into place.
            headers = [self._checked(record, name) for record, name in zip(records, names, strict=True)]
            offsets = np.zeros(len(keys) + 1, dtype=np.int64)
            np.cumsum([tokens for tokens, _ in headers], out=offsets[1:])
            dimensions = {dimension for _, dimension in headers}
            if len(dimensions) > 1:
                raise DimensionMismatch(f"{self.path}: documents of different widths: {sorted(dimensions)}")
            dimension = dimensions.pop() if dimensions else 0
            codes = np.empty((offsets[-1], self.codec.bytes_per_token(dimension)), dtype=np.uint8)
            flat = codes.reshape(-1)
            for i, record in enumerate(records):
                start = offsets[i] * codes.shape[1]
                flat[start : start + len(record) - _HEADER.size] = np.frombuffer(record, np.uint8, offset=_HEADER.size)
        return TokenCodes(codes, offsets, dimension, self.codec)

    def delete(self, keys: Iterable[Key]) -> int:
        """Remove the entries under ``keys`` and return how many there were."""
        removed = 0

        def write(transaction: Any) -> None:
            nonlocal removed
            removed = sum(bool(transaction.delete(key)) for key in unique)

        unique = sorted(set(keys))
        environment = self._environment  # asked for first: a closed store says so whatever the keys
        if unique:
            environment.write(write)
        return removed

    def keys(self) -> Iterator[Key]:
        """Return every key, as of the moment of the call."""
        with self._environment.read() as transaction:
            keys = [bytes(key) for key in transaction.cursor().iternext(keys=True, values=False)]
        return iter(keys)

    def verify(self) -> list[Key]:
        """Return the keys of the entries that cannot be read back as they were written."""
        damaged = []
        with self._environment.read() as transaction:
            for key, record in transaction.cursor():
                try:
                    self._checked(record, bytes(key).hex())
                except CorruptStore:
                    damaged.append(bytes(key))
        return damaged

    def vacuum(self, live: Collection[Key]) -> int:
        """Remove every entry whose key is not in ``live`` and return how many there were."""
        return self.delete(key for key in self.keys() if key not in live)

    def stats(self) -> StoreStats:
        """Return counts of entries and tokens, and the bytes in use."""
        with self._environment.read() as transaction:
            records = (record for _, record in transaction.cursor())
            tokens = sum(_HEADER.unpack_from(record)[1] for record in records if len(record) >= _HEADER.size)
            stat = transaction.stat()
        pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return StoreStats(int(stat["entries"]), tokens, int(pages * stat["psize"]))

    def close(self) -> None:
        """Release the files. Closing twice does no harm."""
        environment, self._shared = self._shared, None
        if environment is not None:
            environment.release()

    def _checked(self, record: Any, name: str) -> tuple[int, int]:
        """Return the tokens and the dimension of a record that is as it was written."""
        if len(record) < _HEADER.size:
            raise CorruptStore(f"{self.path}: the entry of {name!r} is {len(record)} bytes, cut short")
        checksum, tokens, dimension, number = _HEADER.unpack_from(record)
        if xxhash.xxh3_64_intdigest(memoryview(record)[_CHECKSUM_BYTES:]) != checksum:
            raise CorruptStore(f"{self.path}: the entry of {name!r} fails its checksum")
        if number != self.codec.number:
            raise CorruptStore(f"{self.path}: the entry of {name!r} has codec number {number}, not {self.codec.name!r}")
        expected = _HEADER.size + tokens * self.codec.bytes_per_token(dimension)
        if len(record) != expected:
            raise CorruptStore(f"{self.path}: the entry of {name!r} is {len(record)} bytes, expected {expected}")
        return tokens, dimension


class _Environment:
    """An LMDB environment, shared by every store of this process on the same path.

    LMDB allows one environment for each file and process, and wants no transaction to run
    while its map grows; both rules are kept here.
    """

    # By device and inode of the file: two paths may lead to one, and one path to two after another.
    _open: ClassVar[dict[tuple[int, int], _Environment]] = {}
    _registry = threading.Lock()

    def __init__(self, path: Path) -> None:
        with _lmdb_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._users = 0
        self._readers = 0
        self._resizing = False
        self._closed = False
        self._condition = threading.Condition()
        self._writer = threading.RLock()
        file = path / "data.mdb"
        with _lmdb_errors(path):
            size = max(_FIRST_MAP_BYTES, 2 * file.stat().st_size if file.exists() else 0)
            self._lmdb = lmdb.open(str(path), map_size=size, max_readers=1024)
            self._page = int(self._lmdb.stat()["psize"])
        stat = file.stat()
        self._identity = (stat.st_dev, stat.st_ino)
        if self._used() > stat.st_size + _SLACK_PAGES * self._page:
            # Reading the part that is not there would end the process.
            self._lmdb.close()
            raise CorruptStore(f"{file}: cut short, to {stat.st_size:,} bytes")

    @classmethod
    def at(cls, path: Path) -> _Environment:
        """Return the environment in the folder ``path``, opened if it is not."""
        with cls._registry:
            file = path / "data.mdb"
            stat = file.stat() if file.exists() else None
            environment = cls._open.get((stat.st_dev, stat.st_ino)) if stat else None
            if environment is None:
                environment = cls(path)
                cls._open[environment._identity] = environment
            environment._users += 1
            return environment

    def release(self) -> None:
        """Count one user less; when none is left, close once no thread reads or writes any more."""
        with self._registry:
            self._users -= 1
            if self._users == 0:
                del self._open[self._identity]
                with self._writer, self._alone():
                    self._closed = True
                    self._lmdb.close()

    @contextmanager
    def read(self) -> Iterator[Any]:
        """Yield a read transaction whose buffers are valid inside of the block."""
        with _lmdb_errors(self._path):
            transaction = self._begin_read()
            try:
                with transaction:
                    yield transaction
            finally:
                self._leave()

    def _begin_read(self) -> Any:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: not self._resizing)
                self._check_open()
                self._readers += 1
            try:
                return self._lmdb.begin(buffers=True)
            except lmdb.MapResizedError:  # another process wrote more than our map shows
                self._leave()
                self._resize(0)
            except BaseException:
                self._leave()
                raise

    def _leave(self) -> None:
        with self._condition:
            self._readers -= 1
            self._condition.notify_all()

    def write(self, action: Callable[[Any], None], size: int = 0) -> None:
        """Run ``action(transaction)`` and commit; ``size`` says about how many bytes it adds.

        The map grows beforehand where it can be told; where that was too little, again.
        """
        with self._writer, _lmdb_errors(self._path):
            self._check_open()
            self._lmdb.reader_check()  # what a killed process was reading need not be kept
            while (needed := self._used() + 2 * size) > self._lmdb.info()["map_size"]:
                self._resize(2 * needed)
            while True:
                try:
                    transaction = self._lmdb.begin(write=True)
                except lmdb.MapResizedError:
                    self._resize(0)
                    continue
                try:
                    action(transaction)
                    transaction.commit()
                    return
                except BaseException as error:
                    # py-lmdb's abort waits for a moment in which no thread is inside of a call.
                    with self._alone():
                        transaction.abort()
                        if not isinstance(error, lmdb.MapFullError):
                            raise
                        self._lmdb.set_mapsize(2 * self._lmdb.info()["map_size"])

    def _used(self) -> int:
        """Return the bytes up to the last page in use."""
        return (int(self._lmdb.info()["last_pgno"]) + 1) * self._page

    def _resize(self, size: int) -> None:
        """Set the map's size (0: as large as the file) in a moment when nobody reads or writes."""
        with self._writer, self._alone():
            self._check_open()
            self._lmdb.set_mapsize(size)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep readers out, once those who are in have left."""
        with self._condition:
            self._condition.wait_for(lambda: not self._resizing)
            self._resizing = True
            try:
                self._condition.wait_for(lambda: self._readers == 0)
                yield
            finally:
                self._resizing = False
                self._condition.notify_all()

    def _check_open(self) -> None:
        if self._closed:
            raise IndexClosed(f"{self._path}: the token store is closed; open it again")


@contextmanager
def _lmdb_errors(path: Path) -> Iterator[None]:
    """Turn LMDB's errors into ours."""
    try:
        yield
    except (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError) as error:
        raise CorruptStore(f"{path}: not an LMDB file, or a damaged one: {error}") from error
    except (lmdb.Error, OSError) as error:
        code = getattr(error, "code", None) or getattr(error, "errno", None)
        # A write that half fits ends in EIO.
        full = code == errno.EIO and shutil.disk_usage(path).free < _NO_ROOM
        if full or code == errno.ENOSPC or "No space left" in str(error):
            raise StorageFull(
                f"{path}: no space left on the disk; make room and open it again: what was acknowledged is safe"
            ) from error
        raise SmartRagError(f"{path}: {error}") from error

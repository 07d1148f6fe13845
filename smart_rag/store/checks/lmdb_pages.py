"""The pages of an LMDB file, checked with plain reads before LMDB follows them.

LMDB maps its file into memory and trusts it. A page that lies beyond the end of the file, or a position in a page that
leads out of it, ends the process. So each page that can be reached is checked once, when the file is opened. A page
that is free may lie beyond the end of the file, because LMDB never reads it. Values are not read: the stores have
checksums of these.

LMDB's own source describes the pages. A page begins with its number (8 bytes), 2 unused bytes, its kind (2 bytes), and
the bounds of its free space (2 and 2 bytes), or the number of pages of a long value (4 bytes).
"""

from __future__ import annotations

import os
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from smart_rag.errors import CorruptStore

ADVICE = "repair the index with `smart-rag verify --repair`, or restore a backup"
_HEADER_BYTES = 16
_NODE_BYTES = 8
_BRANCH, _LEAF, _OVERFLOW = 1, 2, 4
_KINDS = 0x7F  # the bits of the kind. Others are marks of LMDB's memory
_LONG, _DATABASE, _DUPLICATES = 1, 2, 4  # marks of a value: on pages of its own, a database, several values
_NO_PAGE = (1 << 64) - 1
_MAGIC = 0xBEEFC0DE
_META = struct.Struct("<IIQQ48s48sQQ")
_DATABASE_RECORD = struct.Struct("<IHHQQQQQ")
_INTEGER_KEYS = 8  # mark of the database of free pages. Ours have no marks
_MOST_DEPTH = 32
_MOST_KEY_BYTES = 511
_MOST_MAP_BYTES = 1 << 47  # the addresses of a process
_MOST_TRANSACTIONS = 1 << 63  # LMDB adds to this number

_Pages = NDArray[np.uint8]
_Numbers = NDArray[np.int64]


class _Meta(NamedTuple):
    mark: int
    version: int
    address: int
    map_bytes: int
    free: bytes
    main: bytes
    last_page: int
    transaction: int


class _Database(NamedTuple):
    pad: int
    flags: int
    depth: int
    branches: int
    leaves: int
    overflows: int
    entries: int
    root: int


@dataclass(frozen=True, slots=True)
class _Nodes:
    """All nodes of n leaves: their page in ``pages`` (row), the bytes of their key, and the position, size and marks of
    their value, which follows the key.
    """

    pages: _Pages
    row: _Numbers
    key: _Numbers
    position: _Numbers
    size: _Numbers
    marks: _Numbers

    def words(self, chosen: NDArray[np.bool_], count: int) -> NDArray[np.uint64]:
        """Return the first ``count`` numbers of 8 bytes of the ``chosen`` values."""
        at = self.position[chosen, None] + np.arange(8 * count)
        found: NDArray[np.uint64] = self.pages[self.row[chosen, None], at].copy().view("<u8")
        return found


def check_pages(file: Path, page_bytes: int) -> None:
    """Check every page of the last commit in ``file``, whose pages have ``page_bytes`` bytes. Nobody may write now.

    Raises:
        CorruptStore: a page is damaged, or lies beyond the end of the file.
    """
    if sys.byteorder != "little" or struct.calcsize("P") != 8:
        return  # LMDB writes other pages there
    with file.open("rb", buffering=0) as opened:
        try:
            _Check(opened, file, page_bytes).run()
        except _DamagedError as error:
            raise CorruptStore(f"{file}: {error}; the file is damaged; {ADVICE}") from error


def check_start(file: Path) -> None:
    """Check the first two pages of ``file``. LMDB uses their numbers when it opens the file, and divides by one.

    Raises:
        CorruptStore: a page is damaged, or the file is shorter than the numbers on the first one.
    """
    with file.open("rb", buffering=0) as opened:
        if sys.byteorder != "little" or struct.calcsize("P") != 8 or not os.fstat(opened.fileno()).st_size:
            return  # LMDB makes a new file if this one is empty
        try:
            first = _meta(opened.fileno(), 0)
            page_bytes = _Database(*_DATABASE_RECORD.unpack(first.free)).pad
            if not (512 <= page_bytes <= 1 << 16 and page_bytes.bit_count() == 1):
                raise _DamagedError(f"expected the size of a page, found {page_bytes}")
            if os.fstat(opened.fileno()).st_size < 2 * page_bytes:
                return  # another process may be making the file. LMDB waits for it, and refuses half a file
            for i in (0, 1):
                _check_meta(opened.fileno(), i, page_bytes)
        except _DamagedError as error:
            raise CorruptStore(f"{file}: not an LMDB file, or a damaged one: {error}; {ADVICE}") from error


def _meta(descriptor: int, position: int) -> _Meta:
    page = os.pread(descriptor, _HEADER_BYTES + _META.size, position)
    if len(page) < _HEADER_BYTES + _META.size:
        raise _DamagedError(f"expected at least {position + _HEADER_BYTES + _META.size:,} bytes, found fewer")
    return _Meta(*_META.unpack_from(page, _HEADER_BYTES))


def _check_meta(descriptor: int, i: int, page_bytes: int) -> _Meta:
    """Return the numbers on page ``i``, 0 or 1, after they were checked."""
    meta = _meta(descriptor, i * page_bytes)
    if (meta.mark, meta.version) != (_MAGIC, 1):
        raise _DamagedError(f"expected LMDB's mark on page {i}, found {meta.mark:x} {meta.version}")
    for record, expected in ((meta.free, (page_bytes, _INTEGER_KEYS)), (meta.main, (0, 0))):
        _check_marks(_Database(*_DATABASE_RECORD.unpack(record)), expected)
    length = os.fstat(descriptor).st_size
    if length < 2 * page_bytes:
        raise _DamagedError(f"expected at least {2 * page_bytes:,} bytes, found {length:,}")
    # Each page is in the file, or it is free. The file lists each free page with 8 bytes.
    most = min(length // page_bytes + length // 8, max(meta.map_bytes, 1 << 20) // page_bytes + 1)
    if meta.address or meta.map_bytes > _MOST_MAP_BYTES or not 1 <= meta.last_page < most:
        raise _DamagedError(
            f"expected at most {most:,} pages in the map of {meta.map_bytes:,} bytes, found {meta.last_page + 1:,}"
        )
    if meta.transaction >= _MOST_TRANSACTIONS:
        raise _DamagedError(f"expected the number of a commit, found {meta.transaction:,}")
    return meta


def _check_marks(database: _Database, expected: tuple[int, int]) -> None:
    """Check the size of pages and the marks of a database. LMDB ends the process if it cannot use them."""
    if database[:2] != expected:
        raise _DamagedError(f"expected a database with the marks {expected}, found {database[:2]}")


class _DamagedError(Exception):
    """What was expected and what was found."""


class _Check:
    def __init__(self, opened: BinaryIO, file: Path, page_bytes: int) -> None:
        self._descriptor = opened.fileno()
        self._bytes = page_bytes
        self._length = os.fstat(self._descriptor).st_size
        self._whole = self._length // page_bytes
        metas = [_check_meta(self._descriptor, i, page_bytes) for i in (0, 1)]
        newest, other = sorted(metas, key=lambda meta: meta.transaction, reverse=True)
        if newest.transaction - other.transaction > 1 or (
            newest.transaction and newest is not metas[newest.transaction % 2]
        ):
            raise _DamagedError(
                f"expected two commits in a row, found {metas[0].transaction:,} and {metas[1].transaction:,}"
            )
        self._transaction = newest.transaction
        self._free, self._main = (_Database(*_DATABASE_RECORD.unpack(record)) for record in (newest.free, newest.main))
        self._count = newest.last_page + 1  # of pages
        self._seen = np.zeros(self._count, dtype=bool)
        self._seen[:2] = True

    def run(self) -> None:
        for nodes in self._walk(self._main):
            if (nodes.marks & _DATABASE).any():
                for words in nodes.words((nodes.marks & _DATABASE) > 0, 6):
                    database = _Database(*_DATABASE_RECORD.unpack(words.tobytes()))
                    _check_marks(database, (0, 0))
                    for inner in self._walk(database):
                        if (inner.marks & _DATABASE).any():
                            raise _DamagedError("expected values, found a database in a database")
        for nodes in self._walk(self._free):
            self._check_free(nodes)

    def _walk(self, database: _Database) -> list[_Nodes]:
        """Check the pages of a database. Return the nodes of its leaves, in parts."""
        if database.root == _NO_PAGE:
            if database[2:7] != (0, 0, 0, 0, 0):
                raise _DamagedError("expected pages of a database, found none")
            return []
        if not 1 <= database.depth <= _MOST_DEPTH:
            raise _DamagedError(f"expected 1 to {_MOST_DEPTH} levels, found {database.depth}")
        branches, numbers = 0, np.asarray([database.root], dtype=np.uint64)
        for _ in range(database.depth - 1):
            branches += len(numbers)
            numbers = self._children(self._read(numbers, _BRANCH))
        leaves = len(numbers)
        nodes = self._nodes(self._read(numbers, _LEAF))
        overflows = self._check_long(nodes)
        expected = (database.branches, database.leaves, database.overflows, database.entries)
        if expected != (found := (branches, leaves, overflows, len(nodes.row))):
            raise _DamagedError(f"expected {expected} branches, leaves, long pages and entries, found {found}")
        return [nodes]

    def _read(self, numbers: NDArray[np.uint64], kind: int) -> _Pages:
        """Return the pages with these ``numbers``, and check what stands at their beginnings."""
        self._take(numbers, 1)
        pages = np.empty((len(numbers), self._bytes), dtype=np.uint8)
        for row, number in enumerate(numbers.tolist()):
            if os.preadv(self._descriptor, [pages[row].data], number * self._bytes) != self._bytes:
                raise _DamagedError(f"expected page {number:,}, found the end of the file")
        self._check_heads(pages, numbers, kind)
        return pages

    def _take(self, numbers: NDArray[np.uint64], most: int | _Numbers) -> None:
        """Mark pages as used: for each of the ``numbers`` this page and the following ones, ``most`` in all."""
        if not len(numbers):
            return
        ends = numbers.astype(np.float64) + most
        if ends.max() > min(self._count, self._whole) or numbers.min() < 2:
            raise _DamagedError(
                f"expected pages below {min(self._count, self._whole):,} in {self._length:,} bytes, found page "
                f"{int(ends.max()) - 1 if numbers.min() >= 2 else int(numbers.min()):,}"
            )
        counts = np.broadcast_to(np.asarray(most), numbers.shape)
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        self._mark(np.repeat(numbers.astype(np.int64), counts) + offsets)

    def _mark(self, pages: _Numbers) -> None:
        before = int(self._seen.sum())
        if self._seen[pages].any():
            raise _DamagedError(f"expected each page once, found page {pages[self._seen[pages]][0]:,} twice")
        self._seen[pages] = True
        if int(self._seen.sum()) != before + len(pages):
            raise _DamagedError("expected each page once, found one twice")

    def _check_heads(self, pages: _Pages, numbers: NDArray[np.uint64], kind: int) -> None:
        found = pages[:, :8].copy().view("<u8")[:, 0]
        kinds = pages[:, 10:12].copy().view("<u2")[:, 0] & _KINDS
        wrong = (found != numbers) | (kinds != kind)
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            raise _DamagedError(f"expected page {numbers[i]:,} of kind {kind}, found {found[i]:,} of kind {kinds[i]}")

    def _pointers(self, pages: _Pages) -> tuple[_Numbers, _Numbers]:
        """Return the row and the position of each node of the ``pages``."""
        bounds = pages[:, 12:16].copy().view("<u2").astype(np.int64)
        lower, upper = bounds.T
        fine = (lower > _HEADER_BYTES) & (lower % 2 == 0) & (lower <= upper) & (upper <= self._bytes)
        if not fine.all():
            raise _DamagedError("expected bounds inside a page, found others")
        counts = (lower - _HEADER_BYTES) // 2
        most = int(counts.max())
        table = pages[:, _HEADER_BYTES : _HEADER_BYTES + 2 * most].copy().view("<u2")
        rows, columns = np.nonzero(np.arange(most) < counts[:, None])
        positions = table[rows, columns].astype(np.int64)
        if ((positions < upper[rows]) | (positions > self._bytes - _NODE_BYTES)).any():
            raise _DamagedError("expected entries inside a page, found others")
        return rows, positions

    def _fields(self, pages: _Pages, rows: _Numbers, positions: _Numbers) -> NDArray[np.int64]:
        """Return four numbers (n, 4) of each node: low and high part of a size or page, marks, bytes of the key."""
        heads = pages[rows[:, None], positions[:, None] + np.arange(_NODE_BYTES)]
        found: _Numbers = heads.copy().view("<u2").astype(np.int64)
        return found

    def _check_filled(self, pages: _Pages, rows: _Numbers, sizes: _Numbers) -> None:
        """Check that the nodes, rounded up to even ``sizes``, fill their pages."""
        upper = pages[:, 14:16].copy().view("<u2")[:, 0].astype(np.int64)
        filled = np.bincount(rows, weights=sizes + sizes % 2, minlength=len(pages))
        if (filled != self._bytes - upper).any():
            raise _DamagedError("expected entries that fill a page, found others")

    def _children(self, pages: _Pages) -> NDArray[np.uint64]:
        rows, positions = self._pointers(pages)
        low, high, marks, key = self._fields(pages, rows, positions).T
        if (key > _MOST_KEY_BYTES).any():
            raise _DamagedError(f"expected keys of at most {_MOST_KEY_BYTES} bytes, found {key.max():,}")
        self._check_filled(pages, rows, _NODE_BYTES + key)
        numbers: NDArray[np.uint64] = (low | high << 16 | marks << 32).astype(np.uint64)
        return numbers

    def _nodes(self, pages: _Pages) -> _Nodes:
        rows, positions = self._pointers(pages)
        low, high, marks, key = self._fields(pages, rows, positions).T
        if ((key < 1) | (key > _MOST_KEY_BYTES)).any():
            raise _DamagedError(f"expected keys of 1 to {_MOST_KEY_BYTES} bytes, found {key.min():,} to {key.max():,}")
        size = low | high << 16
        held = np.where(marks & _LONG, 8, size)
        values = positions + _NODE_BYTES + key
        if (values + held > self._bytes).any() or (marks & ~(_LONG | _DATABASE)).any():
            raise _DamagedError("expected plain values inside a page, found others")
        if (marks == _LONG | _DATABASE).any() or (size[(marks & _DATABASE) > 0] != _DATABASE_RECORD.size).any():
            raise _DamagedError("expected a database, found another value")
        self._check_filled(pages, rows, _NODE_BYTES + key + held)
        return _Nodes(pages, rows, key, values, size, marks)

    def _check_long(self, nodes: _Nodes) -> int:
        """Check the first pages of long values. Return the number of all pages of long values."""
        is_long = (nodes.marks & _LONG) > 0
        if not is_long.any():
            return 0
        numbers = nodes.words(is_long, 1)[:, 0]
        counts = (_HEADER_BYTES - 1 + nodes.size[is_long]) // self._bytes + 1
        self._take(numbers, counts)
        heads = np.empty((len(numbers), _HEADER_BYTES), dtype=np.uint8)
        for row, number in enumerate(numbers.tolist()):
            os.preadv(self._descriptor, [heads[row].data], number * self._bytes)
        self._check_heads(heads, numbers, _OVERFLOW)
        found = heads[:, 12:16].copy().view("<u4")[:, 0]
        if (found != counts).any():
            raise _DamagedError("expected another number of pages of a long value")
        return int(counts.sum())

    def _check_free(self, nodes: _Nodes) -> None:
        """Check the lists of free pages: a count and so many numbers, in descending order, of pages without use."""
        if (nodes.key != 8).any() or (nodes.marks & _DATABASE).any():
            raise _DamagedError("expected lists of free pages, found other entries")
        keys = nodes.pages[nodes.row[:, None], nodes.position[:, None] + np.arange(-8, 0)].copy().view("<u8")[:, 0]
        if (keys < 1).any() or (keys > self._transaction).any() or (keys[1:] <= keys[:-1]).any():
            raise _DamagedError(f"expected pages freed by the commits up to {self._transaction:,}, found others")
        is_long = (nodes.marks & _LONG) > 0
        firsts = np.zeros(len(is_long), dtype=np.uint64)
        if is_long.any():
            firsts[is_long] = nodes.words(is_long, 1)[:, 0]
        for i, first in enumerate(firsts.tolist()):
            size = int(nodes.size[i])
            if is_long[i]:
                data = os.pread(self._descriptor, size, first * self._bytes + _HEADER_BYTES)
            else:
                start = int(nodes.position[i])
                data = nodes.pages[nodes.row[i], start : start + size].tobytes()
            numbers = np.frombuffer(data[: len(data) // 8 * 8], dtype="<u8")
            if not len(numbers) or int(numbers[0]) > len(numbers) - 1:
                raise _DamagedError("expected a list of free pages, found another value")
            pages = numbers[1 : 1 + int(numbers[0])]
            if len(pages) and (pages.max() >= self._count or (pages[1:] >= pages[:-1]).any()):
                raise _DamagedError(f"expected free pages below {self._count:,}, found {pages.max():,}")
            self._mark(pages.astype(np.int64))

"""Bytes of an entry of the term store: the id of a document and its terms. Also the bytes of traces and revisions.

``docs/format.md`` describes them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from smart_rag.embeddings.tokens import TokenIds
from smart_rag.errors import CorruptStore
from smart_rag.types import Revision

REPAIR = "write them again with index.verify(repair=True) or `smart-rag verify --repair`"
# Checksum of the rest of the entry, length of the document's id in bytes, number of bytes of a vocabulary id.
_HEADER = struct.Struct("<QIB")
_CHECKSUM_BYTES = 8
_TRACE = struct.Struct("<d")


def packed(id: str, terms: TokenIds) -> bytes:
    """Return the bytes of the entry of the document ``id`` with these sorted ``terms``."""
    width = 2 if not len(terms) or terms[-1] < 1 << 16 else 4
    name = id.encode()
    body = _HEADER.pack(0, len(name), width)[_CHECKSUM_BYTES:] + name + terms.astype(f"<u{width}").tobytes()
    return xxhash.xxh3_64_intdigest(body).to_bytes(_CHECKSUM_BYTES, "little") + body


def unpacked(value: bytes, path: Path) -> tuple[str, TokenIds]:
    """Return the document's id and its terms, sorted int32, from the bytes of an entry. Errors name ``path``.

    Raises:
        CorruptStore: the entry fails its checksum.
    """
    start, width = _start_and_width(value, path)
    terms = np.frombuffer(value, f"<u{width}", offset=start).astype(np.int32)
    return value[_HEADER.size : start].decode(), terms


def unpacked_parts(value: bytes, path: Path) -> tuple[bytes, bytes, int]:
    """Do the same as `unpacked`, but return the bytes of the id, those of the terms, and the bytes of each term."""
    start, width = _start_and_width(value, path)
    return value[_HEADER.size : start], value[start:], width


def unpacked_id(value: bytes, path: Path) -> str:
    """Do the same as `unpacked`, but return the document's id alone, which is faster."""
    return value[_HEADER.size : _start_and_width(value, path)[0]].decode()


def has_no_words(value: bytes, mark: int) -> bool:
    """Return whether an entry is sound, and has no terms or begins with the term ``mark``."""
    if len(value) < _HEADER.size:
        return False
    checksum, id_bytes, width = _HEADER.unpack_from(value)
    terms = value[_HEADER.size + id_bytes :]
    if terms and (width != 4 or terms[:4] != mark.to_bytes(4, "little")):
        return False
    return bool(xxhash.xxh3_64_intdigest(memoryview(value)[_CHECKSUM_BYTES:]) == checksum)


def id_hash(id: str) -> int:
    """Return the XXH3-64 of a document's id."""
    return xxhash.xxh3_64_intdigest(id.encode())


def _start_and_width(value: bytes, path: Path) -> tuple[int, int]:
    """Return where the terms begin in the bytes of an entry, and the number of bytes of each."""
    whole = len(value) >= _HEADER.size
    checksum, id_bytes, width = _HEADER.unpack_from(value) if whole else (0, 0, 0)
    if not whole or xxhash.xxh3_64_intdigest(memoryview(value)[_CHECKSUM_BYTES:]) != checksum:
        raise CorruptStore(
            f"{path}: the terms of a document fail their checksum; {REPAIR}; if no document has them any more, "
            "index.vacuum() removes them"
        )
    return _HEADER.size + id_bytes, width


def joined(terms: Mapping[int, bytes | bytearray], widths: NDArray[np.uint8]) -> TokenIds:
    """Return n terms, int32, in their order. ``widths`` (n) are their bytes, and ``terms`` has them by these bytes."""
    found = np.empty(len(widths), dtype=np.int32)
    for width, of_width in terms.items():
        found[widths == width] = np.frombuffer(of_width, f"<u{width}")
    return found


def packed_revisions(revisions: Collection[Revision]) -> bytes:
    """Return the bytes of a list of revisions, sorted."""
    names = [(key, id.encode()) for id, key in sorted(revisions)]
    return b"".join(key + len(name).to_bytes(4, "little") + name for key, name in names)


def unpacked_revisions(value: bytes) -> list[Revision]:
    """Return the revisions of which `packed_revisions` made ``value``."""
    found, at = [], 0
    while at < len(value):
        key, length = value[at : at + 16], int.from_bytes(value[at + 16 : at + 20], "little")
        found.append((value[at + 20 : at + 20 + length].decode(), key))
        at += 20 + length
    return found


def packed_trace(trace: float) -> bytes:
    """Return the bytes of the trace of a pooled embedding (see `smart_rag.store.checks.row_checksum`)."""
    return _TRACE.pack(trace)


def unpacked_trace(value: bytes) -> float:
    """Return the trace of these bytes. If they are damaged, return infinity, which is the trace of no embedding."""
    trace = float(_TRACE.unpack(value)[0]) if len(value) == _TRACE.size else math.inf
    return trace if math.isfinite(trace) else math.inf

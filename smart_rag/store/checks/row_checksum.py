"""Checksum of a row, which stands in its metadata, and trace of its pooled embedding, which is in the term store.

SQLite has no checksums, so a changed bit in a text, in metadata or in a vector would be returned as if it were right.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from smart_rag.store.where import RESERVED

# The checksum as 16 hexadecimal digits. The row of a text without metadata has none, because its key is a hash of the
# text. Chroma reads such a row in less time.
CHECKSUM = RESERVED + "checksum"
_DIGITS = 16
# No row fits this checksum.
UNSOUND = "-" * _DIGITS
# hnswlib divides by the length and multiplies by it again. So numbers of an embedding change in the last digit.
_TRACE_TOLERANCE = 2e-5
_LENGTH_TOLERANCE = 1e-3


def checksum_of(id: str, text: str, metadata: Mapping[str, Any]) -> str:
    """Return the checksum of a row as 16 hexadecimal digits. ``metadata`` is Chroma's. ``docs/format.md`` describes it.

    Floating-point numbers count as null, because Chroma may change them a little. Their exact values are in the JSON
    of the metadata. Chroma does not keep the order of a list.
    """
    pairs = [
        [name, sorted(value) if isinstance(value, list) else None if isinstance(value, float) else value]
        for name, value in sorted(metadata.items())
        if name != CHECKSUM and value is not None
    ]
    form = json.dumps([id, text, pairs], ensure_ascii=False, separators=(",", ":"))
    return xxhash.xxh3_64_hexdigest(form.encode("utf-8", "surrogatepass"))


def traces_of(pooled: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return a number for each of n ``pooled`` embeddings (n, dimension). It shows whether an embedding has changed.

    hnswlib rounds embeddings, so a checksum of their bytes would not fit. The number is a sum of the dimensions with
    fixed weights from 1 to 2. If one dimension changes, the number changes at least as much.
    """
    golden = (math.sqrt(5) - 1) / 2
    if not len(pooled):
        return np.zeros(0)
    weights = 1 + np.arange(pooled.shape[1]) * golden % 1
    found: NDArray[np.float64] = pooled.astype(np.float64) @ weights
    return found


def fits(metadata: Mapping[str, Any], id: str, text: str) -> bool:
    """Return whether the row's checksum in ``metadata`` is that of the row."""
    return str(metadata[CHECKSUM])[:_DIGITS] == checksum_of(id, text, metadata)


def trace_of(metadata: Mapping[str, Any]) -> float:
    """Return the trace in ``metadata``. NaN if there is none, and infinity if it is damaged.

    Earlier versions wrote it there.
    """
    found = str(metadata.get(CHECKSUM, ""))[_DIGITS:]
    try:
        return float(found) if found else math.nan
    except ValueError:
        return math.inf


def sound_vectors(pooled: NDArray[np.float32], traces: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return for each of n embeddings whether it is the one with this trace (n). NaN stands for an unknown trace."""
    lengths = np.linalg.norm(pooled.astype(np.float64), axis=1)
    fits = np.abs(traces_of(pooled) - traces) <= _TRACE_TOLERANCE
    is_unit = np.abs(lengths - 1) <= _LENGTH_TOLERANCE
    found: NDArray[np.bool_] = np.isfinite(pooled).all(axis=1) & is_unit & (fits | np.isnan(traces))
    return found

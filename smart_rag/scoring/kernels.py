"""Loops over token codes, compiled by Numba. Neither NumPy nor torch can do such a loop in one pass.

The loops release the GIL. They use only one core, because torch's own threads keep the other cores busy for a while
after a forward pass. The first call compiles the loops. Numba keeps the result on disk, if this user
can write to the package's folder or to a home folder.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from smart_rag.embeddings.tokens import Codes, Offsets

# The lower plane of a query is divided by this factor.
_PLANE = 254

_BYTES = np.uint64(0x0101010101010101)
_LOWER_BITS = np.uint64(0x5555555555555555)  # of each code of two bits
_LOWER_2_BITS = np.uint64(0x0303030303030303)  # of each byte
_1 = np.uint64(1)


def _compiled(function: Any, **options: Any) -> Any:
    """Return ``function``, compiled by Numba at its first call."""
    try:
        return njit(nogil=True, cache=True, error_model="numpy", **options)(function)
    except RuntimeError:  # no folder in which this user can keep the result, so compile in each process
        return njit(nogil=True, error_model="numpy", **options)(function)


def unpack(codes: Codes, bits: int, dimension: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Unpack rotated codes (n, width). Return one byte for each dimension, and the norms of the codes' levels.

    The bytes are (n, width * 8 // bits). Bytes beyond ``dimension`` are 0. The norms (n) are float32, in units of the
    codec's step; see `RotatedCodec`.
    """
    wide = np.empty((len(codes), codes.shape[1] * (8 // bits)), dtype=np.uint8)
    norms = np.empty(len(codes), dtype=np.float32)
    words, wide_words = (codes.view(np.uint64), wide.view(np.uint64)) if codes.shape[1] % 8 == 0 else (codes, wide)
    if bits == 2:
        _unpack_2_bits(words, dimension, wide_words.reshape(len(codes), 4, words.shape[1]), norms)
        return wide, norms
    _unpack(words, bits, wide_words)
    if bits == 1:
        norms.fill(dimension**0.5 / 2)
    else:
        _norms(wide, dimension, 2 ** (bits - 1) - 0.5, norms)
    return wide, norms


@_compiled
def _unpack(words: NDArray[np.unsignedinteger], bits: int, wide: NDArray[np.unsignedinteger]) -> None:
    count, width = words.shape
    planes = 8 // bits
    mask = ((_1 << np.uint64(bits)) - _1) * _BYTES
    for i in range(count):
        for plane in range(planes):
            shift = np.uint64(plane * bits)
            for j in range(width):
                wide[i, plane * width + j] = (words[i, j] >> shift) & mask


@intrinsic
def _popcount(context: Any, word: Any) -> Any:
    """Return the number of set bits in a word, by the CPU's own instruction."""
    return types.uint64(types.uint64), lambda context, builder, signature, arguments: builder.ctpop(arguments[0])


@_compiled
def _unpack_2_bits(
    words: NDArray[np.unsignedinteger], dimension: int, wide: NDArray[np.unsignedinteger], norms: NDArray[np.float32]
) -> None:
    # The norms are computed while the row is in the nearest cache. The squares are 1/4 for codes 1 and 2, whose two
    # bits differ, and 9/4 for 0 and 3. Padding has code 0.
    for i in range(len(words)):
        row = words[i]
        for plane in range(4):
            part, shift = wide[i, plane], np.uint64(plane * 2)
            for j in range(len(row)):
                part[j] = (row[j] >> shift) & _LOWER_2_BITS
        near = np.uint64(0)
        for j in range(len(row)):
            word = np.uint64(row[j])
            near += _popcount((word ^ (word >> _1)) & _LOWER_BITS)
        norms[i] = np.sqrt(np.float32(2.25) * np.float32(dimension) - np.float32(2.0) * np.float32(near))


@_compiled
def _norms(wide: NDArray[np.uint8], dimension: int, zero: float, norms: NDArray[np.float32]) -> None:
    for i in range(len(wide)):
        row = wide[i]
        total, squares = np.uint32(0), np.uint64(0)
        for j in range(dimension):
            total += np.uint32(row[j])
            squares += np.uint64(row[j]) * np.uint64(row[j])
        norms[i] = np.sqrt(float(squares) - 2.0 * zero * float(total) + zero * zero * dimension)


@_compiled
def query_planes(
    queries: NDArray[np.float32],
    zero: float,
    planes: NDArray[np.int8],
    scale: NDArray[np.float32],
    bias: NDArray[np.float32],
) -> None:
    """Write ``queries`` (n, dimension) as integers: query = ``scale`` * (upper + lower / 254).

    ``planes`` (2 n, width) gets all upper planes, then all lower planes. The code of the value 0 is ``zero``, not 0.
    So for each query, all products with codes are too high by the same number. ``bias`` (n) gets this number.
    """
    count, dimension = queries.shape
    for i in range(count):
        greatest = np.float32(1e-30)
        for j in range(dimension):
            greatest = max(greatest, abs(queries[i, j]))
        scale[i] = greatest / 127
        total = 0
        for j in range(dimension):
            steps = queries[i, j] / scale[i]
            upper = np.rint(steps)
            lower = np.rint((steps - upper) * _PLANE)
            planes[i, j] = upper
            planes[count + i, j] = lower
            total += int(upper) * _PLANE + int(lower)
        bias[i] = scale[i] * zero * total / _PLANE


@partial(_compiled, fastmath={"nnan", "nsz"})
def best_of_planes(
    products: NDArray[np.int32],
    scale: NDArray[np.float32],
    bias: NDArray[np.float32],
    norms: NDArray[np.float32],
    offsets: Offsets,
    best: NDArray[np.float32],
) -> None:
    """Write into ``best`` (n, queries) the highest cosine of each query token with the tokens of each document.

    ``products`` (tokens, 2 * queries) are the products of codes with the upper and the lower plane of each query:
    cosine = (scale * (upper + lower / 254) - bias) / norm.
    """
    queries = len(scale)
    lower_scale = scale / np.float32(_PLANE)
    row = np.empty(queries, dtype=np.float32)
    for document in range(len(offsets) - 1):
        row[:] = -np.inf
        for token in range(offsets[document], offsets[document + 1]):
            inverse = np.float32(1.0) / norms[token]
            for i in range(queries):
                product = products[token, i] * _PLANE + products[token, queries + i]
                row[i] = max(row[i], (np.float32(product) * lower_scale[i] - bias[i]) * inverse)
        best[document] = row

"""Late interaction over rotated codes in one loop, compiled by Numba. The codes are never decoded.

A chunk of packed codes is unpacked into the nearest cache. It is multiplied with a few query tokens at once, and only
the maximum of each document is kept. All tokens are multiplied with the upper plane of the query. The lower plane is
small, so it matters only to tokens that are nearly the best ones. All sums are integers, so all `KINDS` of CPUs give
equal scores.

The loop releases the GIL and uses one core. The first call compiles it. Numba keeps the result on disk, if this user
can write to the package's folder or to a home folder.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload
from numpy.typing import NDArray

from smart_rag.embeddings.codec import turned
from smart_rag.embeddings.tokens import Codes, Offsets
from smart_rag.scoring import instructions
from smart_rag.scoring.instructions import (
    AVX512_VNNI,
    AVX_VNNI,
    BYTES,
    CHUNK,
    TILES,
    multiply,
    multiply_row,
    popcount,
    transpose,
)
from smart_rag.scoring.planes import PLANE, planes_of

# If more than this number of products in a tile needs the lower plane, the whole tile is multiplied with it.
_MANY = 32
_FAST: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


@dataclass(frozen=True, slots=True)
class Queries:
    """Query tokens as two planes of int8: query = ``scale`` * (upper + lower / 254).

    Attributes:
        tiles: (2, tiles, words, rows) int32, for each plane, in the order in which they are multiplied. A word is four
            bytes.
        lower: (n, bytes) int8, the lower plane, in the order of unpacked codes.
        sums: (n, 2) int64, the sum of each plane.
        reach: (n) float32. The lower plane changes a product by at most this number, in the unit of `best`.
        scale: (n) float32.
    """

    tiles: NDArray[np.int32]
    lower: NDArray[np.int8]
    sums: NDArray[np.int64]
    reach: NDArray[np.float32]
    scale: NDArray[np.float32]


def queries(embeddings: NDArray[np.float32], bits: int, kind: int) -> Queries:
    """Return query tokens (n, dimension) as integers, for products with rotated codes of ``bits``."""
    count, dimension = embeddings.shape
    rotated = np.zeros((count, dimension), dtype=np.float32)
    # Torch or NumPy would wait for cores on which torch's threads still run. The order of the sums is the same on all
    # CPUs.
    _add_products(np.ascontiguousarray(embeddings), turned(dimension), rotated)
    planes, width = 8 // bits, -(-dimension * bits // 8)
    rows = TILES[kind][2]
    found = planes_of(rotated)
    both = np.zeros((2, count, planes * width), dtype=np.int8)
    both[0, :, :dimension], both[1, :, :dimension] = found.upper, found.lower
    # Four neighbouring bytes of a token stand in one word, for each of the codes that a byte holds.
    words = -(-width // 4)
    padded = np.zeros((2, -(-count // rows) * rows, planes, 4 * words), dtype=np.int8)
    padded[:, :count, :, :width] = both.reshape(2, count, planes, width)
    ordered = padded.reshape(2, -1, rows, planes, words, 4).transpose(0, 1, 4, 3, 2, 5)
    tiles = np.ascontiguousarray(ordered).view(np.int32).reshape(2, -1, words * planes, rows)
    # The part of a query that the upper plane lacks, times a vector of norm 1. It is a little larger, for rounding.
    reach = 2.001 * np.linalg.norm(both[1].astype(np.float32), axis=1) / PLANE
    return Queries(tiles, both[1], both.sum(axis=2, dtype=np.int64).T.copy(), reach.astype(np.float32), found.scale)


def best(queries: Queries, codes: Codes, offsets: Offsets, bits: int, dimension: int, kind: int) -> NDArray[np.float32]:
    """Return the highest cosine of each query token with the tokens of each document: (documents, query tokens).

    ``codes`` (tokens, bytes) are rotated codes, as in `RotatedCodec`. ``offsets`` (documents + 1) begin with 0.
    """
    found = np.empty((len(offsets) - 1, len(queries.scale)), dtype=np.float32)
    _compiled(kind, bits)(
        np.ascontiguousarray(codes),
        np.ascontiguousarray(offsets, dtype=np.int64),
        dimension,
        queries.tiles,
        queries.lower,
        queries.sums,
        queries.reach,
        found,
    )
    found *= queries.scale / np.float32(2)
    return found


def _jit(function: Any, signature: Any = None, **options: Any) -> Any:
    """Return ``function``, compiled by Numba."""
    try:
        return njit(signature, cache=True, **_FAST, **options)(function)
    except RuntimeError:  # no folder in which this user can keep the result, so compile in each process
        return njit(signature, **_FAST, **options)(function)


def _array(kind: Any, dimensions: int, readonly: bool = True) -> Any:
    return types.Array(kind, dimensions, "C", readonly=readonly)


@_jit
def _add_products(left: Any, right: Any, sums: Any) -> None:
    """Add the product of two matrices to ``sums``."""
    whole = len(right) // 4 * 4
    for k in range(0, whole, 4):
        for i in range(len(left)):
            a, b, c, d = left[i, k], left[i, k + 1], left[i, k + 2], left[i, k + 3]
            for j in range(right.shape[1]):
                sum = sums[i, j] + a * right[k, j] + b * right[k + 1, j]
                sums[i, j] = sum + c * right[k + 2, j] + d * right[k + 3, j]
    for k in range(whole, len(right)):
        for i in range(len(left)):
            for j in range(right.shape[1]):
                sums[i, j] += left[i, k] * right[k, j]


@_jit
def _unpack(codes: Any, first: int, count: int, bits: int, packed: Any, unpacked: Any) -> None:
    """Write the tokens ``first`` to ``first + count`` of ``codes`` into columns.

    ``packed`` (words, CHUNK) gets the words of the codes. ``unpacked`` (words * codes of a byte, CHUNK) gets them
    with one byte for each code.
    """
    width = codes.shape[1]
    for token in range(0, count - 7, 8):
        for word in range(0, width // 4 - 7, 8):
            rows = codes.ctypes.data + (first + token) * width + 4 * word
            transpose(rows, width, packed.ctypes.data + 4 * (word * CHUNK + token))
    for token in range(count):
        begin = width // 32 * 8 if token < count // 8 * 8 else 0
        for word in range(begin, len(packed)):
            four = np.uint32(0)
            for i in range(min(4, width - 4 * word)):
                four |= np.uint32(codes[first + token, 4 * word + i]) << np.uint32(8 * i)
            packed[word, token] = four
    planes = 8 // bits
    mask = np.uint32(((1 << bits) - 1) * BYTES)
    for word in range(len(packed)):
        for plane in range(planes):
            shift = np.uint32(plane * bits)
            for token in range(CHUNK):
                unpacked[word * planes + plane, token] = (packed[word, token] >> shift) & mask


@_jit
def _inverse_norms(
    codes: Any, first: int, count: int, bits: int, dimension: int, packed: Any, near: Any, inverse: Any
) -> None:
    """Write 1 / the norm of the levels of each token, in units of the codec's step."""
    if bits == 2:
        # The squares are 1/4 for codes 1 and 2, whose two bits differ, and 9/4 for 0 and 3. Padding has code 0.
        near[:] = 0
        for word in range(len(packed)):
            for token in range(CHUNK):
                four = packed[word, token]
                near[token] += popcount((four ^ (four >> np.uint32(1))) & np.uint32(0x55555555))
        for token in range(count):
            norm = np.sqrt(np.float32(2.25) * np.float32(dimension) - np.float32(2.0) * np.float32(near[token]))
            inverse[token] = np.float32(1.0) / norm
        return
    zero = 2.0 ** (bits - 1) - 0.5
    mask = np.uint8((1 << bits) - 1)
    for token in range(count):
        total, squares = np.uint32(0), np.uint32(0)
        if bits > 1:
            for shift in range(0, 8, bits):
                for i in range(codes.shape[1]):
                    code = np.uint32((codes[first + token, i] >> np.uint8(shift)) & mask)
                    total = np.uint32(total + code)
                    squares = np.uint32(squares + np.uint32(code * code))
            inverse[token] = 1.0 / np.sqrt(squares - 2.0 * zero * total + zero * zero * dimension)
        else:
            inverse[token] = 2.0 / np.sqrt(float(dimension))


def _multiply_plane(
    kind: int, bits: int, plane: int, first_query: int, count: int, codes: Any, tiles: Any, products: Any
) -> None:
    """Write the products of a tile of queries with ``count`` tokens: one ``plane`` of ``products``."""


@overload(_multiply_plane, prefer_literal=True, jit_options=_FAST)
def _multiply_plane_compiled(
    kind: Any, bits: Any, plane: Any, first_query: Any, count: Any, codes: Any, tiles: Any, products: Any
) -> Callable[..., None] | None:
    if not isinstance(kind, types.IntegerLiteral):
        return None
    kind_number, code_bits = kind.literal_value, bits.literal_value
    lanes, of_tile, rows = TILES[kind_number]
    tokens = lanes * of_tile
    # So many sums of two products fit into 16 bits.
    fitting = 32767 // (2 * 127 * ((1 << code_bits) - 1))
    if kind_number in (AVX_VNNI, AVX512_VNNI) or code_bits == 8:
        fitting = 1 << 31

    def multiplied(
        kind: Any, bits: Any, plane: Any, first_query: Any, count: Any, codes: Any, tiles: Any, products: Any
    ) -> None:
        products[plane] = 0
        words = tiles.shape[2]
        queries = tiles.ctypes.data + 4 * (plane * tiles.shape[1] * words * rows + first_query * words)
        sums = products.ctypes.data + 4 * plane * rows * CHUNK
        for word in range(0, words, fitting):
            for token in range(0, count, tokens):
                address = codes.ctypes.data + 4 * (word * CHUNK + token)
                steps = min(fitting, words - word)
                multiply(kind_number, code_bits, address, queries + 4 * word * rows, steps, sums + 4 * token)

    return multiplied


def _product(kind: int, bits: int, codes: Any, token: int, lower: Any, query: int) -> int:
    """Return the product of a token's codes with the lower plane of a query."""
    raise NotImplementedError


@overload(_product, prefer_literal=True, jit_options=_FAST)
def _product_compiled(
    kind: Any, bits: Any, codes: Any, token: Any, lower: Any, query: Any
) -> Callable[..., int] | None:
    if not isinstance(kind, types.IntegerLiteral):
        return None
    kind_number, code_bits = kind.literal_value, bits.literal_value

    def product(kind: Any, bits: Any, codes: Any, token: Any, lower: Any, query: Any) -> Any:
        width = codes.shape[1]
        steps = width // 32
        total = np.int32(0)
        if steps:
            address = lower.ctypes.data + query * lower.shape[1]
            row = codes.ctypes.data + token * width
            total = multiply_row(kind_number, code_bits, row, address, width, steps)
        for i in range(32 * steps, width):
            for plane in range(8 // code_bits):
                code = (np.int32(codes[token, i]) >> (plane * code_bits)) & ((1 << code_bits) - 1)
                total = np.int32(total + code * np.int32(lower[query, plane * width + i]))
        return total

    return product


@_jit
def _texts(offsets: Any, first: int, count: int, document: int, ends: Any) -> tuple[int, int]:
    """Write where the documents end that have some of the tokens ``first`` to ``first + count``.

    Search from ``document``. Return the first of these documents, and their number.
    """
    while offsets[document + 1] <= first:
        document += 1
    texts = 0
    while texts == 0 or ends[texts - 1] < count:
        ends[texts] = min(count, offsets[document + texts + 1] - first)
        texts += 1
    return document, texts


@_jit
def _centre(products: Any, middle: int, count: int, inverse: Any, similar: Any) -> None:
    """Write cosines: ``products`` with codes, from which half of ``middle`` is taken, divided by the norms."""
    for token in range(count):
        similar[token] = np.float32(np.int32(2 * products[token] - middle)) * inverse[token]


@_jit
def _candidates(similar: Any, begin: int, end: int, highest: float, bound: float, candidates: Any) -> int:
    """Write the tokens from ``begin`` to ``end`` that reach ``bound``, the highest one first. Return their number."""
    close, top = 0, 0
    for token in range(begin, end):
        candidates[close] = token
        top = close if similar[token] == highest else top
        close += similar[token] >= bound
    candidates[0], candidates[top] = candidates[top], candidates[0]
    return close


@lru_cache(maxsize=8)
def _compiled(kind: int, bits: int) -> Callable[..., None]:
    """Return the compiled loop for one of `instructions.KINDS`."""
    rows = TILES[kind][2]
    # To see whether a result on disk is still right, Numba looks at this file and at the numbers from outside `best`.
    source = zlib.crc32(Path(instructions.__file__).read_bytes())

    def best(codes: Any, offsets: Any, dimension: int, tiles: Any, lower: Any, sums: Any, reach: Any, best: Any) -> int:
        # The unit of similarities is half a step of the query's upper plane. The code of the value 0 is zeros / 2.
        zeros = (1 << bits) - 1
        words = tiles.shape[2]
        packed = np.zeros((words * bits // 8, CHUNK), dtype=np.uint32)
        unpacked = np.empty((words, CHUNK), dtype=np.uint32)
        products = np.empty((2, rows, CHUNK), dtype=np.int32)
        similar = np.empty(CHUNK, dtype=np.float32)
        candidates = np.empty(CHUNK + 1, dtype=np.int64)
        inverse = np.empty(CHUNK, dtype=np.float32)
        near = np.empty(CHUNK, dtype=np.uint32)
        ends = np.empty(CHUNK, dtype=np.int64)
        best[:] = -np.inf
        document = 0
        for first in range(0, offsets[-1], CHUNK):
            count = min(CHUNK, offsets[-1] - first)
            _unpack(codes, first, count, bits, packed, unpacked)
            _inverse_norms(codes, first, count, bits, dimension, packed, near, inverse)
            document, texts = _texts(offsets, first, count, document, ends)
            for query in range(len(reach)):
                row = query % rows
                if row == 0:
                    _multiply_plane(kind, bits, 0, query, count, unpacked, tiles, products)
                    tried, both = 0, False
                _centre(products[0, row], zeros * sums[query, 0], count, inverse, similar)
                middle = zeros * (PLANE * sums[query, 0] + sums[query, 1])
                begin = 0
                for text in range(texts):
                    end, highest, found = ends[text], np.float32(-np.inf), best[document + text, query]
                    for token in range(begin, end):
                        highest = max(highest, similar[token])
                    if highest + reach[query] > found:
                        # Only these tokens can be the best one, whatever their product with the lower plane is.
                        bound = highest - np.float32(2.0) * reach[query]
                        close = _candidates(similar, begin, end, highest, bound, candidates)
                        tried += close
                        if tried > _MANY and not both:
                            _multiply_plane(kind, bits, 1, query - row, count, unpacked, tiles, products)
                            both = True
                        for token in candidates[:close]:
                            if similar[token] + reach[query] > found:
                                rest = np.int64(products[1, row, token])
                                if not both:
                                    rest = np.int64(_product(kind, bits, codes, first + token, lower, query))
                                exact = 2 * (PLANE * np.int64(products[0, row, token]) + rest) - middle
                                found = max(found, np.float32(exact) / np.float32(PLANE) * inverse[token])
                        best[document + text, query] = found
                    begin = end
        return source

    return _jit(best, _SIGNATURE, fastmath={"nnan", "nsz"})  # type: ignore[no-any-return]


_SIGNATURE = types.int64(
    _array(types.uint8, 2),
    _array(types.int64, 1),
    types.int64,
    _array(types.int32, 4),
    _array(types.int8, 2),
    _array(types.int64, 2),
    _array(types.float32, 1),
    _array(types.float32, 2, readonly=False),
)

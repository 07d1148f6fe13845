"""Query tokens as integers, and late interaction over rotated codes by NumPy.

A query token is q = scale * (upper + lower / 254). Its two planes are int8. A document token has the codes c. The code
of the value 0 is z, and n is the norm of the levels c - z. Then the cosine is (q c - z sum(q)) / n. All sums are
integers, so NumPy and the compiled loop in `kernels` give equal scores, to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smart_rag.embeddings.codec import RotatedCodec, turned
from smart_rag.embeddings.multiply import multiply
from smart_rag.embeddings.tokens import Codes, Offsets

# The lower plane of a query is divided by this factor.
PLANE = 254
# Integers up to this one are exact in float32, and so are their sums.
_EXACT = 1 << 24


@dataclass(frozen=True, slots=True)
class Planes:
    """Query tokens as integers: ``upper`` and ``lower`` (n, dimension) int8, and ``scale`` (n) float32."""

    upper: NDArray[np.int8]
    lower: NDArray[np.int8]
    scale: NDArray[np.float32]


def planes_of(rotated: NDArray[np.float32]) -> Planes:
    """Return rotated query tokens (n, dimension) as integers."""
    scale = np.maximum(np.abs(rotated).max(axis=1), np.float32(1e-30)) / np.float32(127)
    steps = rotated / scale[:, None]
    upper = np.rint(steps).astype(np.int8)
    lower = np.rint((steps - upper) * PLANE).astype(np.int8)
    return Planes(upper, lower, scale)


def rotated_queries(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return query tokens (n, dimension) after the rotation of the codec. The sums have the order of `kernels`."""
    embeddings = np.asarray(embeddings, dtype=np.float32)
    right = turned(embeddings.shape[1])
    sums = np.zeros_like(embeddings)
    for k in range(len(right)):
        sums += embeddings[:, k, None] * right[k]
    return sums


def best(queries: Planes, codes: Codes, offsets: Offsets, codec: RotatedCodec, dimension: int) -> NDArray[np.float32]:
    """Return the highest cosine of each query token with the tokens of each document: (query tokens, documents).

    ``codes`` (tokens, bytes) are rotated codes. ``offsets`` (documents + 1) begin with 0.
    """
    unpacked = codec.unpack(codes, dimension)
    ones = np.ones((1, dimension), dtype=np.int8)
    # One product takes less time than three. The last row is the sum of a token's codes.
    products = _products(np.concatenate([queries.upper, queries.lower, ones]), unpacked)
    upper, lower = np.split(products[:-1], 2)
    sums = PLANE * queries.upper.sum(axis=1, dtype=np.int64) + queries.lower.sum(axis=1, dtype=np.int64)
    exact = 2 * (PLANE * upper + lower) - ((1 << codec.bits) - 1) * sums[:, None]
    cosines = exact.astype(np.float32) / np.float32(PLANE) * _inverse_norms(unpacked, products[-1], codec)
    found: NDArray[np.float32] = np.maximum.reduceat(cosines, offsets[:-1], axis=1)
    return found * (queries.scale / np.float32(2))[:, None]


def _products(plane: NDArray[np.int8], unpacked: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the products of the planes (n, dimension) with the codes of tokens: (n, tokens)."""
    greatest = 127 * float(unpacked.max(initial=0)) * unpacked.shape[1]
    if greatest < _EXACT:
        return multiply(plane.astype(np.float32), unpacked.T).astype(np.int64)
    return np.asarray(plane.astype(np.float64) @ unpacked.T.astype(np.float64)).astype(np.int64)


def _inverse_norms(unpacked: NDArray[np.float32], total: NDArray[np.int64], codec: RotatedCodec) -> NDArray[np.float32]:
    """Return 1 / the norm of the levels of each token (tokens), in units of the codec's step, as in `kernels`.

    ``total`` is the sum of each token's codes.
    """
    dimension = unpacked.shape[1]
    if codec.bits == 1:
        return np.full(len(unpacked), 2.0 / np.sqrt(float(dimension)), dtype=np.float32)
    is_exact = (float(unpacked.max(initial=0)) ** 2) * dimension < _EXACT
    squares = np.einsum("ij,ij->i", unpacked, unpacked, dtype=np.float32 if is_exact else np.float64)
    if codec.bits == 2:
        # The squares are 1/4 for codes 1 and 2, and 9/4 for 0 and 3.
        near = ((3 * total - squares.astype(np.int64)) / 2).astype(np.float32)
        norms = np.sqrt(np.float32(2.25) * np.float32(dimension) - np.float32(2.0) * near)
        return np.asarray(np.float32(1.0) / norms, dtype=np.float32)
    zero = codec.zero
    return np.asarray(1.0 / np.sqrt(squares - 2.0 * zero * total + zero * zero * dimension), dtype=np.float32)

"""`Codebook`: centroids of token embeddings, their numbers as terms, and their bytes.

The tokens of a page that was read as an image have no vocabulary ids. So the terms of such a document are the numbers
of the centroids that are nearest to its tokens. They are greater than all vocabulary ids. So one document may have
both, and they never meet.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from smart_rag.embeddings.codec import get_codec
from smart_rag.embeddings.tokens import MOST_ID, Codes, FloatArray, TokenIds
from smart_rag.errors import CorruptStore
from smart_rag.scoring.centroids import MOST_CENTROIDS, Centroids, nearest
from smart_rag.store.terms.term_entry import REPAIR

# The term of each document that has centroids, but no vocabulary ids at all. Such documents do not count when the
# rarity of a vocabulary id is computed.
WITHOUT_WORDS = MOST_ID + 1
# The terms of centroids begin here.
FIRST = MOST_ID + 2
# Number of different tags. The terms of the codebook with the tag t begin at FIRST + t * MOST_CENTROIDS.
_TAGS = FIRST // MOST_CENTROIDS
# Checksum of all that follows, number of documents, number of centroids, dimension.
_HEADER = struct.Struct("<QQII")
CHECKSUM_BYTES = 8
# The codes of centroids take an eighth of the bytes of float32. With exact centroids, a search finds no more.
_CODEC = get_codec("4bit")


@dataclass(frozen=True)
class Codebook:
    """The codes (k, bytes) of k centroids with ``dimension`` dimensions.

    ``documents`` is the number of documents that were to be found by centroids when these centroids were learned.
    """

    codes: Codes
    dimension: int
    documents: int

    @classmethod
    def of(cls, centroids: FloatArray, documents: int) -> Codebook:
        """Return the codebook of ``centroids`` (k, dimension), which are L2-normalised."""
        return cls(_CODEC.encode(np.asarray(centroids, dtype=np.float32)), centroids.shape[1], documents)

    @cached_property
    def centroids(self) -> Centroids:
        """The centroids (k, dimension) float32, L2-normalised, as the codes have them."""
        return np.asarray(_CODEC.decode(self.codes, self.dimension), dtype=np.float32)

    @cached_property
    def first(self) -> int:
        """The term of the first centroid. It depends on the centroids.

        So the terms of one codebook are never taken for those of another one. This could happen if an older version,
        which knows no codebooks, copied the terms alone.
        """
        return FIRST + xxhash.xxh3_64_intdigest(self.codes.tobytes()) % _TAGS * MOST_CENTROIDS

    def terms(self, tokens: FloatArray) -> TokenIds:
        """Return the terms of a document with these ``tokens`` (n, dimension): sorted int32."""
        return np.unique(nearest(tokens, self.centroids)).astype(np.int32) + np.int32(self.first)

    def packed(self) -> bytes:
        """Return the bytes of the codebook. ``docs/format.md`` describes them."""
        header = _HEADER.pack(0, self.documents, len(self.codes), self.dimension)[CHECKSUM_BYTES:]
        body = header + self.codes.tobytes()
        return xxhash.xxh3_64_intdigest(body).to_bytes(CHECKSUM_BYTES, "little") + body

    @classmethod
    def unpacked(cls, value: bytes, path: Path) -> Codebook:
        """Return the codebook from its bytes. Errors name ``path``.

        Raises:
            CorruptStore: the bytes fail their checksum.
        """
        whole = len(value) >= _HEADER.size
        checksum, documents, count, dimension = _HEADER.unpack_from(value) if whole else (0, 0, 0, 0)
        if not whole or xxhash.xxh3_64_intdigest(memoryview(value)[CHECKSUM_BYTES:]) != checksum:
            raise CorruptStore(f"{path}: the centroids of the token embeddings fail their checksum; {REPAIR}")
        codes = np.frombuffer(value, np.uint8, offset=_HEADER.size)
        return cls(codes.reshape(count, _CODEC.bytes_per_token(dimension)), dimension, documents)


def joined(words: TokenIds | None, centroids: TokenIds) -> TokenIds:
    """Return the terms of a document with the vocabulary ids ``words``, if it has any, and ``centroids``."""
    first = np.asarray([WITHOUT_WORDS], dtype=np.int32) if words is None else words
    return np.concatenate([first, centroids])


def words_of(terms: TokenIds | None) -> TokenIds | None:
    """Return the vocabulary ids among ``terms``, which are sorted. None if the document has no vocabulary ids.

    >>> words_of(joined(None, np.int32([FIRST]))), words_of(joined(np.int32([5]), np.int32([FIRST])))
    (None, array([5], dtype=int32))
    """
    if terms is None:
        return None
    words = terms[: np.searchsorted(terms, WITHOUT_WORDS)]
    return None if len(words) < len(terms) and terms[len(words)] == WITHOUT_WORDS else words


def has_centroids(terms: TokenIds | None, firsts: NDArray[np.int32] | None = None) -> bool:
    """Return whether ``terms``, which are sorted, have a centroid of a codebook whose first term is in ``firsts``.

    By default, a centroid of any codebook.
    """
    if terms is None or not len(terms) or terms[-1] < FIRST:
        return False
    return firsts is None or bool(np.isin(terms[-1] - (terms[-1] - FIRST) % MOST_CENTROIDS, firsts))

"""Token codes: how a token embedding is written to disk. ``decode`` is the inverse of ``encode``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from smart_rag.errors import InvalidInput
from smart_rag.types import FloatArray

Codes = NDArray[np.uint8]


class Codec(Protocol):
    """A way to write token embeddings as bytes, a fixed number of them for each token."""

    @property
    def name(self) -> str:
        """The name in the manifest and in every key."""
        ...

    @property
    def number(self) -> int:
        """The number in every record's header; never used again for another layout."""
        ...

    def bytes_per_token(self, dimension: int) -> int:
        """Return the bytes that one token embedding takes."""
        ...

    def encode(self, embeddings: FloatArray) -> Codes:
        """Return the codes (n, bytes_per_token) uint8 of ``embeddings`` (n, dimension)."""
        ...

    def decode(self, codes: Codes, dimension: int) -> FloatArray:
        """Return the embeddings (n, dimension), float32 or float16, of ``codes``."""
        ...


@dataclass(frozen=True, slots=True)
class _FloatCodec:
    """Little-endian floating-point numbers, one after the other."""

    name: str
    number: int
    dtype: np.dtype[Any]

    def bytes_per_token(self, dimension: int) -> int:
        return self.dtype.itemsize * dimension

    def encode(self, embeddings: FloatArray) -> Codes:
        return np.ascontiguousarray(embeddings, dtype=self.dtype).view(np.uint8)

    def decode(self, codes: Codes, dimension: int) -> FloatArray:
        return codes.view(self.dtype)


_CODECS: dict[str, Codec] = {
    codec.name: codec
    for codec in (
        _FloatCodec("float32", 1, np.dtype("<f4")),
        _FloatCodec("float16", 2, np.dtype("<f2")),
    )
}


def codec(name: str) -> Codec:
    """Return the codec called ``name``.

    Raises:
        InvalidInput: there is none of that name.
    """
    try:
        return _CODECS[name]
    except KeyError:
        raise InvalidInput(f"unknown codec {name!r}; the codecs are {', '.join(_CODECS)}") from None

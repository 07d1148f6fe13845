"""Token embeddings of texts, as numbers (`TokenBatch`) or as codes (`TokenCodes`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from smart_rag.errors import DimensionMismatch, InvalidInput

if TYPE_CHECKING:
    import torch

FloatArray = NDArray[np.floating[Any]]
Offsets = NDArray[np.int64]
Codes = NDArray[np.uint8]
TokenIds = NDArray[np.int32]

# Greatest vocabulary id. The term store uses greater numbers itself.
MOST_ID = (1 << 30) - 2


def _offsets(lengths: Sequence[int]) -> Offsets:
    """Return the positions (n + 1) at which the rows of n texts begin. The last one is where the last text ends."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


class _Ragged:
    """Rows of n texts, one text after the other. The rows of text ``i`` are ``offsets[i]:offsets[i + 1]``."""

    __slots__ = ()

    offsets: Offsets
    ids: TokenIds | None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> FloatArray:
        raise NotImplementedError

    def __iter__(self) -> Iterator[FloatArray]:
        return (self[i] for i in range(len(self)))

    def _with(self, rows: Any, offsets: Offsets) -> Self:
        """Return a new object of the same class with these rows."""
        raise NotImplementedError

    def _check(self, rows: int) -> None:
        """Raise `InvalidInput` unless offsets and ids fit a matrix with this number of ``rows``."""
        if not len(self.offsets) or self.offsets[0] != 0 or self.offsets[-1] != rows:
            raise InvalidInput(
                f"offsets must run from 0 to the {rows} token embeddings, "
                f"got {' to '.join(map(str, self.offsets[[0, -1]])) if len(self.offsets) else 'none'}"
            )
        empty = np.flatnonzero(np.diff(self.offsets) <= 0)
        if len(empty):
            raise InvalidInput(f"each text needs at least one token embedding; text {empty[0]} has none")
        if self.ids is not None and (self.ids.dtype != np.int32 or self.ids.shape != (rows,)):
            raise InvalidInput(
                f"ids must be int32, one for each of {rows} tokens; got {self.ids.dtype} of shape {self.ids.shape}"
            )

    def slice(self, start: int, stop: int) -> Self:
        """Return the texts ``start:stop``. They share memory with this object."""
        offsets = self.offsets[start : stop + 1]
        return self._with(slice(offsets[0], offsets[-1]), offsets - offsets[0])

    def take(self, texts: Sequence[int]) -> Self:
        """Return a copy of the texts at these positions, in this order. There must be at least one.

        Raises:
            IndexError: there is no text at a position.
        """
        rows = [np.arange(self.offsets[i], self.offsets[i + 1]) for i in map(range(len(self)).__getitem__, texts)]
        return self._with(np.concatenate(rows), _offsets(list(map(len, rows))))

    def terms(self, i: int) -> TokenIds | None:
        """Return the distinct vocabulary ids of text ``i``: sorted int32 without -1. None if there are no ids.

        Raises:
            InvalidInput: an id is greater than `MOST_ID`.
        """
        if self.ids is None:
            return None
        ids = self.ids[self.offsets[i] : self.offsets[i + 1]]
        if ids.max(initial=-1) > MOST_ID:
            raise InvalidInput(f"the vocabulary ids of text {i} must be at most {MOST_ID}, got {ids.max()}")
        return np.unique(ids[ids >= 0])


@dataclass(frozen=True, slots=True)
class TokenBatch(_Ragged):
    """Token embeddings of n texts in one matrix, without padding.

    ``batch[i]`` is the matrix (n_i, dimension) of text i, and ``len(batch)`` is the number of texts.

    Attributes:
        embeddings: (total, dimension), float32 or float16, where total is the number of tokens of all texts. Each row
            is L2-normalised. The constructor does not check this.
        offsets: (n + 1) int64, from 0 to total. The rows of text i are ``offsets[i]:offsets[i + 1]``, at least one.
        ids: (total) int32, the id of each token in the model's vocabulary. It is -1 for a token that is not a word,
            such as a patch of an image. None if the ids are unknown. Without ids, a search cannot weight tokens by
            their rarity, and it cannot find documents by equal tokens.

    Raises:
        InvalidInput: the shapes or dtypes do not fit together.
    """

    embeddings: FloatArray
    offsets: Offsets
    ids: TokenIds | None = None

    def __post_init__(self) -> None:
        if self.embeddings.ndim != 2:
            raise InvalidInput(
                f"token embeddings must be a (total, dimension) matrix; got shape {self.embeddings.shape}"
            )
        self._check(len(self.embeddings))

    @classmethod
    def from_list(cls, matrices: Sequence[FloatArray], ids: Sequence[TokenIds] | None = None) -> TokenBatch:
        """Return a batch of n texts. ``matrices`` has a matrix (n_i, dimension) for each text.

        ``ids``, if given, has n_i int32 ids for each text. Matrices and ids are copied.

        Raises:
            DimensionMismatch: the matrices have different dimensions.
            InvalidInput: a matrix has no row, or the ids do not fit.
        """
        _check_one_dimension(matrix.shape[1] for matrix in matrices)
        embeddings = np.concatenate(matrices) if matrices else np.zeros((0, 0), dtype=np.float32)
        return cls(embeddings, _offsets(list(map(len, matrices))), np.concatenate(ids) if ids else None)

    @property
    def dimension(self) -> int:
        """Number of columns of `embeddings`."""
        return int(self.embeddings.shape[1])

    def __repr__(self) -> str:
        return f"TokenBatch(texts={len(self)}, dimension={self.dimension}, tokens={len(self.embeddings)})"

    def __getitem__(self, i: int) -> FloatArray:
        """Return the (n_i, dimension) token embeddings of text ``i``, as a view."""
        i = range(len(self))[i]
        return self.embeddings[self.offsets[i] : self.offsets[i + 1]]

    def _with(self, rows: Any, offsets: Offsets) -> TokenBatch:
        return TokenBatch(self.embeddings[rows], offsets, None if self.ids is None else self.ids[rows])


class Codec(Protocol):
    """A codec turns token embeddings into bytes and back. Each token takes the same number of bytes."""

    @property
    def name(self) -> str:
        """Name of the codec. The manifest holds it, and it is part of every storage key."""
        ...

    @property
    def number(self) -> int:
        """Number of the byte layout, stored with every entry. A number is never used again for another layout."""
        ...

    @property
    def pool_factor(self) -> int:
        """Number of tokens that are pooled into one before the codec encodes the result. With 1, nothing is pooled."""
        ...

    def bytes_per_token(self, dimension: int) -> int:
        """Return the number of bytes of one token embedding."""
        ...

    def encode(self, embeddings: FloatArray | torch.Tensor) -> Codes:
        """Return the codes (n, bytes_per_token) uint8 of ``embeddings`` (n, dimension).

        A tensor is encoded on its own device. Only the codes are copied to the CPU.

        Raises:
            InvalidInput: the codec cannot store these numbers.
        """
        ...

    def decode(self, codes: Codes, dimension: int) -> FloatArray:
        """Return the embeddings (n, dimension), float32 or float16, of ``codes``."""
        ...


@dataclass(frozen=True)
class TokenCodes(_Ragged):
    """Token embeddings of n texts as codes. This is the form in which a store keeps them.

    It has the interface of a `TokenBatch`. The attribute ``embeddings`` is decoded when it is first used. Indexing the
    object with a text's number decodes this text.

    Attributes:
        codes: (total, bytes_per_token) uint8, where total is the number of tokens of all texts, after pooling.
        offsets: (n + 1) int64, from 0 to total. The rows of text i are ``offsets[i]:offsets[i + 1]``, at least one.
        dimension: number of dimensions of a decoded token embedding.
        codec: the codec that made the codes.
        ids: (total) int32 vocabulary ids, as in `TokenBatch`. Codes from a store have no ids.

    Raises:
        InvalidInput: the shapes or dtypes do not fit together.
    """

    codes: Codes
    offsets: Offsets
    dimension: int
    codec: Codec
    ids: TokenIds | None = None

    def __post_init__(self) -> None:
        width = self.codec.bytes_per_token(self.dimension)
        if self.codes.dtype != np.uint8 or self.codes.ndim != 2 or self.codes.shape[1] != width:
            raise InvalidInput(
                f"codes of {self.dimension} dimensions by {self.codec.name!r} must be a (total, {width}) uint8 matrix; "
                f"got {self.codes.dtype} of shape {self.codes.shape}"
            )
        self._check(len(self.codes))

    @classmethod
    def from_list(
        cls, matrices: Sequence[Codes], dimension: int, codec: Codec, ids: Sequence[TokenIds] | None = None
    ) -> TokenCodes:
        """Return the codes of n texts, at least one. ``matrices`` has one (n_i, bytes_per_token) per text.

        The codes are copied. ``ids``, if given, has n_i int32 ids for each text.

        Raises:
            InvalidInput: the codes or ids do not fit.
        """
        offsets = _offsets(list(map(len, matrices)))
        return cls(np.concatenate(matrices), offsets, dimension, codec, np.concatenate(ids) if ids else None)

    @cached_property
    def embeddings(self) -> FloatArray:
        """Decoded token embeddings (total, dimension), float32 or float16. They are decoded once and kept."""
        return self.codec.decode(self.codes, self.dimension)

    def __getitem__(self, i: int) -> FloatArray:
        """Return the decoded (n_i, dimension) token embeddings of text ``i``."""
        i = range(len(self))[i]
        return self.codec.decode(self.codes[self.offsets[i] : self.offsets[i + 1]], self.dimension)

    def _with(self, rows: Any, offsets: Offsets) -> TokenCodes:
        ids = None if self.ids is None else self.ids[rows]
        return TokenCodes(self.codes[rows], offsets, self.dimension, self.codec, ids)

    def __repr__(self) -> str:
        return (
            f"TokenCodes(texts={len(self)}, dimension={self.dimension}, tokens={len(self.codes)}, "
            f"codec={self.codec.name!r})"
        )

    def decode(self) -> TokenBatch:
        """Return all texts as a `TokenBatch` of decoded token embeddings."""
        return TokenBatch(self.embeddings, self.offsets, self.ids)


Tokens = TokenBatch | TokenCodes


def concatenated(parts: Sequence[Tokens]) -> Tokens:
    """Join the tokens of all ``parts`` into a copy. At least one part is needed (see `Representation.concatenate`)."""
    parts = [part for part in parts if len(part)] or parts[:1]  # a part without texts may have any dimension
    _check_one_dimension(part.dimension for part in parts)
    offsets = _offsets(np.concatenate([np.diff(part.offsets) for part in parts]).tolist())
    known = [part.ids for part in parts if part.ids is not None]
    ids = np.concatenate(known) if len(known) == len(parts) else None
    coded = [part for part in parts if isinstance(part, TokenCodes)]
    if len(coded) == len(parts) and all(part.codec == coded[0].codec for part in coded):
        codes = np.concatenate([part.codes for part in coded])
        return TokenCodes(codes, offsets, coded[0].dimension, coded[0].codec, ids)
    return TokenBatch(np.concatenate([part.embeddings for part in parts]), offsets, ids)


def _check_one_dimension(dimensions: Iterable[int]) -> None:
    found = sorted(set(dimensions))
    if len(found) > 1:
        raise DimensionMismatch(f"the token embeddings must all have one dimension, got {found}")

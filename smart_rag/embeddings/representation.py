"""What an encoder makes of texts: pooled embeddings and token embeddings, as numbers or as codes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smart_rag.errors import DimensionMismatch, InvalidInput

if TYPE_CHECKING:
    import torch

FloatArray = NDArray[np.floating[Any]]
Offsets = NDArray[np.int64]
Codes = NDArray[np.uint8]
TokenIds = NDArray[np.int32]


def _offsets(lengths: Sequence[int]) -> Offsets:
    """Return where the rows of each text begin, and at last where they end."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


class _Ragged:
    """Rows of n texts, one after the other: text ``i`` owns the rows ``offsets[i]:offsets[i + 1]``."""

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
        """Return the given rows as texts of their own."""
        raise NotImplementedError

    def _check(self, rows: int) -> None:
        """Raise `InvalidInput` unless offsets and ids fit to so many rows."""
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
                f"ids must be int32, one for each of {rows} tokens, got {self.ids.dtype} of shape {self.ids.shape}"
            )

    def slice(self, start: int, stop: int) -> Self:
        """Return the texts ``start:stop``, sharing this one's memory."""
        offsets = self.offsets[start : stop + 1]
        return self._with(slice(offsets[0], offsets[-1]), offsets - offsets[0])

    def take(self, texts: Sequence[int]) -> Self:
        """Return the texts at these positions, at least one, in this order, copied."""
        rows = [np.arange(self.offsets[i], self.offsets[i + 1]) for i in map(range(len(self)).__getitem__, texts)]
        return self._with(np.concatenate(rows), _offsets(list(map(len, rows))))

    def terms(self, i: int) -> TokenIds | None:
        """Return the distinct vocabulary ids of text ``i``, sorted; None where they are not known."""
        if self.ids is None:
            return None
        ids = self.ids[self.offsets[i] : self.offsets[i + 1]]
        return np.unique(ids[ids >= 0])


@dataclass(frozen=True, slots=True)
class TokenBatch(_Ragged):
    """Token embeddings of n texts in one contiguous matrix, without padding.

    ``embeddings`` is (total, dimension), float32 or float16, rows L2-normalised;
    text ``i`` owns the rows ``offsets[i]:offsets[i + 1]``, at least one of them. ``ids`` is
    (total) int32, each token's place in the model's vocabulary, -1 for what stands for no word; without
    it, tokens cannot be weighted by how rare they are, nor found by being the same.
    """

    embeddings: FloatArray
    offsets: Offsets
    ids: TokenIds | None = None

    def __post_init__(self) -> None:
        if self.embeddings.ndim != 2:
            raise InvalidInput(
                f"token embeddings must be a (total, dimension) matrix, got shape {self.embeddings.shape}"
            )
        self._check(len(self.embeddings))

    @classmethod
    def from_list(cls, matrices: Sequence[FloatArray], ids: Sequence[TokenIds] | None = None) -> TokenBatch:
        """Return the batch of the given (n_i, dimension) matrices, with the ids (n_i) of each, copied into one."""
        widths = sorted({matrix.shape[1] for matrix in matrices})
        if len(widths) > 1:
            raise DimensionMismatch(f"the token embeddings of one batch must be of one width, got {widths}")
        embeddings = np.concatenate(matrices) if matrices else np.zeros((0, 0), dtype=np.float32)
        return cls(embeddings, _offsets(list(map(len, matrices))), np.concatenate(ids) if ids else None)

    @property
    def dimension(self) -> int:
        return int(self.embeddings.shape[1])

    def __repr__(self) -> str:
        return f"TokenBatch(texts={len(self)}, dimension={self.dimension}, tokens={len(self.embeddings)})"

    def __getitem__(self, i: int) -> FloatArray:
        """Return the (n_i, dimension) token embeddings of text ``i``, a view."""
        i = range(len(self))[i]
        return self.embeddings[self.offsets[i] : self.offsets[i + 1]]

    def _with(self, rows: Any, offsets: Offsets) -> TokenBatch:
        return TokenBatch(self.embeddings[rows], offsets, None if self.ids is None else self.ids[rows])


class Codec(Protocol):
    """A way to write token embeddings as bytes, a fixed number of them for each token."""

    @property
    def name(self) -> str:
        """The name in the manifest and in every key."""
        ...

    @property
    def number(self) -> int:
        """The number of the layout in every record's header; never used again for another one."""
        ...

    @property
    def pool_factor(self) -> int:
        """How many tokens of a text become one before they are encoded."""
        ...

    def bytes_per_token(self, dimension: int) -> int:
        """Return the bytes that one token embedding takes."""
        ...

    def encode(self, embeddings: FloatArray | torch.Tensor) -> Codes:
        """Return the codes (n, bytes_per_token) uint8 of ``embeddings`` (n, dimension).

        A tensor is coded on its device, and the codes alone are copied from there.
        """
        ...

    def decode(self, codes: Codes, dimension: int) -> FloatArray:
        """Return the embeddings (n, dimension), float32 or float16, of ``codes``."""
        ...


@dataclass(frozen=True)
class TokenCodes(_Ragged):
    """Token embeddings of n texts as they are stored; what a `TokenBatch` has, decoded when asked for.

    ``codes`` is (total, bytes_per_token) uint8, and text ``i`` owns the rows
    ``offsets[i]:offsets[i + 1]``, at least one of them. ``ids`` are those of a `TokenBatch`; what comes from a
    store has none.
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
                f"codes of {self.dimension} dimensions by {self.codec.name!r} must be a (total, {width}) uint8 matrix, "
                f"got {self.codes.dtype} of shape {self.codes.shape}"
            )
        self._check(len(self.codes))

    @classmethod
    def from_list(
        cls, matrices: Sequence[Codes], dimension: int, codec: Codec, ids: Sequence[TokenIds] | None = None
    ) -> TokenCodes:
        """Return the given codes (n_i, bytes_per_token) of at least one text, with its ids (n_i), copied into one."""
        offsets = _offsets(list(map(len, matrices)))
        return cls(np.concatenate(matrices), offsets, dimension, codec, np.concatenate(ids) if ids else None)

    @cached_property
    def embeddings(self) -> FloatArray:
        """The (total, dimension) token embeddings."""
        return self.codec.decode(self.codes, self.dimension)

    def __getitem__(self, i: int) -> FloatArray:
        """Return the (n_i, dimension) token embeddings of text ``i``."""
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
        """Return the token embeddings themselves."""
        return TokenBatch(self.embeddings, self.offsets, self.ids)


Tokens = TokenBatch | TokenCodes


@dataclass(frozen=True, slots=True)
class Representation:
    """The SMART representation of n texts: pooled embeddings and token embeddings.

    ``pooled`` is (n, dimension) float32, L2-normalised; ``tokens`` is ragged, see `TokenBatch`, and of
    another width where an adapter makes it so;
    from a store, or from an encoder that was given a codec, they come as `TokenCodes`.
    """

    pooled: NDArray[np.float32]
    tokens: Tokens

    def __post_init__(self) -> None:
        if self.pooled.ndim != 2 or len(self.pooled) != len(self.tokens):
            raise InvalidInput(
                f"pooled embeddings must be one row for each of the {len(self.tokens)} texts, "
                f"got shape {self.pooled.shape}"
            )

    @classmethod
    def from_embeddings(
        cls,
        pooled: ArrayLike,
        tokens: Sequence[ArrayLike] | None = None,
        *,
        ids: Sequence[ArrayLike] | None = None,
    ) -> Representation:
        """Return the representation of vectors that another program computed.

        ``pooled`` is (n, dimension) and ``tokens`` n matrices of (n_i, token_dimension); both are
        copied to float32 and L2-normalised here. Without ``tokens``, a text's pooled embedding
        stands for its only token.

        ``ids`` are n sequences of n_i vocabulary ids, -1 for what is no word; `smart_rag.Vocabulary` makes them.
        Without them, tokens can neither be weighted by how rare they are nor found by being the same.

        Raises:
            InvalidInput: a vector is NaN, infinite or zero, an id is no 32-bit integer, or the shapes do not fit.
        """
        rows = np.atleast_2d(np.asarray(pooled, dtype=np.float64))
        if tokens is None:
            if ids is not None:
                raise InvalidInput("ids= are the ids of token embeddings; pass tokens= as well")
            vectors = normalised(rows, "pooled embedding")
            return cls(vectors, TokenBatch(vectors, np.arange(len(vectors) + 1)))
        matrices = [np.asarray(matrix, dtype=np.float64) for matrix in tokens]
        for i, matrix in enumerate(matrices):
            if matrix.ndim != 2 or not len(matrix) or matrix.shape[1] != matrices[0].shape[1]:
                raise InvalidInput(
                    f"the token embeddings of text {i} must be a (n_tokens, dimension) matrix with at least "
                    f"one row, as wide as the first text's; got shape {matrix.shape}"
                )
        batch = TokenBatch.from_list(matrices)
        return cls(
            normalised(rows, "pooled embedding"),
            TokenBatch(
                normalised(batch.embeddings, "token embedding"),
                batch.offsets,
                None if ids is None else _token_ids(ids, batch.offsets),
            ),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Representation]) -> Representation:
        """Return the texts of all ``parts`` as one representation, copied.

        Tokens stay codes if all parts have codes of one codec, else they are embeddings. Ids stay if all parts have
        them.
        """
        given = [part.tokens.ids for part in parts if part.tokens.ids is not None]
        ids = given if len(given) == len(parts) else None
        pooled = np.concatenate([part.pooled for part in parts])
        coded = [part.tokens for part in parts if isinstance(part.tokens, TokenCodes)]
        if len(coded) == len(parts) and len({(tokens.codec.name, tokens.dimension) for tokens in coded}) == 1:
            lengths = np.concatenate([np.diff(tokens.offsets) for tokens in coded]).tolist()
            codes = np.concatenate([tokens.codes for tokens in coded])
            joined = None if ids is None else np.concatenate(ids)
            first = coded[0]
            return cls(pooled, TokenCodes(codes, _offsets(lengths), first.dimension, first.codec, joined))
        return cls(pooled, TokenBatch.from_list([matrix for part in parts for matrix in part.tokens], ids))

    def __repr__(self) -> str:
        tokens = self.tokens.offsets[-1]
        return f"Representation(texts={len(self)}, dimension={self.pooled.shape[1]}, tokens={tokens})"

    def __len__(self) -> int:
        return len(self.pooled)

    def __iter__(self) -> Iterator[Representation]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: int) -> Representation:
        """Return text ``i`` alone, as a representation of one text that shares memory."""
        i = range(len(self))[i]
        return self.slice(i, i + 1)

    def slice(self, start: int, stop: int) -> Representation:
        """Return the texts ``start:stop`` as a representation that shares this one's memory."""
        stop = min(stop, len(self))
        return Representation(self.pooled[start:stop], self.tokens.slice(start, stop))

    def take(self, texts: Sequence[int]) -> Representation:
        """Return the texts at these positions, at least one, in this order, copied."""
        return Representation(self.pooled[list(texts)], self.tokens.take(texts))


def _token_ids(ids: Sequence[ArrayLike], offsets: Offsets) -> TokenIds:
    """Return the vocabulary ids of all tokens in one array (total) int32.

    Raises:
        InvalidInput: an id is no 32-bit integer, or a text has not one for each of its tokens.
    """
    lengths = np.diff(offsets).tolist()
    if len(ids) != len(lengths):
        raise InvalidInput(f"ids must be one sequence for each of the {len(lengths)} texts, got {len(ids)}")
    limits = np.iinfo(np.int32)
    arrays = list(map(np.asarray, ids))
    for i, (array, length) in enumerate(zip(arrays, lengths, strict=True)):
        if array.shape != (length,) or not np.issubdtype(array.dtype, np.integer):
            raise InvalidInput(
                f"ids of text {i} must be {length} whole numbers, one for each of its tokens, got {array.dtype} of "
                f"shape {array.shape}"
            )
        if array.min() < -1 or array.max() > limits.max:
            raise InvalidInput(
                f"ids of text {i} must be from -1 (no word) to {limits.max}, got {array.min()} to {array.max()}"
            )
    return np.concatenate(arrays).astype(np.int32) if arrays else np.empty(0, dtype=np.int32)


def normalised(rows: FloatArray, what: str) -> NDArray[np.float32]:
    """Return ``rows`` (n, dimension) divided by their L2 norms.

    Raises:
        InvalidInput: a row is NaN, infinite or zero; the message names ``what`` and the row.
    """
    rows = rows.astype(np.float64)  # the squares of a float32 may leave its range
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(norms[:, 0]) | (norms[:, 0] == 0))
    if len(bad):
        raise InvalidInput(
            f"{what} {bad[0]} has norm {norms[bad[0], 0]}: every vector must be finite and not zero "
            f"({len(bad)} of {len(rows)} are not)"
        )
    return np.asarray(rows / norms, dtype=np.float32)

"""Representations of texts: pooled embeddings and token embeddings, as numbers or as codes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
    """Return the positions (n + 1) at which the rows of each of n texts begin, and the end of the last text."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


class _Ragged:
    """Rows of n texts, one after the other: the rows of text ``i`` are ``offsets[i]:offsets[i + 1]``."""

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
        """Return the distinct vocabulary ids of text ``i``, sorted int32 without -1, or None if there are no ids."""
        if self.ids is None:
            return None
        ids = self.ids[self.offsets[i] : self.offsets[i + 1]]
        return np.unique(ids[ids >= 0])


@dataclass(frozen=True, slots=True)
class TokenBatch(_Ragged):
    """Token embeddings of n texts in one matrix, without padding.

    ``batch[i]`` is the matrix (n_i, dimension) of text i, and ``len(batch)`` the number of texts.

    Attributes:
        embeddings: (total, dimension), float32 or float16, where total is the number of tokens of all texts. Each row
            is L2-normalised; the constructor does not check that.
        offsets: (n + 1) int64, from 0 to total. The rows of text i are ``offsets[i]:offsets[i + 1]``, at least one.
        ids: (total) int32, the id of each token in the model's vocabulary, or -1 for a token that is no word, such as a
            patch of an image. None if the ids are unknown. A search then cannot weight tokens by their rarity, and it
            cannot find documents by equal tokens.

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
        """Return a batch of n texts, copied from one (n_i, dimension) matrix and, if given, (n_i) int32 ids for each.

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
    """Codec: token embeddings to bytes and back. Each token takes the same number of bytes."""

    @property
    def name(self) -> str:
        """Name in the manifest and in every storage key."""
        ...

    @property
    def number(self) -> int:
        """Number of the byte layout, stored with every entry. A number is never used again for another layout."""
        ...

    @property
    def pool_factor(self) -> int:
        """Number of tokens that are pooled into one before they are encoded; 1 pools nothing."""
        ...

    def bytes_per_token(self, dimension: int) -> int:
        """Return the number of bytes of one token embedding."""
        ...

    def encode(self, embeddings: FloatArray | torch.Tensor) -> Codes:
        """Return the codes (n, bytes_per_token) uint8 of ``embeddings`` (n, dimension).

        A tensor is encoded on its own device; only the codes are copied to the CPU.

        Raises:
            InvalidInput: the codec cannot store these numbers.
        """
        ...

    def decode(self, codes: Codes, dimension: int) -> FloatArray:
        """Return the embeddings (n, dimension), float32 or float16, of ``codes``."""
        ...


@dataclass(frozen=True)
class TokenCodes(_Ragged):
    """Token embeddings of n texts as codes, the form in which a store keeps them.

    It has the interface of a `TokenBatch`: ``embeddings`` and ``codes[i]`` decode when they are asked for.

    Attributes:
        codes: (total, bytes_per_token) uint8, where total is the number of tokens of all texts, after pooling.
        offsets: (n + 1) int64, from 0 to total. The rows of text i are ``offsets[i]:offsets[i + 1]``, at least one.
        dimension: number of dimensions of a decoded token embedding.
        codec: the codec that made the codes.
        ids: (total) int32 vocabulary ids, as in `TokenBatch`. Codes from a store have none.

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
        """Return the codes of n texts, copied from one (n_i, bytes_per_token) uint8 matrix for each. n is at least 1.

        ``ids`` are (n_i) int32 for each text.

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


@dataclass(frozen=True, slots=True)
class Representation:
    """SMART representation of n texts: one pooled embedding and one or more token embeddings for each text.

    ``len(representation)`` is n. ``representation[i]`` is the representation of text i alone.

    Attributes:
        pooled: (n, dimension) float32. Each row is L2-normalised; the constructor does not check that.
        tokens: the token embeddings of the n texts. A `TokenBatch` holds numbers. A `TokenCodes` holds codes; it comes
            from a store, or from an encoder that was given a codec. The tokens may have another dimension than
            ``pooled``, for example with an adapter.
        norms: (n) float32, the norms of the pooled embeddings before they were normalised; None if they are unknown.
            ``pooled * norms[:, None]`` is what the model itself gives. Not every model normalises.

    Raises:
        InvalidInput: ``pooled`` is not a matrix with one row for each text, or ``norms`` has another length.
    """

    pooled: NDArray[np.float32]
    tokens: Tokens
    norms: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.norms is not None and self.norms.shape != (len(self.pooled),):
            raise InvalidInput(f"expected a norm for each of {len(self.pooled)} texts, got shape {self.norms.shape}")
        if self.pooled.ndim != 2 or len(self.pooled) != len(self.tokens):
            raise InvalidInput(
                f"pooled embeddings must be a matrix with one row for each of the {len(self.tokens)} texts; "
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

        All vectors are copied to float32 and L2-normalised here.

        Args:
            pooled: (n, dimension) numbers; for one text, (dimension) will do.
            tokens: n matrices (n_i, token_dimension) of numbers, each with at least one row. By default, the only
                token embedding of a text is its pooled embedding.
            ids: n sequences of n_i vocabulary ids, -1 for a token that is no word. `smart_rag.Vocabulary` makes them.
                Without ids, a search can neither weight tokens by their rarity nor find documents by equal tokens.

        Raises:
            InvalidInput: a vector is zero or contains NaN or inf, an id is not a 32-bit integer, or the shapes do not
                fit together.
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
                    f"the token embeddings of text {i} must be a (n_tokens, dimension) matrix, with at least one row "
                    f"and the dimension of the first text's; got shape {matrix.shape}"
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
        """Return a copy of the texts of all ``parts``, in one representation. There must be at least one part.

        If the tokens of all parts are `TokenCodes` of one codec, the result has `TokenCodes`. Otherwise, the tokens
        are decoded to a `TokenBatch`. The result has ids if all parts have ids, and norms if all parts have norms.

        Raises:
            DimensionMismatch: the token embeddings of the parts have different dimensions.
        """
        norms = [part.norms for part in parts if part.norms is not None]
        return cls(
            np.concatenate([part.pooled for part in parts]),
            _concatenated([part.tokens for part in parts]),
            np.concatenate(norms) if len(norms) == len(parts) else None,
        )

    def __repr__(self) -> str:
        tokens = self.tokens.offsets[-1]
        return f"Representation(texts={len(self)}, dimension={self.pooled.shape[1]}, tokens={tokens})"

    def __len__(self) -> int:
        return len(self.pooled)

    def __iter__(self) -> Iterator[Representation]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: int) -> Representation:
        """Return the representation of text ``i`` alone. It shares memory with this one."""
        i = range(len(self))[i]
        return self.slice(i, i + 1)

    def slice(self, start: int, stop: int) -> Representation:
        """Return the texts ``start:stop``. They share memory with this representation."""
        stop = min(stop, len(self))
        norms = None if self.norms is None else self.norms[start:stop]
        return Representation(self.pooled[start:stop], self.tokens.slice(start, stop), norms)

    def take(self, texts: Sequence[int]) -> Representation:
        """Return a copy of the texts at these positions, in this order. There must be at least one.

        Raises:
            IndexError: there is no text at a position.
        """
        norms = None if self.norms is None else self.norms[list(texts)]
        return Representation(self.pooled[list(texts)], self.tokens.take(texts), norms)


def _concatenated(parts: Sequence[Tokens]) -> Tokens:
    parts = [part for part in parts if len(part)] or parts[:1]  # no texts may have any dimension
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


def _token_ids(ids: Sequence[ArrayLike], offsets: Offsets) -> TokenIds:
    """Return the vocabulary ids of all tokens in one array (total) int32.

    Raises:
        InvalidInput: an id is not a 32-bit integer, or a text does not have one id for each token.
    """
    lengths = np.diff(offsets).tolist()
    if len(ids) != len(lengths):
        raise InvalidInput(f"ids must be one sequence for each of the {len(lengths)} texts, got {len(ids)}")
    limits = np.iinfo(np.int32)
    arrays = list(map(np.asarray, ids))
    for i, (array, length) in enumerate(zip(arrays, lengths, strict=True)):
        if array.shape != (length,) or not np.issubdtype(array.dtype, np.integer):
            raise InvalidInput(
                f"ids of text {i} must be {length} integers, one for each of its tokens; got {array.dtype} of shape "
                f"{array.shape}"
            )
        if array.min() < -1 or array.max() > limits.max:
            raise InvalidInput(
                f"ids of text {i} must be from -1 (no word) to {limits.max}; got {array.min()} to {array.max()}"
            )
    return np.concatenate(arrays).astype(np.int32) if arrays else np.empty(0, dtype=np.int32)


def normalised(rows: FloatArray, what: str) -> NDArray[np.float32]:
    """Return ``rows`` (n, dimension) divided by their L2 norms, float32.

    Raises:
        InvalidInput: a row is zero or contains NaN or inf; the message names the kind of vector, ``what``, and the row.
    """
    rows = rows.astype(np.float64)  # the squares of a float32 may leave its range
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(norms[:, 0]) | (norms[:, 0] == 0))
    if len(bad):
        raise InvalidInput(
            f"{what} {bad[0]} has norm {norms[bad[0], 0]}: every vector must be finite and not zero; "
            f"{len(bad)} of {len(rows)} are not"
        )
    return np.asarray(rows / norms, dtype=np.float32)

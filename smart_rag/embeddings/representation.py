"""Representations of texts: pooled embeddings and token embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smart_rag.embeddings.tokens import MOST_ID, FloatArray, Offsets, TokenBatch, TokenIds, Tokens, concatenated
from smart_rag.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Representation:
    """The vectors of n texts: each text has one pooled embedding and one or more token embeddings.

    ``len(representation)`` is n. ``representation[i]`` is the representation of text i alone.

    Attributes:
        pooled: (n, dimension) float32. Each row is L2-normalised. The constructor does not check this.
        tokens: the token embeddings of the n texts. A `TokenBatch` holds numbers. A `TokenCodes` holds codes, and
            comes from a store or from an encoder that was given a codec. The dimension of the tokens may differ from
            that of ``pooled``, for example with an adapter.
        norms: (n) float32, the norms of the pooled embeddings before they were normalised. None if they are unknown.
            Not every model normalises its embeddings. ``pooled * norms[:, None]`` gives the model's embeddings before
            they were normalised.

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
            pooled: (n, dimension) numbers. For a single text, (dimension) numbers also work. Tensors may have any
                floating dtype. They may have gradients, and may be on a GPU.
            tokens: n matrices (n_i, token_dimension) of numbers, each with at least one row. By default, the only
                token embedding of a text is its pooled embedding.
            ids: n sequences of n_i vocabulary ids. A token that is not a word has the id -1. `smart_rag.Vocabulary`
                makes these ids. Without ids, a search can neither weight tokens by their rarity nor find documents by
                equal tokens.

        Raises:
            InvalidInput: a vector is zero or contains NaN or inf, an id is not an integer from -1 to `MOST_ID`, or the
                shapes do not fit together.
        """
        rows = np.atleast_2d(_array(pooled, "pooled"))
        if tokens is None:
            if ids is not None:
                raise InvalidInput("ids= are the ids of token embeddings; pass tokens= as well")
            vectors = normalised(rows, "pooled embedding")
            return cls(vectors, TokenBatch(vectors, np.arange(len(vectors) + 1)))
        matrices = [_array(matrix, f"the token embeddings of text {i}") for i, matrix in enumerate(tokens)]
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
        """Join ``parts`` into one new representation, which shares no memory with them. At least one part is needed.

        If the tokens of all parts are `TokenCodes` of one codec, the result has `TokenCodes`. Otherwise, the tokens
        are decoded to a `TokenBatch`. The result has ids if all parts have ids, and norms if all parts have norms.

        Raises:
            DimensionMismatch: the token embeddings of the parts have different dimensions.
        """
        norms = [part.norms for part in parts if part.norms is not None]
        return cls(
            np.concatenate([part.pooled for part in parts]),
            concatenated([part.tokens for part in parts]),
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
        """Return the representation of text ``i`` alone. It shares memory with this representation."""
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


def _array(values: Any, name: str) -> NDArray[np.float64]:
    """Return the argument as an array. It may be numbers, a tensor, or a sequence of numbers or tensors.

    Raises:
        InvalidInput: they are not an array of numbers.
    """
    try:
        if isinstance(values, list | tuple) and any(hasattr(row, "detach") for row in values):
            values = [_without_gradient(row) for row in values]
        return np.asarray(_without_gradient(values), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name} must be an array of numbers, with rows of equal length: {error}") from error


def _without_gradient(values: Any) -> Any:
    """Return a tensor as an array. numpy has no bfloat16, and refuses tensors with gradients or on a GPU."""
    return values.detach().cpu().double().numpy() if hasattr(values, "detach") else values


def _token_ids(ids: Sequence[ArrayLike], offsets: Offsets) -> TokenIds:
    """Return the vocabulary ids of all tokens as one int32 array (total).

    Raises:
        InvalidInput: an id is not an integer from -1 to `MOST_ID`, or a text does not have one id for each token.
    """
    lengths = np.diff(offsets).tolist()
    if len(ids) != len(lengths):
        raise InvalidInput(f"ids must be one sequence for each of the {len(lengths)} texts, got {len(ids)}")
    arrays = [np.asarray(row.detach().cpu() if hasattr(row, "detach") else row) for row in ids]
    for i, (array, length) in enumerate(zip(arrays, lengths, strict=True)):
        if array.shape != (length,) or not np.issubdtype(array.dtype, np.integer):
            raise InvalidInput(
                f"ids of text {i} must be {length} integers, one for each of its tokens; got {array.dtype} of shape "
                f"{array.shape}"
            )
        if array.min() < -1 or array.max() > MOST_ID:
            raise InvalidInput(
                f"ids of text {i} must be from -1 (no word) to {MOST_ID}; got {array.min()} to {array.max()}"
            )
    return np.concatenate(arrays).astype(np.int32) if arrays else np.empty(0, dtype=np.int32)


def normalised(rows: FloatArray, what: str) -> NDArray[np.float32]:
    """Return ``rows`` (n, dimension) divided by their L2 norms, float32.

    Raises:
        InvalidInput: a row is zero or contains NaN or inf. The message names the row and the kind of vector
            (``what``).
    """
    rows = rows.astype(np.float64)  # the square of a float32 may be too large or too small for float32
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(norms[:, 0]) | (norms[:, 0] == 0))
    if len(bad):
        raise InvalidInput(
            f"{what} {bad[0]} has norm {norms[bad[0], 0]}: every vector must be finite and not zero; "
            f"{len(bad)} of {len(rows)} are not"
        )
    return np.asarray(rows / norms, dtype=np.float32)

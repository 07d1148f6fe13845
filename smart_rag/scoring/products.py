"""Ways to compare query tokens with a block of document tokens on a CPU: as codes, or as float32 numbers."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from smart_rag.embeddings.codec import RotatedCodec
from smart_rag.embeddings.multiply import multiply
from smart_rag.embeddings.tokens import FloatArray, Offsets, TokenCodes, Tokens
from smart_rag.scoring import planes
from smart_rag.scoring.planes import Planes, planes_of, rotated_queries

if TYPE_CHECKING:
    from smart_rag.scoring.kernels import Queries

logger = logging.getLogger(__name__)

# Maximum number of bytes of a block of document tokens and its similarities. Such a block stays in the cache until the
# next step reads it. With blocks of half the size, long documents take a tenth more time.
_BLOCK_BYTES = 1 << 23
# Number of products of two numbers in a block of codes. One core needs milliseconds for them.
_BLOCK_PRODUCTS = 1 << 29
# To load Numba and the compiled loop takes about a second. NumPy computes this number of products in the same time. A
# program that searches once or twice never loads Numba.
_WORTH_COMPILING = 1 << 30


@dataclass(slots=True)
class _Spent:
    """The number of products of two numbers that this process has computed by NumPy instead of Numba."""

    products: int = 0


_spent = _Spent()


class TokenProduct(Protocol):
    """A way to compute similarities: prepare the query tokens, prepare a block of documents, and compare them."""

    @property
    def uses_one_core(self) -> bool:
        """Whether `best` uses one core, so that several blocks can be compared at once."""
        ...

    def block_tokens(self, dimension: int, query_tokens: int) -> int:
        """Return how many document tokens a block should have. At most ``query_tokens`` are compared at once."""
        ...

    def queries(self, embeddings: FloatArray) -> Any: ...

    def documents(self, block: Any) -> Any: ...

    def best(self, queries: Any, documents: Any, offsets: Offsets) -> NDArray[np.float32]:
        """Return the highest cosine of each query token with the tokens of each document: (query tokens, n)."""
        ...


def product_for(documents: Tokens, device: str, query_tokens: int) -> TokenProduct:
    """Return the fastest exact way to compare ``query_tokens`` with ``documents`` on ``device``."""
    codec = documents.codec if isinstance(documents, TokenCodes) else None
    rotated = codec if isinstance(codec, RotatedCodec) else None
    if device != "cpu":
        from smart_rag.scoring.device_products import DeviceProduct

        return DeviceProduct(rotated, device)
    if rotated is None:
        return FloatProduct()
    products = query_tokens * int(documents.offsets[-1]) * documents.dimension
    is_much = "smart_rag.scoring.kernels" in sys.modules or _spent.products + products > _WORTH_COMPILING
    return CodeProduct(rotated, fastest_kind()) if is_much and numba_is_usable() else PlainProduct(rotated)


@dataclass(frozen=True, slots=True)
class FloatProduct:
    """Multiplies tokens as float32, on all cores."""

    uses_one_core = False

    def block_tokens(self, dimension: int, query_tokens: int) -> int:
        return _BLOCK_BYTES // (4 * (dimension + query_tokens))

    def queries(self, embeddings: FloatArray) -> FloatArray:
        return embeddings

    def documents(self, block: Tokens) -> FloatArray:
        return block.embeddings

    def best(self, queries: FloatArray, documents: FloatArray, offsets: Offsets) -> NDArray[np.float32]:
        found: NDArray[np.float32] = np.maximum.reduceat(multiply(queries, documents.T), offsets[:-1], axis=1)
        return found


@dataclass(frozen=True, slots=True)
class PlainProduct:
    """Multiplies rotated codes as integers, by NumPy. The scores equal those of `CodeProduct`, to the last bit."""

    codec: RotatedCodec
    uses_one_core = False

    def block_tokens(self, dimension: int, query_tokens: int) -> int:
        return _BLOCK_BYTES // (4 * (dimension + 8 * query_tokens))

    def queries(self, embeddings: FloatArray) -> Planes:
        return planes_of(rotated_queries(embeddings))

    def documents(self, block: TokenCodes) -> TokenCodes:
        return block

    def best(self, queries: Planes, documents: TokenCodes, offsets: Offsets) -> NDArray[np.float32]:
        _spent.products += len(queries.scale) * len(documents.codes) * documents.dimension
        return planes.best(queries, documents.codes, offsets, self.codec, documents.dimension)


@dataclass(frozen=True, slots=True)
class CodeProduct:
    """Multiplies rotated codes as integers, without decoding them, in a loop that Numba compiles.

    All tokens are multiplied with the upper plane of the query (see `planes`). Only tokens that can be the best one are
    multiplied with the lower plane, too.
    """

    codec: RotatedCodec
    kind: int  # one of `instructions.KINDS`
    uses_one_core = True

    def block_tokens(self, dimension: int, query_tokens: int) -> int:
        return _BLOCK_PRODUCTS // (dimension * max(query_tokens, 4))

    def queries(self, embeddings: FloatArray) -> Queries:
        from smart_rag.scoring import kernels

        return kernels.queries(np.asarray(embeddings, dtype=np.float32), self.codec.bits, self.kind)

    def documents(self, block: TokenCodes) -> TokenCodes:
        return block

    def best(self, queries: Queries, documents: TokenCodes, offsets: Offsets) -> NDArray[np.float32]:
        from smart_rag.scoring import kernels

        found = kernels.best(queries, documents.codes, offsets, self.codec.bits, documents.dimension, self.kind)
        return found.T


@lru_cache(maxsize=1)
def fastest_kind() -> int:
    """Return the fastest of `instructions.KINDS` that this CPU can run.

    This follows from the CPU's instructions. No time is measured, and all kinds give the same scores.
    """
    from smart_rag.scoring import instructions

    return instructions.available()[-1]


@lru_cache(maxsize=1)
def numba_is_usable() -> bool:
    """Return whether Numba (the extra `fast`) is installed and compiles, which the user's settings can forbid."""
    if importlib.util.find_spec("numba") is None:
        reason = "Numba is not installed (`pip install 'smart-rag[fast]'`)"
    elif os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        reason = "NUMBA_DISABLE_JIT is set"
    else:
        return True
    logger.info("%s; codes are scored by NumPy, which takes several times as long", reason)
    return False

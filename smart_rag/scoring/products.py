"""Three ways to multiply query tokens with a block of document tokens: as floats, as levels, or as integers."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from smart_rag.embeddings.codec import RotatedCodec, rotate
from smart_rag.embeddings.tokens import FloatArray, Offsets, TokenCodes, Tokens

logger = logging.getLogger(__name__)

# Function that multiplies two int8 matrices (n, k) and (k, m) to an int32 matrix (n, m).
Multiply: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class TokenProduct(Protocol):
    """A way to compute similarities: prepare the query tokens, prepare a block of documents, and multiply them."""

    number_bytes: ClassVar[int]
    similarity_bytes: ClassVar[int]

    def queries(self, embeddings: FloatArray) -> Any: ...

    def documents(self, block: Any) -> Any: ...

    def best(self, queries: Any, documents: Any, offsets: Offsets) -> NDArray[np.float32]:
        """Return the highest cosine of each query token with the tokens of each document: (query tokens, n)."""
        ...


def product_for(documents: Tokens, device: str) -> TokenProduct:
    """Return the fastest exact way to multiply query tokens with ``documents`` on ``device``."""
    codec = documents.codec if isinstance(documents, TokenCodes) else None
    if not isinstance(codec, RotatedCodec):
        return FloatProduct(device)
    # If a matrix has a width of 1, torch 2.13 multiplies integers from the wrong memory.
    multiply = integer_product()
    if torch.device(device).type == "cpu" and documents.dimension > 1 and multiply is not None and integers_are_fast():
        return IntegerProduct(codec, multiply)
    return LevelProduct(codec, device)


@dataclass(frozen=True, slots=True)
class FloatProduct:
    """Multiplies tokens as float32."""

    number_bytes: ClassVar[int] = 4
    similarity_bytes: ClassVar[int] = 4
    device: str

    def queries(self, embeddings: FloatArray) -> torch.Tensor:
        return on_device(embeddings, self.device).float()

    def documents(self, block: Tokens) -> torch.Tensor:
        return on_device(block.embeddings, self.device).float()

    def best(self, queries: torch.Tensor, documents: torch.Tensor, offsets: Offsets) -> NDArray[np.float32]:
        return segment_max(queries @ documents.T, offsets)


@dataclass(frozen=True, slots=True)
class LevelProduct:
    """Multiplies rotated codes as normalised float32 levels. The query is rotated instead of the documents."""

    number_bytes: ClassVar[int] = 4
    similarity_bytes: ClassVar[int] = 4
    codec: RotatedCodec
    device: str

    def queries(self, embeddings: FloatArray) -> torch.Tensor:
        return rotate(on_device(embeddings, self.device))

    def documents(self, block: TokenCodes) -> torch.Tensor:
        levels = (
            _unpacked(on_device(block.codes, self.device), self.codec.bits, block.dimension).float() - self.codec.zero
        )
        return torch.nn.functional.normalize(levels, dim=1)

    def best(self, queries: torch.Tensor, documents: torch.Tensor, offsets: Offsets) -> NDArray[np.float32]:
        return segment_max(queries @ documents.T, offsets)


@dataclass(frozen=True, slots=True)
class IntegerProduct:
    """Multiplies rotated codes as integers, without decoding them. The query is split into two planes of int8.

    A query is q = scale * (high + low / 254). The document token has the codes c. The code of the value 0 is z, and n
    is the norm of the levels c - z. Then the cosine is (q c - z sum(q)) / n. ``multiply`` returns the exact product of
    two int8 matrices as int32.
    """

    number_bytes: ClassVar[int] = 1
    similarity_bytes: ClassVar[int] = 8  # an int32 for each plane
    codec: RotatedCodec
    multiply: Multiply

    def queries(self, embeddings: FloatArray) -> tuple[torch.Tensor, NDArray[np.float32], NDArray[np.float32]]:
        from smart_rag.scoring.kernels import query_planes

        count, dimension = embeddings.shape
        width = self.codec.bytes_per_token(dimension) * (8 // self.codec.bits)
        planes = np.zeros((2 * count, width), dtype=np.int8)
        scale, bias = np.empty((2, count), dtype=np.float32)
        zero = self.codec.zero - 128 if self.codec.bits == 8 else self.codec.zero
        query_planes(rotate(on_device(embeddings, "cpu")).numpy(), zero, planes, scale, bias)
        return torch.from_numpy(planes), scale, bias

    def documents(self, block: TokenCodes) -> tuple[torch.Tensor, NDArray[np.float32]]:
        from smart_rag.scoring.kernels import unpack

        codes, norms = unpack(np.ascontiguousarray(block.codes), self.codec.bits, block.dimension)
        if self.codec.bits == 8:
            codes ^= 0x80  # turns 0 to 255 into -128 to 127
        return torch.from_numpy(codes.view(np.int8)), norms

    def best(
        self,
        queries: tuple[torch.Tensor, NDArray[np.float32], NDArray[np.float32]],
        documents: tuple[torch.Tensor, NDArray[np.float32]],
        offsets: Offsets,
    ) -> NDArray[np.float32]:
        from smart_rag.scoring.kernels import best_of_planes

        planes, scale, bias = queries
        codes, norms = documents
        best = np.empty((len(offsets) - 1, len(scale)), dtype=np.float32)
        # oneDNN's prepacked product (qlinear_pointwise) is not faster on busy cores. It is compiled again for each
        # number of tokens, which takes milliseconds, and blocks rarely have the same number of tokens.
        best_of_planes(self.multiply(codes, planes.T).numpy(), scale, bias, norms, offsets, best)
        return np.asarray(best.T, dtype=np.float32)


def _unpacked(codes: torch.Tensor, bits: int, dimension: int) -> torch.Tensor:
    """Return packed codes (n, bytes) as one uint8 for each dimension, (n, dimension)."""
    if bits == 8:
        return codes
    width = codes.shape[1]
    wide = torch.empty((len(codes), dimension), dtype=torch.uint8, device=codes.device)
    for plane, start in enumerate(range(0, dimension, width)):
        part = wide[:, start : start + width]
        part.copy_((codes[:, : part.shape[1]] >> (plane * bits)) & (2**bits - 1))
    return wide


@lru_cache(maxsize=1)
def integers_are_fast() -> bool:
    """Return whether this CPU has instructions for products of int8 (VNNI) and torch's products are exact.

    This function checks the instructions of the CPU. It does not measure time, so equal machines give equal scores.
    """
    multiply = integer_product()
    if multiply is None or not has_vnni():
        return False
    if importlib.util.find_spec("numba") is None:  # a machine with few packages, such as a GPU's container
        logger.info("Numba is not installed; codes are scored in float32")
        return False
    return is_exact(multiply)


def is_exact(multiply: Multiply) -> bool:
    """Return whether ``multiply`` computes exact products of int8 matrices on this CPU.

    Without VNNI, oneDNN adds pairs of products in 16 bits. The sum of two large products does not fit into 16 bits. If
    ``ONEDNN_MAX_CPU_ISA`` forbids VNNI, the same happens on a CPU with VNNI.
    """
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-128, 128, (1024, 257), dtype=torch.int8, generator=generator)
    planes = torch.randint(-127, 128, (24, 257), dtype=torch.int8, generator=generator)
    codes[:2] = torch.tensor([[-128], [127]])
    planes[:2] = torch.tensor([[-127], [127]])
    try:
        return torch.equal(multiply(codes, planes.T), (codes.long() @ planes.T.long()).int())
    except RuntimeError as error:
        logger.info("this torch does not multiply integers (%s); codes are scored in float32", error)
        return False


def integer_product() -> Multiply | None:
    """Return torch's undocumented function for products of int8 matrices, or None if this torch lacks it.

    `integer_product` and `has_vnni` are the only places that use undocumented names of torch.
    """
    multiply: Multiply | None = getattr(torch, "_int_mm", None)
    return multiply


def has_vnni() -> bool:
    """Return whether this CPU has VNNI (instructions for products of int8), as torch reports it."""
    return bool(getattr(torch.cpu, "_is_vnni_supported", bool)())


def segment_max(similarities: torch.Tensor, offsets: Offsets) -> NDArray[np.float32]:
    """Return the maximum of each row of (q, total) within each segment: (q, n)."""
    if similarities.device.type == "cpu":
        # On a CPU, this is eight times as fast as torch.segment_reduce.
        best: NDArray[np.float32] = np.maximum.reduceat(similarities.numpy(), offsets[:-1], axis=1)
        return best
    lengths = torch.from_numpy(np.diff(offsets)).to(similarities.device)
    reduced = torch.segment_reduce(similarities.T.contiguous(), "max", lengths=lengths, axis=0, unsafe=True)
    return np.asarray(reduced.T.cpu().numpy(), dtype=np.float32)


def on_device(array: NDArray[Any], device: str) -> torch.Tensor:
    """Return ``array`` as a tensor on ``device``."""
    if not (array.flags.c_contiguous and array.flags.writeable):  # torch accepts only such arrays
        array = array.copy()
    return torch.from_numpy(array).to(device)

"""Codecs turn token embeddings into bytes and back.

`FloatCodec` stores the numbers as they are. `RotatedCodec` multiplies an embedding by a fixed rotation and rounds each
coordinate to 8, 4, 2 or 1 bits. After the rotation, the coordinates of any token embedding are close to normally
distributed, so one set of levels fits all models. A codec learns nothing from data, so new documents never change the
codes of old ones. ``docs/format.md`` describes the bytes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from smart_rag.embeddings.multiply import multiply, tensor
from smart_rag.embeddings.tokens import Codec, Codes, FloatArray
from smart_rag.errors import InvalidInput

if TYPE_CHECKING:
    import torch

# Presets: names that say the purpose of a codec.
PRESETS = {"exact": "float16", "balanced": "2bit", "compact": "2bit/2"}


@dataclass(frozen=True, slots=True)
class FloatCodec:
    """Codec that stores little-endian floating-point numbers, one after the other."""

    name: str
    number: int
    dtype: np.dtype[Any]
    pool_factor: int = 1

    def bytes_per_token(self, dimension: int) -> int:
        return self.dtype.itemsize * dimension

    def encode(self, embeddings: FloatArray | torch.Tensor) -> Codes:
        if not isinstance(embeddings, np.ndarray):
            import torch

            embeddings = embeddings.detach().to(getattr(torch, self.dtype.name)).cpu().numpy()
        return np.ascontiguousarray(embeddings, dtype=self.dtype).view(np.uint8)

    def decode(self, codes: Codes, dimension: int) -> FloatArray:
        return codes.view(self.dtype)


# Distance between levels for each number of bits. It gives the least squared error for a standard normal distribution
# (Max, 1960, "Quantizing for minimum distortion"). All steps are equal, so that a similarity is a product of integers.
# With 2 bits, this costs 1 % more error than levels at free distances.
_STEPS = {8: 0.0308, 4: 0.3352, 2: 0.9957, 1: 1.5958}


@dataclass(frozen=True, slots=True)
class RotatedCodec:
    """Codec for L2-normalised vectors: rotate, then round each coordinate to ``bits``. Decoded vectors have norm 1.

    A code c stands for the value (c - `zero`) * step. A step is the distance between two neighbouring levels.

    The code of dimension i is in byte i % width, at bit (i // width) * ``bits``. The width is the number of bytes of a
    token. With this order, one shift and one mask decode many neighbouring dimensions.
    """

    name: str
    number: int
    bits: int
    pool_factor: int = 1

    @property
    def zero(self) -> float:
        """Place of the value 0 on the scale of codes. It is halfway between two codes."""
        return float(2 ** (self.bits - 1)) - 0.5

    def bytes_per_token(self, dimension: int) -> int:
        return -(-dimension * self.bits // 8)

    def encode(self, embeddings: FloatArray | torch.Tensor) -> Codes:
        count, dimension = embeddings.shape
        width = self.bytes_per_token(dimension)
        if not count * dimension:
            return np.zeros((count, width), dtype=np.uint8)
        finite = np.isfinite(embeddings) if isinstance(embeddings, np.ndarray) else embeddings.isfinite()
        if not finite.all():
            raise InvalidInput(
                f"the token embeddings contain NaN or inf, which codec {self.name!r} cannot store; check the "
                "model that computed them"
            )
        # The operators are the same for arrays and tensors.
        levels: Any = rotate(embeddings)
        levels *= dimension**0.5 / _STEPS[self.bits]
        levels += self.zero + 0.5
        levels = levels.clip(0, 2**self.bits - 1)
        wide = levels.astype(np.uint8) if isinstance(levels, np.ndarray) else levels.byte()
        codes = wide[:, :width]
        for plane, start in enumerate(range(width, dimension, width), 1):
            part = wide[:, start : start + width]
            codes[:, : part.shape[1]] += part << (plane * self.bits)
        return np.ascontiguousarray(codes if isinstance(codes, np.ndarray) else codes.cpu().numpy())

    def unpack(self, codes: Codes, dimension: int) -> NDArray[np.float32]:
        """Return the code of each dimension, from 0 to 2 ** bits - 1: (n, dimension) float32."""
        width = codes.shape[1]
        mask = np.uint8(2**self.bits - 1)
        unpacked = np.empty((len(codes), dimension), dtype=np.float32)
        for plane, start in enumerate(range(0, dimension, width)):
            part = unpacked[:, start : start + width]
            part[:] = (codes[:, : part.shape[1]] >> np.uint8(plane * self.bits)) & mask
        return unpacked

    def levels(self, codes: Codes, dimension: int) -> NDArray[np.float32]:
        """Return the rotated vectors (n, dimension) of ``codes``: float32, with norm 1."""
        levels = self.unpack(codes, dimension)
        levels -= np.float32(self.zero)
        levels /= np.linalg.norm(levels, axis=1, keepdims=True)
        return levels

    def decode(self, codes: Codes, dimension: int) -> FloatArray:
        if not codes.size:
            return np.zeros((len(codes), dimension), dtype=np.float32)
        return self.levels(codes, dimension) @ rotation(dimension)


@overload
def rotate(embeddings: FloatArray) -> NDArray[np.float32]: ...
@overload
def rotate(embeddings: torch.Tensor) -> torch.Tensor: ...
def rotate(embeddings: FloatArray | torch.Tensor) -> NDArray[np.float32] | torch.Tensor:
    """Return ``embeddings`` (n, dimension), rotated as in `RotatedCodec`: float32.

    An array gives an array, and torch is not loaded. A tensor gives a tensor on the same device.
    """
    if isinstance(embeddings, np.ndarray):
        return multiply(np.asarray(embeddings, dtype=np.float32), turned(embeddings.shape[1]))
    import torch

    with torch.autocast(embeddings.device.type, enabled=False):  # in 16 bits, the codes would differ
        return embeddings.float() @ _rotation_on(embeddings.shape[1], embeddings.device).T


@lru_cache(maxsize=8)
def _rotation_on(dimension: int, device: torch.device) -> torch.Tensor:
    import torch

    with torch.inference_mode(False):  # the cached tensor may be used with gradients later
        return tensor(rotation(dimension)).to(device)


@lru_cache(maxsize=8)
def turned(dimension: int) -> NDArray[np.float32]:
    """Return the transpose of `rotation`. It is writeable, because torch copies arrays that are not."""
    return rotation(dimension).T.copy()


_ROUNDS = 4
# Number of rows that are transformed together. So few rows stay in the CPU's cache.
_ROWS = 64


@lru_cache(maxsize=8)
def rotation(dimension: int) -> NDArray[np.float32]:
    """Return the rotation (dimension, dimension) float32, read-only. It is the same on every machine.

    Each of four rounds flips signs at random, applies a Walsh-Hadamard transform, and shuffles the coordinates. The
    transform needs a power of two. For any other dimension, let h be the greatest power of two below the dimension. The
    transform is then applied twice: to the first h coordinates, and to the last h. The two blocks overlap, so each
    transform has its own signs. With equal signs, the second transform would undo the first in the overlap. If the
    overlap is small, the shuffle mixes the blocks.
    """
    block = 1 << (dimension.bit_length() - 1)
    starts = [0] if block == dimension else [0, dimension - block]
    signs = [_signs(dimension, step) for step in range(_ROUNDS * len(starts))]
    rotation = np.empty((dimension, dimension), dtype=np.float32)
    for first in range(0, dimension, _ROWS):
        # Rotated unit vectors are the columns of the rotation.
        rows = np.eye(min(_ROWS, dimension - first), dimension, first)
        for step, flips in enumerate(signs):
            rows = rows * flips
            start = starts[step % len(starts)]
            rows[:, start : start + block] = _hadamard(rows[:, start : start + block])
            if start == starts[-1]:
                rows = np.concatenate([rows[:, ::2], rows[:, 1::2]], axis=1)
        rotation[:, first : first + len(rows)] = rows.T
    rotation.flags.writeable = False
    return rotation


def _signs(dimension: int, step: int) -> NDArray[np.float64]:
    """Return the signs (dimension) of one step: -1 for each set bit of a hash, most significant bit first."""
    digest = hashlib.shake_128(f"smart_rag rotation {dimension} {step}".encode()).digest(-(-dimension // 8))
    bits = np.unpackbits(np.frombuffer(digest, np.uint8))[:dimension]
    return np.asarray(1.0 - 2.0 * bits, dtype=np.float64)


def _hadamard(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the orthogonal Walsh-Hadamard transform of each of ``rows`` (n, a power of two)."""
    count, width = rows.shape
    half = 1
    while half < width:
        pairs = rows.reshape(count, width // (2 * half), 2, half)
        rows = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], axis=2)
        rows = rows.reshape(count, width)
        half *= 2
    return np.asarray(rows / np.sqrt(width))


_LAYOUTS: dict[str, Codec] = {
    layout.name: layout
    for layout in (
        FloatCodec("float32", 1, np.dtype("<f4")),
        FloatCodec("float16", 2, np.dtype("<f2")),
        RotatedCodec("int8", 3, 8),
        RotatedCodec("4bit", 4, 4),
        RotatedCodec("2bit", 5, 2),
        RotatedCodec("1bit", 6, 1),
    )
}
_POOL_FACTORS = (1, 2, 3, 4)


def get_codec(name: str, *, pooling: bool = True) -> Codec:
    """Return the codec with this ``name``.

    Args:
        name: a layout such as ``"2bit"``, a layout with a pool factor such as ``"2bit/2"``, or one of `PRESETS`.
        pooling: if False, codecs with a pool factor are refused. This is for a caller that needs one code for each
            token.

    Raises:
        InvalidInput: no codec has this name, or it pools tokens and ``pooling`` is False.
    """
    layout, slash, factor = PRESETS.get(name, name).partition("/")
    factor = factor if slash else "1"
    if layout not in _LAYOUTS or factor not in map(str, _POOL_FACTORS):
        raise InvalidInput(
            f"unknown codec {name!r}; the codecs are {', '.join([*PRESETS, *_LAYOUTS])}; a layout may have a pool "
            "factor from 2 to 4, such as 2bit/2"
        )
    if factor != "1" and not pooling:
        raise InvalidInput(
            f"codec {name!r} pools {factor} tokens into one, which only a token store can do; use {layout!r} instead"
        )
    return _pooling(layout, int(factor))


@lru_cache
def _pooling(layout: str, factor: int) -> Codec:
    found: Any = _LAYOUTS[layout]
    codec: Codec = found if factor == 1 else replace(found, name=f"{layout}/{factor}", pool_factor=factor)
    return codec

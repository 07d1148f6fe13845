"""Token codes: how a token embedding is written to disk. ``decode`` is the inverse of ``encode``.

`FloatCodec` keeps the numbers. `RotatedCodec` turns the space by a fixed rotation, after which
the coordinates of any token embedding look like draws from one normal distribution, and rounds
each to 8, 4, 2 or 1 bits. It learns nothing from data: what is added later needs no other codes.
``docs/format.md`` has the byte layouts.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from smart_rag.embeddings.representation import Codec, Codes, FloatArray
from smart_rag.errors import InvalidInput

if TYPE_CHECKING:
    import torch

# Presets, by what they are for.
PRESETS = {"exact": "float16", "balanced": "2bit", "compact": "2bit/2"}


@dataclass(frozen=True, slots=True)
class FloatCodec:
    """Little-endian floating-point numbers, one after the other."""

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


# Steps between levels that round a standard normal with the least squared error (Max, 1960, "Quantizing
# for minimum distortion"). Even steps cost 1 % more error than free levels at 2 bits, and make a
# similarity a product of integers.
_STEPS = {8: 0.0308, 4: 0.3352, 2: 0.9957, 1: 1.5958}


@dataclass(frozen=True, slots=True)
class RotatedCodec:
    """L2-normalised vectors, rotated, each coordinate rounded to ``bits``; decoded to norm 1 again.

    A coordinate's code c stands for (c - ``zero``) steps. Dimension i lies in byte i % width,
    where width is the bytes of a token, at bit (i // width) * ``bits``: one shift and one mask
    give a stretch of neighbouring dimensions.
    """

    name: str
    number: int
    bits: int
    pool_factor: int = 1

    @property
    def zero(self) -> float:
        """The code, between two codes, that would stand for 0."""
        return float(2 ** (self.bits - 1)) - 0.5

    def bytes_per_token(self, dimension: int) -> int:
        return -(-dimension * self.bits // 8)

    def encode(self, embeddings: FloatArray | torch.Tensor) -> Codes:
        import torch

        rows = _tensor(embeddings) if isinstance(embeddings, np.ndarray) else embeddings
        count, dimension = rows.shape
        width = self.bytes_per_token(dimension)
        if not rows.numel():
            return np.zeros((count, width), dtype=np.uint8)
        if not bool(rows.isfinite().all()):
            raise InvalidInput(f"token embeddings hold NaN or infinite numbers, which codec {self.name!r} cannot say")
        levels = rotate(rows).mul_(dimension**0.5 / _STEPS[self.bits]).add_(self.zero + 0.5)
        wide = levels.clamp_(0, 2**self.bits - 1).to(torch.uint8)
        codes = torch.zeros((count, width), dtype=torch.uint8, device=rows.device)
        for plane, start in enumerate(range(0, dimension, width)):
            part = wide[:, start : start + width]
            codes[:, : part.shape[1]] += part * 2 ** (plane * self.bits)
        return codes.cpu().numpy()

    def decode(self, codes: Codes, dimension: int) -> FloatArray:
        if not codes.size:
            return np.zeros((len(codes), dimension), dtype=np.float32)
        width = codes.shape[1]
        mask = np.uint8(2**self.bits - 1)
        levels = np.empty((len(codes), dimension), dtype=np.float32)
        for plane, start in enumerate(range(0, dimension, width)):
            part = levels[:, start : start + width]
            part[:] = (codes[:, : part.shape[1]] >> np.uint8(plane * self.bits)) & mask
        levels -= np.float32(self.zero)
        levels /= np.linalg.norm(levels, axis=1, keepdims=True)
        return np.asarray(levels @ rotation(dimension), dtype=np.float32)


def rotate(embeddings: torch.Tensor) -> torch.Tensor:
    """Return ``embeddings`` (n, dimension) in the rotated space of `RotatedCodec`, in float32 on their device."""
    import torch

    # Not by NumPy: its threads and torch's would wait for each other's cores.
    with torch.autocast(embeddings.device.type, enabled=False):  # in 16 bits, codes would be others
        return embeddings.float() @ _rotation_on(embeddings.shape[1], embeddings.device).T


@lru_cache(maxsize=8)
def _rotation_on(dimension: int, device: torch.device) -> torch.Tensor:
    import torch

    with torch.inference_mode(False):  # it is kept, and may be asked for next where there are gradients
        return _tensor(rotation(dimension)).to(device)


def _tensor(rows: FloatArray) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.require(rows, np.float32, ("C", "W")))  # torch takes no other


_ROUNDS = 4
# Rows that are transformed together: they stay in cache.
_ROWS = 64


@lru_cache(maxsize=8)
def rotation(dimension: int) -> NDArray[np.float32]:
    """Return the rotation (dimension, dimension) of all codes of that width, the same on every machine.

    Rounds of random signs and a Walsh-Hadamard transform; where the width is no power of two,
    over the first so many coordinates that are, and then, with other signs, over the last. The
    two overlap: with the same signs the second would undo the first. Where they overlap by
    little, it is the shuffle after each round that brings them together.
    """
    block = 1 << (dimension.bit_length() - 1)
    starts = [0] if block == dimension else [0, dimension - block]
    signs = [_signs(dimension, step) for step in range(_ROUNDS * len(starts))]
    rotation = np.empty((dimension, dimension), dtype=np.float32)
    for first in range(0, dimension, _ROWS):
        # The images of unit vectors: the columns of the rotation.
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
    """Return the signs (dimension) of one step of a rotation: -1 for each bit that is set, most significant first."""
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
    """Return the codec called ``name``: a layout such as ``"2bit"``, or one with a pool factor such as ``"2bit/2"``.

    Args:
        name: a preset, a layout, or a layout with a pool factor.
        pooling: False for a caller that needs one code for each token.

    Raises:
        InvalidInput: no codec has this name, or it pools tokens and ``pooling`` is False.
    """
    layout, slash, factor = PRESETS.get(name, name).partition("/")
    factor = factor if slash else "1"
    if layout not in _LAYOUTS or factor not in map(str, _POOL_FACTORS):
        raise InvalidInput(
            f"unknown codec {name!r}; the codecs are {', '.join([*PRESETS, *_LAYOUTS])}, the latter also with a pool "
            "factor, such as 2bit/2 (up to 4)"
        )
    if factor != "1" and not pooling:
        raise InvalidInput(
            f"codec {name!r} pools {factor} tokens into one, which only a token store can do; use {layout!r} here"
        )
    return _pooling(layout, int(factor))


@lru_cache
def _pooling(layout: str, factor: int) -> Codec:
    found: Any = _LAYOUTS[layout]
    codec: Codec = found if factor == 1 else replace(found, name=f"{layout}/{factor}", pool_factor=factor)
    return codec

"""`DeviceProduct`: compare query tokens with document tokens on a GPU, by torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from smart_rag.embeddings.codec import RotatedCodec, rotate
from smart_rag.embeddings.multiply import tensor
from smart_rag.embeddings.tokens import FloatArray, Offsets, TokenCodes, Tokens

# Maximum number of bytes of a block of document tokens and its similarities. More keeps no GPU busier.
_BLOCK_BYTES = 1 << 30
# A block takes at most this part of the free memory. To unpack codes, up to three times the block's size is needed, and
# other programs need memory, too. If almost nothing is free, torch raises its own error.
_FREE_PARTS = 8
_LEAST_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class DeviceProduct:
    """Multiplies tokens as float32 on a torch device.

    With a codec, these are the normalised levels of rotated codes. The query is rotated instead of the documents.
    """

    codec: RotatedCodec | None
    device: str
    uses_one_core = False

    def block_tokens(self, dimension: int, query_tokens: int) -> int:
        return block_bytes(torch.device(self.device)) // (4 * (dimension + query_tokens))

    def queries(self, embeddings: FloatArray) -> torch.Tensor:
        found = tensor(embeddings).to(self.device)
        return found.float() if self.codec is None else rotate(found)

    def documents(self, block: Tokens) -> torch.Tensor:
        if self.codec is None:
            return tensor(block.embeddings).to(self.device).float()
        assert isinstance(block, TokenCodes)
        codes = unpacked(tensor(block.codes).to(self.device), self.codec.bits, block.dimension)
        return torch.nn.functional.normalize(codes.float() - self.codec.zero, dim=1)

    def best(self, queries: torch.Tensor, documents: torch.Tensor, offsets: Offsets) -> NDArray[np.float32]:
        return segment_max(queries @ documents.T, offsets)


def unpacked(codes: torch.Tensor, bits: int, dimension: int) -> torch.Tensor:
    """Return packed codes (n, bytes) as one uint8 for each dimension, (n, dimension)."""
    if bits == 8:
        return codes
    width = codes.shape[1]
    wide = torch.empty((len(codes), dimension), dtype=torch.uint8, device=codes.device)
    for plane, start in enumerate(range(0, dimension, width)):
        part = wide[:, start : start + width]
        part.copy_((codes[:, : part.shape[1]] >> (plane * bits)) & (2**bits - 1))
    return wide


def segment_max(similarities: torch.Tensor, offsets: Offsets) -> NDArray[np.float32]:
    """Return the maximum of each row of (q, total) within each segment: (q, n)."""
    lengths = torch.from_numpy(np.diff(offsets)).to(similarities.device)
    reduced = torch.segment_reduce(similarities.T.contiguous(), "max", lengths=lengths, axis=0, unsafe=True)
    return np.asarray(reduced.T.cpu().numpy(), dtype=np.float32)


def block_bytes(device: torch.device) -> int:
    """Return how many bytes a block of document tokens and its similarities may take on ``device``."""
    if device.type == "cpu":
        return _LEAST_BLOCK_BYTES
    # Memory that torch has reserved but does not use counts as free.
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(_BLOCK_BYTES, max(free // _FREE_PARTS, _LEAST_BLOCK_BYTES))

"""`Positions`: the meaning of each position in a model's input, such as padding, patch or template."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from smart_rag.encoders.profiles import TokenPolicy
from smart_rag.types import TokenOrigin

if TYPE_CHECKING:
    import torch

Mask = NDArray[np.bool_]

# Special tokens that some tokenizers of vision-language models do not list as special.
_CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
# The token before one of the squares that an image is cut into.
_SQUARE = re.compile(r"<row_(\d+)_col_(\d+)>")


@dataclass(frozen=True, slots=True)
class Positions:
    """The meaning of each position in n inputs. All arrays are (n, length).

    ``ids`` are vocabulary ids. All other arrays are True for some positions. ``attended``: all but padding.
    ``special``: tokens without content. ``visual``: patches of images and videos. ``template``: tokens that do not
    depend on the content. ``pooled``: the position of the pooled embedding, if it comes from one position. With
    ``keeps_pooled``, this position takes part in late interaction, unless its token is special.
    """

    ids: NDArray[np.int64]
    attended: Mask
    special: Mask
    visual: Mask
    template: Mask
    pooled: Mask
    keeps_pooled: bool = False

    def kept(self, policy: TokenPolicy) -> Mask:
        """Return the positions (n, length) that take part in late interaction."""
        keep = self.attended & ~self.special
        if not self.keeps_pooled:
            keep = keep & ~self.pooled
        if policy == "text":
            return keep & ~self.visual
        if policy == "input":
            return keep & ~self.template
        if policy == "patches":
            return keep & self.visual & ~self.template
        return keep


def ids_and_attended(features: Mapping[str, Any]) -> tuple[NDArray[np.int64], Mask]:
    """Return the vocabulary ids (n, length) of a model's inputs, and an array that is True except for padding."""
    return np.asarray(features["input_ids"]), np.asarray(features["attention_mask"]).astype(np.bool_)


def counted_positions(attention_mask: torch.Tensor) -> torch.Tensor:
    """Return the positions 0, 1, 2, ... (n, length) of all tokens but padding, wherever the padding is."""
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)


def pooled_position(attended: Mask, mode: str) -> Mask:
    """Return the position (n, length) that pooling in this ``mode`` uses. If it uses several, all are False."""
    ordinal = np.cumsum(attended, axis=1)
    if mode == "cls":
        return np.asarray(attended & (ordinal == 1))
    if mode == "lasttoken":
        return np.asarray(attended & (ordinal == ordinal[:, -1:]))
    return np.zeros(attended.shape, dtype=np.bool_)


def position_before(ids: NDArray[np.int64], attended: Mask, mark: int) -> Mask:
    """Return the position (n, length) before the first token with the id ``mark``.

    Raises:
        ValueError: an input has no such id.
    """
    marks = attended & (ids == mark)
    if not marks.any(axis=1).all():
        raise ValueError(f"no id {mark} in an input")
    return np.asarray(np.arange(ids.shape[1])[None] == marks.argmax(axis=1)[:, None] - 1)


def patch_origins(grids: NDArray[np.int64], is_video: bool) -> Iterator[TokenOrigin]:
    """Yield the origins of patches, row by row. ``grids`` are (frames, rows, columns) of each image or video."""
    for frames, height, width in grids.tolist():
        for frame, row, column in np.ndindex(frames, height, width):
            box = (column / width, row / height, (column + 1) / width, (row + 1) / height)
            yield TokenOrigin(box=box, frame=frame if is_video else None)


def special_ids(tokenizer: Any) -> NDArray[np.int64]:
    """Return the ids of tokens without content. The token for unknown words has content, because it replaces a word."""
    ids = set(getattr(tokenizer, "all_special_ids", []))
    vocabulary = tokenizer.get_vocab()
    ids.update(vocabulary[token] for token in _CONTROL_TOKENS if token in vocabulary)
    unknown = getattr(tokenizer, "unk_token_id", None)
    others = [getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "cls", "sep", "pad", "mask")]
    if unknown not in others:
        ids.discard(unknown)
    return np.asarray(sorted(ids), dtype=np.int64)


def square_origins(tokens: Sequence[str], where: Sequence[int]) -> Iterator[TokenOrigin]:
    """Yield the part of the image that each patch shows, for models that read squares of one size.

    A model squeezes an image into one square, or cuts it into rows and columns of squares, and adds a small copy of the
    whole image. The token ``<row_1_col_2>`` stands before the patches of a square, ``<global-img>`` before those of the
    copy (Idefics3, SmolVLM, ModernVBERT).

    Args:
        tokens: the names of all tokens of the input.
        where: the positions of the patches among them.
    """
    whole, squares = (1, 1, True), []
    square, patches = whole, set(where)
    for i, token in enumerate(tokens):
        tag = _SQUARE.fullmatch(token)
        if tag is not None:
            square = (int(tag[1]), int(tag[2]), False)
        elif token == "<global-img>":
            square = whole
        if i in patches:
            squares.append(square)
    rows, columns = (max((found[axis] for found in squares), default=1) for axis in (0, 1))
    for found, count in Counter(squares).items():
        side = math.isqrt(count)
        high, wide = (1, 1) if found[2] else (rows, columns)
        for y, x in np.ndindex(side, side):
            xs = [(found[1] - 1 + edge / side) / wide for edge in (x, x + 1)]
            ys = [(found[0] - 1 + edge / side) / high for edge in (y, y + 1)]
            yield TokenOrigin(box=(xs[0], ys[0], xs[1], ys[1]))


def common_prefix(one: NDArray[np.int64], other: NDArray[np.int64]) -> int:
    """Return how many ids at the start are equal in both arrays. The arrays must differ somewhere."""
    length = min(len(one), len(other))
    return int(np.argmin(one[:length] == other[:length]))

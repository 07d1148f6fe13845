"""Sorted numbers as the bytes of their gaps: where numbers lie densely, most take one byte instead of four.

A byte below 128 is a step of its value, and ends a gap. A byte from 128 on is a step of 128, 256, ... 16,384, and the
gap goes on. A number is the sum of all steps up to its last byte, so a running sum reads a whole list. A gap below 128
takes one byte, below 16,512 two, and another one for each 16,384 more: no list has more of these than its greatest
number has 16,384s.

>>> codes, starts = encode(np.array([5, 127, 128, 16_511, 16_512]), starts=np.array([0, 3, 5]))
>>> codes.tolist()
[5, 127, 128, 0, 255, 127, 255, 128, 0]
>>> starts.tolist()
[0, 4, 9]
>>> sums(codes).tolist()
[5, 132, 260, 16771, 33283]
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from smart_rag.embeddings.representation import Offsets

GapCodes = NDArray[np.uint8]

_STEP = 128
_STEPS = np.concatenate([np.arange(_STEP), _STEP * np.arange(1, _STEP + 1)]).astype(np.int32)


def encode(gaps: NDArray[np.integer[Any]], starts: Offsets) -> tuple[GapCodes, Offsets]:
    """Return the bytes of ``gaps`` (n), none negative, and where in them those from each of ``starts`` on begin."""
    # Every gap has a last byte, few have others: what is made of these alone takes little time and memory.
    long = np.flatnonzero(gaps >= _STEP)
    steps = gaps[long] // _STEP
    more = -(-steps // _STEP)
    ends = np.append(0, np.cumsum(more))
    codes = np.full(len(gaps) + ends[-1], 255, dtype=np.uint8)
    codes[long + ends[1:] - 1] = (steps - 1) % _STEP + _STEP
    in_front = np.repeat(long, more)
    in_front += np.arange(len(in_front))
    last = np.ones(len(codes), dtype=np.bool_)
    last[in_front] = False
    codes[last] = gaps.astype(np.uint8) % _STEP  # of the lowest byte, the remainder is the same
    return codes, starts + ends[np.searchsorted(long, starts)]


def sums(codes: GapCodes) -> NDArray[np.int64]:
    """Return, for each gap of ``codes``, the sum of it and all before it."""
    # The lists that take longest to read are dense, and have short gaps only.
    if codes.max(initial=0) < _STEP:
        return np.cumsum(codes, dtype=np.int64)
    return np.cumsum(_STEPS.take(codes), dtype=np.int64)[codes < _STEP]

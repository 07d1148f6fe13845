"""Sorted numbers, coded as the gaps between them. If the numbers are close together, most gaps take one byte, not
four.

A gap is stored in one or more bytes. Each byte adds a part of the gap. A byte below 128 adds its value and ends the
gap. A byte b of at least 128 adds 128 * (b - 127), which is 128 to 16,384, and the gap continues. So a running sum
over all bytes decodes a whole list. A gap below 128 takes one byte. A gap below 16,512 takes two bytes. After that,
each further 16,384 takes one more byte. The gaps of a list add up to its greatest number. So a list has at most one
such further byte for each 16,384 of its greatest number.

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

from smart_rag.embeddings.tokens import Offsets

GapCodes = NDArray[np.uint8]

_STEP = 128
_STEPS = np.concatenate([np.arange(_STEP), _STEP * np.arange(1, _STEP + 1)]).astype(np.int32)


def encode(gaps: NDArray[np.integer[Any]], starts: Offsets) -> tuple[GapCodes, Offsets]:
    """Return the codes of ``gaps``, and the position in the codes at which each list begins.

    ``gaps`` (n) has the gaps of several lists, one list after the other. No gap is negative. ``starts`` holds the
    position in ``gaps`` at which each list begins.
    """
    # Few gaps have more than one byte. The steps below handle only these few, which saves time and memory.
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
    codes[last] = gaps.astype(np.uint8) % _STEP  # modulo 128, the lowest byte equals the gap
    return codes, starts + ends[np.searchsorted(long, starts)]


def sums(codes: GapCodes) -> NDArray[np.int64]:
    """Return the running sums of the gaps in ``codes``, which are the numbers of the list."""
    # The longest lists are dense, so all their gaps have one byte. For them, a plain running sum is enough.
    if codes.max(initial=0) < _STEP:
        return np.cumsum(codes, dtype=np.int64)
    return np.cumsum(_STEPS.take(codes), dtype=np.int64)[codes < _STEP]

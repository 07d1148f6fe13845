"""`gap_codes`: exact bytes, encoding against a plain loop, and decoding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smart_rag.store.terms import gap_codes

GOLDEN = {
    (): "",
    (0,): "00",
    (0, 1, 127): "00 01 7f",
    (128,): "80 00",
    (254, 255, 256, 510): "80 7e  80 7f  81 00  82 7e",
    (16_383, 16_384, 16_511): "fe 7f  ff 00  ff 7f",
    (16_512,): "ff 80 00",
    (3, 100_000, 3): "03  ff ff ff ff ff ff 8c 20  03",
}
EDGES = [
    edge + i for edge in (0, 128, 256, 510, 16_384, 16_512, 32_896, 3_000_000) for i in (-1, 0, 1) if edge + i >= 0
]
GAP = st.one_of(st.integers(0, 127), st.sampled_from(EDGES), st.integers(0, 100_000))


def encode(gaps, starts=(), dtype=np.int32):
    return gap_codes.encode(np.asarray(gaps, dtype=dtype), np.asarray(starts, dtype=np.int64))


def looped(gap):
    """Return the bytes of one gap."""
    codes = []
    steps = gap // 128
    while steps > 128:
        codes.append(255)
        steps -= 128
    if steps:
        codes.append(127 + steps)
    return [*codes, gap % 128]


@pytest.mark.parametrize("gaps", GOLDEN)
def test_golden_bytes(gaps):
    """These gaps are coded as these bytes."""
    codes, _ = encode(gaps)
    assert codes.dtype == np.uint8
    assert codes.tobytes().hex() == GOLDEN[gaps].replace(" ", "")


@settings(max_examples=300, deadline=None)
@given(st.lists(GAP, max_size=40), st.sampled_from([np.int32, np.int64]))
@example(EDGES, np.int32)
@example([127] * 300, np.int64)
def test_any_gaps(gaps, dtype):
    """Bytes and starts are those of a loop; the sums are those of the gaps."""
    codes, starts = encode(gaps, range(len(gaps) + 1), dtype)
    expected, begin = [], []
    for gap in gaps:
        begin.append(len(expected))
        expected += looped(gap)
    assert codes.tolist() == expected
    assert starts.tolist() == [*begin, len(expected)]
    sums = gap_codes.sums(codes)
    assert sums.dtype == np.int64
    assert sums.tolist() == [sum(gaps[: i + 1]) for i in range(len(gaps))]


def test_the_greatest_gap():
    """A position has 31 bits."""
    codes, _ = encode([2**31 - 1, 5])
    assert len(codes) == 2**31 // 16_384 + 2
    assert gap_codes.sums(codes).tolist() == [2**31 - 1, 2**31 + 4]


def test_sums_of_a_part():
    """Several lists follow each other in the codes; each can be decoded alone."""
    codes, starts = encode([7, 200, 0, 70_000, 1], [0, 2, 4, 5])
    parts = [gap_codes.sums(codes[starts[i] : starts[i + 1]]).tolist() for i in range(3)]
    assert parts == [[7, 207], [0, 70_000], [1]]

"""Token codes: exact bytes, and the way back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smart_rag.codec import codec
from smart_rag.errors import InvalidInput

MATRIX = np.float32([[1, -2, 0.5], [0, 65504, -0.25]])
GOLDEN = {
    "float16": ["003c00c00038", "0000ff7b00b4"],
    "float32": ["0000803f000000c00000003f", "0000000000e07f47000080be"],
}
NAMES = sorted(GOLDEN)


@pytest.mark.parametrize("name", NAMES)
def test_golden_bytes(name):
    """These bytes are on users' disks: they never change, and they can be read."""
    codes = codec(name).encode(MATRIX)
    assert codes.dtype == np.uint8
    assert [row.tobytes().hex() for row in codes] == GOLDEN[name]
    stored = np.frombuffer(bytes.fromhex("".join(GOLDEN[name])), np.uint8).reshape(2, -1)
    np.testing.assert_array_equal(codec(name).decode(stored, 3), MATRIX)


@pytest.mark.parametrize(("name", "number", "size"), [("float32", 1, 4), ("float16", 2, 2)])
def test_names_numbers_and_sizes(name, number, size):
    """A codec's name and number are for ever; its size follows from the dimension."""
    found = codec(name)
    assert (found.name, found.number) == (name, number)
    assert [found.bytes_per_token(dimension) for dimension in (1, 3, 384)] == [size, 3 * size, 384 * size]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 5),
    st.sampled_from([1, 3, 7, 96, 384]),
    st.sampled_from(["<f4", ">f4", "<f2", "<f8"]),
    st.integers(0, 2**32),
)
def test_decode_is_the_inverse_of_encode(name, n, dimension, dtype, seed):
    """What comes back is what went in, in the codec's precision, for any dimension and any input."""
    found = codec(name)
    embeddings = np.random.default_rng(seed).uniform(-1, 1, (n, dimension)).astype(dtype)
    codes = found.encode(embeddings)
    assert codes.shape == (n, found.bytes_per_token(dimension))
    decoded = found.decode(codes, dimension)
    assert decoded.shape == (n, dimension)
    assert decoded.dtype == name
    np.testing.assert_array_equal(decoded, embeddings.astype(name))


@pytest.mark.parametrize("name", NAMES)
def test_any_memory_layout_is_encoded(name):
    """Columns first, backwards and every second row are all the same numbers."""
    expected = codec(name).encode(MATRIX).tobytes()
    double = np.repeat(MATRIX, 2, axis=0)
    for same in (np.asfortranarray(MATRIX), MATRIX[::-1].copy()[::-1], double[::2]):
        assert codec(name).encode(same).tobytes() == expected


def test_encoding_leaves_the_input_alone():
    """The caller's array keeps its numbers."""
    embeddings = np.float32([[0.1, 0.2]])
    before = embeddings.copy()
    codec("float16").encode(embeddings)
    np.testing.assert_array_equal(embeddings, before)


@pytest.mark.parametrize("name", ["int3", "", "Float16"])
def test_unknown_name(name):
    """A name that no codec has is refused, and those that exist are listed."""
    with pytest.raises(InvalidInput, match=f"unknown codec {name!r}; the codecs are float32, float16"):
        codec(name)

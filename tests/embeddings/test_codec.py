"""Codecs: exact bytes, decoding, and rotated codes against plain loops written from docs/format.md."""

import hashlib
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smart_rag.embeddings.codec import PRESETS, get_codec, rotate, rotation
from smart_rag.errors import InvalidInput

MATRIX = np.float32([[1, -2, 0.5], [0, 65504, -0.25]])
GOLDEN = {
    "float16": ["003c00c00038", "0000ff7b00b4"],
    "float32": ["0000803f000000c00000003f", "0000000000e07f47000080be"],
}
NAMES = sorted(GOLDEN)


@pytest.mark.parametrize("name", NAMES)
def test_golden_bytes(name):
    """These bytes are on users' disks: they never change, and can be decoded."""
    codes = get_codec(name).encode(MATRIX)
    assert codes.dtype == np.uint8
    assert [row.tobytes().hex() for row in codes] == GOLDEN[name]
    stored = np.frombuffer(bytes.fromhex("".join(GOLDEN[name])), np.uint8).reshape(2, -1)
    np.testing.assert_array_equal(get_codec(name).decode(stored, 3), MATRIX)


@pytest.mark.parametrize(("name", "number", "size"), [("float32", 1, 4), ("float16", 2, 2)])
def test_names_numbers_and_sizes(name, number, size):
    """The name and number of a codec never change; the size depends on the dimension."""
    found = get_codec(name)
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
    """Decoded numbers are the encoded ones, in the codec's precision, for any dimension and dtype."""
    found = get_codec(name)
    embeddings = np.random.default_rng(seed).uniform(-1, 1, (n, dimension)).astype(dtype)
    codes = found.encode(embeddings)
    assert codes.shape == (n, found.bytes_per_token(dimension))
    decoded = found.decode(codes, dimension)
    assert decoded.shape == (n, dimension)
    assert decoded.dtype == name
    np.testing.assert_array_equal(decoded, embeddings.astype(name))


@pytest.mark.parametrize("name", NAMES)
def test_any_memory_layout_is_encoded(name):
    """Columns first, backwards and every second row have the same codes."""
    expected = get_codec(name).encode(MATRIX).tobytes()
    double = np.repeat(MATRIX, 2, axis=0)
    for same in (np.asfortranarray(MATRIX), MATRIX[::-1].copy()[::-1], double[::2]):
        assert get_codec(name).encode(same).tobytes() == expected


def test_encoding_leaves_the_input_alone():
    """The caller's array does not change."""
    embeddings = np.float32([[0.1, 0.2]])
    before = embeddings.copy()
    get_codec("float16").encode(embeddings)
    np.testing.assert_array_equal(embeddings, before)


@pytest.mark.parametrize(
    "name", ["int3", "", "Float16", "2bit/", "2bit/0", "2bit/5", "2bit/02", "2bit/x", "compact/2", "/2", "2bit/2/2"]
)
def test_unknown_name(name):
    """An unknown name is refused; the error lists the codecs."""
    with pytest.raises(InvalidInput, match=f"unknown codec {name!r}; the codecs are exact, balanced, compact, float32"):
        get_codec(name)


def test_presets():
    """A preset is another name for a codec; the codec keeps its own name."""
    assert PRESETS == {"exact": "float16", "balanced": "2bit", "compact": "2bit/2"}
    for preset, name in PRESETS.items():
        assert get_codec(preset) == get_codec(name)
        assert get_codec(preset).name == name


@pytest.mark.parametrize("layout", ["float32", "float16", "int8", "4bit", "2bit", "1bit"])
def test_pool_factors(layout):
    """A pool factor changes the name alone: number and bytes are those of the codec without it."""
    plain = get_codec(layout)
    assert plain.pool_factor == 1
    assert get_codec(f"{layout}/1") == plain
    for factor in (2, 3, 4):
        pooled = get_codec(f"{layout}/{factor}")
        assert (pooled.name, pooled.number, pooled.pool_factor) == (f"{layout}/{factor}", plain.number, factor)
        assert pooled.bytes_per_token(25) == plain.bytes_per_token(25)
        np.testing.assert_array_equal(pooled.encode(golden_vectors(25)), plain.encode(golden_vectors(25)))


# --- rotated codes ----------------------------------------------------------------------------

BITS = {"int8": 8, "4bit": 4, "2bit": 2, "1bit": 1}
STEPS = {8: 0.0308, 4: 0.3352, 2: 0.9957, 1: 1.5958}
# Widths around powers of two, between them, and those that models have.
WIDTHS = [13, 15, 17, 25, 39, 53, 63, 65, 66, 129, 384, 513, 640, 1000, 1023, 2048]


def unit_rows(n, dimension, seed=0):
    rows = np.random.default_rng(seed).standard_normal((n, dimension)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def golden_vectors(dimension):
    """Return two unit vectors; none of their rotated coordinates is near the border of two codes."""
    k = {3: 0, 8: 1, 25: 6}[dimension]
    rows = np.float64([[(7 * i * i + 3 * i * j + k * j) % 11 - 5 for i in range(dimension)] for j in (1, 2)])
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def plain_hadamard(values):
    """Return the transform by its recursive definition, H(2n) = [[H, H], [H, -H]], before the division."""
    if len(values) == 1:
        return values
    half = len(values) // 2
    first, second = plain_hadamard(values[:half]), plain_hadamard(values[half:])
    return [a + b for a, b in zip(first, second, strict=True)] + [a - b for a, b in zip(first, second, strict=True)]


def plain_rotate(vector):
    """Return the rotated vector; see docs/format.md, "Rotation"."""
    values, dimension = [float(value) for value in vector], len(vector)
    block = 1
    while 2 * block <= dimension:
        block *= 2
    starts = [0] if block == dimension else [0, dimension - block]
    step = 0
    for _ in range(4):
        for start in starts:
            digest = hashlib.shake_128(f"smart_rag rotation {dimension} {step}".encode()).digest((dimension + 7) // 8)
            for i in range(dimension):
                if digest[i // 8] & (128 >> i % 8):
                    values[i] = -values[i]
            turned = plain_hadamard(values[start : start + block])
            values[start : start + block] = [value / math.sqrt(block) for value in turned]
            step += 1
        values = values[::2] + values[1::2]
    return values


def plain_levels(vector, bits):
    """Return the codes of a vector, and how near the nearest of its coordinates is to the border of two codes."""
    codes, margin = [], 1.0
    for value in plain_rotate(vector):
        level = value * math.sqrt(len(vector)) / STEPS[bits] + 2 ** (bits - 1)
        margin = min(margin, abs(level - round(level)))
        codes.append(min(max(math.floor(level), 0), 2**bits - 1))
    return codes, margin


def plain_pack(codes, bits):
    width = math.ceil(len(codes) * bits / 8)
    packed = [0] * width
    for i, code in enumerate(codes):
        packed[i % width] |= code << (i // width * bits)
    return bytes(packed)


def plain_decode(packed, dimension, bits):
    """Return the decoded vector: levels around zero, divided by their norm, rotated back by the transpose."""
    levels = []
    for i in range(dimension):
        code = packed[i % len(packed)] >> (i // len(packed) * bits) & (2**bits - 1)
        levels.append(code - (2**bits - 1) / 2)
    norm = math.sqrt(sum(level * level for level in levels))
    images = [plain_rotate([float(i == k) for i in range(dimension)]) for k in range(dimension)]
    return [sum(a * b for a, b in zip(image, levels, strict=True)) / norm for image in images]


ROTATED_GOLDEN = {
    ("int8", 3): ["86a9a4", "4e9771"],
    ("int8", 8): ["7b4f578965864794", "606d60c49f869286"],
    ("int8", 25): [
        "8561638bd680788e6282c46061ae5d6d8ba482878d98529f85",
        "6f61a589474539b160799c8b6c697d9da584ae7da28c7a9971",
    ],
    ("4bit", 3): ["b80b", "630a"],
    ("4bit", 8): ["57832498", "a586958e"],
    ("4bit", 25): ["c8456599bf888799a538ae8505", "5675abb882c271bc9577aa6906"],
    ("2bit", 3): ["3e", "18"],
    ("2bit", 8): ["11a8", "a5ad"],
    ("2bit", 25): ["8a15a9be27262d", "9d65b76a381434"],
    ("1bit", 3): ["07", "02"],
    ("1bit", 8): ["a8", "f8"],
    ("1bit", 25): ["733e1433", "3030152f"],
}


@pytest.mark.parametrize("dimension", [3, 8, 25])
@pytest.mark.parametrize("name", BITS)
def test_golden_bytes_of_rotated_codes(name, dimension):
    """These bytes are on users' disks: they never change, nor does what they decode to."""
    vectors = golden_vectors(dimension)
    expected = ROTATED_GOLDEN[name, dimension]
    assert [row.tobytes().hex() for row in get_codec(name).encode(vectors)] == expected
    for vector, row in zip(vectors, expected, strict=True):
        codes, margin = plain_levels(vector, BITS[name])
        assert margin > 0.01
        assert plain_pack(codes, BITS[name]).hex() == row
        stored = np.frombuffer(bytes.fromhex(row), np.uint8).reshape(1, -1)
        decoded = plain_decode(bytes.fromhex(row), dimension, BITS[name])
        np.testing.assert_allclose(get_codec(name).decode(stored, dimension)[0], decoded, atol=1e-6)


@pytest.mark.parametrize(
    ("dimension", "digest"), [(25, "9eb40a4c5e83a542d4c68392f75af763"), (384, "d0b6ea5484624a2523413e4eb5a3149a")]
)
def test_golden_rotation(dimension, digest):
    """The rotation never changes: every code on disk depends on it."""
    # Many numbers are fractions of powers of two: with the third, none is at the border of two integers.
    rounded = np.round(rotation(dimension).astype(np.float64) * 1e5 + 1 / 3).astype("<i4")
    assert hashlib.sha256(rounded.tobytes()).hexdigest()[:32] == digest


@pytest.mark.parametrize("dimension", [1, 2, 3, 5, 8, 24, 25, 31, 100])
def test_the_rotation_is_the_recursive_one(dimension):
    """Columns are the rotated unit vectors; the matrix is orthogonal and read-only."""
    turned = rotation(dimension)
    assert turned.dtype == np.float32
    for k in range(dimension):
        np.testing.assert_allclose(turned[:, k], plain_rotate([float(i == k) for i in range(dimension)]), atol=1e-6)
    np.testing.assert_allclose(turned @ turned.T, np.eye(dimension), atol=1e-5)
    vector = unit_rows(1, dimension)
    np.testing.assert_allclose(rotate(torch.from_numpy(vector))[0], plain_rotate(vector[0]), atol=1e-6)
    with pytest.raises(ValueError, match="read-only"):
        turned[0, 0] = 0


def test_the_rotation_is_made_in_parts():
    """A matrix with more rows than are transformed at once is a rotation, too."""
    turned = rotation(200).astype(np.float64)
    np.testing.assert_allclose(turned @ turned.T, np.eye(200), atol=1e-5)
    np.testing.assert_allclose(turned[:, 199], plain_rotate([0.0] * 199 + [1.0]), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "number", "sizes"),
    [
        ("int8", 3, [1, 2, 3, 25, 384]),
        ("4bit", 4, [1, 1, 2, 13, 192]),
        ("2bit", 5, [1, 1, 1, 7, 96]),
        ("1bit", 6, [1, 1, 1, 4, 48]),
    ],
)
def test_names_numbers_and_sizes_of_rotated_codes(name, number, sizes):
    """They never change, as above."""
    found = get_codec(name)
    assert (found.name, found.number) == (name, number)
    assert [found.bytes_per_token(dimension) for dimension in (1, 2, 3, 25, 384)] == sizes


@pytest.mark.parametrize("name", BITS)
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 4), st.integers(1, 40), st.sampled_from(["<f4", "<f2", "<f8", ">f4"]), st.integers(0, 2**32))
def test_rotated_codes_equal_the_loops(name, n, dimension, dtype, seed):
    """Codes are those of the loops, except at the border of two codes; so are decoded vectors, of norm 1."""
    found, bits = get_codec(name), BITS[name]
    vectors = unit_rows(n, dimension, seed).astype(dtype)
    codes = found.encode(vectors)
    assert (codes.dtype, codes.shape) == (np.uint8, (n, found.bytes_per_token(dimension)))
    decoded = found.decode(codes, dimension)
    assert (decoded.dtype, decoded.shape) == (np.float32, (n, dimension))
    np.testing.assert_allclose(np.linalg.norm(decoded, axis=1), 1, atol=1e-5)
    for vector, row, back in zip(vectors, codes, decoded, strict=True):
        expected, margin = plain_levels(vector, bits)
        if margin > 1e-4:
            assert row.tobytes() == plain_pack(expected, bits)
        np.testing.assert_allclose(back, plain_decode(row.tobytes(), dimension, bits), atol=1e-5)


@pytest.mark.parametrize("name", BITS)
def test_nothing_is_encoded_to_nothing(name):
    """No tokens have no codes, of any dimension, also of 0."""
    for dimension in (0, 1, 25):
        codes = get_codec(name).encode(np.zeros((0, dimension), np.float32))
        assert codes.shape == (0, get_codec(name).bytes_per_token(dimension))
        assert get_codec(name).decode(codes, dimension).shape == (0, dimension)


@pytest.mark.parametrize("dimension", WIDTHS)
@pytest.mark.parametrize(("name", "cosine"), [("int8", 0.9999), ("4bit", 0.993), ("2bit", 0.93), ("1bit", 0.785)])
def test_decoded_vectors_are_near_the_originals(name, cosine, dimension):
    """Also for unit vectors along one coordinate, which the rotation has to spread."""
    found = get_codec(name)
    for vectors in (unit_rows(200, dimension), np.eye(dimension, dtype=np.float32)):
        decoded = found.decode(found.encode(vectors), dimension)
        assert (decoded * vectors).sum(axis=1).mean() >= cosine


@pytest.mark.parametrize("dimension", [384, 513, 640, 1023, 1025, 2560])
def test_no_direction_is_left_out(dimension):
    """The worst vector is coded nearly as well as the average."""
    vectors = np.eye(dimension, dtype=np.float32)
    decoded = get_codec("2bit").decode(get_codec("2bit").encode(vectors), dimension)
    assert (decoded * vectors).sum(axis=1).min() > 0.9


@pytest.mark.parametrize("name", BITS)
def test_wider_vectors_lose_no_more(name):
    """The error of cosines, relative to their spread, does not grow with the dimension."""

    def relative_error(dimension):
        queries, vectors = unit_rows(100, dimension, 1), unit_rows(400, dimension, 2)
        exact = queries @ vectors.T
        return (
            queries @ get_codec(name).decode(get_codec(name).encode(vectors), dimension).T - exact
        ).std() / exact.std()

    assert relative_error(2048) <= 1.05 * relative_error(384)


@pytest.mark.parametrize("dimension", [1, 2, 3])
@pytest.mark.parametrize("name", BITS)
def test_a_few_dimensions(name, dimension):
    """With so few, coordinates are not normally distributed. Opposites stay opposite, and a vector is near itself."""
    vectors = unit_rows(50, dimension)
    decoded = get_codec(name).decode(get_codec(name).encode(vectors), dimension)
    assert ((decoded * vectors).sum(axis=1) > 0.5).all()
    opposite = get_codec(name).decode(get_codec(name).encode(-vectors), dimension)
    np.testing.assert_allclose(opposite, -decoded, atol=1e-2)


@pytest.mark.parametrize("dimension", [8, 25, 384])
@pytest.mark.parametrize("name", BITS)
def test_codes_of_decoded_vectors_are_the_same(name, dimension):
    """Decoded vectors can be encoded again without further loss."""
    found = get_codec(name)
    vectors = unit_rows(200, dimension)
    codes = found.encode(vectors)
    again = found.encode(found.decode(codes, dimension))
    assert (again == codes).mean() > 0.99


# --- tensors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", [*NAMES, *BITS])
def test_a_tensor_is_coded_as_an_array_of_the_same_numbers(name, dtype):
    """In every precision of a model, also where the rows are not contiguous in memory."""
    rows = torch.from_numpy(unit_rows(20, 25)).to(dtype)[::2]
    before = rows.clone()
    codes = get_codec(name).encode(rows)
    np.testing.assert_array_equal(codes, get_codec(name).encode(rows.float().numpy()))
    assert (codes.dtype, codes.shape) == (np.uint8, (10, get_codec(name).bytes_per_token(25)))
    assert torch.equal(rows, before)


@pytest.mark.parametrize("name", BITS)
def test_numpy_and_torch_make_the_same_codes(name):
    """They add in another order. A code differs only at a border of two codes: 1 of 10,000 at most."""
    rows = unit_rows(500, 384)
    script = (
        "import sys, numpy as np; from smart_rag.embeddings.codec import get_codec; "
        f"codes = get_codec({name!r}).encode(np.frombuffer(sys.stdin.buffer.read(), np.float32).reshape(-1, 384)); "
        "assert 'torch' not in sys.modules; sys.stdout.buffer.write(codes.tobytes())"
    )
    run = subprocess.run([sys.executable, "-c", script], input=rows.tobytes(), capture_output=True, check=True)
    by_numpy = np.frombuffer(run.stdout, np.uint8).reshape(500, -1)
    by_torch = get_codec(name).encode(torch.from_numpy(rows))
    places = rotation(384).astype(np.float64) @ rows.T.astype(np.float64) * math.sqrt(384) / STEPS[BITS[name]]
    places = places.T + 2 ** (BITS[name] - 1)
    shifts = [plane * BITS[name] for plane in range(8 // BITS[name])]
    wide = [np.concatenate([codes >> shift for shift in shifts], axis=1) for codes in (by_numpy, by_torch)]
    differ = (wide[0] ^ wide[1]) & (2 ** BITS[name] - 1) != 0
    assert differ.mean() <= 1e-4
    assert (np.abs(places - np.round(places))[differ] < 1e-4).all()


@pytest.mark.parametrize("name", BITS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_rotated_codes_cannot_store(name, bad):
    """Without the error, NaN or inf would become an ordinary number."""
    rows = unit_rows(3, 8)
    rows[1, 2] = bad
    with pytest.raises(InvalidInput, match=f"NaN or inf, which codec {name!r} cannot store"):
        get_codec(name).encode(rows)


def test_a_rotation_first_used_in_inference_mode_has_gradients_later():
    """The rotation is cached; it must not be a tensor of inference mode."""
    with torch.inference_mode():
        get_codec("2bit").encode(torch.from_numpy(unit_rows(2, 23)))
    rows = torch.from_numpy(unit_rows(2, 23)).requires_grad_()
    rotate(rows).square().sum().backward()
    torch.testing.assert_close(rows.grad, 2 * rows.detach())


@pytest.mark.parametrize("name", [*NAMES, *BITS])
def test_a_tensor_with_gradients_is_coded(name):
    """Its gradients do not change the codes."""
    rows = unit_rows(2, 8)
    codes = get_codec(name).encode(torch.from_numpy(rows).requires_grad_())
    np.testing.assert_array_equal(codes, get_codec(name).encode(rows))


@pytest.mark.parametrize("name", BITS)
def test_autocast_does_not_change_codes(name):
    """The rotation is computed in 32 bits."""
    rows = torch.from_numpy(unit_rows(50, 384))
    with torch.autocast("cpu", torch.bfloat16):
        codes = get_codec(name).encode(rows)
    np.testing.assert_array_equal(codes, get_codec(name).encode(rows))

"""Representations, as numbers and as codes: what they refuse, share and copy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smart_rag.embeddings.codec import get_codec
from smart_rag.embeddings.representation import Representation
from smart_rag.embeddings.tokens import TokenBatch, TokenCodes
from smart_rag.errors import DimensionMismatch, InvalidInput


def matrices(lengths, dimension=3, dtype=np.float32):
    rng = np.random.default_rng(len(lengths))
    return [rng.standard_normal((n, dimension)).astype(dtype) for n in lengths]


def two_bit_codes(lengths):
    codec = get_codec("2bit")
    return TokenCodes.from_list([codec.encode(matrix) for matrix in matrices(lengths)], 3, codec)


# --- TokenBatch ---------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.integers(1, 5), st.sampled_from(["float32", "float16"]))
def test_batch_gives_back_its_texts(lengths, dimension, dtype):
    """A batch of texts has their number, dimension and rows, in order."""
    texts = matrices(lengths, dimension, dtype)
    batch = TokenBatch.from_list(texts)
    assert (len(batch), batch.dimension, batch.embeddings.dtype) == (len(texts), dimension, dtype)
    assert len(list(batch)) == len(texts)
    for i, (found, text) in enumerate(zip(batch, texts, strict=True)):
        np.testing.assert_array_equal(found, text)
        np.testing.assert_array_equal(batch[i], text)
        np.testing.assert_array_equal(batch[i - len(texts)], text)
        assert np.shares_memory(found, batch.embeddings)
        assert not np.shares_memory(found, text)


@pytest.mark.parametrize("i", [3, -4, 100])
def test_batch_index_out_of_range(i):
    """Beyond either end there is no text."""
    with pytest.raises(IndexError):
        TokenBatch.from_list(matrices([1, 2, 3]))[i]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.data())
def test_slice_is_a_view_of_some_texts(lengths, data):
    """A slice has the texts of its range, in the same memory."""
    texts = matrices(lengths)
    batch = TokenBatch.from_list(texts)
    start = data.draw(st.integers(0, len(texts)))
    stop = data.draw(st.integers(start, len(texts) + 2))
    part = batch.slice(start, stop)
    assert len(part) == len(texts[start:stop])
    for found, text in zip(part, texts[start:stop], strict=True):
        np.testing.assert_array_equal(found, text)
        assert np.shares_memory(found, batch.embeddings)


def test_ids_follow_their_tokens():
    """Slices, concatenations and single texts keep the ids of their tokens."""
    ids = [np.int32([5, 70_000]), np.int32([-1]), np.int32([3, 5, 3])]
    batch = TokenBatch.from_list(matrices([2, 1, 3]), ids)
    assert batch.ids.tolist() == [5, 70_000, -1, 3, 5, 3]
    assert batch.slice(1, 3).ids.tolist() == [-1, 3, 5, 3]
    assert batch.slice(3, 3).ids.tolist() == []
    representation = Representation(np.eye(3, dtype=np.float32), batch)
    assert representation[2].tokens.ids.tolist() == [3, 5, 3]
    assert Representation.concatenate([representation[2], representation[0]]).tokens.ids.tolist() == [
        3,
        5,
        3,
        5,
        70_000,
    ]
    without = Representation.from_embeddings(np.eye(3)[:1], matrices([2]))
    assert without.tokens.ids is None
    assert Representation.concatenate([representation, without]).tokens.ids is None


def test_terms_are_the_distinct_ids():
    """Terms are sorted and without -1; without ids there are none."""
    ids = [np.int32([70_000, 5, 70_000]), np.int32([-1]), np.int32([3, -1, 2])]
    batch = TokenBatch.from_list(matrices([3, 1, 3]), ids)
    assert [batch.terms(i).tolist() for i in range(3)] == [[5, 70_000], [], [2, 3]]
    assert TokenBatch.from_list(matrices([2])).terms(0) is None
    two_bits = get_codec("2bit")
    codes = TokenCodes(two_bits.encode(batch.embeddings), batch.offsets, batch.dimension, two_bits)
    assert codes.terms(0) is None


def test_ids_that_the_term_store_uses_itself():
    """They are refused before they are stored. The greatest id of a word is allowed."""
    batch = TokenBatch.from_list(matrices([1, 1]), ids=[np.int32([2**30 - 2]), np.int32([2**30 - 1])])
    assert batch.terms(0).tolist() == [2**30 - 2]
    with pytest.raises(InvalidInput, match="text 1 must be at most 1073741822, got 1073741823"):
        batch.terms(1)


@pytest.mark.parametrize("ids", [np.int32([1]), np.int32([[1, 2]]), np.int64([1, 2]), np.float32([1, 2])])
def test_ids_that_do_not_fit(ids):
    """There must be one int32 for each token."""
    with pytest.raises(InvalidInput, match=r"ids must be int32, one for each of 2 tokens; got \w+ of shape \("):
        TokenBatch(matrices([2])[0], np.array([0, 2]), ids)


def test_batch_of_no_texts():
    """No texts make an empty batch."""
    assert len(TokenBatch.from_list([])) == 0
    assert list(TokenBatch.from_list([])) == []


@pytest.mark.parametrize(
    ("shape", "offsets", "message"),
    [
        ((4,), [0, 4], r"must be a \(total, dimension\) matrix; got shape \(4,\)"),
        ((2, 2, 2), [0, 2], r"must be a \(total, dimension\) matrix; got shape \(2, 2, 2\)"),
        ((4, 2), [1, 4], r"offsets must run from 0 to the 4 token embeddings, got 1 to 4"),
        ((4, 2), [0, 3], r"offsets must run from 0 to the 4 token embeddings, got 0 to 3"),
        ((4, 2), [0, 5], r"offsets must run from 0 to the 4 token embeddings, got 0 to 5"),
        ((4, 2), [0, 2, 2, 4], "text 1 has none"),
        ((4, 2), [0, 0, 4], "text 0 has none"),
        ((4, 2), [0, 4, 4], "text 1 has none"),
        ((4, 2), [0, 3, 1, 4], "text 1 has none"),
    ],
)
def test_an_invalid_batch(shape, offsets, message):
    """Shapes and offsets that do not fit together are refused."""
    with pytest.raises(InvalidInput, match=message):
        TokenBatch(np.ones(shape, dtype=np.float32), np.array(offsets, dtype=np.int64))


def test_batch_without_offsets():
    """Offsets have at least one entry, also without texts."""
    with pytest.raises(InvalidInput, match="offsets"):
        TokenBatch(np.zeros((0, 2), dtype=np.float32), np.zeros(0, dtype=np.int64))


def test_batch_from_an_empty_text():
    """A text without tokens is refused when it is batched."""
    with pytest.raises(InvalidInput, match="text 1 has none"):
        TokenBatch.from_list([np.ones((2, 3), np.float32), np.ones((0, 3), np.float32)])


def test_batch_shows_its_size_not_its_numbers():
    assert repr(TokenBatch.from_list(matrices([2, 1]))) == "TokenBatch(texts=2, dimension=3, tokens=3)"


# --- Representation -----------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 5), st.sampled_from(["f2", "f4", "f8"]))
def test_representation_is_normalised(lengths, dimension, dtype):
    """Every vector is divided by its norm, whatever its dtype, in float32."""
    tokens = matrices(lengths, dimension, dtype)
    pooled = np.concatenate(matrices([len(lengths)], dimension, dtype))
    made = Representation.from_embeddings(pooled, tokens)
    assert len(made) == len(lengths)
    assert made.pooled.dtype == made.tokens.embeddings.dtype == np.float32
    for rows, given_rows in [(made.pooled, pooled), *zip(made.tokens, tokens, strict=True)]:
        assert rows.shape == given_rows.shape
        for row, given_row in zip(rows.tolist(), given_rows.astype(float).tolist(), strict=True):
            norm = math.sqrt(sum(x * x for x in given_row))
            assert row == pytest.approx([x / norm for x in given_row], abs=1e-6)


@pytest.mark.parametrize("scale", [1, 3])
def test_representation_leaves_the_callers_arrays_alone(scale):
    """The caller's arrays keep their numbers and share no memory with ours, also where nothing changes."""
    pooled = scale * np.float32([[1, 0], [0, 1]])
    tokens = [scale * np.float32([[0, 1]]), scale * np.float32([[1, 0], [0, -1]])]
    before = [array.copy() for array in (pooled, *tokens)]
    made = Representation.from_embeddings(pooled, tokens)
    for array, copy in zip((pooled, *tokens), before, strict=True):
        np.testing.assert_array_equal(array, copy)
        assert not np.shares_memory(array, made.pooled)
        assert not np.shares_memory(array, made.tokens.embeddings)


@pytest.mark.parametrize("scale", [1, 3])
def test_representation_of_one_text_leaves_the_callers_array_alone(scale):
    """One matrix is copied too."""
    tokens = scale * np.float32([[0, 1]])
    made = Representation.from_embeddings(tokens, [tokens])
    made.tokens.embeddings[:] = 7
    made.pooled[:] = 7
    np.testing.assert_array_equal(tokens, [[0, scale]])


@pytest.mark.parametrize(("bad", "norm"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "inf"), (0, "0.0")])
def test_vectors_without_a_direction(bad, norm):
    """Vectors that are zero or contain NaN or inf are refused; the error names the first."""
    good = np.ones((2, 3), dtype=np.float32)
    row = np.float32([0, bad, 0])
    with pytest.raises(InvalidInput, match=rf"pooled embedding 1 has norm {norm}: .*; 1 of 2 are not"):
        Representation.from_embeddings(np.stack([good[0], row]), [good, good])
    with pytest.raises(InvalidInput, match=rf"token embedding 2 has norm {norm}: .*; 2 of 4 are not"):
        Representation.from_embeddings(good, [good, np.stack([row, row])])


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-23, 1e23, 1e30])
def test_vectors_of_extreme_length(scale):
    """A vector that is finite and not zero has a direction, however short or long it is."""
    rows = np.array([[3, 4]]) * scale
    made = Representation.from_embeddings(rows, [rows])
    np.testing.assert_allclose(made.pooled, [[0.6, 0.8]], atol=1e-4)
    np.testing.assert_allclose(made.tokens.embeddings, [[0.6, 0.8]], atol=1e-4)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([np.ones((1, 3)), np.ones((2, 4))], r"text 1 .* the dimension of the first text's; got shape \(2, 4\)"),
        ([np.ones((1, 3)), np.ones((0, 3))], r"text 1 .* at least one row .*; got shape \(0, 3\)"),
        ([np.ones(3), np.ones((1, 3))], r"text 0 must be a \(n_tokens, dimension\) matrix, .*; got shape \(3,\)"),
        ([np.ones((1, 3))], r"one row for each of the 1 texts; got shape \(2, 3\)"),
        ([np.ones((1, 3))] * 3, r"one row for each of the 3 texts; got shape \(2, 3\)"),
    ],
)
def test_shapes_that_do_not_fit(tokens, message):
    """Ragged widths, texts without tokens and unequal counts are refused."""
    with pytest.raises(InvalidInput, match=message):
        Representation.from_embeddings(np.ones((2, 3)), tokens)


def test_one_pooled_vector_may_be_flat():
    """The pooled vector of one text may come without its row."""
    made = Representation.from_embeddings(np.float32([3, 4]), [np.float32([[0, 2]])])
    np.testing.assert_allclose(made.pooled, [[0.6, 0.8]])


def test_representation_of_pooled_embeddings_without_rows():
    """The constructor wants a matrix too."""
    tokens = TokenBatch.from_list(matrices([1, 1, 1]))
    with pytest.raises(InvalidInput, match=r"one row for each of the 3 texts; got shape \(3,\)"):
        Representation(np.ones(3, dtype=np.float32), tokens)


def test_representation_of_one_text():
    """An index gives one text, from either end, in the same memory."""
    made = Representation.from_embeddings(np.eye(3), matrices([2, 1, 4]))
    for i, text in [(0, 0), (1, 1), (2, 2), (-1, 2), (-3, 0)]:
        one = made[i]
        assert len(one) == 1
        np.testing.assert_array_equal(one.pooled, np.eye(3)[text : text + 1])
        np.testing.assert_array_equal(one.tokens[0], made.tokens[text])
        assert np.shares_memory(one.pooled, made.pooled)
        assert np.shares_memory(one.tokens.embeddings, made.tokens.embeddings)
    assert [len(one.tokens[0]) for one in made] == [2, 1, 4]
    assert [len(one) for one in made] == [1, 1, 1]
    with pytest.raises(IndexError):
        made[3]


@pytest.mark.parametrize(("start", "stop", "lengths"), [(0, 3, [2, 1, 4]), (1, 9, [1, 4]), (1, 2, [1]), (2, 2, [])])
def test_representation_slice(start, stop, lengths):
    """A slice holds the texts of its range, as far as they go, in the same memory."""
    made = Representation.from_embeddings(np.eye(3), matrices([2, 1, 4]))
    part = made.slice(start, stop)
    np.testing.assert_array_equal(part.pooled, np.eye(3)[start:stop])
    assert [len(tokens) for tokens in part.tokens] == lengths
    for tokens, expected in zip(part.tokens, list(made.tokens)[start:stop], strict=True):
        np.testing.assert_array_equal(tokens, expected)
    if lengths:
        assert np.shares_memory(part.pooled, made.pooled)
        assert np.shares_memory(part.tokens.embeddings, made.tokens.embeddings)


def test_representations_are_concatenated():
    """The texts of several representations follow each other in one, copied."""
    one = Representation.from_embeddings(np.eye(3)[:2], matrices([2, 1]))
    two = Representation.from_embeddings(np.eye(3)[2:], matrices([4]))
    both = Representation.concatenate([one, two])
    np.testing.assert_array_equal(both.pooled, np.eye(3))
    assert len(both) == 3
    for found, expected in zip(both.tokens, [*one.tokens, *two.tokens], strict=True):
        np.testing.assert_array_equal(found, expected)
    alone = Representation.concatenate([two])
    assert not np.shares_memory(alone.pooled, two.pooled)
    assert not np.shares_memory(alone.tokens.embeddings, two.tokens.embeddings)


def coded(lengths, codec="2bit", dimension=3, with_ids=False):
    """Return a representation whose tokens are codes."""
    found = get_codec(codec)
    codes = [found.encode(matrix) for matrix in matrices(lengths, dimension)]
    ids = [np.arange(n, dtype=np.int32) for n in lengths] if with_ids else None
    return Representation(np.eye(len(lengths), 3, dtype=np.float32), TokenCodes.from_list(codes, dimension, found, ids))


def test_codes_stay_codes_when_they_are_concatenated():
    """Codes of one codec are copied, not decoded; ids are kept if every part has them."""
    one, two = coded([2, 1], with_ids=True), coded([3], with_ids=True)
    both = Representation.concatenate([one, two])
    assert isinstance(both.tokens, TokenCodes)
    assert (both.tokens.codec, both.tokens.dimension) == (get_codec("2bit"), 3)
    assert both.tokens.offsets.tolist() == [0, 2, 3, 6]
    assert both.tokens.ids.tolist() == [0, 1, 0, 0, 1, 2]
    np.testing.assert_array_equal(both.tokens.codes, np.concatenate([one.tokens.codes, two.tokens.codes]))
    assert not np.shares_memory(Representation.concatenate([two]).tokens.codes, two.tokens.codes)
    assert Representation.concatenate([one, coded([1])]).tokens.ids is None


@pytest.mark.parametrize("codec", ["int8", "2bit/2", None])
def test_tokens_of_two_codecs_are_decoded_when_they_are_concatenated(codec):
    """Codes of different codecs, or codes and numbers, become numbers."""
    one = coded([2, 1])
    two = coded([3], codec) if codec else Representation.from_embeddings(np.eye(3)[:1], matrices([3]))
    both = Representation.concatenate([one, two])
    assert isinstance(both.tokens, TokenBatch)
    for found, expected in zip(both.tokens, [*one.tokens, *two.tokens], strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_a_part_without_texts_is_skipped_when_parts_are_concatenated():
    """A part of no texts may have any dimension and any form."""
    nothing = Representation(np.zeros((0, 3), np.float32), TokenBatch.from_list([]))
    assert isinstance(Representation.concatenate([nothing, coded([2]), nothing]).tokens, TokenCodes)
    assert len(Representation.concatenate([nothing, nothing])) == 0


def test_parts_of_different_dimensions_are_not_concatenated():
    """Codes of 3 and of 4 dimensions may take the same bytes, but are no batch."""
    assert coded([1]).tokens.codes.shape == coded([1], dimension=4).tokens.codes.shape
    with pytest.raises(DimensionMismatch, match=r"must all have one dimension, got \[3, 4\]"):
        Representation.concatenate([coded([1]), coded([1], dimension=4)])


def test_representation_shows_its_size_not_its_numbers():
    representation = Representation.from_embeddings(np.ones((2, 3)), matrices([2, 1]))
    assert repr(representation) == "Representation(texts=2, dimension=3, tokens=3)"


# --- TokenCodes ----------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.sampled_from(["float", "2bit"]), st.data())
def test_texts_that_are_taken(lengths, kind, data):
    """Texts come in the order asked for, also more than once, with their ids; as numbers and as codes."""
    ids = [np.arange(10 * i, 10 * i + n, dtype=np.int32) for i, n in enumerate(lengths)]
    tokens = TokenBatch.from_list(matrices(lengths), ids)
    if kind == "2bit":
        rows = [get_codec(kind).encode(matrix) for matrix in tokens]
        tokens = TokenCodes.from_list(rows, 3, get_codec(kind), ids)
        assert tokens.codec == get_codec(kind)
    pooled = np.stack([matrix[0] for matrix in tokens])
    texts = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=8))
    taken = Representation(pooled, tokens).take(texts)
    assert type(taken.tokens) is type(tokens)
    assert len(taken) == len(taken.tokens) == len(texts)
    for i, text in enumerate(texts):
        np.testing.assert_array_equal(taken.pooled[i], pooled[text])
        np.testing.assert_array_equal(taken.tokens[i], tokens[text])
        np.testing.assert_array_equal(taken.tokens.terms(i), ids[text])
    start = data.draw(st.integers(0, len(texts)))
    for i, text in enumerate(texts[start:]):
        np.testing.assert_array_equal(taken.tokens.slice(start, len(texts)).terms(i), ids[text])


@pytest.mark.parametrize("name", ["2bit", "2bit/2", "float16"])
def test_slices_and_items_of_codes(name):
    """A slice of codes shares memory. An item is decoded, and counts from either end."""
    tokens = coded([3, 1, 5, 2], name).tokens
    for start, stop in ((0, 4), (1, 3), (3, 4), (2, 2)):
        part = tokens.slice(start, stop)
        assert len(part) == stop - start
        assert part.offsets[0] == 0
        assert np.shares_memory(part.codes, tokens.codes) or start == stop
        for i, found in enumerate(part):
            np.testing.assert_array_equal(found, tokens[start + i])
    np.testing.assert_array_equal(tokens[-1], tokens[3])
    # The last bit of a matrix product depends on the number of rows.
    np.testing.assert_allclose(tokens.embeddings, np.concatenate(list(tokens)), rtol=0, atol=1e-6)
    for i in (4, -5):
        with pytest.raises(IndexError):
            tokens[i]


def test_texts_are_taken_from_the_end_too():
    tokens = two_bit_codes([2, 3])
    assert tokens.take([-1, 0]).offsets.tolist() == [0, 3, 5]
    np.testing.assert_array_equal(tokens.take([-1]).codes, tokens.codes[2:])
    with pytest.raises(IndexError):
        tokens.take([2])


def test_codes_that_do_not_fit():
    """A store writes codes as they are, so wrong ones are refused before."""
    codes, offsets = get_codec("2bit").encode(np.eye(3, 8, dtype=np.float32)), np.asarray([0, 1, 3])
    assert len(TokenCodes(codes, offsets, 8, get_codec("2bit"))) == 2
    for bad, message in (
        (
            (codes, offsets, 8, get_codec("int8")),
            r"8 dimensions by 'int8' must be a \(total, 8\) .* uint8 of shape \(3, 2\)",
        ),
        ((codes.astype(np.int32), offsets, 8, get_codec("2bit")), r"got int32 of shape \(3, 2\)"),
        ((codes, np.asarray([0, 0, 3]), 8, get_codec("2bit")), "text 0 has none"),
        (
            (codes, np.asarray([0, 2]), 8, get_codec("2bit")),
            "offsets must run from 0 to the 3 token embeddings, got 0 to 2",
        ),
        ((codes, offsets, 8, get_codec("2bit"), np.arange(2, dtype=np.int32)), "ids must be int32, one for each of 3"),
    ):
        with pytest.raises(InvalidInput, match=message):
            TokenCodes(*bad)


def test_codes_show_their_size_not_their_numbers():
    codes = two_bit_codes([2, 3])
    assert repr(codes) == "TokenCodes(texts=2, dimension=3, tokens=5, codec='2bit')"


def test_vectors_of_ones_own_may_bring_ids():
    ids = [[5, -1], np.int64([70_000])]
    given = Representation.from_embeddings(np.eye(2), matrices([2, 1], 2), ids=ids)
    assert given.tokens.ids.dtype == np.int32
    assert given.tokens.ids.tolist() == [5, -1, 70_000]
    assert Representation.from_embeddings(np.eye(2), matrices([2, 1], 2)).tokens.ids is None


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[1, 2]], "one sequence for each of the 2 texts, got 1"),
        ([[1], [2]], r"ids of text 0 must be 2 integers.* got int64 of shape \(1,\)"),
        ([[1, 2], [0.5]], "ids of text 1 must be 1 integers.* got float64"),
        ([[1, -2], [3]], "ids of text 0 must be from -1 .* got -2 to 1"),
        ([[1, 2], [2**31]], "ids of text 1 must be from -1 .* got 2147483648"),
        ([[1, 2], [2**30 - 1]], "ids of text 1 must be from -1 .* to 1073741822; got 1073741823"),
    ],
)
def test_ids_of_ones_own_that_cannot_be_used(ids, message):
    with pytest.raises(InvalidInput, match=message):
        Representation.from_embeddings(np.eye(2), matrices([2, 1], 2), ids=ids)


def test_ids_without_tokens_are_refused():
    with pytest.raises(InvalidInput, match="pass tokens= as well"):
        Representation.from_embeddings(np.eye(2), ids=[[1], [2]])


# --- tensors ------------------------------------------------------------------------------


def test_tensors_of_any_kind():
    """Tensors with gradients and of bfloat16 become numbers, and keep their gradients."""
    torch = pytest.importorskip("torch")
    pooled = torch.tensor([[1.0, 2.0], [3.0, -4.0]], requires_grad=True)
    matrices = [torch.tensor([[1.0, 0.5]], dtype=torch.bfloat16), torch.tensor([[2.0, 1.0]], dtype=torch.float16)]
    expected = Representation.from_embeddings(
        pooled.tolist(), [matrix.double().numpy() for matrix in matrices], ids=[[1], [2]]
    )
    of_rows = [row.to(torch.bfloat16) for row in pooled]
    for tensor in (pooled, pooled.to(torch.bfloat16), of_rows):
        made = Representation.from_embeddings(tensor, matrices, ids=[torch.tensor([1]), torch.tensor([2])])
        np.testing.assert_array_equal(made.pooled, expected.pooled)
        np.testing.assert_array_equal(made.tokens.embeddings, expected.tokens.embeddings)
        np.testing.assert_array_equal(made.tokens.ids, expected.tokens.ids)
    assert pooled.requires_grad


@pytest.mark.parametrize("pooled", [[[1.0], [1.0, 2.0]], "abc", [["a"]], [{"a": 1}], object()])
def test_what_is_no_array_of_numbers(pooled):
    with pytest.raises(InvalidInput, match="pooled must be an array of numbers, with rows of equal length"):
        Representation.from_embeddings(pooled)
    with pytest.raises(InvalidInput, match="the token embeddings of text 0 must be an array of numbers"):
        Representation.from_embeddings([[1.0]], [pooled])

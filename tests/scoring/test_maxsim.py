"""The score against plain nested loops in float64."""

import math

import numpy as np
import pytest
import torch
from helpers.ragged import batch, dot, loop_late, ragged_pairs, unit_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from smart_rag.embeddings.tokens import TokenBatch
from smart_rag.errors import DimensionMismatch
from smart_rag.scoring import device_products, maxsim, products

DIMENSIONS = [1, 3, 96, 384]


CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@settings(max_examples=50, deadline=None)
@given(ragged_pairs())
def test_late_interaction_equals_the_loop(pair):
    """Ragged texts of either dtype score what the definition says."""
    late = maxsim.late_interaction(*pair)
    assert late.dtype == np.float32
    np.testing.assert_allclose(late, loop_late(*pair), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_late_interaction_of_negative_similarities(dimension, dtype):
    """Where every similarity is below zero the best of them is too: nothing else takes part."""
    rng = np.random.default_rng(dimension)
    queries, documents = batch(rng, [1, 4], dimension, dtype), batch(rng, [1, 3, 1, 6], dimension, dtype)
    queries = TokenBatch(np.abs(queries.embeddings), queries.offsets)
    documents = TokenBatch(-np.abs(documents.embeddings), documents.offsets)
    late = maxsim.late_interaction(queries, documents)
    assert late.max() < 0
    np.testing.assert_allclose(late, loop_late(queries, documents), rtol=0, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(pair=ragged_pairs(), seed=st.integers(0, 99), block=st.integers(1, 8))
def test_weighted_late_interaction_equals_the_loop(pair, seed, block):
    """A mean in which each query token has its weight, whatever blocks queries are cut into."""
    queries, documents = pair
    weights = np.random.default_rng(seed).uniform(0.01, 12, len(queries.embeddings)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maxsim, "_BLOCK_QUERY_TOKENS", block)
        late = maxsim.late_interaction(queries, documents, token_weights=weights)
    assert late.dtype == np.float32
    start = 0
    for i, query in enumerate(queries):
        parts = weights[start : start + len(query)].astype(float).tolist()
        start += len(query)
        for j, document in enumerate(documents):
            total = 0.0
            for part, q in zip(parts, query.astype(float).tolist(), strict=True):
                total += part * max(dot(q, d) for d in document.astype(float).tolist())
            assert late[i, j] == pytest.approx(total / sum(parts), abs=1e-5)


def test_equal_weights_are_none():
    """A late score stays a mean of cosines, however large the weights are."""
    rng = np.random.default_rng(0)
    queries, documents = batch(rng, [3, 1, 4], 96), batch(rng, [5, 2], 96)
    late = maxsim.late_interaction(queries, documents)
    weights = np.full(8, 7.5, dtype=np.float32)
    np.testing.assert_allclose(maxsim.late_interaction(queries, documents, token_weights=weights), late, atol=1e-6)
    assert maxsim.shares(queries.offsets, weights).tolist() == pytest.approx([1 / 3] * 3 + [1] + [1 / 4] * 4)
    assert maxsim.shares(np.zeros(1, dtype=np.int64)).tolist() == []


@pytest.mark.parametrize("documents", [1, 3, 100, 10**9])
def test_inverse_document_frequency_equals_the_formula(documents):
    """Positive for every token, greater for rarer ones; what none holds counts as held by one."""
    frequencies = sorted({0, 1, documents // 2, documents})
    found = maxsim.inverse_document_frequency(np.asarray(frequencies), documents)
    assert found.dtype == np.float32
    for weight, frequency in zip(found.tolist(), frequencies, strict=True):
        assert weight == pytest.approx(math.log(1 + documents / max(frequency, 1)), rel=1e-6)
    assert found.min() >= np.float32(math.log(2))
    assert sorted(found.tolist(), reverse=True) == found.tolist()


def test_late_interaction_by_hand():
    """Two query tokens find 1 and 0.8; the mean is over the query's tokens, not the document's."""
    query = TokenBatch.from_list([np.float32([[1, 0], [0, 1]])])
    documents = TokenBatch.from_list([np.float32([[1, 0], [0.6, 0.8], [-1, 0]]), np.float32([[0, -1]])])
    np.testing.assert_allclose(maxsim.late_interaction(query, documents), [[0.9, -0.5]], atol=1e-7)


def test_float16_tokens_are_compared_in_float32():
    """A similarity keeps digits that float16 has not."""
    one = TokenBatch.from_list([np.float16([[1, 2.0**-6]])])
    assert maxsim.late_interaction(one, one)[0, 0] == 1 + 2.0**-12


@settings(max_examples=30, deadline=None)
@given(ragged_pairs())
def test_a_score_does_not_depend_on_companions(pair):
    """A document scores alone what it scores among others."""
    queries, documents = pair
    together = maxsim.late_interaction(queries, documents)
    for i in range(len(documents)):
        alone = maxsim.late_interaction(queries, documents.slice(i, i + 1))
        np.testing.assert_allclose(alone[:, 0], together[:, i], rtol=0, atol=1e-6)
    for i in range(len(queries)):
        alone = maxsim.late_interaction(queries.slice(i, i + 1), documents)
        np.testing.assert_allclose(alone[0], together[i], rtol=0, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(ragged_pairs(), st.randoms(use_true_random=False))
def test_permuted_documents_permute_the_scores(pair, random):
    """The order of the documents moves the columns and nothing else."""
    queries, documents = pair
    order = list(range(len(documents)))
    random.shuffle(order)
    permuted = maxsim.late_interaction(queries, TokenBatch.from_list([documents[i] for i in order]))
    np.testing.assert_allclose(permuted, maxsim.late_interaction(queries, documents)[:, order], rtol=0, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(ragged_pairs(), st.integers(1, 8), st.integers(1, 40))
def test_blocks_equal_the_whole(pair, query_tokens, numbers):
    """Tiny blocks, with queries and documents longer than one of them, give the same scores."""
    whole = maxsim.late_interaction(*pair)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maxsim, "_BLOCK_QUERY_TOKENS", query_tokens)
        patch.setattr(products, "_BLOCK_BYTES", 4 * numbers)
        blocked = maxsim.late_interaction(*pair)
    np.testing.assert_allclose(blocked, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("lengths", "dimension", "rows"), [([1, 7, 2, 1], 3, [1, 7, 3]), ([1], 7, [1])])
def test_blocks_stay_within_their_bounds(monkeypatch, lengths, dimension, rows):
    """No block with its matrix of similarities is larger than its bound, but for a text that alone is longer."""
    rng = np.random.default_rng(0)
    queries, documents = batch(rng, lengths, dimension), batch(rng, [2, 1, 1, 20, 3, 1, 2, 3], dimension)
    monkeypatch.setattr(maxsim, "_BLOCK_QUERY_TOKENS", 3)
    # Five document tokens, each with a similarity for each token of the longest query.
    monkeypatch.setattr(products, "_BLOCK_BYTES", 5 * 4 * (dimension + max(rows)))
    multiply = products.multiply
    shapes = []

    def watched(left, right):
        found = multiply(left, right)
        shapes.append(found.shape)
        return found

    monkeypatch.setattr(products, "multiply", watched)
    late = maxsim.late_interaction(queries, documents)
    np.testing.assert_allclose(late, loop_late(queries, documents), rtol=0, atol=1e-5)
    assert shapes == [(row, columns) for columns in (4, 20, 4, 5) for row in rows]


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
def test_blocks_are_whole_texts(limit):
    """Blocks follow each other, and each is as long as the limit allows."""
    offsets = np.array([0, 2, 3, 4, 9, 10, 12], dtype=np.int64)
    blocks = list(maxsim._blocks(offsets, limit))
    assert [start for start, _ in blocks] == [0, *(stop for _, stop in blocks[:-1])]
    assert blocks[-1][1] == 6
    for start, stop in blocks:
        assert stop == start + 1 or offsets[stop] - offsets[start] <= limit
        assert stop == 6 or offsets[stop + 1] - offsets[start] > limit


@pytest.mark.parametrize(
    ("free", "reserved", "allocated", "expected"),
    [
        (80 << 30, 0, 0, 1 << 30),  # more keeps no GPU busier
        (2 << 30, 0, 0, 1 << 28),
        (1 << 30, 3 << 30, 2 << 30, 1 << 28),  # of what torch has reserved, a third is not in use
        (1 << 20, 0, 0, 1 << 24),
    ],
)
def test_blocks_of_a_gpu_follow_its_free_memory(monkeypatch, free, reserved, allocated, expected):
    """An eighth of what is free, torch's own reserve included; neither tiny nor larger than is of use."""
    device = torch.device("cuda:0")
    numbers = {"mem_get_info": (free, 80 << 30), "memory_reserved": reserved, "memory_allocated": allocated}
    for name, number in numbers.items():

        def asked(found, number=number):
            assert found == device
            return number

        monkeypatch.setattr(torch.cuda, name, asked)
    assert device_products.block_bytes(device) == expected


@CUDA
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_gpu_that_is_nearly_full(device):
    """Where other tensors have the memory, blocks are smaller and scores the same."""
    left = 1 << 30
    rng = np.random.default_rng(0)
    queries, documents = batch(rng, [3, 1], 96), batch(rng, [4, 1, 9], 96)
    others = torch.empty(torch.cuda.mem_get_info(device)[0] - left, dtype=torch.uint8, device=device)
    assert device_products._LEAST_BLOCK_BYTES <= device_products.block_bytes(torch.device(device)) <= left // 4
    late = maxsim.late_interaction(queries, documents, device)
    del others
    torch.cuda.empty_cache()
    np.testing.assert_allclose(late, loop_late(queries, documents), rtol=0, atol=1e-5)


def test_no_documents():
    """No documents have no scores."""
    query = TokenBatch.from_list([np.float32([[1, 0]])])
    none = TokenBatch(np.zeros((0, 2), dtype=np.float32), np.zeros(1, dtype=np.int64))
    assert maxsim.late_interaction(query, none).shape == (1, 0)
    assert maxsim.late_interaction(none, query).shape == (0, 1)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA), pytest.param("cuda:0", marks=CUDA)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_late_interaction_on_each_device(device, dtype):
    """Every device gives the loop's scores."""
    rng = np.random.default_rng(7)
    queries, documents = batch(rng, [3, 1, 5], 96, dtype), batch(rng, [4, 1, 9, 2], 96, dtype)
    late = maxsim.late_interaction(queries, documents, device)
    np.testing.assert_allclose(late, loop_late(queries, documents), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["read-only", "reversed"])
def test_any_numpy_layout_is_scored(kind):
    """Tokens from a file mapped for reading, or seen backwards, score as a copy of them does."""
    tokens = batch(np.random.default_rng(1), [4], 3)
    embeddings = tokens.embeddings.copy()
    if kind == "read-only":
        embeddings.setflags(write=False)
        # torch warns once in a process only.
        always = torch.is_warn_always_enabled()
        torch.set_warn_always(True)
    else:
        embeddings = embeddings[::-1]
    seen = TokenBatch(embeddings, tokens.offsets)
    try:
        late = maxsim.late_interaction(tokens, seen)
    finally:
        if kind == "read-only":
            torch.set_warn_always(always)
    np.testing.assert_allclose(late, loop_late(tokens, seen), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_pooled_similarity_equals_the_loop(dimension):
    """The pooled score is the dot product of unit vectors."""
    rng = np.random.default_rng(dimension)
    queries, documents = unit_rows(rng, 3, dimension), unit_rows(rng, 5, dimension)
    expected = [[dot(q, d) for d in documents.astype(float).tolist()] for q in queries.astype(float).tolist()]
    similarities = maxsim.pooled_similarity(queries, documents)
    assert similarities.dtype == np.float32
    np.testing.assert_allclose(similarities, expected, rtol=0, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(ragged_pairs())
def test_similarities_equal_the_loop(pair):
    """Each is a cosine; the mean of the highest of each query token is the late score."""
    query, document = pair[0][0], pair[1][0]
    cosines = maxsim.similarities(query, document)
    assert (cosines.dtype, cosines.shape) == (np.float32, (len(query), len(document)))
    for i, q in enumerate(query.astype(float).tolist()):
        for j, d in enumerate(document.astype(float).tolist()):
            assert cosines[i, j] == pytest.approx(dot(q, d), abs=1e-5)
    late = maxsim.late_interaction(pair[0].slice(0, 1), pair[1].slice(0, 1))
    assert float(cosines.max(axis=1).mean()) == pytest.approx(float(late[0, 0]), abs=1e-5)


def test_pooled_dimension_mismatch():
    """Pooled embeddings of different widths are refused, and both widths named."""
    message = "the query's pooled embedding has 3 dimensions, the documents' 4"
    with pytest.raises(DimensionMismatch, match=message):
        maxsim.pooled_similarity(np.ones((1, 3), np.float32), np.ones((1, 4), np.float32))


def test_token_dimension_mismatch():
    """Token embeddings of different widths are refused, and both widths named."""
    rng = np.random.default_rng(0)
    with pytest.raises(DimensionMismatch, match="token embeddings have 3 dimensions, the documents' 96"):
        maxsim.late_interaction(batch(rng, [2], 3), batch(rng, [2], 96))

"""The score against plain nested loops in float64."""

import math
import os
import platform
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smart_rag.config import check_weights
from smart_rag.demo import sample_folder, sample_questions
from smart_rag.embeddings.codec import get_codec
from smart_rag.embeddings.representation import TokenBatch, TokenCodes
from smart_rag.errors import DimensionMismatch, InvalidInput
from smart_rag.scoring import maxsim as scoring

DIMENSIONS = [1, 3, 96, 384]
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def unit_rows(rng, n, dimension, dtype=np.float32):
    rows = rng.standard_normal((n, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(dtype)


def batch(rng, lengths, dimension, dtype=np.float32):
    return TokenBatch.from_list([unit_rows(rng, n, dimension, dtype) for n in lengths])


def dot(a, b):
    total = 0.0
    for x, y in zip(a, b, strict=True):
        total += x * y
    return total


def loop_late(queries, documents):
    """Return late(q, d) by its definition, in Python's own floats."""
    scores = []
    for query in queries:
        row = []
        for document in documents:
            total = 0.0
            for q in query.astype(np.float64).tolist():
                best = -np.inf
                for d in document.astype(np.float64).tolist():
                    best = max(best, dot(q, d))
                total += best
            row.append(total / len(query))
        scores.append(row)
    return np.array(scores)


@st.composite
def ragged_pairs(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dimension = draw(st.sampled_from(DIMENSIONS))
    kinds = st.sampled_from([np.float32, np.float16])
    queries = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    documents = draw(st.lists(st.integers(1, 7), min_size=1, max_size=5))
    return batch(rng, queries, dimension, draw(kinds)), batch(rng, documents, dimension, draw(kinds))


@settings(max_examples=50, deadline=None)
@given(ragged_pairs())
def test_late_interaction_equals_the_loop(pair):
    """Ragged texts of either dtype score what the definition says."""
    late = scoring.late_interaction(*pair)
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
    late = scoring.late_interaction(queries, documents)
    assert late.max() < 0
    np.testing.assert_allclose(late, loop_late(queries, documents), rtol=0, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(pair=ragged_pairs(), seed=st.integers(0, 99), block=st.integers(1, 8))
def test_weighted_late_interaction_equals_the_loop(pair, seed, block):
    """A mean in which each query token has its weight, whatever blocks queries are cut into."""
    queries, documents = pair
    weights = np.random.default_rng(seed).uniform(0.01, 12, len(queries.embeddings)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "_BLOCK_QUERY_TOKENS", block)
        late = scoring.late_interaction(queries, documents, token_weights=weights)
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
    late = scoring.late_interaction(queries, documents)
    weights = np.full(8, 7.5, dtype=np.float32)
    np.testing.assert_allclose(scoring.late_interaction(queries, documents, token_weights=weights), late, atol=1e-6)
    assert scoring.shares(queries.offsets, weights).tolist() == pytest.approx([1 / 3] * 3 + [1] + [1 / 4] * 4)
    assert scoring.shares(np.zeros(1, dtype=np.int64)).tolist() == []


@pytest.mark.parametrize("documents", [1, 3, 100, 10**9])
def test_inverse_document_frequency_equals_the_formula(documents):
    """Positive for every token, greater for rarer ones; what none holds counts as held by one."""
    frequencies = sorted({0, 1, documents // 2, documents})
    found = scoring.inverse_document_frequency(np.asarray(frequencies), documents)
    assert found.dtype == np.float32
    for weight, frequency in zip(found.tolist(), frequencies, strict=True):
        assert weight == pytest.approx(math.log(1 + documents / max(frequency, 1)), rel=1e-6)
    assert found.min() >= np.float32(math.log(2))
    assert sorted(found.tolist(), reverse=True) == found.tolist()


def test_late_interaction_by_hand():
    """Two query tokens find 1 and 0.8; the mean is over the query's tokens, not the document's."""
    query = TokenBatch.from_list([np.float32([[1, 0], [0, 1]])])
    documents = TokenBatch.from_list([np.float32([[1, 0], [0.6, 0.8], [-1, 0]]), np.float32([[0, -1]])])
    np.testing.assert_allclose(scoring.late_interaction(query, documents), [[0.9, -0.5]], atol=1e-7)


def test_float16_tokens_are_compared_in_float32():
    """A similarity keeps digits that float16 has not."""
    one = TokenBatch.from_list([np.float16([[1, 2.0**-6]])])
    assert scoring.late_interaction(one, one)[0, 0] == 1 + 2.0**-12


@settings(max_examples=30, deadline=None)
@given(ragged_pairs())
def test_a_score_does_not_depend_on_companions(pair):
    """A document scores alone what it scores among others."""
    queries, documents = pair
    together = scoring.late_interaction(queries, documents)
    for i in range(len(documents)):
        alone = scoring.late_interaction(queries, documents.slice(i, i + 1))
        np.testing.assert_allclose(alone[:, 0], together[:, i], rtol=0, atol=1e-6)
    for i in range(len(queries)):
        alone = scoring.late_interaction(queries.slice(i, i + 1), documents)
        np.testing.assert_allclose(alone[0], together[i], rtol=0, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(ragged_pairs(), st.randoms(use_true_random=False))
def test_permuted_documents_permute_the_scores(pair, random):
    """The order of the documents moves the columns and nothing else."""
    queries, documents = pair
    order = list(range(len(documents)))
    random.shuffle(order)
    permuted = scoring.late_interaction(queries, TokenBatch.from_list([documents[i] for i in order]))
    np.testing.assert_allclose(permuted, scoring.late_interaction(queries, documents)[:, order], rtol=0, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(ragged_pairs(), st.integers(1, 8), st.integers(1, 40))
def test_blocks_equal_the_whole(pair, query_tokens, numbers):
    """Tiny blocks, with queries and documents longer than one of them, give the same scores."""
    whole = scoring.late_interaction(*pair)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "_BLOCK_QUERY_TOKENS", query_tokens)
        patch.setattr(scoring, "_BLOCK_BYTES", {"cpu": 4 * numbers})
        blocked = scoring.late_interaction(*pair)
    np.testing.assert_allclose(blocked, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("lengths", "dimension", "rows"), [([1, 7, 2, 1], 3, [1, 7, 3]), ([1], 7, [1])])
def test_blocks_stay_within_their_bounds(monkeypatch, lengths, dimension, rows):
    """No block with its matrix of similarities is larger than its bound, but for a text that alone is longer."""
    rng = np.random.default_rng(0)
    queries, documents = batch(rng, lengths, dimension), batch(rng, [2, 1, 1, 20, 3, 1, 2, 3], dimension)
    monkeypatch.setattr(scoring, "_BLOCK_QUERY_TOKENS", 3)
    # Five document tokens, each with a similarity for each token of the longest query.
    monkeypatch.setattr(scoring, "_BLOCK_BYTES", {"cpu": 5 * 4 * (dimension + max(rows))})
    segment_max = scoring._segment_max
    shapes = []

    def watched(similarities, offsets):
        shapes.append(tuple(similarities.shape))
        return segment_max(similarities, offsets)

    monkeypatch.setattr(scoring, "_segment_max", watched)
    late = scoring.late_interaction(queries, documents)
    np.testing.assert_allclose(late, loop_late(queries, documents), rtol=0, atol=1e-5)
    assert shapes == [(row, columns) for columns in (4, 20, 4, 5) for row in rows]


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
def test_blocks_are_whole_texts(limit):
    """Blocks follow each other, and each is as long as the limit allows."""
    offsets = np.array([0, 2, 3, 4, 9, 10, 12], dtype=np.int64)
    blocks = list(scoring._blocks(offsets, limit))
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
    assert scoring._block_bytes(device) == expected
    assert scoring._block_bytes(torch.device("cpu")) == scoring._BLOCK_BYTES["cpu"]


@CUDA
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_gpu_that_is_nearly_full(device):
    """Where other tensors have the memory, blocks are smaller and scores the same."""
    left = 1 << 30
    rng = np.random.default_rng(0)
    queries, documents = batch(rng, [3, 1], 96), batch(rng, [4, 1, 9], 96)
    others = torch.empty(torch.cuda.mem_get_info(device)[0] - left, dtype=torch.uint8, device=device)
    assert scoring._LEAST_BLOCK_BYTES <= scoring._block_bytes(torch.device(device)) <= left // 4
    late = scoring.late_interaction(queries, documents, device)
    del others
    torch.cuda.empty_cache()
    np.testing.assert_allclose(late, loop_late(queries, documents), rtol=0, atol=1e-5)


def test_no_documents():
    """No documents have no scores."""
    query = TokenBatch.from_list([np.float32([[1, 0]])])
    none = TokenBatch(np.zeros((0, 2), dtype=np.float32), np.zeros(1, dtype=np.int64))
    assert scoring.late_interaction(query, none).shape == (1, 0)
    assert scoring.late_interaction(none, query).shape == (0, 1)


class _Place(str):
    """A device that torch takes for the CPU and that says it is another."""

    type = "elsewhere"


class _ElsewhereTensor(torch.Tensor):
    """A tensor in main memory that does not call itself a CPU's."""

    @property
    def device(self):
        return _Place("cpu")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(1, 5), st.integers(0, 2**32))
def test_segment_reduce_equals_reduceat(lengths, rows, seed):
    """The segmented maximum of a GPU, computed on the CPU, is the one that the CPU takes."""
    offsets = np.cumsum([0, *lengths])
    similarities = torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, offsets[-1]), dtype=np.float32))
    elsewhere = scoring._segment_max(similarities.as_subclass(_ElsewhereTensor), offsets)
    assert elsewhere.dtype == np.float32
    np.testing.assert_array_equal(elsewhere, scoring._segment_max(similarities, offsets))
    np.testing.assert_array_equal(
        elsewhere,
        [[max(row[a:b]) for a, b in pairwise(offsets)] for row in similarities.tolist()],
    )


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA), pytest.param("cuda:0", marks=CUDA)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_late_interaction_on_each_device(device, dtype):
    """Every device gives the loop's scores."""
    rng = np.random.default_rng(7)
    queries, documents = batch(rng, [3, 1, 5], 96, dtype), batch(rng, [4, 1, 9, 2], 96, dtype)
    late = scoring.late_interaction(queries, documents, device)
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
        late = scoring.late_interaction(tokens, seen)
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
    similarities = scoring.pooled_similarity(queries, documents)
    assert similarities.dtype == np.float32
    np.testing.assert_allclose(similarities, expected, rtol=0, atol=1e-5)


def test_hybrid_equals_the_loop():
    """The hybrid score is the weighted sum, in float32."""
    rng = np.random.default_rng(0)
    pooled, late = rng.uniform(-1, 1, (2, 3, 4)).astype(np.float32)
    scores = scoring.hybrid(pooled, late, (0.25, 1.5))
    assert scores.dtype == np.float32
    for i in range(3):
        for j in range(4):
            assert scores[i, j] == pytest.approx(0.25 * float(pooled[i, j]) + 1.5 * float(late[i, j]), abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(ragged_pairs())
def test_similarities_equal_the_loop(pair):
    """Each is a cosine; the mean of the highest of each query token is the late score."""
    query, document = pair[0][0], pair[1][0]
    cosines = scoring.similarities(query, document)
    assert (cosines.dtype, cosines.shape) == (np.float32, (len(query), len(document)))
    for i, q in enumerate(query.astype(float).tolist()):
        for j, d in enumerate(document.astype(float).tolist()):
            assert cosines[i, j] == pytest.approx(dot(q, d), abs=1e-5)
    late = scoring.late_interaction(pair[0].slice(0, 1), pair[1].slice(0, 1))
    assert float(cosines.max(axis=1).mean()) == pytest.approx(float(late[0, 0]), abs=1e-5)


def test_pooled_dimension_mismatch():
    """Pooled embeddings of different widths are refused, and both widths named."""
    message = "the query's pooled embedding has 3 dimensions, the documents' 4"
    with pytest.raises(DimensionMismatch, match=message):
        scoring.pooled_similarity(np.ones((1, 3), np.float32), np.ones((1, 4), np.float32))


def test_token_dimension_mismatch():
    """Token embeddings of different widths are refused, and both widths named."""
    rng = np.random.default_rng(0)
    with pytest.raises(DimensionMismatch, match="token embeddings have 3 dimensions, the documents' 96"):
        scoring.late_interaction(batch(rng, [2], 3), batch(rng, [2], 96))


@pytest.mark.parametrize(
    "weights",
    [(0, 0), (-1, 1), (1, -0.5), (1,), (), (1, 2, 3), (float("nan"), 1), (1, float("inf"))],
)
def test_weights_that_cannot_be_used(weights):
    """Weights that give no ranking are refused, and shown."""
    with pytest.raises(InvalidInput, match=r"weights must be two numbers .*" + re.escape(f"got {weights!r}")):
        check_weights(weights)


@pytest.mark.parametrize("weights", ["ab", (None, 1), 1.0, None, ([1], 2)])
def test_weights_that_are_no_numbers(weights):
    """What is not two numbers is refused like any other bad weights."""
    with pytest.raises(InvalidInput, match="weights must be two numbers"):
        check_weights(weights)


@pytest.mark.parametrize("weights", [(1, 0), (0, 2.5), [1, 1], np.float32([0.5, 1])])
def test_weights_that_can_be_used(weights):
    """Good weights come back as a tuple of floats."""
    checked = check_weights(weights)
    assert checked == tuple(weights)
    assert [type(value) for value in checked] == [float, float]


@st.composite
def scored(draw, **kwargs):
    """Scores on a coarse grid with float32 noise on top, and distinct ids in no order."""
    steps = draw(st.lists(st.integers(-8, 8), **kwargs))
    noise = draw(st.lists(st.sampled_from([-1e-7, 0, 1e-7]), min_size=len(steps), max_size=len(steps)))
    scores = np.array([step / 8 + extra for step, extra in zip(steps, noise, strict=True)], dtype=np.float32)
    ids = draw(st.permutations([f"d{i}" for i in range(len(steps))]))
    return scores, ids


def plain_ranking(scores, ids, top_k):
    return sorted(range(len(ids)), key=lambda i: (-round(float(scores[i]) * 8) / 8, ids[i]))[:top_k]


@settings(max_examples=150, deadline=None)
@given(scored(max_size=30), st.integers(1, 40))
def test_ranking_equals_a_plain_sort(scored, top_k):
    """Best first, ties by id, at most top_k and at most as many as there are."""
    scores, ids = scored
    assert scoring.ranking(scores, ids, top_k) == plain_ranking(scores, ids, top_k)


def test_ranking_of_ties_and_near_ties():
    """Float32 noise makes no order, six decimals do; top_k may exceed the number of documents."""
    scores = np.float32([0.5, 0.50000006, 0.500002, 0.4])
    assert scoring.ranking(scores, ["b", "c", "z", "a"], 10) == [2, 0, 1, 3]
    assert scoring.ranking(scores, ["c", "b", "z", "a"], 2) == [2, 1]
    assert scoring.ranking(np.float32([]), [], 3) == []


@settings(max_examples=100, deadline=None)
@given(scored(min_size=1, max_size=30), st.integers(1, 12), st.lists(st.integers(0, 30)), st.randoms())
def test_leaders_of_blocks_are_leaders_of_the_whole(scored, top_k, cuts, random):
    """Blocks of any size in any order leave what one ranking of everything picks."""
    pooled, ids = scored
    late = np.random.default_rng(len(ids)).integers(-4, 5, len(ids)).astype(np.float32) / 8
    weights = (1.0, 0.5)
    bounds = sorted({0, len(ids), *(cut for cut in cuts if cut < len(ids))})
    blocks = [slice(start, stop) for start, stop in pairwise(bounds)]
    random.shuffle(blocks)
    leaders = scoring.Leaders(top_k)
    for block in blocks:
        leaders.offer(ids[block], pooled[block], late[block], weights)
    best = scoring.ranking(scoring.hybrid(pooled, late, weights), ids, top_k)
    assert leaders.ids == [ids[i] for i in best]
    np.testing.assert_array_equal(leaders.pooled, pooled[best])
    np.testing.assert_array_equal(leaders.late, late[best])


# --- codes ------------------------------------------------------------------------------------

ROTATED = ["int8", "4bit", "2bit", "1bit"]
CODECS = ["float32", "float16", *ROTATED]
# The last is the one that the library takes on this machine.
KERNELS = ["floats", "levels", "integers", "chosen"]
chosen_kernel = scoring._kernel


def encoded(tokens, name):
    return TokenCodes(get_codec(name).encode(tokens.embeddings), tokens.offsets, tokens.dimension, get_codec(name))


def exact_product(left, right):
    """Return the product of matrices of int8, which not every CPU's torch gives; no sum is too large for float64."""
    return (left.double() @ right.double()).int()


def kernel_of(kind, documents, device="cpu"):
    """Return one kernel, whatever this machine is fast at, but for the width that integers cannot have."""
    if kind == "chosen":
        return chosen_kernel(documents, device)
    if kind == "floats" or documents.codec.name not in ROTATED:
        return scoring._Floats(device)
    integers = kind == "integers" and documents.dimension > 1
    return scoring._Integers(documents.codec, exact_product) if integers else scoring._Levels(documents.codec, device)


def late_by(kind, queries, documents):
    """Return the scores by one kernel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "_kernel", lambda documents, device: kernel_of(kind, documents, device))
        return scoring.late_interaction(queries, documents)


@st.composite
def encoded_pairs(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dimension = draw(st.sampled_from([1, 2, 3, 7, 25, 32, 96]))
    queries = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    documents = draw(st.lists(st.integers(1, 7), min_size=1, max_size=5))
    return batch(rng, queries, dimension), batch(rng, documents, dimension)


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("name", CODECS)
@settings(max_examples=30, deadline=None)
@given(encoded_pairs())
def test_codes_score_as_what_they_decode_to(kind, name, pair):
    """Every kernel gives the loop's scores on the decoded embeddings."""
    queries, documents = pair[0], encoded(pair[1], name)
    late = late_by(kind, queries, documents)
    assert late.dtype == np.float32
    np.testing.assert_allclose(late, loop_late(queries, documents.decode()), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("dimension", [384, 1000, 2048])
@pytest.mark.parametrize("name", ROTATED)
def test_similarities_of_wide_codes(kind, name, dimension):
    """Each similarity, not only the best of them, and at the widths of models, among them negative ones."""
    rng = np.random.default_rng(0)
    queries, documents = unit_rows(rng, 9, dimension), batch(rng, [30, 1, 9], dimension)
    documents.embeddings[:9] = queries
    documents.embeddings[9:18] = -queries
    codes = encoded(documents, name)
    # Every token is a document of its own: the best similarities are all of them.
    alone = np.arange(len(codes.codes) + 1)
    kernel = kernel_of(kind, codes)
    found = kernel.best(kernel.queries(queries), kernel.documents(codes), alone)
    assert found.dtype == np.float32
    expected = queries.astype(np.float64) @ codes.embeddings.astype(np.float64).T
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("name", CODECS)
@settings(max_examples=10, deadline=None)
@given(encoded_pairs(), st.integers(1, 8), st.integers(1, 40))
def test_blocks_of_codes_equal_the_whole(kind, name, pair, query_tokens, numbers):
    """Several blocks of queries and of documents give the same scores."""
    queries, documents = pair[0], encoded(pair[1], name)
    whole = late_by(kind, queries, documents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "_BLOCK_QUERY_TOKENS", query_tokens)
        patch.setattr(scoring, "_BLOCK_BYTES", {"cpu": 4 * numbers})
        blocked = late_by(kind, queries, documents)
    # The last bit of a rotated query may change with the number of queries, and with it a step of its integers.
    np.testing.assert_allclose(blocked, whole, rtol=0, atol=1e-6 if kind in ("floats", "levels") else 1e-4)


@pytest.mark.parametrize("name", ROTATED)
def test_late_scores_of_wider_tokens_lose_no_more(name):
    """What a code changes of late scores, against their own spread, does not grow with the width, but by chance."""

    def relative_error(dimension):
        rng = np.random.default_rng(0)
        queries, documents = batch(rng, [6] * 60, dimension), batch(rng, [12] * 150, dimension)
        exact = scoring.late_interaction(queries, documents)
        return (scoring.late_interaction(queries, encoded(documents, name)) - exact).std() / exact.std()

    assert relative_error(2048) <= 1.1 * relative_error(384)


@pytest.fixture(scope="module")
def samples(minilm):
    """Return questions and paragraphs of the sample documents, by the model."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(sample_folder().glob("*.[mt][dx]*"))]
    paragraphs = [part for text in texts for part in text.split("\n\n") if len(part) > 100][:60]
    questions = [question.question for question in sample_questions()][:12]
    return minilm.encode_query(questions).tokens, minilm.encode_document(paragraphs).tokens


@pytest.mark.parametrize("name", CODECS)
def test_kernels_rank_alike(samples, name):
    """On real vectors, all kernels rank the documents in one order but for near ties."""
    queries, documents = samples[0], encoded(samples[1], name)
    assert len(documents) > 20
    scores = {kind: late_by(kind, queries, documents) for kind in KERNELS}
    for q in range(len(queries)):
        exact = scores["floats"][q]
        for kind in ("levels", "integers", "chosen"):
            order = scoring.ranking(scores[kind][q], [f"{i:03}" for i in range(len(documents))], 10)
            ranked = exact[order]
            assert (ranked[:-1] >= ranked[1:] - 1e-4).all()
            assert ranked[-1] >= np.sort(exact)[-10] - 1e-4


@pytest.mark.parametrize("bits", ["float16", "int8", "2bit"])
def test_queries_may_be_codes(bits):
    """A query that comes from a store is scored as what it decodes to."""
    rng = np.random.default_rng(0)
    queries, documents = encoded(batch(rng, [3, 1], 25), bits), encoded(batch(rng, [2, 5], 25), "2bit")
    expected = loop_late(queries.decode(), documents.decode())
    np.testing.assert_allclose(scoring.late_interaction(queries, documents), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("name", ["float16", "2bit"])
def test_blocks_on_several_cores_equal_the_whole(monkeypatch, kind, name):
    """With more blocks than one core takes alone, from several of the caller's threads at once, and after a fork."""
    rng = np.random.default_rng(0)
    queries, documents = batch(rng, [3, 1], 32), encoded(batch(rng, rng.integers(1, 9, 60), 32), name)
    expected = loop_late(queries, documents.decode())
    threads = torch.get_num_threads()
    monkeypatch.setattr(scoring, "_BLOCK_BYTES", {"cpu": 1024})
    monkeypatch.setattr(scoring, "_kernel", lambda documents, device: kernel_of(kind, documents, device))
    cores, asked = scoring._cores, []
    monkeypatch.setattr(scoring, "_cores", lambda: (asked.append(1), cores())[1])
    with ThreadPoolExecutor(4) as pool:
        for late in pool.map(lambda _: scoring.late_interaction(queries, documents), range(8)):
            np.testing.assert_allclose(late, expected, rtol=0, atol=1e-4)
    assert len(asked) == 8
    # The caller's own threads may use as many cores as before.
    assert torch.get_num_threads() == threads


def test_a_forked_process_scores_too():
    """The threads of its parent are not there; nothing waits for them."""
    script = """
import os, signal, numpy as np
from smart_rag import TokenBatch
from smart_rag.scoring import maxsim as scoring
from smart_rag.embeddings.codec import get_codec
from smart_rag.config import check_weights
from smart_rag.embeddings.representation import TokenCodes
rng = np.random.default_rng(0)
tokens = TokenBatch.from_list([rng.standard_normal((4, 32), dtype=np.float32) for _ in range(40)])
codes = TokenCodes(get_codec("2bit").encode(tokens.embeddings), tokens.offsets, 32, get_codec("2bit"))
scoring._BLOCK_BYTES = {"cpu": 1024}
many = TokenBatch.from_list([rng.standard_normal((1000, 32), dtype=np.float32) for _ in range(4)])
late, late_of_many = scoring.late_interaction(tokens, codes), scoring.late_interaction(many, many)
child = os.fork()
if child == 0:
    signal.alarm(60)
    np.testing.assert_array_equal(scoring.late_interaction(tokens, codes), late)
    np.testing.assert_allclose(scoring.late_interaction(many, many), late_of_many, atol=1e-4)
    os._exit(0)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}  # torch's own threads are two, also on one core
    command = [sys.executable, "-W", "ignore", "-c", script]
    assert subprocess.run(command, timeout=120, env=environment).returncode == 0


def test_no_codes_have_no_scores():
    query = TokenBatch.from_list([np.float32([[1, 0]])])
    none = TokenCodes(np.zeros((0, 1), np.uint8), np.zeros(1, dtype=np.int64), 2, get_codec("2bit"))
    assert scoring.late_interaction(query, none).shape == (1, 0)


@pytest.fixture
def speed_unknown():
    scoring._integers_are_fast.cache_clear()
    yield
    scoring._integers_are_fast.cache_clear()


@pytest.mark.usefixtures("speed_unknown")
def test_integers_are_multiplied_where_that_is_fast(monkeypatch):
    """The kernel follows from the codec, the device, and what was measured."""
    documents = encoded(batch(np.random.default_rng(0), [3], 25), "2bit")
    assert scoring._integers_are_fast() in (True, False)
    for fast, kernel in ((True, scoring._Integers), (False, scoring._Levels)):
        monkeypatch.setattr(scoring, "_integers_are_fast", lambda fast=fast: fast)
        assert isinstance(scoring._kernel(documents, "cpu"), kernel)
        assert isinstance(scoring._kernel(documents, "cuda"), scoring._Levels)
        for floats in (documents.decode(), encoded(documents.decode(), "float16")):
            assert isinstance(scoring._kernel(floats, "cpu"), scoring._Floats)
    monkeypatch.setattr(scoring, "_integers_are_fast", lambda: True)
    narrow = encoded(batch(np.random.default_rng(0), [3], 1), "2bit")
    assert isinstance(scoring._kernel(narrow, "cpu"), scoring._Levels)


def sums_in_16_bits(left, right):
    return (left.int() @ right.int()).clamp(-(2**15), 2**15 - 1)


def pairs_in_16_bits(left, right):
    """Return what a CPU without VNNI computes: products of left + 128, added in pairs, which saturate at 16 bits."""
    products = torch.zeros((len(left), right.shape[1]), dtype=torch.int32)
    for k in range(0, len(right), 2):
        pair = (left[:, k : k + 2].int() + 128) @ right[k : k + 2].int()
        products += pair.clamp(-(2**15), 2**15 - 1)
    return products - 128 * right.int().sum(0)


def refused(left, right):
    raise RuntimeError("not on this machine")


@pytest.mark.parametrize(
    ("multiply", "exact"),
    [(exact_product, True), (sums_in_16_bits, False), (pairs_in_16_bits, False), (refused, False)],
)
def test_products_of_integers_are_checked(caplog, multiply, exact):
    """Saturated sums and refusals are found out; a refusal is logged."""
    caplog.set_level("INFO", logger="smart_rag")
    assert scoring._is_exact(multiply) is exact
    assert ("not on this machine" in caplog.text) == (multiply is refused)


@pytest.mark.usefixtures("speed_unknown")
@pytest.mark.parametrize(
    ("vnni", "multiply", "fast"),
    [
        (True, exact_product, True),
        (True, pairs_in_16_bits, False),
        (True, refused, False),
        (True, None, False),
        (False, exact_product, False),
    ],
)
def test_a_torch_that_cannot_multiply_integers(monkeypatch, vnni, multiply, fast):
    """Where integer products are slow, absent, refused or wrong, floats are multiplied."""
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni)
    if multiply:
        monkeypatch.setattr(torch, "_int_mm", multiply)
    else:
        monkeypatch.delattr(torch, "_int_mm")
    rng = np.random.default_rng(0)
    queries, documents = batch(rng, [3, 1], 25), encoded(batch(rng, [2, 5], 25), "int8")
    assert isinstance(scoring._kernel(documents, "cpu"), scoring._Integers if fast else scoring._Levels)
    late = scoring.late_interaction(queries, documents)
    np.testing.assert_allclose(late, loop_late(queries, documents.decode()), rtol=0, atol=1e-4)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="no x86 CPU")
def test_kernels_on_a_cpu_without_vnni(tmp_path):
    """The same scores and rankings, forced where the CPU has VNNI; what it can do is read as a process starts."""
    variables = {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    script = """
import sys, pytest
from smart_rag import scoring
assert not scoring._integers_are_fast()
raise SystemExit(pytest.main(sys.argv[1:]))
"""
    tests = "wide_codes or rank_alike or cannot_be_written or on_each_device"
    command = [sys.executable, "-c", script, "-q", "-p", "no:cacheprovider", "-k", tests, __file__]
    run = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("name", ROTATED)
def test_codes_that_cannot_be_written_to_are_scored(name):
    """Codes from a file that is mapped for reading."""
    rng = np.random.default_rng(0)
    queries, documents = batch(rng, [3], 32), encoded(batch(rng, [2, 5], 32), name)
    expected = loop_late(queries, documents.decode())
    documents.codes.setflags(write=False)
    for kind in KERNELS:
        np.testing.assert_allclose(late_by(kind, queries, documents), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=CUDA)])
@pytest.mark.parametrize("name", CODECS)
def test_codes_on_each_device(device, name):
    rng = np.random.default_rng(7)
    queries, documents = batch(rng, [3, 1, 5], 96), encoded(batch(rng, [4, 1, 9, 2], 96), name)
    late = scoring.late_interaction(queries, documents, device)
    np.testing.assert_allclose(late, loop_late(queries, documents.decode()), rtol=0, atol=1e-4)

"""Every way to multiply tokens, forced on every CPU, against plain loops; and the choice between them."""

import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers.other_users import NOBODY, run_as
from helpers.ragged import batch, loop_late, unit_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from smart_rag.demo import sample_folder, sample_questions
from smart_rag.embeddings.codec import get_codec
from smart_rag.embeddings.tokens import TokenBatch, TokenCodes
from smart_rag.scoring import maxsim, products, ranking

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
ROTATED = ["int8", "4bit", "2bit", "1bit"]


CODECS = ["float32", "float16", *ROTATED]


# The last is the one that the library takes on this machine.
KERNELS = ["floats", "levels", "integers", "chosen"]


chosen_kernel = products.product_for


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
        return products.FloatProduct(device)
    integers = kind == "integers" and documents.dimension > 1
    return (
        products.IntegerProduct(documents.codec, exact_product)
        if integers
        else products.LevelProduct(documents.codec, device)
    )


def late_by(kind, queries, documents):
    """Return the scores by one kernel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maxsim, "product_for", lambda documents, device: kernel_of(kind, documents, device))
        return maxsim.late_interaction(queries, documents)


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
        patch.setattr(maxsim, "_BLOCK_QUERY_TOKENS", query_tokens)
        patch.setattr(maxsim, "_BLOCK_BYTES", {"cpu": 4 * numbers})
        blocked = late_by(kind, queries, documents)
    # The last bit of a rotated query may change with the number of queries, and with it a step of its integers.
    np.testing.assert_allclose(blocked, whole, rtol=0, atol=1e-6 if kind in ("floats", "levels") else 1e-4)


@pytest.mark.parametrize("name", ROTATED)
def test_late_scores_of_wider_tokens_lose_no_more(name):
    """What a code changes of late scores, against their own spread, does not grow with the width, but by chance."""

    def relative_error(dimension):
        rng = np.random.default_rng(0)
        queries, documents = batch(rng, [6] * 60, dimension), batch(rng, [12] * 150, dimension)
        exact = maxsim.late_interaction(queries, documents)
        return (maxsim.late_interaction(queries, encoded(documents, name)) - exact).std() / exact.std()

    assert relative_error(2048) <= 1.1 * relative_error(384)


@pytest.fixture(scope="module")
def samples(minilm):
    """Return questions and paragraphs of the sample documents, by the model."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(sample_folder().glob("*.[mt][dx]*"))]
    paragraphs = [part for text in texts for part in text.split("\n\n") if len(part) > 100][:60]
    questions = [question.question for question in sample_questions()][:12]
    return minilm.encode_query(questions).tokens, minilm.encode_document(paragraphs).tokens


def assert_ranked_as(exact, scores):
    """Check that ``scores`` rank the ten best first, in the order of ``exact``, each up to 1e-4."""
    ranked = exact[ranking.ranking(scores, [f"{i:03}" for i in range(len(scores))], 10)]
    assert (ranked[:-1] >= ranked[1:] - 1e-4).all()
    assert ranked[-1] >= np.sort(exact)[-10] - 1e-4


@pytest.mark.parametrize("name", CODECS)
def test_kernels_rank_alike(samples, name):
    """On real vectors, all kernels rank the documents in one order but for near ties."""
    queries, documents = samples[0], encoded(samples[1], name)
    assert len(documents) > 20
    scores = {kind: late_by(kind, queries, documents) for kind in KERNELS}
    for q in range(len(queries)):
        for kind in ("levels", "integers", "chosen"):
            assert_ranked_as(scores["floats"][q], scores[kind][q])


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("name", ROTATED)
def test_rankings_equal_the_loops(kind, name):
    """Every kernel ranks documents in the order of the loop's scores, but for near ties."""
    rng = np.random.default_rng(0)
    queries, documents = batch(rng, [4, 2], 96), encoded(batch(rng, [1, 3, 2] * 10, 96), name)
    exact, found = loop_late(queries, documents.decode()), late_by(kind, queries, documents)
    for q in range(len(queries)):
        assert_ranked_as(exact[q], found[q])


@pytest.mark.parametrize("bits", ["float16", "int8", "2bit"])
def test_queries_may_be_codes(bits):
    """A query that comes from a store is scored as what it decodes to."""
    rng = np.random.default_rng(0)
    queries, documents = encoded(batch(rng, [3, 1], 25), bits), encoded(batch(rng, [2, 5], 25), "2bit")
    expected = loop_late(queries.decode(), documents.decode())
    np.testing.assert_allclose(maxsim.late_interaction(queries, documents), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("name", ["float16", "2bit"])
def test_blocks_on_several_cores_equal_the_whole(monkeypatch, kind, name):
    """With more blocks than one core takes alone, from several of the caller's threads at once, and after a fork."""
    rng = np.random.default_rng(0)
    queries, documents = batch(rng, [3, 1], 32), encoded(batch(rng, rng.integers(1, 9, 60), 32), name)
    expected = loop_late(queries, documents.decode())
    threads = torch.get_num_threads()
    monkeypatch.setattr(maxsim, "_BLOCK_BYTES", {"cpu": 1024})
    monkeypatch.setattr(maxsim, "product_for", lambda documents, device: kernel_of(kind, documents, device))
    cores, asked = maxsim._cores, []
    monkeypatch.setattr(maxsim, "_cores", lambda: (asked.append(1), cores())[1])
    with ThreadPoolExecutor(4) as pool:
        for late in pool.map(lambda _: maxsim.late_interaction(queries, documents), range(8)):
            np.testing.assert_allclose(late, expected, rtol=0, atol=1e-4)
    assert len(asked) == 8
    # The caller's own threads may use as many cores as before.
    assert torch.get_num_threads() == threads


def test_a_forked_process_scores_too():
    """The threads of its parent are not there; nothing waits for them."""
    script = """
import os, signal, numpy as np
from smart_rag import TokenBatch
from smart_rag.scoring import maxsim
from smart_rag.embeddings.codec import get_codec
from smart_rag.config import check_weights
from smart_rag.embeddings.tokens import TokenCodes
rng = np.random.default_rng(0)
tokens = TokenBatch.from_list([rng.standard_normal((4, 32), dtype=np.float32) for _ in range(40)])
codes = TokenCodes(get_codec("2bit").encode(tokens.embeddings), tokens.offsets, 32, get_codec("2bit"))
maxsim._BLOCK_BYTES = {"cpu": 1024}
many = TokenBatch.from_list([rng.standard_normal((1000, 32), dtype=np.float32) for _ in range(4)])
late, late_of_many = maxsim.late_interaction(tokens, codes), maxsim.late_interaction(many, many)
child = os.fork()
if child == 0:
    signal.alarm(60)
    np.testing.assert_array_equal(maxsim.late_interaction(tokens, codes), late)
    np.testing.assert_allclose(maxsim.late_interaction(many, many), late_of_many, atol=1e-4)
    os._exit(0)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}  # torch's own threads are two, also on one core
    command = [sys.executable, "-W", "ignore", "-c", script]
    assert subprocess.run(command, timeout=120, env=environment).returncode == 0


def test_no_codes_have_no_scores():
    query = TokenBatch.from_list([np.float32([[1, 0]])])
    none = TokenCodes(np.zeros((0, 1), np.uint8), np.zeros(1, dtype=np.int64), 2, get_codec("2bit"))
    assert maxsim.late_interaction(query, none).shape == (1, 0)


@pytest.fixture
def speed_unknown():
    products.integers_are_fast.cache_clear()
    yield
    products.integers_are_fast.cache_clear()


@pytest.mark.usefixtures("speed_unknown")
def test_integers_are_multiplied_where_that_is_fast(monkeypatch):
    """The kernel follows from the codec, the device, and what was measured."""
    documents = encoded(batch(np.random.default_rng(0), [3], 25), "2bit")
    assert products.integers_are_fast() in (True, False)
    for fast, kernel in ((True, products.IntegerProduct), (False, products.LevelProduct)):
        monkeypatch.setattr(products, "integers_are_fast", lambda fast=fast: fast)
        assert isinstance(products.product_for(documents, "cpu"), kernel)
        assert isinstance(products.product_for(documents, "cuda"), products.LevelProduct)
        for floats in (documents.decode(), encoded(documents.decode(), "float16")):
            assert isinstance(products.product_for(floats, "cpu"), products.FloatProduct)
    monkeypatch.setattr(products, "integers_are_fast", lambda: True)
    narrow = encoded(batch(np.random.default_rng(0), [3], 1), "2bit")
    assert isinstance(products.product_for(narrow, "cpu"), products.LevelProduct)


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
    assert products.is_exact(multiply) is exact
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
    assert isinstance(
        products.product_for(documents, "cpu"), products.IntegerProduct if fast else products.LevelProduct
    )
    late = maxsim.late_interaction(queries, documents)
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
from smart_rag.scoring import products
assert not products.integers_are_fast()
raise SystemExit(pytest.main(sys.argv[1:]))
"""
    tests = "wide_codes or rankings_equal or cannot_be_written or on_each_device"
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
    late = maxsim.late_interaction(queries, documents, device)
    np.testing.assert_allclose(late, loop_late(queries, documents.decode()), rtol=0, atol=1e-4)


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
    elsewhere = products.segment_max(similarities.as_subclass(_ElsewhereTensor), offsets)
    assert elsewhere.dtype == np.float32
    np.testing.assert_array_equal(elsewhere, products.segment_max(similarities, offsets))
    np.testing.assert_array_equal(
        elsewhere,
        [[max(row[a:b]) for a, b in pairwise(offsets)] for row in similarities.tolist()],
    )


def test_the_undocumented_names_of_torch_are_there():
    """Written for torch 2.13. If it fails, look in `products` for what a newer torch calls them."""
    assert products.integer_product() is not None, f"torch {torch.__version__} has no torch._int_mm"
    assert hasattr(torch.cpu, "_is_vnni_supported"), f"torch {torch.__version__} has no torch.cpu._is_vnni_supported"


def test_a_user_who_can_write_nowhere():
    """Numba cannot keep its results, and compiles in each process."""
    assert run_as(NOBODY, "", "import smart_rag.scoring.kernels; say('imported')") == "imported\n"

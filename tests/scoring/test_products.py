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
from smart_rag.embeddings.codec import get_codec, rotation
from smart_rag.embeddings.tokens import TokenBatch, TokenCodes
from smart_rag.scoring import cores, instructions, maxsim, products, ranking
from smart_rag.scoring.device_products import DeviceProduct, segment_max

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
ROTATED = ["int8", "4bit", "2bit", "1bit"]


CODECS = ["float32", "float16", *ROTATED]


# Each way of this CPU to multiply codes; what a machine without Numba does, and torch on a device. The last is the one
# that the library takes on this machine.
KINDS = [instructions.KINDS[kind] for kind in instructions.available()]
KERNELS = ["floats", "numpy", "torch", *KINDS, "chosen"]


chosen_kernel = products.product_for


def encoded(tokens, name):
    return TokenCodes(get_codec(name).encode(tokens.embeddings), tokens.offsets, tokens.dimension, get_codec(name))


def kernel_of(kind, documents, device="cpu"):
    """Return one kernel, whatever this machine is fast at."""
    if kind == "chosen":
        return chosen_kernel(documents, device, 1)
    codec = documents.codec if isinstance(documents, TokenCodes) and documents.codec.name in ROTATED else None
    if kind == "torch":
        return DeviceProduct(codec, device)
    if kind == "floats" or codec is None:
        return products.FloatProduct()
    return products.PlainProduct(codec) if kind == "numpy" else code_product(kind, codec)


def code_product(kind, codec):
    (number,) = (number for number, name in instructions.KINDS.items() if name == kind)
    return products.CodeProduct(codec, number)


def late_by(kind, queries, documents):
    """Return the scores by one kernel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maxsim, "product_for", lambda documents, device, _: kernel_of(kind, documents, device))
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
        patch.setattr(products, "_BLOCK_BYTES", 4 * numbers)
        patch.setattr(products, "_BLOCK_PRODUCTS", 4 * numbers)
        blocked = late_by(kind, queries, documents)
    if kind in KINDS and name in ROTATED:
        np.testing.assert_allclose(blocked, whole, rtol=0, atol=1e-7)  # the mean over tokens is a sum of floats
    np.testing.assert_allclose(blocked, whole, rtol=0, atol=1e-6)


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
        for kind in KERNELS[1:]:
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
    monkeypatch.setattr(products, "_BLOCK_BYTES", 1024)
    monkeypatch.setattr(products, "_BLOCK_PRODUCTS", 1024)
    monkeypatch.setattr(maxsim, "product_for", lambda documents, device, _: kernel_of(kind, documents, device))
    asked = []
    monkeypatch.setattr(maxsim, "cores", lambda: (asked.append(1), cores.cores())[1])
    with ThreadPoolExecutor(4) as pool:
        for late in pool.map(lambda _: maxsim.late_interaction(queries, documents), range(8)):
            np.testing.assert_allclose(late, expected, rtol=0, atol=1e-4)
    assert len(asked) == (8 if kernel_of(kind, documents).uses_one_core else 0)
    # The caller's own threads may use as many cores as before.
    assert torch.get_num_threads() == threads


def test_a_forked_process_scores_too():
    """The threads of its parent are not there; nothing waits for them."""
    script = """
import os, signal, numpy as np
from smart_rag import TokenBatch
from smart_rag.scoring import maxsim, products
from smart_rag.embeddings.codec import get_codec
from smart_rag.config import check_weights
from smart_rag.embeddings.tokens import TokenCodes
rng = np.random.default_rng(0)
tokens = TokenBatch.from_list([rng.standard_normal((4, 32), dtype=np.float32) for _ in range(40)])
codes = TokenCodes(get_codec("2bit").encode(tokens.embeddings), tokens.offsets, 32, get_codec("2bit"))
products._BLOCK_PRODUCTS = 1024
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


def test_the_kernel_follows_from_codec_and_device(monkeypatch):
    """No time is measured. Without Numba, and for little work in all, NumPy scores codes."""
    documents = encoded(batch(np.random.default_rng(0), [3], 25), "2bit")
    from smart_rag.scoring import kernels  # noqa: F401, from now on, Numba is loaded

    assert products.product_for(documents, "cpu", 1) == products.CodeProduct(
        documents.codec, instructions.available()[-1]
    )
    assert products.product_for(documents, "cuda", 1) == DeviceProduct(documents.codec, "cuda")
    for floats in (documents.decode(), encoded(documents.decode(), "float16")):
        assert type(products.product_for(floats, "cpu", 1)) is products.FloatProduct
        assert products.product_for(floats, "cuda:0", 1) == DeviceProduct(None, "cuda:0")
    monkeypatch.setattr(products, "numba_is_usable", lambda: False)
    assert products.product_for(documents, "cpu", 1) == products.PlainProduct(documents.codec)


@pytest.mark.parametrize("dimension", [1, 25, 130, 384])
@pytest.mark.parametrize("name", ROTATED)
def test_all_kinds_of_cpus_give_equal_scores(name, dimension):
    """To the last bit, also where nearly all tokens need the lower plane of a query."""
    rng = np.random.default_rng(0)
    queries, documents = batch(rng, [5, 8], dimension), batch(rng, [70, 1, 1, 200, 3], dimension)
    documents.embeddings[75:200] = documents.embeddings[75] + 1e-3 * documents.embeddings[75:200]
    codes = encoded(documents, name)
    plain, *others = (late_by(kind, queries, codes) for kind in [*KINDS, "numpy"])
    np.testing.assert_allclose(plain, loop_late(queries, codes.decode()), rtol=0, atol=1e-4)
    for other in others:
        np.testing.assert_array_equal(other, plain)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ROTATED)
def test_the_largest_sums_do_not_overflow(kind, name):
    """All codes are the greatest, and the query has one sign, so each sum of 16 and of 32 bits is the largest."""
    codec, dimension, tokens = get_codec(name), 4096, 65
    codes = np.full((tokens, codec.bytes_per_token(dimension)), 255, dtype=np.uint8)
    kernel = code_product(kind, codec)
    for sign in (1, -1):
        rotated = np.full((1, dimension), sign / dimension**0.5, dtype=np.float32)
        rotated[0, ::2] *= 0.996  # 126.49 steps, so both planes are large
        documents = TokenCodes(codes, np.array([0, tokens]), dimension, codec)
        found = kernel.best(kernel.queries(rotated @ rotation(dimension)), documents, documents.offsets)
        expected = float(rotated.astype(np.float64).sum()) / dimension**0.5
        np.testing.assert_allclose(found, [[expected]], rtol=0, atol=1e-4)


CPUS = {
    "avx2": {"NUMBA_CPU_NAME": "haswell"},
    "plain": {"NUMBA_CPU_NAME": "generic"},
    "avx-vnni": {"NUMBA_CPU_FEATURES": "+avx2,+fma,+bmi,+bmi2,+popcnt,+avxvnni"},
}


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="no x86 CPU")
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind != "avx2")) for kind in CPUS if kind in KINDS]
)
def test_kernels_on_other_cpus(tmp_path, kind):
    """The same scores where the process is told to use fewer of the CPU's instructions."""
    variables = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "NUMBA_CACHE_DIR": str(tmp_path)}
    script = """
import sys, pytest
from smart_rag.scoring import instructions
assert instructions.KINDS[instructions.available()[-1]] == sys.argv[1], instructions.features()
raise SystemExit(pytest.main(sys.argv[2:]))
"""
    tests = "rankings_equal and chosen and 2bit or equal_scores and 384 and 2bit"
    command = [sys.executable, "-c", script, kind, "-q", "-p", "no:cacheprovider", "-k", tests, __file__]
    run = subprocess.run(command, env=os.environ | variables | CPUS[kind], capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    ("features", "kind"),
    [
        ("", "plain"),
        ("+sse4.2,+neon", "plain"),
        ("+avx2,-avxvnni", "avx2"),
        ("+avx2,+avx512f,+avx512bw,+avx512vl", "avx2"),
        ("+avx2,+avxvnni", "avx-vnni"),
        ("+avx2,+avx512bw,+avx512vl,+avx512vnni", "avx512-vnni"),
    ],
)
def test_the_kind_follows_from_the_instructions(monkeypatch, features, kind):
    monkeypatch.setattr("numba.config.CPU_FEATURES", features)
    instructions.features.cache_clear()
    try:
        assert instructions.KINDS[instructions.available()[-1]] == kind
    finally:
        instructions.features.cache_clear()


def test_scoring_on_a_cpu_loads_no_torch():
    """Neither does encoding. Numba is loaded only when there is much to do, and never for float tokens."""
    script = """
import sys, numpy as np
from smart_rag.embeddings.codec import get_codec, rotation
from smart_rag.embeddings.tokens import TokenBatch, TokenCodes
from smart_rag.scoring import products
from smart_rag.scoring.maxsim import late_interaction
tokens = TokenBatch.from_list([np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)])
for name in ("float16", "2bit"):
    codec = get_codec(name)
    codes = TokenCodes(codec.encode(tokens.embeddings), tokens.offsets, 32, codec)
    first = late_interaction(tokens, codes)
    assert not {"torch", "numba"} & set(sys.modules), name
products._WORTH_COMPILING = 2 * 4 * 4 * 32 - 1
assert late_interaction(tokens, codes) == first
assert "numba" in sys.modules
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], timeout=120, check=True)


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


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(1, 5), st.integers(0, 2**32))
def test_segment_reduce_equals_reduceat(lengths, rows, seed):
    """The segmented maximum of a GPU, computed on the CPU, is that of a loop."""
    offsets = np.cumsum([0, *lengths])
    similarities = torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, offsets[-1]), dtype=np.float32))
    found = segment_max(similarities, offsets)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(
        found, [[max(row[a:b]) for a, b in pairwise(offsets)] for row in similarities.tolist()]
    )


@pytest.mark.parametrize("without", ["sys.modules['numba'] = None", "os.environ['NUMBA_DISABLE_JIT'] = '1'"])
def test_without_numba(tmp_path, without):
    """The extra `fast` is not installed, or its compiler is switched off: searches work, however much there is."""
    script = f"""
import importlib.util, logging, os, sys
{without}
sys.modules['llvmlite'] = None
logging.basicConfig(level=logging.INFO)
from smart_rag import Document, SmartIndex
from smart_rag.scoring import products
products._WORTH_COMPILING = 0
with SmartIndex.create(sys.argv[1], "minilm") as index:
    index.add([Document("a", "The boats are fuelled on Mondays."), Document("b", "The keys hang in the hall.")])
    for first_stage in ("terms", "exhaustive"):
        print(index.search("Where are the keys?", first_stage=first_stage)[0].id)
print("smart_rag.scoring.kernels" in sys.modules)
"""
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "index")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.stdout.split() == ["b", "b", "False"], ran.stderr
    assert "codes are scored by NumPy" in ran.stderr


def test_a_user_who_can_write_nowhere():
    """Numba cannot keep its results, and compiles in each process."""
    assert run_as(NOBODY, "", "import smart_rag.scoring.kernels; say('imported')") == "imported\n"

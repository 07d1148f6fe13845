"""Batches: their order and size, memory that runs out, several devices, and codes made on the device."""

from collections import Counter

import numpy as np
import pytest
import torch
from helpers.text_models import TASKS, TEXTS, WORDS, assert_same, encode, forward_shapes, models_in, out_of_memory_above
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smart_rag.embeddings.codec import get_codec
from smart_rag.encoders.smart_encoder import SmartEncoder
from smart_rag.errors import InvalidInput

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    return models_in(tmp_path_factory)


def test_ids_after_memory_ran_out(models):
    """The halves of a batch keep their ids."""
    texts = ["the cat sat", "dogs bark", "rain", "which cat", "nobody is there"]
    expected = models("mean").encoder.encode_document(texts).tokens.ids
    encoder = models("mean").fresh()
    out_of_memory_above(encoder, 2)
    assert encoder.encode_document(texts).tokens.ids.tolist() == expected.tolist()


@pytest.mark.parametrize("name", ["mean", "dense", "prompts left out", "llama"])
@pytest.mark.parametrize(("batch_size", "batch_tokens"), [(1, 16_384), (3, 16_384), (32, 1), (32, 200)])
def test_batches_change_neither_order_nor_numbers(models, name, batch_size, batch_tokens):
    """Results come in the caller's order, for all batch sizes."""
    model = models(name)
    encoder = model.fresh(batch_size=batch_size, batch_tokens=batch_tokens)
    ours = encoder.encode_document(TEXTS[::-1])
    theirs = model.encoder.encode_document(TEXTS)
    for i in range(len(TEXTS)):
        assert_same(ours[i], theirs[len(TEXTS) - 1 - i])


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(st.text(max_size=40) | st.sampled_from(TEXTS), min_size=1, max_size=9),
    batch_size=st.integers(1, 5),
    batch_tokens=st.integers(1, 300),
)
@example(texts=["", "a", "", "the cat sat", "a"], batch_size=2, batch_tokens=7)
def test_a_text_is_encoded_as_if_alone(models, texts, batch_size, batch_tokens):
    """The other texts, their order and the batch sizes change no number of a text."""
    encoder = models("cls").encoder
    alone = [encoder.encode_document([text]) for text in texts]
    sizes = encoder.batch_size, encoder.batch_tokens
    encoder.batch_size, encoder.batch_tokens = batch_size, batch_tokens
    try:
        together = encoder.encode_document(texts)
    finally:
        encoder.batch_size, encoder.batch_tokens = sizes
    for i, expected in enumerate(alone):
        assert_same(together[i], expected)


def test_one_forward_pass_per_batch(models):
    """Pooled and token embeddings come from the same forward pass."""
    encoder = models("dense").fresh(batch_size=4)
    shapes = forward_shapes(encoder)
    encoder.encode_document(["the cat sat"] * 10)
    assert [rows for rows, _ in shapes] == [4, 4, 2]


@pytest.mark.parametrize("name", ["mean", "prompts", "qwen2", "byt5"])
@pytest.mark.parametrize("task", TASKS)
def test_batches_are_of_like_length_within_the_budget(models, name, task):
    """Batches have hardly any padding, the longest texts first, and no more tokens or texts than allowed."""
    encoder = models(name).fresh(batch_size=16, batch_tokens=300)
    shapes = forward_shapes(encoder)
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size)) for size in rng.integers(1, 12, size=200)]
    encode(encoder, texts, task)
    prompt = models(name).reference.prompts[task]
    needed = [len(models(name).reference.tokenizer(prompt + text)["input_ids"]) for text in texts]
    assert sum(needed) <= sum(rows * width for rows, width in shapes) < 1.1 * sum(needed)
    assert sum(rows for rows, _ in shapes) == len(texts)
    assert all(rows <= 16 and (rows * width <= 300 or rows == 1) for rows, width in shapes)
    widths = [width for _, width in shapes]
    assert widths == sorted(widths, reverse=True)
    # A batch is full: one text more would have been too much.
    assert all(rows == 16 or (rows + 1) * width > 300 for rows, width in shapes[:-1])


@pytest.mark.parametrize("task", TASKS)
def test_batch_size_of_one_call(models, task):
    """It holds for this call alone."""
    encoder = models("mean").fresh(batch_size=4)
    call = encoder.encode_query if task == "query" else encoder.encode_document
    expected = call(["the cat sat"] * 10)
    shapes = forward_shapes(encoder)
    assert_same(call(["the cat sat"] * 10, batch_size=5), expected)
    assert_same(call(["the cat sat"] * 10), expected)
    assert [rows for rows, _ in shapes] == [5, 5, 4, 4, 2]
    assert encoder.batch_size == 4


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, True])
def test_a_bad_batch_size_of_one_call_is_refused(minilm, batch_size):
    for call in (minilm.encode_query, minilm.encode_document):
        with pytest.raises(InvalidInput, match=f"batch_size must be a whole number of at least 1, got {batch_size}"):
            call(["a"], batch_size=batch_size)


def test_memory_that_runs_out_with_the_batch_size_of_one_call(models):
    encoder = models("mean").fresh(batch_size=2)
    expected = encoder.encode_document(["the cat sat"] * 8)
    tried = out_of_memory_above(encoder, 2)
    assert_same(encoder.encode_document(["the cat sat"] * 8, batch_size=8), expected)
    assert tried == [8, 4, 2, 2, 4, 2, 2]
    assert encoder.batch_size == 2


def test_the_budget_is_exact(models):
    """The prompt and the special tokens on both sides of it count."""
    encoder = models("prompts").fresh()
    shapes = forward_shapes(encoder)
    encoder.encode_document(["the cat sat"])
    width = shapes.pop()[1]
    encoder.batch_tokens = 4 * width
    encoder.encode_document(["the cat sat"] * 8)
    encoder.batch_tokens = 4 * width - 1
    encoder.encode_document(["the cat sat"] * 6)
    assert [rows for rows, _ in shapes] == [4, 4, 3, 3]


def test_a_long_text_counts_after_it_is_cut(models):
    """A text is cut before it fills a batch."""
    encoder = models("mean").fresh(batch_tokens=4 * 64)
    shapes = forward_shapes(encoder)
    encoder.encode_document(["cat " * 500] * 8)
    assert shapes == [(4, 64), (4, 64)]


def test_out_of_memory_halves_the_batch(models):
    """Results are the same and in order, and the smaller size stays."""
    texts = [" ".join(WORDS[:size]) for size in (3, 9, 1, 7, 5, 8, 2, 6, 4, 10)]
    expected = models("mean").encoder.encode_document(texts)
    encoder = models("mean").fresh(batch_size=8)
    tried = out_of_memory_above(encoder, 2)
    assert_same(encoder.encode_document(texts), expected)
    assert encoder.batch_size == 2
    tried.clear()
    assert_same(encoder.encode_document(texts), expected)
    assert tried == [2] * 5


def test_out_of_memory_with_one_text_is_raised(models):
    """One text cannot be halved."""
    encoder = models("mean").fresh()
    tried = out_of_memory_above(encoder, 0)
    with pytest.raises(torch.OutOfMemoryError):
        encoder.encode_document(["the cat", "the dog"])
    assert tried == [2, 1]


@pytest.mark.parametrize("bound", ["batch_size", "batch_tokens"])
@pytest.mark.parametrize("value", [0, -1, 2.5, None])
def test_bad_bounds_of_a_batch_are_refused(minilm, bound, value):
    """The setters check their values, too."""
    before = getattr(minilm, bound)
    with pytest.raises(InvalidInput, match=f"{bound} must be a whole number of at least 1, got {value}"):
        setattr(minilm, bound, value)
    assert getattr(minilm, bound) == before


def test_several_devices_give_the_numbers_of_one(models, minilm):
    """Results keep the order of the texts, and each device encodes its share of the batches."""
    model = models("minilm")
    both = SmartEncoder(model.path, device=["cpu", "cpu"], batch_size=2)
    calls = []
    for copied in both._batches.models:
        copied.model[0].register_forward_pre_hook(lambda module, _: calls.append(id(module)))
    texts = [f"{'word ' * (i % 7)}number {i}" for i in range(17)]
    one, two = minilm.encode_document(texts), both.encode_document(texts)
    assert sorted(Counter(calls).values()) == [4, 5]
    assert np.abs(one.pooled - two.pooled).max() < 1e-5
    assert np.array_equal(one.tokens.offsets, two.tokens.offsets)
    assert np.abs(one.tokens.embeddings - two.tokens.embeddings).max() < 1e-5
    assert both.fingerprint == minilm.fingerprint


@pytest.mark.parametrize(
    "name", ["int8", "2bit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("float16", "1bit", "balanced"))]
)
def test_tokens_are_coded_on_the_device(minilm, name):
    """Codes equal those that the codec makes of the token embeddings; pooled embeddings and ids are the same."""
    embeddings, coded = minilm.encode_document(TEXTS), minilm.encode_document(TEXTS, codec=name)
    assert coded.tokens.codec == get_codec(name)
    assert coded.tokens.dimension == minilm.token_dimension
    np.testing.assert_array_equal(coded.pooled, embeddings.pooled)
    np.testing.assert_array_equal(coded.tokens.offsets, embeddings.tokens.offsets)
    np.testing.assert_array_equal(coded.tokens.ids, embeddings.tokens.ids)
    # A CPU may add up a matrix of another length in another order: what lies between two codes may get either.
    assert (coded.tokens.codes == get_codec(name).encode(embeddings.tokens.embeddings)).mean() > 0.999


def test_only_codes_are_copied_to_the_cpu(minilm_on_torch, monkeypatch):
    """From a GPU, a copy of the embeddings would take longer than coding them."""
    copied = []
    copy = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda rows: copied.append(rows) or copy(rows))
    coded = minilm_on_torch.encode_document(TEXTS[:3], codec="2bit")
    others = [rows for rows in copied if rows.is_floating_point()]
    assert [rows.shape for rows in others] == [coded.pooled.shape, coded.norms.shape]
    copied.clear()
    minilm_on_torch.encode_document(TEXTS[:3])
    assert max(rows.nbytes for rows in copied) > 10 * coded.tokens.codes.nbytes


def test_codes_after_memory_ran_out(models):
    whole = models("mean").encoder.encode_document(TEXTS[:2] * 2, codec="int8")
    encoder = models("mean").fresh()
    out_of_memory_above(encoder, 2)
    assert_same(encoder.encode_document(TEXTS[:2] * 2, codec="int8"), whole, 0.02)
    assert encoder.batch_size == 2

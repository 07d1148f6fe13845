"""Cached states: they are those of the encoder, and their nDCG@10 is that of plain loops."""

import math

import numpy as np
import pytest
import torch
from helpers import tiny_models
from helpers.some_pairs import some_data

from smart_rag import SmartEncoder
from smart_rag.encoders.adapter import Adapter
from smart_rag.training import TrainingData
from smart_rag.training.data import TrainingQuery
from smart_rag.training.states import DocumentFrequencies, cached_states
from smart_rag.types import Document


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return SmartEncoder(tiny_models.bert(tmp_path_factory.mktemp("bert")), device="cpu")


@pytest.fixture(scope="module")
def data():
    return some_data(200)  # more documents than are ranked at a time


@pytest.fixture(scope="module")
def cached(encoder, data, tmp_path_factory):
    with cached_states(data, encoder, (1, -1), tmp_path_factory.mktemp("states"), codec="float32") as cached:
        yield cached


def test_states_are_those_of_the_encoder(cached, encoder, data):
    positions = [150, 3, 3]
    tokens = cached.documents.tokens(positions)
    plain = encoder.token_states([data.documents[i].text for i in positions], "document", (1, -1))
    np.testing.assert_allclose(tokens.embeddings, plain.tokens.embeddings, atol=1e-6)
    assert tokens.offsets.tolist() == plain.tokens.offsets.tolist()
    assert tokens.ids.tolist() == plain.tokens.ids.tolist()
    np.testing.assert_allclose(cached.documents.pooled[positions], plain.pooled, atol=1e-6)
    assert (len(cached.queries), len(cached.documents)) == (200, 200)


def test_layers_are_chosen_by_their_number(cached):
    tokens = cached.queries.tokens([5])
    both = cached.states(tokens, (1, -1))
    assert both.shape == (len(tokens.embeddings), 2, 32)
    assert torch.equal(cached.states(tokens, (-1, 1)), both[:, [1, 0]])
    assert torch.equal(cached.states(tokens, (-1,)), both[:, 1:])


def test_embeddings_are_those_of_the_adapter_or_of_the_frozen_model(cached, encoder, data):
    tokens = cached.documents.tokens([7])
    frozen = encoder.encode_document([data.documents[7].text]).tokens[0]
    np.testing.assert_allclose(cached.embeddings(tokens, None).embeddings, frozen, atol=1e-6)
    adapter = Adapter(encoder.dimension, 8, (-1,))
    with torch.inference_mode():
        expected = adapter(cached.states(tokens, (-1,))).numpy()
    np.testing.assert_array_equal(cached.embeddings(tokens, adapter).embeddings, expected)


def test_a_sample_has_about_as_many_tokens_as_asked_for(cached):
    sample = cached.sample(100, 0, (1,))
    longest = max(map(len, cached.documents.ids))
    assert 100 <= len(sample) <= 100 + 2 * longest
    assert sample.shape[1:] == (1, 32)
    assert torch.equal(sample, cached.sample(100, 0, (1,)))
    assert not torch.equal(sample[:20], cached.sample(100, 1, (1,))[:20])


def test_document_frequencies_are_those_of_plain_loops():
    texts = [np.asarray(ids, dtype=np.int32) for ids in ([3, 3, -1], [1, 3], [5], [-1])]
    found = DocumentFrequencies.of(texts).inverse(np.asarray([3, 1, 5, 4, 99, -1], dtype=np.int32))
    counts = [sum(id in ids for ids in texts) for id in (3, 1, 5)]
    # An unknown id counts as one that one text contains, a token without an id as one in every text.
    expected = [math.log1p(4 / count) for count in (*counts, 1, 1, 4)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def plain_ndcg(encoder, data, documents, weights):
    """Return nDCG@10 of each query over ``documents`` by loops; ``weights`` are (pooled, late)."""
    encoded = [encoder.encode_document([document.text]) for document in documents]
    held = [set(one.tokens.ids.tolist()) for one in encoded]
    values = []
    for query in data.queries:
        asked = encoder.encode_query([query.text])
        ids = asked.tokens.ids.tolist()
        counts = [len(held) if id < 0 else max(1, sum(id in of for of in held)) for id in ids]
        idf = np.log1p(len(held) / np.asarray(counts))
        scores = []
        for one in encoded:
            late = float((asked.tokens[0] @ one.tokens[0].T).max(axis=1) @ idf / idf.sum())
            scores.append(weights[0] * float(asked.pooled[0] @ one.pooled[0]) + weights[1] * late)
        ranked = np.argsort(-np.asarray(scores), kind="stable")[:10].tolist()
        gain = sum(1 / math.log2(i + 2) for i, document in enumerate(ranked) if document in query.positives)
        values.append(gain / sum(1 / math.log2(i + 2) for i in range(min(10, len(query.positives)))))
    return values


def test_ndcg_is_that_of_plain_loops(encoder, tmp_path):
    """With distractors, which come from other data."""
    data, others = some_data(12, seed=1), some_data(30, seed=2)
    distractors = [4, 20, 29]
    with (
        cached_states(data, encoder, (-1,), tmp_path, codec="float32") as cached,
        cached_states(others, encoder, (-1,), tmp_path, codec="float32") as other_states,
    ):
        found = cached.ndcg(None, other_states, distractors)
        alone = cached.ndcg()
    documents = [*data.documents, *(others.documents[i] for i in distractors)]
    for name, weights in {"pooled": (1, 0), "late": (0, 1), "hybrid": (1, 2)}.items():
        assert found[name].tolist() == pytest.approx(plain_ndcg(encoder, data, documents, weights), abs=1e-6), name
        assert alone[name].tolist() == pytest.approx(plain_ndcg(encoder, data, data.documents, weights), abs=1e-6), name
    assert any((found[name] != alone[name]).any() for name in found)


def test_nothing_is_left_in_the_folder(encoder, tmp_path):
    data = TrainingData("x", [Document("a", "the cat sat")], [TrainingQuery("cat", (0,))])
    with cached_states(data, encoder, (-1,), tmp_path):
        assert [path.name.startswith(".states-") for path in tmp_path.iterdir()] == [True]
    assert list(tmp_path.iterdir()) == []

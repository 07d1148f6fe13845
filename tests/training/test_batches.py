"""Batches: a check that there is enough for one, groups of equal documents, and the documents of each batch."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.some_pairs import page_images
from helpers.word_encoder import WordEncoder

from smart_rag.errors import InvalidInput
from smart_rag.training import TrainingData, load_training_data
from smart_rag.training.batches import check_trainable, content_groups, make_batch
from smart_rag.training.data import TrainingQuery
from smart_rag.types import Document


def test_a_model_of_texts_cannot_be_trained_on_page_images(tmp_path):
    """It would encode each of them as an empty text."""
    pages = load_training_data(page_images(tmp_path / "pages", 3))
    with pytest.raises(
        InvalidInput, match=r"pages: the model encodes text, and no document has that; use a model that"
    ):
        check_trainable(pages, WordEncoder(), 1)


def test_there_must_be_queries_for_a_batch_in_each_process(monkeypatch):
    encoder = WordEncoder()
    texts = TrainingData("texts", [Document("a", "cat"), Document("b", "")], [TrainingQuery(q, (0,)) for q in "ab"])
    check_trainable(texts, encoder, 2)
    with pytest.raises(
        InvalidInput, match=r"1 query to train on, fewer than a batch of 2; bring more, .* \(--batch-size, batch_size"
    ):
        check_trainable(replace(texts, queries=texts.queries[:1]), encoder, 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InvalidInput, match="2 queries to train on, fewer than a batch of 2 in each of 2 processes"):
        check_trainable(texts, encoder, 2)


@pytest.fixture
def data():
    """Four queries. "cat" has two positives, and the first of them has a copy under another id."""
    documents = [
        Document("a", "the cat sat"),
        Document("copy", "the cat sat"),
        Document("b", "dogs bark"),
        Document("c", "rain"),
        Document("d", "taxes"),
        Document("e", "boats"),
    ]
    queries = [
        TrainingQuery("cat", (0, 2)),
        TrainingQuery("sat", (1,)),
        TrainingQuery("dogs", (2,)),
        TrainingQuery("rain", (3,), (4, 5)),
    ]
    return TrainingData("x", documents, queries)


def test_documents_of_equal_text_are_one_group(data, tmp_path):
    groups = content_groups(data, {"text"}).tolist()
    assert groups[0] == groups[1]
    assert len(set(groups)) == 5
    pages = load_training_data(page_images(tmp_path / "pages", 3))
    assert content_groups(pages, {"image"}).tolist() == [0, 1, 2]


def test_other_positives_and_copies_are_no_negatives(data):
    groups = content_groups(data, {"text"})
    batches = [make_batch(data, groups, [2, 0, 3, 1], 0, np.random.default_rng(seed)) for seed in range(8)]
    positives = {batch.documents[batch.positives[batch.queries.index(0)]] for batch in batches}
    assert positives == {0, 2}  # both positives of "cat" are drawn
    for batch in batches:
        assert len(set(batch.documents)) == len(batch.documents)
        for row, query in enumerate(batch.queries):
            answers = {0: {0, 1, 2}, 1: {0, 1}, 2: {2}, 3: {3}}[query]
            positive = batch.documents[batch.positives[row]]
            assert positive in data.queries[query].positives
            excluded = {batch.documents[i] for i in np.flatnonzero(batch.excluded[row])}
            assert excluded == (answers & set(batch.documents)) - {positive}


def test_hard_negatives_are_drawn_from_those_of_the_query(data):
    groups = content_groups(data, {"text"})
    drawn = {tuple(make_batch(data, groups, [3, 1], 1, np.random.default_rng(seed)).documents) for seed in range(20)}
    assert drawn == {(3, 1, 4), (3, 1, 5)}
    both = make_batch(data, groups, [3, 1], 5, np.random.default_rng(0))
    assert set(both.documents) == {3, 1, 4, 5}
    assert not both.excluded.any()

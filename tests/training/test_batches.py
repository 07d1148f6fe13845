"""Batches of training data: what is enough for one."""

from dataclasses import replace

import pytest
from helpers.some_pairs import page_images
from helpers.word_encoder import WordEncoder

from smart_rag.errors import InvalidInput
from smart_rag.training.batches import check_trainable
from smart_rag.training.data import TrainingData, TrainingQuery, load_training_data
from smart_rag.types import Document


def test_what_can_be_trained_on(tmp_path, monkeypatch):
    """A model of texts would learn from page images that all of them are the same empty text."""
    encoder = WordEncoder()
    pages = load_training_data(page_images(tmp_path / "pages", 3))
    with pytest.raises(InvalidInput, match=r"pages: the documents hold nothing that the model takes, which is text"):
        check_trainable(pages, encoder, 1)
    texts = TrainingData("texts", [Document("a", "cat"), Document("b", "")], [TrainingQuery(q, (0,)) for q in "ab"])
    check_trainable(texts, encoder, 2)
    with pytest.raises(
        InvalidInput, match=r"1 query to train on, fewer than a batch of 2; bring more, .* \(--batch-size, batch_size"
    ):
        check_trainable(replace(texts, queries=texts.queries[:1]), encoder, 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InvalidInput, match="2 queries to train on, fewer than a batch of 2 in each of 2 processes"):
        check_trainable(texts, encoder, 2)

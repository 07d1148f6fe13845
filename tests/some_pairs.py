"""Made-up training data: texts of eight words, and queries of three of them."""

import random
import re

import tiny_models

from smart_rag.training_data import TrainingData, TrainingQuery
from smart_rag.types import Document

WORDS = sorted({word for text in tiny_models.SENTENCES for word in re.findall(r"\w+", text.lower())})


def some_data(count=160, seed=0):
    """Return ``count`` documents and queries; every fourth query has a second answer."""
    generator = random.Random(seed)
    documents, queries = [], []
    for i in range(count):
        words = generator.sample(WORDS, 8)
        documents.append(Document(f"d{i}", " ".join(words)))
        positives = (i, i - 1) if i % 4 == 1 else (i,)
        queries.append(
            TrainingQuery(" ".join(generator.sample(words, 3)), positives, (max(0, i - 5),) if i > 5 else ())
        )
    return TrainingData("words", documents, queries)

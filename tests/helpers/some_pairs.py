"""Training data for tests: texts of eight words with queries of three of them, and page images with questions."""

import random
import re

import pytest
from helpers import tiny_models
from PIL import Image, ImageDraw

from smart_rag.training import TrainingData
from smart_rag.training.data import TrainingQuery
from smart_rag.types import Document

WORDS = sorted({word for text in tiny_models.SENTENCES for word in re.findall(r"\w+", text.lower())})


def some_data(count=160, seed=0):
    """Return ``count`` documents and queries; every fourth query has a second positive."""
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


def texts(data):
    """Return the texts of the positives and of the negatives of each query."""
    return {
        query.text: tuple([data.documents[i].text for i in of] for of in (query.positives, query.negatives))
        for query in data.queries
    }


def page_images(folder, count=20):
    """Save a dataset folder of page images, each with a question, and return it."""
    datasets = pytest.importorskip("datasets", reason="dataset folders need the extra train")
    rows = []
    for i in range(count):
        page = Image.new("RGB", (64, 64 + 32 * (i % 3)), "white")
        ImageDraw.Draw(page).rectangle((2 * i, 4, 2 * i + 12, 40), fill=(12 * i, 250 - 12 * i, 100))
        rows.append({"query": f"where is bar number {i}?", "image": page, "image_filename": f"page{i}.png"})
    datasets.Dataset.from_list(rows).save_to_disk(str(folder))
    return folder

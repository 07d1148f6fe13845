"""Encoders that cost nothing, for tests in which any numbers will do, and the score by plain loops."""

from __future__ import annotations

import threading
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from smart_rag import Representation

# For `sys.path` of another process, which then finds this package.
TESTS = str(Path(__file__).parents[1])


class WordEncoder:
    """A deterministic encoder: a token for each word, pooled is their mean."""

    dimension = 24
    fingerprint = "words"

    def describe(self):
        return {"model": "words"}

    def encode_query(self, texts):
        tokens = [np.stack([self._word(word) for word in text.split()]) for text in texts]
        return Representation.from_embeddings(np.stack([matrix.mean(axis=0) for matrix in tokens]), tokens)

    encode_document = encode_query

    def _word(self, word):
        return np.random.default_rng(zlib.crc32(word.encode())).standard_normal(self.dimension)


class VocabularyEncoder(WordEncoder):
    """Tells of each word its place in a vocabulary of 2^20; "?" has none."""

    fingerprint = "vocabulary"

    def encode_query(self, texts):
        encoded = super().encode_query(texts)
        ids = np.asarray([self.id_of(word) for text in texts for word in text.split()], dtype=np.int32)
        return Representation(encoded.pooled, replace(encoded.tokens, ids=ids))

    encode_document = encode_query

    @staticmethod
    def id_of(word):
        return -1 if word == "?" else zlib.crc32(word.encode()) >> 12


class CountingEncoder(WordEncoder):
    """Keeps what it was asked to encode, and the threads in which it was asked."""

    def __init__(self, fingerprint="words"):
        self.fingerprint = fingerprint
        self.documents, self.queries, self.threads = [], [], set()

    def encode_document(self, texts):
        self.documents += texts
        self.threads.add(threading.get_ident())
        return super().encode_query(texts)

    def encode_query(self, texts):
        self.queries += texts
        self.threads.add(threading.get_ident())
        return super().encode_query(texts)


class SeeingEncoder(CountingEncoder):
    """Sees nothing in an image but that it is one; keeps what it was asked to encode."""

    modalities = ("text", "image")

    def __init__(self):
        super().__init__("seeing")

    def encode_document(self, items):
        return super().encode_document([self._seen(item) for item in items])

    def encode_query(self, items):
        return super().encode_query([self._seen(item) for item in items])

    @staticmethod
    def _seen(item):
        return item if isinstance(item, str) else f"{item.text} image"


class LetterEncoder:
    """A deterministic encoder for tests: a token for each word, by its letters; pooled is their mean."""

    dimension = 8

    def __init__(self, fingerprint: str = "letters") -> None:
        self.fingerprint = fingerprint
        self.encoded: list[str] = []

    def describe(self):
        return {"model": self.fingerprint}

    def encode_query(self, queries):
        return self._encode(queries)

    def encode_document(self, documents):
        self.encoded += documents
        return self._encode(documents)

    def _encode(self, texts):
        tokens = [np.stack([self._word(word) for word in text.split()]) for text in texts]
        return Representation.from_embeddings(np.stack([matrix.mean(axis=0) for matrix in tokens]), tokens)

    def _word(self, word):
        seed = sum(ord(letter) << (8 * (i % 4)) for i, letter in enumerate(word))
        return np.random.default_rng(seed).standard_normal(self.dimension).astype(np.float32)


def plain_scores(query: str, texts: list[str], weights=(1.0, 1.0)) -> list[float]:
    """The scores of ``texts`` by `WordEncoder`, in plain loops."""
    encoder = WordEncoder()
    q = encoder.encode_query([query])
    scores = []
    for text in texts:
        d = encoder.encode_document([text])
        late = sum(max(float(a @ b) for b in d.tokens[0]) for a in q.tokens[0]) / len(q.tokens[0])
        scores.append(weights[0] * float(q.pooled[0] @ d.pooled[0]) + weights[1] * late)
    return scores

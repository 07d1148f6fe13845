"""An encoder that costs nothing, for tests in which any numbers will do."""

from __future__ import annotations

import zlib

import numpy as np

from smart_rag import Representation


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

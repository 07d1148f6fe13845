"""Rows with vectors of any direction, and a pooled store for them."""

from __future__ import annotations

import numpy as np

from smart_rag.config import IndexConfig
from smart_rag.store.pooled_store import PooledStore
from smart_rag.store.row import Row
from smart_rag.types import Document


def row(id, text="text", stamp=None, number=None, **metadata):
    """Return a row under the key of ``number``, by default one that depends on the id."""
    key = (sum(id.encode()) if number is None else number).to_bytes(16, "big")
    return Row(Document(id, text, metadata), key, stamp)


def unit_rows(n, dimension, seed=0):
    """Return random vectors (n, dimension) float32 of length 1."""
    rows = np.random.default_rng(seed).standard_normal((n, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def create(path, client=None, collection="smart_rag"):
    return PooledStore.create(path, IndexConfig(), client, collection)

"""Chroma's log is short when an ingest ends, so that the next process opens the index fast."""

from __future__ import annotations

import logging

import chromadb
import numpy as np
import pytest
from helpers.word_encoder import WordEncoder

from smart_rag import Document, IndexConfig, SmartIndex
from smart_rag.errors import StorageFull
from smart_rag.store.checks.chroma_tables import segments
from smart_rag.store.chroma.log import shorten_log
from smart_rag.store.pooled_store import PooledStore
from smart_rag.store.row import Row


def rows(count):
    generator = np.random.default_rng(0)
    pooled = generator.standard_normal((count, 8), dtype=np.float32)
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    return [Row(Document(f"d{i}", f"text {i}"), i.to_bytes(16, "big")) for i in range(count)], pooled


@pytest.fixture
def store(tmp_path):
    store = PooledStore.create(tmp_path / "chroma", IndexConfig(), None, "rows")
    yield store
    store.close()


def pending(folder):
    [found] = segments(folder)
    return found.logged - found.persisted


@pytest.mark.parametrize("count", [100, 150, 999])
def test_a_long_log_is_written_to_the_graph(store, count):
    held, pooled = rows(count)
    store.upsert(held, pooled)
    assert pending(store.folder) == count
    before = store.query(pooled[:5], 10)
    shorten_log(store)
    assert pending(store.folder) == 0
    assert store.count() == count
    assert store.query(pooled[:5], 10) == before
    assert store.damage() is None
    store.close()
    again = PooledStore.open(store.folder, None, "rows")
    assert again.query(pooled[:5], 10) == before
    assert set(again.get([row.document.id for row in held])) == {row.document.id for row in held}
    again.close()


@pytest.mark.parametrize("count", [0, 1, 99, 1000, 1050])
def test_a_short_log_stays(store, count):
    """Chroma itself writes the files at 1,000 records."""
    held, pooled = rows(count)
    if count:
        store.upsert(held, pooled)
    version = store.version()
    shorten_log(store)
    assert store.version() == version
    assert store.count() == count


def test_the_clients_own_server_looks_after_its_log(tmp_path):
    client = chromadb.EphemeralClient(chromadb.Settings(anonymized_telemetry=False))
    store = PooledStore.create(tmp_path, IndexConfig(), client, "log-of-a-client")
    store.upsert(*rows(150))
    shorten_log(store)
    assert store.count() == 150
    store.drop()


def test_an_error_loses_nothing(store, monkeypatch, caplog):
    def full(ids):
        raise StorageFull("no space")

    store.upsert(*rows(150))
    monkeypatch.setattr(store, "delete", full)
    with caplog.at_level(logging.WARNING):
        shorten_log(store)
    assert "will need longer (no space)" in caplog.text
    assert store.count() == 150


@pytest.mark.parametrize("ingest", ["add", "add_embeddings", "compact"])
def test_each_ingest_shortens_it(tmp_path, ingest):
    documents = [Document(f"d{i}", f"pump {i} keys") for i in range(120)]
    with SmartIndex.create(tmp_path / "index", WordEncoder(), config=IndexConfig(codec="exact")) as index:
        if ingest == "add_embeddings":
            index.add_embeddings(documents, WordEncoder().encode_document([one.text for one in documents]))
        else:
            index.add(documents)
        if ingest == "compact":
            index.compact()
        assert pending(index.path / index.manifest.data / "chroma") == 0
        assert index.count() == 120
        assert index.verify().sound

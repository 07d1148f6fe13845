"""A process is killed while it learns centroids or assigns documents to them: nothing is lost, and the next goes on."""

from __future__ import annotations

import random
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers.ragged import batch
from helpers.word_encoder import TESTS

from smart_rag import Document, Representation, SmartIndex
from smart_rag.index.candidates import FirstStage
from smart_rag.store.terms import centroid_terms
from smart_rag.store.terms.codebook import has_centroids

KILLS = 12
LEAST = 20
CHILD = """
import sys
sys.path.insert(0, sys.argv[2])
import numpy as np
from helpers.ragged import batch
from smart_rag import Document, Representation, SmartIndex
from smart_rag.store.terms import centroid_terms

centroid_terms.EXHAUSTIVE_DOCUMENTS = 20
centroid_terms._GROWTH = 2
centroid_terms._ASSIGNED_AT_ONCE = 1  # so that it takes long
with SmartIndex.open(sys.argv[1]) as index:
    print("ready", flush=True)
    first = int(sys.argv[3])
    for start in range(first, first + 1000, 5):
        rng = np.random.default_rng(start)
        tokens = batch(rng, rng.integers(1, 13, 5), 8)
        documents = [Document(f"d{start + i}", "x") for i in range(5)]
        index.add_embeddings(documents, Representation(batch(rng, [1] * 5, 8).embeddings, tokens))
        print(start + 5, flush=True)
        index._store.centroids._codebooks.keep(0)  # so that all are assigned again
        index._store.centroids._codebooks.set_growth(centroid_terms.Growth(0, 0))
"""


@pytest.mark.slow
def test_a_killed_process_leaves_a_sound_index(tmp_path, monkeypatch):
    monkeypatch.setattr(centroid_terms, "EXHAUSTIVE_DOCUMENTS", LEAST)
    path, generator, done = tmp_path / "index", random.Random(0), 0
    SmartIndex.create(path, None, dimension=8).close()
    unfinished = 0
    for _ in range(KILLS):
        arguments = [sys.executable, "-c", CHILD, str(path), TESTS, str(done)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "ready\n"
            time.sleep(generator.uniform(0.1, 1.5))
            process.kill()
            told = [int(line) for line in process.stdout.read().split()]
        done = told[-1] if told else done
        with SmartIndex.open(path) as index:
            assert index.verify().sound
            assert {f"d{i}" for i in range(done)} <= {document.id for document in index.documents()}
            query = _query()
            assert len(FirstStage(index._store, 10).terms(query)[0].ids) == min(10, index.count())
            unfinished += bool(index._store.centroids._codebooks.all()) and not _complete(index)
            index.add_embeddings([Document("more", "x")], query)  # a write goes on, if something was interrupted
            index.vacuum()
            if index.count() >= LEAST:
                assert _complete(index)
            assert index.verify().sound
            index.delete(["more"])
    assert unfinished, "no kill has interrupted the assignment: the test shows nothing"


def _query():
    rng = np.random.default_rng(1)
    return Representation(batch(rng, [1], 8).embeddings, batch(rng, [4], 8))


def _complete(index):
    rows = list(index._store.pooled.select())
    firsts = np.int32([book.first for book in index._store.centroids._codebooks.all()])
    return all(has_centroids(one, firsts) for one in index._store._terms.get([row.revision for row in rows]))

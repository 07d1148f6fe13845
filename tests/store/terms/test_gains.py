"""`InvertedIndex.best_by_gains` against nested loops, after any writes, and the number of documents with words."""

import numpy as np
import pytest
import xxhash
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smart_rag.store.terms.codebook import FIRST, WITHOUT_WORDS
from smart_rag.store.terms.inverted_index import InvertedIndex
from smart_rag.store.terms.term_entry import id_hash
from smart_rag.store.terms.term_store import TermStore

KEY = b"k" * 16
CENTROIDS = [FIRST, FIRST + 1, FIRST + 4096, 2**31 - 1]
TERM = st.sampled_from([3, 70_000, WITHOUT_WORDS, *CENTROIDS])
ID = st.sampled_from([f"d{i}" for i in range(7)])
BATCH = st.dictionaries(ID, st.none() | st.sets(TERM, max_size=5), max_size=5)
# Gains are eighths, so that sums are exact and ties are ties.
ROW = st.lists(st.tuples(st.sampled_from(CENTROIDS), st.integers(0, 8)), min_size=3, max_size=3)


@settings(max_examples=60, deadline=None)
@given(st.lists(BATCH, max_size=4), st.sets(ID), st.lists(ROW, max_size=4), st.integers(1, 8), st.none() | st.sets(ID))
@example(
    [{"d0": set(CENTROIDS[:2]), "d1": {CENTROIDS[2]}}],
    set(),
    [[(c, 4 + i) for i, c in enumerate(CENTROIDS[:3])]],
    1,
    None,
)
def test_it_equals_loops(tmp_path_factory, batches, deleted, rows, limit, admitted):
    rows = [sorted(row, key=lambda pair: pair[1]) for row in rows]
    store = TermStore(tmp_path_factory.mktemp("terms"))
    index = InvertedIndex(store, list, lambda: None)
    documents = {}
    for batch in batches:
        terms = [None if own is None else np.asarray(sorted(own), dtype=np.int32) for own in batch.values()]
        store.put([(id, KEY) for id in batch], terms)
        documents |= batch
        index.count_with_words()
    store.settle([(id, KEY) for id in deleted])
    documents = {id: own for id, own in documents.items() if id not in deleted and own is not None}
    scores = {}
    for id, own in documents.items():
        score = sum(max((gain for term, gain in row if term in own), default=0) for row in rows)
        if score and (admitted is None or id in admitted):
            scores[id] = score
    expected = sorted(scores, key=lambda name: (-scores[name], xxhash.xxh3_64_intdigest(name.encode())))[:limit]
    numbers = np.asarray([[term for term, _ in row] for row in rows], dtype=np.int32).reshape(-1, 3)
    gains = np.asarray([[gain / 8 for _, gain in row] for row in rows], dtype=np.float32).reshape(-1, 3)
    hashes = None if admitted is None else np.asarray([id_hash(id) for id in sorted(admitted)], dtype=np.uint64)
    assert index.best_by_gains(numbers, gains, limit, hashes) == expected
    assert index.count_with_words() == sum(WITHOUT_WORDS not in own for own in documents.values())
    store.close()


@pytest.mark.parametrize("others", [0, 3])
def test_documents_without_words_change_no_weight(tmp_path, others):
    store = TermStore(tmp_path)
    index = InvertedIndex(store, list, lambda: None)
    texts = [np.int32([1]), np.int32([1, 2]), np.int32([])]
    pages = [np.int32([WITHOUT_WORDS, FIRST + i]) for i in range(others)]
    store.put([(f"d{i}", KEY) for i in range(3 + others)], [*texts, *pages])
    # Three documents; 1 is in two of them, 2 in one, 9 in none.
    expected = np.log1p([3 / 2, 3, 3, 1])
    assert index.weights(np.int32([1, 2, 9, -1])).tolist() == pytest.approx(expected.tolist())
    assert index.best(np.int32([1, 2]), 9) == ["d1", "d0"]
    store.settle([(f"d{i}", KEY) for i in range(3)])
    assert index.weights(np.int32([1])) is None
    store.close()


def test_documents_without_words_change_no_ranking(tmp_path):
    """Of five documents, one rare word counts more than two frequent ones. Of 105, it would count less."""
    store = TermStore(tmp_path)
    index = InvertedIndex(store, list, lambda: None)
    texts = [np.int32([7]), *[np.int32([1, 2])] * 4]
    store.put([(f"d{i}", KEY) for i in range(105)], [*texts, *[np.int32([WITHOUT_WORDS, FIRST])] * 100])
    assert index.best(np.int32([1, 2, 7]), 1) == ["d0"]
    store.close()

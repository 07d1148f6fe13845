"""`Codebook`: its bytes, and centroids among the terms of a document."""

from pathlib import Path

import numpy as np
import pytest
from helpers.ragged import unit_rows
from hypothesis import given
from hypothesis import strategies as st

from smart_rag.embeddings.tokens import MOST_ID
from smart_rag.errors import CorruptStore
from smart_rag.scoring.centroids import MOST_CENTROIDS
from smart_rag.store.terms.codebook import FIRST, WITHOUT_WORDS, Codebook, has_centroids, joined, words_of

HERE = Path("terms")
SMALL = Codebook.of(np.float32([[1, 0], [-0.8, 0.6]]), 700)
BYTES = "c7e4988a4af27cde bc02000000000000 02000000 02000000 8c a4"


def test_bytes_of_the_format():
    """As docs/format.md says."""
    assert SMALL.packed() == bytes.fromhex(BYTES)
    again = Codebook.unpacked(bytes.fromhex(BYTES), HERE)
    assert (again.documents, again.centroids.tolist()) == (700, SMALL.centroids.tolist())
    assert (again.dimension, again.codes.tolist()) == (2, SMALL.codes.tolist())
    assert again.first == SMALL.first == FIRST + 203879 * MOST_CENTROIDS


@pytest.mark.parametrize("change", [lambda value: value[:-1], lambda value: value[:10], lambda value: b"", "flip"])
def test_a_damaged_codebook(change):
    value = bytes.fromhex(BYTES)
    for i in range(len(value)) if change == "flip" else [0]:
        damaged = value[:i] + bytes([value[i] ^ 1]) + value[i + 1 :] if change == "flip" else change(value)
        with pytest.raises(CorruptStore, match=r"terms: the centroids .*index.verify\(repair=True\)"):
            Codebook.unpacked(damaged, HERE)


@pytest.mark.parametrize("dimension", [1, 5, 384])
def test_centroids_of_any_dimension(dimension):
    """They are nearly what they were, and their codes are short."""
    centroids = unit_rows(np.random.default_rng(0), 9, dimension)
    book = Codebook.unpacked(Codebook.of(centroids, 1).packed(), HERE)
    assert book.centroids.dtype == np.float32
    assert np.linalg.norm(book.centroids, axis=1) == pytest.approx(np.ones(9), abs=1e-5)
    assert (np.sum(book.centroids * centroids, axis=1) > 0.95).all()
    assert len(book.packed()) == 24 + 9 * -(-dimension // 2)


def test_terms_are_the_distinct_nearest_centroids():
    tokens = np.float32([[1, 0], [0.8, 0.6], [-1, 0], [0.9, 0.1]])
    assert SMALL.terms(tokens).tolist() == [SMALL.first, SMALL.first + 1]
    assert SMALL.terms(tokens[:2]).tolist() == [SMALL.first]
    assert SMALL.terms(tokens).dtype == np.int32


def test_codebooks_have_terms_of_their_own():
    """All terms fit into int32, and those of two codebooks do not meet."""
    rng = np.random.default_rng(0)
    firsts = [Codebook.of(unit_rows(rng, 2, 4), 1).first for _ in range(50)]
    assert len(set(firsts)) == 50
    assert all(FIRST <= first <= 2**31 - MOST_CENTROIDS for first in firsts)
    assert {(first - FIRST) % MOST_CENTROIDS for first in firsts} == {0}


WORDS = st.none() | st.lists(st.sampled_from([0, 5, 70_000, MOST_ID]), unique=True).map(sorted)


@given(WORDS, st.lists(st.integers(0, MOST_CENTROIDS - 1), min_size=1, unique=True).map(sorted))
def test_words_come_back(words, numbers):
    """What the vocabulary ids were before the centroids came, None included."""
    own = None if words is None else np.asarray(words, dtype=np.int32)
    terms = joined(own, np.asarray(numbers, dtype=np.int32) + np.int32(SMALL.first))
    assert terms.dtype == np.int32
    assert (np.diff(terms) > 0).all()
    back = words_of(terms)
    assert (None if back is None else back.tolist()) == words
    assert has_centroids(terms)
    assert has_centroids(terms, np.int32([FIRST, SMALL.first]))
    assert not has_centroids(terms, np.int32([SMALL.first + MOST_CENTROIDS]))
    assert not has_centroids(terms, np.int32([]))
    assert not has_centroids(own)
    plain = words_of(own)
    assert (None if plain is None else plain.tolist()) == words


def test_numbers_do_not_meet_words():
    assert MOST_ID < WITHOUT_WORDS < FIRST

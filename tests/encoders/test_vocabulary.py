"""`Vocabulary`: ids against a plain loop."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smart_rag import Vocabulary

WORDS = ["pump", "##ing", "?!", ",", "", " ", "3", "a.", "\u3002", "\u00bf", "+"]


def expected(id):
    text = WORDS[id].strip()
    for letter in text:
        if unicodedata.category(letter)[0] != "P":
            return id
    return -1


@given(st.lists(st.integers(0, len(WORDS) - 1)))
def test_punctuation_has_no_id(ids):
    got = Vocabulary(lambda ids: WORDS[ids[0]]).ids(np.asarray(ids, dtype=np.int64))
    assert got.dtype == np.int32
    assert got.tolist() == [expected(id) for id in ids]


def test_ids_keep_their_shape():
    vocabulary = Vocabulary(lambda ids: WORDS[ids[0]])
    assert vocabulary.ids([[0, 2], [3, 1]]).tolist() == [[0, -1], [-1, 1]]
    assert vocabulary.ids(np.zeros((2, 0), dtype=np.int64)).shape == (2, 0)


def test_each_id_is_decoded_once():
    asked = []
    vocabulary = Vocabulary(lambda ids: (asked.extend(ids), WORDS[ids[0]])[1])
    vocabulary.ids([0, 2, 0])
    vocabulary.ids([2, 0, 1])
    assert sorted(asked) == [0, 1, 2]


@pytest.mark.parametrize("text", ["The cat sat, on the mat.", "What?! (No...)"])
def test_ids_equal_those_of_the_encoder(minilm, minilm_on_torch, text):
    """With a real tokenizer, special tokens are left out, and punctuation has no id."""
    vocabulary = Vocabulary(minilm_on_torch.model.tokenizer.decode)
    ids = minilm_on_torch.model.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert vocabulary.ids(ids).tolist() == minilm.encode_document([text]).tokens.ids.tolist()

"""A pickle of an encoder holds its arguments. An encoder of the caller's own is pickled with what holds it."""

import copy
import pickle
import threading

import pytest
import torch
from helpers.word_encoder import WordEncoder

from smart_rag import CachedEncoder, SmartEncoder
from smart_rag.errors import EncoderError, InvalidInput

TEXTS = ["The cat sat on the mat.", "Dogs bark at night."]


def test_a_pickle_holds_the_arguments():
    encoder = SmartEncoder(
        "minilm",
        device="cpu",
        dtype="float64",
        batch_size=3,
        query_prompt="Ask: ",
        max_length=5,
        document_tokens="text",
        model_options={"truncate_dim": 8, "token": "hf_secret"},
    )
    pickled = pickle.dumps(encoder)
    assert len(pickled) < 1_000
    assert b"hf_secret" not in pickled
    other = pickle.loads(pickled)
    assert (other.describe(), other.arguments, other.device) == (encoder.describe(), encoder.arguments, "cpu")
    for name in ("encode_query", "encode_document"):
        mine, theirs = getattr(encoder, name)(TEXTS), getattr(other, name)(TEXTS)
        assert mine.pooled.tolist() == theirs.pooled.tolist()
        assert all((a == b).all() for a, b in zip(mine.tokens, theirs.tokens, strict=True))


def test_weights_that_were_trained_in_memory_are_not_lost_without_a_word():
    encoder = SmartEncoder("minilm", device="cpu")
    assert encoder.fingerprint
    with torch.no_grad():
        next(encoder.model.parameters()).add_(1)
    with pytest.raises(EncoderError, match=r"trained or replaced; save"):
        pickle.loads(pickle.dumps(encoder))


class LockedEncoder(WordEncoder):
    def __init__(self):
        self.lock = threading.Lock()


def test_a_copy_of_a_cached_encoder_shares_the_encoder(tmp_path):
    encoder = LockedEncoder()
    cached = CachedEncoder(encoder, tmp_path / "tokens")
    for other in (copy.copy(cached), copy.deepcopy(cached)):
        assert other.encoder is encoder
        assert other.path == cached.path
    named = CachedEncoder("minilm", device="cpu")
    assert copy.deepcopy(named).encoder is not named.encoder  # that was not loaded yet
    assert copy.deepcopy(named).encoder is named.encoder


def test_an_encoder_that_cannot_be_pickled_is_named():
    with pytest.raises(InvalidInput, match=r"LockedEncoder cannot be pickled .*lock.*; make the CachedEncoder again"):
        pickle.dumps(CachedEncoder(LockedEncoder()))

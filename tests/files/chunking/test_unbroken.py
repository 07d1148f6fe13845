"""Long texts without a blank, such as base64, by tokenizers of each kind."""

from __future__ import annotations

import random
import string
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from smart_rag.files.chunking.splitter import Splitter
from smart_rag.files.chunking.unbroken import unbroken_chunk

SAMPLE = [
    "The boats are fuelled on Mondays. Keys hang behind the barometer in the hall; 12 and 345.",
    "QmFzZTY0/IGVuY29k+aW5n==",
    "\u6570\u636e\u68c0\u7d22\u3002\u7cfb\u7edf\u6d77\u6d0b\uff01\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22",
]


def _wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=30))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(SAMPLE, trainers.WordPieceTrainer(vocab_size=150, special_tokens=["[UNK]"]))
    return tokenizer


def _bytes() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(SAMPLE, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet))
    return tokenizer


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, unk_token="<unk>", special_tokens=["<unk>"])
    tokenizer.train_from_iterator(SAMPLE, trainer)
    return tokenizer


TOKENIZERS = {"WordPiece": _wordpiece(), "BPE of bytes": _bytes(), "Unigram": _unigram()}


class Reader:
    """The places of the tokens of a text. It counts the characters that the tokenizer reads."""

    def __init__(self, name: str) -> None:
        self.name, self.read = name, 0

    def __call__(self, part: str) -> list[tuple[int, int]]:
        self.read += len(part)
        found: list[tuple[int, int]] = TOKENIZERS[self.name].encode(part, add_special_tokens=False).offsets
        return found


def places(name: str, text: str, limits: tuple[int, int, int]) -> tuple[list[tuple[int, int]], int]:
    """Return the first and last places of the chunks of ``text``, and how many characters the tokenizer read."""
    spans = Reader(name)
    found, begin, length = [], 0, limits[0]
    while begin + limits[2] <= len(text):
        chunk = unbroken_chunk(text, begin, length, spans, lambda part: len(spans(part)), limits)
        assert chunk is not None
        found.append((begin, chunk[0]))
        begin, length = chunk[1], chunk[0] - begin
    return found, spans.read


LETTERS = "aeht0159+/=.,;{}\"'\u6570\u636e\u68c0\u3002\uff01\u0e32\u0e44\u0e34\u0301\u200d\U0001f600\U00012000"


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.text(LETTERS, min_size=1, max_size=40), st.sampled_from(SAMPLE)), min_size=8, max_size=60),
    st.integers(4, 25),
    st.integers(0, 3),
)
def test_chunks_keep_the_limits_and_lose_nothing(name, parts, tokens, overlap):
    def count(part: str) -> int:
        return len(TOKENIZERS[name].encode(part, add_special_tokens=False).ids)

    text = "".join("".join(parts).split())
    longest = 8 * tokens
    found, _ = places(name, text, (tokens, overlap, longest))
    for begin, stop in found:
        assert count(text[begin:stop]) <= tokens or stop == begin + 1
        assert 0 < stop - begin <= longest
    for (begin, stop), (following, _) in pairwise(found):
        assert begin < following <= stop
        assert count(text[following:stop]) <= overlap


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("sample", SAMPLE)
def test_the_tokenizer_reads_each_character_about_twice(name, sample):
    text = "".join(sample.split()) * 300
    found, read = places(name, text, (40, 5, 640))
    assert read < 2.6 * len(text)
    assert found[-1][1] > len(text) - 640


def split(name: str, text: str, tokens: int, overlap: int) -> tuple[list[tuple[int, int]], int]:
    """Return the first and last places of the chunks of ``text``, and how many characters the tokenizer read."""
    spans = Reader(name)
    found: list[tuple[int, int]] = []
    begin, stop = -1, 0
    for chunk in Splitter(lambda part: len(spans(part)), tokens, overlap, spans).chunks(text):
        begin = text.index(chunk, max(begin, stop + 1 - len(chunk), 0))  # each chunk ends after the one before
        assert not text[stop:begin].strip()  # nothing is lost
        stop = begin + len(chunk)
        found.append((begin, stop))
    assert not text[stop:].strip()
    return found, spans.read


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["", " "]), st.integers(40, 120), st.integers(0, 20))
def test_a_text_of_short_tokens_is_cut_by_its_characters(name, seed, blank, tokens, overlap):
    """Its chunks keep the limits, also where it begins and where the tokenizer knows no word."""

    def count(part: str) -> int:
        return len(TOKENIZERS[name].encode(part, add_special_tokens=False).ids)

    chance = random.Random(seed)  # from Hypothesis, words would be equal, and chunks could stand in several places
    words = ["".join(chance.choices("Qm9zY0IGVuk+aW5n/x7K", k=chance.randint(1, 90))) for _ in range(30)]
    text = f"{SAMPLE[0]} {blank.join(words)} Ask Tobias for the key."
    found, _ = split(name, text, tokens, overlap)
    for begin, stop in found:
        assert count(text[begin:stop]) <= tokens
    for (_, stop), (following, _) in pairwise(found):
        assert count(text[following:stop]) <= overlap or following >= stop


def test_the_tokenizer_reads_a_sample_of_base64():
    text = "".join(random.Random(1).choices(string.ascii_letters + string.digits + "+/", k=10_000))
    found, read = split("BPE of bytes", text, 60, 10)
    assert len(found) > 160
    assert read < 0.6 * len(text)


def test_a_text_that_is_not_dense_is_read_once_for_each_chunk():
    """A reading of 50 characters would not be enough for 40 tokens of two characters."""
    read: list[int] = []

    def spans(part: str) -> list[tuple[int, int]]:
        read.append(len(part))
        return [(place, place + 2) for place in range(0, len(part), 2)]

    chunks = Splitter(lambda part: len(part) // 2, 40, 0, spans).chunks("ab" * 1_000)
    assert next(chunks) == "ab" * 40
    assert read == [10, 100]  # a sample, and a little more than a chunk


def test_a_line_of_signs_does_not_decide_about_the_text_below_it():
    text = f"{'=' * 40}\n The boats\n{'=' * 40}\n\n{SAMPLE[0]}"
    assert split("WordPiece", text, 160, 10)[0] == [(0, len(text))]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_chunks_end_after_a_sentence_or_a_sign(name):
    for sentence, signs in (
        ("\u6570\u636e\u68c0\u3002\u7cfb,", "\u3002"),
        ("abc,de;", ";"),
        ('{"id":12,"a":3}', ',:}"'),
    ):
        found, _ = places(name, sentence * 400, (60, 0, 960))
        assert {(sentence * 400)[stop - 1] for _, stop in found} <= set(signs)


def test_a_search_finds_the_end_of_a_long_line():
    """What is left of a text without a blank comes with what follows it."""
    text = SAMPLE[1] * 300 + "END. And more."
    tokenizer = TOKENIZERS["BPE of bytes"]

    def spans(part: str) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = tokenizer.encode(part, add_special_tokens=False).offsets
        return found

    chunks = list(Splitter(lambda part: len(spans(part)), 30, 0, spans).chunks(text))
    assert "".join("".join(chunks).split()) == "".join(text.split())
    assert chunks[-1].endswith("END. And more.")

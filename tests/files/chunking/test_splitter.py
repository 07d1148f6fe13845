"""Long texts of any shape: the work grows with the length alone, and the chunks are those of the whole text."""

from __future__ import annotations

import json
import random
import re
import string
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smart_rag.files.chunking.splitter import CHARACTERS_PER_TOKEN, Splitter
from smart_rag.files.chunking.token_places import TokenPlaces, TokenReader

LENGTH = 6_000
WORDS = "The cat sat on a mat. It rained all day, and we went home! Who knew? "
CHINESE = "\u6570\u636e\u68c0\u7d22\u7cfb\u7edf\u6d77\u6d0b\u6e29\u5ea6\u6d4b\u91cf"
SHAPES = {
    "one line": WORDS,
    "lines": WORDS + "\n",
    "short lines": "a\n",
    "no blanks": "qwertzuiopasdfghjklyxcvbnm",
    "base64": "QmFzZTY0/IGVuY29k+aW5n",
    "chinese": CHINESE,
    "chinese sentences": CHINESE + "\u3002",
    "thai": "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22\u0e40\u0e1b\u0e47\u0e19",
    "line breaks": "\n",
    "line breaks of Windows": "\r\n",
    "blanks": " ",
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467\U0001f600",
    "marks": "e\u0301\u0302 ",
    "one letter with many marks": "\u0301",
    "javascript": "function a(b,c){var d=b+c;if(d>1){return d*2}else{return[b,c]}};",
    "json": '{"id": 12, "name": "boat", "value": 0.25}, ',
    "points": "!?.,;",
}


class Tokenizer:
    """Words are cut into tokens of at most three characters, and words above 100 characters are one token.

    It counts the characters that it reads.
    """

    def __init__(self) -> None:
        self.read = 0

    def spans(self, text: str) -> list[tuple[int, int]]:
        self.read += len(text)
        found = []
        for word in re.finditer(r"\w+|[^\w\s]", text):
            step = 3 if len(word[0]) <= 100 else len(word[0])
            for start in range(word.start(), word.end(), step):
                found.append((start, min(start + step, word.end())))
        return found

    def count(self, text: str) -> int:
        return len(self.spans(text))


def split(text: str, tokens: int, overlap: int, places: bool) -> tuple[list[str], int]:
    """Return the chunks of a text, and the number of characters that the tokenizer read."""
    tokenizer = Tokenizer()
    splitter = Splitter(tokenizer.count, tokens, overlap, tokenizer.spans if places else None)
    return list(splitter.chunks(text)), tokenizer.read


@pytest.mark.parametrize("places", [True, False], ids=["places", "counts"])
@pytest.mark.parametrize("end", ["", "\nend"], ids=["alone", "with a line below"])
@pytest.mark.parametrize("shape", SHAPES)
def test_any_shape(shape, end, places):
    text = "a" + SHAPES[shape] * (LENGTH // len(SHAPES[shape])) + end
    chunks, read = split(text, 20, 0, places)
    assert "".join("".join(chunks).split()) == "".join(text.split())
    assert max(map(len, chunks)) <= 20 * CHARACTERS_PER_TOKEN
    assert max(map(Tokenizer().count, chunks)) <= 20
    _, read_of_longer = split("a" + SHAPES[shape] * (3 * LENGTH // len(SHAPES[shape])) + end, 20, 0, places)
    assert read_of_longer < 4 * read + 2_000
    if places:
        assert read < 16 * len(text)


def _words_of_base64(chance: random.Random) -> str:
    letters = f"{string.ascii_letters}{string.digits}+/"
    return " ".join("".join(chance.choices(letters, k=chance.randint(5, 80))) for _ in range(800))


def _json(chance: random.Random) -> str:
    return json.dumps([{"id": chance.randrange(10**6), "name": "boat", "at": chance.random()} for _ in range(800)])


@pytest.mark.parametrize("make", [_words_of_base64, _json])
def test_the_tokenizer_reads_words_little_more_than_once(make):
    text = make(random.Random(0))
    chunks, read = split(text, 200, 40, True)
    assert len(chunks) > 40
    assert max(map(Tokenizer().count, chunks)) <= 200
    assert read < 1.6 * len(text)


@pytest.mark.parametrize("places", [True, False], ids=["places", "counts"])
def test_no_emoji_and_no_letter_with_its_marks_is_cut(places):
    for whole in ("\U0001f468\u200d\U0001f469\u200d\U0001f467", "e\u0301\u0302"):
        chunks, _ = split(whole * 500, 20, 0, places)
        assert len(chunks) > 1
        assert all(len(chunk) % len(whole) == 0 and chunk == whole * (len(chunk) // len(whole)) for chunk in chunks)


def chunks_of_the_whole(text: str, tokens: int, overlap: int) -> list[str]:
    """Return the chunks that the library makes of the whole text at once."""
    from semantic_text_splitter import TextSplitter

    return TextSplitter.from_callback(Tokenizer().count, tokens, overlap=overlap).chunks(text)


PROSE = st.lists(
    st.tuples(
        st.lists(st.sampled_from(["the", "boat", "is", "late", "12", "gulls", "(or", "3.5)"]), min_size=1, max_size=14),
        st.sampled_from([". ", "! ", "? ", ".\n", ".\n\n", ".\r\n", "\n\n\n"]),
    ),
    min_size=20,
    max_size=120,
).map(lambda sentences: "".join(" ".join(words).capitalize() + end for words, end in sentences))


@settings(max_examples=30, deadline=None)
@given(PROSE, st.integers(9, 40), st.integers(0, 8))
def test_windows_change_nothing_in_prose(text, tokens, overlap):
    expected = chunks_of_the_whole(text, tokens, overlap)
    assert split(text, tokens, overlap, True)[0] == expected
    assert split(text, tokens, overlap, False)[0] == expected


PIECES = st.one_of(
    st.sampled_from([*SHAPES.values(), "x" * 130, "\n\n", " word "]),
    st.text("ab1_ .\u4e2d\u0301\n", max_size=30),
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(PIECES, min_size=1, max_size=60).map(lambda pieces: "".join(f"{i}{one}" for i, one in enumerate(pieces))),
    st.integers(3, 30),
    st.integers(0, 2),
    st.booleans(),
)
def test_limits_hold_for_mixed_text(text, tokens, overlap, places):
    chunks, _ = split(text, tokens, overlap, places)
    assert all(Tokenizer().count(chunk) <= tokens for chunk in chunks)
    assert all(len(chunk) <= tokens * CHARACTERS_PER_TOKEN for chunk in chunks)
    for one, following in pairwise(chunks):
        if all(text.find(chunk) == text.rfind(chunk) for chunk in (one, following)):
            shared = text[text.index(following) : text.index(one) + len(one)]
            assert Tokenizer().count(shared) <= overlap
            assert len(shared) <= overlap * CHARACTERS_PER_TOKEN


@settings(max_examples=200, deadline=None)
@given(st.text("abc .\n", min_size=1, max_size=200), st.data())
def test_places_count_what_the_tokenizer_counts(text, data):
    tokenizer = Tokenizer()
    begin = data.draw(st.integers(0, len(text) - 1))
    part = text[begin : data.draw(st.integers(begin, len(text)))]
    count = tokenizer.count(part)
    # Another part with the same characters can be at another place, and the word around it is cut differently.
    for limit in (count, count + 5):
        places = TokenPlaces(text, tokenizer.spans(text), tokenizer.count, [limit], text)
        assert abs(places.count(part) - count) <= 1
        before, after = text[:begin][-1:], text[begin + len(part) :][:1]
        if text.find(part) == begin and all(not side or side.isspace() for side in (before, after)):
            assert places.count(part) == count


def test_limits_hold_if_the_places_of_tokens_are_wrong():
    tokenizer = Tokenizer()
    splitter = Splitter(tokenizer.count, 20, 5, lambda text: tokenizer.spans(text)[::2])
    chunks = list(splitter.chunks(WORDS * 30))
    assert max(map(tokenizer.count, chunks)) <= 20


def test_no_chunk_repeats_the_end_of_the_one_before_it():
    first, second, third = f"{'a ' * 13}a.", "b b b b.", f"{'c ' * 17}c."
    assert list(map(Tokenizer().count, (first, second, third))) == [15, 5, 19]
    text = f"{first}\n\n{second}\n\n{third}"
    chunks, _ = split(text, 20, 5, True)
    assert chunks == [f"{first}\n\n{second}", third] == chunks_of_the_whole(text, 20, 5)


@pytest.mark.parametrize("seed", range(4))
def test_windows_have_the_tokens_of_a_text_that_is_read_ahead(seed):
    """Each character is read about once. Windows may begin inside of a word."""
    parts = ["a word ", "x" * 30, "\n\n", "reading", ", "]
    text, tokenizer = "".join(random.Random(seed).choices(parts, k=9_000)), Tokenizer()
    reader = TokenReader(text, tokenizer.spans)
    for begin in range(0, len(text), 803):
        stop = re.compile(r"\s|$").search(text, begin + 2_400).start()
        assert reader.spans(begin, stop) == Tokenizer().spans(text[begin:stop])
        assert len(reader._spans) < 40_000
    assert len(text) > 2 * 32_000
    assert tokenizer.read < 1.2 * len(text)

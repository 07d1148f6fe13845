"""Chunks: within the limit, whole sentences where possible, nothing lost."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smart_rag import IndexConfig
from smart_rag.encoders.protocol import token_counter
from smart_rag.files.chunks import Chunker
from smart_rag.files.formats.page import Page
from smart_rag.types import PdfPage

SENTENCES = [
    "The cat sat.",
    "A dog ran far.",
    "It rained all day.",
    "We went home.",
    "Fish swim.",
    "The bus was late.",
    "Nobody knew why.",
    "Tea is warm.",
]


def cut(encoder, text: str, *, tokens: int, overlap: int = 0) -> list[str]:
    config = IndexConfig(chunk_tokens=tokens, chunk_overlap=overlap)
    return [page.text for page in Chunker(token_counter(encoder), config).split([Page(text)])]


PIECES = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            "a word ",
            "Sentence. ",
            "antidisestablishmentarianism",
            "x" * 120,
            "6205-2RS ",
            "\n\n",
            "# Title\n",
            "数据检索。",
            "e\u0301",
            "👨\u200d👩\u200d👧",
            "\u3000",
            "Straße? ",
        ]
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=40).map("".join), st.integers(3, 30), st.integers(0, 2))
def test_no_chunk_is_above_the_limit_or_blank(minilm, text, tokens, overlap):
    chunks = cut(minilm, text, tokens=tokens, overlap=overlap)
    assert all(count <= tokens for count in minilm.count_tokens(chunks))
    assert all(chunk.strip() for chunk in chunks)


@settings(max_examples=60, deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=40).map("".join), st.integers(3, 30))
def test_only_whitespace_is_lost_between_chunks(minilm, text, tokens):
    chunks = cut(minilm, text, tokens=tokens)
    assert "".join("".join(chunks).split()) == "".join(text.split())


def test_a_text_below_the_limit_stays_whole(minilm):
    text = " ".join(SENTENCES)
    tokens = minilm.count_tokens([text])[0]
    assert cut(minilm, text, tokens=tokens) == [text]
    assert len(cut(minilm, text, tokens=tokens - 1)) == 2


@pytest.mark.parametrize("tokens", [6, 11, 17])
def test_chunks_end_where_sentences_end_and_are_filled(minilm, tokens):
    chunks = cut(minilm, " ".join(SENTENCES), tokens=tokens)
    rest = list(SENTENCES)
    for chunk in chunks:
        taken = [rest.pop(0)]
        while rest and minilm.count_tokens([" ".join([*taken, rest[0]])])[0] <= tokens:
            taken.append(rest.pop(0))
        assert chunk == " ".join(taken)
    assert not rest


def test_chunks_end_where_paragraphs_end(minilm):
    first, second = " ".join(SENTENCES[:4]), " ".join(SENTENCES[4:])
    assert cut(minilm, f"{first}\n\n{second}", tokens=max(minilm.count_tokens([first, second])) + 3) == [first, second]


def test_neighbours_overlap(minilm):
    text = " ".join(f"{sentence[:-1]} {i}." for i, sentence in enumerate(SENTENCES * 4))
    chunks = cut(minilm, text, tokens=24, overlap=8)
    assert len(chunks) > 5
    for one, next_one in pairwise(chunks):
        shared = max(length for length in range(len(one) + 1) if next_one.startswith(one[len(one) - length :]))
        assert 0 < minilm.count_tokens([one[len(one) - shared :]])[0] <= 8
        assert text.index(one) < text.index(next_one)
    assert text.startswith(chunks[0])
    assert text.endswith(chunks[-1])


def test_a_chunk_keeps_the_number_and_the_image_of_its_page(minilm):
    image = PdfPage(Path("a.pdf"), 3)
    chunker = Chunker(token_counter(minilm), IndexConfig(chunk_tokens=12, chunk_overlap=0))
    chunks = list(chunker.split([Page(" ".join(SENTENCES), 1), Page("One more.", 3, image)]))
    assert " ".join(chunk.text for chunk in chunks if chunk.number == 1) == " ".join(SENTENCES)
    assert chunks[-1] == Page("One more.", 3, image)


def test_texts_are_measured_in_words_if_the_encoder_counts_no_tokens():
    chunks = cut(object(), " ".join(SENTENCES), tokens=7)
    assert " ".join(chunks) == " ".join(SENTENCES)
    assert [len(chunk.split()) for chunk in chunks] == [7, 7, 6, 6]
    assert all(chunk.endswith(".") for chunk in chunks)

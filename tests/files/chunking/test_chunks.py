"""Chunks: within the limit, whole sentences where possible, nothing lost."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from smart_rag import IndexConfig
from smart_rag.encoders.protocol import token_counter, token_spans_of
from smart_rag.files.chunking.chunks import Chunker
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


def cut(encoder, text: str, *, tokens: int, overlap: int = 0, suffix: str = "", header: str = "") -> list[str]:
    config = IndexConfig(chunk_tokens=tokens, chunk_overlap=overlap)
    chunker = Chunker(token_counter(encoder), config, partial(token_spans_of, encoder))
    return [page.text for page in chunker.split([Page(text, header=header)], suffix)]


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


def test_chunks_begin_with_the_header_of_their_page_and_stay_within_the_limit(minilm):
    chunks = cut(minilm, " ".join(SENTENCES), tokens=16, header="Weather | Animals\n")
    assert len(chunks) == 3
    assert all(chunk.startswith("Weather | Animals\n") for chunk in chunks)
    assert max(minilm.count_tokens(chunks)) <= 16
    assert " ".join(chunk.removeprefix("Weather | Animals\n") for chunk in chunks) == " ".join(SENTENCES)


ROWS = [f"({i}) {sentence[:-1]};{i * 7919 % 1000}" for i, sentence in enumerate(SENTENCES * 8)]


def _trained(model: Any, trainer: Any, split: Any) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = split
    tokenizer.train_from_iterator([*ROWS, "boat;place"], trainer)
    return tokenizer


BLANK_BEFORE_A_TEXT = {
    "BPE of bytes": _trained(
        models.BPE(), trainers.BpeTrainer(vocab_size=400), pre_tokenizers.ByteLevel(add_prefix_space=True)
    ),
    "Unigram": _trained(
        models.Unigram(),
        trainers.UnigramTrainer(vocab_size=150, unk_token="<unk>", special_tokens=["<unk>"]),
        pre_tokenizers.Metaspace(),
    ),
}


@pytest.mark.parametrize("name", BLANK_BEFORE_A_TEXT)
@pytest.mark.parametrize("tokens", [24, 31, 40])
def test_the_limit_holds_below_a_header_if_the_tokenizer_puts_a_blank_before_a_text(name, tokens):
    def spans(text: str) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = BLANK_BEFORE_A_TEXT[name].encode(text, add_special_tokens=False).offsets
        return found

    config = IndexConfig(chunk_tokens=tokens, chunk_overlap=0)
    header = "boat;place\n"
    pages = Chunker(lambda text: len(spans(text)), config, spans).split([Page("\n".join(ROWS), header=header)])
    chunks = [page.text for page in pages]
    assert max(len(spans(chunk)) for chunk in chunks) <= tokens
    assert all(chunk.startswith(header) for chunk in chunks)
    assert "".join("".join(chunk.removeprefix(header) for chunk in chunks).split()) == "".join("".join(ROWS).split())


def test_a_header_that_takes_more_than_half_of_a_chunk_is_not_repeated(minilm):
    header = "a header of nine words for a small chunk\n"
    chunks = cut(minilm, "It rained all day. We went home.", tokens=16, header=header)
    assert "".join("".join(chunks).split()) == "".join(f"{header}It rained all day. We went home.".split())
    assert max(minilm.count_tokens(chunks)) <= 16


def test_code_in_markdown_stays_whole_if_it_fits(minilm):
    code = "```python\nfor i in range(3):\n\n    print(i)\n```"
    text = f"The cat sat.\n\n{code}\n\n{' '.join(SENTENCES)}"
    size = minilm.count_tokens([code])[0]
    assert cut(minilm, text, tokens=size, suffix=".md")[:2] == ["The cat sat.", code]
    assert not any(code in chunk for chunk in cut(minilm, text, tokens=size))
    assert not any(code in chunk for chunk in cut(minilm, text, tokens=size - 1, suffix=".md"))


def test_a_heading_stays_with_what_follows(minilm):
    text = f"{' '.join(SENTENCES[:3])}\n\n# The harbour\n\n{' '.join(SENTENCES)}"
    before = minilm.count_tokens([" ".join(SENTENCES[:3]) + "# The harbour"])[0]
    chunks = cut(minilm, text, tokens=before + 1, suffix=".md")
    assert chunks[:2] == [" ".join(SENTENCES[:3]), f"# The harbour\n\n{' '.join(SENTENCES[:3])}"]
    assert cut(minilm, text, tokens=before + 1)[0].endswith("# The harbour")


def test_parts_of_a_long_table_repeat_its_header_with_the_heading(minilm):
    rows = [f"| boat {i} | berth {i * 7} |\n" for i in range(30)]
    text = f"Some words.\n\n## Berths\n\n| name | place |\n|--------------|:-------|\n{''.join(rows)}\nMore words."
    chunks = cut(minilm, text, tokens=80, suffix=".md")
    header = "## Berths\n\n| name | place |\n|---|:---|\n"
    assert chunks[0] == "Some words."
    assert chunks[-1].endswith("More words.")
    tables = [chunk for chunk in chunks if "| boat" in chunk]
    assert len(tables) > 3
    assert all(chunk.startswith(header) for chunk in tables)
    assert max(minilm.count_tokens(chunks)) <= 80
    for row in rows:
        assert any(row.strip() in chunk for chunk in tables)


@pytest.mark.parametrize("suffix", [".py", ".js"])
def test_functions_stay_whole_if_they_fit(minilm, suffix):
    functions = {
        ".py": [f"# Adds {i}.\n@cache\ndef add{i}(a):\n    b = {i}\n\n    return a + b\n" for i in range(9)],
        ".js": [f"// Adds {i}.\nfunction add{i}(a) {{\n  b = {i}\n\n  return a + b\n}}\n" for i in range(9)],
    }[suffix]
    size = max(minilm.count_tokens(functions))
    chunks = cut(minilm, "\n".join(functions), tokens=size + 16, suffix=suffix)
    assert chunks == [function.strip() for function in functions]
    assert chunks != cut(minilm, "\n".join(functions), tokens=size + 16)


MARKDOWN = st.lists(
    st.sampled_from(
        [
            "# One\n",
            "Two\n===\n",
            "\n",
            "a paragraph of words, which goes on. And on.\n",
            "```\ncode\n\nmore\n```\n",
            "~~~~\nnever closed\n",
            "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n",
            "|a|b|\r\n|-|-|\r\n",
            "- item\n  - inner\n",
            "x" * 130 + "\n",
            "def f():\n    return 1\n",
            "class A:\n    def f(self):\n        return 1\n",
            "\u2028",
        ]
    ),
    min_size=1,
    max_size=30,
).map("".join)


@settings(max_examples=60, deadline=None)
@given(MARKDOWN, st.integers(8, 60), st.integers(0, 6), st.sampled_from([".md", ".py"]))
def test_no_chunk_of_markdown_or_code_is_above_the_limit(minilm, text, tokens, overlap, suffix):
    chunks = cut(minilm, text, tokens=tokens, overlap=overlap, suffix=suffix)
    assert all(count <= tokens for count in minilm.count_tokens(chunks))
    assert all(chunk.strip() for chunk in chunks)
    left = "".join("".join(chunks).split())
    for line in text.splitlines():
        assert "".join(line.split()) in left or len(line) > 40 or "|" in line or tokens < 16

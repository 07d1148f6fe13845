"""Documents that say nearly the same, and documents that do not."""

from __future__ import annotations

import time

import numpy as np
import pytest
from helpers.word_encoder import SeeingEncoder, VocabularyEncoder
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from smart_rag import Document, SmartIndex
from smart_rag.index.hits.duplicates import Passage, Passages
from smart_rag.store.row import VECTORS, Row

TEXT = (
    "The boats stay in the harbour while the wind is above force 7. The harbour master decides, and writes the "
    "decision into the log. Whoever takes a boat out against the decision loses the keys for a month. The keys are in "
    "the office, in the drawer below the clock, and may be taken by anyone who has signed the list of 2024."
)


def passage(text, key=None, modality="text"):
    return Passage.of(Row(Document("id", text), key or text.encode(), modality=modality))


def alike(one, other):
    return passage(one).is_like(passage(other))


def shares_enough(one, other):
    """The rule as a plain loop."""
    runs = []
    for text in (one, other):
        text = " ".join(text.casefold().split())
        runs.append({text[i : i + 9] for i in range(max(1, len(text) - 8))})
    both = [run for run in runs[0] if run in runs[1]]
    return len(both) / len(runs[0] | runs[1]) >= 0.8


@pytest.mark.parametrize(
    "other",
    [
        TEXT.upper(),
        TEXT.replace(" ", "\n  "),
        TEXT.replace("anyone", "everyone"),
        TEXT.replace("harbour master", "captain"),
        "Note: " + TEXT,
    ],
)
def test_small_changes_make_no_other_passage(other):
    assert alike(TEXT, other)


@pytest.mark.parametrize(
    "other",
    [
        TEXT.replace("7", "8"),
        TEXT.replace("2024", "2025"),
        TEXT.replace("above force 7", "above force 7 or 8"),
        TEXT[: len(TEXT) // 2],
        TEXT + TEXT[::-1],
        " ".join(reversed(TEXT.split())),
        "The boats stay in the harbour.",
        "",
    ],
)
def test_other_numbers_and_other_words_make_another_passage(other):
    assert not alike(TEXT, other)


def test_short_texts_must_be_the_same():
    assert alike("Open the valve.", "open the  VALVE.")
    assert not alike("Open the left valve.", "Open the right valve.")
    assert alike("泵", "泵")
    assert not alike("泵", "阀")


@given(st.text("ab ", max_size=40), st.text("ab ", max_size=40))
def test_texts_are_compared_as_by_a_plain_loop(one, other):
    expected = one == other or (bool(one.strip()) and bool(other.strip()) and shares_enough(one, other))
    assert alike(one, other) == expected
    assert alike(other, one) == expected


def test_what_was_encoded_with_an_image_is_compared_by_its_key():
    for modality in ("image", "text+image", "video"):
        assert not passage(TEXT, b"a", modality).is_like(passage(TEXT, b"b", modality))
        assert not passage(TEXT, b"a", modality).is_like(passage(TEXT, b"b"))
        assert passage(TEXT, b"a", modality).is_like(passage("", b"a", modality))
    assert passage(TEXT, b"a", VECTORS).is_like(passage(TEXT, b"b", VECTORS))


def test_every_folded_document_is_named(tmp_path):
    texts = {"a": TEXT, "b": TEXT.upper(), "c": TEXT.replace("7", "9"), "d": "Taxes are due in April.", "e": TEXT}
    with SmartIndex.create(tmp_path / "index", VocabularyEncoder()) as index:
        index.add([Document(id, text) for id, text in texts.items()])
        assert len(index.search(TEXT, 5)) == 5
        assert all(hit.duplicates == () for hit in index.search(TEXT, 5))
        hits = {hit.id: hit.duplicates for hit in index.search(TEXT, 5, fold_duplicates=True)}
        assert set(hits) | {id for ids in hits.values() for id in ids} == set(texts)
        assert {id: set(ids) for id, ids in hits.items()} == {"a": {"b", "e"}, "c": set(), "d": set()}


def test_equal_images_are_one_hit(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "copy.png")
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "blue.png")
    with SmartIndex.create(tmp_path / "index", SeeingEncoder()) as index:
        index.add([Document(name, image=tmp_path / f"{name}.png") for name in ("red", "copy", "blue")])
        hits = index.search("red", 3, fold_duplicates=True)
        assert {hit.id: hit.duplicates for hit in hits} == {"blue": (), "copy": ("red",)}


WORDS = st.lists(st.sampled_from(["boat", "harbour", "wind", "log", "7", "8"]), max_size=40).map(" ".join)


@given(
    base=WORDS,
    changes=st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["", "x", "keys", "9"])), max_size=30),
    others=st.lists(WORDS, max_size=20),
)
def test_the_first_passage_that_is_alike_is_found(base, changes, others):
    texts = [*others, *(f"{base[:place]}{word}{base[place:]}" for place, word in changes), base]
    passages, found = Passages(), []
    for text in texts:
        one = passage(text)
        found.append(one)
        expected = next((place for place, other in enumerate(found[:-1]) if one.is_like(other)), None)
        assert passages.first_like(one) == expected
        passages.append(one)


def test_long_texts_with_few_runs_in_common_buckets_are_compared():
    """A bucket counts up to 255 runs, and these texts have more in each."""
    numbers = np.random.default_rng(0).integers(0, 26, 400_000)
    text = "".join(chr(ord("a") + number) for number in numbers)
    passages = Passages()
    passages.append(passage(text[::-1]))
    passages.append(passage(text))
    assert passages.first_like(passage(f"{text} and a little more")) == 1


def test_many_passages_are_compared_at_once():
    words = np.random.default_rng(0).integers(0, 26, (1000, 700))
    texts = ["".join(chr(ord("a") + letter) for letter in row) for row in words]
    found = [passage(text) for text in texts]
    passages = Passages()
    start = time.perf_counter()
    for one in found:
        assert passages.first_like(one) is None
        passages.append(one)
    assert time.perf_counter() - start < 3  # one by one, it takes half a minute
    assert passages.first_like(passage(f"{texts[700]} more")) == 700

"""Which word answered which: matches add up to the late score, emphasis falls on whole words, pictures show both.

Of images and videos: test_explain_images.py.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import re
import time
from collections.abc import Sequence

import numpy as np
import pytest
from helpers.word_encoder import WordEncoder
from hypothesis import given, settings
from hypothesis import strategies as st

from smart_rag import Document, Hit, IndexConfig, Representation, SmartIndex, rerank
from smart_rag.demo import sample_folder
from smart_rag.errors import EncoderError, IndexClosed, IndexMismatch, InvalidInput
from smart_rag.files.formats import pdf
from smart_rag.index.explain import pictures
from smart_rag.index.explain.explanation import emphasis
from smart_rag.index.explain.lettering import Lettering
from smart_rag.types import Match, TokenOrigin

TEXTS = {
    "dogs": "Dogs bark at strangers in the night, and the postman's bicycle is never safe.",
    "pump": "The bearings of the seawater pump (type 6205-2RS) were changed;\nspares are in the drawer.",
    "tax": "Taxes are due on the last day of April.",
    "words": "Antidisestablishmentarianism, électroencéphalographie. Straße!",
    "smile": "😀",
    "long": "A sentence that says nothing new at all. " * 60 + "The walrus is asleep.",
}
QUERIES = ["Which bearings does the pump need?", "barking dogs", "electroencephalography", "when to pay taxes"]


@pytest.fixture(scope="module")
def index(minilm, tmp_path_factory):
    with SmartIndex.create(tmp_path_factory.mktemp("explain") / "index", minilm) as index:
        index.add([Document(name, text) for name, text in TEXTS.items()])
        yield index


@pytest.mark.parametrize("query", QUERIES)
def test_the_matches_add_up_to_the_late_score(index, query):
    hits = index.search(query, top_k=len(TEXTS))
    assert len(hits) == len(TEXTS)
    for hit in hits:
        found = hit.explain().matches
        assert sum(match.weight for match in found) == pytest.approx(1)
        assert sum(match.weight * match.similarity for match in found) == pytest.approx(hit.late_score, abs=1e-3)


def test_rare_words_of_the_query_count_for_more(index):
    query = "Which pump in the drawer?"
    found = index.search(query, top_k=1)[0].explain().matches
    weights = {query[slice(*match.query.span)]: match.weight for match in found}
    assert weights["pump"] == weights["drawer"] > weights["in"] > 0


@pytest.mark.parametrize("query", QUERIES[:2])
def test_each_match_is_the_one_that_maxsim_takes(index, minilm, query):
    """By plain loops over the stored tokens, and with the spans that the encoder gives them."""
    hits = index.search(query, top_k=len(TEXTS))
    query_tokens = minilm.encode_query([query]).tokens[0]
    query_spans = [place.span for place in minilm.token_origins(query, "query")]
    for hit in hits:
        found = hit.explain().matches
        tokens = index.tokens([hit.id])[0].astype(np.float64)
        spans = [place.span for place in minilm.token_origins(hit.text)]
        assert len(spans) == len(tokens)
        assert [match.query.span for match in found] == query_spans
        for token, match in zip(query_tokens, found, strict=True):
            best, best_span = -2.0, None
            for document_token, span in zip(tokens, spans, strict=True):
                cosine = sum(float(a) * float(b) for a, b in zip(token, document_token, strict=True))
                if cosine > best:
                    best, best_span = cosine, span
            assert match.similarity == pytest.approx(best, abs=1e-5)
            assert match.document == TokenOrigin(best_span)


def test_matches_are_words_of_both_texts(index):
    query = "Which bearings does the pump need?"
    hits = index.search(query, top_k=3)
    assert hits[0].id == "pump"
    found = [hit.explain().matches for hit in hits]
    words = {query[slice(*match.query.span)]: hits[0].text[slice(*match.document.span)] for match in found[0]}
    assert list(words) == ["Which", "bearings", "does", "the", "pump", "need", "?"]
    assert words["bearings"] == "bearings"
    assert words["pump"] == "pump"
    for hit, matched in zip(hits, found, strict=True):
        for match in matched:
            start, stop = match.document.span
            assert 0 <= start < stop <= len(hit.text)
            assert not re.search(r"\s", hit.text[start:stop])


def test_a_text_beyond_the_models_length_is_matched_in_its_first_part(index):
    (hit,) = (hit for hit in index.search("walrus", top_k=len(TEXTS)) if hit.id == "long")
    found = hit.explain().matches
    assert all(hit.text[slice(*match.document.span)] != "walrus" for match in found)
    assert all(match.document.span[1] < hit.text.index("walrus") for match in found)


@pytest.fixture(scope="module")
def compact(minilm, tmp_path_factory):
    """An index whose tokens are pooled."""
    with SmartIndex.create(
        tmp_path_factory.mktemp("compact") / "index", minilm, config=IndexConfig(codec="compact")
    ) as index:
        index.add([Document(name, text) for name, text in TEXTS.items()])
        yield index


@pytest.mark.parametrize("query", QUERIES)
def test_matches_of_pooled_tokens_are_of_the_text(compact, minilm, query):
    """Pooled tokens stand for no characters: matches are those of the text's own tokens."""
    hits = compact.search(query, top_k=len(TEXTS))
    query_tokens = minilm.encode_query([query]).tokens[0].astype(np.float64)
    for hit in hits:
        found = hit.explain().matches
        tokens = minilm.encode_document([hit.text]).tokens[0].astype(np.float64)
        spans = [place.span for place in minilm.token_origins(hit.text)]
        assert len(found) == len(query_tokens)
        for token, match in zip(query_tokens, found, strict=True):
            cosines = [float(token @ other) for other in tokens]
            assert match.similarity == pytest.approx(max(cosines), abs=1e-4)
            assert cosines[spans.index(match.document.span)] == pytest.approx(max(cosines), abs=1e-4)
        assert sum(match.weight * match.similarity for match in found) == pytest.approx(hit.late_score, abs=0.25)


def test_an_encoder_without_spans_is_named(tmp_path):
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as index:
        index.add([Document("a", "Words.")])
        with pytest.raises(EncoderError, match="WordEncoder has no token_origins, so hits cannot be explained"):
            index.search("words")[0].explain()


# --- emphasis -------------------------------------------------------------------------------


def emphasised(text: str, *spans: tuple[int, int, float], weights: Sequence[float] | None = None) -> list[str]:
    weights = weights or [1 / len(spans)] * len(spans)
    found = [
        Match(TokenOrigin((0, 1)), TokenOrigin((start, stop)), similarity, weight)
        for (start, stop, similarity), weight in zip(spans, weights, strict=True)
    ]
    return [text[start:stop] for start, stop in emphasis(text, found)]


def test_emphasis_is_on_whole_words():
    text = "The electroencephalograph\nhums, softly."
    at = text.index("encephalo")
    assert emphasised(text, (at, at + 3, 0.9)) == ["electroencephalograph"]
    assert emphasised(text, (text.index("hums"), text.index("hums") + 2, 0.9)) == ["hums"]
    assert emphasised(text, (0, 3, 0.5), (len(text) - 3, len(text) - 1, 0.5)) == ["The", "softly"]


def test_punctuation_is_left_out():
    text = "Wait, (type 6205-2RS)!"
    marks = [(i, i + 1, 1.0) for i, letter in enumerate(text) if letter in ",(-)!"]
    assert emphasised(text, *marks) == []
    assert emphasised(text, *marks, (text.index("2RS"), text.index("2RS") + 1, 0.1)) == ["2RS"]


def test_only_words_that_are_at_least_as_similar_as_the_mean():
    text = "one two three four, five"
    spans = [(text.index(word), text.index(word) + len(word)) for word in text.replace(",", "").split()]
    similarities = [0.9, 0.2, 0.5, 0.4, 0.5]
    scored = [(*span, similarity) for span, similarity in zip(spans, similarities, strict=True)]
    assert emphasised(text, *scored) == ["one", "three", "five"]
    comma = text.index(",")
    assert emphasised(text, *scored, (comma, comma + 1, 1.0)) == ["one", "three", "five"]


def test_words_that_count_for_little_are_left_out():
    text = "the lamp of which"
    the, lamp, of, which = (0, 3), (4, 8), (9, 11), (12, 17)
    scored = [(*the, 0.8), (*lamp, 0.8), (*of, 0.8), (*which, 0.3)]
    assert emphasised(text, *scored) == ["the", "lamp", "of"]
    assert emphasised(text, *scored, weights=[0.1, 0.4, 0.1, 0.4]) == ["lamp"]  # which: unlike


def test_where_no_word_is_both_similar_and_heavy_the_heavy_ones_are_taken():
    text = "the lamp"
    assert emphasised(text, (0, 3, 0.9), (4, 8, 0.3), weights=[0.1, 0.9]) == ["lamp"]


def test_words_come_once_and_in_their_order():
    text = "red lamps and lamps"
    assert emphasised(text, (14, 17, 1.0), (4, 6, 1.0), (6, 9, 1.0), (0, 3, 1.0)) == ["red", "lamps", "lamps"]


def test_what_stands_for_no_characters_is_no_word():
    """An empty span, a prompt's token, a patch."""
    assert emphasised("red lamps", (0, 0, 1.0)) == []
    assert emphasis("red lamps", [Match(TokenOrigin((0, 1)), TokenOrigin(), 1.0, 0.5)]) == []
    assert emphasis("red lamps", [Match(TokenOrigin((0, 1)), TokenOrigin(box=(0, 0, 1, 1)), 1.0, 0.5)]) == []
    assert emphasis("", []) == []


@settings(max_examples=300, deadline=None)
@given(st.data(), st.text(st.sampled_from("ab9é猫_ \n.,-'😀"), min_size=1, max_size=40))
def test_emphasis_is_as_a_plain_search_finds_it(data, text):
    at = st.integers(0, len(text))
    spans = [tuple(sorted(span)) for span in data.draw(st.lists(st.tuples(at, at), max_size=5))]
    expected = set()
    for start, stop in spans:
        touched = [word.span() for word in re.finditer(r"\w+", text) if word.start() < stop and word.end() > start]
        expected.update(touched[:1])
    assert emphasis(text, [Match(TokenOrigin((0, 1)), TokenOrigin(span), 0.5, 0.2) for span in spans]) == sorted(
        expected
    )


def test_a_hits_best_words_are_emphasised(index):
    query = "Which bearings does the pump need?"
    hit = index.search(query, top_k=1)[0]
    words = [hit.text[start:stop] for start, stop in emphasis(hit.text, hit.explain().matches)]
    assert "bearings" in words
    assert "pump" in words
    assert "drawer" not in words


# --- what a hit knows -----------------------------------------------------------------------


@pytest.mark.parametrize("query", QUERIES)
def test_shares_and_words_add_up_to_the_score(index, query):
    for hit in index.search(query, top_k=len(TEXTS)):
        explanation = hit.explain()
        assert explanation.query.text == query
        assert explanation.hit is hit
        assert explanation.weights == (1.0, 2.0)
        assert explanation.shares == pytest.approx((hit.pooled_score, 2 * hit.late_score))
        assert sum(explanation.shares) == pytest.approx(hit.score, abs=1e-5)
        assert sum(share for _, share in explanation.words) == pytest.approx(explanation.shares[1], abs=1e-3)


def test_the_words_are_whole_and_each_has_what_its_tokens_gave(index):
    query = "electroencephalography, a pump; a pump?"
    explanation = index.search(query, top_k=1)[0].explain()
    words = [word for word, _ in explanation.words]
    assert words == ["electroencephalography", ",", "a", "pump", ";", "a", "pump", "?"]
    first = sum(match.weight * match.similarity for match in explanation.matches if match.query.span[0] < 22)
    assert explanation.words[0][1] == pytest.approx(2 * first)


def test_the_searchs_own_weights_are_explained(index):
    hit = index.search("Which pump in the drawer?", 1, weights=(0.5, 3.0), weighting="none")[0]
    explanation = hit.explain()
    assert explanation.weights == (0.5, 3.0)
    assert len({match.weight for match in explanation.matches}) == 1
    assert sum(explanation.shares) == pytest.approx(hit.score, abs=1e-5)


def test_hits_of_every_kind_know_their_query(index):
    for query, hits in zip(QUERIES, index.search_many(QUERIES, 2), strict=True):
        assert [hit.explain().query.text for hit in hits] == [query, query]
    hits = index.search("the seawater pump", 3)
    again = index.rerank("night", [*hits, "Nights are dark."])
    for hit in again:
        explanation = hit.explain()
        assert explanation.query.text == "night"
        assert sum(share for _, share in explanation.words) == pytest.approx(2 * hit.late_score, abs=1e-3)
        assert emphasis(hit.text, explanation.matches)
    chosen = index.diversify(hits, 2, mmr_lambda=0.2)
    assert [hit.explain().query.text for hit in chosen] == ["the seawater pump"] * 2
    assert [hit.explain().hit.rank for hit in chosen] == [1, 2]


def test_what_a_hit_knows_is_no_part_of_its_value(index):
    hit = index.search("the seawater pump", 1)[0]
    bare = Hit(**{field.name: getattr(hit, field.name) for field in dataclasses.fields(hit)})
    assert hit == bare
    assert repr(hit) == repr(bare)
    json.dumps(dataclasses.asdict(hit))
    for other in (bare, pickle.loads(pickle.dumps(hit)), copy.deepcopy(hit)):
        assert other == hit
        with pytest.raises(InvalidInput, match=r"the hit 'pump' does not know its query: .* give it to SmartIndex.rer"):
            other.explain()
    assert index.rerank("the seawater pump", [bare])[0].explain().words == hit.explain().words


def test_a_hit_of_no_index_does_not_know_its_query(minilm):
    (hit,) = rerank("words", ["Words."], minilm)
    with pytest.raises(InvalidInput, match=r"comes from smart_rag\.rerank"):
        hit.explain()
    with pytest.raises(InvalidInput, match="does not know its query"):
        pickle.loads(pickle.dumps(hit)).explain()


def test_a_query_of_numbers_has_no_words(index, minilm):
    with pytest.raises(InvalidInput, match="given as a Representation has neither words nor patches"):
        index.search(minilm.encode_query(["pump"]), 1)[0].explain()


def test_an_index_without_an_encoder(tmp_path):
    vectors = Representation.from_embeddings(np.eye(2))
    with SmartIndex.from_embeddings(tmp_path / "index", [Document("a", "A"), Document("b", "B")], vectors) as index:
        hit = index.search(vectors[0])[0]
        with pytest.raises(InvalidInput, match="given as a Representation"):
            hit.explain()


def test_a_closed_index_explains_nothing(minilm, tmp_path):
    with SmartIndex.create(tmp_path / "index", minilm) as index:
        index.add_texts(["Words."])
        hit = index.search("words")[0]
    with pytest.raises(IndexClosed, match="the index is closed"):
        hit.explain()


def test_a_hit_is_explained_as_it_was_found(minilm, tmp_path):
    """Also where its document has another text by now, or is gone."""
    with SmartIndex.create(tmp_path / "index", minilm) as index:
        index.add([Document("a", "The pump hums."), Document("b", "Cats purr.")])
        hit = index.search("pump", 1)[0]
        before = hit.explain()
        index.add([Document("a", "Something else, and much more of it than there was before.")])
        changed = hit.explain()
        index.delete(["a"])
        for after in (changed, hit.explain()):
            assert [match.document for match in after.matches] == [match.document for match in before.matches]


def test_vectors_of_another_text_are_found_out(minilm, tmp_path):
    with SmartIndex.create(tmp_path / "index", minilm) as index:
        index.add_embeddings(
            [Document("a", "A short text.")], minilm.encode_document(["Another one, which is longer."])
        )
        with pytest.raises(InvalidInput, match="the hit 'a' has 7 token embeddings, but its text gives 4: it is not"):
            index.search("text")[0].explain()


# --- pictures of texts ----------------------------------------------------------------------


def coloured(image) -> np.ndarray:
    """Which pixels (rows, columns) are not grey."""
    pixels = np.asarray(image.convert("RGB")).astype(int)
    return pixels.max(axis=2) - pixels.min(axis=2) > 8


def test_a_texts_picture_has_its_words_marked(index):
    hit = index.search("Which bearings does the pump need?", 1)[0]
    image = hit.explain().picture(legend=False)
    assert image.size[0] == 900
    pixels = np.asarray(image)
    marks = coloured(image)
    assert 0 < marks.mean() < 0.2
    # The marks are where the words are drawn: in the first line, "bearings" behind "The ".
    before, word = Lettering(20).width("The "), Lettering(20).width("bearings")
    columns = np.flatnonzero(marks[: image.height // 3].any(axis=0))
    assert columns.min() == pytest.approx(12 + before, abs=4)
    assert marks[20, int(12 + before + 4) : int(12 + before + word - 4)].mean() > 0.5
    assert (pixels.min(axis=2) < 60).any()  # letters


def test_one_token_alone(index):
    query = "Which bearings does the pump need?"
    explanation = index.search(query, 1)[0].explain()
    token = next(i for i, match in enumerate(explanation.matches) if query[slice(*match.query.span)] == "pump")
    alone, whole = (coloured(explanation.picture(token, legend=False)) for token in (token, None))
    assert 0 < alone.sum() < whole.sum()
    left, right = (
        12 + Lettering(20).width(text)
        for text in ("The bearings of the seawater ", "The bearings of the seawater pump")
    )
    columns = np.flatnonzero(alone.any(axis=0))
    assert (columns.min(), columns.max()) == pytest.approx((left, right), abs=4)
    for wrong in (-1, len(explanation.matches)):
        with pytest.raises(InvalidInput, match=f"token must be 0 to {len(explanation.matches) - 1}, .* got {wrong}"):
            explanation.picture(wrong)


def test_the_legend_is_below(index):
    explanation = index.search("Which bearings does the pump need?", 1)[0].explain()
    bare, whole = explanation.picture(legend=False), explanation.picture()
    assert whole.width == bare.width
    np.testing.assert_array_equal(np.asarray(whole)[: bare.height], np.asarray(bare))
    strip = np.asarray(whole)[bare.height :]
    assert coloured(whole.crop((0, bare.height, *whole.size))).any()
    assert (strip.min(axis=2) < 60).any()


def test_a_text_has_no_map(index):
    hit = index.search("pump", 1)[0]
    with pytest.raises(InvalidInput, match="the hit 'pump' has no patches of an image among its tokens"):
        hit.explain().similarity_map()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("aW \n\r\t.猫\x0b"), st.integers(1, 150)), max_size=8))
def test_lines_hold_every_letter_once_and_fit(runs):
    text = "".join(letter * count for letter, count in runs)
    lines = list(pictures._lines(text))
    at = 0
    for start, stop in lines:
        assert text[at:start].strip() == ""
        assert start <= stop
        assert pictures._fits(text[start:stop].rstrip()) or stop == start + 1
        at = stop
    assert text[at:].strip() == ""


def test_of_a_long_text_the_part_with_the_marks_is_drawn():
    filler = "Nothing of note is in this sentence.\n" * 300
    text = filler + "The walrus sleeps.\n" + filler
    at = text.index("walrus")
    image = pictures.draw_marked_text(text, [((at, at + 6), 1.0)])
    assert image.height < 2000
    assert coloured(image).any()
    assert not coloured(pictures.draw_marked_text(text, [])).any()


def test_a_word_without_end_is_drawn_at_once():
    started = time.perf_counter()
    pictures.draw_marked_text("猫" * 20_000, [((10_000, 10_002), 1.0)])
    assert time.perf_counter() - started < 60  # each letter measured with all before it would take hours


def test_an_empty_text_is_drawn():
    assert pictures.draw_marked_text("", []).height > 0


def test_words_are_marked_on_the_page_they_stand_on(minilm, tmp_path):
    """In the sample report: colour there is on the page, where the words stand, and nowhere else."""
    with SmartIndex.create(tmp_path / "index", minilm) as index:
        index.add_files([sample_folder() / "engineering_report.pdf"])
        hit = index.search("Which bearings does the seawater pump need?")[0]
        drawn = np.asarray(hit.explain().picture(legend=False)).astype(int)
        page = pdf.render(hit.image.path, hit.image.page, 1_000_000)
        assert drawn.shape[:2] == (page.height, page.width)
        coloured = np.abs(drawn - np.asarray(page).astype(int)).max(axis=2) > 20
        text = pdf.text(hit.image.path, hit.image.page)
        expected = np.zeros_like(coloured)
        for word in ("seawater", "bearings", "pump"):
            start = text.index(word)
            for left, top, right, bottom in pdf.boxes(hit.image.path, hit.image.page, [(start, start + len(word))])[0]:
                rows = slice(int(top * page.height), int(bottom * page.height) + 1)
                columns = slice(int(left * page.width), int(right * page.width) + 1)
                if word != "pump":
                    assert coloured[rows, columns].mean() > 0.5
                expected[rows, columns] = True
        assert coloured.any()
        assert not (coloured & ~expected).any()
        # A text that is not on its page as it is in the index is drawn by itself.
        index.add([Document("other", "seawater bearings of another text", {}, image=hit.image)])
        (found,) = [hit for hit in index.search("seawater bearings", top_k=50) if hit.id == "other"]
        assert found.explain().picture(legend=False).width == 900


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_hit_can_be_explained_after_the_index_was_written_anew(minilm, tmp_path, elsewhere):
    """The store that found the hit is closed then."""
    documents = [Document(name, text) for name, text in TEXTS.items()]
    with SmartIndex.create(tmp_path / "index", minilm) as index, SmartIndex.open(tmp_path / "index", minilm) as other:
        index.add(documents)
        asking = other if elsewhere else index
        hit, known = asking.search("Which pump in the drawer?", 1)[0], asking.search("Which pump in the drawer?", 1)[0]
        expected, relevance = known.explain().matches, known.relevance
        index.compact()
        assert hit.explain().matches == expected
        assert hit.relevance == relevance
        assert hit.neighbours() == []
        index.convert(codec="compact")
        assert [match.query for match in hit.explain().matches] == [match.query for match in expected]
        index.convert(WordEncoder())
        reason = "was made with 'words'" if elsewhere else "was converted to another model after this hit was found"
        with pytest.raises(IndexMismatch if elsewhere else InvalidInput, match=reason):
            hit.explain()

"""Foreign questions, and the group of them that sets the scale of relevance."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.script_encoder import LatinEncoder, ScriptEncoder
from helpers.word_encoder import WordEncoder

from smart_rag.scoring.foreign import foreign_questions, hardest_hits

GROUPS = foreign_questions()


def test_questions_are_many_and_various():
    questions = [question for group in GROUPS.values() for question in group]
    assert next(iter(GROUPS)) == "general"
    assert len(questions) == len(set(questions)) > 650
    assert all(question == question.strip() != "" for question in questions)
    for group in GROUPS.values():
        assert len(group) >= 40
        assert min(map(len, group)) < 15
        assert max(map(len, group)) > 1.5 * np.median(list(map(len, group)))


def asked_of(scores, encoder, unread=None):
    """The questions whose hits set the scale, if a question of a group scores what ``scores`` says."""
    groups = {question: name for name, group in GROUPS.items() for question in group}
    asked = []

    def encode(questions):
        asked.extend(questions)
        return encoder.encode_query(questions)

    seen = 0

    def best(questions):
        nonlocal seen
        known = [question for question in asked if question in groups]
        part, seen = known[seen : seen + len(questions)], seen + len(questions)
        assert len(part) == len(questions)
        return [None if scores(groups[question]) is None else (question, scores(groups[question])) for question in part]

    return [question for question, _ in hardest_hits(encode, best, lambda hit: hit[1], unread)], asked


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("encoder", [WordEncoder(), ScriptEncoder()], ids=["no-ids", "ids"])
def test_the_group_with_the_highest_scores_is_asked_and_returned(name, encoder):
    hardest, asked = asked_of(lambda group: float(group == name), encoder)
    assert tuple(hardest) == GROUPS[name]
    assert set(GROUPS["general"]) < set(asked)
    assert len(asked) == len(set(asked)) < 450


def test_a_language_of_unknown_words_does_not_count():
    assert asked_of(lambda group: float(group == "chinese"), LatinEncoder())[0] == list(GROUPS["general"])
    assert asked_of(lambda group: float(group == "german"), LatinEncoder())[0] == list(GROUPS["german"])


def test_a_language_that_the_model_cannot_read_does_not_count():
    """The encoder's own word comes before the vocabulary's ids."""

    def unread(questions):
        return [question in GROUPS["german"] for question in questions]

    assert asked_of(lambda group: float(group == "german"), LatinEncoder(), unread)[0] == list(GROUPS["general"])
    assert asked_of(lambda group: float(group == "chinese"), LatinEncoder(), unread)[0] == list(GROUPS["chinese"])


def test_questions_without_a_hit_do_not_count():
    assert asked_of(lambda _: None, ScriptEncoder())[0] == []
    assert asked_of(lambda group: None if group == "general" else 0.0, ScriptEncoder())[0] == list(GROUPS["arabic"])

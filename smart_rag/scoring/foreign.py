"""Foreign questions: questions that no index answers. `hardest_hits` finds those that set the scale of relevance.

The questions are in groups, a file for each. The first group is general: most of its questions are in English, and some
in other languages. Each other group is in one language. If a model reads several languages, a question in the language
of the index scores higher than one in another language, even if the index does not answer it. So only one group sets
the scale: the one with the highest scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np

from smart_rag.embeddings.representation import Representation
from smart_rag.embeddings.tokens import TokenIds
from smart_rag.scoring.relevance import BELOW_HALF

Found = TypeVar("Found")

# Number of questions of a language that are asked to see whether the language fits the index.
_TRIED = 10
# A letter in cuneiform, which no tokenizer knows. If a tokenizer has a token for unknown words, this is its text.
_UNKNOWN_WORD = "\U00012000"
_ENCODED_AT_ONCE = 64


@cache
def foreign_questions() -> dict[str, tuple[str, ...]]:
    """Return the questions that no index answers, by the name of their group. ``"general"`` is the first group."""
    files = sorted(Path(__file__).with_name("foreign_questions").glob("*.txt"))
    groups = {file.stem: tuple(file.read_text(encoding="utf-8").splitlines()) for file in files}
    return {"general": groups.pop("general"), **groups}


def hardest_hits(
    encode: Callable[[Sequence[str]], Representation],
    best: Callable[[Representation], Sequence[Found | None]],
    score: Callable[[Found], float],
    unread: Callable[[Sequence[str]], list[bool]] | None = None,
) -> list[Found]:
    """Ask foreign questions, and return the best hits of the group that sets the scale of relevance.

    To save time, only a few questions of each language are asked at first. They show which language fits the index
    best. The other questions of this language and all general questions follow. Of these two groups, the one with the
    higher scores sets the scale.

    A language is left out if the model cannot read its script. Then all texts in the language look alike. Their scores
    can be high, and say nothing about the texts that the model can read. Without ``unread``, a language is left out if
    most of its words have the vocabulary id of unknown words.

    Args:
        encode: returns the representation of questions.
        best: returns the best hit of each question. It is None if there is no hit.
        score: returns the score of a hit.
        unread: tells for each question whether the model cannot read its script. None if the encoder cannot tell.

    Returns:
        The hits of one group. The list is empty if no question has a hit.
    """

    def encoded(questions: Sequence[str]) -> Representation:
        starts = range(0, len(questions), _ENCODED_AT_ONCE)
        return Representation.concatenate([encode(questions[start : start + _ENCODED_AT_ONCE]) for start in starts])

    general, *languages = foreign_questions().values()
    tried = encoded([_UNKNOWN_WORD, *(question for questions in languages for question in questions[:_TRIED])])
    unknown = tried.tokens.terms(0)

    def is_readable(i: int, questions: Sequence[str]) -> bool:
        if unread is not None:
            return 2 * sum(unread(questions[:_TRIED])) <= _TRIED
        return _knows_words(tried.slice(1 + i * _TRIED, 1 + (i + 1) * _TRIED), unknown)

    hits = best(tried.slice(1, len(tried)))
    readable = [
        (hits[i * _TRIED : (i + 1) * _TRIED], questions[_TRIED:])
        for i, questions in enumerate(languages)
        if is_readable(i, questions)
    ]
    first, others = max(readable, key=lambda group: _percentile(group[0], score, 50), default=((), ()))
    hits = best(encoded([*general, *others]))
    groups = [hits[: len(general)], [*first, *hits[len(general) :]]]
    hardest = max(groups, key=lambda group: _percentile(group, score, BELOW_HALF))
    return [hit for hit in hardest if hit is not None]


def _knows_words(questions: Representation, unknown: TokenIds | None) -> bool:
    """Return whether at least half of the words of ``questions`` have vocabulary ids other than ``unknown``."""
    ids = questions.tokens.ids
    return ids is None or unknown is None or 2 * int(np.isin(ids, unknown).sum()) <= int((ids >= 0).sum())


def _percentile(hits: Sequence[Found | None], score: Callable[[Found], float], percent: float) -> float:
    scores = [score(hit) for hit in hits if hit is not None]
    return float(np.percentile(scores, percent)) if scores else -math.inf

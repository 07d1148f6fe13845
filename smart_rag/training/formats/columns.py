"""Columns of pairs and triples, by the names that sentence-transformers, BGE and others give them.

Each row is a query with its positives and negatives:

=====================  ==============================================================================
Layout                 Columns
=====================  ==============================================================================
pairs, triples         ``query``, ``positive`` and perhaps ``negative`` or ``negatives``
n-tuples               ``anchor``, ``positive``, ``negative_1``, ``negative_2``, ...
labelled pairs         ``sentence1``, ``sentence2``, ``label`` (1: the second is a positive, 0: a negative)
lists                  ``query``, ``docs``, ``labels`` (one for each document)
scores of a teacher    with pairs and triples: ``scores``, or ``pos_scores`` and ``neg_scores``, one for each document;
                       with lists: ``scores``, one for each of ``docs``
texts without names    ``["query", "positive", "negative", ...]``; ``{"set": ["query", "positive", ...]}``
=====================  ==============================================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple

from smart_rag.errors import InvalidInput
from smart_rag.wording import nearest

# First our names, then those of others.
_QUERY = ("query", "anchor", "question", "sentence1")
_POSITIVE = ("positive", "positives", "pos", "answer", "sentence2")
_NEGATIVES = ("negatives", "negative", "neg")
_NUMBERED = re.compile(r"negative_\d+")
_LABEL = "label"
_DOCUMENTS = ("docs", "documents", "passages")
_LABELS = "labels"
_SET = "set"
# Scores of a teacher: of all documents in the order of their columns, of the positives, and of the negatives.
_SCORES = ("scores", "score", "teacher_scores")
_POSITIVE_SCORES = ("pos_scores", "positive_scores")
_NEGATIVE_SCORES = ("neg_scores", "negative_scores")
_ALL_SCORES = (*_SCORES, *_POSITIVE_SCORES, *_NEGATIVE_SCORES)
_KNOWN = (*_QUERY, *_POSITIVE, *_NEGATIVES, _LABEL, *_DOCUMENTS, _LABELS, _SET, *_ALL_SCORES)
COLUMNS = (
    f"a query ({', '.join(_QUERY)}), a positive ({', '.join(_POSITIVE)}), and optionally negatives "
    f"({', '.join(_NEGATIVES)}, negative_1, negative_2, ...) and a {_LABEL} of 1 or 0; or a query, {_DOCUMENTS[0]} and "
    f"{_LABELS}; and scores of a teacher ({_SCORES[0]}, or {_POSITIVE_SCORES[0]} and {_NEGATIVE_SCORES[0]})"
)


class Row(NamedTuple):
    """A query with its positives and negatives.

    ``scores`` are a teacher's scores of the positives and then of the negatives. They may be missing.
    """

    query: str
    positives: list[str]
    negatives: list[str]
    scores: Sequence[float] = ()


class Columns:
    """The meaning of columns, with other names for some of them.

    Args:
        renamed: other names, such as ``{"search": "query", "id": ""}``. A column with an empty name is left out.
    """

    def __init__(self, renamed: Mapping[str, str] | None = None) -> None:
        self._renamed = dict(renamed or {})
        self._seen: set[str] = set()
        self.has_unnamed = False  # such as the index that pandas writes as the first column

    def row(self, row: Any) -> Row:
        """Return the query, the positives and the negatives of a row: a mapping, or a list of texts.

        Raises:
            LookupError, TypeError: the row lacks a column, has one that is not known, or has a value of another kind.
        """
        if isinstance(row, list):
            return _without_names(row)
        if not isinstance(row, Mapping):
            raise TypeError(f"{type(row).__name__} is neither an object nor a list of texts")
        named = self._named(row)
        if _SET in named:
            if len(named) > 1:
                raise LookupError(f"the column {_SET!r} stands alone; found {', '.join(named)}, too")
            query, *positives = _at_least_two(named[_SET])
            return Row(query, positives, [])
        queries = _texts(named, _QUERY)
        if len(queries) != 1:
            raise LookupError(f"{_QUERY[0]!r} is missing, or empty")
        if any(name in named for name in (*_DOCUMENTS, _LABELS)):
            return _of_lists(queries[0], named)
        positives, negatives = _texts(named, _POSITIVE), _texts(named, _NEGATIVES)
        negatives += [text for name in named if _NUMBERED.fullmatch(name) for text in _texts(named, (name,))]
        if not positives:
            raise LookupError(f"{_POSITIVE[0]!r} is missing, or empty")
        scores = _scores(named, len(positives), len(negatives))
        if _LABEL not in named or _is_positive(named[_LABEL], most=1):
            return Row(queries[0], positives, negatives, scores)
        return Row(queries[0], [], [*positives, *negatives], scores)

    def _named(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of ``row`` by the names of their meanings, without the columns that are left out."""
        self._seen.update(row)
        kept = [(self._renamed.get(name, name), value) for name, value in row.items()]
        self.has_unnamed |= "" in row and "" not in self._renamed
        named = {name: value for name, value in kept if name}
        if len(named) < sum(bool(name) for name, _ in kept):
            raise LookupError(f"two columns have the same meaning: {', '.join(row)}")
        for name in named:
            if name not in _KNOWN and not _NUMBERED.fullmatch(name):
                near = nearest(name, _KNOWN)
                hint = f"the nearest is {near!r}; " if near else ""
                own = next((own for own, other in self._renamed.items() if other == name), name)
                raise LookupError(
                    f"the column {name!r} is not known; {hint}give it another name, or leave it out, by columns=, on "
                    f"the command line --columns {own}={near or 'NAME'} or --columns {own}="
                )
        return named

    def check_all_used(self, place: object) -> None:
        """Check that each renamed column was in at least one row.

        Raises:
            InvalidInput: a column is in none.
        """
        for name in self._renamed:
            if name not in self._seen:
                near = nearest(name, self._seen)
                raise InvalidInput(
                    f"{place}: no row has the column {name!r}, which is to be renamed or left out; "
                    + (f"the nearest is {near!r}" if near else f"found {', '.join(sorted(self._seen)) or 'no columns'}")
                )


def _without_names(row: Sequence[Any]) -> Row:
    """Return the row of a list of texts: the query, the positive, and negatives."""
    query, positive, *negatives = _at_least_two(row)
    return Row(query, [positive], negatives)


def _at_least_two(value: Any) -> list[str]:
    texts = _texts({_SET: value}, (_SET,)) if isinstance(value, list) else []
    if len(texts) < 2:
        raise TypeError(f"expected a list of at least two texts, got {len(texts)}")
    return texts


def _of_lists(query: str, named: Mapping[str, Any]) -> Row:
    """Return the row of a query with documents and a label for each of them."""
    others = [name for name in named if name not in (*_QUERY, *_DOCUMENTS, _LABELS, *_SCORES)]
    if others:
        raise LookupError(f"the columns {_DOCUMENTS[0]} and {_LABELS} do not go with {', '.join(others)}")
    texts, labels = _texts(named, _DOCUMENTS), named.get(_LABELS)
    if not texts or not isinstance(labels, Sequence) or isinstance(labels, str) or len(labels) != len(texts):
        count = len(labels) if isinstance(labels, list) else "none"
        raise LookupError(f"expected a label for each document; found {len(texts)} documents and {count} labels")
    are_positive = [_is_positive(label) for label in labels]
    positives = [i for i, is_positive in enumerate(are_positive) if is_positive]
    negatives = [i for i, is_positive in enumerate(are_positive) if not is_positive]
    scores = _numbers(named, _SCORES, len(texts))
    in_order = [scores[i] for i in (*positives, *negatives)] if scores else []
    return Row(query, [texts[i] for i in positives], [texts[i] for i in negatives], in_order)


def _scores(row: Mapping[str, Any], positives: int, negatives: int) -> list[float]:
    """Return the scores of so many positives and then of so many negatives, or nothing if the row has no scores."""
    of_all = _numbers(row, _SCORES, positives + negatives)
    of_positives = _numbers(row, _POSITIVE_SCORES, positives)
    of_negatives = _numbers(row, _NEGATIVE_SCORES, negatives)
    if of_all and (of_positives or of_negatives):
        raise LookupError(f"{_SCORES[0]} does not go with {_POSITIVE_SCORES[0]} and {_NEGATIVE_SCORES[0]}")
    if not of_positives and not of_negatives:
        return of_all
    if len(of_positives) != positives or len(of_negatives) != negatives:
        raise LookupError(f"expected {_POSITIVE_SCORES[0]} and {_NEGATIVE_SCORES[0]}, found only one of them")
    return of_positives + of_negatives


def _numbers(row: Mapping[str, Any], names: Sequence[str], count: int) -> list[float]:
    """Return the ``count`` scores in the one of these columns that a row has, or nothing if it has none.

    Raises:
        LookupError, TypeError: the column has another number of scores, or something else.
    """
    found = _one_of(row, names)
    value = row[found] if found else None
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        if names is _SCORES:
            raise TypeError(
                f"{found} is {value!r:.40}, and not a list with a score for each document. If it is a teacher's score "
                f"of the positive, name it {_POSITIVE_SCORES[0]} (--columns {found}={_POSITIVE_SCORES[0]}). If it is a "
                f"similarity or a margin, it does not say which text answers: make it a {_LABEL} of 1 or 0, or leave "
                f"it out (--columns {found}=)"
            )
        value = [value]
    if len(value) != count:
        raise LookupError(f"expected {count} {found}, one for each document, found {len(value)}")
    try:
        scores = [float(score) for score in value if not isinstance(score, bool)]
    except (TypeError, ValueError):
        scores = []
    if len(scores) != count or not all(map(isfinite, scores)):
        raise TypeError(f"{found} {value!r:.80} are not all numbers")
    return scores


def _one_of(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """Return the one of these columns that a row has, or None."""
    found = [name for name in names if name in row]
    if len(found) > 1:
        raise LookupError(f"the columns {' and '.join(found)} have the same meaning")
    return found[0] if found else None


def _is_positive(label: Any, most: float = float("inf")) -> bool:
    """Return whether a label is above 0. It is a whole number from 0 to ``most``, perhaps as a text.

    Raises:
        TypeError: it is none.
    """
    try:
        value = float(label)
    except (TypeError, ValueError):
        value = -1.0
    if not value.is_integer() or not 0 <= value <= most:
        expected = "1 nor 0" if most == 1 else "0 nor a whole number above it"
        if isinstance(label, list | tuple):
            expected += f"; if it has a teacher's scores, name it {_SCORES[0]} (--columns {_LABEL}={_SCORES[0]})"
        raise TypeError(f"the label {label!r:.80} is neither {expected}")
    return value > 0


def _texts(row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Return the texts of the one of these columns that a row has. A value is a text, a list of texts, or None."""
    found = _one_of(row, names)
    value = row[found] if found else None
    if value is not None and not isinstance(value, str | list | tuple):
        raise TypeError(f"{value!r} is not a text, nor a list of texts")
    texts = [] if value is None else [value] if isinstance(value, str) else list(value)
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise TypeError(f"{text!r} is not a text")
    return texts

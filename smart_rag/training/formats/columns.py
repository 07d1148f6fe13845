"""Columns of pairs and triples, by the names that sentence-transformers, BGE and others give them.

Each row is a query with its positives and negatives:

=====================  ==============================================================================
Layout                 Columns
=====================  ==============================================================================
pairs, triples         ``query``, ``positive`` and perhaps ``negative`` or ``negatives``
n-tuples               ``anchor``, ``positive``, ``negative_1``, ``negative_2``, ...
labelled pairs         ``sentence1``, ``sentence2``, ``label`` (1: the second is a positive, 0: a negative)
lists                  ``query``, ``docs``, ``labels`` (one for each document)
texts without names    ``["query", "positive", "negative", ...]``; ``{"set": ["query", "positive", ...]}``
=====================  ==============================================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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
_KNOWN = (*_QUERY, *_POSITIVE, *_NEGATIVES, _LABEL, *_DOCUMENTS, _LABELS, _SET)
COLUMNS = (
    f"a query ({', '.join(_QUERY)}), a positive ({', '.join(_POSITIVE)}), and optionally negatives "
    f"({', '.join(_NEGATIVES)}, negative_1, negative_2, ...) and a {_LABEL} of 1 or 0; or a query, {_DOCUMENTS[0]} and "
    f"{_LABELS}"
)


class Row(NamedTuple):
    """A query with its positives and negatives."""

    query: str
    positives: list[str]
    negatives: list[str]


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
        is_positive = _LABEL not in named or _is_positive(named[_LABEL], most=1)
        return Row(queries[0], positives, negatives) if is_positive else Row(queries[0], [], [*positives, *negatives])

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
    others = [name for name in named if name not in (*_QUERY, *_DOCUMENTS, _LABELS)]
    if others:
        raise LookupError(f"the columns {_DOCUMENTS[0]} and {_LABELS} do not go with {', '.join(others)}")
    texts, labels = _texts(named, _DOCUMENTS), named.get(_LABELS)
    if not texts or not isinstance(labels, Sequence) or isinstance(labels, str) or len(labels) != len(texts):
        count = len(labels) if isinstance(labels, list) else "none"
        raise LookupError(f"expected a label for each document; found {len(texts)} documents and {count} labels")
    are_positive = [_is_positive(label) for label in labels]
    return Row(
        query,
        [text for text, is_positive in zip(texts, are_positive, strict=True) if is_positive],
        [text for text, is_positive in zip(texts, are_positive, strict=True) if not is_positive],
    )


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
        raise TypeError(f"the label {label!r} is neither {expected}")
    return value > 0


def _texts(row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Return the texts of the one of these columns that a row has. A value is a text, a list of texts, or None."""
    found = [name for name in names if name in row]
    if len(found) > 1:
        raise LookupError(f"the columns {' and '.join(found)} have the same meaning")
    value = row[found[0]] if found else None
    if value is not None and not isinstance(value, str | list | tuple):
        raise TypeError(f"{value!r} is not a text, nor a list of texts")
    texts = [] if value is None else [value] if isinstance(value, str) else list(value)
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise TypeError(f"{text!r} is not a text")
    return texts

"""Filters in plain Python, documents with every kind of value, and strategies for filters on them."""

from __future__ import annotations

import operator
import re

from hypothesis import strategies as st

from smart_rag.types import Document

KEY = "v"
# A value that is absent stands for a document without the key.
ABSENT = object()
NUMBERS = [
    *(0, 1, 2, 3, -1, -2, -3, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 10**40, -(10**40), 10**200),
    *(0.5, -0.5, 2.0, 2.5, -2.5, 3.0, 3.75, 1e15, 2.0**53, 1e300, -1e300, 0.1, float("inf"), float("-inf")),
]
SCALARS = ["", "a", "b", "2", "2.5", "true", "é\n%_", True, False, *NUMBERS]
LISTS = [
    *([], ["a"], ["a", "b"], ["b"], [1, 2], [2.0], [2.5], [True], [False, "a"], [1, "1", None], [["a"], {"a": 1}]),
    *([10**40], [2**53 + 1], [2.0**53], ["true", "2"], [""]),
]
VALUES = [ABSENT, None, *SCALARS, *LISTS, {"a": 1}]
WORDS = ["pump", "oil 100%", "Oil_pump", "keys", "ümläut", "two\nlines"]


def documents():
    """Return a document for each of the values."""
    return [
        Document(f"{i:03}", f"{WORDS[i % len(WORDS)]} number{i}", {"i": i} | ({} if value is ABSENT else {KEY: value}))
        for i, value in enumerate(VALUES)
    ]


def found(where, where_document=None):
    """Return the ids of the documents that pass, in plain Python."""
    return {
        document.id
        for document in documents()
        if passes(document.metadata, where) and (where_document is None or text_passes(document.text, where_document))
    }


def passes(metadata, where):
    ((key, value),) = where.items()
    if key in ("$and", "$or"):
        return {"$and": all, "$or": any}[key](passes(metadata, part) for part in value)
    own = metadata.get(key)
    name, operand = next(iter(value.items())) if isinstance(value, dict) else ("$eq", value)
    if name in ("$ne", "$nin", "$not_contains"):
        return not passes(metadata, {key: {{"$ne": "$eq", "$nin": "$in", "$not_contains": "$contains"}[name]: operand}})
    if name == "$eq":
        return equal(own, operand)
    if name == "$in":
        return any(equal(own, item) for item in operand)
    if name == "$contains":
        return isinstance(own, list) and any(equal(item, operand) for item in own)
    return is_number(own) and getattr(operator, {"$gte": "ge", "$lte": "le"}.get(name, name[1:]))(own, operand)


def text_passes(text, where):
    ((name, value),) = where.items()
    if name in ("$and", "$or"):
        return {"$and": all, "$or": any}[name](text_passes(text, part) for part in value)
    if name.startswith("$not_"):
        return not text_passes(text, {f"${name.removeprefix('$not_')}": value})
    return value in text if name == "$contains" else re.search(value, text) is not None


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def equal(own, value):
    """Return whether two scalars are equal. A bool is no number, and nothing equals a list."""
    if isinstance(own, str | bool) or isinstance(value, str | bool):
        return type(own) is type(value) and own == value
    return is_number(own) and own == value


def groups(leaves):
    """Return filters of ``leaves``, alone and in groups."""
    return st.recursive(
        leaves,
        lambda inner: st.builds(
            lambda name, parts: {name: parts},
            st.sampled_from(["$and", "$or"]),
            st.lists(inner, max_size=3),
        ),
        max_leaves=4,
    )


_EIGHTHS = st.integers(-64, 64).map(lambda i: i / 8)
_NUMBERS = st.sampled_from(NUMBERS) | _EIGHTHS
_SCALARS = st.sampled_from(SCALARS) | _EIGHTHS
_OPERATIONS = (
    st.tuples(st.sampled_from(["$eq", "$ne", "$contains", "$not_contains"]), _SCALARS)
    | st.tuples(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), _NUMBERS)
    | st.tuples(st.sampled_from(["$in", "$nin"]), st.lists(_SCALARS, max_size=5))
)
FILTERS = groups(
    _OPERATIONS.map(lambda pair: {KEY: dict([pair])})
    | _SCALARS.map(lambda value: {KEY: value})
    | _OPERATIONS.map(lambda pair: {"absent": dict([pair])})
)
TEXT_FILTERS = groups(
    st.tuples(
        st.sampled_from(["$contains", "$not_contains"]),
        st.sampled_from(["pump", "oil", "Oil", "%", "_", "ü", "1", "number1", "\n", "o", "nothing", "'", '"']),
    ).map(lambda pair: dict([pair]))
    | st.tuples(
        st.sampled_from(["$regex", "$not_regex"]),
        st.sampled_from(["^pump", "[Oo]il", "number1[0-5]$", "p..p", "(?i)OIL", "100%", "two.lines"]),
    ).map(lambda pair: dict([pair]))
)

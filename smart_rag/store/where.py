"""Filters in the form that Chroma answers correctly.

A filter of smart_rag is written like a filter of Chroma. Values are compared as in Python:

- A number equals a number of the same value, whether it is an int or a float. A bool equals only a bool.
- ``$gt``, ``$gte``, ``$lt``, ``$lte`` compare numbers. If a document's value is missing or is not a number, they do not
  find the document.
- ``$ne`` finds all documents that ``$eq`` does not find, including documents without the key. ``$nin`` is the opposite
  of ``$in`` in the same way, and ``$not_contains`` is the opposite of ``$contains``.
- ``$contains`` finds lists with an item that equals the value.
- An empty ``$and`` finds everything. An empty ``$or`` and an empty ``$in`` find nothing.

Chroma 1.5 differs in these points:

- Before Chroma compares a float with an int, it cuts off the float's fraction and limits the result to 64 bits. So 2.5
  equals 2. See `_counterpart`.
- It has no lists of mixed types, and reads floats inexactly. So each list has a second column with the text of each
  item: `list_column`, `item_text`.
- It refuses empty groups and lists, groups of one filter, and values of different types in one list.

Chroma rounds floats of more than 15 digits when it stores them, and rounds a filter's floats in the same way. So equal
floats stay equal. But floats that differ by less than 2 units in the last place may count as equal. Integers of more
than 64 bits, and infinity, are stored and compared as the nearest finite float.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from smart_rag.errors import InvalidInput
from smart_rag.values import plain_value

Where = Mapping[str, Any]

# Metadata keys with this prefix are our own. They are removed from results.
RESERVED = "_smart_rag."
# Every row has this key, and its value is never empty.
KEY = RESERVED + "key"
_LIST = RESERVED + "list."

_EVERYTHING = {KEY: {"$ne": ""}}
_NOTHING = {KEY: {"$eq": ""}}

_GROUPS = ("$and", "$or")
_COMPARISONS = ("$gt", "$gte", "$lt", "$lte")
_ON_LISTS = ("$contains", "$not_contains")
_OPERATORS = ("$eq", "$ne", *_COMPARISONS, "$in", "$nin", *_ON_LISTS)
_ON_TEXTS = ("$contains", "$not_contains", "$regex", "$not_regex")

# The limits of a filter. A comparison with texts reads all of them, and takes as long as ten others.
_DEEPEST, _MOST_COMPARISONS, _MOST_TEXTS, _MOST_VALUES = 30, 10_000, 1_000, 100_000
_LONGEST_PATTERN = 250_000  # bytes; for a longer one, Chroma takes seconds
_LONGEST_TEXT = 24_999  # bytes; SQLite takes patterns of 50,000, and a byte may need another one before it
# The limits of one call. SQLite, in which Chroma filters, takes 32,766 variables and trees of 1,000 comparisons. A tree
# of 10,000 ends the process.
_COMPARISONS_IN_ONE, _VARIABLES_IN_ONE = 400, 30_000

_LARGEST, _SMALLEST = 2**63 - 1, -(2**63)  # the integers that Chroma stores


def _check_size(where: Any, most: int, name: str, advice: str) -> None:
    """Raise InvalidInput if a filter is too large.

    Args:
        where: the caller's filter.
        most: the maximum number of comparisons.
        name, advice: for messages: the name of the filter, and what the caller can do.
    """
    comparisons = values = 0
    for size in _sizes(where):
        comparisons, values = comparisons + 1, values + size
        if comparisons > most:
            raise InvalidInput(f"a filter on {name} may have {most:,} comparisons, this one has more; {advice}")
        if values > _MOST_VALUES:
            raise InvalidInput(
                f"a filter may have {_MOST_VALUES:,} values, this one has more; filter in several searches"
            )


def _sizes(where: Any, depth: int = 0) -> Iterator[int]:
    """Yield the number of values of each comparison in a filter, and 0 for an empty group."""
    if depth > _DEEPEST:
        raise InvalidInput(f"a filter may be nested {_DEEPEST} times, this one is nested more deeply")
    for key, part in where.items() if isinstance(where, Mapping) else [(None, where)]:
        if key in _GROUPS and isinstance(part, list | tuple) and part:
            for inner in part:
                yield from _sizes(inner, depth + 1)
        else:
            values = list(part.values()) if isinstance(part, Mapping) else [part]
            yield sum(len(value) if isinstance(value, list | tuple) else int(np.size(value)) for value in values)


def chroma_where(where: Where | None, *, has_lists: bool = True) -> dict[str, Any] | None:
    """Return the filter on metadata for Chroma. Return None if there is no filter.

    Args:
        where: the caller's filter.
        has_lists: whether every list in the collection has its column (`list_column`).

    Raises:
        InvalidInput: the filter is not valid, or it needs the columns of lists, which are missing.
    """
    if where is None or (isinstance(where, Mapping) and not where):
        return None
    _check_size(where, _MOST_COMPARISONS, "metadata", "use $in for many values of one key")
    return _where(where, has_lists)


def chroma_where_document(where: Where | None) -> dict[str, Any] | None:
    """Return the filter on texts for Chroma. Return None if there is no filter.

    Raises:
        InvalidInput: the filter is not valid.
    """
    if where is None or (isinstance(where, Mapping) and not where):
        return None
    _check_size(where, _MOST_TEXTS, "texts", "join many texts by | in one $regex")
    return _where_document(where)


def fits(*filters: dict[str, Any] | None) -> bool:
    """Return whether Chroma can take all these filters, in the form of `chroma_where`, in one call."""
    sizes = [len(values) for where in filters if where is not None for values in _comparisons(where)]
    # A comparison has a variable for its key. A number has two, because Chroma compares it with ints and with floats.
    return len(sizes) <= _COMPARISONS_IN_ONE and len(sizes) + 2 * sum(sizes) <= _VARIABLES_IN_ONE


def _comparisons(where: dict[str, Any]) -> Iterator[Sequence[Any]]:
    """Yield the values of each comparison in a filter for Chroma."""
    ((key, value),) = where.items()
    if key in _GROUPS:
        for part in value:
            yield from _comparisons(part)
    else:
        operand = next(iter(value.values())) if isinstance(value, dict) else value
        yield operand if isinstance(operand, list) else [operand]


def halves(where: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return an operator (``$and`` or ``$or``) and two filters. Joined by the operator, they find what ``where``
    finds.

    ``where`` is a filter for Chroma that is too large for one call: a group, or a comparison with many values.
    """
    ((key, value),) = where.items()
    if key in _GROUPS:
        middle = len(value) // 2
        return key, _group(key, value[:middle]), _group(key, value[middle:])
    ((operator, values),) = value.items()
    middle = len(values) // 2
    joined = "$or" if operator == "$in" else "$and"
    return joined, {key: {operator: values[:middle]}}, {key: {operator: values[middle:]}}


def list_column(key: str) -> str:
    """Return the key of the column that holds the items of a list. ``key`` is the metadata key of the list."""
    return _LIST + key


def is_list_column(name: str) -> bool:
    """Return whether `list_column` can have returned ``name``."""
    return name.startswith(_LIST)


def item_text(value: Any) -> str | None:
    """Return the text of an item of a list. Equal items have equal texts. A list or dict as an item has no text."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value) if isinstance(value, str | bool | int | float) else None


def stored_number(value: int | float) -> int | float:
    """Return the number nearest to ``value`` that Chroma can store and compare."""
    if isinstance(value, int) and _SMALLEST <= value <= _LARGEST:
        return value
    largest = sys.float_info.max
    # Python compares an int with a float exactly, but `float` raises an error for larger ints.
    return float(min(max(value, -largest), largest))


def _where(where: Any, has_lists: bool) -> dict[str, Any]:
    key, value = _only_item(where, 'a filter must be a dict with one key, such as {"page": 3}; join several by "$and"')
    if key in _GROUPS:
        return _group(key, [_where(part, has_lists) for part in _parts(key, value)])
    if key.startswith(("$", "#")):
        raise InvalidInput(
            f"the filter has the key {key!r}; expected a metadata key, {' or '.join(_GROUPS)}"
            + ("; to filter texts, use where_document" if key == "#document" or key in _ON_TEXTS else "")
        )
    if not isinstance(value, Mapping):
        return _comparison(key, "$eq", value, has_lists)
    expected = f"filter on {key!r}: expected one operator, such as {{'$gte': 3}}"
    return _comparison(key, *_only_item(value, expected), has_lists)


def _comparison(key: str, operator: str, value: Any, has_lists: bool) -> dict[str, Any]:
    if operator not in _OPERATORS:
        raise InvalidInput(f"filter on {key!r}: there is no operator {operator!r}; use {', '.join(_OPERATORS)}")
    name = f"filter on {key!r}: the value of {operator!r}"
    value = plain_value(value, name)
    if operator in ("$in", "$nin"):
        if not isinstance(value, list):
            raise InvalidInput(f"{name} must be a list, got {value!r}")
        scalars = [_scalar(item, f"{name}, item {i},") for i, item in enumerate(value)]
        return _equal_any(key, scalars) if operator == "$in" else _equal_none(key, scalars)
    if operator in _COMPARISONS:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidInput(f"{name} must be a number, got {value!r}; only numbers can be compared")
        return _ordered(key, operator, stored_number(value))
    scalar = _scalar(value, name)
    if operator in _ON_LISTS:
        if not has_lists:
            raise InvalidInput(
                f"filter on {key!r}: {operator!r} cannot search this index, because an older smart_rag made it; "
                "call SmartIndex.vacuum() or `smart-rag verify --repair` once, which encodes nothing again"
            )
        return {list_column(key): {operator: item_text(scalar)}}
    return _equal_any(key, [scalar]) if operator == "$eq" else _equal_none(key, [scalar])


def _scalar(value: Any, name: str) -> Any:
    if not isinstance(value, str | bool | int | float):
        hint = "; a document without the key passes '$ne' of any value" if value is None else ""
        raise InvalidInput(f"{name} must be a str, a number or a bool, got {value!r}{hint}")
    return value


def _equal_any(key: str, values: Sequence[Any]) -> dict[str, Any]:
    """Return a filter that finds the documents whose value is one of ``values``."""
    parts = []
    for same_type, counterparts in _by_type(values):
        found = {key: {"$in": same_type}}
        parts.append(_group("$and", [found, {key: {"$nin": counterparts}}]) if counterparts else found)
    return _group("$or", parts)


def _equal_none(key: str, values: Sequence[Any]) -> dict[str, Any]:
    """Return a filter that finds all documents that `_equal_any` does not find."""
    parts = []
    for same_type, counterparts in _by_type(values):
        found = {key: {"$nin": same_type}}
        parts.append(_group("$or", [found, {key: {"$in": counterparts}}]) if counterparts else found)
    return _group("$and", parts)


def _by_type(values: Sequence[Any]) -> list[tuple[list[Any], list[Any]]]:
    """Group ``values`` by type. Return each group, and the numbers that Chroma would wrongly find for its values."""
    groups: dict[tuple[type, bool], tuple[list[Any], list[Any]]] = {}
    for value in values:
        is_number = not isinstance(value, str | bool)
        stored = stored_number(value) if is_number else value
        other = _counterpart(stored) if is_number else None
        same_type, counterparts = groups.setdefault((type(stored), other is None), ([], []))
        same_type.append(stored)
        if other is not None:
            counterparts.append(other)
    return list(groups.values())


def _ordered(key: str, operator: str, value: int | float) -> dict[str, Any]:
    """Return a filter that compares the numbers under ``key`` with ``value``."""
    found = {key: {operator: value}}
    other = _counterpart(value)
    if other is None:
        return found
    # Chroma compares numbers of the other type with `other`, not with `value`. So it is wrong for `other` itself.
    if (operator == "$lt" and other < value) or (operator == "$gt" and other > value):
        return _group("$or", [found, {key: {"$eq": other}}])
    if (operator == "$gte" and other < value) or (operator == "$lte" and other > value):
        return _group("$and", [found, {key: {"$ne": other}}])
    return found


def _counterpart(value: int | float) -> int | float | None:
    """Return the number of the other type that Chroma uses in place of ``value``. None if both are the same number.

    To compare an int with a float, Chroma converts the number of the filter to the type of the stored number.
    """
    other = _converted(value)
    return None if _converted(other) == value else other


def _converted(value: int | float) -> int | float:
    return float(value) if isinstance(value, int) else min(max(int(value), _SMALLEST), _LARGEST)


def _where_document(where: Any) -> dict[str, Any]:
    expected = (
        'a filter on texts must be a dict with one operator, such as {"$contains": "pump"}; join several by "$and"'
    )
    operator, value = _only_item(where, expected)
    if operator in _GROUPS:
        parts = [_where_document(part) for part in _parts(operator, value)]
        return _group(operator, parts, everything={"$regex": "(?s).*"}, nothing={"$not_regex": "(?s).*"})
    if operator not in _ON_TEXTS:
        raise InvalidInput(
            f"the filter on texts has the operator {operator!r}; use {', '.join((*_ON_TEXTS, *_GROUPS))}"
        )
    value = plain_value(value, f"the filter on texts: the value of {operator!r}")
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"the filter on texts: {operator!r} needs a str that is not empty, got {value!r}")
    if operator in _ON_LISTS and len(value.encode(errors="surrogatepass")) > _LONGEST_TEXT:
        raise InvalidInput(
            f"the filter on texts: the str of {operator!r} may have {_LONGEST_TEXT:,} bytes, it has more; use the "
            "beginning of the text"
        )
    if operator not in _ON_LISTS and len(value.encode(errors="surrogatepass")) > _LONGEST_PATTERN:
        raise InvalidInput(
            f"the filter on texts: the pattern of {operator!r} may have {_LONGEST_PATTERN:,} bytes, it has more; join "
            'several patterns by "$or"'
        )
    return {operator: value}


def _only_item(where: Any, expected: str) -> tuple[str, Any]:
    if not isinstance(where, Mapping) or len(where) != 1 or not isinstance(next(iter(where)), str):
        raise InvalidInput(f"{expected}; got {where!r}")
    ((key, value),) = where.items()
    return key, value


def _parts(operator: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise InvalidInput(f"{operator!r} needs a list of filters, got {value!r}")
    return value


def _group(
    operator: str,
    parts: list[dict[str, Any]],
    everything: dict[str, Any] = _EVERYTHING,
    nothing: dict[str, Any] = _NOTHING,
) -> dict[str, Any]:
    """Return ``parts`` as one filter. Chroma refuses groups of fewer than two filters."""
    if not parts:
        return everything if operator == "$and" else nothing
    return parts[0] if len(parts) == 1 else {operator: parts}

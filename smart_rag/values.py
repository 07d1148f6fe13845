"""Plain values: the values that metadata, filters and settings may hold, and the conversion of other values to them.

Callers bring values of numpy, pandas and the standard library. `plain_value` converts all of them by the same rule.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import Any

import numpy as np

from smart_rag.errors import InvalidInput

_EXPECTED = "use str, int, float, bool, None, or lists and dicts of them"


def plain_value(value: Any, name: str) -> Any:
    """Return ``value`` as a str, int, float, bool, None, or a list or dict of these. ``value`` itself is not changed.

    | given | returned |
    |---|---|
    | a number, bool or str of numpy, or of a subclass of Python's types | Python's own |
    | an array of numpy, a tuple | a list |
    | a date, a time or both (also numpy's and pandas') | its text by ISO 8601, such as ``"2026-11-05T14:30:00"`` |
    | a path | its text |
    | a member of an Enum | its value |

    Raises:
        InvalidInput: ``value`` is none of these. The message begins with ``name``. NaN is refused, because it equals
            nothing. ``Decimal`` is refused, because only the caller knows whether it should be a number or a text.
    """
    try:
        return _plain(value, name)
    except RecursionError as error:
        raise InvalidInput(f"{name} contains itself, or is nested too deeply") from error


def plain_dict(values: Any, name: str) -> dict[str, Any]:
    """Return the dict ``values`` with plain keys and values.

    Raises:
        InvalidInput: ``values`` is not a dict, a key is not a str, or `plain_value` refuses a value.
    """
    if not isinstance(values, Mapping):
        raise InvalidInput(f"{name} must be a dict, got a {type(values).__name__}")
    plain: dict[str, Any] = plain_value(values, name)
    return plain


def _plain(value: Any, name: str) -> Any:
    if isinstance(value, Enum):
        return _plain(value.value, name)
    if value is None or isinstance(value, str | bool | np.bool_ | int | float | np.integer | np.floating):
        return _plain_scalar(value, name)
    if isinstance(value, date | time | np.datetime64):
        return _plain_time(value, name)
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, Mapping):
        return {_plain_key(key, name): _plain(item, f"{name} {key!r}") for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(list(value) if value.ndim else value[()], name)
    if isinstance(value, list | tuple):
        return [_plain(item, f"{name}, item {i},") for i, item in enumerate(value)]
    raise InvalidInput(f"{name} is a {type(value).__name__}, which JSON cannot store; {_advice(value)}")


def _plain_scalar(value: Any, name: str) -> str | bool | int | float | None:
    if value is None or isinstance(value, str):
        return None if value is None else str.__str__(value)
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, np.timedelta64):  # numpy counts it among its integers
        raise InvalidInput(f"{name} is a timedelta64; {_advice(value)}")
    if isinstance(value, int | np.integer):
        return int(value)
    if np.isnan(value):
        raise InvalidInput(f"{name} is NaN, which equals nothing; use None for a missing value, or leave it out")
    return float(value)


def _plain_time(value: Any, name: str) -> str:
    if type(value).__name__ == "NaTType" or (isinstance(value, np.datetime64) and np.isnat(value)):
        raise InvalidInput(f"{name} is NaT, which equals nothing; use None for a missing value, or leave it out")
    if not isinstance(value, np.datetime64):
        return str(value.isoformat())
    moment = value.astype("datetime64[us]")
    is_exact = moment == value and isinstance(moment.item(), datetime)
    return str(moment.item().isoformat() if is_exact else np.datetime_as_string(value))


def _plain_key(key: Any, name: str) -> str:
    text = key.value if isinstance(key, Enum) else key
    if not isinstance(text, str):
        raise InvalidInput(f"{name} has the key {key!r}, a {type(key).__name__}; a key must be a str")
    return str.__str__(text)


def _advice(value: Any) -> str:
    if isinstance(value, Decimal | Fraction):
        return "use float(...) for a number that filters can compare, or str(...) for its exact text"
    if type(value).__name__ == "NAType":  # of pandas
        return "use None for a missing value"
    if isinstance(value, timedelta | np.timedelta64):
        return "use its number of seconds"
    if isinstance(value, set | frozenset):
        return "use sorted(...), which is a list"
    return _EXPECTED


def json_value(text: str) -> Any:
    r"""Return the value of a JSON text.

    Raises:
        ValueError: it is no JSON, an object has a key twice, or a text has half of a surrogate pair.
        RecursionError: it is nested too deep.

    >>> json_value('{"text": "a", "text": "b"}')
    Traceback (most recent call last):
    ValueError: the key 'text' is there twice
    """
    value = json.loads(text, object_pairs_hook=_without_repeated_keys)
    if "\\u" in text and not is_unicode(json.dumps(value, ensure_ascii=False)):
        raise ValueError("a text has half of a surrogate pair, which is no Unicode")
    return value


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r:.80} is there twice")
    return found


def is_unicode(text: str) -> bool:
    """Return whether ``text`` can be encoded as UTF-8. A text with a lone surrogate cannot be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

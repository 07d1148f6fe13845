"""Values of numpy, pandas and the standard library as plain values."""

from __future__ import annotations

import copy
import enum
import json
from collections import OrderedDict, UserDict
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath
from types import MappingProxyType

import numpy as np
import pytest

from smart_rag.errors import InvalidInput
from smart_rag.values import plain_dict, plain_value


class Colour(enum.Enum):
    RED = "red"
    TWO = np.int64(2)


class Word(enum.StrEnum):
    RED = "red"


class Number(enum.IntEnum):
    TWO = 2


NOON = datetime(2026, 11, 5, 12, 30)
PLAIN = [
    *(
        (value, value)
        for value in ("", "a", 0, 7, 10**40, True, False, None, 0.5, float("inf"), [], {}, [1, None, "a"])
    ),
    *((kind(3), 3) for kind in (np.int8, np.int64, np.uint64)),
    *((kind(0.5), 0.5) for kind in (np.float16, np.float32, np.float64, np.longdouble)),
    *((np.bool_(True), True), (np.str_("a"), "a"), (np.float32(0.1), float(np.float32(0.1)))),
    *((Colour.RED, "red"), (Colour.TWO, 2), (Word.RED, "red"), (Number.TWO, 2)),
    *((NOON, "2026-11-05T12:30:00"), (NOON.date(), "2026-11-05"), (time(12, 30), "12:30:00")),
    (NOON.replace(tzinfo=UTC), "2026-11-05T12:30:00+00:00"),
    *((np.datetime64(NOON), "2026-11-05T12:30:00"), (np.datetime64(NOON, "ns"), "2026-11-05T12:30:00")),
    (np.datetime64("2026-11-05T12:30:00.000000001"), "2026-11-05T12:30:00.000000001"),
    *((Path("a") / "b.pdf", str(Path("a/b.pdf"))), (PurePosixPath("a/b"), "a/b")),
    *(
        ((1, (2, "a")), [1, [2, "a"]]),
        (np.ones((1, 2)), [[1.0, 1.0]]),
        (np.array(3), 3),
        (np.array([1, "a"], object), [1, "a"]),
    ),
    (OrderedDict(a=(1,), b=np.int64(2)), {"a": [1], "b": 2}),
    *((UserDict(a=1), {"a": 1}), (MappingProxyType({"a": 1}), {"a": 1}), ({Word.RED: 1}, {"red": 1})),
]


def kinds(value):
    """Return the types in ``value``, in their places."""
    if isinstance(value, dict):
        return {key: kinds(item) for key, item in value.items()}
    return [kinds(item) for item in value] if isinstance(value, list) else type(value)


@pytest.mark.parametrize(("value", "expected"), PLAIN, ids=lambda value: f"{type(value).__name__}")
def test_a_plain_value(value, expected):
    before = copy.deepcopy(value) if not isinstance(value, MappingProxyType) else value
    plain = plain_value(value, "x")
    assert plain == expected
    assert kinds(plain) == kinds(expected)
    assert json.loads(json.dumps(plain)) == expected
    assert repr(value) == repr(before)


CIRCLE: list = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "x is NaN, which equals nothing; use None for a missing value"),
        (np.float32("nan"), "x is NaN"),
        ([1, float("nan")], "x, item 1, is NaN"),
        ({"a": {"b": float("nan")}}, "x 'a' 'b' is NaN"),
        (np.datetime64("NaT"), "x is NaT"),
        (
            Decimal("0.1"),
            r"x is a Decimal, which JSON cannot store; use float\(...\) for a number that filters can compare",
        ),
        (Fraction(1, 3), r"x is a Fraction.*use float\(...\)"),
        (timedelta(1), "x is a timedelta.*use its number of seconds"),
        (np.timedelta64(1, "D"), "x is a timedelta64.*use its number of seconds"),
        ({1, 2}, r"x is a set.*use sorted\(...\)"),
        (b"a", "x is a bytes, which JSON cannot store; use str, int, float, bool, None, or lists and dicts of them"),
        (object(), "x is a object"),
        (1j, "x is a complex"),
        (np.complex64(1), "x is a complex64"),
        ({1: "a"}, "x has the key 1, a int; a key must be a str"),
        (CIRCLE, "x contains itself, or is nested too deeply"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_is_refused(value, message):
    with pytest.raises(InvalidInput, match=message):
        plain_value(value, "x")


def test_values_of_pandas():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"n": [1, 2], "x": [0.5, 1.5], "day": pandas.to_datetime(["2026-11-05", "2026-11-06"])})
    record = frame.to_dict("records")[0]
    assert plain_dict(record, "x") == {"n": 1, "x": 0.5, "day": "2026-11-05T00:00:00"}
    assert plain_dict(dict(frame.iloc[0]), "x") == {"n": 1, "x": 0.5, "day": "2026-11-05T00:00:00"}
    for missing, message in ((pandas.NaT, "is NaT"), (pandas.NA, "is a NAType.*use None for a missing value")):
        with pytest.raises(InvalidInput, match=message):
            plain_value(missing, "x")


@pytest.mark.parametrize("value", [None, [("a", 1)], "a"])
def test_not_a_dict(value):
    with pytest.raises(InvalidInput, match=f"x must be a dict, got a {type(value).__name__}"):
        plain_dict(value, "x")


def test_dates_are_found_by_dates():
    """A filter's value becomes plain by the same rule."""
    assert plain_value(date(2026, 11, 5), "x") == plain_value("2026-11-05", "x")

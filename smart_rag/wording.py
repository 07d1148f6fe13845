"""Texts of messages: a count with its noun, a number of bytes, and an error on one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def number(count: int, noun: str) -> str:
    """Return ``count`` and ``noun``, with the noun in the plural if needed. ``noun`` is given in the singular.

    >>> number(1, "query"), number(2, "held-out query"), number(1200, "passage")
    ('1 query', '2 held-out queries', '1,200 passages')
    """
    if count != 1:
        noun = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {noun}"


def some(places: Sequence[int], most: int = 5) -> str:
    """Return the first of ``places``, and how many more there are.

    >>> some([3]), some([3, 5]), some([1, 2, 3, 4, 5, 6, 7])
    ('3', '3, 5', '1, 2, 3, 4, 5 and 2 more')
    """
    shown = ", ".join(f"{place:,}" for place in places[:most])
    return f"{shown} and {len(places) - most:,} more" if len(places) > most else shown


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the one of ``known`` that is spelled most like ``name``. It is empty if none is alike.

    >>> nearest("Querry", ["query", "positive"]), nearest("id", ["query"])
    ('query', '')
    """
    by_name = {one.lower(): one for one in known}
    found = difflib.get_close_matches(name.lower(), by_name, 1)
    return by_name[found[0]] if found else ""


def size_text(size: float) -> str:
    """Return a number of bytes as text. The unit is the largest one in which the number is at least 1."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1000
    raise AssertionError


def one_line(error: BaseException) -> str:
    r"""Return the message of ``error`` on one line. If there is no message, return the name of the error's class.

    >>> one_line(ValueError("bad header,\n  byte 3")), one_line(ValueError())
    ('bad header, byte 3', 'ValueError')
    """
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: BaseException) -> str:
    """Return the first line of ``error``, or its first two lines if the first only announces the second."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]

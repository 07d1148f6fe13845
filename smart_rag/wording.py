"""Wording of messages: pluralise a noun for a count, shorten an error to one line, correct a name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def number(count: int, noun: str) -> str:
    """Pluralise ``noun``, given in the singular, for ``count``, and return both.

    >>> number(1, "query"), number(2, "held-out query"), number(1200, "passage")
    ('1 query', '2 held-out queries', '1,200 passages')
    """
    if count != 1:
        noun = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {noun}"


def one_line(error: BaseException) -> str:
    r"""Return the message of ``error`` on one line, or the name of its class if it has no message.

    >>> one_line(ValueError("bad header,\n  byte 3")), one_line(ValueError())
    ('bad header, byte 3', 'ValueError')
    """
    return " ".join(str(error).split()) or type(error).__name__


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a question for the name in ``known`` that is most like ``name``, or all of them if none is.

    >>> nearest("top_kk", ["top_k", "where"]), nearest("limit", ["top_k", "where"])
    ("did you mean 'top_k'?", 'expected one of top_k, where')
    """
    names = sorted(known)
    close = get_close_matches(name, names, 1)
    return f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(names)}"

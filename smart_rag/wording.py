"""Words that follow from numbers, in what people read."""

from __future__ import annotations


def number(count: int, noun: str) -> str:
    """Return ``count`` with its noun, which is given in the singular.

    >>> number(1, "query"), number(2, "held-out query"), number(1200, "passage")
    ('1 query', '2 held-out queries', '1,200 passages')
    """
    if count != 1:
        noun = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {noun}"

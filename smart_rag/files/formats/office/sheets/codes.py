"""The language of number formats: what the parts of a code are, and which of them stand for themselves."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_PARTS = re.compile(r'"[^"]*"?|\\.|\[[^\]]*\]|_.|\*.|;|[^;]', re.DOTALL)
_LITERAL = r'"(?P<quoted>[^"]*)"?|\\(?P<escaped>.)|\[(?P<bracket>[^\]]*)\]|(?P<space>_.|\*\s)|(?P<fill>\*.)'
NUMBER = re.compile(
    rf"{_LITERAL}|(?P<general>General)|(?P<exponent>E[+-])|(?P<digit>[0#?])|(?P<sign>[.,%/@])|(?P<other>.)",
    re.IGNORECASE | re.DOTALL,
)
_UNITS = "y+|m+|d+|h+|s+|g+|b+|aaaa?|e+(?![+-])"
DATE = re.compile(
    # b1 and b2 before a date choose the calendar: the Western one, and that of Islam.
    rf"{_LITERAL}|(?P<western>b1)|(?P<islamic>b2)|(?P<half>AM/PM|A/P|上午/下午|午前/午後)|(?P<unit>{_UNITS})(?P<fraction>\.0+)?"
    r"|(?P<unknown>[aenr0#?@])|(?P<other>.)",
    re.IGNORECASE | re.DOTALL,
)


class NotFollowed(ValueError):
    """A code asks for something that is not known here, such as Chinese digits or the names of months in Thai."""


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of a code. ``kind`` is the name of the group that found it."""

    kind: str
    text: str


def split(code: str) -> list[str]:
    """Return the sections of a code, of which Excel knows four."""
    found = [""]
    for piece in _PARTS.findall(code):
        if piece == ";":
            found.append("")
        else:
            found[-1] += piece
    return found[:4]


@lru_cache(maxsize=1024)
def parse(language: re.Pattern[str], section: str) -> tuple[Part, ...]:
    """Return the parts of a section, in the language `NUMBER` or `DATE`."""
    found = []
    for match in language.finditer(section):
        kind = match.lastgroup or ""
        if match["bracket"] is not None:
            kind = "bracket"
        elif language is DATE and match["unit"]:
            found.append(Part("unit", match[0]))
            continue
        found.append(Part(kind, match[kind] or ""))
    return tuple(found)


def literal(part: Part) -> str:
    """Return what a part shows that stands for no digits and for no part of a date."""
    match part.kind:
        case "quoted" | "escaped" | "other":
            return part.text
        case "space":
            return " "
        case "sign":
            return part.text if part.text in "%/" else ""
        case "bracket" if part.text.startswith("$"):  # a currency and a language, such as $EUR-407
            return part.text[1:].partition("-")[0]
    return ""


def plain(text: str) -> str:
    """Return a text without the spaces that only line up numbers."""
    return " ".join(text.split())

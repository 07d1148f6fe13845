"""Texts of mails that are neither plain nor HTML: rich text, enriched text, and text whose lines are to be joined."""

from __future__ import annotations

import re

_QUOTES = re.compile(r">*")
_SIGNATURE = "-- "
# Elements without text that is shown. They do not nest.
_PARAMETERS = re.compile(r"<param>[^<]*</param>", re.IGNORECASE)
_ELEMENT = re.compile(r"<(<|/?[A-Za-z0-9-]{1,60}>)")
_NEWLINES = re.compile(r"\n+")
_BREAK = re.compile(r"<nl>", re.IGNORECASE)


def without_soft_breaks(text: str) -> str:
    """Return a text of ``format=flowed; delsp=yes`` with its lines joined: a space at their end is no part of the text.

    Only lines with the same number of signs of quotation are joined. See RFC 3676.
    """
    found: list[str] = []
    depth, is_open = 0, False
    for line in text.splitlines():
        quotes = _QUOTES.match(line)
        marks = quotes[0] if quotes else ""
        rest = line.removeprefix(marks).removeprefix(" ")
        goes_on = is_open and len(marks) == depth and rest != _SIGNATURE
        is_open = rest.endswith(" ") and rest != _SIGNATURE
        depth = len(marks)
        rest = rest[:-1] if is_open else rest
        if goes_on:
            found.append(rest)
        else:
            found += ["\n" if found else "", f"{marks} {rest}" if marks else rest]
    return "".join(found)


def text_of_enriched(markup: str, kind: str) -> str:
    """Return the text of ``text/enriched`` (RFC 1896) or ``text/richtext`` (RFC 1341), as ``kind`` says."""
    markup = _PARAMETERS.sub("", markup.replace("\r\n", "\n"))
    if kind == "text/enriched":  # a single end of a line is a space, and of several the first one counts nothing
        markup = _NEWLINES.sub(lambda run: "\n" * (len(run[0]) - 1) or " ", markup)
    else:
        markup = _BREAK.sub("\n\n", markup.replace("\n", " ")).replace("<lt>", "<<")
    return _ELEMENT.sub(lambda tag: "<" if tag[1] == "<" else "", markup)

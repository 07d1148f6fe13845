"""`unbroken_chunk`: a chunk of a long text without a blank, such as base64, minified JSON or digits.

Such a text has no words or sentences that a library for prose could find, and it would look at most of its characters.
Here the tokenizer reads each chunk once or twice.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Sequence

from smart_rag.files.chunking.token_places import TokenSpans

_BLANK = re.compile(r"\s")
# Chunks end after one of these, if one is in the last half. The others are Chinese, Devanagari and Urdu. Otherwise,
# chunks end after any sign that is no letter and no digit.
_SENTENCE_ENDS = frozenset("!?;\u2026\u3002\uff01\uff1f\uff1b\u0964\u06d4")
_ZERO_WIDTH_JOINER = "\u200d"
# A text with at least so many tokens for each character, such as base64, is measured in characters.
_DENSE = 2 / 3
# The tokenizer reads this share of it. In chunks of fewer tokens, one token more or less would be much.
_SAMPLE = 4
_FEWEST_TOKENS = 16
_SIGN = re.compile(r"[^0-9A-Za-z(\[{<]")


def is_dense(part: str, tokens: int, token_spans: TokenSpans) -> bool:
    """Return whether ``part`` has nearly as many tokens as characters everywhere, as base64 has.

    A text in ASCII has at most one token more than it has characters. So a dense text need not be read to cut it into
    chunks of ``tokens``. The tokenizer reads a sample of each ``tokens`` characters.
    """
    if not part or tokens < _FEWEST_TOKENS or not part.isascii():
        return False
    for begin in range(0, len(part), tokens):
        sample = part[begin : begin + -(-min(tokens, len(part) - begin) // _SAMPLE)]
        spans = token_spans(sample)
        if spans is None or not _DENSE * len(sample) <= len(spans) <= len(sample) + 1:
            return False
    return True


def next_blank(text: str, begin: int) -> int:
    """Return the place of the first blank of ``text`` after ``begin``, or the end of ``text``."""
    blank = _BLANK.search(text, begin)
    return blank.start() if blank else len(text)


def dense_chunk(text: str, begin: int, tokens: int, overlap: int) -> tuple[int, int]:
    """Return where the chunk of a dense text that begins at ``begin`` ends, and where the one after it begins.

    The chunk has at most ``tokens`` tokens, and shares at most ``overlap`` of them with the next one.
    """
    stop = begin + tokens - 1
    signs = [sign.end() for sign in _SIGN.finditer(text, begin + max(tokens // 2, overlap), stop)]
    ends = [end for end in signs if text[end - 1] in _SENTENCE_ENDS] or signs
    stop = ends[-1] if ends else stop
    return stop, stop - max(overlap - 1, 0)


def unbroken_chunk(
    text: str,
    begin: int,
    length: int,
    token_spans: TokenSpans,
    count_tokens: Callable[[str], int],
    limits: tuple[int, int, int],
) -> tuple[int, int] | None:
    """Return where the chunk of ``text`` that begins at ``begin`` ends, and where the one after it begins.

    A tokenizer that begins at the same place and stops where one of its tokens ends finds the same tokens. So the
    number of tokens of a chunk is known from the text that goes on after it.

    Args:
        text: a text.
        begin: a place in it. No blank is among the characters that a chunk may have.
        length: about the number of characters of a chunk.
        token_spans: returns the first and last place of each token of a text, or None if they are not known. Then
            None is returned.
        count_tokens: returns the number of tokens of a text.
        limits: the greatest number of tokens of a chunk, of tokens that neighbours share, and of characters of a chunk.
    """
    tokens, overlap, longest = limits
    # A little more than a chunk, so that one reading is enough for most chunks.
    length = max(length * 5 // 4, tokens)
    while True:
        part = text[begin : begin + min(length, longest)]
        spans = token_spans(part)
        if spans is None:
            return None
        if len(spans) > tokens or length >= longest:
            stop = begin + _end(part, spans, count_tokens, tokens)
            return stop, _next_begin(text, begin, stop, spans, count_tokens, overlap)
        length *= 2


def _end(part: str, spans: Sequence[tuple[int, int]], count_tokens: Callable[[str], int], tokens: int) -> int:
    """Return the place where a chunk of at most ``tokens`` tokens ends that begins with ``part``."""
    if len(spans) <= tokens:
        return len(part)
    after_sign = after_token = None
    for last in range(tokens - 1, -1, -1):
        stop = spans[last][1]
        # A token may be a part of one character. All tokens of this character are in the chunk, or none.
        if stop > spans[last + 1][0] or stop == 0:
            continue
        sign = part[stop - 1]
        if last >= tokens // 2 and sign in _SENTENCE_ENDS:
            return stop
        is_sign = after_sign is None and not sign.isalnum()
        if (is_sign or after_token is None) and not _is_inside_of_letter(part, stop):
            after_sign = stop if is_sign else after_sign
            after_token = after_token or stop
        if after_token and last < tokens // 2:
            break
    if place := after_sign or after_token:
        return place
    # Each token shares a character with the next one, or a letter has hundreds of accents.
    place = max(spans[tokens - 1][1], 1)
    while place > 1 and count_tokens(part[:place]) > tokens:
        place -= 1
    return place


def _next_begin(
    text: str,
    begin: int,
    stop: int,
    spans: Sequence[tuple[int, int]],
    count_tokens: Callable[[str], int],
    overlap: int,
) -> int:
    """Return where the chunk after the one from ``begin`` to ``stop`` begins. They share at most ``overlap`` tokens."""
    last = bisect_right(spans, stop - begin, key=lambda span: span[1])
    first = max(last - overlap, 1)
    while first < last:
        place = begin + spans[first][0]
        if place == begin or _is_inside_of_letter(text, place):
            first += 1
            continue
        # A word of which the beginning is missing can have more tokens.
        surplus = count_tokens(text[place:stop]) - overlap
        if surplus <= 0:
            return place
        first += surplus
    return stop


def _is_inside_of_letter(text: str, place: int) -> bool:
    """Return whether the character at ``place`` belongs to the one before it, as an accent or a part of an emoji."""
    if not 0 < place < len(text):
        return False
    after = text[place]
    return unicodedata.category(after)[0] == "M" or _ZERO_WIDTH_JOINER in (after, text[place - 1])

"""`TokenPlaces`: the number of tokens of any part of a text, from the places of the tokens of the whole text.

To split a text, thousands of parts of it are measured. A tokenizer that reads each of them reads every word twenty
times. Here it reads the text once. Only the ends of a part are read again, because a tokenizer may cut a word into
other tokens if the word itself is cut.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence

# The first and last place of a token.
_Span = tuple[int, int]
# First and last place of each token in a text. None if they are not known.
TokenSpans = Callable[[str], Sequence[_Span] | None]
_BLANK = re.compile(r"\s")
# At an end of a part, at least this number of characters is read again, up to where a word or a token ends.
_END = 16
# A word that ends there has at most this number of characters. Of longer words, no model knows more than pieces.
_WORD = 48
# The rest of a longer token is not read again. Such a token stands for an unknown word, and so does its rest.
_LONG = 256
# A count is exact if the places give a number this near to a limit. The ends change a count by less in most texts.
_NEAR = 8
# At least this number of characters is read at once, so that an encoder can use all cores.
_AHEAD = 32_000


def _start_of(span: _Span) -> int:
    return span[0]


def _stop_of(span: _Span) -> int:
    return span[1]


class TokenReader:
    """Finds the places of the tokens of one text, window by window. It reads ahead, and each word only once.

    Args:
        text: the text.
        token_spans: returns the first and last place of each token of a text.
    """

    def __init__(self, text: str, token_spans: TokenSpans) -> None:
        self._text, self._token_spans = text, token_spans
        self._spans: list[_Span] = []
        self._begin = self._stop = 0  # what was read

    def spans(self, begin: int, stop: int) -> list[_Span] | None:
        """Return the places of the tokens of the text from ``begin`` to ``stop``. The place of ``begin`` is 0.

        Return None if the places are not known.
        """
        stop = min(stop, len(self._text))
        if not (self._starts_token(begin) or self._read_rest_of_word(begin)):
            self._spans, self._begin, self._stop = [], begin, begin
        if stop > self._stop:
            blank = self._last_blank(begin, self._stop)
            ahead = min(max(stop, blank + _AHEAD), len(self._text))
            found = self._token_spans(self._text[blank:ahead])
            if found is None:
                return None
            self._keep(begin, blank, ((blank + start, blank + end) for start, end in found))
            self._stop = ahead
        first = bisect_right(self._spans, begin, key=_stop_of)
        last = bisect_left(self._spans, stop, key=_start_of)
        return [(start - begin, min(end, stop) - begin) for start, end in self._spans[first:last]]

    def _starts_token(self, begin: int) -> bool:
        """Return whether ``begin`` was read, and is not inside of a token."""
        first = bisect_right(self._spans, begin, key=_stop_of)
        is_read = self._begin <= begin < self._stop
        return is_read and first < len(self._spans) and self._spans[first][0] >= begin

    def _read_rest_of_word(self, begin: int) -> bool:
        """Read the rest of the word in which ``begin`` is. Return False if what follows it was not read."""
        blank = _BLANK.search(self._text, begin, self._stop) if self._begin <= begin else None
        found = self._token_spans(self._text[begin : blank.start()]) if blank else None
        if blank is None or found is None:
            return False
        after = self._spans[bisect_right(self._spans, blank.start(), key=_stop_of) :]
        self._spans = [*((begin + start, begin + end) for start, end in found), *after]
        self._begin = begin
        return True

    def _keep(self, begin: int, blank: int, found: Iterable[_Span]) -> None:
        """Keep the tokens from ``begin`` to ``blank``, and after them those that were ``found``."""
        first = bisect_right(self._spans, begin, key=_stop_of)
        self._spans = [*self._spans[first : bisect_right(self._spans, blank, key=_stop_of)], *found]
        self._begin = begin

    def _last_blank(self, begin: int, stop: int) -> int:
        """Return the place of the blanks before the last word from ``begin`` to ``stop``, or ``begin``.

        The last word may be cut at ``stop``. The blanks are read again with it: some tokenizers make them a part of it.
        """
        words = self._text[begin:stop].rsplit(maxsplit=1)
        return begin + len(words[0]) if len(words) == 2 else begin


class TokenPlaces:
    """Counts the tokens of parts of one text.

    Args:
        text: the text.
        spans: the first and last place of each token of the text.
        count_tokens: returns the number of tokens of a text.
        limits: numbers of tokens that counts are compared with. Counts are exact in their neighbourhood.
        joined: the text as `count` gets parts of it, with other characters for some of the blanks.
    """

    def __init__(
        self,
        text: str,
        spans: Sequence[_Span],
        count_tokens: Callable[[str], int],
        limits: Sequence[int],
        joined: str,
    ) -> None:
        self._text, self._joined = text, joined
        self._starts = [start for start, _ in spans]
        self._stops = [stop for _, stop in spans]
        self._count_tokens = count_tokens
        self._limits = limits
        self._counts: dict[str, int] = {}
        self._changes: dict[int, int] = {}

    def count(self, part: str) -> int:
        """Return the number of tokens of ``part``, which is a part of ``joined``. Blanks at its ends do not count."""
        begin = self._joined.find(part)
        stop = begin + len(part.rstrip())
        begin += len(part) - len(part.lstrip())
        if begin >= stop:
            return 0
        rough = self._between(begin, stop)
        cut = self._is_in_unknown_word(begin) or self._is_in_unknown_word(stop)
        if not cut and all(abs(rough - limit) > _NEAR for limit in self._limits):
            return rough
        again = stop if self._is_end_of_token(stop) else self._before(stop)
        if again <= self._after(begin):
            return self._again(begin, stop) if stop - begin <= _LONG else rough
        count = self._between(begin, again) + self._change(begin)
        if again < stop:
            count += self._again(again, stop) - self._change(again)
        return count

    def certain_count(self, begin: int, stop: int) -> int | None:
        """Return the number of tokens of this part of the text. Return None if it must be read to know the number.

        The number is certain if the part ends where a token ends, and if it begins where a word begins or a word ends
        where its beginning was read again. There, it has as many tokens as in the whole text, or one more or less for a
        blank that a tokenizer puts before each text.
        """
        change = self._change(begin)
        if not self._is_end_of_token(stop) or abs(change) > 1:
            return None
        if change == 0 and (begin == 0 or self._text[begin - 1].isspace()):
            return self._between(begin, stop)
        after = self._after(begin)
        if not self._is_end_of_word(after):  # the rest of a long word is read, too
            blank = _BLANK.search(self._text, after, min(stop, begin + _LONG))
            if blank is None:
                return None
            after = blank.start()
            change = self._again(begin, after) - self._between(begin, after)
        return self._between(begin, stop) + change if after <= min(stop, begin + _LONG) else None

    def _between(self, begin: int, stop: int) -> int:
        """Return the number of tokens of the whole text that have a character from ``begin`` to ``stop``."""
        return bisect_left(self._starts, stop) - bisect_right(self._stops, begin)

    def _change(self, begin: int) -> int:
        """Return how many tokens more there are if the text begins at ``begin``."""
        if begin not in self._changes:
            stop = self._after(begin)
            known = stop - begin > _LONG
            self._changes[begin] = 0 if known else self._again(begin, stop) - self._between(begin, stop)
        return self._changes[begin]

    def _after(self, begin: int) -> int:
        """Return a place after ``begin`` where a word ends, or else a token."""
        blank = _BLANK.search(self._text, begin + _END, begin + _WORD)
        if blank:
            return blank.start()
        token = bisect_left(self._stops, begin + _END)
        return self._stops[token] if token < len(self._stops) else len(self._text)

    def _before(self, stop: int) -> int:
        """Return a place before ``stop`` where a word begins, or else a token. Return ``stop`` in a long token."""
        blank = _BLANK.search(self._text, max(stop - _WORD, 0), max(stop - _END, 0))
        if blank:
            return blank.end()
        token = bisect_right(self._starts, stop - _END) - 1
        start = self._starts[token] if token >= 0 else 0
        return start if stop - start <= _LONG else stop

    def _is_in_unknown_word(self, place: int) -> bool:
        """Return whether ``place`` is in a token that is so long that it can be many tokens if it is cut."""
        token = bisect_right(self._starts, place) - 1
        return token >= 0 and self._starts[token] + _WORD < self._stops[token] > place > self._starts[token]

    def _is_end_of_word(self, place: int) -> bool:
        return place == len(self._text) or self._text[place].isspace()

    def _is_end_of_token(self, place: int) -> bool:
        """Return whether a token ends at ``place``. A tokenizer that stops there finds the same tokens before it."""
        before = bisect_left(self._starts, place) - 1
        return before < 0 or self._stops[before] <= place

    def _again(self, begin: int, stop: int) -> int:
        part = self._text[begin:stop]
        if part not in self._counts:
            self._counts[part] = self._count_tokens(part)
        return self._counts[part]

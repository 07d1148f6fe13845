"""Citations in the answer of a language model: the passages that it cites, and the numbers that belong to no passage.

| in the answer | cites |
|---|---|
| ``[2]`` | 2 |
| ``[1][3]`` | 1 and 3 |
| ``[1, 3]``, ``[1; 3]``, ``[1 and 3]`` | 1 and 3 |
| ``[1-3]``, also with a longer dash | 1, 2 and 3 |

Blanks do not matter. A number has at most three digits, so ``[1998]`` is a year.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator

# Mark behind a number that belongs to no passage, so that nobody looks for the passage: [9?].
MARK = "?"
_DASH = "[-\u2010-\u2015\u2212]"
_SEPARATOR = r"(?:[,;&\u3001\uff0c](?:\s*and\b)?|and\b)"  # also those of Chinese and Japanese
_NUMBER = r"(?<![0-9])[0-9]{1,3}(?![0-9])\??"
_PART = rf"{_NUMBER}(?:\s*{_DASH}\s*{_NUMBER})?"
_CITATION = re.compile(rf"\[\s*{_PART}(?:\s*{_SEPARATOR}\s*{_PART})*\s*\]")
# The end of a piece, if it may be the beginning of a citation.
_BEGINNING = re.compile(rf"\[(?:[0-9?\s]|{_DASH}|{_SEPARATOR})*(?:an?)?\Z")


def cited_numbers(text: str) -> list[int]:
    """Return the numbers that ``text`` cites, each once, in ascending order.

    >>> cited_numbers("The pump [2] needs oil [1, 4-6].")
    [1, 2, 4, 5, 6]
    """
    numbers: set[int] = set()
    for citation in _CITATION.findall(text):
        for part in re.findall(_PART, citation):
            ends = [int(number) for number in re.findall("[0-9]+", part)]
            numbers.update(range(min(ends), max(ends) + 1))
    return sorted(numbers)


def unknown_numbers(text: str, passages: int) -> list[int]:
    """Return the numbers that ``text`` cites and that belong to no passage. ``passages`` is the number of passages.

    >>> unknown_numbers("The pump [2] needs oil [9?].", 8)
    [9]
    """
    return [number for number in cited_numbers(text) if not 1 <= number <= passages]


def mark_unknown(text: str, passages: int) -> str:
    """Return ``text`` with a mark behind each cited number that belongs to no passage.

    ``passages`` is the number of passages.

    >>> mark_unknown("The pump [2] needs oil [1, 9].", 8)
    'The pump [2] needs oil [1, 9?].'
    """

    def marked(number: re.Match[str]) -> str:
        is_known = 1 <= int(number[1]) <= passages
        return number[0] if is_known else number[1] + MARK

    return _CITATION.sub(lambda citation: re.sub(r"([0-9]+)\??", marked, citation[0]), text)


class Marker:
    """Does the same as `mark_unknown`, for an answer that comes in pieces. A citation may be split over several
    pieces.

    >>> marker = Marker(8)
    >>> [marker.feed("Oil [1, "), marker.feed("9] and"), marker.rest()]
    ['Oil ', '[1, 9?] and', '']
    """

    def __init__(self, passages: int) -> None:
        self._passages = passages
        self._held = ""

    def feed(self, piece: str) -> str:
        """Return the text that can be shown after ``piece`` has arrived. The beginning of a citation is held back."""
        text = self._held + piece
        beginning = _BEGINNING.search(text)
        end = beginning.start() if beginning else len(text)
        self._held = text[end:]
        return mark_unknown(text[:end], self._passages)

    def rest(self) -> str:
        """Return the text that is still held back when the answer has ended."""
        rest, self._held = self._held, ""
        return rest

    def mark(self, pieces: Iterable[str]) -> Iterator[str]:
        """Yield ``pieces`` with marks."""
        for piece in pieces:
            if shown := self.feed(piece):
                yield shown
        if rest := self.rest():
            yield rest

    async def amark(self, pieces: AsyncIterable[str]) -> AsyncIterator[str]:
        """Do the same as `mark`, for pieces that come from an asynchronous iterator."""
        async for piece in pieces:
            if shown := self.feed(piece):
                yield shown
        if rest := self.rest():
            yield rest

"""`Splitter`: splits a text of any length and shape in a time that grows with the length alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from smart_rag.files.chunking.token_places import TokenPlaces, TokenReader, TokenSpans
from smart_rag.files.chunking.unbroken import dense_chunk, is_dense, next_blank, unbroken_chunk

# The number of characters of a chunk for each token that it may have. Prose has four to six. Texts with more are blanks
# or words that the model does not know. A file in base64 is a single token for some models.
CHARACTERS_PER_TOKEN = 16
# The number of chunks in a window, and the number of the last ones that are not used.
_WINDOW = 12
_UNSURE = 2

# The first and last place of a chunk, with the blanks around it.
_Found = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Window:
    """A part of a text, as it is and as the library sees it."""

    text: str
    joined: str
    is_last: bool

    def part(self, part: str) -> str:
        """Return ``part``, which the library sees, as it is."""
        if self.joined is self.text:
            return part
        begin = self.joined.find(part)
        return self.text[begin : begin + len(part)]


class Splitter:
    """Splits texts into chunks of at most ``tokens`` tokens, and of at most 16 times as many characters.

    Chunks end at paragraphs, sentences or words where possible. Neighbouring chunks share up to ``overlap`` tokens.
    semantic-text-splitter does the work.

    Args:
        count_tokens: returns the number of tokens of a text.
        tokens: the limit.
        overlap: the most tokens that neighbours share.
        token_spans: returns the first and last place of each token of a text. If it is given, the tokenizer reads a
            text once or twice, and not again for each part of it.
    """

    def __init__(
        self, count_tokens: Callable[[str], int], tokens: int, overlap: int, token_spans: TokenSpans | None = None
    ) -> None:
        self._count_tokens = count_tokens
        self._tokens, self._overlap = tokens, overlap
        self._token_spans = token_spans
        self._longest = tokens * CHARACTERS_PER_TOKEN

    def chunks(self, text: str, joined: str | None = None) -> Iterator[str]:
        """Yield the chunks of a text. ``joined`` is the text, of the same length, as the library shall see it.

        For each chunk, the library looks at all of the text that follows, so its time would grow with the square of the
        length. So it gets the text window by window. The last chunks of a window are not used, since they could be
        others with the text that follows. The next window begins where the first of them begins.
        """
        joined = text if joined is None else joined
        begin = last = blank = 0
        length = _WINDOW * self._tokens
        reader = None if self._token_spans is None else TokenReader(text, self._token_spans)
        while begin < len(text):
            blank = blank if blank > begin else next_blank(text, begin)
            if blank - begin >= self._longest:
                # Tokens at the end of the last chunk may be other tokens where a dense text begins.
                shorter = max(begin, last - max(self._overlap - 1, 0))
                dense = self._is_dense(text[shorter : shorter + self._tokens])
                begin = shorter if dense else begin
                unbroken = self._unbroken_chunk(text, begin, length // _WINDOW, dense)
                if unbroken and unbroken[0] <= last:  # the chunk before ends with words that are one token only there
                    begin = last
                    continue
                if unbroken:
                    last, following = unbroken
                    yield text[begin:last]
                    length = max(last - begin, self._tokens) * _WINDOW
                    begin = following
                    continue
            stop = begin + length
            window = _Window(text[begin:stop], joined[begin:stop], is_last=stop >= len(text))
            sure, rest = self._split_window(window, None if reader is None else reader.spans(begin, stop))
            if not sure:
                length *= 2
                continue
            for start, end in sure:
                chunk = window.text[start:end]
                if begin + start + len(chunk.rstrip()) > last and chunk.strip():
                    yield chunk.strip()
                    last = begin + start + len(chunk.rstrip())
            begin += rest
            length = min(max(rest // len(sure), self._tokens), self._longest) * _WINDOW

    def _is_dense(self, part: str) -> bool:
        return self._token_spans is not None and is_dense(part, self._tokens, self._token_spans)

    def _unbroken_chunk(self, text: str, begin: int, length: int, dense: bool) -> tuple[int, int] | None:
        """Return where the chunk that begins at ``begin`` ends and where the next one begins. No blank is in them."""
        if self._token_spans is None:
            return None
        if dense:
            return dense_chunk(text, begin, self._tokens, self._overlap)
        if length == self._tokens and text[begin : begin + length].isascii():
            length *= 2  # the chunk before was dense. This one has fewer tokens, so more must be read for it
        limits = (self._tokens, self._overlap, self._longest)
        return unbroken_chunk(text, begin, length, self._token_spans, self._count_tokens, limits)

    def _split_window(self, window: _Window, spans: Sequence[tuple[int, int]] | None) -> tuple[list[_Found], int]:
        """Return the chunks of a window that are sure, and the place where the next window begins."""
        if spans is not None:
            limits = (self._tokens, self._overlap)
            places = TokenPlaces(window.text, spans, self._count_tokens, limits, window.joined)
            sure, rest = self._sure(window, places.count)
            if self._fits(window.text, sure, places):
                return sure, rest
        # A part of a word can have more tokens than its places say.
        sure, rest = self._sure(window, lambda part: self._count_tokens(window.part(part)))
        for i, (start, end) in enumerate(sure):
            stop = self._shorter(window.text, start, end)
            if stop < end:
                return [*sure[:i], (start, stop)], stop
        return sure, rest

    def _shorter(self, text: str, start: int, end: int) -> int:
        """Return where the chunk from ``start`` to ``end`` must end. The library exceeds the limit in some long words.

        It does so if the beginning of a chunk has one token more than it has characters.
        """
        stop = end
        while len(text[start:stop].strip()) > 1 and self._count_tokens(text[start:stop].strip()) > self._tokens:
            stop -= 1
        return stop

    def _sure(self, window: _Window, measure: Callable[[str], int]) -> tuple[list[_Found], int]:
        found = self._split(window.joined, measure)
        count = len(found) if window.is_last else max(len(found) - _UNSURE, 0)
        return found[:count], found[count][0] if count < len(found) else len(window.text)

    def _split(self, joined: str, measure: Callable[[str], int]) -> list[_Found]:
        from semantic_text_splitter import TextSplitter

        def size(part: str) -> int:
            if len(part) > self._longest:
                return self._tokens + 1
            return max(measure(part), -(-len(part) // CHARACTERS_PER_TOKEN))

        splitter = TextSplitter.from_callback(size, self._tokens, overlap=self._overlap, trim=False)
        return [(start, start + len(chunk)) for start, chunk in splitter.chunk_indices(joined)]

    def _fits(self, text: str, found: list[_Found], places: TokenPlaces) -> bool:
        """Return whether chunks of ``text`` and what they share are within the limits."""
        shared = [(start, end) for (_, end), (start, _) in pairwise(found)]
        for parts, limit in ((found, self._tokens), (shared, self._overlap)):
            for start, end in parts:
                part = text[start:end]
                start += len(part) - len(part.lstrip())
                end -= len(part) - len(part.rstrip())
                if start >= end:
                    continue
                count = places.certain_count(start, end)
                if (self._count_tokens(text[start:end]) if count is None else count) > limit:
                    return False
        return True

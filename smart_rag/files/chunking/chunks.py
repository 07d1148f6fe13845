"""Chunks: parts of a page that are short enough to be encoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from smart_rag.config import IndexConfig
from smart_rag.files.chunking.layout import parts_of
from smart_rag.files.chunking.splitter import CHARACTERS_PER_TOKEN, Splitter
from smart_rag.files.chunking.token_places import TokenSpans
from smart_rag.files.formats.page import Page

# The number of lines of a text from which it is told how many tokens more its chunks have below a header.
_SAMPLES = 8
# The most characters of a header and of a text that are read for this.
_WORDS = 64


class Chunker:
    """Splits pages into chunks of at most ``config.chunk_tokens`` tokens. Chunks end at sentences where possible.

    Neighbouring chunks of a page share up to ``config.chunk_overlap`` tokens. A chunk has at most 16 characters for
    each token that it may have.

    Args:
        count_tokens: returns the number of tokens of a text.
        config: the settings of the index.
        token_spans: returns the first and last place of each token of a text; see `Splitter`.
    """

    def __init__(
        self, count_tokens: Callable[[str], int], config: IndexConfig, token_spans: TokenSpans | None = None
    ) -> None:
        self._count_tokens = count_tokens
        self._config = config
        self._token_spans = token_spans

    def split(self, pages: Iterable[Page], suffix: str = "") -> Iterator[Page]:
        """Yield the chunks of each page, in order, as pages with the same number and image.

        Each chunk begins with the header of its page. A header that takes more than half of a chunk is only in the
        first chunks. What a page left out comes with its first chunk, or with a page without text if it has no chunk.

        Args:
            pages: the pages of a file.
            suffix: the suffix of the file, such as ``".md"``. Markdown and source code are cut where their parts end.
        """
        for page in pages:
            left_out = page.left_out
            for text in self._chunks(page, suffix):
                yield replace(page, text=text, left_out=left_out)
                left_out = ()
            if left_out:
                yield replace(page, text="", left_out=left_out)

    def _chunks(self, page: Page, suffix: str) -> Iterator[str]:
        for part in parts_of(page.text, suffix, lambda text: self._fits(text, self._config.chunk_tokens)):
            header, text, joined = page.header + part.header, part.text, part.joined
            if header and not self._fits(header, self._config.chunk_tokens // 2):
                header, text, joined = "", header + text, header + joined
            if header:
                yield from self._below(header, text, joined)
            else:
                yield from self._splitter(self._config.chunk_tokens).chunks(text, joined)

    def _below(self, header: str, text: str, joined: str) -> Iterator[str]:
        """Yield the chunks of ``text``, each below ``header``.

        Some tokenizers put a blank before each text. Below a header, the same chunk can be a few tokens more.
        """
        lines = text.splitlines()
        samples = lines[:: max(len(lines) // _SAMPLES, 1)][:_SAMPLES]
        more = max((self._more_below(header, line) for line in samples), default=0)
        tokens = max(self._config.chunk_tokens - self._count_tokens(header) - max(more, 0), 1)
        for chunk in self._splitter(tokens).chunks(text, joined):
            yield from self._chunks_that_fit(header, chunk, tokens)

    def _chunks_that_fit(self, header: str, chunk: str, tokens: int) -> Iterator[str]:
        """Yield ``chunk``, which has at most ``tokens``, below ``header``, in parts if both together are too long."""
        whole = f"{header}{chunk}"
        most = self._config.chunk_tokens
        excess = self._count_tokens(whole) - most if self._more_below(header, chunk) > 0 else 0
        if excess <= 0:
            yield whole
        elif excess >= tokens:
            yield chunk
        else:
            for part in self._splitter(tokens - excess).chunks(chunk):
                yield from self._chunks_that_fit(header, part, tokens - excess)

    def _more_below(self, header: str, text: str) -> int:
        """Return how many tokens more ``text`` is below ``header``. The words where they meet tell it."""
        last = header[-_WORDS:]
        last = last[last.rstrip().rfind(" ") + 1 :]
        blank = text.find(" ", _WORDS // 4, _WORDS)
        first = text[: _WORDS if blank < 0 else blank]
        return self._count_tokens(f"{last}{first}") - self._count_tokens(last) - self._count_tokens(first)

    def _fits(self, text: str, tokens: int) -> bool:
        return len(text) <= tokens * CHARACTERS_PER_TOKEN and self._count_tokens(text) <= tokens

    def _splitter(self, tokens: int) -> Splitter:
        return Splitter(self._count_tokens, tokens, min(self._config.chunk_overlap, tokens - 1), self._token_spans)

"""Chunks: parts of a page that are short enough to be encoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from smart_rag.config import IndexConfig
from smart_rag.files.chunking.layout import parts_of
from smart_rag.files.chunking.splitter import CHARACTERS_PER_TOKEN, Splitter
from smart_rag.files.chunking.token_places import TokenSpans
from smart_rag.files.formats.page import Page


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
            for chunk in self._splitter(header).chunks(text, joined):
                yield f"{header}{chunk}"

    def _fits(self, text: str, tokens: int) -> bool:
        return len(text) <= tokens * CHARACTERS_PER_TOKEN and self._count_tokens(text) <= tokens

    def _splitter(self, header: str) -> Splitter:
        """Return a splitter for chunks that begin with ``header``."""
        tokens = self._config.chunk_tokens - (self._count_tokens(header) if header else 0)
        return Splitter(self._count_tokens, tokens, min(self._config.chunk_overlap, tokens - 1), self._token_spans)

"""Chunks: parts of a page that are short enough to be encoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from smart_rag.config import IndexConfig
from smart_rag.files.formats.page import Page


class Chunker:
    """Splits pages into chunks of at most ``config.chunk_tokens`` tokens. Chunks end at sentences where possible.

    Neighbouring chunks of a page share up to ``config.chunk_overlap`` tokens. semantic-text-splitter does the work.

    Args:
        count_tokens: returns the number of tokens of a text.
        config: the settings of the index.
    """

    def __init__(self, count_tokens: Callable[[str], int], config: IndexConfig) -> None:
        from semantic_text_splitter import TextSplitter

        self._splitter = TextSplitter.from_callback(count_tokens, config.chunk_tokens, overlap=config.chunk_overlap)

    def split(self, pages: Iterable[Page]) -> Iterator[Page]:
        """Yield the chunks of each page, in order, as pages with the same number and image.

        Each chunk begins with the header of its page. What a page left out comes with its first chunk, or with a page
        without text if it has no chunk.
        """
        for page in pages:
            left_out = page.left_out
            for text in self._splitter.chunks(page.text):
                yield replace(page, text=f"{page.header}{text}", left_out=left_out)
                left_out = ()
            if left_out:
                yield replace(page, text="", left_out=left_out)

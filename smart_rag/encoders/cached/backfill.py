"""`Backfill`: one call of `CachedEncoder.add`. It reads any number of documents in bounded memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from itertools import islice

from smart_rag.errors import DocumentError, InvalidInput
from smart_rag.progress import Progress
from smart_rag.reports import BackfillReport
from smart_rag.types import Content, Document, Encodable, Key
from smart_rag.values import is_unicode
from smart_rag.wording import number

logger = logging.getLogger(__name__)

# Number of documents that are encoded and written together. If the process is killed, at most one such batch is lost.
_BATCH = 256
# The same for images and videos. An image can have a thousand tokens.
_VISUAL_BATCH = 8
# Number of documents that a warning names.
_NAMED = 10
# Seconds between two lines of the log.


class Backfill:
    """State of one call. Each instance is for one call only.

    Args:
        modalities: the kinds of content that the encoder reads.
        key: returns the storage key of a content.
        missing: returns the positions of the keys that are not stored.
        store: encodes items, and stores them under keys.
    """

    def __init__(
        self,
        modalities: frozenset[str],
        key: Callable[[Content], Key],
        missing: Callable[[Sequence[Key]], Sequence[int]],
        store: Callable[[Sequence[Key], Sequence[Encodable]], object],
    ) -> None:
        self._modalities = modalities
        self._key = key
        self._missing = missing
        self._store = store
        self._seen = 0
        self._added = 0
        self._left_out = 0
        self._reasons: list[tuple[str, str]] = []

    def add(
        self, documents: Iterable[Encodable | Document], total: int | None, show_progress_bar: bool
    ) -> BackfillReport:
        """Encode and store the ``documents`` that are not yet stored. Return the counts of documents."""
        if isinstance(documents, str):
            raise InvalidInput("expected several documents, got one str; pass a list")
        if total is None and isinstance(documents, Sized):
            total = len(documents)
        waiting: dict[Key, tuple[str, Content]] = {}
        with Progress(total, "encoding", "document", show_progress_bar) as progress:
            for window in _windows(self._encodable(documents)):
                keyed = self._keyed(window)
                keys = list(keyed)
                waiting |= {keys[i]: keyed[keys[i]] for i in self._missing(keys)}
                progress.reached(self._seen - len(waiting))
                while len(waiting) >= (size := _batch_size(content for _, content in waiting.values())):
                    part = list(islice(waiting.items(), size))
                    self._encode(part)
                    for key, _ in part:
                        del waiting[key]
                    progress.reached(self._seen - len(waiting))
            self._encode(list(waiting.items()))
            progress.reached(self._seen)
        self._warn()
        unchanged = self._seen - self._added - self._left_out
        return BackfillReport(self._added, unchanged, self._left_out, tuple(self._reasons))

    def _encodable(self, documents: Iterable[Encodable | Document]) -> Iterator[tuple[str, Content]]:
        """Yield the name and the content of each document that has content to encode."""
        for item in documents:
            name = item.id if isinstance(item, Document) else f"position {self._seen}"
            self._seen += 1
            content = item.content(self._modalities) if isinstance(item, Document) else Content.of(item)
            if not content.modality:
                self._leave_out(name, "no text")
            elif not is_unicode(content.text):
                self._leave_out(name, "its text holds a lone surrogate")
            else:
                yield name, content

    def _keyed(self, window: Iterable[tuple[str, Content]]) -> dict[Key, tuple[str, Content]]:
        keyed = {}
        for name, content in window:
            try:
                keyed[self._key(content)] = name, content
            except DocumentError as error:
                self._leave_out(name, str(error))
        return keyed

    def _encode(self, part: Sequence[tuple[Key, tuple[str, Content]]]) -> None:
        """Encode and store ``part``. A document whose file cannot be read is left out."""
        if not part:
            return
        try:
            self._store([key for key, _ in part], [content.plain for _, (_, content) in part])
            self._added += len(part)
        except DocumentError as error:
            if len(part) == 1:
                self._leave_out(part[0][1][0], str(error))
                return
            for single in part:
                self._encode([single])

    def _leave_out(self, name: str, reason: str) -> None:
        self._left_out += 1
        if len(self._reasons) < _NAMED:
            self._reasons.append((name, reason))

    def _warn(self) -> None:
        if self._left_out:
            more = self._left_out - len(self._reasons)
            logger.warning(
                "%s left out: %s%s",
                "1 document was" if self._left_out == 1 else f"{number(self._left_out, 'document')} were",
                "; ".join(f"{name}: {reason}" for name, reason in self._reasons),
                f"; and {more} more" if more else "",
            )


def _windows(documents: Iterable[tuple[str, Content]]) -> Iterator[list[tuple[str, Content]]]:
    """Yield parts of ``documents`` that fit into memory."""
    window: list[tuple[str, Content]] = []
    for named in documents:
        window.append(named)
        if len(window) >= _BATCH or (named[1].modality != "text" and len(window) >= _VISUAL_BATCH):
            yield window
            window = []
    yield window


def _batch_size(contents: Iterable[Content]) -> int:
    return _BATCH if all(content.modality == "text" for content in contents) else _VISUAL_BATCH

"""`ServedIndex`: one index of a server. All its work is done outside of the event loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, TypeVar

from smart_rag.embeddings.representation import Representation
from smart_rag.encoders.protocol import device_of
from smart_rag.errors import IndexLocked
from smart_rag.index.manifest import Manifest
from smart_rag.index.queries import checked_queries
from smart_rag.index.smart_index import SmartIndex, encode_texts
from smart_rag.index.stopwatch import Stopwatch
from smart_rag.serving.batcher import Batcher
from smart_rag.serving.metrics import Metrics
from smart_rag.serving.problems import Refused
from smart_rag.serving.settings import ServerSettings
from smart_rag.threads import in_reader_thread, in_writer_thread
from smart_rag.types import Document, Hit
from smart_rag.values import is_unicode
from smart_rag.wording import number

T = TypeVar("T")

# On a CPU, larger batches cost more by their padding than they save. With MiniLM, 32 questions of 8 to 37 tokens took a
# third less time in batches of 4 or 8 than one by one, and more in one batch.
_BATCH_ON_CPU = 8
_BATCH_ON_GPU = 64
# Seconds between two tries to write while another process writes.
_PAUSE = 0.05


@dataclass(frozen=True, slots=True)
class Found:
    """The hits of one query, the documents around each, and whether their relevance is known."""

    hits: list[Hit]
    around: list[list[Document]]
    has_relevance: bool


class ServedIndex:
    """An index with a name. Queries that arrive together are encoded together.

    Args:
        name: the name of the index in addresses.
        index: the index. It only reads. Writes use a copy of it that is closed after each write, so that other
            workers and other programs can write, too.
        settings: the settings of the server.
        metrics: the counts of the server.
    """

    def __init__(self, name: str, index: SmartIndex, settings: ServerSettings, metrics: Metrics) -> None:
        self.name = name
        self.index = index
        self._settings = settings
        is_on_cpu = index.manifest.encoder is None or device_of(index.encoder) == "cpu"
        most = settings.max_batch or (_BATCH_ON_CPU if is_on_cpu else _BATCH_ON_GPU)
        window, count = settings.batch_window / 1e3, metrics.count_encoded
        self._queries = Batcher(index.encode_queries, window, most, count)
        self._texts = Batcher(lambda texts: encode_texts(index, texts), window, most, count)

    async def encode_queries(self, queries: Sequence[str]) -> Representation:
        """Return the representation of ``queries``.

        Raises:
            InvalidInput: a query is empty.
            Refused: there are too many queries, or one of them is too long.
        """
        self.check_number(len(queries), "query")
        for query in queries:
            if len(query) > self._settings.max_query_length:
                most = number(self._settings.max_query_length, "character")
                raise Refused(422, f"a query has {number(len(query), 'character')}; at most {most} are allowed")
        checked_queries(queries, self.index.modalities)
        return await self._queries.encode(queries)

    async def encode_texts(self, texts: Sequence[str]) -> Representation:
        """Return the representation of ``texts`` as documents. It is not stored.

        Raises:
            InvalidInput: a text is empty.
            Refused: there are too many texts.
        """
        self.check_number(len(texts), "text")
        for i, text in enumerate(texts):
            if not text.strip():
                raise Refused(422, f"text {i} is empty")
            _check_unicode(text, f"text {i}")
        return await self._texts.encode(texts)

    async def search(
        self, queries: Sequence[str], top_k: int, neighbours: int, stopwatch: Stopwatch, **options: Any
    ) -> list[Found]:
        """Return what a search finds for each of ``queries``. ``options`` are arguments of `SmartIndex.search_many`.

        The relevance of the hits is known if the scale of the index is known and holds for the weights of the search.
        To find it would take seconds.
        """
        if not queries:
            return []
        with stopwatch.measure("encode"):
            encoded = await self.encode_queries(queries)

        def search() -> list[Found]:
            found = self.index.search_many(queries, top_k, encoded=encoded, stopwatch=stopwatch, **options)
            has_relevance = options["min_relevance"] is not None or (
                options["weights"] is None and options["weighting"] is None and self.index.is_calibrated
            )
            return [
                Found(hits, [hit.neighbours(neighbours) if neighbours else [] for hit in hits], has_relevance)
                for hits in found
            ]

        return await self.read(search)

    async def rerank(self, query: str, documents: Sequence[Hit | str], top_k: int | None, **options: Any) -> list[Hit]:
        """Return ``documents`` as hits, best first. ``options`` are arguments of `SmartIndex.rerank`."""
        self.check_number(len(documents), "document")
        for i, document in enumerate(documents):
            _check_unicode(document if isinstance(document, str) else document.text, f"document {i}")
        encoded = await self.encode_queries([query])
        return await self.read(lambda: self.index.rerank(query, documents, top_k, encoded=encoded, **options))

    async def read(self, function: Callable[[], T]) -> T:
        """Call ``function`` in a reader thread, and return its result."""
        return await in_reader_thread(function)

    async def write(self, function: Callable[[SmartIndex], T]) -> T:
        """Call ``function`` with an index that may write, and return its result.

        Raises:
            IndexLocked: another process writes, and does not end for some seconds.
        """
        return await in_writer_thread(self._write, function)

    async def set_weights(self, weights: tuple[float, float]) -> None:
        """Set the weights of the index, and search with them from now on.

        Raises:
            InvalidInput, IndexLocked: as for `SmartIndex.set_weights` and `write`.
        """

        def write(index: SmartIndex) -> Manifest:
            index.set_weights(weights)
            return index.manifest

        self.index.manifest = await self.write(write)  # an index that only reads does not look for new weights

    @property
    def most_bytes(self) -> int:
        """The largest body of a request in bytes."""
        return self._settings.body_bytes

    @property
    def most_hits(self) -> int:
        """The largest number of hits that a request may ask for."""
        return self._settings.max_hits

    def check_number(self, count: int, noun: str) -> None:
        """Raise `Refused` if a request has too many items. ``noun`` is what an item is."""
        most = self._settings.max_items
        if count > most:
            raise Refused(422, f"the request has {number(count, noun)}; at most {most:,} are allowed, send several")

    def check_hits(self, name: str, value: int) -> None:
        """Raise `Refused` if a request asks for too many hits or candidates. ``name`` is the name of the option."""
        if value > self._settings.max_hits:
            raise Refused(422, f"{name} must be at most {self._settings.max_hits:,}, got {value}")

    def _write(self, function: Callable[[SmartIndex], T]) -> T:
        deadline = time.monotonic() + self._settings.write_seconds
        while True:
            try:
                with copy(self.index) as writer:
                    return function(writer)
            except IndexLocked:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE)


def _check_unicode(text: str, name: str) -> None:
    """Raise `Refused` if ``text`` has half of a surrogate pair, which models cannot read. JSON can have it."""
    if not is_unicode(text):
        raise Refused(422, f"{name} holds a lone surrogate; expected Unicode")

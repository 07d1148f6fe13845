"""`SmartIndex`: pooled embeddings in Chroma, token embeddings beside them, and the search over both.

The only module that conducts the others. Tokens are written before the row that names them, and
removed after it: a document that a search can return always has its tokens, and what a crash
leaves behind is at worst an entry that `SmartIndex.vacuum` reclaims.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from smart_rag import scoring
from smart_rag._version import __version__
from smart_rag.codec import codec
from smart_rag.config import DEFAULT_CANDIDATES, DEFAULT_MODEL, DEFAULT_TOP_K, DEFAULT_WEIGHTS, IndexConfig
from smart_rag.encoder import Encoder, SmartEncoder
from smart_rag.errors import (
    DimensionMismatch,
    IndexClosed,
    IndexExists,
    IndexLocked,
    IndexMismatch,
    InvalidInput,
    MissingTokens,
)
from smart_rag.manifest import Manifest
from smart_rag.pooled_index import FileStamp, PooledIndex, Row, Where, check_metadata
from smart_rag.stopwatch import Stopwatch
from smart_rag.token_store import Key, TokenStore, content_key
from smart_rag.types import AddReport, Document, Hit, Representation, TokenBatch

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

logger = logging.getLogger(__name__)

OnCommit = Callable[[Sequence[str]], None]

# A stream is read in windows, sorted by length within each, and committed in batches: memory
# holds one window of texts and one batch of token embeddings.
_WINDOW = 2_048
_BATCH = 128
# Documents whose tokens are in memory at once during an exhaustive scan.
_SCAN = 256


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """What an index holds and what it was made with; sizes in bytes on disk."""

    path: str
    documents: int
    tokens: int
    token_bytes: int
    pooled_bytes: int | None
    manifest: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Documents whose tokens are missing or damaged, and how many entries no document names."""

    missing: tuple[str, ...]
    damaged: tuple[str, ...]
    orphans: int
    repaired: int = 0

    @property
    def sound(self) -> bool:
        """Whether every document can be scored."""
        return len(self.missing) + len(self.damaged) == self.repaired


class SmartIndex:
    """An index in one folder, which can be moved, copied and opened elsewhere.

    >>> with SmartIndex.create("my.index", encoder="minilm") as index:    # doctest: +SKIP
    ...     index.add_texts(["The cat sat on the mat.", "Dogs bark at night."])
    ...     index.search("Which animal barks?", top_k=1)[0].text
    'Dogs bark at night.'

    Make one with `create`, `open` or `from_embeddings`. Any number of processes may search; one
    at a time may write, from its first write until it closes the index. Threads may share one.
    """

    def __init__(
        self, path: Path, manifest: Manifest, pooled: PooledIndex, tokens: TokenStore, encoder: Encoder | None
    ) -> None:
        self.path = path
        self.manifest = manifest
        self._pooled = pooled
        self._tokens = tokens
        self._encoder = encoder
        self._mutex = threading.RLock()
        self._lock = FileLock(path / "write.lock", timeout=0, thread_local=False)
        self._closed = False

    # --- making and opening -----------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: str | Path,
        encoder: Encoder | str | None = DEFAULT_MODEL,
        *,
        dimension: int | None = None,
        config: IndexConfig | None = None,
        client: ClientAPI | None = None,
        collection: str = "smart_rag",
    ) -> SmartIndex:
        """Return a new, empty index in the folder ``path``.

        Args:
            path: a folder that does not exist or is empty.
            encoder: an encoder, or the name of a model; None for vectors that the caller
                brings (`add_embeddings`), of width ``dimension``.
            config: what is fixed for the life of the index.
            client: a Chroma client, such as ``chromadb.HttpClient()``, to hold the pooled
                embeddings; by default they lie in the folder.
            collection: the name of the collection in Chroma.

        Raises:
            IndexExists: the folder holds something already.
        """
        path = Path(path)
        config = config or IndexConfig()
        token_codec = codec(config.codec)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise IndexExists(f"{path} exists and is not an empty folder; open it, or choose another place")
        if isinstance(encoder, str):
            encoder = SmartEncoder(encoder)
        width = encoder.dimension if encoder is not None else dimension
        if width is None or width < 1:
            raise InvalidInput(f"without an encoder, the dimension of the vectors must be given, got {dimension}")
        manifest = Manifest(
            created_with=__version__,
            dimension=width,
            encoder=None if encoder is None else encoder.describe(),
            fingerprint=None if encoder is None else encoder.fingerprint,
            collection=collection,
            own_chroma=client is None,
            config=config,
        )
        path.mkdir(parents=True, exist_ok=True)
        pooled = PooledIndex.create(path / "chroma", config, client, collection)
        tokens = TokenStore(path / "tokens", token_codec)
        manifest.write(path)  # last: a folder with a manifest is whole
        return cls(path, manifest, pooled, tokens, encoder)

    @classmethod
    def open(
        cls, path: str | Path, encoder: Encoder | str | None = None, *, client: ClientAPI | None = None
    ) -> SmartIndex:
        """Return the index in the folder ``path``.

        The encoder is the one of the manifest, loaded when it is first needed, unless one is
        given; ``client`` must be given if it was at creation.

        Raises:
            IndexNotFound: the folder holds no index.
            IndexMismatch: the index is of another model than ``encoder``, or of a newer format.
        """
        path = Path(path)
        manifest = Manifest.read(path)
        if manifest.own_chroma != (client is None):
            raise IndexMismatch(
                f"{path}: the pooled embeddings lie in the folder; open it without client="
                if manifest.own_chroma
                else f"{path}: the pooled embeddings lie in a Chroma client of your own; pass it as client="
            )
        if isinstance(encoder, str):
            encoder = SmartEncoder(encoder)
        if encoder is not None:
            _check_encoder(path, manifest, encoder)
        pooled = PooledIndex.open(path / "chroma", client, manifest.collection)
        tokens = TokenStore(path / "tokens", codec(manifest.config.codec))
        return cls(path, manifest, pooled, tokens, encoder)

    @classmethod
    def from_embeddings(
        cls, path: str | Path, documents: Sequence[Document], representation: Representation, **options: Any
    ) -> SmartIndex:
        """Return a new index of ``documents`` whose vectors the caller brings; ``options`` as in `create`."""
        index = cls.create(path, None, dimension=representation.pooled.shape[1], **options)
        index.add_embeddings(documents, representation)
        return index

    # --- writing ----------------------------------------------------------------------------

    def add(
        self,
        documents: Iterable[Document],
        *,
        show_progress: bool = False,
        on_commit: OnCommit | None = None,
    ) -> AddReport:
        """Write ``documents``, replacing those of the same id, and return what was done.

        A document whose text and metadata are in the index already is left alone, so that an
        interrupted call can simply be made again. Documents are committed in batches, not in
        the order given; ``on_commit`` is called with the ids of each batch once they are on
        disk. An iterator of any length is read in bounded memory.

        Raises:
            InvalidInput: a document without text, with metadata that cannot be stored, or an
                id twice. In a sequence nothing is written then; in a stream what came before is,
                and an id that comes again replaces the earlier one.
        """
        from tqdm.auto import tqdm

        total = None
        if isinstance(documents, Sequence):
            _check_documents(documents)
            total = len(documents)
        report = AddReport()
        stream = iter(documents)
        with (
            self._writing(),
            tqdm(total=total, desc="indexing", unit="document", disable=not show_progress) as progress,
        ):
            while window := list(islice(stream, _WINDOW)):
                latest = list({document.id: document for document in window}.values())
                if total is None:
                    _check_documents(latest)
                report += self._add_window([(document, None) for document in latest], progress.update, on_commit)
                progress.update(len(window) - len(latest))
        return report

    def add_texts(
        self,
        texts: Sequence[str],
        ids: Sequence[str] | None = None,
        metadatas: Sequence[Mapping[str, Any]] | None = None,
        *,
        show_progress: bool = False,
    ) -> list[str]:
        """Write ``texts`` and return their ids; by default an id is a hash of text and metadata."""
        if isinstance(texts, str):
            raise InvalidInput("texts must be a sequence of str, got one str")
        metadatas = metadatas if metadatas is not None else [{}] * len(texts)
        if len(metadatas) != len(texts) or (ids is not None and len(ids) != len(texts)):
            raise InvalidInput(
                f"{len(texts)} texts need as many ids and metadatas, got "
                f"{len(texts) if ids is None else len(ids)} and {len(metadatas)}"
            )
        if ids is None:
            ids = [_content_id(text, metadata) for text, metadata in zip(texts, metadatas, strict=True)]
            unique = {id: position for position, id in enumerate(ids)}.values()
        else:
            unique = range(len(ids))  # type: ignore[assignment]
        self.add([Document(ids[i], texts[i], metadatas[i]) for i in unique], show_progress=show_progress)
        return list(ids)

    def add_embeddings(self, documents: Sequence[Document], representation: Representation) -> AddReport:
        """Write ``documents`` with vectors that the caller brings, replacing those of the same id.

        Raises:
            DimensionMismatch: the vectors are of another width than the index's.
            InvalidInput: as `add`, or a vector is not finite.
        """
        _check_documents(documents)
        if len(documents) != len(representation):
            raise InvalidInput(f"{len(documents)} documents with the vectors of {len(representation)}")
        self._check_vectors(representation)
        replaced = 0
        with self._writing():
            for start in range(0, len(documents), _BATCH):
                part = documents[start : start + _BATCH]
                vectors = Representation(
                    representation.pooled[start : start + _BATCH],
                    representation.tokens.slice(start, start + len(part)),
                )
                rows = [
                    Row(document, content_key("vectors", self.manifest.config.codec, _bytes(vectors.tokens[i])))
                    for i, document in enumerate(part)
                ]
                replaced += self._commit(rows, vectors, self._pooled.get([document.id for document in part]))
        return AddReport(added=len(documents) - replaced, replaced=replaced)

    def delete(self, ids: Sequence[str]) -> int:
        """Remove the documents with these ids and return how many there were."""
        if isinstance(ids, str):
            raise InvalidInput(f"ids must be a sequence of str, got the str {ids!r}")
        with self._writing():
            rows = self._pooled.get(list(dict.fromkeys(ids)))
            self._pooled.delete(list(rows))
            self._drop_tokens([row.key for row in rows.values()])
        return len(rows)

    def delete_source(self, path: str | Path) -> int:
        """Remove every document whose metadata ``source`` is ``path`` and return how many there were."""
        sources = list(dict.fromkeys([str(path), str(Path(path).resolve())]))
        self._check_open()
        return self.delete([row.document.id for row in self._pooled.select({"source": {"$in": sources}})])

    def vacuum(self) -> int:
        """Remove token embeddings that no document names and return how many entries there were."""
        with self._writing():
            return self._tokens.vacuum({row.key for row in self._pooled.select()})

    def verify(self, repair: bool = False) -> VerifyReport:
        """Read every entry back and return what is wrong; ``repair`` encodes the texts concerned again."""
        self._check_open()
        rows = list(self._pooled.select())
        damaged_keys = set(self._tokens.verify())
        keys = [row.key for row in rows]
        missing = [rows[i] for i in self._tokens.missing(keys)]
        damaged = [row for row in rows if row.key in damaged_keys]
        orphans = len(set(self._tokens.keys()) - set(keys))
        repaired = 0
        if repair and missing + damaged:
            with self._writing():
                for start in range(0, len(missing + damaged), _BATCH):
                    part = (missing + damaged)[start : start + _BATCH]
                    vectors = self.encoder.encode_document([row.document.text for row in part])
                    repaired += len(part)
                    self._commit(part, vectors, {})
        return VerifyReport(
            tuple(row.document.id for row in missing), tuple(row.document.id for row in damaged), orphans, repaired
        )

    # --- reading ----------------------------------------------------------------------------

    def get(self, ids: Sequence[str]) -> list[Document]:
        """Return the documents with these ids, in this order; ids that are not there are left out."""
        self._check_open()
        rows = self._pooled.get(list(dict.fromkeys(ids)))
        return [rows[id].document for id in ids if id in rows]

    def documents(self, where: Where | None = None) -> Iterator[Document]:
        """Yield the documents that ``where`` admits, by default all."""
        self._check_open()
        return (row.document for row in self._pooled.select(where))

    def count(self) -> int:
        """Return how many documents the index holds."""
        self._check_open()
        return self._pooled.count()

    def search(
        self,
        query: str | Representation,
        top_k: int = DEFAULT_TOP_K,
        *,
        candidates: int = DEFAULT_CANDIDATES,
        where: Where | None = None,
        where_document: Where | None = None,
        weights: tuple[float, float] = DEFAULT_WEIGHTS,
        exhaustive: bool = False,
        stopwatch: Stopwatch | None = None,
    ) -> list[Hit]:
        """Return the ``top_k`` best documents for ``query``, best first; ties go by id.

        Args:
            query: a text, or the representation of one.
            candidates: how many documents of highest pooled cosine are scored.
            where, where_document: Chroma's filters on metadata and text.
            weights: of the pooled and the late score.
            exhaustive: score every document, as the paper does, instead of ``candidates``.
            stopwatch: takes the milliseconds of ``encode``, ``candidates``, ``gather``, ``score``.

        Raises:
            InvalidInput: an empty query, ``top_k`` or ``candidates`` below 1, or a filter that
                Chroma does not take.
            MissingTokens: a candidate's tokens are gone; `verify` repairs that.
        """
        queries = [query] if isinstance(query, str) else query
        return self.search_many(
            queries,
            top_k,
            candidates=candidates,
            where=where,
            where_document=where_document,
            weights=weights,
            exhaustive=exhaustive,
            stopwatch=stopwatch,
        )[0]

    def search_many(
        self,
        queries: Sequence[str] | Representation,
        top_k: int = DEFAULT_TOP_K,
        *,
        candidates: int = DEFAULT_CANDIDATES,
        where: Where | None = None,
        where_document: Where | None = None,
        weights: tuple[float, float] = DEFAULT_WEIGHTS,
        exhaustive: bool = False,
        stopwatch: Stopwatch | None = None,
    ) -> list[list[Hit]]:
        """Return, for each of ``queries``, what `search` returns; an exhaustive scan is made once for all."""
        self._check_open()
        weights = scoring.check_weights(weights)
        for name, value in (("top_k", top_k), ("candidates", candidates)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidInput(f"{name} must be a whole number of at least 1, got {value!r}")
        stopwatch = stopwatch or Stopwatch()
        with stopwatch.measure("encode"):
            encoded = queries if isinstance(queries, Representation) else self.encode_queries(queries)
        self._check_vectors(encoded)
        if not len(encoded):
            return []
        if exhaustive:
            return self._search_everything(encoded, top_k, where, where_document, weights)
        with stopwatch.measure("candidates"):
            found = self._pooled.query(encoded.pooled, max(candidates, top_k), where, where_document)
        return [
            self._ranked(
                encoded[i],
                [candidate.row for candidate in candidates_of_one],
                np.asarray([candidate.pooled_score for candidate in candidates_of_one], dtype=np.float32),
                top_k,
                weights,
                stopwatch,
            )
            for i, candidates_of_one in enumerate(found)
        ]

    def rerank(
        self,
        query: str | Representation,
        hits: Sequence[Hit | str],
        top_k: int | None = None,
        *,
        weights: tuple[float, float] = DEFAULT_WEIGHTS,
    ) -> list[Hit]:
        """Return ``hits`` scored again for ``query``, best first, by default all of them.

        A text may stand for a hit: it is encoded, and its position among ``hits`` is its id.
        """
        self._check_open()
        weights = scoring.check_weights(weights)
        if top_k is not None and top_k < 1:
            raise InvalidInput(f"top_k must be at least 1, got {top_k}")
        encoded = query if isinstance(query, Representation) else self.encode_queries([query])
        if not hits:
            return []
        documents = [
            Document(str(i), hit) if isinstance(hit, str) else Document(hit.id, hit.text, hit.metadata)
            for i, hit in enumerate(hits)
        ]
        vectors = self._vectors(documents, stored={hit.id for hit in hits if isinstance(hit, Hit)})
        pooled = scoring.pooled_similarity(encoded.pooled, vectors.pooled)[0]
        late = self._late(encoded.tokens, vectors.tokens)[0]
        return _hits(documents, pooled, late, weights, top_k or len(documents))

    def scores(
        self, queries: Representation, where: Where | None = None, where_document: Where | None = None
    ) -> Iterator[tuple[list[str], NDArray[np.float32], NDArray[np.float32]]]:
        """Yield the scores of every document, in blocks: ids (n), pooled and late (n_queries, n) float32."""
        self._check_open()
        for block in self._pooled.scan(where, where_document):
            pooled = scoring.pooled_similarity(queries.pooled, block.pooled)
            for start in range(0, len(block.ids), _SCAN):
                part = slice(start, start + _SCAN)
                tokens = self._gather(block.keys[part], block.ids[part])
                yield block.ids[part], pooled[:, part], self._late(queries.tokens, tokens)

    def tokens(self, ids: Sequence[str]) -> TokenBatch:
        """Return the stored token embeddings of the documents with these ids, in this order.

        Raises:
            InvalidInput: an id that is not in the index.
        """
        self._check_open()
        rows = self._pooled.get(list(dict.fromkeys(ids)))
        absent = [id for id in ids if id not in rows]
        if absent:
            raise InvalidInput(f"{self.path}: no document {absent[0]!r} in the index ({len(absent)} ids are not)")
        return self._gather([rows[id].key for id in ids], ids)

    def encode_queries(self, queries: Sequence[str]) -> Representation:
        """Return the representation of ``queries``, by the index's encoder.

        Raises:
            InvalidInput: one of them is empty.
        """
        for i, query in enumerate(queries):
            if not isinstance(query, str) or not query.strip():
                raise InvalidInput(f"query {i} must be a text that is not empty, got {query!r}")
        return self.encoder.encode_query(queries)

    @property
    def encoder(self) -> Encoder:
        """The encoder of the index, loaded when first asked for.

        Raises:
            InvalidInput: the index was made for vectors that the caller brings.
        """
        with self._mutex:
            if self._encoder is None:
                if self.manifest.encoder is None:
                    raise InvalidInput(
                        f"{self.path}: this index has no encoder; pass a Representation, and use add_embeddings"
                    )
                encoder = SmartEncoder.from_description(self.manifest.encoder)
                _check_encoder(self.path, self.manifest, encoder)
                self._encoder = encoder
            return self._encoder

    def info(self) -> IndexInfo:
        """Return what the index holds, its size on disk, and its manifest."""
        self._check_open()
        stats = self._tokens.stats()
        chroma = self.path / "chroma"
        pooled_bytes = (
            sum(file.stat().st_size for file in chroma.rglob("*") if file.is_file())
            if self.manifest.own_chroma
            else None
        )
        from dataclasses import asdict

        return IndexInfo(
            str(self.path), self.count(), stats.tokens, stats.used_bytes, pooled_bytes, asdict(self.manifest)
        )

    def close(self) -> None:
        """Release files and locks. Closing twice does no harm; any other call after it raises `IndexClosed`."""
        with self._mutex:
            if not self._closed:
                self._closed = True
                self._tokens.close()
                self._pooled.close()
                self._lock.release()

    def __enter__(self) -> SmartIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- inside -----------------------------------------------------------------------------

    def _add_window(
        self,
        window: Sequence[tuple[Document, FileStamp | None]],
        on_progress: Callable[[int], object],
        on_commit: OnCommit | None,
    ) -> AddReport:
        """Write documents of distinct ids, encoding those whose text is new, in batches of like length."""
        existing = self._pooled.get([document.id for document, _ in window])
        rows = [Row(document, self._key(document.text), stamp) for document, stamp in window]
        lost = {rows[i].key for i in self._tokens.missing([row.key for row in rows])}
        known, new = [], []
        unchanged = 0
        for row in rows:
            before = existing.get(row.document.id)
            if before is None or before.key != row.key or row.key in lost:
                new.append(row)
            elif before == row:
                unchanged += 1
            else:
                known.append(row)
        on_progress(unchanged)
        report = AddReport(unchanged=unchanged)
        if known:  # only metadata changed
            pooled = self._pooled.pooled([row.document.id for row in known])
            self._pooled.upsert(known, np.stack([pooled[row.document.id] for row in known]))
            on_progress(len(known))
            report += AddReport(replaced=len(known))
            if on_commit:
                on_commit([row.document.id for row in known])
        new.sort(key=lambda row: len(row.document.text), reverse=True)
        for start in range(0, len(new), _BATCH):
            batch = new[start : start + _BATCH]
            texts = list(dict.fromkeys(row.document.text for row in batch))
            position = {text: i for i, text in enumerate(texts)}
            encoded = self.encoder.encode_document(texts)
            self._check_vectors(encoded)
            order = [position[row.document.text] for row in batch]
            vectors = Representation(encoded.pooled[order], TokenBatch.from_list([encoded.tokens[i] for i in order]))
            replaced = self._commit(batch, vectors, existing)
            on_progress(len(batch))
            report += AddReport(added=len(batch) - replaced, replaced=replaced)
            if on_commit:
                on_commit([row.document.id for row in batch])
        return report

    def _commit(self, rows: Sequence[Row], vectors: Representation, existing: Mapping[str, Row]) -> int:
        """Write tokens, then rows, then drop what the replaced rows named; return how many were replaced."""
        self._tokens.put([row.key for row in rows], vectors.tokens)
        self._pooled.upsert(rows, vectors.pooled)
        before = [existing[row.document.id] for row in rows if row.document.id in existing]
        written = {row.key for row in rows}
        self._drop_tokens([row.key for row in before if row.key not in written])
        return len(before)

    def _drop_tokens(self, keys: Sequence[Key]) -> None:
        """Remove the entries under ``keys`` that no document names any more."""
        if keys:
            self._tokens.delete(set(keys) - self._pooled.shared(list(keys)))

    def _search_everything(
        self,
        queries: Representation,
        top_k: int,
        where: Where | None,
        where_document: Where | None,
        weights: tuple[float, float],
    ) -> list[list[Hit]]:
        leaders = [scoring.Leaders(top_k) for _ in range(len(queries))]
        for ids, pooled, late in self.scores(queries, where, where_document):
            for i, leader in enumerate(leaders):
                leader.offer(ids, pooled[i], late[i], weights)
        rows = self._pooled.get(list({id for leader in leaders for id in leader.ids}))
        return [
            _hits([rows[id].document for id in leader.ids], leader.pooled, leader.late, weights, top_k)
            for leader in leaders
        ]

    def _ranked(
        self,
        query: Representation,
        rows: Sequence[Row],
        pooled: NDArray[np.float32],
        top_k: int,
        weights: tuple[float, float],
        stopwatch: Stopwatch,
    ) -> list[Hit]:
        if not rows:
            return []
        with stopwatch.measure("gather"):
            tokens = self._gather([row.key for row in rows], [row.document.id for row in rows])
        with stopwatch.measure("score"):
            late = self._late(query.tokens, tokens)[0]
            return _hits([row.document for row in rows], pooled, late, weights, top_k)

    def _gather(self, keys: Sequence[Key], ids: Sequence[str]) -> TokenBatch:
        try:
            return self._tokens.gather(keys, ids)
        except MissingTokens as error:
            raise MissingTokens(
                f"{error}; encode them again with `smart-rag verify --repair --db {self.path}` or "
                "index.verify(repair=True)",
                error.ids,
            ) from error

    def _vectors(self, documents: Sequence[Document], stored: set[str]) -> Representation:
        """Return the vectors of ``documents``: from disk where those in ``stored`` have this text, else encoded."""
        rows = self._pooled.get(list(stored))
        held = [document.id in rows and rows[document.id].document.text == document.text for document in documents]
        ids = [document.id for document, here in zip(documents, held, strict=True) if here]
        texts = [document.text for document, here in zip(documents, held, strict=True) if not here]
        pooled = self._pooled.pooled(list(dict.fromkeys(ids)))
        from_disk = self._gather([rows[id].key for id in ids], ids)
        encoded = self.encoder.encode_document(texts) if texts else None
        vectors: list[NDArray[np.float32]] = []
        tokens: list[Any] = []
        next_stored, next_encoded = iter(range(len(ids))), iter(range(len(texts)))
        for here in held:
            if here:
                i = next(next_stored)
                vectors.append(pooled[ids[i]])
                tokens.append(from_disk[i])
            else:
                assert encoded is not None
                i = next(next_encoded)
                vectors.append(encoded.pooled[i])
                tokens.append(encoded.tokens[i])
        return Representation(np.stack(vectors), TokenBatch.from_list(tokens))

    def _late(self, queries: TokenBatch, documents: TokenBatch) -> NDArray[np.float32]:
        device = getattr(self._encoder, "device", "cpu")
        return scoring.late_interaction(queries, documents, device if device.startswith("cuda") else "cpu")

    def _key(self, text: str) -> Key:
        return content_key(self.manifest.fingerprint or "", self.manifest.config.codec, text)

    def _check_vectors(self, vectors: Representation) -> None:
        for what, rows in (("pooled", vectors.pooled), ("token", vectors.tokens.embeddings)):
            if rows.shape[1] != self.manifest.dimension:
                raise DimensionMismatch(
                    f"{self.path}: {what} embeddings have {rows.shape[1]} dimensions, the index has "
                    f"{self.manifest.dimension}; use the model that the index was made with"
                )
            if not np.isfinite(rows).all():
                raise InvalidInput(f"{what} embeddings hold NaN or infinite numbers; nothing was done with them")

    def _check_open(self) -> None:
        if self._closed:
            raise IndexClosed(f"{self.path}: the index is closed; open it again with SmartIndex.open")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the index for writing: against other threads in the block, against other processes until closed."""
        with self._mutex:
            self._check_open()
            if not self._lock.is_locked:
                try:
                    self._lock.acquire()
                except Timeout:
                    raise IndexLocked(
                        f"{self.path}: another writer has the index open; close it there, or wait until it is done"
                    ) from None
                logger.debug("process %d writes to %s", os.getpid(), self.path)
            yield


def _check_encoder(path: Path, manifest: Manifest, encoder: Encoder) -> None:
    if manifest.fingerprint != encoder.fingerprint:
        made_with = manifest.encoder["model"] if manifest.encoder else "vectors of the caller's own"
        raise IndexMismatch(
            f"{path}: the index was made with {made_with!r} and cannot be used with "
            f"{encoder.describe().get('model')!r} as it is set up here (other weights, prompt, length or pooling); "
            "open it without encoder=, or index the documents again into another folder"
        )


def _check_documents(documents: Sequence[Document]) -> None:
    for document in documents:
        if not isinstance(document, Document):
            raise InvalidInput(f"expected a Document, got {type(document).__name__}; add_texts takes texts")
        if not isinstance(document.id, str) or not document.id:
            raise InvalidInput(f"a document's id must be a str that is not empty, got {document.id!r}")
        if not isinstance(document.text, str) or not document.text.strip():
            raise InvalidInput(f"document {document.id!r} has no text")
        check_metadata(document)
    twice = [id for id, times in Counter(document.id for document in documents).items() if times > 1]
    if twice:
        raise InvalidInput(f"{len(twice)} ids come more than once in one call, the first is {twice[0]!r}")


def _content_id(text: str, metadata: Mapping[str, Any]) -> str:
    content = json.dumps([text, dict(metadata)], sort_keys=True, default=str)
    return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _bytes(tokens: NDArray[Any]) -> bytes:
    return np.ascontiguousarray(tokens, dtype="<f4").tobytes()


def _hits(
    documents: Sequence[Document],
    pooled: NDArray[np.float32],
    late: NDArray[np.float32],
    weights: tuple[float, float],
    top_k: int,
) -> list[Hit]:
    scores = scoring.hybrid(pooled, late, weights)
    best = scoring.ranking(scores, [document.id for document in documents], top_k)
    return [
        Hit(
            documents[i].id,
            documents[i].text,
            dict(documents[i].metadata),
            float(scores[i]),
            float(pooled[i]),
            float(late[i]),
            rank,
        )
        for rank, i in enumerate(best, start=1)
    ]

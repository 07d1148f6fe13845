"""Documents with all their vectors: Chroma rows, token embeddings and terms.

Tokens and terms are written before the row that names them, and removed after the row. So every document that a search
can return has its tokens. A crash may leave entries that no row names. `DocumentStore.vacuum` removes them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from smart_rag.embeddings.representation import Representation
from smart_rag.embeddings.tokens import Codec, TokenCodes, TokenIds
from smart_rag.errors import ChromaFailure, MissingTokens, SmartRagError, StorageFull
from smart_rag.paths import check_room
from smart_rag.store.checks.row_checksum import traces_of
from smart_rag.store.chroma.known import State
from smart_rag.store.chroma.known_documents import KnownDocuments
from smart_rag.store.image_store import ImageStore
from smart_rag.store.integrity import Integrity
from smart_rag.store.pending import StoredRows
from smart_rag.store.pooled_store import PooledStore
from smart_rag.store.row import VISUAL, Row
from smart_rag.store.terms.centroid_terms import CentroidTerms
from smart_rag.store.terms.inverted_index import InvertedIndex
from smart_rag.store.terms.term_store import TermStore
from smart_rag.store.token_store import TokenStore
from smart_rag.store.where import Where
from smart_rag.types import Document, Key, Revision
from smart_rag.wording import number

logger = logging.getLogger(__name__)

# Documents that are removed in one batch. Their old rows are in memory and on disk meanwhile.
_REMOVED_AT_ONCE = 2_000
# Free bytes that Chroma needs for a batch, for each row, and for each byte of text (in its log, its rows and its index
# of texts). We measured the smallest free space with which batches succeed.
_BATCH_BYTES = 160 << 10
_ROW_BYTES = 1_500
_TEXT_COPIES = 16

# Key of the revision of a lost document.
_NO_KEY = bytes(16)

T = TypeVar("T")


class DocumentStore:
    """Rows, tokens, terms and images of one index."""

    def __init__(
        self,
        pooled: PooledStore,
        tokens: TokenStore,
        terms: TermStore,
        images: ImageStore,
        fingerprint: str | None = None,
        folder: Path | None = None,
    ) -> None:
        self.pooled = pooled
        self.tokens = tokens
        self.images = images
        self.terms = InvertedIndex(terms, self._existing, pooled.version)
        self._terms = terms
        self.known = KnownDocuments(pooled, terms)
        self.centroids = CentroidTerms(terms, tokens, self.terms, partial(pooled.ids, VISUAL), pooled.get)
        self._counted: tuple[State | None, int] = None, 0
        # Identity of the index, see `smart_rag.store.place`.
        self.place = replace(tokens.place, folder=tokens.path.parent if folder is None else folder)
        self.integrity = Integrity(pooled, tokens, terms, self.centroids, self.place.folder, fingerprint)

    @property
    def codec(self) -> Codec:
        """Codec of the token embeddings."""
        return self.tokens.codec

    def commit(
        self, rows: Sequence[Row], vectors: Representation, terms: Sequence[TokenIds | None] | None = None
    ) -> int:
        """Write n ``rows`` with the vectors of n texts. Return how many old rows with the same ids were replaced.

        ``terms`` are the terms of the n texts. By default, they are the vocabulary ids of the vectors. If the write
        fails, the documents are as they were before, at the latest after the next write that succeeds.
        """
        if terms is None:
            terms = [vectors.tokens.terms(i) for i in range(len(rows))]
        with self._batch():
            revisions = [row.revision for row in rows]
            before = self.pooled.stored([row.document.id for row in rows])
            replaced = self.pooled.rows(before)
            old = [row.revision for row in replaced]
            undo = self.pooled.undo_of(rows, before).packed()
            check_room(self.place.folder, self._bytes_of(rows, vectors) + len(undo))
            self.tokens.put([row.key for row in rows], vectors.tokens)
            terms = self.centroids.completed(rows, terms)
            self._terms.put(revisions, terms, [*revisions, *old], undo, _traces(revisions, vectors.pooled))
            with self._settled_on_failure():
                self.pooled.upsert(rows, vectors.pooled, before)
                self._terms.settle(set(old).difference(revisions), revisions)
            self._drop([row.key for row in replaced])
            self.centroids.written(rows, terms)
            return len(replaced)

    @contextmanager
    def _batch(self) -> Iterator[None]:
        """Undo an unfinished batch. While the block runs, no other thread of this process begins one.

        A thread may still be writing its batch when Ctrl-C has ended the call that started the thread.
        """
        with self._terms.batch_lock:
            self.settle()
            yield

    def settle(self) -> None:
        """Undo a batch that was not finished, because its process died or because it failed.

        Raises:
            StorageFull: the disk is too full to undo it. Nothing was lost, the next call tries again.
            ChromaFailure: Chroma failed. The next call tries again.
        """
        with self._terms.batch_lock:
            self._settle()

    def _settle(self) -> None:
        doubtful = self._terms.doubtful()
        if not doubtful:
            return
        record = self._terms.before()
        if record is None:  # an older version has written this batch: what has a row stays
            existing = self._existing(doubtful)
            self._terms.settle(set(doubtful) - existing, existing)
            return
        before = StoredRows.unpacked(record)
        check_room(self.place.folder, _BATCH_BYTES + _ROW_BYTES * len(doubtful))
        logger.info("%s: undo an unfinished write of %s", self.place.folder, number(len(doubtful), "document"))
        new = {id for id, _ in doubtful}.difference(before.ids)
        if new:
            self.pooled.delete(sorted(new))
        if before:
            self.pooled.write(before)
        rows = self.pooled.rows(before)
        pooled = dict(zip(before.ids, before.pooled, strict=True))
        self._terms.doubt([row.revision for row in rows], record, _traces_of_rows(rows, pooled))
        old = {row.revision for row in rows}
        self._terms.settle(set(doubtful) - old, old)

    def _bytes_of(self, rows: Sequence[Row], vectors: Representation) -> int:
        """Return about how many bytes must be free to write a batch. It is rather too few than too many."""
        tokens = len(vectors.tokens.offsets) and int(vectors.tokens.offsets[-1]) // self.codec.pool_factor
        size = tokens * self.codec.bytes_per_token(vectors.tokens.dimension)
        if self.pooled.given_client is None:
            texts = sum(len(row.document.text) for row in rows)
            size += _BATCH_BYTES + _ROW_BYTES * len(rows) + _TEXT_COPIES * texts + vectors.pooled.nbytes
        return size

    def try_to_settle(self) -> None:
        """Do the same as `settle`, but if this is not possible yet, log a warning. Reading goes on."""
        try:
            self.settle()
        except (StorageFull, ChromaFailure) as error:
            logger.warning("%s: the write that failed could not be undone yet (%s)", self.place.folder, error)

    @property
    def is_in_doubt(self) -> bool:
        """Whether a batch is being written, or was not finished. See `settle`."""
        return self._terms.before() is not None

    def settled_state(self) -> State | None:
        """Return numbers that change with each write to a row. While a batch is being written, return None.

        With the caller's Chroma client, always return None, because other programs may write rows.
        """
        rows = self.pooled.version()  # first, because a write is in doubt before it changes this number
        terms = self._terms.settled_version()
        return None if rows is None or terms is None else (rows, terms)

    def count(self) -> int:
        """Return the number of rows."""
        state = self.settled_state()
        if state is None or state != self._counted[0]:
            self._counted = state, self.pooled.count()
        return self._counted[1]

    @contextmanager
    def _settled_on_failure(self) -> Iterator[None]:
        """If the block fails, undo the batch that it writes. If this fails, too, say so; the next write tries again."""
        try:
            yield
        except SmartRagError as error:
            try:
                self.settle()
            except SmartRagError as second:
                raise type(error)(
                    f"{error}; this batch could not be undone yet: until the next write succeeds, its documents may be "
                    "found in their new or in their old form"
                ) from second
            raise

    def _existing(self, revisions: Collection[Revision]) -> set[Revision]:
        """Return the ``revisions`` that have a row."""
        rows = self.pooled.get(list({id for id, _ in revisions}))
        return {row.revision for row in rows.values()} & set(revisions)

    def documents(self, where: Where | None = None, where_document: Where | None = None) -> Iterator[Document]:
        """Yield the documents that pass the filters. Raise `CorruptStore` at one that is not what was added."""
        for row in self.pooled.select(where, where_document):
            self.integrity.check_texts([row])
            yield row.document

    def repair(self, rows: Sequence[Row], vectors: Representation) -> None:
        """Write the tokens and terms of ``rows`` again."""
        with self._batch():
            self.tokens.put([row.key for row in rows], vectors.tokens)
            revisions = [row.revision for row in rows]
            pooled = self.pooled.embeddings([row.document.id for row in rows])
            known = np.isfinite(self._terms.traces(revisions))
            lacking = [row for row, has_trace in zip(rows, known, strict=True) if not has_trace]
            traces = _traces_of_rows(lacking, pooled)
            terms = self.centroids.completed(rows, [vectors.tokens.terms(i) for i in range(len(rows))])
            self._terms.put(revisions, terms, traces=traces)

    def mend_centroids(self) -> None:
        """Learn damaged codebooks again, and assign the documents that they served."""
        with self._batch():
            self.centroids.remove_damaged()
            self.centroids.complete()

    def update_metadata(self, rows: Sequence[Row]) -> None:
        """Write ``rows`` to change their metadata. Their vectors must be stored already. See `commit` about errors."""
        with self._batch():
            before = self.pooled.stored([row.document.id for row in rows])
            pooled = dict(zip(before.ids, before.pooled, strict=True))
            revisions = [row.revision for row in rows]
            undo = self.pooled.undo_of(rows, before).packed()
            check_room(self.place.folder, _BATCH_BYTES + _ROW_BYTES * len(rows) + len(undo))
            self._terms.doubt(revisions, undo, _traces_of_rows(rows, pooled))
            with self._settled_on_failure():
                self.pooled.update_metadata(rows, before)
                self._terms.settle((), revisions)

    def gather(self, keys: Sequence[Key], ids: Sequence[str]) -> TokenCodes:
        """Return the token embeddings of n ``keys``, in their order. Errors name the documents by ``ids``.

        Raises:
            MissingTokens: some keys are not stored.
            CorruptStore: some entries have changed since they were written.
        """
        return self.tokens.gather(keys, ids)

    def retry_unless_writing(self, read: Callable[[], T]) -> T:
        """Return ``read()``. If tokens are missing, call ``read`` again while no other thread or process may write.

        The first call may find a row just before another process deletes the document. Then it does not find the
        tokens.
        """
        try:
            return read()
        except MissingTokens:
            with self.pooled.write_lock():
                return read()

    def vectors(self, documents: Sequence[Document]) -> dict[str, Representation]:
        """Return a dict from id to vectors, for the ``documents`` that are stored with the same content."""
        return self.retry_unless_writing(lambda: self._vectors(documents))

    def _vectors(self, documents: Sequence[Document]) -> dict[str, Representation]:
        rows = self.pooled.get(list({document.id for document in documents}))
        held = {
            document.id: rows[document.id].key
            for document in documents
            if document.id in rows and _same_content(rows[document.id].document, document)
        }
        pooled = self.pooled.embeddings(list(held))
        tokens = self.gather(list(held.values()), list(held))
        return {
            name: Representation(pooled[name][None], tokens.slice(i, i + 1))
            for i, name in enumerate(held)
            if name in pooled
        }

    def stored(self, ids: Sequence[str]) -> list[tuple[Row, Representation, TokenIds | None]]:
        """Return, for each of these ids, the row, its vectors as they are stored, and its terms. Leave out unknown ids.

        Raises:
            CorruptStore: a row is altered, or its vectors or terms are damaged.
            MissingTokens: the token embeddings of a row are missing.
        """
        pairs = self.pooled.vectors(ids)
        if not pairs:
            return []
        rows = [row for row, _ in pairs]
        self.integrity.check_rows(rows, np.stack([pooled for _, pooled in pairs]))
        terms = self._terms.get([row.revision for row in rows])
        tokens = self.gather([row.key for row in rows], [row.document.id for row in rows])
        return [
            (row, Representation(pooled[None], tokens.slice(i, i + 1)), terms[i])
            for i, (row, pooled) in enumerate(pairs)
        ]

    def has(self, rows: Sequence[Row]) -> list[bool]:
        """Return, for each of ``rows``, whether the store has the same row and its tokens."""
        there = self.pooled.get([row.document.id for row in rows])
        lost = set(self.tokens.missing([row.key for row in rows]))
        return [row.is_same(there.get(row.document.id)) and i not in lost for i, row in enumerate(rows)]

    def vectors_of_keys(self, keys: Sequence[Key]) -> dict[Key, Representation]:
        """Return a dict from key to the vectors that are stored under it, for ``keys``. They have no vocabulary ids.

        If the tokens or the row of a key is missing, the key is left out.
        """
        missing = set(self.tokens.missing(keys))
        held = list(dict.fromkeys(key for i, key in enumerate(keys) if i not in missing))
        pooled = self.pooled.embeddings_of_keys(held)
        held = [key for key in held if key in pooled]
        tokens = self.gather(held, [key.hex() for key in held])
        return {key: Representation(pooled[key][None], tokens.slice(i, i + 1)) for i, key in enumerate(held)}

    def delete(self, ids: Sequence[str]) -> int:
        """Remove the documents with these ids, and return the number of documents that were removed.

        If this fails, the documents are there as before. If there are thousands, they are removed in several parts,
        and the parts before the error stay removed.
        """
        with self._batch():
            parts = [ids[start : start + _REMOVED_AT_ONCE] for start in range(0, len(ids), _REMOVED_AT_ONCE)]
            found = set().union(*map(self._delete, parts))
            without_row = set(ids) - found
            if without_row and self._terms.is_complete and self._terms.count() > self.pooled.count():
                return len(found) + self._terms.remove_ids(without_row)
            return len(found)

    def _delete(self, ids: Sequence[str]) -> set[str]:
        """Remove documents, and return the ids of those that were there."""
        before = self.pooled.stored(ids)
        rows = self.pooled.rows(before)
        if not rows:
            return set()
        revisions, undo = [row.revision for row in rows], before.packed()
        check_room(self.place.folder, _BATCH_BYTES + _ROW_BYTES * len(rows) + len(undo))
        self._terms.doubt(revisions, undo)
        with self._settled_on_failure():
            self.pooled.delete([row.document.id for row in rows])
            self._terms.settle(revisions)
        self._drop([row.key for row in rows])
        return {row.document.id for row in rows}

    def vacuum(self) -> int:
        """Remove tokens, terms and images that no row names. Return how many token entries were removed.

        Raises:
            CorruptStore: rows are lost or cannot be read. Then their tokens, terms and images are kept.
        """
        with self._batch():
            rows = list(self.pooled.select())
            revisions = {row.revision for row in rows}
            self.integrity.check_complete(rows)
            self.images.vacuum(row.document.image for row in rows)
            # Older versions wrote the modality "text" also for vectors that the caller brought. Such an index stays as
            # it is.
            self._terms.vacuum(revisions, completes=not any(map(self.integrity.has_another_key, rows)))
            self.centroids.complete()
            return self.tokens.vacuum({row.key for row in rows})

    def mark_lost(self, ids: Collection[str]) -> None:
        """Remember that the documents ``ids`` are lost, so that `verify` names them until they are added or deleted."""
        self._terms.put([(id, _NO_KEY) for id in ids], [None] * len(ids))

    def remove_unused_terms(self) -> None:
        """Remove terms that no row names. Terms of lost rows stay, because they name the lost documents."""
        with self._batch():
            live = {row.revision for row in self.pooled.select()}
            if not self._terms.lost_ids(live):
                self._terms.vacuum(live)
            self.centroids.complete()

    def copy_to(self, folder: Path) -> None:
        """Copy all stores to ``folder``. The caller holds the write lock of the rows.

        Tokens and terms are written before their rows, and removed after them. So the copies of tokens and terms have
        all that the copied rows name, even if another thread or process is in the middle of a write.
        """
        self.pooled.copy_to(folder / "chroma")
        self.tokens.copy_to(folder / "tokens")
        self._terms.copy_to(folder / "terms")
        self.images.copy_to(folder / "images")

    def sidecar_bytes(self) -> int:
        """Return the number of bytes that token embeddings and terms use on disk."""
        return self.tokens.stats().used_bytes + self._terms.used_bytes()

    def close(self) -> None:
        """Close all stores. A second call does nothing."""
        self.tokens.close()
        self._terms.close()
        self.pooled.close()

    def _drop(self, keys: Sequence[Key]) -> None:
        """Remove the tokens of ``keys``. A key that a row still names is kept.

        The batch is already on disk, so an error must not say that it failed.
        """
        if not keys:
            return
        try:
            self.tokens.delete(set(keys) - self.pooled.keys_in_use(list(keys)))
        except (StorageFull, ChromaFailure) as error:
            logger.warning("%s: `smart-rag vacuum` has to remove old token embeddings (%s)", self.place.folder, error)


def _traces_of_rows(rows: Sequence[Row], pooled: Mapping[str, NDArray[np.float32]]) -> dict[Revision, float | None]:
    """Return the trace of each of ``rows``. ``pooled`` are the stored pooled embeddings by id.

    It is None for a row of an older index that has metadata without a checksum: with a trace, it would be damaged.
    """
    rows = [row for row in rows if row.document.id in pooled]
    if not rows:
        return {}
    found = _traces([row.revision for row in rows], np.stack([pooled[row.document.id] for row in rows]))
    return {row.revision: None if row.lacks_checksum() else found[row.revision] for row in rows}


def _traces(revisions: Sequence[Revision], pooled: NDArray[np.float32]) -> dict[Revision, float]:
    return dict(zip(revisions, traces_of(pooled).tolist(), strict=True))


def _same_content(one: Document, other: Document) -> bool:
    return (one.text, one.image, one.video) == (other.text, other.image, other.video)

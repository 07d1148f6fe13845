"""`Ingest`: writes documents into a `DocumentStore`. Stored contents are not encoded again.

A stream is read in windows. The documents of a window are sorted by length and committed in batches. So only one
window of texts and one batch of token embeddings are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

from smart_rag.embeddings.representation import Representation
from smart_rag.errors import DocumentError
from smart_rag.index.index_encoder import IndexEncoder
from smart_rag.index.writing.documents import checked_documents
from smart_rag.reports import AddReport, FailedFile
from smart_rag.store.document_store import DocumentStore
from smart_rag.store.row import FileStamp, Row
from smart_rag.types import Document

OnCommit = Callable[[Sequence[str]], None]
OnRows = Callable[[Sequence["Row"]], object]

_WINDOW = 2_048
_BATCH = 128
# A page of 1,800 tokens with 2,048 dimensions takes 15 MB, and there are several copies during encoding and writing.
_VISUAL_BATCH = 4


@dataclass(frozen=True, slots=True)
class Ingest:
    """State of one call that writes: the target store, the encoder, and the callbacks.

    ``on_progress`` is called with the number of documents that were just finished. ``on_commit`` is called with the ids
    of documents that are now on disk, and ``on_tokens`` with the number of their token embeddings that were encoded.
    """

    store: DocumentStore
    encoder: IndexEncoder
    on_progress: Callable[[int], object]
    on_commit: OnCommit | None = None
    on_tokens: Callable[[int], object] | None = None

    def add(self, documents: Iterable[Document]) -> AddReport:
        """Write ``documents``.

        A sequence must not have the same id twice. In a stream, a later document replaces an earlier one with the same
        id.
        """
        checked = isinstance(documents, Sequence)
        if checked:
            documents = checked_documents(documents, self.encoder.modalities)  # type: ignore[arg-type]
        report = AddReport()
        stream = iter(documents)
        while window := list(islice(stream, _WINDOW)):
            latest = list({document.id: document for document in window}.values())
            if not checked:
                latest = checked_documents(latest, self.encoder.modalities)
            rows = [self.row(document) for document in latest]
            report += self.write(rows, lambda part: self.on_progress(len(part)))
            self.on_progress(len(window) - len(latest))
        return report

    def row(self, document: Document, stamp: FileStamp | None = None) -> Row:
        """Return the row of ``document``, with the key of its tokens. Its images in memory are saved."""
        document = self.store.images.with_saved_images(document)
        content = document.content(self.encoder.modalities)
        key = self.encoder.key(content, None if stamp is None else stamp.digest)
        return Row(document, key, stamp, content.modality)

    def remove(self, ids: Iterable[str]) -> AddReport:
        """Remove the documents with these ``ids``."""
        return AddReport(removed=self.store.delete(list(ids)))

    def add_rows(self, rows: Sequence[Row]) -> AddReport:
        """Write the documents of ``rows``, which are rows of another store. They keep the versions of their files."""
        checked_documents([row.document for row in rows], self.encoder.modalities)
        return self.write(
            [replace(self.row(row.document, row.stamp), unsound=row.unsound) for row in rows],
            lambda part: self.on_progress(len(part)),
        )

    def repair(self, ids: Sequence[str]) -> None:
        """Encode the documents with these ``ids`` again, because their tokens are missing or damaged.

        Altered documents are left alone: the tokens of the altered text must not get the key of the right text.
        """
        rows = self.store.pooled.get(ids).values()
        for batch in batches([row for row in rows if not self.store.integrity.is_altered(row)]):
            self.store.repair(batch, self._encode(batch))

    def write(self, rows: Sequence[Row], on_rows: OnRows) -> AddReport:
        """Write rows with distinct ids, in batches of similar length. Only new contents are encoded."""
        existing = self.store.pooled.get([row.document.id for row in rows])
        lost = {rows[i].key for i in self.store.tokens.missing([row.key for row in rows])}
        unchanged: list[Row] = []
        changed: list[Row] = []
        new: list[Row] = []
        for row in rows:
            before = existing.get(row.document.id)
            if before is None or before.key != row.key or row.key in lost or self.store.integrity.is_altered(before):
                new.append(row)
            elif row.is_same(before):
                unchanged.append(row)
            else:
                changed.append(row)
        self.encoder.forget(row.key for row in [*unchanged, *changed])
        report = AddReport(unchanged=len(unchanged))
        on_rows(unchanged)
        if changed:  # only the metadata of these rows has changed
            self.store.update_metadata(changed)
            report += self.committed(changed, len(changed), on_rows)
        new.sort(key=lambda row: (row.modality != "text", len(row.document.text)), reverse=True)
        return report + self._encode_and_commit(new, on_rows)

    def _encode_and_commit(self, rows: Sequence[Row], on_rows: OnRows) -> AddReport:
        """Write ``rows``. While one batch is pooled and written, the next batch is encoded."""
        report = AddReport()
        writing: list[tuple[Sequence[Row], int, Future[int]]] = []

        def finish() -> None:
            nonlocal report
            while writing:
                batch, tokens, replaced = writing.pop()
                if self.on_tokens:
                    self.on_tokens(tokens)
                report += self.committed(batch, replaced.result(), on_rows)

        with ThreadPoolExecutor(1, "smart_rag") as writer:
            try:
                for batch in batches(rows):
                    for part, vectors in self._readable(batch):
                        if isinstance(vectors, FailedFile):
                            report += AddReport(failed=(vectors,))
                            on_rows(part)
                            continue
                        finish()
                        tokens = int(vectors.tokens.offsets[-1])
                        writing.append((part, tokens, writer.submit(self.store.commit, part, vectors)))
            finally:  # if a later batch fails, the batch that is being written is still finished
                finish()
        return report

    def _readable(self, rows: Sequence[Row]) -> Iterator[tuple[Sequence[Row], Representation | FailedFile]]:
        """Yield ``rows`` with their vectors. If a row's file cannot be read, yield the reason instead of vectors."""
        try:
            yield rows, self._encode(rows)
            return
        except DocumentError as error:
            if any(row.stamp is None for row in rows):  # the document is from the caller, who gets the error
                raise
            reason = error
        if len(rows) == 1:
            yield rows, FailedFile(reason.path, reason.reason)
            return
        for row in rows:
            yield from self._readable([row])

    def _encode(self, rows: Sequence[Row]) -> Representation:
        """Return the vectors of ``rows``. Equal contents are encoded only once."""
        vectors = self.encoder.encode_rows({row.key: row.document.content(self.encoder.modalities) for row in rows})
        position = {key: i for i, key in enumerate(dict.fromkeys(row.key for row in rows))}
        return vectors if len(position) == len(rows) else vectors.take([position[row.key] for row in rows])

    def committed(self, rows: Sequence[Row], replaced: int, on_rows: OnRows) -> AddReport:
        """Report ``rows``, which are on disk now. ``replaced`` of them replaced others."""
        on_rows(rows)
        if self.on_commit:
            self.on_commit([row.document.id for row in rows])
        return AddReport(added=len(rows) - replaced, replaced=replaced)


def batches(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Yield parts of ``rows``, one for each commit. Images and videos have many tokens, so their parts are small."""
    start = 0
    while start < len(rows):
        size = _BATCH if rows[start].modality == "text" else _VISUAL_BATCH
        yield rows[start : start + size]
        start += size

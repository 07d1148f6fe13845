"""`Ingest`: writes documents and files into a `DocumentStore`. Stored contents are not encoded again.

A stream is read in windows. The documents of a window are sorted by length and committed in batches. So only one
window of texts and one batch of token embeddings are in memory at a time.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from smart_rag.embeddings.representation import Representation
from smart_rag.errors import DocumentError, InvalidInput
from smart_rag.files.content import digest_of_file
from smart_rag.files.reader import Reader, source_of
from smart_rag.index.index_encoder import IndexEncoder
from smart_rag.paths import absolute
from smart_rag.store.document_store import DocumentStore
from smart_rag.store.row import FileStamp, Row, plain_metadata
from smart_rag.types import AddReport, Document, FailedFile, PdfPage, is_unicode
from smart_rag.values import plain_dict

OnCommit = Callable[[Sequence[str]], None]
OnRows = Callable[[Sequence["Row"]], object]

_WINDOW = 2_048
# Maximum number of documents in a window of files. It is small, because the next run skips only files that were
# committed.
_FILE_WINDOW = 256
_BATCH = 128
# A page of 1,800 tokens with 2,048 dimensions takes 15 MB, and there are several copies during encoding and writing.
_VISUAL_BATCH = 4


@dataclass(frozen=True, slots=True)
class Ingest:
    """State of one call that writes: the target store, the encoder, and the callbacks.

    ``on_progress`` is called with the number of documents that were just finished. In `add_files`, it is the number of
    pages. A file without pages counts as one page. ``on_commit`` is called with the ids of documents that are now on
    disk, and ``on_tokens`` with the number of their token embeddings that were encoded.
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
            rows = [self._row(document) for document in latest]
            report += self._write(rows, lambda part: self.on_progress(len(part)))
            self.on_progress(len(window) - len(latest))
        return report

    def _row(self, document: Document, stamp: FileStamp | None = None) -> Row:
        document = self.store.images.with_saved_images(document)
        content = document.content(self.encoder.modalities)
        key = self.encoder.key(content, None if stamp is None else stamp.hash)
        return Row(document, key, stamp, content.modality)

    def add_files(self, files: Iterable[Path], reader: Reader) -> AddReport:
        """Write the documents of ``files``. A file is skipped if its bytes have not changed.

        A file that cannot be read is reported. This includes a file that needs too much memory.
        """
        report = AddReport()
        rows: list[Row] = []
        stale: list[str] = []
        done = 0
        for path in files:
            try:
                changed, before = self._file(path, reader)
            except (DocumentError, MemoryError) as error:
                report += AddReport(failed=(_failed(path, error),))
                self.on_progress(reader.count_pages(path))
                continue
            if not changed:
                report += AddReport(unchanged=len(before))
                self.on_progress(reader.count_pages(path))
                continue
            rows += changed
            stale += set(before) - {row.document.id for row in changed}
            done += 0 if _pages(changed) else 1
            if len(rows) >= _FILE_WINDOW:
                report += self._write_files(rows, stale)
                self.on_progress(done)
                rows, stale, done = [], [], 0
        report += self._write_files(rows, stale)
        self.on_progress(done)
        return report

    def gone(self, paths: Iterable[str | Path]) -> dict[str, list[str]]:
        """Return the indexed files below ``paths`` that no longer exist, with the ids of their documents."""
        roots = [root for path in paths if (root := absolute(path).resolve()).is_dir()]
        if not roots:
            return {}

        @cache
        def is_gone(source: str) -> bool:
            path = Path(source)
            return any(map(path.is_relative_to, roots)) and not path.exists()

        # This looks at ids first, because reading every row takes twenty times as long.
        ids = [id for id in self.store.pooled.ids() if is_gone(source_of(id))]
        found: dict[str, list[str]] = {}
        for id, row in self.store.pooled.get(ids).items():
            if row.stamp is not None:
                found.setdefault(row.document.metadata["source"], []).append(id)
        return found

    def remove(self, ids: Iterable[str]) -> AddReport:
        """Remove the documents with these ``ids``."""
        return AddReport(removed=self.store.delete(list(ids)))

    def add_rows(self, rows: Sequence[Row]) -> AddReport:
        """Write the documents of ``rows``, which are rows of another store. They keep the versions of their files."""
        checked_documents([row.document for row in rows], self.encoder.modalities)
        return self._write(
            [replace(self._row(row.document, row.stamp), unsound=row.unsound) for row in rows],
            lambda part: self.on_progress(len(part)),
        )

    def repair(self, ids: Sequence[str]) -> None:
        """Encode the documents with these ``ids`` again, because their tokens are missing or damaged.

        Altered documents are left alone: the tokens of the altered text must not get the key of the right text.
        """
        rows = self.store.pooled.get(ids).values()
        for batch in batches([row for row in rows if not self.store.integrity.is_altered(row)]):
            self.store.repair(batch, self._encode(batch))

    def _file(self, path: Path, reader: Reader) -> tuple[list[Row], list[str]]:
        """Return the rows of a file, and the ids of its documents in the index. An unchanged file has no rows."""
        source = str(path)
        digest = digest_of_file(path)
        before = [row for row in self.store.pooled.select({"source": source}) if row.stamp is not None]
        if before and all(row.stamp == FileStamp(digest, len(before)) and not row.is_altered() for row in before):
            return [], [row.document.id for row in before]
        documents = reader.read(path).documents
        stamp = FileStamp(digest, len(documents))
        return [self._row(document, stamp) for document in documents], [row.document.id for row in before]

    def _write_files(self, rows: list[Row], stale: list[str]) -> AddReport:
        """Write the rows of whole files, and then remove the documents of earlier versions of these files."""
        report = self._write(rows, lambda part: self.on_progress(_pages(part)))
        return report + AddReport(removed=self.store.delete(stale))

    def _write(self, rows: Sequence[Row], on_rows: OnRows) -> AddReport:
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
            report += self._committed(changed, len(changed), on_rows)
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
                report += self._committed(batch, replaced.result(), on_rows)

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

    def _committed(self, rows: Sequence[Row], replaced: int, on_rows: OnRows) -> AddReport:
        on_rows(rows)
        if self.on_commit:
            self.on_commit([row.document.id for row in rows])
        return AddReport(added=len(rows) - replaced, replaced=replaced)


def _failed(path: Path, error: DocumentError | MemoryError) -> FailedFile:
    if isinstance(error, DocumentError):
        return FailedFile(error.path, error.reason)
    return FailedFile(path, "reading it takes more memory than there is; split the file")


def _pages(rows: Sequence[Row]) -> int:
    """Return the number of ``rows`` that are pages of a PDF."""
    return sum(isinstance(row.document.image, PdfPage) for row in rows)


def checked_documents(documents: Sequence[Document], modalities: Collection[str] = ("text",)) -> list[Document]:
    """Return ``documents`` with plain metadata (`plain_metadata`).

    Raises:
        InvalidInput: a document cannot be stored or encoded, or two documents have the same id.
    """
    checked = []
    for document in documents:
        if not isinstance(document, Document):
            raise InvalidInput(f"expected a Document, got {type(document).__name__}; add_texts takes texts")
        if not isinstance(document.id, str) or not document.id:
            raise InvalidInput(f"a document's id must be a str that is not empty, got {document.id!r}")
        if not isinstance(document.text, str):
            raise InvalidInput(f"document {document.id!r}: text must be a str, got {type(document.text).__name__}")
        if not document.content(modalities).modality:
            held = " and ".join(name for name in ("image", "video") if getattr(document, name) is not None)
            raise InvalidInput(
                f"document {document.id!r} has no text"
                + (f"; its {held} needs a model that takes it, this one takes {', '.join(modalities)}" if held else "")
            )
        if not is_unicode(document.id) or not is_unicode(document.text):
            raise InvalidInput(f"document {document.id!r}: id and text must be Unicode without lone surrogates")
        checked.append(replace(document, metadata=plain_metadata(document)))
    twice = [name for name, times in Counter(document.id for document in documents).items() if times > 1]
    if twice:
        raise InvalidInput(f"{len(twice)} ids come more than once in one call, the first is {twice[0]!r}")
    return checked


def batches(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Yield parts of ``rows``, one for each commit. Images and videos have many tokens, so their parts are small."""
    start = 0
    while start < len(rows):
        size = _BATCH if rows[start].modality == "text" else _VISUAL_BATCH
        yield rows[start : start + size]
        start += size


def documents_of_texts(
    texts: Sequence[str], ids: Sequence[str] | None, metadatas: Sequence[Mapping[str, Any]] | None
) -> list[Document]:
    """Return ``texts`` as documents. Without ``ids``, an id is a hash of the text and its metadata."""
    if isinstance(texts, str):
        raise InvalidInput("texts must be a sequence of str, got one str")
    metadatas = metadatas if metadatas is not None else [{}] * len(texts)
    if len(metadatas) != len(texts) or (ids is not None and len(ids) != len(texts)):
        raise InvalidInput(
            f"{len(texts)} texts need as many ids and metadatas, got "
            f"{len(texts) if ids is None else len(ids)} and {len(metadatas)}"
        )
    for i, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise InvalidInput(f"text {i} must be a str that is not empty, got {text!r}")
    plain = [plain_dict(metadata, f"the metadata of text {i}") for i, metadata in enumerate(metadatas)]
    names = ids if ids is not None else list(map(_content_id, texts, plain))
    return list(map(Document, names, texts, plain))


def _content_id(text: str, metadata: Mapping[str, Any]) -> str:
    content = json.dumps([text, metadata], sort_keys=True)
    return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

"""`FileIngest`: writes the documents of files. A file is known by its path, and after a move by its bytes.

One file never ends the run: what cannot be read is reported with its path, and the next file is read.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from smart_rag.embeddings.representation import Representation
from smart_rag.errors import CorruptStore, DocumentError, InvalidInput, MissingExtra, SmartRagError
from smart_rag.files.content import digest_of_file
from smart_rag.files.finder import SAME_CONTENT
from smart_rag.files.reader import Reader, Reading, can_be_recognised, id_of, source_of
from smart_rag.index.writing.documents import checked_documents
from smart_rag.index.writing.ingest import Ingest, batches
from smart_rag.paths import shown
from smart_rag.reports import AddReport, FailedFile, IndexedFile, ReadFile, SkippedFile
from smart_rag.store.pooled_store import PooledStore
from smart_rag.store.row import OF_FILES, FileStamp, Row, of_bytes
from smart_rag.types import Document, PdfPage
from smart_rag.wording import one_line

logger = logging.getLogger(__name__)

# Maximum number of documents in a window of files. It is small, because the next run skips only files that were
# committed.
_WINDOW = 256
# What follows the digest in the stamp of a file that was read with the recognition of text.
_WITH_OCR = "+ocr"
# What follows the digest in every stamp. A release that reads files better changes it. Then each file is read once
# more, and what has the same text as before is not encoded. Releases before the second way of reading wrote nothing.
_READING = "+2"


@dataclass(frozen=True, slots=True)
class FileIngest:
    """Writes the documents of files by ``ingest``. Its ``on_progress`` is called with numbers of pages.

    A file without pages counts as one page.

    If ``ocr`` is True, the text of scans is recognised. The stamps of the rows remember this. So a file that was read
    without it is read again, and a file that was read with it is never read without it.
    """

    ingest: Ingest
    reader: Reader
    ocr: bool = False
    show_progress_bar: bool = False
    _first: dict[tuple[str, str], Path] = field(default_factory=dict)  # the first file of these bytes and this suffix
    _digests: dict[Path, str] = field(default_factory=dict)

    def add(self, files: Iterable[Path]) -> AddReport:
        """Write the documents of ``files``. A file is skipped if its bytes have not changed.

        If another file, here or in the index, has the same bytes and suffix, only one of the two is written. If this
        other file no longer exists, the file was moved: its documents get the new path, and are not encoded again. A
        file that cannot be read is reported. This includes a file that needs too much memory.
        """
        report = AddReport()
        window = _Window()
        for path in files:
            try:
                outcome = self._outcome(path)
            except (DocumentError, MissingExtra, MemoryError, InvalidInput) as error:
                outcome = AddReport(failed=(_failed(path, error),))
            if isinstance(outcome, AddReport):
                report += outcome
                self.ingest.on_progress(self.reader.count_pages(path))
                continue
            window.add(outcome)
            if len(window.rows) >= _WINDOW:
                report += self._write(window)
                window = _Window()
        return report + self._write(window)

    def _outcome(self, path: Path) -> AddReport | _ChangedFile:
        """Return the rows of a file that has changed, or a report if there is nothing to encode."""
        digest = digest_of_file(path)
        before = [row for row in self._select({"source": str(path)}) if row.stamp is not None]
        ids = [row.document.id for row in before]
        ocr = can_be_recognised(path) and (self.ocr or any(_is_recognised(row) for row in before))
        version = digest + _READING + _WITH_OCR * ocr
        if before and all(row.stamp == FileStamp(version, len(before)) and not row.is_altered() for row in before):
            self._first.setdefault((digest, path.suffix), path)
            return AddReport(unchanged=len(before))
        other = self._first.get((digest, path.suffix))
        twins = {} if other else self._twins(path, [version] if ocr else [version, version + _WITH_OCR, digest])
        other = other or next((twin for twin, rows in twins.items() if self._holds(twin, rows, digest)), None)
        if other is not None:
            return AddReport(
                removed=self.ingest.store.delete(ids), skipped=(SkippedFile(path, SAME_CONTENT, shown(other)),)
            )
        for twin, rows in twins.items() if not before else ():
            if not is_gone(twin) or not self._are_whole(rows):
                continue
            moved = [_moved(row, twin, path) for row in rows]
            self._check_ids(path, moved)
            try:
                report = self._move(rows, moved)
            except CorruptStore as error:  # then it is encoded, like a file that has changed
                logger.warning("%s: the passages of %s cannot be moved (%s)", shown(path), shown(twin), error)
                continue
            self._first[digest, path.suffix] = path
            return report
        reading = self._read(path, ocr)
        self._first[digest, path.suffix] = path
        stamp = FileStamp(version, len(reading.documents))
        rows = [self.ingest.row(document, stamp) for document in reading.documents]
        self._check_ids(path, rows)
        return _ChangedFile(path, rows, [*ids], reading.left_out)

    def _check_ids(self, path: Path, rows: Sequence[Row]) -> None:
        """Raise `DocumentError` if the index has a document with the id of one of ``rows`` that is from no file."""
        there = self.ingest.store.pooled.get([row.document.id for row in rows])
        own = [id for id, row in there.items() if row.stamp is None]
        if own:
            raise DocumentError(
                path,
                f"its passage would replace the document {own[0]!r}, which was not added from a file; delete that "
                "document, or give it another id",
            )

    def _read(self, path: Path, ocr: bool) -> Reading:
        try:
            reading = self.reader.read(path, ocr, self.show_progress_bar)
            return replace(reading, documents=checked_documents(reading.documents, self.ingest.encoder.modalities))
        except (SmartRagError, MemoryError):
            raise
        except Exception as error:  # whatever a parser raises, the other files are still read
            logger.warning("%s: reading it failed in a way that nobody expected", shown(path), exc_info=True)
            raise DocumentError(path, f"cannot be read ({type(error).__name__}: {one_line(error)})") from error

    def _twins(self, path: Path, versions: Sequence[str]) -> dict[Path, list[Row]]:
        """Return the rows of other files in the index with one of these ``versions``, by the paths of these files.

        A file with another suffix is read in another way, so it is another file.
        """
        found: dict[Path, list[Row]] = {}
        for version in versions:
            for row in self._select(of_bytes(version)):
                source = Path(source_of(row.document.id))
                if source != path and source.suffix == path.suffix:
                    found.setdefault(source, []).append(row)
        return found

    def _holds(self, path: Path, rows: Sequence[Row], digest: str) -> bool:
        """Return whether the file ``path`` still has the bytes with this ``digest``, and ``rows`` are all its rows."""
        if is_gone(path) or _exists(path) is None or not self._are_whole(rows):
            return False
        if path not in self._digests:
            try:
                self._digests[path] = digest_of_file(path)
            except DocumentError:  # if it is one of the files of this call, it is reported in its turn
                return False
        return self._digests[path] == digest

    def _are_whole(self, rows: Sequence[Row]) -> bool:
        """Return whether ``rows`` are all rows of a file, as they were added, with all that the index may read."""
        refused = self.ingest.store.pooled.refused_files
        return not any(
            row.stamp is None or row.stamp.chunks != len(rows) or row.is_altered() or refused(row.document.id)
            for row in rows
        )

    def _move(self, rows: Sequence[Row], moved: Sequence[Row]) -> AddReport:
        """Write the vectors and terms of ``rows`` with the rows ``moved``, and then remove ``rows``."""
        store = self.ingest.store
        for part, new in zip(batches(rows), batches(moved), strict=True):
            stored = store.stored([row.document.id for row in part])
            store.commit(new, Representation.concatenate([one[1] for one in stored]), [one[2] for one in stored])
            self.ingest.committed(new, 0, lambda _: None)
        store.delete([row.document.id for row in rows])
        return AddReport(moved=len(moved))

    def _write(self, window: _Window) -> AddReport:
        """Write the rows of whole files, and then remove the documents of earlier versions of these files."""
        report = self.ingest.write(window.rows, lambda part: self.ingest.on_progress(_pages(part)))
        refused = Counter(failed.path for failed in report.failed)  # images that could not be encoded
        read = (replace(file, passages=file.passages - refused[file.path]) for file in window.read)
        report += AddReport(
            removed=self.ingest.store.delete(list(window.stale)), read=tuple(file for file in read if file.passages)
        )
        self.ingest.on_progress(window.without_pages)
        return report

    def _select(self, where: dict[str, str]) -> Iterator[Row]:
        return self.ingest.store.pooled.select(where)


@dataclass(frozen=True, slots=True)
class _ChangedFile:
    """The new rows of a file, the ids of its earlier documents, and what the rows lack."""

    path: Path
    rows: list[Row]
    before: list[str]
    left_out: Sequence[str]


@dataclass(slots=True)
class _Window:
    """Files whose rows are written together."""

    rows: list[Row] = field(default_factory=list)
    stale: set[str] = field(default_factory=set)
    read: list[ReadFile] = field(default_factory=list)
    without_pages: int = 0

    def add(self, file: _ChangedFile) -> None:
        self.rows += file.rows
        self.stale |= set(file.before) - {row.document.id for row in file.rows}
        characters = sum(len(row.document.text) for row in file.rows)
        self.read.append(ReadFile(file.path, len(file.rows), characters, tuple(file.left_out)))
        self.without_pages += 0 if _pages(file.rows) else 1


def indexed_files(pooled: PooledStore) -> list[IndexedFile]:
    """Return the files whose documents are stored, sorted by path."""
    counts = Counter(map(source_of, pooled.ids(OF_FILES)))
    return [IndexedFile(Path(source), count, _exists(Path(source))) for source, count in sorted(counts.items())]


def ids_below(
    pooled: PooledStore, roots: Collection[Path], wanted: Callable[[Path], bool] = lambda _: True
) -> list[str]:
    """Return the ids of the documents of files that are at or below one of ``roots`` and that are ``wanted``."""
    places = set(roots)

    @cache
    def is_one(source: str) -> bool:
        path = Path(source)
        return not places.isdisjoint([path, *path.parents]) and wanted(path)

    if not places:
        return []
    # This looks at ids first, because reading every row takes twenty times as long.
    ids = [id for id in pooled.ids() if is_one(source_of(id))]
    return [id for id, row in pooled.get(ids).items() if row.stamp is not None]


def is_gone(path: Path) -> bool:
    """Return whether there is certainly no file of this path any more.

    If its folder may not be read, nobody knows. If it is, or lies behind, a link, it is a name of another path, by
    which `find` finds this file.
    """
    exists = _exists(path)
    return exists is False or (exists is True and os.path.realpath(path) != str(path))


def _exists(path: Path) -> bool | None:
    """Return whether ``path`` exists. The result is None if the system does not say, because of permissions."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return None
    return True


def _moved(row: Row, old: Path, new: Path) -> Row:
    """Return ``row`` of the file ``old`` as a row of the file ``new``."""
    document = row.document
    image, video = document.image, new if document.video == old else document.video
    if isinstance(image, PdfPage) and image.path == old:
        image = PdfPage(new, image.page)
    elif image == old:
        image = new
    metadata = {**document.metadata, "source": str(new)}
    moved = Document(id_of(new, metadata["chunk"]), document.text, metadata, image, video)
    return replace(row, document=moved, stored=None)


def _is_recognised(row: Row) -> bool:
    """Return whether the file of ``row`` was read with the recognition of text."""
    return row.stamp is not None and row.stamp.hash.endswith(_WITH_OCR)


def _failed(path: Path, error: SmartRagError | MemoryError) -> FailedFile:
    if isinstance(error, DocumentError):
        return FailedFile(error.path, error.reason)
    if isinstance(error, MemoryError):
        return FailedFile(path, "reading it takes more memory than there is; split the file")
    return FailedFile(path, one_line(error))


def _pages(rows: Sequence[Row]) -> int:
    """Return the number of ``rows`` that are pages of a PDF, encoded as images."""
    return sum(isinstance(row.document.image, PdfPage) and row.modality != "text" for row in rows)

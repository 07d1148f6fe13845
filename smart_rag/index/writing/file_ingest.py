"""`FileIngest`: writes the documents of files. A file is known by its path, and after a move by its bytes.

One file never ends the run: what cannot be read is reported with its path, and the next file is read.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from smart_rag.errors import DocumentError, InvalidInput, MissingExtra, SmartRagError
from smart_rag.files.content import digest_of_file
from smart_rag.files.finder import SAME_CONTENT
from smart_rag.files.reader import Reader, Reading, can_be_recognised, has_no_text, source_of
from smart_rag.index.writing.documents import checked_documents
from smart_rag.index.writing.ingest import Ingest
from smart_rag.index.writing.moves import Moves
from smart_rag.paths import shown
from smart_rag.reports import AddReport, FailedFile, ReadFile, SkippedFile
from smart_rag.store.row import FileStamp, Row
from smart_rag.types import PdfPage
from smart_rag.wording import number, one_line

logger = logging.getLogger(__name__)

# Maximum number of documents in a window of files. It is small, because the next run skips only files that were
# committed.
_WINDOW = 256
# What follows the digest in the stamp of a file that was read with the recognition of text.
_WITH_OCR = "+ocr"
# What follows the digest in every stamp. A release that reads files better changes it. Then each file is read once
# more, and what has the same text as before is not encoded. Releases before the second way of reading wrote nothing.
_READING = "+3"


@dataclass(frozen=True, slots=True)
class FileIngest:
    """Writes the documents of files by ``moves.ingest``. Its ``on_progress`` is called with numbers of pages.

    A file without pages counts as one page.

    If ``ocr`` is True, the text of scans is recognised. The stamps of the rows remember this. So a file that was read
    without it is read again, and a file that was read with it is never read without it.
    """

    moves: Moves
    reader: Reader
    ocr: bool = False
    show_progress_bar: bool = False
    _first: dict[tuple[str, str], Path] = field(default_factory=dict)  # the first file of these bytes and this suffix

    @property
    def ingest(self) -> Ingest:
        """What writes the documents."""
        return self.moves.ingest

    def add(self, files: Iterable[Path]) -> AddReport:
        """Write the documents of ``files``. A file is skipped if its bytes have not changed.

        If another file, here or in the index, has the same bytes and suffix, only one of the two is written, and the
        other is remembered (`Duplicates`). If the file in the index is gone or left out now, its documents get the path
        of the other, and are not encoded again. A file that cannot be read is reported. This includes a file that needs
        too much memory. A file that has become empty loses its documents.
        """
        report = AddReport()
        window = _Window()
        for path in self._with_unread(files):
            try:
                outcome = self._outcome(path)
            except (DocumentError, MissingExtra, MemoryError, InvalidInput) as error:
                outcome = AddReport(failed=(failed_file(path, error),))
            if isinstance(outcome, AddReport):
                report += outcome
                self.ingest.on_progress(self.reader.count_pages(path))
                continue
            window.add(outcome)
            if len(window.rows) >= _WINDOW:
                report += self._write(window)
                window = _Window()
        return report + self._write(window)

    def remove(self, ids: Sequence[str]) -> AddReport:
        """Remove the documents of files with these ``ids``. A duplicate takes them over, if there is one."""
        return self.moves.remove(ids) + self.add(())

    def remember_links(self, links: Mapping[Path, Path]) -> None:
        """Remember ``links``, which are hard links of files that `add` has looked at, as duplicates of these files."""
        for path, first in links.items():
            if digest := self.moves.digests.get(first):
                self.moves.duplicates.add(path, digest)

    def _with_unread(self, files: Iterable[Path]) -> Iterator[Path]:
        """Yield ``files``, and then the duplicates that could not take over the documents of one of them."""
        done: set[Path] = set()
        for path in files:
            done.add(path)
            yield path
        while self.moves.unread:
            path = self.moves.unread.pop()
            if path not in done:
                done.add(path)
                yield path

    def _outcome(self, path: Path) -> AddReport | _ChangedFile:
        """Return the rows of a file that has changed, or a report if there is nothing to encode."""
        digest = self.moves.digests[path] = digest_of_file(path)
        content = digest, path.suffix.lower()
        before = [row for row in self._select({"source": str(path)}) if row.stamp is not None]
        ids = [row.document.id for row in before]
        ocr = can_be_recognised(path) and (self.ocr or any(_is_recognised(row) for row in before))
        version = digest + _READING + _WITH_OCR * ocr
        if before and all(row.stamp == FileStamp(version, len(before)) and not row.is_altered() for row in before):
            self._first.setdefault(content, path)
            self.moves.duplicates.forget(path)
            return AddReport(unchanged=0 if path in self.moves.received else len(before))
        other = self._first.get(content)
        versions = [version] if ocr else [version, version + _WITH_OCR, digest]
        twins = {} if other else self.moves.twins(path, versions)
        other = other or next((twin for twin, rows in twins.items() if self.moves.holds(twin, rows, digest)), None)
        if other is not None:
            kept = self.moves.keep(before, digest)
            self.moves.duplicates.add(path, digest)
            removed = self.ingest.store.delete(ids)
            return AddReport(removed=removed, moved=kept, skipped=(SkippedFile(path, SAME_CONTENT, shown(other)),))
        for twin, rows in twins.items() if not before else ():
            report = self.moves.move(rows, twin, path) if self.moves.goes(twin) else None
            if report is not None:
                self._first[content] = path
                return report
        try:
            reading = self._read(path, ocr)
        except DocumentError as error:
            if not before or not has_no_text(error):
                raise
            kept = self.moves.keep(before, digest)
            removed = self.ingest.store.delete(ids)
            reason = f"{error.reason}; what it had before was removed from the index"
            return AddReport(removed=removed, moved=kept, failed=(FailedFile(path, reason),))
        self._first[content] = path
        self.moves.duplicates.forget(path)
        stamp = FileStamp(version, len(reading.documents))
        rows = [self.ingest.row(document, stamp) for document in reading.documents]
        self._check_ids(path, [document.id for document in reading.documents])
        return _ChangedFile(path, rows, ids, reading.left_out, self.moves.keep(before, digest))

    def _check_ids(self, path: Path, ids: Sequence[str]) -> None:
        """Raise `DocumentError` if the index has a document with one of these ``ids`` that is from no file."""
        own = self.moves.first_of_caller(ids)
        if own is not None:
            raise DocumentError(
                path,
                f"its passage would replace the document {own!r}, which was not added from a file; delete that "
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
            raise DocumentError(path, failed_file(path, error).reason) from error

    def _write(self, window: _Window) -> AddReport:
        """Write the rows of whole files, and then remove the documents of earlier versions of these files."""
        report = self.ingest.write(window.rows, lambda part: self.ingest.on_progress(_pages(part)))
        refused = Counter(failed.path for failed in report.failed)  # images that could not be encoded
        unread = Counter(
            Path(source_of(row.document.id))
            for row in window.rows
            if row.modality == "text" and not self.ingest.encoder.could_read(row.key)
        )
        read = (
            replace(
                file,
                passages=file.passages - refused[file.path],
                left_out=(*file.left_out, *_unread_by_model(unread[file.path], file.passages)),
            )
            for file in window.read
        )
        report += AddReport(
            removed=self.ingest.store.delete(list(window.stale)),
            moved=window.moved,
            read=tuple(file for file in read if file.passages),
        )
        self.ingest.on_progress(window.without_pages)
        return report

    def _select(self, where: dict[str, str]) -> Iterator[Row]:
        return self.ingest.store.pooled.select(where)


@dataclass(frozen=True, slots=True)
class _ChangedFile:
    """The new rows of a file, the ids of its earlier documents, and what the rows lack.

    ``moved`` of the earlier documents were written for another file that has the earlier bytes.
    """

    path: Path
    rows: list[Row]
    before: list[str]
    left_out: Sequence[str]
    moved: int


@dataclass(slots=True)
class _Window:
    """Files whose rows are written together."""

    rows: list[Row] = field(default_factory=list)
    stale: set[str] = field(default_factory=set)
    read: list[ReadFile] = field(default_factory=list)
    without_pages: int = 0
    moved: int = 0

    def add(self, file: _ChangedFile) -> None:
        self.rows += file.rows
        self.stale |= set(file.before) - {row.document.id for row in file.rows}
        characters = sum(len(row.document.text) for row in file.rows)
        self.read.append(ReadFile(file.path, len(file.rows), characters, tuple(file.left_out)))
        self.moved += file.moved
        self.without_pages += 0 if _pages(file.rows) else 1


def _unread_by_model(count: int, passages: int) -> Iterator[str]:
    """Yield what the report says of a file if the model cannot read ``count`` of its passages."""
    if count:
        yield f"{count:,} of {number(passages, 'passage')} cannot be read by the model"


def _is_recognised(row: Row) -> bool:
    """Return whether the file of ``row`` was read with the recognition of text."""
    return row.stamp is not None and row.stamp.hash.endswith(_WITH_OCR)


def failed_file(path: Path, error: Exception) -> FailedFile:
    """Return what the report says of a file that could not be read because of ``error``."""
    if isinstance(error, DocumentError):
        return FailedFile(error.path, error.reason)
    if isinstance(error, MemoryError):
        return FailedFile(path, "reading it takes more memory than there is; split the file")
    if isinstance(error, SmartRagError):
        return FailedFile(path, one_line(error))
    return FailedFile(path, f"cannot be read ({type(error).__name__}: {one_line(error)})")


def _pages(rows: Sequence[Row]) -> int:
    """Return the number of ``rows`` that are pages of a PDF, encoded as images."""
    return sum(isinstance(row.document.image, PdfPage) and row.modality != "text" for row in rows)

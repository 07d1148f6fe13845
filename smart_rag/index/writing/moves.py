"""`Moves`: gives the documents of a file the path of another file that has the same bytes. Nothing is encoded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from smart_rag.embeddings.representation import Representation
from smart_rag.errors import CorruptStore, DocumentError
from smart_rag.files.content import digest_of_file
from smart_rag.files.reader import id_of, source_of
from smart_rag.index.writing.duplicates import Duplicates
from smart_rag.index.writing.indexed_files import is_file, is_gone
from smart_rag.index.writing.ingest import Ingest, batches
from smart_rag.paths import shown
from smart_rag.reports import AddReport
from smart_rag.store.row import FileStamp, Row, of_bytes
from smart_rag.types import Document, PdfPage

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Moves:
    """Moves documents between files with the same bytes: of a file that was renamed, or to one of ``duplicates``.

    Attributes:
        ingest: writes the documents.
        duplicates: the files that may take over the documents of a file that is changed or removed.
        is_left_out: whether a path is left out of the index now, so that it must not take over anything.
        received: the files that have taken over documents of another file in this call.
        unread: duplicates that must be read, because the documents that they would take over are damaged or not
            complete.
        digests: the digests of the files that were looked at in this call.
    """

    ingest: Ingest
    duplicates: Duplicates
    is_left_out: Callable[[Path], bool] = lambda _: False
    received: set[Path] = field(default_factory=set)
    unread: list[Path] = field(default_factory=list)
    digests: dict[Path, str] = field(default_factory=dict)

    def twins(self, path: Path, versions: Collection[str]) -> dict[Path, list[Row]]:
        """Return the rows of other files in the index with one of these ``versions``, by the paths of these files.

        A file with another suffix is read in another way, so it is another file.
        """
        found: dict[Path, list[Row]] = {}
        for version in versions:
            for row in self.ingest.store.pooled.select(of_bytes(version)):
                source = Path(source_of(row.document.id))
                if source != path and source.suffix.lower() == path.suffix.lower():
                    found.setdefault(source, []).append(row)
        return found

    def holds(self, path: Path, rows: Sequence[Row], digest: str) -> bool:
        """Return whether ``rows`` are all rows of ``path``, and it stays in the index, with the bytes of ``digest``."""
        return not self.is_left_out(path) and self._are_whole(rows) and self._has_bytes(path, digest)

    def goes(self, path: Path) -> bool:
        """Return whether ``path`` does not stay in the index: the file is gone, or is left out now."""
        return is_gone(path) or self.is_left_out(path)

    def move(self, rows: Sequence[Row], old: Path, new: Path) -> AddReport | None:
        """Give ``rows``, which are all rows of ``old``, the path ``new``. If they are damaged, return None."""
        if not self._copy(rows, old, new):
            return None
        self.ingest.store.delete([row.document.id for row in rows])
        return AddReport(moved=len(rows))

    def first_of_caller(self, ids: Sequence[str]) -> str | None:
        """Return the first of ``ids`` that a document has which the caller added, and which is from no file."""
        there = self.ingest.store.pooled.get(ids)
        return next((id for id, row in there.items() if row.stamp is None), None)

    def keep(self, rows: Collection[Row], digest: str = "") -> int:
        """Keep ``rows``, which are then replaced or removed, if another file has the bytes that they were made from.

        They are written with the path of this file, one of the duplicates. Rows of the version with ``digest`` need not
        be kept. Return the number of rows that were written.
        """
        files: dict[tuple[Path, FileStamp], list[Row]] = {}
        for row in rows if self.duplicates else ():
            if row.stamp is not None and row.stamp.digest != digest:
                files.setdefault((Path(source_of(row.document.id)), row.stamp), []).append(row)
        kept, going = 0, {path for path, _ in files}
        for (path, stamp), group in files.items():
            heir = self._heir(path, stamp, going)
            if heir is None:
                continue
            if self._copy(group, path, heir):
                self.received.add(heir)
                kept += len(group)
            else:
                self.unread.append(heir)
        return kept

    def remove(self, ids: Sequence[str]) -> AddReport:
        """Remove the documents of files with these ``ids``. A duplicate takes them over, if there is one."""
        kept = self.keep(self.ingest.store.pooled.get(ids).values()) if self.duplicates else 0
        return AddReport(moved=kept, removed=self.ingest.store.delete(ids) - kept)

    def warn_of_unread(self) -> None:
        """Warn of the duplicates that must be read, if the caller cannot read them."""
        for path in self.unread:
            logger.warning(
                "%s: has the same bytes as a file whose passages were removed; these were damaged, so index it again",
                shown(path),
            )

    def _heir(self, path: Path, stamp: FileStamp, going: Collection[Path]) -> Path | None:
        """Return the duplicate that takes over the documents of ``path``.

        Return None if there is none, or if another file in the index has these documents and is not ``going``, too.
        """
        heir = next(self._heirs(path, stamp.digest), None)
        if heir is None:
            return None
        twins = self.twins(path, [stamp.hash])
        stay = (twin not in going and self.holds(twin, rows, stamp.digest) for twin, rows in twins.items())
        return None if any(stay) else heir

    def _heirs(self, path: Path, digest: str) -> Iterator[Path]:
        for one in self.duplicates.with_bytes(digest, path.suffix):
            if one == path or self.goes(one):
                continue
            if not self.ingest.store.pooled.sources.admits(one):
                logger.warning(
                    "%s: had the same bytes as %s, whose passages are replaced or removed; index it again, because "
                    "this user has not named it to the index yet",
                    *(shown(one), shown(path)),
                )
            elif self._has_bytes(one, digest):
                yield one

    def _has_bytes(self, path: Path, digest: str) -> bool:
        """Return whether ``path`` is a file with the bytes of ``digest``."""
        if is_gone(path) or is_file(path) is None:
            return False
        if path not in self.digests:
            try:
                self.digests[path] = digest_of_file(path)
            except DocumentError:  # if it is one of the files of this call, it is reported in its turn
                return False
        return self.digests[path] == digest

    def _are_whole(self, rows: Sequence[Row]) -> bool:
        """Return whether ``rows`` are all rows of a file, as they were added, with all that the index may read."""
        refused = self.ingest.store.pooled.refused_files
        return not any(
            row.stamp is None or row.stamp.chunks != len(rows) or row.is_altered() or refused(row.document.id)
            for row in rows
        )

    def _copy(self, rows: Sequence[Row], old: Path, new: Path) -> bool:
        """Write the vectors and terms of ``rows`` of the file ``old`` again, as rows of the file ``new``.

        Return False if ``rows`` are damaged or not complete, or would replace a document of the caller. Then ``new``
        must be read.
        """
        ids = [id_of(new, row.document.metadata["chunk"]) for row in rows]
        if not self._are_whole(rows) or self.first_of_caller(ids) is not None:
            return False
        store = self.ingest.store
        for part in batches(rows):
            try:
                stored = store.stored([row.document.id for row in part])
            except CorruptStore as error:
                logger.warning("%s: the passages of %s cannot be moved (%s)", shown(new), shown(old), error)
                return False
            moved = [_moved(row, old, new) for row, _, _ in stored]
            store.commit(moved, Representation.concatenate([one[1] for one in stored]), [one[2] for one in stored])
            self.ingest.committed(moved, 0, lambda _: None)
        self.duplicates.forget(new)
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

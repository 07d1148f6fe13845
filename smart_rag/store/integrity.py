"""`Integrity`: whether the rows, the tokens and the terms of an index are what was written, and fit together."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smart_rag.errors import CorruptStore
from smart_rag.store.checks.row_checksum import sound_vectors
from smart_rag.store.checks.vector_check import damage_of_vectors, known_traces
from smart_rag.store.pooled_store import PooledStore
from smart_rag.store.row import Row
from smart_rag.store.terms.centroid_terms import CentroidTerms
from smart_rag.store.terms.term_store import TermStore
from smart_rag.store.token_store import TokenStore, content_key
from smart_rag.types import Key, VerifyReport
from smart_rag.wording import number

logger = logging.getLogger(__name__)

# Times that the counts of rows and terms are compared, while others write.
_ATTEMPTS = 5
REPAIR = "build it again with index.verify(repair=True) or `smart-rag verify --repair`"


def check_row(folder: Path, row: Row, fingerprint: str | None, codec: str) -> None:
    """Raise `CorruptStore` if ``row``, a row of the index in ``folder``, is not what was added.

    Rows of older indexes have no checksum. If they were encoded from a text alone, their keys are hashes of the text.
    ``fingerprint`` and ``codec`` are those of the index. Without a ``fingerprint``, keys are not looked at.
    """
    if row.is_altered() or _has_another_key(row, fingerprint, codec):
        what = "text or metadata" if row.is_altered() else "text"
        raise CorruptStore(
            f"{folder}: the {what} of the document {row.document.id!r} is not what was added; restore the index from a "
            "backup, or add this document again"
        )


def marked(rows: Iterable[Row], fingerprint: str | None, codec: str) -> list[Row]:
    """Return ``rows``. Those that are not what was added are marked as unsound. See `check_row`."""
    return [
        replace(row, unsound=True) if row.is_altered() or _has_another_key(row, fingerprint, codec) else row
        for row in rows
    ]


def _has_another_key(row: Row, fingerprint: str | None, codec: str) -> bool:
    if fingerprint is None or row.modality != "text":
        return False
    return content_key(fingerprint, codec, row.document.text) != row.key


class Integrity:
    """Checks of the stores of the index in ``folder``. ``fingerprint`` is that of its encoder, if it has one."""

    def __init__(
        self,
        pooled: PooledStore,
        tokens: TokenStore,
        terms: TermStore,
        centroids: CentroidTerms,
        folder: Path,
        fingerprint: str | None,
    ) -> None:
        self._pooled = pooled
        self._tokens = tokens
        self._terms = terms
        self._centroids = centroids
        self._folder = folder
        self._fingerprint = fingerprint
        self._has_warned = False
        self._checked: tuple[int | None, int] | None = None
        self._foreign = 0  # rows that other programs wrote, as far as they were noticed

    def check_texts(self, rows: Iterable[Row]) -> None:
        """Raise `CorruptStore` if the text or metadata of a row are not those that were added."""
        for row in rows:
            check_row(self._folder, row, self._fingerprint_of_keys, self._tokens.codec.name)

    def checked(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Do the same as `check_texts`, and return ``rows``."""
        self.check_texts(rows)
        return rows

    def marked(self, rows: Iterable[Row]) -> list[Row]:
        """Return ``rows``. Those that are not what was added are marked as unsound."""
        return marked(rows, self._fingerprint_of_keys, self._tokens.codec.name)

    @property
    def _fingerprint_of_keys(self) -> str | None:
        """The fingerprint, if every key of a text is a hash of it.

        In older indexes, rows with the vectors of the caller do not say so, and their keys are other hashes.
        """
        return self._fingerprint if self._terms.is_complete else None

    def check_rows(self, rows: Sequence[Row], pooled: NDArray[np.float32]) -> None:
        """Raise `CorruptStore` if a row or its pooled embedding is not what was added.

        ``pooled`` (n, dimension) are the embeddings of n ``rows``.
        """
        self.check_texts(rows)
        traces = known_traces(self._terms, [row.revision for row in rows], [row.stored or {} for row in rows])
        for row, is_sound in zip(rows, sound_vectors(pooled, traces), strict=True):
            if not is_sound:
                raise CorruptStore(
                    f"{self._folder}: the pooled embedding of the document {row.document.id!r} is not what was added; "
                    f"{REPAIR}"
                )

    def is_altered(self, row: Row) -> bool:
        """Return whether ``row`` is not what was added."""
        return row.is_altered() or (self._terms.is_complete and self.has_another_key(row))

    def has_another_key(self, row: Row) -> bool:
        """Return whether the text of ``row`` does not fit its key."""
        return _has_another_key(row, self._fingerprint, self._tokens.codec.name)

    def check_counts(self) -> None:
        """Raise `CorruptStore` if terms of documents are lost, because rankings would change without notice.

        If the term store has more revisions than there are rows, rows may be lost. If rows are lost, log a warning.
        """
        if not self._terms.is_complete:
            return
        state = self._pooled.version(), self._terms.count()
        if None not in state and state == self._checked:
            return  # nothing has been written since the last check
        if self._counts_fit():
            self._checked = state
            return
        rows = list(self._pooled.select())
        missing = self._terms.missing([row.revision for row in rows])
        if missing:
            raise CorruptStore(
                f"{self._folder}: the terms of {number(len(missing), 'document')} are lost, the first is "
                f"{missing[0][0]!r}; write them again with index.verify(repair=True) or `smart-rag verify --repair`"
            )
        self._foreign = self._pooled.count() - len(rows)
        lost = self._terms.lost_ids([row.revision for row in rows])
        if lost and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%s: the rows of %s are lost, the first is %r; `smart-rag verify` names them",
                *(self._folder, number(len(lost), "document"), lost[0]),
            )

    def _counts_fit(self) -> bool:
        """Return whether the term store has as many revisions as there are rows.

        A revision in doubt may or may not have a row.

        Another process may be writing at this moment. So this function compares the counts several times. If they
        never fit, the caller looks at every row.
        """
        for _ in range(_ATTEMPTS):
            rows = self._pooled.count() - self._foreign
            if rows <= self._terms.count() <= rows + len(self._terms.doubtful()) or self._has_warned:
                return True
        return False

    def check_complete(self, rows: Sequence[Row] | None = None) -> None:
        """Raise `CorruptStore` if rows are lost or cannot be read. ``rows`` are all rows that can be read, if known."""
        rows = list(self._pooled.select()) if rows is None else rows
        unread = [*self._terms.lost_ids({row.revision for row in rows}), *self._unreadable(rows)]
        if unread:
            raise CorruptStore(
                f"{self._folder}: the rows of {number(len(unread), 'document')} are lost or damaged, the first is "
                f"{unread[0]!r}, so nothing was removed; restore the index from a backup, or add these documents again"
                ", or delete them by their ids"
            )

    def _unreadable(self, rows: Sequence[Row]) -> list[str]:
        """Return the ids of all rows except ``rows``: the damaged rows, and the rows of other programs."""
        return sorted(set(self._pooled.ids()).difference(row.document.id for row in rows))

    def verify(self) -> VerifyReport:
        """Read every entry back. Report lost and damaged parts of documents, and the number of orphans."""
        damage = self._chroma_damage()
        rows = list(self._pooled.select())
        unreadable = set(self._tokens.verify())
        suspects = self._faults(rows, unreadable)
        if any(suspects):  # look again, because others may have written meanwhile
            with self._pooled.write_lock():
                ids = list(set().union(*suspects))
                suspects = self._faults(list(self._pooled.get(ids).values()), set(self._tokens.verify()), ids)
        missing, damaged, altered, lost = suspects
        names = [row.document.id for row in rows]
        return VerifyReport(
            missing=tuple(name for name in names if name in missing),
            damaged=tuple(name for name in names if name in damaged - missing),
            altered=tuple(name for name in names if name in altered),
            lost=tuple(sorted(lost)),
            orphans=len(set(self._tokens.keys()) - {row.key for row in rows}),
            chroma_damage=damage,
        )

    def _chroma_damage(self) -> str | None:
        """Return in one line what is wrong with Chroma's files, or None.

        Raises:
            CorruptStore: Chroma cannot read them without ending the process.
        """
        folder = self._pooled.folder
        if folder is None:
            return None
        damage = self._pooled.damage()
        vectors = damage_of_vectors(folder, self._pooled.collection, self._terms.path)
        return damage or vectors

    def _faults(
        self, rows: Sequence[Row], unreadable: Collection[Key], asked: Sequence[str] | None = None
    ) -> tuple[set[str], set[str], set[str], set[str]]:
        """Return four sets of ids: documents with missing parts, with damaged parts, with another text, without a row.

        ``rows`` are the rows of the ids ``asked``. By default, they are all rows. ``unreadable`` are keys of damaged
        tokens.
        """
        revisions = [row.revision for row in rows]
        missing = {rows[i].document.id for i in self._tokens.missing([row.key for row in rows])}
        missing.update(id for id, _ in self._terms.missing(revisions))
        damaged = {row.document.id for row in rows if row.key in unreadable}
        damaged.update(id for id, _ in [*self._terms.damaged(revisions), *self._centroids.damaged(revisions)])
        has_trace = np.isfinite(self._terms.traces(revisions))
        altered = {
            row.document.id
            for row, is_new in zip(rows, has_trace, strict=True)
            if self.is_altered(row) or (is_new and row.lacks_checksum())
        }
        if asked is None:
            lost = {*self._terms.lost_ids(revisions), *self._unreadable(rows)}
        else:
            live = [row.revision for row in self._pooled.select()]
            gone = {*self._terms.lost_ids(live), *set(self._pooled.ids()).difference(id for id, _ in live)}
            lost = gone.intersection(asked)
        return missing, damaged, altered, lost

"""`RowReader`: reads Chroma's answers as rows. Rows that smart_rag did not write and files of others are left out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from smart_rag.errors import CorruptStore
from smart_rag.store.row import Row, files_of, from_chroma, key_of
from smart_rag.store.sources import Sources

logger = logging.getLogger(__name__)


class RowReader:
    """Reads rows of the index in the folder ``root``.

    Attributes:
        sources: the files that rows may name.
        refused: a dict from the ids of documents to their files that the index may not read.
    """

    def __init__(self, root: Path) -> None:
        self.sources = Sources(root)
        self.refused: dict[str, list[Path]] = {}
        self._root = root
        self._has_warned = False

    def rows(self, result: Any) -> list[Row]:
        """Return the rows in an answer of Chroma that has ids, documents and metadata."""
        parts = zip(result["ids"], result["documents"], result["metadatas"], strict=True)
        return [row for part in parts if (row := self.row(*part)) is not None]

    def key(self, id: str, metadata: Mapping[str, Any] | None) -> bytes | None:
        """Return the key of a row's tokens. Return None if smart_rag did not write the row, or if it is damaged."""
        try:
            return key_of(metadata or {})
        except CorruptStore as error:
            self._warn(f"the row {id!r} {error}; it is left out, `smart-rag verify` lists all such rows")
            return None

    def row(self, id: str, text: str | None, metadata: Mapping[str, Any] | None) -> Row | None:
        """Return a row. Return None if smart_rag did not write it, or if it is damaged.

        If the index must not read one of the row's files, the row is returned without image and video.
        """
        try:
            row = from_chroma(id, text, metadata or {}, self._root)
        except CorruptStore as error:
            self._warn(f"the row {id!r} {error}; it is left out, `smart-rag verify` lists all such rows")
            return None
        refused = [file for file in files_of(row.document) if not self.sources.admits(file)]
        if not refused:
            self.refused.pop(id, None)
            return row
        self.refused[id] = refused
        self._warn(
            f"the document {id!r} shows {refused[0]}, which you have not added to this index on this machine, so this "
            f"and other such files are not read; to read them, open the index with sources=[{str(refused[0].parent)!r}]"
        )
        return replace(row, document=replace(row.document, image=None, video=None))

    def _warn(self, message: str) -> None:
        """Log ``message``, unless this store has already logged one."""
        if not self._has_warned:
            self._has_warned = True
            logger.warning("%s: %s", self._root, message)

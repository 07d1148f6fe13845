"""What Chroma's SQLite file says about its vectors, read without Chroma.

Chroma's own code is not used here, because it loads the vectors, and damaged vectors end the process.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from smart_rag.errors import CorruptStore, StorageFull
from smart_rag.store.checks.chroma_schema import foreign_part
from smart_rag.wording import number

logger = logging.getLogger(__name__)

FILE_NAME = "chroma.sqlite3"
_VECTORS = "urn:chroma:segment/vector/hnsw-local-persisted"
_NO_DAMAGE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
}
# Tables with a column for each type of value. At most one of these columns has a value in a row.
_VALUES = ("embedding_metadata", "embedding_metadata_array")
_ODD_VALUES = (
    "SELECT count(*) FROM {} WHERE (typeof(string_value), typeof(int_value), typeof(float_value), typeof(bool_value)) "
    "NOT IN (VALUES ('text', 'null', 'null', 'null'), ('null', 'integer', 'null', 'null'), "
    "('null', 'null', 'real', 'null'), ('null', 'null', 'null', 'integer'), "
    "('null', 'null', 'null', 'null')) OR typeof(id) != 'integer' "
    "OR typeof(key) != 'text' OR coalesce(bool_value, 0) NOT IN (0, 1)"
)
_SECONDS = 30.0  # that another program may keep the file locked


@dataclass(frozen=True, slots=True)
class Segment:
    """The vectors of one collection.

    ``name`` is the name of their folder. ``dimension`` is None before the first vector. ``persisted`` is the number of
    the last record of Chroma's log whose vector is in the folder, and ``logged`` of the last record at all; 0 for none.
    """

    name: str
    dimension: int | None
    persisted: int
    logged: int


@contextmanager
def connection(folder: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection to Chroma's SQLite file in ``folder``. It cannot write rows.

    Raises:
        CorruptStore: the file is missing or damaged, or SQLite would run something that does not come from Chroma.
        sqlite3.OperationalError: the file is locked, or the operating system does not let SQLite read it.
    """
    file = folder / FILE_NAME
    if not file.is_file():
        raise CorruptStore(f"{file}: expected Chroma's SQLite file, found none; restore the index from a backup")
    # A process that was killed leaves a journal. SQLite must write to bring the file back to its last commit.
    mode = "rw" if os.access(file, os.W_OK) and os.access(folder, os.W_OK) else "ro"
    with (
        damage_named(folder),
        closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode={mode}", uri=True, timeout=_SECONDS)) as opened,
    ):
        opened.execute("PRAGMA query_only = 1")
        if (foreign := foreign_part(opened)) is not None:
            raise CorruptStore(
                f"{file}: expected the tables that Chroma makes, found {foreign}, which could change or stop what "
                "Chroma does; do not use this file, restore it from a backup, or index the documents again"
            )
        yield opened


@contextmanager
def damage_named(folder: Path) -> Iterator[None]:
    """Raise `CorruptStore` if SQLite finds its file in ``folder`` damaged while the block runs."""
    file = folder / FILE_NAME
    try:
        yield
    except (sqlite3.DatabaseError, UnicodeDecodeError, OverflowError) as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _NO_DAMAGE:
            raise
        raise CorruptStore(
            f"{file}: SQLite cannot read it ({error}); restore the index from a backup, or index the documents again"
        ) from error


def segments(folder: Path) -> list[Segment]:
    """Return the vectors of all collections in Chroma's ``folder``.

    Raises:
        CorruptStore: the SQLite file is missing or damaged.
    """
    with connection(folder) as opened:
        rows = opened.execute(
            "SELECT segments.id, collections.dimension, max_seq_id.seq_id, "
            "(SELECT max(other.seq_id) FROM segments AS twin JOIN max_seq_id AS other ON other.segment_id = twin.id "
            "WHERE twin.collection = segments.collection) "
            "FROM segments JOIN collections ON collections.id = segments.collection "
            "LEFT JOIN max_seq_id ON max_seq_id.segment_id = segments.id WHERE segments.type = ?",
            (_VECTORS,),
        ).fetchall()
    return [Segment(str(name), dimension, _number(done), _number(last)) for name, dimension, done, last in rows]


def _number(value: int | bytes | None) -> int:
    """Return a number of the log. Older versions of Chroma wrote it as bytes."""
    return int.from_bytes(value, "big") if isinstance(value, bytes) else int(value or 0)


def count_of_rows(folder: Path) -> int:
    """Return the number of rows of all collections in Chroma's ``folder``."""
    with connection(folder) as opened:
        return int(opened.execute("SELECT count(*) FROM embeddings").fetchone()[0])


def damage_of_tables(folder: Path) -> str | None:
    """Return in one line what SQLite finds wrong in its file in ``folder``, or None.

    The search for words in texts has an index of its own, which SQLite checks in a copy, because the check writes.

    Raises:
        CorruptStore: the file is missing, or so damaged that it cannot be copied.
    """
    with connection(folder) as opened:
        found = [str(line) for (line,) in opened.execute("PRAGMA integrity_check(3)")]
        if found != ["ok"]:
            return f"{folder / FILE_NAME}: SQLite finds it damaged ({' '.join('; '.join(found).split())})"
        for table in _VALUES:
            odd = opened.execute(_ODD_VALUES.format(table)).fetchone()[0]
            if odd:
                return f"{folder / FILE_NAME}: {number(odd, 'row')} of {table} with two values or a wrong type"
    with tempfile.TemporaryDirectory(prefix="smart_rag_check_") as place:
        copy_tables(folder, Path(place))
        with closing(sqlite3.connect(Path(place) / FILE_NAME)) as copy:
            try:
                copy.execute(
                    "INSERT INTO embedding_fulltext_search(embedding_fulltext_search, rank) "
                    "VALUES ('integrity-check', 0)"
                )
                # The table holds its own copy of each text. Chroma finds texts by this copy.
                unlike = copy.execute(
                    "SELECT count(*) FROM (SELECT id, string_value FROM embedding_metadata WHERE key = "
                    "'chroma:document' EXCEPT SELECT rowid, string_value FROM embedding_fulltext_search)"
                ).fetchone()[0]
            except sqlite3.DatabaseError as error:
                return f"{folder / FILE_NAME}: the index of words in texts is damaged ({error})"
    return f"{folder / FILE_NAME}: the index of words has another text of {unlike} documents" if unlike else None


def copy_tables(folder: Path, target: Path) -> None:
    """Copy Chroma's SQLite file, as of its last commit, from ``folder`` into ``target``, and nothing else.

    Raises:
        CorruptStore: the file is missing or damaged.
    """
    target.mkdir(parents=True, exist_ok=True)
    with connection(folder) as source, closing(sqlite3.connect(target / FILE_NAME)) as copy:
        source.backup(copy)


def copy_chroma(folder: Path, target: Path) -> None:
    """Copy Chroma's ``folder`` to the new folder ``target``. The caller keeps others from writing meanwhile.

    Raises:
        CorruptStore: the SQLite file is missing or damaged.
        StorageFull: the disk is full.
    """
    try:
        copy_tables(folder, target)
        for file in folder.rglob("*"):
            if file.is_file() and not file.name.startswith(FILE_NAME):
                place = target / file.relative_to(folder)
                place.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, place)
    except (sqlite3.OperationalError, OSError) as error:
        is_full = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
        if not is_full and getattr(error, "errno", None) != errno.ENOSPC:
            raise
        raise StorageFull(f"{target}: no space left on the disk; make room and try again") from error


def _rebuild_indexes(folder: Path) -> None:
    """Build SQLite's indexes again. If they do not fit the tables, Chroma cannot apply the last records of its log."""
    with closing(sqlite3.connect(folder / FILE_NAME)) as copy:
        for statement in (
            "REINDEX",
            "INSERT INTO embedding_fulltext_search(embedding_fulltext_search) VALUES ('rebuild')",
        ):
            try:
                with copy:
                    copy.execute(statement)
            except sqlite3.DatabaseError as error:  # Chroma may still be able to read the rows
                logger.warning("%s: SQLite cannot build its indexes again (%s)", folder / FILE_NAME, error)


@contextmanager
def tables_alone(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder with a copy of Chroma's SQLite file, and without any vectors.

    Chroma can be opened there even if the files of the vectors are damaged. It returns ids, texts and metadata. It
    knows only the vectors that are still in its log. Nothing is written to ``folder``.

    Raises:
        CorruptStore: the SQLite file is missing or damaged.
    """
    place = Path(tempfile.mkdtemp(prefix="smart_rag_rows_"))
    try:
        copy_tables(folder, place)
        _rebuild_indexes(place)
        with closing(sqlite3.connect(place / FILE_NAME)) as copy, copy:
            # Otherwise Chroma would look for the files of the vectors.
            copy.execute(
                "DELETE FROM max_seq_id WHERE segment_id IN (SELECT id FROM segments WHERE type = ?)", (_VECTORS,)
            )
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)

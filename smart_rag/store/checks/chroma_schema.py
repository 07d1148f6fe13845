"""The tables in Chroma's SQLite file: whether SQLite would run anything that Chroma did not put there.

A view or a trigger runs whenever Chroma reads or writes a table. The file may come from somebody else, so only plain
tables, plain indexes and Chroma's index of words are let through. Tables of other versions of Chroma are let through,
too, if SQLite computes nothing for them.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

# Steps of SQLite's machine. Sound files need fewer than a thousand. 50 million take about a second.
_MOST_STEPS = 50_000_000
_STEPS_AT_ONCE = 100_000
_MOST_OBJECTS = 1_000
_TOKEN = re.compile(
    r"""--[^\n]* | /\*.*?\*/ | '(?:[^']|'')*' | "(?:[^"]|"")*" | `[^`]*` | \[[^\]]*\] | \w+ | [^\w\s]""", re.S | re.X
)
_NAME = r"""(?:\w+|'\w+'|"\w+")"""
_KINDS = {
    "table": re.compile(rf"CREATE TABLE (?P<name>{_NAME}) \( .*", re.I),
    "index": re.compile(
        rf"CREATE (?:UNIQUE )?INDEX (?P<name>{_NAME}) ON (?P<table>{_NAME}) \( {_NAME}(?: , {_NAME})* \)"
        rf"(?: WHERE {_NAME} IS NOT NULL)?",
        re.I,
    ),
    "index of words": re.compile(
        rf"CREATE VIRTUAL TABLE (?P<name>embedding_fulltext\w*) USING fts5 \( {_NAME}(?: , {_NAME})*"
        r"(?: , tokenize = '\w+')? \)",
        re.I,
    ),
}
# With these words, SQLite computes something, or removes rows that are in the way of a new one.
_COMPUTED = re.compile(r"\b(?:CHECK|GENERATED|AS|CONFLICT|COLLATE)\b|\bDEFAULT (?!CURRENT_TIMESTAMP\b|-?\d)", re.I)
# Otherwise Chroma would not find the records that it appends to its log.
_LOG = re.compile(
    r"CREATE TABLE \S+ \( seq_id INTEGER PRIMARY KEY , created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ,", re.I
)


@contextmanager
def limited(opened: sqlite3.Connection) -> Iterator[None]:
    """While the block runs, end statements that take far longer than they need in a sound file.

    SQLite then raises `sqlite3.OperationalError` with the code SQLITE_INTERRUPT.
    """
    calls = iter(range(_MOST_STEPS // _STEPS_AT_ONCE))
    opened.set_progress_handler(lambda: next(calls, None) is None, _STEPS_AT_ONCE)
    try:
        yield
    finally:
        opened.set_progress_handler(None, 0)


def foreign_part(opened: sqlite3.Connection) -> str | None:
    """Return what in the file does not come from Chroma, such as ``the trigger 'x'``, or None. Nothing of it is run."""
    opened.execute("PRAGMA trusted_schema = 0")
    with limited(opened):
        rows = opened.execute(
            "SELECT type, name, tbl_name, sql FROM sqlite_master LIMIT ?", (_MOST_OBJECTS + 1,)
        ).fetchall()
    if len(rows) > _MOST_OBJECTS:
        return f"more than {_MOST_OBJECTS:,} tables"
    for kind, name, table, sql in rows:
        if not _is_plain(kind, name, table, sql):
            return f"the {kind} {name!r:.100}"
    return None


@lru_cache(maxsize=2 * _MOST_OBJECTS)
def _is_plain(kind: object, name: object, table: object, sql: object) -> bool:
    """Return whether a row of SQLite's list of tables is a table or an index for which SQLite computes nothing."""
    if sql is None:  # the index of a UNIQUE or PRIMARY KEY
        return kind == "index" and str(name).startswith("sqlite_autoindex_")
    tokens = [token for token in _TOKEN.findall(str(sql)) if not token.startswith(("--", "/*"))]
    statement = " ".join(tokens)
    # SQLite goes by the statement alone. So the names beside it may lie.
    found = next((match for pattern in _KINDS.values() if (match := pattern.fullmatch(statement))), None)
    if found is None or _COMPUTED.search(" ".join("quoted" if token[0] in "'\"`[" else token for token in tokens)):
        return False
    names = {key: value.strip("'\"") for key, value in found.groupdict().items()}
    is_index = "table" in names
    if kind != ("index" if is_index else "table") or names["name"] != name or names.get("table", name) != table:
        return False
    return name != "embeddings_queue" or bool(_LOG.match(statement))

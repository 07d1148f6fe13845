"""The settings and numbers in Chroma's SQLite file that Chroma follows without a check of its own.

Chroma's settings of a collection may name a model. On each write, Chroma's code makes this model, and may run code that
comes with it. The settings also say how distances are computed, and how much memory the graph of neighbours takes. The
numbers say which records of Chroma's log are in the tables. Chroma never applies a record with a smaller number.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smart_rag.config import HNSW_BOUNDS
from smart_rag.errors import CorruptStore, NotTrusted
from smart_rag.store.checks.chroma_schema import limited
from smart_rag.store.checks.chroma_tables import FILE_NAME, connection, damage_named

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection

_MOST_BYTES = 64 << 20  # of the settings of a collection. 100,000 keys of metadata take 16 MB
_MOST_RECORDS = 1 << 62
_MOST_DIMENSIONS = (1 << 31) - 1
# Kinds of embedding functions that Chroma never calls. It writes the first one if no function was given.
_NO_FUNCTION = {"legacy", "unknown"}
_BOUNDS: dict[str, tuple[float, float]] = {
    **HNSW_BOUNDS,
    "num_threads": (1, 10_000),
    "batch_size": (2, 1_000_000),
    "sync_threshold": (2, 1_000_000),
    "resize_factor": (1, 16),
}
# The settings of a collection in which Chroma computes cosines and calls no model.
_PLAIN = (
    '{"defaults":{},"keys":{"#embedding":{"float_list":{"vector_index":{"enabled":true,"config":'
    '{"space":"cosine","embedding_function":{"type":"legacy"}}}}}}}'
)


def check_settings(folder: Path) -> None:
    """Check the SQLite file in Chroma's ``folder`` before Chroma opens it. This reads a few rows only.

    Raises:
        CorruptStore: something in it is not as Chroma and smart_rag write it.
    """
    file = folder / FILE_NAME
    if not file.exists() or not file.stat().st_size:  # a new folder
        return
    if (wrong := damage_of_settings(folder)) is not None:
        raise CorruptStore(
            f"{wrong}; build the index again from its rows with `smart-rag verify --repair`, or restore it from a "
            "backup"
        )


def damage_of_settings(folder: Path) -> str | None:
    """Return in one line what is wrong with the settings and numbers in the SQLite file in ``folder``, or None.

    Raises:
        CorruptStore: SQLite cannot read the file, or would run something that does not come from Chroma.
    """
    with connection(folder) as opened:
        opened.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MOST_BYTES)
        with limited(opened):
            wrong = next(_faults(opened), None)
    return None if wrong is None else f"{folder / FILE_NAME}: {wrong}"


def put_right(folder: Path) -> None:
    """Write plain settings and numbers that fit the log into the SQLite file in ``folder``, a copy of Chroma's.

    Then Chroma can be opened there to read rows. It applies the records of its log that it has not applied yet. It may
    apply some again, which changes nothing.

    Raises:
        CorruptStore: the file is damaged.
    """
    with damage_named(folder), closing(sqlite3.connect(folder / FILE_NAME)) as copy, copy, limited(copy):
        copy.execute("UPDATE collections SET config_json_str = '{}', schema_str = ?", (_PLAIN,))
        copy.execute(
            "UPDATE collections SET dimension = NULL "
            "WHERE typeof(dimension) != 'integer' OR dimension NOT BETWEEN 1 AND ?",
            (_MOST_DIMENSIONS,),
        )
        copy.execute("DELETE FROM embeddings_queue WHERE seq_id < 0 OR seq_id >= ?", (_MOST_RECORDS,))
        copy.execute(
            "UPDATE max_seq_id SET seq_id = min((SELECT coalesce(max(seq_id), 0) FROM embeddings_queue), "
            "(SELECT coalesce(max(seq_id), 0) FROM embeddings WHERE typeof(seq_id) = 'integer')) "
            "WHERE typeof(seq_id) != 'integer' OR seq_id < 0 "
            "OR seq_id > (SELECT coalesce(max(seq_id), 0) FROM embeddings_queue)"
        )


def refuse_functions(collection: Collection) -> None:
    """Check the settings of a ``collection`` that came from a server, before rows are written to it.

    Chroma makes the embedding function that they name, even if the caller asks for none.

    Raises:
        NotTrusted: the settings name an embedding function.
    """
    model = collection.get_model()
    for settings in (model.serialized_schema, model.configuration_json):
        for key, value in _values(settings):
            if (name := _function(key, value)) is not None:
                raise NotTrusted(
                    f"the collection {collection.name!r} of your Chroma client names the embedding function {name}, "
                    "and Chroma would run its code here; index the documents again into another collection"
                )


def _faults(opened: sqlite3.Connection) -> Iterator[str]:
    for name, dimension, config, schema in opened.execute(
        "SELECT name, dimension, config_json_str, schema_str FROM collections"
    ):
        where = f"the collection {name!r:.100}"
        if dimension is not None and not (isinstance(dimension, int) and 0 < dimension <= _MOST_DIMENSIONS):
            yield f"{where}: expected a number of dimensions, found {dimension!r:.100}"
        for wrong in (_wrong_text(schema, True), None if config is None else _wrong_text(config, False)):
            if wrong is not None:
                yield f"{where}: {wrong}"
    (last,) = opened.execute("SELECT coalesce(max(seq_id), 0) FROM embeddings_queue").fetchone()
    if not isinstance(last, int) or not 0 <= last < _MOST_RECORDS:
        yield f"Chroma's log: expected a last record with a number below 2^62, found {last!r:.100}"
        return
    for (done,) in opened.execute("SELECT seq_id FROM max_seq_id"):
        if not isinstance(done, int) or not 0 <= done <= last:
            yield (
                f"Chroma's log: it ends with the record {last:,}, but the last record that was applied is "
                f"{done!r:.100}, so new documents could be lost"
            )


@lru_cache(maxsize=8)
def _wrong_text(text: object, is_schema: bool) -> str | None:
    """Return what is wrong with ``text``, the settings of a collection as JSON. Return None if nothing is."""
    if not isinstance(text, str):
        return f"expected settings in JSON, found {text!r:.100}"
    try:
        settings = json.loads(text, object_pairs_hook=_unique)
        space = settings["keys"]["#embedding"]["float_list"]["vector_index"]["config"]["space"] if is_schema else None
        return next(_wrong_values(settings), "expected a space, found none" if is_schema and space is None else None)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return f"expected settings that Chroma has written, found others ({type(error).__name__}: {error!s:.100})"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object. If a key came twice, another reader could use the other value."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _wrong_values(settings: object) -> Iterator[str]:
    for key, value in _values(settings):
        if (name := _function(key, value)) is not None:
            yield f"it names the embedding function {name}, and Chroma would run its code"
        elif key == "space" and value not in (None, "cosine"):
            yield f"expected the space 'cosine', found {value!r:.100}"
        elif key == "spann" and value is not None:
            yield f"expected a graph of neighbours (hnsw), found spann {value!r:.100}"
        elif key in _BOUNDS and value is not None:
            least, most = _BOUNDS[key]
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
                yield f"expected {key} from {least:,} to {most:,}, found {value!r:.100}"


def _function(key: str, value: Any) -> str | None:
    """Return the name of the embedding function that Chroma would make for a setting. Return None if there is none."""
    if key != "embedding_function" or value is None:
        return None
    if not isinstance(value, dict):
        return f"{value!r:.100}"
    return None if value.get("type") in _NO_FUNCTION else f"{value.get('name')!r:.100}"


def _values(settings: object) -> Iterator[tuple[str, Any]]:
    """Yield each key with its value from ``settings`` and all objects in it."""
    rest = [settings]
    while rest:
        part = rest.pop()
        if isinstance(part, list):
            rest += part
        elif isinstance(part, dict):
            for key, value in part.items():
                yield key, value
                # The keys of the object "keys" are keys of metadata, so they may be anything.
                rest.append(list(value.values()) if key == "keys" and isinstance(value, dict) else value)

"""Files of rows: JSON lines, JSON arrays, CSV, TSV and Parquet, and folders of them as on the Hugging Face hub."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from smart_rag.errors import InvalidInput
from smart_rag.evaluation.paper.tables import Table, tables_in
from smart_rag.evaluation.qrels import open_text
from smart_rag.values import json_value
from smart_rag.wording import one_line

_TABULAR = {".csv": ",", ".tsv": "\t"}
_SUFFIXES = (".jsonl", ".json", *_TABULAR, ".parquet")
_MOST_FIELD = 1 << 30  # characters in a field of a CSV file


def rows_in(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield the rows of a file, each with its place, such as ``line 3``. The suffix says what the file is.

    Any other suffix than .csv, .tsv, .parquet and .arrow means JSON lines, or a JSON array. All but Parquet may be
    packed by gzip (``.gz``).

    Raises:
        InvalidInput: the file cannot be read, or a line has other fields than the header.
        MissingExtra: the file is a Parquet file and pyarrow is not installed.
    """
    suffix = Path(file.name.removesuffix(".gz")).suffix.lower()
    if suffix in (".parquet", ".arrow"):
        rows = Table("rows", file.parent, (file,)).rows()
        return ((f"row {i}", row) for i, row in enumerate(rows, start=1))
    return _separated(file, _TABULAR[suffix]) if suffix in _TABULAR else _json(file)


def _json(file: Path) -> Iterator[tuple[str, Any]]:
    with open_text(file) as lines:
        first = next((line for line in enumerate(lines, start=1) if line[1].strip()), None)
        if first is not None and first[1].lstrip().startswith("[") and not _is_json(first[1]):
            yield from _array(file, first[1] + lines.read())
            return
        for number, line in chain([first] if first else [], enumerate(lines, start=(first or (0,))[0] + 1)):
            if line.strip():
                try:
                    yield f"line {number}", json_value(line)
                except (ValueError, RecursionError) as error:
                    raise InvalidInput(
                        f"{file}, line {number}: expected a row with a query and a positive, as JSON "
                        f"({one_line(error)})"
                    ) from error


def _is_json(text: str) -> bool:
    """Return whether a line is a JSON value that is a row, and not the whole array."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return not any(isinstance(one, dict | list) for one in value)


def _array(file: Path, text: str) -> Iterator[tuple[str, Any]]:
    try:
        rows = json_value(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"{file}: expected a JSON array of objects, or an object on each line ({one_line(error)})"
        ) from error
    yield from ((f"row {i}", row) for i, row in enumerate(rows, start=1))


def _separated(file: Path, separator: str) -> Iterator[tuple[str, dict[str, str | None]]]:
    """Yield the rows of a CSV or TSV file with a header. An empty field is None.

    In TSV files, quotation marks are text. In CSV files, the separator may be a semicolon.
    """
    before = csv.field_size_limit(_MOST_FIELD)
    try:
        with open_text(file) as lines:
            header = lines.readline()
            if separator == "," and header.count(";") > header.count(","):
                separator = ";"
            whole = chain([header], lines)
            if separator == "\t":
                reader = csv.reader(whole, delimiter=separator, strict=True, quoting=csv.QUOTE_NONE)
            else:
                reader = csv.reader(whole, delimiter=separator, strict=True)
            names = [name.strip() for name in next(reader, [])]
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise InvalidInput(f"{file}, line 1: the column {twice!r} is there twice; rename one of them")
            for fields in reader:
                if not fields:
                    continue
                if len(fields) != len(names):
                    raise InvalidInput(
                        f"{file}, line {reader.line_num}: expected {len(names)} fields, as the header has "
                        f"({', '.join(names)}), found {len(fields)}; a field with the separator or a line break needs "
                        "quotation marks, in a .csv file"
                    )
                values = [field if field.strip() else None for field in fields]
                yield f"line {reader.line_num}", dict(zip(names, values, strict=True))
    except csv.Error as error:
        raise InvalidInput(
            f"{file}, line {reader.line_num}: {error}; expected a field with quotation marks to begin and end with "
            "one, and to double those inside"
        ) from error
    finally:
        csv.field_size_limit(before)


def files_in(folder: Path) -> tuple[Path, ...]:
    """Return the files of the training split in a folder as on the Hugging Face hub. There may be none.

    Raises:
        InvalidInput: it is not clear which files are meant.
    """
    tables = tables_in(folder, "train")
    if len(tables) > 1:
        raise InvalidInput(
            f"{folder}: found the tables {', '.join(tables)}; give the folder or the file of one of them"
        )
    if tables:
        [table] = tables.values()
        if table.problem:
            raise InvalidInput(f"{table.problem}; give the file of another split")
        return table.files
    found = [path for path in sorted(folder.glob("*")) if path.suffix.lower() in _SUFFIXES and path.is_file()]
    named = [path for path in found if "train" in path.stem.lower()] or found
    if len(named) > 1:
        raise InvalidInput(f"{folder}: found {', '.join(path.name for path in named)}; give one of these files")
    return tuple(named)

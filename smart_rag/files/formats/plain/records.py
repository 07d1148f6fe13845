"""Records: .json and .jsonl. Braces, quotes and escapes are left out, because they are no words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smart_rag.files.formats.page import Page
from smart_rag.files.formats.text import read_text
from smart_rag.wording import number, some

_MOST_MARGINS = 8


class _Object(tuple[tuple[str, Any], ...]):
    """The keys and values of a JSON object. A key may occur twice, and a dict would keep only one."""


def read_json(path: Path) -> Iterator[Page]:
    """Yield the keys and values of a JSON file, one on each line. Text that is no sound JSON is given as it is.

    Raises:
        DocumentError: the file holds binary data.
    """
    (page,) = read_text(path)
    yield Page(_readable(page.text), left_out=page.left_out)


def read_jsonl(path: Path) -> Iterator[Page]:
    """Yield the records of a file that has one on each line, one after another, with an empty line between two.

    A line that is no sound JSON is given as it is, and named.

    Raises:
        DocumentError: the file holds binary data.
    """
    (page,) = read_text(path)
    # Only these end a line: JSON strings may hold the others that `str.splitlines` knows.
    lines = page.text.replace("\r\n", "\n").split("\n")
    records = [(place, line, _parsed(line)) for place, line in enumerate(lines, 1) if line.strip()]
    damaged = [place for place, _, parsed in records if parsed is None]
    noted = f"{number(len(damaged), 'damaged record')} given as plain text: line {some(damaged)}"
    text = "\n\n".join(line if parsed is None else parsed for _, line, parsed in records)
    yield Page(text, left_out=(*page.left_out, *[noted] * bool(damaged)))


def _readable(text: str) -> str:
    parsed = _parsed(text)
    return text if parsed is None else parsed


def _parsed(text: str) -> str | None:
    """Return the keys and values of a text in JSON, or None if it is not sound."""
    # Numbers keep their spelling.
    try:
        loaded = json.loads(text, object_pairs_hook=_Object, parse_int=str, parse_float=str, parse_constant=str)
        return "\n".join(_lines(loaded))
    except (ValueError, RecursionError):
        return None


def _lines(value: Any, depth: int = 0) -> Iterator[str]:
    """Yield the lines of a value, as in YAML: ``key: value``, and ``- value`` for each value of a list.

    ``depth`` is the number of values that it lies in. Far inside, lines are no longer set in: the blanks could be a
    thousand times the file.
    """
    if isinstance(value, _Object):
        for key, part in value:
            yield from _labelled(f"{key}:", part, depth)
    elif isinstance(value, list):
        for part in value:
            yield from _labelled("-", part, depth)
    else:
        yield _scalar(value)


def _labelled(label: str, value: Any, depth: int) -> Iterator[str]:
    margin = "  " if depth < _MOST_MARGINS else ""
    if not isinstance(value, (_Object, list)):
        yield f"{label} {_scalar(value)}"
    elif not value:
        yield label
    elif label == "-" and isinstance(value, _Object):
        first, *rest = _lines(value, depth + 1)
        yield f"- {first}"
        yield from (f"{margin}{line}" for line in rest)
    else:
        yield label
        yield from (f"{margin}{line}" for line in _lines(value, depth + 1))


def _scalar(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

"""Datasets in BEIR folders: documents, queries and qrels.

A folder holds ``corpus.jsonl``, ``queries.jsonl`` and ``qrels.tsv`` (or ``qrels/test.tsv``), as described at
https://github.com/beir-cellar/beir.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from smart_rag.errors import InvalidInput
from smart_rag.paths import absolute
from smart_rag.types import Content, Document, ImageSource, PdfPage
from smart_rag.wording import number

logger = logging.getLogger(__name__)

# Grades by query id and document id.
Qrels = dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A document, query or instruction of a dataset that is left out because it cannot be read, and the reason."""

    kind: str
    id: str
    reason: str


def unreadable_notes(unreadable: Sequence[Unreadable]) -> list[str]:
    """Return for each kind how many are unreadable, and the first one with its reason."""
    notes = []
    for kind in dict.fromkeys(each.kind for each in unreadable):
        own = [each for each in unreadable if each.kind == kind]
        first = "" if len(own) == 1 else "the first is "
        notes.append(f"{number(len(own), kind)} that cannot be read: {first}{own[0].id} ({own[0].reason})")
    return notes


@dataclass(frozen=True, slots=True)
class Dataset:
    """Documents, queries by id, and grades by query id and document id (qrels).

    A query with an image is a `Content`. The other fields are for published datasets, and are empty otherwise:

    Attributes:
        instructions: the instruction of each query by its id, such as "Find a page that answers the question.".
        candidates: the ids of the documents to rank, by query id. A query without an entry ranks all documents.
        left_out: what the dataset's files hold and this dataset does not, each with its count.
        unreadable: the documents and queries that are left out because they cannot be read.
    """

    name: str
    documents: list[Document]
    queries: dict[str, str | Content]
    qrels: Qrels
    instructions: Mapping[str, str] = field(default_factory=dict)
    candidates: Mapping[str, Sequence[str]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()


def load_dataset(
    folder: str | Path, limit_queries: int | None = None, *, qrels_file: str | Path | None = None
) -> Dataset:
    """Return the BEIR dataset in ``folder``, with its first ``limit_queries`` judged queries.

    The text of a `Document` is the title, a space, and the text of its line in ``corpus.jsonl``. A visual document
    also has the key ``image`` (a file), or the keys ``pdf`` (a file) and ``page`` (counted from 0). It needs no text. A
    query may have an image in the same way. The paths of the files are relative to ``folder``. Queries that are not
    judged are left out. Documents with neither text nor image are left out, too. By default, ``qrels_file`` is
    ``qrels.tsv`` or ``qrels/test.tsv``.

    Raises:
        InvalidInput: a file is missing, one of its lines cannot be read, or no document has a text or an image.
    """
    folder = absolute(folder)
    candidates = [folder / "qrels.tsv", folder / "qrels" / "test.tsv"]
    qrels_file = qrels_file or next((path for path in candidates if path.is_file()), candidates[0])
    queries, qrels = load_labels(folder / "queries.jsonl", qrels_file, limit_queries)
    documents = []
    empty = 0
    for row in _jsonl(folder / "corpus.jsonl"):
        text = f"{row.get('title') or ''} {row.get('text') or ''}".strip()
        image = _image(folder, row)
        if text or image is not None:
            documents.append(Document(str(row["_id"]), text, image=image))
        else:
            empty += 1
    if not documents:
        raise InvalidInput(f"{folder / 'corpus.jsonl'}: expected at least one document with a text or an image")
    if empty:
        logger.warning("%s: %s without text left out", folder, number(empty, "document"))
    return Dataset(folder.resolve().name, documents, queries, qrels)


def load_labels(
    queries_file: str | Path, qrels_file: str | Path, limit_queries: int | None = None
) -> tuple[dict[str, str | Content], Qrels]:
    """Return a dict of the first ``limit_queries`` judged queries of a ``queries.jsonl`` file by id, and their qrels.

    A query with an image is a `Content`.

    Raises:
        InvalidInput: a file is missing, one of its lines cannot be read, no query is judged, or a query is empty.
    """
    queries_file, qrels_file = absolute(queries_file), absolute(qrels_file)
    all_qrels = _qrels(qrels_file)
    queries = {
        str(row["_id"]): Content(row.get("text") or "", _image(queries_file.parent, row)).plain
        for row in _jsonl(queries_file)
    }
    judged = [id for id in queries if id in all_qrels][:limit_queries]
    if not judged:
        raise InvalidInput(
            f"{queries_file.parent}: no query of {queries_file.name} is judged in {qrels_file}; check that both "
            "use the same query ids"
        )
    for id in judged:
        if isinstance(query := queries[id], str) and not query.strip():
            raise InvalidInput(f"{queries_file}: query {id!r} is empty; give it a text, or remove its qrels")
    return {id: queries[id] for id in judged}, {id: all_qrels[id] for id in judged}


def _jsonl(path: Path) -> Iterator[Mapping[str, Any]]:
    with _open(path) as lines:
        for line, content in enumerate(lines, start=1):
            if content.strip():
                try:
                    row = json.loads(content)
                    is_visual = bool(row.get("image") or "pdf" in row)
                    text = row.get("text") if is_visual else row["text"]
                    if not isinstance(text, str) and not (text is None and is_visual):
                        raise TypeError(f"'text' is {text!r}, not a string")
                    row["_id"]
                except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
                    raise InvalidInput(
                        f"{path}, line {line}: expected a JSON object with '_id' and 'text' ({error})"
                    ) from error
                yield row


def _image(folder: Path, row: Mapping[str, Any]) -> ImageSource | None:
    if "pdf" in row:
        return PdfPage(folder / row["pdf"], int(row["page"]) + 1)
    return folder / row["image"] if row.get("image") else None


def _qrels(path: Path) -> Qrels:
    qrels: Qrels = {}
    with _open(path) as lines:
        for line, row in enumerate(csv.reader(lines, delimiter="\t"), start=1):
            if not row or (line == 1 and not row[-1].lstrip("-").isdigit()):
                continue  # an empty line or the header
            try:
                query, document, grade = row
                qrels.setdefault(query, {})[document] = int(grade)
            except ValueError as error:
                raise InvalidInput(
                    f"{path}, line {line}: expected query id, document id and an integer grade, separated by tabs; got "
                    f"{row}"
                ) from error
    return qrels


@contextmanager
def _open(path: Path) -> Iterator[TextIO]:
    if not path.is_file():
        raise InvalidInput(
            f"{path} is missing: a BEIR folder holds corpus.jsonl, queries.jsonl and qrels.tsv (or qrels/test.tsv); "
            "smart-rag eval --paper reads Parquet files and other published layouts"
        )
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            yield lines
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 ({error}); save it as UTF-8") from error

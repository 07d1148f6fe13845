"""BEIR folders in: documents, queries and judgements.

A folder holds ``corpus.jsonl``, ``queries.jsonl`` and ``qrels.tsv`` (or ``qrels/test.tsv``), as
described at https://github.com/beir-cellar/beir.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from smart_rag.errors import InvalidInput
from smart_rag.types import Document, ImageSource, PdfPage

logger = logging.getLogger(__name__)

# By query id and document id: the grade.
Qrels = dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Documents, queries by id, and graded judgements by query id and document id."""

    name: str
    documents: list[Document]
    queries: dict[str, str]
    qrels: Qrels


def load_dataset(
    folder: str | Path, limit_queries: int | None = None, *, qrels_file: str | Path | None = None
) -> Dataset:
    """Return the BEIR dataset in ``folder``, with its first ``limit_queries`` judged queries.

    A document's text is its title, a space, and its text. Beside the text, a row of visual documents has ``image``,
    a file, or ``pdf``, a file, and ``page``, counted from 0; both below ``folder``. Queries without a
    judgement are left out, and so are documents without text and image, which no one can find. Judgements are in
    ``qrels_file``, by default ``qrels.tsv`` or ``qrels/test.tsv``.

    Raises:
        InvalidInput: a file is missing or a line of it cannot be read.
    """
    folder = Path(folder)
    places = [folder / "qrels.tsv", folder / "qrels" / "test.tsv"]
    qrels_file = qrels_file or next((path for path in places if path.is_file()), places[0])
    queries, qrels = load_labels(folder / "queries.jsonl", qrels_file, limit_queries)
    documents = []
    empty = 0
    for row in _jsonl(folder / "corpus.jsonl"):
        text = f"{row.get('title') or ''} {row['text']}".strip()
        image = _image(folder, row)
        if text or image is not None:
            documents.append(Document(str(row["_id"]), text, image=image))
        else:
            empty += 1
    if not documents:
        raise InvalidInput(f"{folder / 'corpus.jsonl'}: no document with text in it")
    if empty:
        logger.warning("%s: %d documents without text are left out", folder, empty)
    return Dataset(folder.resolve().name, documents, queries, qrels)


def load_labels(
    queries_file: str | Path, qrels_file: str | Path, limit_queries: int | None = None
) -> tuple[dict[str, str], Qrels]:
    """Return the first ``limit_queries`` judged queries of a ``queries.jsonl`` by id, and their judgements.

    Raises:
        InvalidInput: a file is missing, a line of it cannot be read, or no query is judged.
    """
    queries_file, qrels_file = Path(queries_file), Path(qrels_file)
    all_qrels = _qrels(qrels_file)
    texts = {str(row["_id"]): row["text"] for row in _jsonl(queries_file)}
    judged = [id for id in texts if id in all_qrels][:limit_queries]
    if not judged:
        raise InvalidInput(f"{queries_file.parent}: no query of {queries_file.name} has a judgement in {qrels_file}")
    for name in judged:
        if not texts[name].strip():
            raise InvalidInput(f"{queries_file}: query {name!r} is empty")
    return {id: texts[id] for id in judged}, {id: all_qrels[id] for id in judged}


def _jsonl(path: Path) -> Iterator[Mapping[str, Any]]:
    with _opened(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                    if not isinstance(row["text"], str):
                        raise TypeError(f"text is {row['text']!r}")
                    row["_id"]
                except (json.JSONDecodeError, KeyError, TypeError) as error:
                    raise InvalidInput(
                        f"{path}, line {number}: expected a JSON object with '_id' and 'text' ({error})"
                    ) from error
                yield row


def _image(folder: Path, row: Mapping[str, Any]) -> ImageSource | None:
    if "pdf" in row:
        return PdfPage(folder / row["pdf"], int(row["page"]) + 1)
    return folder / row["image"] if row.get("image") else None


def _qrels(path: Path) -> Qrels:
    qrels: Qrels = {}
    with _opened(path) as lines:
        for number, row in enumerate(csv.reader(lines, delimiter="\t"), start=1):
            if not row or (number == 1 and not row[-1].lstrip("-").isdigit()):
                continue  # a blank line, or the header
            try:
                query, document, grade = row
                qrels.setdefault(query, {})[document] = int(grade)
            except ValueError as error:
                raise InvalidInput(
                    f"{path}, line {number}: expected query id, document id and a whole grade, tabs between; got {row}"
                ) from error
    return qrels


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    if not path.is_file():
        raise InvalidInput(
            f"{path} is missing: a BEIR folder holds corpus.jsonl, queries.jsonl and qrels.tsv (or qrels/test.tsv)"
        )
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            yield lines
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 ({error})") from error

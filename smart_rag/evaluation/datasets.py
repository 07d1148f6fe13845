"""Datasets in BEIR folders: documents, queries and qrels.

A folder holds ``corpus.jsonl``, ``queries.jsonl`` and ``qrels.tsv`` (or ``qrels/test.tsv``), as described at
https://github.com/beir-cellar/beir.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smart_rag.errors import InvalidInput
from smart_rag.evaluation.qrels import Qrels, met, open_text, own_documents, read_qrels
from smart_rag.paths import absolute
from smart_rag.types import Content, Document, ImageSource, PdfPage
from smart_rag.wording import number

logger = logging.getLogger(__name__)


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
        notes: the queries without judgements, the judgements without queries, and the judgements that no ranking can
            meet, each kind with its count.
        own_documents: for queries that are documents themselves, the id of this document, which no ranking has.
    """

    name: str
    documents: list[Document]
    queries: dict[str, str | Content]
    qrels: Qrels
    instructions: Mapping[str, str] = field(default_factory=dict)
    candidates: Mapping[str, Sequence[str]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    notes: tuple[str, ...] = ()
    own_documents: Mapping[str, str] = field(default_factory=dict)


def load_dataset(
    folder: str | Path,
    limit_queries: int | None = None,
    *,
    split: str | None = None,
    qrels_file: str | Path | None = None,
    answerable_only: bool = False,
) -> Dataset:
    """Return the BEIR dataset in ``folder``, with its first ``limit_queries`` judged queries.

    The text of a `Document` is the title, a space, and the text of its line in ``corpus.jsonl``. A visual document
    also has the key ``image`` (a file), or the keys ``pdf`` (a file) and ``page`` (counted from 0). It needs no text. A
    query may have an image in the same way. The paths of the files are relative to ``folder``. Queries that are not
    judged are left out. Documents with neither text nor image are left out, too. Each file may end in ``.gz``.

    Args:
        folder: the folder.
        limit_queries: the number of queries.
        split: the name of a file in the folder ``qrels``, such as ``"dev"``. By default, this is ``qrels.tsv`` or
            ``qrels/test.tsv``.
        qrels_file: a file of judgements elsewhere.
        answerable_only: whether to leave out the judgements of documents that the corpus lacks, and queries without a
            relevant document. By default they count, as in trec_eval.

    Raises:
        InvalidInput: a file is missing, one of its lines cannot be read, two lines contradict each other, or no
            document has a text or an image.
    """
    folder = absolute(folder)
    qrels_path = absolute(qrels_file) if qrels_file else _qrels_file(folder, split)
    labels = load_labels(folder / "queries.jsonl", qrels_path, limit_queries)
    documents = []
    empty = 0
    for row in _rows(folder / "corpus.jsonl"):
        text = f"{row.get('title') or ''} {row.get('text') or ''}".strip()
        image = _image(folder, row)
        if text or image is not None:
            documents.append(Document(row["_id"], text, image=image))
        else:
            empty += 1
    if not documents:
        raise InvalidInput(f"{folder / 'corpus.jsonl'}: expected at least one document with a text or an image")
    if empty:
        logger.warning("%s: %s without text left out", folder, number(empty, "document"))
    measured = met(labels.qrels, {document.id for document in documents}, answerable_only=answerable_only)
    if not measured.qrels:
        raise InvalidInput(f"{folder}: no query has a relevant document in the corpus; {'; '.join(measured.notes)}")
    queries = {id: query for id, query in labels.queries.items() if id in measured.qrels}
    own = own_documents(queries, {one.id: one.text for one in documents if one.id in queries}, measured.qrels)
    notes = (*labels.notes, *measured.notes)
    return Dataset(folder.resolve().name, documents, queries, measured.qrels, notes=notes, own_documents=own)


def _qrels_file(folder: Path, split: str | None) -> Path:
    """Return the file of judgements of a ``split``."""
    names = ["qrels.tsv", "qrels/test.tsv"] if split is None else [f"qrels/{split}.tsv"]
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    if others := sorted(path.name.split(".")[0] for path in (folder / "qrels").glob("*.tsv*")):
        raise InvalidInput(
            f"{folder / names[-1]} is missing; found the splits {', '.join(others)}: name one of them as the split"
        )
    return folder / names[0]


@dataclass(frozen=True, slots=True)
class Labels:
    """Judged queries by id, their grades by query id and document id, and notes about what has no counterpart."""

    queries: dict[str, str | Content]
    qrels: Qrels
    notes: tuple[str, ...]


def load_labels(queries_file: str | Path, qrels_file: str | Path, limit_queries: int | None = None) -> Labels:
    """Return the first ``limit_queries`` judged queries of a ``queries.jsonl`` file, and their qrels.

    A query with an image is a `Content`.

    Raises:
        InvalidInput: a file is missing, one of its lines cannot be read, no query is judged, or a query is empty.
    """
    queries_file, qrels_file = absolute(queries_file), absolute(qrels_file)
    all_qrels = read_qrels(qrels_file)
    queries = {
        row["_id"]: Content(row.get("text") or "", _image(queries_file.parent, row)).plain
        for row in _rows(queries_file)
    }
    all_judged = [id for id in queries if id in all_qrels]
    judged = all_judged[:limit_queries]
    if not judged:
        raise InvalidInput(
            f"{queries_file.parent}: no query of {queries_file.name} is judged in {qrels_file}; check that both "
            "use the same query ids"
        )
    for id in judged:
        if isinstance(query := queries[id], str) and not query.strip():
            raise InvalidInput(f"{queries_file}: query {id!r} is empty; give it a text, or remove its qrels")
    notes = []
    if unjudged := len(queries) - len(all_judged):
        notes.append(f"{number(unjudged, 'query')} without a judgement left out")
    if missing := [id for id in all_qrels if id not in queries]:
        notes.append(
            f"the judgements of {number(len(missing), 'query')} left out, which {queries_file.name} lacks, such as "
            f"{missing[0]!r}"
        )
    return Labels({id: queries[id] for id in judged}, {id: all_qrels[id] for id in judged}, tuple(notes))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a .jsonl file, each with its ``_id`` as a text. Rows that the file repeats come once."""
    found: dict[str, tuple[int, int]] = {}
    repeated = 0
    packed = path.with_name(f"{path.name}.gz")
    path = packed if packed.is_file() and not path.is_file() else path
    with open_text(path) as lines:
        for line, content in enumerate(lines, start=1):
            if not content.strip():
                continue
            try:
                row = _row(json.loads(content))
            except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
                raise InvalidInput(
                    f"{path}, line {line}: expected a JSON object with '_id' and 'text' ({error})"
                ) from error
            before, first = found.setdefault(row["_id"], (line, hash(content.strip())))
            if first != hash(content.strip()):
                raise InvalidInput(
                    f"{path}, line {line}: the id {row['_id']!r} is also on line {before}, with other values; give "
                    "each row an id of its own"
                )
            if before == line:
                yield row
            else:
                repeated += 1
    if repeated:
        logger.warning("%s: %s repeated; each counts once", path, number(repeated, "row"))


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``row`` with its id, which may be called ``id``, as the text ``_id``."""
    is_visual = bool(row.get("image") or "pdf" in row)
    needs_text = not is_visual and not row.get("title")
    text = row["text"] if needs_text else row.get("text")
    if not isinstance(text, str) and (text is not None or needs_text):
        raise TypeError(f"'text' is {text!r}, not a string")
    id = row["_id"] if "_id" in row or "id" not in row else row["id"]
    if isinstance(id, bool | float | list | dict) or id is None or id == "":
        raise TypeError(f"'_id' is {id!r}, neither a text nor a whole number")
    return {**row, "_id": str(id)}


def _image(folder: Path, row: Mapping[str, Any]) -> ImageSource | None:
    if "pdf" in row:
        return PdfPage(folder / row["pdf"], int(row["page"]) + 1)
    return folder / row["image"] if row.get("image") else None

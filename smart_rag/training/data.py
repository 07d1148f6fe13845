"""Training data: queries, their positives and their negatives, read from files of several formats.

=================  ==================================================================================
Format             Contents
=================  ==================================================================================
rows               a file of JSON lines, a JSON array, CSV, TSV or Parquet, or a folder of such files as on the
                   Hugging Face hub, with the columns of `smart_rag.training.formats.columns`
a BEIR folder      its qrels are ``qrels/train.tsv``, or ``qrels.tsv`` in a folder without splits
tables             a folder with the tables corpus, queries and qrels, of which the split ``train`` is read
a dataset folder   made by ``save_to_disk`` of Hugging Face datasets, with the columns of rows, or ``query`` and
                   ``image``
=================  ==================================================================================
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from smart_rag.config import check_count
from smart_rag.errors import InvalidInput, MissingExtra
from smart_rag.evaluation.datasets import Dataset, load_dataset
from smart_rag.evaluation.paper.tables import tables_in
from smart_rag.paths import absolute
from smart_rag.training.formats.columns import COLUMNS, Columns, Row
from smart_rag.training.formats.files import files_in, rows_in
from smart_rag.training.formats.pages import Pages, image_bytes
from smart_rag.types import Document
from smart_rag.wording import number

logger = logging.getLogger(__name__)

_EXPECTED = (
    "training data is a file of pairs (.jsonl, .json, .csv, .tsv, .parquet), a folder of them, a BEIR folder with "
    "corpus.jsonl, a folder with the tables corpus, queries and qrels, or a folder that save_to_disk of Hugging Face "
    "datasets made"
)
_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class TrainingQuery:
    """A query, and the positions of its positives and of its negatives among the documents.

    ``scores`` are a teacher's scores of some of them, by position: higher is better.
    """

    text: str
    positives: tuple[int, ...]
    negatives: tuple[int, ...] = ()
    scores: Mapping[int, float] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Queries with their positives and negatives among ``documents``.

    ``documents`` may be a lazy sequence. A lazy sequence reads each document, for example a page image, only when the
    document is used.

    Attributes:
        notes: what of the rows is not used or counts once, each kind with its count.
    """

    name: str
    documents: Sequence[Document]
    queries: Sequence[TrainingQuery]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"TrainingData({self.name!r}, documents={len(self.documents)}, queries={len(self.queries)})"


def load_training_data(
    path: str | Path, limit_queries: int | None = None, *, columns: Mapping[str, str] | None = None
) -> TrainingData:
    """Return the first ``limit_queries`` queries of the training data at ``path``, in any format of this module.

    Documents with equal texts become one document. Queries with equal texts become one query, which gets all their
    positives. A row with the ``label`` 0 says that its positive is a negative. A query without a positive is left out.

    Args:
        path: the file or folder.
        limit_queries: the number of queries.
        columns: other names of columns in rows, such as ``{"search": "query", "id": ""}``. A column with an
            empty name is left out. Without this, a column that is not known is an error.

    Raises:
        InvalidInput: there is no training data at ``path``, or a line or row cannot be read.
        MissingExtra: ``path`` is a dataset folder and the extra ``train`` is not installed.
    """
    path = absolute(path)
    if limit_queries is not None:
        check_count("limit_queries", limit_queries)
    data = _load(path, limit_queries, Columns(columns))
    for note in data.notes:
        logger.warning("%s: %s", path, note)
    return data


def _load(path: Path, limit_queries: int | None, columns: Columns) -> TrainingData:
    if path.is_file():
        return _from_files(path, (path,), limit_queries, columns)
    if any((path / name).is_file() for name in ("corpus.jsonl", "corpus.jsonl.gz")):
        return _from_beir(path, limit_queries)
    if any((path / name).is_file() for name in ("dataset_dict.json", "dataset_info.json", "state.json")):
        return _from_dataset_folder(path, limit_queries, columns)
    if path.is_dir():
        tables = tables_in(path, "train")
        if {"corpus", "queries"} <= set(tables):
            return _from_judged(path, load_dataset(path, limit_queries, split="train"), "the split train")
        if files := files_in(path):
            data = _from_files(path, files, limit_queries, columns)
            others = [split for table in tables.values() for split in table.other_splits]
            return replace(data, notes=(*data.notes, *_notes_on_splits(others)))
    found = "does not exist" if not path.exists() else "is none of these"
    raise InvalidInput(f"{path} {found}: {_EXPECTED}")


def document_id(documents: Sequence[Document], i: int) -> str:
    """Return the id of the document at position ``i``, without opening its image."""
    return documents.ids[i] if isinstance(documents, Pages) else documents[i].id


def digest(data: TrainingData) -> str:
    """Return a hash of the queries with their positives and negatives, and of the documents' ids and texts.

    For page images, only the ids are part of the hash.
    """
    hashed = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for query in data.queries:
        hashed.update(repr((query.text, query.positives, query.negatives, sorted(query.scores.items()))).encode())
    for i in range(len(data.documents)):
        text = "" if isinstance(data.documents, Pages) else data.documents[i].text
        hashed.update(repr((document_id(data.documents, i), text)).encode())
    return hashed.hexdigest()


# --- formats ----------------------------------------------------------------------------------


def _from_files(path: Path, files: Sequence[Path], limit_queries: int | None, columns: Columns) -> TrainingData:
    places = ((f"{file}, {place}", row) for file in files for place, row in rows_in(file))
    return _from_rows(path, places, limit_queries, columns)


def _from_rows(
    path: Path, rows: Iterable[tuple[str, Any]], limit_queries: int | None, columns: Columns
) -> TrainingData:
    """Return the training data of rows, which come with their places. All their values are texts."""
    positions: dict[str, int] = {}
    positives: dict[str, list[int]] = {}
    negatives: dict[str, list[int]] = {}
    scores: dict[str, dict[int, float]] = {}
    after_limit = other_scores = 0
    for row in _read(rows, columns):
        if limit_queries is not None and row.query not in positives and len(positives) == limit_queries:
            after_limit += 1
            continue
        found = positives.setdefault(row.query, [])
        found += [positions.setdefault(text, len(positions)) for text in row.positives]
        own_negatives = negatives.setdefault(row.query, [])
        own_negatives += [positions.setdefault(text, len(positions)) for text in row.negatives]
        own_scores = scores.setdefault(row.query, {})
        scored = row.positives + row.negatives if row.scores else []
        for text, score in zip(scored, row.scores, strict=True):
            other_scores += own_scores.setdefault(positions[text], score) != score
    columns.check_all_used(path)
    notes = _notes(positives, negatives)
    if after_limit:
        notes.append(f"{number(after_limit, 'row')} left out, because they have queries after the limit")
    if other_scores:
        notes.append(f"{number(other_scores, 'score')} left out, because the same pair has another score before")
    if columns.has_unnamed:
        notes.append("1 column without a name left out")
    positives = {query: found for query, found in positives.items() if found}
    if not positives:
        raise InvalidInput(
            f"{path}: found no pair of query and positive; expected one on each line or row"
            + "".join(f"; {note}" for note in notes)
        )
    documents = [Document(_digest(text.encode("utf-8", "surrogatepass")), text) for text in positions]
    queries = [_query(text, found, negatives[text], scores[text]) for text, found in positives.items()]
    return TrainingData(path.stem, documents, queries, tuple(notes))


def _read(rows: Iterable[tuple[str, Any]], columns: Columns) -> Iterator[Row]:
    for place, row in rows:
        try:
            yield columns.row(row)
        except (LookupError, TypeError) as error:
            found = f"; found {', '.join(map(str, row))}" if isinstance(row, Mapping) else ""
            raise InvalidInput(f"{place}: {error.args[0]}; expected a row with {COLUMNS}{found}") from error


def _notes(positives: Mapping[str, list[int]], negatives: Mapping[str, list[int]]) -> list[str]:
    """Return what of the positives and negatives of queries counts once, or not at all."""
    notes = []
    if without := [query for query, found in positives.items() if not found]:
        notes.append(f"{number(len(without), 'query')} without a positive left out, such as {without[0]!r}")
    repeated = sum(len(found) - len(set(found)) for found in positives.values())
    if repeated:
        notes.append(f"{number(repeated, 'positive')} repeated; each counts once")
    kept = {query: found for query, found in negatives.items() if positives[query]}
    both = sum(position in positives[query] for query, found in kept.items() for position in found)
    again = sum(len(found) - len(set(found) - set(positives[query])) for query, found in kept.items()) - both
    if again:
        notes.append(f"{number(again, 'negative')} repeated; each counts once")
    if both:
        notes.append(f"{number(both, 'negative')} left out, because they are positives of the same query")
    return notes


def _query(
    text: str, positives: Iterable[int], negatives: Iterable[int] = (), scores: Mapping[int, float] | None = None
) -> TrainingQuery:
    """Return a query whose positives and negatives have no duplicates. A positive is removed from the negatives."""
    unique = dict.fromkeys(positives)
    return TrainingQuery(
        text, tuple(unique), tuple(i for i in dict.fromkeys(negatives) if i not in unique), scores or {}
    )


def _from_beir(folder: Path, limit_queries: int | None) -> TrainingData:
    names = ("qrels/train.tsv", "qrels/train.tsv.gz", "qrels.tsv", "qrels.tsv.gz")
    qrels_name = next((name for name in names if (folder / name).is_file()), None)
    if qrels_name is None:
        others = sorted(path.name for path in (folder / "qrels").glob("*"))
        found = f"found qrels/{', qrels/'.join(others)}" if others else "found no other file in qrels"
        raise InvalidInput(f"{folder}: expected judgements for the training in {names[0]} or {names[2]}; {found}")
    return _from_judged(folder, load_dataset(folder, limit_queries, qrels_file=folder / qrels_name), qrels_name)


def _from_judged(folder: Path, dataset: Dataset, qrels_name: str) -> TrainingData:
    """Return the judged queries and documents of a dataset, and at most as many unjudged documents."""
    judged = {document for grades in dataset.qrels.values() for document in grades}
    spare = len(judged)
    documents = []
    for document in dataset.documents:
        spare -= document.id not in judged
        if document.id in judged or spare >= 0:
            documents.append(document)
    notes = list(dataset.notes)
    if left_out := len(dataset.documents) - len(documents):
        notes.append(f"{number(left_out, 'document')} without a judgement left out")
    positions = {document.id: i for i, document in enumerate(documents)}
    positives: dict[str, list[int]] = {}
    without = []
    for name, grades in dataset.qrels.items():
        relevant = [document for document, grade in grades.items() if grade > 0 and document in positions]
        query = dataset.queries[name]
        if not relevant:
            without.append(name)
        elif not isinstance(query, str):
            raise InvalidInput(
                f"{folder / 'queries.jsonl'}: query {name!r} has an image, and the training reads only texts of "
                "queries; remove the query or its qrels"
            )
        else:
            best_first = sorted(relevant, key=lambda document: -grades[document])
            positives.setdefault(query, []).extend(positions[id] for id in best_first)
    if not positives:
        raise InvalidInput(
            f"{folder}: no query has a relevant document in corpus.jsonl; expected at least one grade above 0 in "
            f"{qrels_name}"
        )
    if without:
        notes.append(f"{number(len(without), 'query')} without a relevant document left out, such as {without[0]!r}")
    notes += _notes(positives, {})
    queries = [_query(text, found) for text, found in positives.items()]
    return TrainingData(dataset.name, documents, queries, tuple(notes))


def _from_dataset_folder(folder: Path, limit_queries: int | None, names: Columns) -> TrainingData:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("datasets", "train", "training data in a dataset folder") from error
    rows: Any = datasets.load_from_disk(str(folder))
    notes: list[str] = []
    if isinstance(rows, datasets.DatasetDict):
        if "train" not in rows:
            raise InvalidInput(f"{folder}: found the splits {', '.join(rows)}; expected a split named 'train'")
        notes = _notes_on_splits(sorted(set(rows) - {"train"}))
        rows = rows["train"]
    columns = list(rows.column_names)
    if "query" in columns and "image" in columns:
        # Images stay bytes, because a decoded image is many times as large.
        data = _from_pages(folder, rows.cast_column("image", datasets.Image(decode=False)), limit_queries)
    else:
        places = ((f"{folder}, row {i}", row) for i, row in enumerate(rows, start=1))
        data = _from_rows(folder, places, limit_queries, names)
    return replace(data, notes=(*data.notes, *notes))


def _notes_on_splits(others: Sequence[str]) -> list[str]:
    return [f"{number(len(others), 'other split')} not read: {', '.join(others)}"] if others else []


def _from_pages(folder: Path, rows: Any, limit_queries: int | None) -> TrainingData:
    """Return the training data of rows with a page image and a question, as in the ColPali training set."""
    has_names = "image_filename" in rows.column_names
    positions: dict[str, int] = {}
    first_rows: list[int] = []
    positives: dict[str, list[int]] = {}
    without = after_limit = 0
    for i, query in enumerate(rows["query"]):
        if not query or not query.strip():
            without += 1
            continue
        if limit_queries is not None and query not in positives and len(positives) == limit_queries:
            after_limit += 1
            continue
        page = rows[i]["image_filename"] if has_names else None
        page = page or _digest(image_bytes(folder, rows[i]["image"]))
        if page not in positions:
            positions[page] = len(positions)
            first_rows.append(i)
        positives.setdefault(query, []).append(positions[page])
    if not positives:
        raise InvalidInput(f"{folder}: no row has a query; expected a text in the column query")
    notes = _notes(positives, {})
    if without:
        notes.append(f"{number(without, 'row')} without a query left out")
    if after_limit:
        notes.append(f"{number(after_limit, 'row')} left out, because they have queries after the limit")
    pages = Pages(folder, rows, list(positions), first_rows)
    queries = [_query(text, found) for text, found in positives.items()]
    return TrainingData(folder.name, pages, queries, tuple(notes))


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).hexdigest()

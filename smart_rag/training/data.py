"""Training data: queries, their positives and their negatives, read from files of several formats.

=================  ==================================================================================
Format             Contents
=================  ==================================================================================
pairs or triples   a .jsonl file of {"query": ..., "positive": ..., "negatives": [...]}; negatives are optional
a BEIR folder      its qrels are ``qrels/train.tsv``, or ``qrels.tsv`` in a folder without splits
a dataset folder   made by ``save_to_disk`` of Hugging Face datasets, with the columns of pairs, or ``query`` and
                   ``image``
=================  ==================================================================================
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

from smart_rag.config import check_count
from smart_rag.errors import InvalidInput, MissingExtra
from smart_rag.evaluation.datasets import load_dataset
from smart_rag.files.formats.images import image_from_bytes
from smart_rag.paths import absolute
from smart_rag.types import Document

_EXPECTED = (
    "training data is a .jsonl file of pairs, a BEIR folder with corpus.jsonl, or a folder that save_to_disk of "
    "Hugging Face datasets made"
)
# Column names of pairs and triples: first our names, then those of sentence-transformers.
_QUERY, _POSITIVE, _NEGATIVES = ("query", "anchor"), ("positive",), ("negatives", "negative")
_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class TrainingQuery:
    """A query, and the positions of its positives and of its negatives among the documents."""

    text: str
    positives: tuple[int, ...]
    negatives: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Queries with their positives and negatives among ``documents``.

    ``documents`` may be a lazy sequence. A lazy sequence reads each document, for example a page image, only when the
    document is used.
    """

    name: str
    documents: Sequence[Document]
    queries: Sequence[TrainingQuery]

    def __repr__(self) -> str:
        return f"TrainingData({self.name!r}, documents={len(self.documents)}, queries={len(self.queries)})"


def load_training_data(path: str | Path, limit_queries: int | None = None) -> TrainingData:
    """Return the first ``limit_queries`` queries of the training data at ``path``, in any format of this module.

    Documents with equal texts become one document. Queries with equal texts become one query, which gets all their
    positives.

    Raises:
        InvalidInput: there is no training data at ``path``, or a line or row cannot be read.
        MissingExtra: ``path`` is a dataset folder and the extra ``train`` is not installed.
    """
    path = absolute(path)
    if limit_queries is not None:
        check_count("limit_queries", limit_queries)
    if path.is_file():
        return _from_rows(path, _json_rows(path), limit_queries)
    if (path / "corpus.jsonl").is_file():
        return _from_beir(path, limit_queries)
    if any((path / name).is_file() for name in ("dataset_dict.json", "dataset_info.json", "state.json")):
        return _from_dataset_folder(path, limit_queries)
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
        hashed.update(repr((query.text, query.positives, query.negatives)).encode())
    for i in range(len(data.documents)):
        text = "" if isinstance(data.documents, Pages) else data.documents[i].text
        hashed.update(repr((document_id(data.documents, i), text)).encode())
    return hashed.hexdigest()


# --- formats ----------------------------------------------------------------------------------


def _from_rows(path: Path, rows: Iterable[tuple[str, str, list[str]]], limit_queries: int | None) -> TrainingData:
    """Return the training data of rows (query, positive, negatives). All their values are texts."""
    positions: dict[str, int] = {}
    positives: dict[str, list[int]] = {}
    negatives: dict[str, list[int]] = {}
    for query, positive, others in rows:
        if limit_queries is not None and query not in positives and len(positives) == limit_queries:
            continue
        positives.setdefault(query, []).append(positions.setdefault(positive, len(positions)))
        own_negatives = negatives.setdefault(query, [])
        own_negatives += [positions.setdefault(text, len(positions)) for text in others]
    if not positives:
        raise InvalidInput(f"{path}: found no pair of query and positive; expected one on each line or row")
    documents = [Document(_digest(text.encode("utf-8", "surrogatepass")), text) for text in positions]
    queries = [_query(text, found, negatives[text]) for text, found in positives.items()]
    return TrainingData(path.stem, documents, queries)


def _query(text: str, positives: Iterable[int], negatives: Iterable[int] = ()) -> TrainingQuery:
    """Return a query whose positives and negatives have no duplicates. A positive is removed from the negatives."""
    unique = tuple(dict.fromkeys(positives))
    return TrainingQuery(text, unique, tuple(i for i in dict.fromkeys(negatives) if i not in unique))


def _json_rows(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield _pair(json.loads(line))
                except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
                    raise InvalidInput(
                        f"{path}, line {number}: expected a JSON object with the texts 'query' and 'positive', and "
                        f"optionally a list 'negatives' ({error})"
                    ) from error


def _pair(row: Mapping[str, Any]) -> tuple[str, str, list[str]]:
    query, positive = (_column(row, names) for names in (_QUERY, _POSITIVE))
    found: str | list[str] = next((row[name] for name in _NEGATIVES if row.get(name)), [])
    negatives = [found] if isinstance(found, str) else list(found)
    for text in (query, positive, *negatives):
        if not isinstance(text, str) or not text.strip():
            raise TypeError(f"{text!r} is not a text")
    return query, positive, negatives


def _column(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    for name in names:
        if name in row:
            return row[name]
    raise KeyError(names[0])


def _from_beir(folder: Path, limit_queries: int | None) -> TrainingData:
    """Return the judged queries and documents of a BEIR folder, and at most as many unjudged documents."""
    candidates = [folder / "qrels" / "train.tsv", folder / "qrels.tsv"]
    qrels_file = next((path for path in candidates if path.is_file()), candidates[0])
    dataset = load_dataset(folder, limit_queries, qrels_file=qrels_file)
    judged = {document for grades in dataset.qrels.values() for document in grades}
    spare = len(judged)
    documents = []
    for document in dataset.documents:
        spare -= document.id not in judged
        if document.id in judged or spare >= 0:
            documents.append(document)
    positions = {document.id: i for i, document in enumerate(documents)}
    positives: dict[str, list[int]] = {}
    for name, grades in dataset.qrels.items():
        relevant = [document for document, grade in grades.items() if grade > 0 and document in positions]
        query = dataset.queries[name]
        if relevant and not isinstance(query, str):
            raise InvalidInput(
                f"{folder / 'queries.jsonl'}: query {name!r} has an image, and the training reads only texts of "
                "queries; remove the query or its qrels"
            )
        if relevant and isinstance(query, str):
            best_first = sorted(relevant, key=lambda document: -grades[document])
            positives.setdefault(query, []).extend(positions[id] for id in best_first)
    if not positives:
        raise InvalidInput(
            f"{folder}: no query has a relevant document in corpus.jsonl; expected at least one grade above 0 in "
            f"{qrels_file.relative_to(folder)}"
        )
    return TrainingData(dataset.name, documents, [_query(text, found) for text, found in positives.items()])


def _from_dataset_folder(folder: Path, limit_queries: int | None) -> TrainingData:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("datasets", "train", "training data in a dataset folder") from error
    rows: Any = datasets.load_from_disk(str(folder))
    if isinstance(rows, datasets.DatasetDict):
        if "train" not in rows:
            raise InvalidInput(f"{folder}: found the splits {', '.join(rows)}; expected a split named 'train'")
        rows = rows["train"]
    columns = list(rows.column_names)
    if "query" in columns and "image" in columns:
        # Images stay bytes, because a decoded image is many times as large.
        return _from_pages(folder, rows.cast_column("image", datasets.Image(decode=False)), limit_queries)
    try:
        return _from_rows(folder, map(_pair, rows), limit_queries)
    except (KeyError, TypeError) as error:
        raise InvalidInput(
            f"{folder}: expected the columns query and positive, and optionally negatives, or the columns query and "
            f"image; found {', '.join(columns)} ({error})"
        ) from error


def _from_pages(folder: Path, rows: Any, limit_queries: int | None) -> TrainingData:
    """Return the training data of rows with a page image and a question, as in the ColPali training set."""
    has_names = "image_filename" in rows.column_names
    positions: dict[str, int] = {}
    first_rows: list[int] = []
    positives: dict[str, list[int]] = {}
    for i, query in enumerate(rows["query"]):
        if not query or not query.strip():
            continue  # a page without a question
        if limit_queries is not None and query not in positives and len(positives) == limit_queries:
            continue
        page = rows[i]["image_filename"] if has_names else None
        page = page or _digest(_image_bytes(folder, rows[i]["image"]))
        if page not in positions:
            positions[page] = len(positions)
            first_rows.append(i)
        positives.setdefault(query, []).append(positions[page])
    if not positives:
        raise InvalidInput(f"{folder}: no row has a query; expected a text in the column query")
    pages = Pages(folder, rows, list(positions), first_rows)
    return TrainingData(folder.name, pages, [_query(text, found) for text, found in positives.items()])


@dataclass(frozen=True, slots=True)
class Pages(Sequence[Document]):
    """Page images in the rows of a dataset, as documents. Each image is opened when it is used, and is not kept.

    ``ids`` and ``positions`` (the row of each page) have the same length.
    """

    folder: Path
    rows: Any
    ids: Sequence[str]
    positions: Sequence[int]

    def select(self, indices: Sequence[int]) -> Pages:
        return replace(self, ids=[self.ids[i] for i in indices], positions=[self.positions[i] for i in indices])

    def __add__(self, others: Pages) -> Pages:
        return replace(self, ids=[*self.ids, *others.ids], positions=[*self.positions, *others.positions])

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, i: int) -> Document: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Document]: ...
    def __getitem__(self, i: int | slice) -> Document | Sequence[Document]:
        if isinstance(i, slice):
            return self.select(range(*i.indices(len(self))))
        row = self.positions[i]
        content = _image_bytes(self.folder, self.rows[row]["image"])
        try:
            return Document(self.ids[i], image=image_from_bytes(content))
        except InvalidInput as error:
            raise InvalidInput(
                f"{self.folder}: the image of row {row} ({self.ids[i]}) cannot be read: expected the bytes of an image "
                f"file, found {content[:8]!r} at the start; correct the row or leave it out ({error})"
            ) from error


def _image_bytes(folder: Path, image: Mapping[str, Any]) -> bytes:
    if image["bytes"] is not None:
        return bytes(image["bytes"])
    path = Path(image["path"])
    try:
        return (path if path.is_absolute() else folder / path).read_bytes()
    except OSError as error:
        raise InvalidInput(
            f"{folder}: the image file {str(path)!r} of the dataset cannot be read ({error.strerror}); put it there or "
            "leave its row out"
        ) from error


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).hexdigest()

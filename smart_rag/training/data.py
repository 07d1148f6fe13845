"""Training data: queries, their positives and their negatives, read from files of several formats.

=================  ==================================================================================
Format             Contents
=================  ==================================================================================
pairs or triples   a .jsonl file of {"query": ..., "positive": ..., "negatives": [...]}; negatives are optional, each
                   may be a text or a list, and the names of sentence-transformers and BGE are known, too
a BEIR folder      its qrels are ``qrels/train.tsv``, or ``qrels.tsv`` in a folder without splits
a dataset folder   made by ``save_to_disk`` of Hugging Face datasets, with the columns of pairs, or ``query`` and
                   ``image``
=================  ==================================================================================
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
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
from smart_rag.wording import number

logger = logging.getLogger(__name__)

_EXPECTED = (
    "training data is a .jsonl file of pairs, a BEIR folder with corpus.jsonl, or a folder that save_to_disk of "
    "Hugging Face datasets made"
)
# Column names of pairs and triples: first our names, then those of sentence-transformers, BGE and others.
_QUERY = ("query", "anchor", "question", "sentence1")
_POSITIVE = ("positive", "positives", "pos", "answer", "sentence2")
_NEGATIVES = ("negatives", "negative", "neg")
_NUMBERED = re.compile(r"negative_\d+")
_LABEL = "label"
_COLUMNS = (
    f"a query ({', '.join(_QUERY)}), a positive ({', '.join(_POSITIVE)}), and optionally negatives "
    f"({', '.join(_NEGATIVES)}, negative_1, negative_2, ...) and a {_LABEL} of 1 or 0"
)
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


def load_training_data(
    path: str | Path, limit_queries: int | None = None, *, columns: Mapping[str, str] | None = None
) -> TrainingData:
    """Return the first ``limit_queries`` queries of the training data at ``path``, in any format of this module.

    Documents with equal texts become one document. Queries with equal texts become one query, which gets all their
    positives. A row with the ``label`` 0 says that its positive is a negative. A query without a positive is left out.

    Args:
        path: the file or folder.
        limit_queries: the number of queries.
        columns: other names of columns in rows of pairs, such as ``{"search": "query", "id": ""}``. A column with an
            empty name is left out. Without this, a column that is not known is an error.

    Raises:
        InvalidInput: there is no training data at ``path``, or a line or row cannot be read.
        MissingExtra: ``path`` is a dataset folder and the extra ``train`` is not installed.
    """
    path = absolute(path)
    if limit_queries is not None:
        check_count("limit_queries", limit_queries)
    if path.is_file():
        return _from_rows(path, _json_rows(path, columns or {}), limit_queries)
    if (path / "corpus.jsonl").is_file():
        return _from_beir(path, limit_queries)
    if any((path / name).is_file() for name in ("dataset_dict.json", "dataset_info.json", "state.json")):
        return _from_dataset_folder(path, limit_queries, columns or {})
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


def _from_rows(path: Path, rows: Iterable[tuple[str, list[str], list[str]]], limit_queries: int | None) -> TrainingData:
    """Return the training data of rows (query, positives, negatives). All their values are texts."""
    positions: dict[str, int] = {}
    positives: dict[str, list[int]] = {}
    negatives: dict[str, list[int]] = {}
    for query, own_positives, others in rows:
        if limit_queries is not None and query not in positives and len(positives) == limit_queries:
            continue
        found = positives.setdefault(query, [])
        found += [positions.setdefault(text, len(positions)) for text in own_positives]
        own_negatives = negatives.setdefault(query, [])
        own_negatives += [positions.setdefault(text, len(positions)) for text in others]
    if without := [query for query, found in positives.items() if not found]:
        logger.warning(
            "%s: %s without a positive left out, such as %r", path, number(len(without), "query"), without[0]
        )
    positives = {query: found for query, found in positives.items() if found}
    if not positives:
        raise InvalidInput(f"{path}: found no pair of query and positive; expected one on each line or row")
    documents = [Document(_digest(text.encode("utf-8", "surrogatepass")), text) for text in positions]
    queries = [_query(text, found, negatives[text]) for text, found in positives.items()]
    return TrainingData(path.stem, documents, queries)


def _query(text: str, positives: Iterable[int], negatives: Iterable[int] = ()) -> TrainingQuery:
    """Return a query whose positives and negatives have no duplicates. A positive is removed from the negatives."""
    unique = tuple(dict.fromkeys(positives))
    return TrainingQuery(text, unique, tuple(i for i in dict.fromkeys(negatives) if i not in unique))


def _json_rows(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[str, list[str], list[str]]]:
    with path.open("rb") as lines:
        for line, content in enumerate(lines, start=1):
            if content.strip():
                try:
                    yield _row(json.loads(content.decode("utf-8-sig")), columns)
                except (UnicodeDecodeError, json.JSONDecodeError, LookupError, TypeError, AttributeError) as error:
                    raise InvalidInput(
                        f"{path}, line {line}: expected a JSON object with {_COLUMNS} ({error})"
                    ) from error


def _row(row: Mapping[str, Any], columns: Mapping[str, str]) -> tuple[str, list[str], list[str]]:
    """Return the query, the positives and the negatives of a row.

    Raises:
        LookupError, TypeError: the row lacks a column, has one that is not known, or has a value of another kind.
    """
    named = {columns.get(name, name): value for name, value in row.items() if columns.get(name, name)}
    if len(named) < sum(bool(columns.get(name, name)) for name in row):
        raise LookupError(f"two columns have the same meaning: {', '.join(row)}")
    unknown = [name for name in named if not _is_known(name)]
    if unknown:
        raise LookupError(f"the column {unknown[0]!r} is not known; give it another name, or leave it out")
    query = _texts(named, _QUERY)
    positives, negatives = _texts(named, _POSITIVE), _texts(named, _NEGATIVES)
    negatives += [text for name in named if _NUMBERED.fullmatch(name) for text in _texts(named, (name,))]
    if len(query) != 1 or not positives:
        raise LookupError(f"{_QUERY[0] if len(query) != 1 else _POSITIVE[0]!r} is missing, or empty")
    label = named.get(_LABEL, 1)
    if label not in (0, 1):
        raise TypeError(f"the label {label!r} is neither 1 nor 0")
    return (query[0], positives, negatives) if label == 1 else (query[0], [], [*positives, *negatives])


def _is_known(name: str) -> bool:
    return name in (*_QUERY, *_POSITIVE, *_NEGATIVES, _LABEL) or _NUMBERED.fullmatch(name) is not None


def _texts(row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Return the texts of the one of these columns that a row has. A value is a text, a list of texts, or None."""
    found = [name for name in names if name in row]
    if len(found) > 1:
        raise LookupError(f"the columns {' and '.join(found)} have the same meaning")
    value = row[found[0]] if found else None
    texts = [] if value is None else [value] if isinstance(value, str) else list(value)
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise TypeError(f"{text!r} is not a text")
    return texts


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


def _from_dataset_folder(folder: Path, limit_queries: int | None, renamed: Mapping[str, str]) -> TrainingData:
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
        return _from_rows(folder, (_row(row, renamed) for row in rows), limit_queries)
    except (LookupError, TypeError) as error:
        raise InvalidInput(
            f"{folder}: expected the columns of {_COLUMNS}, or the columns query and image; found "
            f"{', '.join(columns)} ({error})"
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

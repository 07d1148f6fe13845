"""Queries and the documents that answer them, to train on, as they are read from files of any format.

pairs or triples    a .jsonl file of {"query": ..., "positive": ..., "negatives": [...]}, negatives optional
a BEIR folder       with ``qrels/train.tsv``, or ``qrels.tsv`` where it is not split
a dataset folder    of Hugging Face's ``save_to_disk``, with the columns of pairs, or ``query`` and ``image``
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

from smart_rag.config import check_count
from smart_rag.errors import InvalidInput, MissingExtra
from smart_rag.evaluation.datasets import load_dataset
from smart_rag.types import Document

_EXPECTED = (
    "training data is a .jsonl file of pairs, a BEIR folder with corpus.jsonl, or a folder that datasets' save_to_disk "
    "made"
)
# sentence-transformers' names for the columns of pairs and triples, beside ours.
_QUERY, _POSITIVE, _NEGATIVES = ("query", "anchor"), ("positive",), ("negatives", "negative")
_HEX = 16


@dataclass(frozen=True, slots=True)
class TrainingQuery:
    """A query, and the positions among the documents of those that answer it and of some that do not."""

    text: str
    positives: tuple[int, ...]
    negatives: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Queries with their positives among ``documents``. These may be read when they are asked for, as images are."""

    name: str
    documents: Sequence[Document]
    queries: Sequence[TrainingQuery]

    def __repr__(self) -> str:
        return f"TrainingData({self.name!r}, documents={len(self.documents)}, queries={len(self.queries)})"


def load_training_data(path: str | Path, limit: int | None = None) -> TrainingData:
    """Return the training data at ``path``, of any format above, with its first ``limit`` queries.

    Documents of one text are one document, queries of one text one query with the positives of all.

    Raises:
        InvalidInput: there is no such data, or a line or row of it cannot be read.
        MissingExtra: a dataset folder needs the extra ``train``.
    """
    path = Path(path)
    if limit is not None:
        check_count("limit", limit)
    if path.is_file():
        return _of_rows(path, _json_rows(path), limit)
    if (path / "corpus.jsonl").is_file():
        return _of_beir(path, limit)
    if any((path / name).is_file() for name in ("dataset_dict.json", "dataset_info.json", "state.json")):
        return _of_dataset(path, limit)
    found = "does not exist" if not path.exists() else "is none of these"
    raise InvalidInput(f"{path} {found}: {_EXPECTED}")


def document_id(documents: Sequence[Document], i: int) -> str:
    """Return the id of the document at position ``i``, without opening its image."""
    return documents.ids[i] if isinstance(documents, Pages) else documents[i].id


def digest(data: TrainingData) -> str:
    """Return a digest of the queries, of what answers them, and of the documents: their ids, and texts in memory."""
    hashed = hashlib.blake2b(digest_size=_HEX)
    for query in data.queries:
        hashed.update(repr((query.text, query.positives, query.negatives)).encode())
    for i in range(len(data.documents)):
        text = "" if isinstance(data.documents, Pages) else data.documents[i].text
        hashed.update(repr((document_id(data.documents, i), text)).encode())
    return hashed.hexdigest()


# --- formats ----------------------------------------------------------------------------------


def _of_rows(path: Path, rows: Iterable[tuple[str, str, list[str]]], limit: int | None) -> TrainingData:
    """Return the data of rows of (query, positive, negatives), which are texts."""
    positions: dict[str, int] = {}
    positives: dict[str, list[int]] = {}
    negatives: dict[str, list[int]] = {}
    for query, positive, others in rows:
        if limit is not None and query not in positives and len(positives) == limit:
            continue
        positives.setdefault(query, []).append(positions.setdefault(positive, len(positions)))
        of_query = negatives.setdefault(query, [])
        of_query += [positions.setdefault(text, len(positions)) for text in others]
    if not positives:
        raise InvalidInput(f"{path}: no pair of query and positive in it; expected one on each line or row")
    documents = [Document(_digest(text.encode("utf-8", "surrogatepass")), text) for text in positions]
    return TrainingData(path.stem, documents, [_query(text, of, negatives[text]) for text, of in positives.items()])


def _query(text: str, positives: Iterable[int], negatives: Iterable[int] = ()) -> TrainingQuery:
    own = tuple(dict.fromkeys(positives))
    return TrainingQuery(text, own, tuple(i for i in dict.fromkeys(negatives) if i not in own))


def _json_rows(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield _pair(json.loads(line))
                except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
                    raise InvalidInput(
                        f"{path}, line {number}: expected a JSON object with the texts 'query' and 'positive', and if "
                        f"there are any a list 'negatives' ({error})"
                    ) from error


def _pair(row: Mapping[str, Any]) -> tuple[str, str, list[str]]:
    query, positive = (_column(row, names) for names in (_QUERY, _POSITIVE))
    given: str | list[str] = next((row[name] for name in _NEGATIVES if row.get(name)), [])
    negatives = [given] if isinstance(given, str) else list(given)
    for text in (query, positive, *negatives):
        if not isinstance(text, str) or not text.strip():
            raise TypeError(f"{text!r} is no text")
    return query, positive, negatives


def _column(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    for name in names:
        if name in row:
            return row[name]
    raise KeyError(names[0])


def _of_beir(folder: Path, limit: int | None) -> TrainingData:
    """Return the judged queries; of the documents that are not judged, no more than of those that are."""
    places = [folder / "qrels" / "train.tsv", folder / "qrels.tsv"]
    dataset = load_dataset(folder, limit, qrels_file=next((path for path in places if path.is_file()), places[0]))
    judged = {document for grades in dataset.qrels.values() for document in grades}
    spare = len(judged)
    documents = []
    for document in dataset.documents:
        spare -= document.id not in judged
        if document.id in judged or spare >= 0:
            documents.append(document)
    positions = {document.id: i for i, document in enumerate(documents)}
    merged: dict[str, list[int]] = {}
    for name, grades in dataset.qrels.items():
        relevant = (document for document, grade in grades.items() if grade > 0 and document in positions)
        answers = sorted(relevant, key=lambda document: -grades[document])
        if answers:
            merged.setdefault(dataset.queries[name], []).extend(positions[id] for id in answers)
    if not merged:
        raise InvalidInput(f"{folder}: no query has a document in corpus.jsonl that is relevant")
    return TrainingData(dataset.name, documents, [_query(text, of) for text, of in merged.items()])


def _of_dataset(folder: Path, limit: int | None) -> TrainingData:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("datasets", "train", "training data in a dataset folder") from error
    rows: Any = datasets.load_from_disk(str(folder))
    if isinstance(rows, datasets.DatasetDict):
        if "train" not in rows:
            raise InvalidInput(f"{folder}: the dataset has the splits {', '.join(rows)}, expected one called train")
        rows = rows["train"]
    columns = list(rows.column_names)
    if "query" in columns and "image" in columns:
        # As bytes: an image that is opened is many times as large.
        return _of_pages(folder, rows.cast_column("image", datasets.Image(decode=False)), limit)
    try:
        return _of_rows(folder, map(_pair, rows), limit)
    except (KeyError, TypeError) as error:
        raise InvalidInput(
            f"{folder}: expected the columns query and positive, with negatives if there are any, or query and image; "
            f"found {', '.join(columns)} ({error})"
        ) from error


def _of_pages(folder: Path, rows: Any, limit: int | None) -> TrainingData:
    """Return the data of page images with a question each, as the ColPali training set has them."""
    named = "image_filename" in rows.column_names
    positions: dict[str, int] = {}
    first_rows: list[int] = []
    merged: dict[str, list[int]] = {}
    for i, query in enumerate(rows["query"]):
        if not query or not query.strip():
            continue  # a page that no question was made for
        if limit is not None and query not in merged and len(merged) == limit:
            continue
        page = rows[i]["image_filename"] if named else None
        page = page or _digest(_image_bytes(folder, rows[i]["image"]))
        if page not in positions:
            positions[page] = len(positions)
            first_rows.append(i)
        merged.setdefault(query, []).append(positions[page])
    if not merged:
        raise InvalidInput(f"{folder}: no row with a query")
    pages = Pages(folder, rows, list(positions), first_rows)
    return TrainingData(folder.name, pages, [_query(text, of) for text, of in merged.items()])


@dataclass(frozen=True, slots=True)
class Pages(Sequence[Document]):
    """Documents of the images in some rows of a dataset, each opened when it is asked for, and never kept."""

    folder: Path
    rows: Any
    ids: Sequence[str]
    positions: Sequence[int]

    def pick(self, kept: Sequence[int]) -> Pages:
        return replace(self, ids=[self.ids[i] for i in kept], positions=[self.positions[i] for i in kept])

    def joined(self, others: Pages) -> Pages:
        return replace(self, ids=[*self.ids, *others.ids], positions=[*self.positions, *others.positions])

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, i: int) -> Document: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Document]: ...
    def __getitem__(self, i: int | slice) -> Document | Sequence[Document]:
        if isinstance(i, slice):
            return self.pick(range(*i.indices(len(self))))
        from PIL import Image

        row = self.positions[i]
        content = _image_bytes(self.folder, self.rows[row]["image"])
        try:
            return Document(self.ids[i], image=Image.open(io.BytesIO(content)))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise InvalidInput(
                f"{self.folder}: the image of row {row} ({self.ids[i]}) cannot be read: expected the bytes of a "
                f"picture, found {content[:8]!r} at their start; mend the row, or leave it out"
            ) from error


def _image_bytes(folder: Path, image: Mapping[str, Any]) -> bytes:
    if image["bytes"] is not None:
        return bytes(image["bytes"])
    path = Path(image["path"])
    try:
        return (path if path.is_absolute() else folder / path).read_bytes()
    except OSError as error:
        raise InvalidInput(
            f"{folder}: the image {str(path)!r} of the dataset cannot be read ({error.strerror})"
        ) from error


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=_HEX).hexdigest()

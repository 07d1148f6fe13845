"""Queries and the documents that answer them, to train on: from files, split in two, with hard negatives.

pairs or triples    a .jsonl file of {"query": ..., "positive": ..., "negatives": [...]}, negatives optional
a BEIR folder       with ``qrels/train.tsv``, or ``qrels.tsv`` where it is not split
a dataset folder    of Hugging Face's ``save_to_disk``, with the columns of pairs, or ``query`` and ``image``
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from smart_rag.config import check_count
from smart_rag.dataset import load_dataset
from smart_rag.encoder import Encoder, modalities_of
from smart_rag.errors import InvalidInput, MissingExtra
from smart_rag.index import SmartIndex
from smart_rag.types import Document

_EXPECTED = (
    "training data is a .jsonl file of pairs, a BEIR folder with corpus.jsonl, or a folder that datasets' save_to_disk "
    "made"
)
# sentence-transformers' names for the columns of pairs and triples, beside ours.
_QUERY, _POSITIVE, _NEGATIVES = ("query", "anchor"), ("positive",), ("negatives", "negative")
_HEX = 16
# Of hits that are not positives, this many more are asked for: some have a positive's text.
_SPARE = 5
# Held-out queries rank so many documents, if there are: among few, every ranking is good.
_MOST_RANKED = 2_000


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
    return documents.ids[i] if isinstance(documents, _Pages) else documents[i].id


def split(data: TrainingData, held_out: float = 0.1, seed: int = 0) -> tuple[TrainingData, TrainingData]:
    """Return ``data`` in two parts, to train on and to measure with: no document is in both, and no query.

    A document's part follows from its id and ``seed`` alone, so it stays the same when data is added; to split a part
    again takes another seed. A query goes where its first positive goes, and loses positives and negatives that are
    in the other part.

    Raises:
        InvalidInput: ``held_out`` is not between 0 and 1, or one of the parts has no query.
    """
    if not 0 < held_out < 1:
        raise InvalidInput(f"held_out must be between 0 and 1, got {held_out!r}")
    is_held_out = [_fraction(document_id(data.documents, i), seed) < held_out for i in range(len(data.documents))]
    parts = (_part(data, is_held_out, False), _part(data, is_held_out, True))
    for part, what in zip(parts, ("to train on", "to measure with"), strict=True):
        if not part.queries:
            raise InvalidInput(
                f"{data.name}: of {len(data.queries)} queries none is left {what}; more data is needed, or another "
                f"held_out than {held_out:g}"
            )
    return parts


def digest(data: TrainingData) -> str:
    """Return a digest of the queries, of what answers them, and of the documents: their ids, and texts in memory."""
    hashed = hashlib.blake2b(digest_size=_HEX)
    for query in data.queries:
        hashed.update(repr((query.text, query.positives, query.negatives)).encode())
    for i in range(len(data.documents)):
        text = "" if isinstance(data.documents, _Pages) else data.documents[i].text
        hashed.update(repr((document_id(data.documents, i), text)).encode())
    return hashed.hexdigest()


def check_trainable(data: TrainingData, encoder: Encoder, batch_size: int) -> None:
    """Raise `InvalidInput` if there are too few queries for a batch, or documents of which ``encoder`` takes nothing.

    Of several processes, as ``torchrun`` starts them, each has batches of its own.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if len(data.queries) < batch_size * processes:
        each = f" in each of {processes} processes" if processes > 1 else ""
        raise InvalidInput(
            f"{len(data.queries)} queries to train on, fewer than a batch of {batch_size}{each}; bring more, or "
            "choose a smaller batch_size"
        )
    takes = modalities_of(encoder)
    is_seen = (
        "image" in takes
        if isinstance(data.documents, _Pages)
        else any(document.content(takes).modality for document in data.documents)
    )
    if not is_seen:
        raise InvalidInput(
            f"{data.name}: the documents hold nothing that the model takes, which is {', '.join(sorted(takes))}; "
            "use a model that takes what they are, such as page images"
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch: which queries and documents; which document each query is to find, and which are no negatives.

    ``positives`` (n_queries) are columns, as those of ``excluded`` (n_queries, n_documents) are.
    """

    queries: list[int]
    documents: list[int]
    positives: NDArray[np.int64]
    excluded: NDArray[np.bool_]


def batch_of(
    data: TrainingData,
    alike: NDArray[np.int64],
    positions: Sequence[int],
    hard_negatives: int,
    generator: np.random.Generator,
) -> Batch:
    """Return the batch of the queries at ``positions``: of each one positive and ``hard_negatives``, drawn by chance.

    What else answers a query, or is ``alike``, is no negative of it.
    """
    queries = [data.queries[i] for i in positions]
    chosen = [query.positives[generator.integers(len(query.positives))] for query in queries]
    hard = [
        query.negatives[i]
        for query in queries
        for i in generator.permutation(len(query.negatives))[:hard_negatives].tolist()
    ]
    documents = list(dict.fromkeys([*chosen, *hard]))
    column = {document: i for i, document in enumerate(documents)}
    positives = np.asarray([column[document] for document in chosen])
    excluded = np.stack([np.isin(alike[documents], alike[list(query.positives)]) for query in queries])
    excluded[np.arange(len(queries)), positives] = False
    return Batch(list(positions), documents, positives, excluded)


def alike(data: TrainingData, modalities: Collection[str]) -> NDArray[np.int64]:
    """Return a number for each document, the same for those of which a model of these ``modalities`` sees one text."""
    if isinstance(data.documents, _Pages):
        return np.arange(len(data.documents))
    groups: dict[str, int] = {}
    contents = (document.content(modalities) for document in data.documents)
    keys = [
        content.text if content.modality == "text" else f"\0{document.id}"
        for content, document in zip(contents, data.documents, strict=True)
    ]
    return np.asarray([groups.setdefault(key, len(groups)) for key in keys], dtype=np.int64)


def distractors_of(data: TrainingData, training: TrainingData, held_out: TrainingData) -> list[int]:
    """Return the positions in ``training`` of documents that answer no held-out query, as many as are to be ranked."""
    asked = {query.text for query in held_out.queries}
    answers = {i for query in data.queries if query.text in asked for i in query.positives}
    split_off = {document_id(data.documents, i) for i in answers}
    spare = max(0, _MOST_RANKED - len(held_out.documents))
    return [i for i in range(len(training.documents)) if document_id(training.documents, i) not in split_off][:spare]


def with_distractors(training: TrainingData, held_out: TrainingData, distractors: Sequence[int]) -> TrainingData:
    """Return ``held_out`` with the documents at the positions ``distractors`` of ``training`` after its own."""
    ours, theirs = held_out.documents, training.documents
    if isinstance(ours, _Pages) and isinstance(theirs, _Pages):
        return replace(held_out, documents=ours.joined(theirs.pick(distractors)))
    return replace(held_out, documents=[*ours, *(theirs[i] for i in distractors)])


def mine_negatives(data: TrainingData, encoder: Encoder, count: int, *, show_progress: bool = False) -> TrainingData:
    """Return ``data`` with ``count`` hard negatives for each query: what `SmartIndex.search` finds and is no positive.

    Negatives that a query has already come first. A document with a positive's text is none.

    Raises:
        InvalidInput: ``encoder`` takes nothing of a document.
    """
    check_count("count", count)
    positions = {document.id: i for i, document in enumerate(data.documents)}
    most = max(len(query.positives) + len(query.negatives) for query in data.queries)
    with (
        tempfile.TemporaryDirectory(prefix="smart_rag_") as folder,
        SmartIndex.create(Path(folder) / "index", encoder) as index,
    ):
        index.add(data.documents, show_progress=show_progress)
        found = index.search_many([query.text for query in data.queries], count + most + _SPARE)
    takes = modalities_of(encoder)
    queries = []
    for query, hits in zip(data.queries, found, strict=True):
        answers = {data.documents[i].content(takes) for i in query.positives if data.documents[i].image is None}
        mined = [
            positions[hit.id]
            for hit in hits
            if positions[hit.id] not in query.positives and Document(hit.id, hit.text).content(takes) not in answers
        ]
        queries.append(replace(query, negatives=tuple(dict.fromkeys([*query.negatives, *mined]))[:count]))
    return replace(data, queries=queries)


def _part(data: TrainingData, is_held_out: Sequence[bool], held_out: bool) -> TrainingData:
    kept = [i for i, of_document in enumerate(is_held_out) if of_document == held_out]
    moved = {old: new for new, old in enumerate(kept)}
    queries = [
        TrainingQuery(
            query.text,
            tuple(moved[i] for i in query.positives if i in moved),
            tuple(moved[i] for i in query.negatives if i in moved),
        )
        for query in data.queries
        if query.positives[0] in moved
    ]
    documents = data.documents
    picked = documents.pick(kept) if isinstance(documents, _Pages) else [documents[i] for i in kept]
    return TrainingData(data.name, picked, queries)


def _fraction(id: str, seed: int) -> float:
    """Return a number in [0, 1) that looks drawn by chance, the same for an id each time."""
    digest = hashlib.blake2b(f"{seed}\0{id}".encode("utf-8", "surrogatepass"), digest_size=7).digest()
    return int.from_bytes(digest, "big") / (1 << 56)


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
    pages = _Pages(folder, rows, list(positions), first_rows)
    return TrainingData(folder.name, pages, [_query(text, of) for text, of in merged.items()])


@dataclass(frozen=True, slots=True)
class _Pages(Sequence[Document]):
    """Documents of the images in some rows of a dataset, each opened when it is asked for, and never kept."""

    folder: Path
    rows: Any
    ids: Sequence[str]
    positions: Sequence[int]

    def pick(self, kept: Sequence[int]) -> _Pages:
        return replace(self, ids=[self.ids[i] for i in kept], positions=[self.positions[i] for i in kept])

    def joined(self, others: _Pages) -> _Pages:
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

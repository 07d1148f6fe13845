"""Datasets: documents, queries and qrels.

A BEIR folder holds ``corpus.jsonl``, ``queries.jsonl`` and ``qrels.tsv`` (or ``qrels/test.tsv``), as described at
https://github.com/beir-cellar/beir. Folders of the Hugging Face hub and of mteb hold the tables corpus, queries and
qrels, for example as Parquet files. ir-datasets has names for its datasets.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smart_rag.errors import InvalidInput
from smart_rag.evaluation.qrels import Qrels, met, own_documents, read_qrels
from smart_rag.evaluation.rows import IR_DATASETS, Source, ir_source, json_rows, tabled_source
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
    """Return the dataset in ``folder``, with its first ``limit_queries`` judged queries.

    The text of a `Document` is the title, a space, and the text of its line in ``corpus.jsonl``. A visual document
    also has the key ``image`` (a file), or the keys ``pdf`` (a file) and ``page`` (counted from 0). It needs no text. A
    query may have an image in the same way. The paths of the files are relative to ``folder``. Queries that are not
    judged are left out. Documents with neither text nor image are left out, too. Each file may end in ``.gz``.

    Args:
        folder: a BEIR folder, a folder with the tables corpus, queries and qrels (Parquet files, JSON lines, or what
            ``save_to_disk`` of Hugging Face datasets has written), or ``ir_datasets:`` and the name of a dataset of
            ir-datasets, such as ``"ir_datasets:beir/scifact/test"``.
        limit_queries: the number of queries.
        split: the name of a file in the folder ``qrels``, such as ``"dev"``, or of a split of the tables. By default,
            this is ``qrels.tsv`` or ``qrels/test.tsv``, or the only split or ``test``.
        qrels_file: a file of judgements elsewhere.
        answerable_only: whether to leave out the judgements of documents that the corpus lacks, and queries without a
            relevant document. By default they count, as in trec_eval.

    Raises:
        InvalidInput: a file is missing, one of its lines cannot be read, two lines contradict each other, or no
            document has a text or an image.
        MissingExtra: the dataset needs pyarrow or ir-datasets, which is not installed.
    """
    source = _source(folder, split, qrels_file)
    labels = _labels(source, limit_queries)
    documents = []
    empty = 0
    for row in source.corpus:
        text = f"{row.get('title') or ''} {row.get('text') or ''}".strip()
        image = _image(source.folder, row)
        if text or image is not None:
            documents.append(Document(row["_id"], text, image=image))
        else:
            empty += 1
    if not documents:
        raise InvalidInput(f"{source.names[0]}: expected at least one document with a text or an image")
    if empty:
        logger.warning("%s: %s without text left out", folder, number(empty, "document"))
    measured = met(labels.qrels, {document.id for document in documents}, answerable_only=answerable_only)
    if not measured.qrels:
        raise InvalidInput(f"{folder}: no query has a relevant document in the corpus; {'; '.join(measured.notes)}")
    queries = {id: query for id, query in labels.queries.items() if id in measured.qrels}
    own = own_documents(queries, {one.id: one.text for one in documents if one.id in queries}, measured.qrels)
    notes = (*source.notes, *labels.notes, *measured.notes)
    return Dataset(source.name, documents, queries, measured.qrels, notes=notes, own_documents=own)


def _source(folder: str | Path, split: str | None, qrels_file: str | Path | None) -> Source:
    """Return the parts of the dataset in ``folder``, in whichever layout it is."""
    if str(folder).startswith(IR_DATASETS):
        if split or qrels_file:
            raise InvalidInput(f"{folder}: the split is a part of this name, such as {IR_DATASETS}beir/scifact/test")
        return ir_source(str(folder).removeprefix(IR_DATASETS))
    folder = absolute(folder)
    has_corpus = any((folder / name).is_file() for name in ("corpus.jsonl", "corpus.jsonl.gz"))
    # mteb has written such folders with judgements in JSON lines.
    has_tabled_qrels = any(folder.glob("qrels*/*.jsonl")) and not any(folder.glob("qrels*/*.tsv*"))
    if qrels_file is None and (has_tabled_qrels or not has_corpus) and (tabled := tabled_source(folder, split)):
        return tabled
    corpus_path = folder / "corpus.jsonl"
    qrels_path = absolute(qrels_file) if qrels_file else _qrels_file(folder, split)
    qrels = read_qrels(qrels_path)
    queries_path = folder / "queries.jsonl"
    return Source(
        folder.resolve().name,
        folder,
        json_rows(corpus_path),
        json_rows(queries_path),
        qrels,
        (str(corpus_path), str(queries_path), str(qrels_path)),
    )


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
    qrels, folder = read_qrels(qrels_file), queries_file.parent
    names = ("", str(queries_file), str(qrels_file))
    return _labels(Source(folder.name, folder, (), json_rows(queries_file), qrels, names), limit_queries)


def _labels(source: Source, limit_queries: int | None) -> Labels:
    """Return the first ``limit_queries`` judged queries of ``source``, and their qrels."""
    all_qrels = source.qrels
    _, queries_name, qrels_name = source.names
    queries = {row["_id"]: Content(row.get("text") or "", _image(source.folder, row)).plain for row in source.queries}
    all_judged = [id for id in queries if id in all_qrels]
    judged = all_judged[:limit_queries]
    if not judged:
        raise InvalidInput(
            f"{source.folder}: no query of {Path(queries_name).name} is judged in {qrels_name}; check that both use "
            "the same query ids"
        )
    for id in judged:
        if isinstance(query := queries[id], str) and not query.strip():
            raise InvalidInput(f"{queries_name}: query {id!r} is empty; give it a text, or remove its qrels")
    notes = []
    if unjudged := len(queries) - len(all_judged):
        notes.append(f"{number(unjudged, 'query')} without a judgement left out")
    if after := len(all_judged) - len(judged):
        notes.append(f"{number(after, 'query')} after the limit left out")
    if missing := [id for id in all_qrels if id not in queries]:
        notes.append(
            f"the judgements of {number(len(missing), 'query')} left out, which {Path(queries_name).name} lacks, such "
            f"as {missing[0]!r}"
        )
    return Labels({id: queries[id] for id in judged}, {id: all_qrels[id] for id in judged}, tuple(notes))


def _image(folder: Path, row: Mapping[str, Any]) -> ImageSource | None:
    if "pdf" in row:
        return PdfPage(folder / row["pdf"], int(row["page"]) + 1)
    return folder / row["image"] if row.get("image") else None

"""Rows of datasets: documents and queries in JSON lines, in tables of the Hugging Face hub, or of ir-datasets."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smart_rag.errors import InvalidInput, MissingExtra
from smart_rag.evaluation.paper.tables import Table, tables_in
from smart_rag.evaluation.qrels import Qrels, open_text, qrels_of
from smart_rag.values import json_value
from smart_rag.wording import nearest, number

logger = logging.getLogger(__name__)

# Before the name of a dataset of ir-datasets, such as ir_datasets:beir/scifact/test.
IR_DATASETS = "ir_datasets:"
_PARTS = {"corpus": ("corpus",), "queries": ("queries", "query"), "qrels": ("qrels", "default", "relevant_docs")}
_IDS = {
    "corpus": ("_id", "id", "corpus-id", "corpus_id", "docid", "doc_id"),
    "queries": ("_id", "id", "query-id", "query_id", "qid"),
}
_TEXTS = {"corpus": ("text",), "queries": ("text", "query")}
_QRELS = {
    "query": ("query-id", "query_id", "qid"),
    "document": ("corpus-id", "corpus_id", "docid", "doc_id"),
    "grade": ("score", "relevance", "grade", "rel", "label"),
}


@dataclass(frozen=True, slots=True)
class Source:
    """The parts of a dataset, before they are brought together.

    Attributes:
        name: name of the dataset.
        folder: folder to which the paths of images are relative.
        corpus: rows of documents, each with ``_id``, ``text`` and ``title``.
        queries: rows of queries, each with ``_id`` and ``text``.
        qrels: the judgements.
        names: names of the corpus, the queries and the judgements, for messages.
        notes: what of the tables is not used.
    """

    name: str
    folder: Path
    corpus: Iterable[Mapping[str, Any]]
    queries: Iterable[Mapping[str, Any]]
    qrels: Qrels
    names: tuple[str, str, str]
    notes: tuple[str, ...] = ()


def json_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a .jsonl file, each with its ``_id`` as a text. Rows that the file repeats come once.

    Raises:
        InvalidInput: a line is no such row, or two rows have the same id and other values.
    """
    packed = path.with_name(f"{path.name}.gz")
    return _once(path, _json_lines(packed if packed.is_file() and not path.is_file() else path))


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with open_text(path) as lines:
        for line, content in enumerate(lines, start=1):
            if not content.strip():
                continue
            try:
                yield f"line {line}", _row(json_value(content))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise InvalidInput(
                    f"{path}, line {line}: expected a JSON object with '_id' and 'text' ({error})"
                ) from error


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``row`` with its id, which may be called ``id``, as the text ``_id``."""
    is_visual = bool(row.get("image") or "pdf" in row)
    for name in ("image", "pdf"):
        if name in row and not isinstance(row[name], str) and (row[name] is not None or name == "pdf"):
            raise TypeError(f"{name!r} is {row[name]!r}, not the path of a file")
    if "pdf" in row and (not isinstance(page := row.get("page"), int) or isinstance(page, bool) or page < 0):
        raise TypeError(f"'page' of a PDF is {page!r}, not a whole number from 0")
    needs_text = not is_visual and not row.get("title")
    text = row["text"] if needs_text else row.get("text")
    if not isinstance(text, str) and (text is not None or needs_text):
        raise TypeError(f"'text' is {text!r}, not a string")
    return {**row, "_id": _id(row["_id"] if "_id" in row or "id" not in row else row["id"])}


def _id(value: Any) -> str:
    if isinstance(value, bool | float | list | dict) or value is None or value == "":
        raise TypeError(f"the id {value!r} is neither a text nor a whole number")
    return str(value)


def _once(place: Path | str, rows: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Yield the rows, which come with their places, without those that are repeated."""
    found: dict[str, tuple[str, int]] = {}
    repeated = 0
    for where, row in rows:
        content = hash(repr(sorted(row.items())))
        before, first = found.setdefault(row["_id"], (where, content))
        if first != content:
            raise InvalidInput(
                f"{place}, {where}: the id {row['_id']!r} is also on {before}, with other values; give each row an id "
                "of its own"
            )
        if before == where:
            yield row
        else:
            repeated += 1
    if repeated:
        logger.warning("%s: %s repeated; each counts once", place, number(repeated, "row"))


def tabled_source(folder: Path, split: str | None) -> Source | None:
    """Return the tables corpus, queries and qrels in ``folder``, or None if there is no table of a corpus.

    Raises:
        InvalidInput: another table is missing, a table lacks a column, or a row cannot be read.
        MissingExtra: pyarrow is not installed.
    """
    tables = tables_in(folder, split) if folder.is_dir() else {}
    parts = {part: next((tables[name] for name in names if name in tables), None) for part, names in _PARTS.items()}
    corpus, queries, qrels = parts["corpus"], parts["queries"], parts["qrels"]
    if corpus is None:
        if parted := [name for name in tables if name.endswith("-corpus")]:
            raise InvalidInput(
                f"{folder}: found the tables {', '.join(parted)}, each of a part such as a language; put the tables "
                "of one part into a folder, named corpus, queries and qrels, or rank them with --paper"
            )
        return None
    if queries is None or qrels is None:
        lacking = " and ".join(part for part, table in parts.items() if table is None)
        raise InvalidInput(
            f"{folder}: expected the tables corpus, queries and qrels; {lacking} is missing among {', '.join(tables)}"
        )
    notes: list[str] = []
    judgements = _table_qrels(qrels, notes)
    rows = {part: _table_rows(table, part, notes) for part, table in (("corpus", corpus), ("queries", queries))}
    others = [name for name in tables if tables[name] not in (corpus, queries, qrels)]
    if others:
        notes.append(f"{number(len(others), 'table')} not used: {', '.join(others)}")
    names = (_place(corpus), _place(queries), _place(qrels))
    return Source(folder.resolve().name, folder, rows["corpus"], rows["queries"], judgements, names, tuple(notes))


def _table_rows(table: Table, part: str, notes: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of documents or queries in a table. Rows that the table repeats come once."""
    id = _column(table, _IDS[part])
    text = _column(table, _TEXTS[part])
    title = "title" if "title" in table.columns else None
    columns = [name for name in (id, text, title) if name]
    _note_unused(table, columns, notes)

    def rows() -> Iterator[tuple[str, dict[str, Any]]]:
        for i, row in enumerate(table.rows(columns), start=1):
            try:
                named = {"text": _text(row[text]), "title": _text(row[title]) if title else ""}
                yield f"row {i}", {"_id": _id(row[id]), **named}
            except TypeError as error:
                raise InvalidInput(f"{_place(table)}, row {i}: {error}; correct this row") from error

    return _once(_place(table), rows())


def _text(value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value or ""


def _table_qrels(table: Table, notes: list[str]) -> Qrels:
    query, document = (_column(table, _QRELS[kind]) for kind in ("query", "document"))
    grade = next((name for name in _QRELS["grade"] if name in table.columns), None)
    columns = [name for name in (query, document, grade) if name]
    _note_unused(table, columns, notes)
    if grade is None:
        notes.append(f"the table {table.name} has no grades; each judgement counts 1")

    def judgements() -> Iterator[tuple[str, str, str, str]]:
        for i, row in enumerate(table.rows(columns), start=1):
            try:
                yield f"row {i}", _id(row[query]), _id(row[document]), "1" if grade is None else str(row[grade])
            except TypeError as error:
                raise InvalidInput(f"{_place(table)}, row {i}: {error}; correct this row") from error

    return qrels_of(_place(table), judgements())


def _place(table: Table) -> str:
    return str(table.files[0]) if len(table.files) == 1 else f"{table.folder}, table {table.name}"


def _column(table: Table, names: Sequence[str]) -> str:
    """Return the first of ``names`` that is a column of ``table``."""
    columns = table.columns
    for name in names:
        if name in columns:
            return name
    near = next(filter(None, (nearest(name, columns) for name in names)), "")
    raise InvalidInput(
        f"{_place(table)}: expected a column {' or '.join(names)}, found {', '.join(columns) or 'none'}"
        + (f"; rename {near!r}, if it is this one" if near else "; rename a column")
    )


def _note_unused(table: Table, used: Sequence[str], notes: list[str]) -> None:
    if unused := [name for name in table.columns if name not in used]:
        notes.append(f"{number(len(unused), 'column')} of the table {table.name} not used: {', '.join(unused)}")


def ir_source(name: str) -> Source:
    """Return a dataset of ir-datasets, such as ``beir/scifact/test``. This package may download it.

    Raises:
        InvalidInput: there is no such dataset, or it lacks documents, queries or judgements.
        MissingExtra: ir-datasets is not installed.
    """
    try:
        import ir_datasets
    except ImportError as error:
        raise MissingExtra("ir-datasets", "ir-datasets", f"the dataset {IR_DATASETS}{name}") from error
    try:
        dataset = ir_datasets.load(name)
    except KeyError as error:
        near = nearest(name, [str(known) for known in ir_datasets.registry])
        hint = f"; the nearest name is {near}" if near else ""
        raise InvalidInput(f"ir-datasets has no dataset {name!r}{hint}; see https://ir-datasets.com") from error
    parts = ("docs", "queries", "qrels")
    lacking = [part for part in parts if not getattr(dataset, f"has_{part}")()]
    if lacking:
        raise InvalidInput(
            f"{IR_DATASETS}{name} has no {' and no '.join(lacking)}; name a part of it with documents, queries and "
            "judgements, such as beir/scifact/test"
        )
    place = f"{IR_DATASETS}{name}"
    judgements = (
        (f"judgement {i}", one.query_id, one.doc_id, str(one.relevance))
        for i, one in enumerate(dataset.qrels_iter(), start=1)
    )
    qrels = qrels_of(place, judgements)
    documents = ({"_id": one.doc_id, "text": one.default_text()} for one in dataset.docs_iter())
    queries = ({"_id": one.query_id, "text": one.default_text()} for one in dataset.queries_iter())
    return Source(
        name.replace("/", "-"),
        Path(),
        _once(f"{place}, documents", ((f"number {i}", one) for i, one in enumerate(documents, start=1))),
        _once(f"{place}, queries", ((f"number {i}", one) for i, one in enumerate(queries, start=1))),
        qrels,
        (f"{place}: the documents", f"{place}: the queries", f"{place}: the judgements"),
    )

"""Judgements (qrels): the files of BEIR and of TREC, and what of them cannot be met."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TextIO

from smart_rag.errors import InvalidInput
from smart_rag.wording import number

logger = logging.getLogger(__name__)

# Grades by query id and document id.
Qrels = dict[str, dict[str, int]]

# trec_eval counts up to the highest grade, so a grade of billions would never end.
_HIGHEST = 1_000_000
# The last name in a header.
_GRADE_NAMES = {"score", "grade", "relevance", "rel", "label", "judgement", "judgment"}
_EXPECTED = (
    "expected query id, document id and grade, or TREC's query id, iteration, document id and grade, separated by tabs "
    "or blanks"
)


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open a text file that is UTF-8, with or without a mark at its start, and with or without gzip (``.gz``).

    Raises:
        InvalidInput: the file is missing, is not UTF-8, or is no sound gzip file.
    """
    if not path.is_file():
        raise InvalidInput(
            f"{path} is missing: a BEIR folder holds corpus.jsonl, queries.jsonl and qrels.tsv (or qrels/test.tsv), "
            "each also as .gz, or the tables corpus, queries and qrels, for example as Parquet files"
        )
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8-sig", newline="\n") as lines:
                yield lines
        else:
            with path.open(encoding="utf-8-sig", newline="\n") as lines:
                yield lines
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 ({error}); save it as UTF-8") from error
    except (gzip.BadGzipFile, EOFError) as error:
        raise InvalidInput(f"{path} is damaged, or not a gzip file ({error}); write it again") from error


def read_qrels(path: Path) -> Qrels:
    """Return the judgements in a file of BEIR (with or without its header) or of TREC.

    Fractions such as ``0.5`` are multiplied by a power of ten, because trec_eval takes integers. This changes no
    measure: nDCG is the same for all multiples of the grades. Judgements that the file repeats count once.

    Raises:
        InvalidInput: a line is no judgement, or two lines give a document different grades for the same query.
    """
    return qrels_of(path, _lines(path))


def _lines(path: Path) -> Iterator[tuple[str, str, str, str]]:
    with open_text(path) as lines:
        is_first = True
        for line, text in enumerate(lines, start=1):
            fields = text.rstrip("\r\n").split("\t") if "\t" in text else text.split()
            fields = [field.strip() for field in fields]
            if not any(fields):
                continue
            is_header = is_first and fields[-1].lower() in _GRADE_NAMES
            is_first = False
            if is_header:
                continue
            if len(fields) not in (3, 4) or not all(fields):
                raise InvalidInput(f"{path}, line {line}: {_EXPECTED}; got {fields}")
            yield f"line {line}", fields[0], fields[-2], fields[-1]


def qrels_of(place: Path | str, judgements: Iterable[tuple[str, str, str, str]]) -> Qrels:
    """Return the judgements that are given as (where, query id, document id, grade), with grades as in `read_qrels`.

    Args:
        place: the file or the table, for messages.
        judgements: the judgements, with the line or row of each.

    Raises:
        InvalidInput: a grade is no number, or two judgements give a document different grades for the same query.
    """
    found: dict[tuple[str, str], tuple[Decimal, str]] = {}
    repeated = 0
    for where, query, document, text in judgements:
        grade = _grade(place, where, text)
        before = found.setdefault((query, document), (grade, where))
        if before[0] != grade:
            raise InvalidInput(
                f"{place}, {where}: document {document!r} has the grade {grade} for query {query!r}, and the grade "
                f"{before[0]} on {before[1]}; leave one of the two"
            )
        repeated += before[1] != where
    if repeated:
        logger.warning("%s: %s repeated; each counts once", place, number(repeated, "judgement"))
    return _whole(place, found)


def _grade(place: Path | str, where: str, text: str) -> Decimal:
    try:
        grade = Decimal(text)
        if not grade.is_finite():
            raise InvalidOperation
    except InvalidOperation as error:
        header = f"; a header ends with one of: {', '.join(sorted(_GRADE_NAMES))}" if where == "line 1" else ""
        raise InvalidInput(f"{place}, {where}: {_EXPECTED}; {text!r} is no grade{header}") from error
    return grade


def _whole(place: Path | str, found: Mapping[tuple[str, str], tuple[Decimal, str]]) -> Qrels:
    """Return the grades as integers, by query id and document id."""
    decimals = max((-int(grade.normalize().as_tuple().exponent) for grade, _ in found.values()), default=0)
    factor = Decimal(10) ** max(decimals, 0)
    qrels: Qrels = {}
    for (query, document), (grade, where) in found.items():
        if abs(grade * factor) > _HIGHEST:
            raise InvalidInput(
                f"{place}, {where}: the grade {grade} is too large; expected at most {_HIGHEST / factor:,f}, with "
                "the decimals that this file has; write smaller grades or fewer decimals"
            )
        qrels.setdefault(query, {})[document] = int(grade * factor)
    return qrels


@dataclass(frozen=True, slots=True)
class Met:
    """Judgements of the queries that can be measured, and what about the others has to be said.

    Attributes:
        qrels: grades by query id and document id.
        notes: the judgements that no ranking can meet, each kind with its count.
    """

    qrels: Qrels
    notes: tuple[str, ...]


def met(qrels: Qrels, documents: Collection[str], *, answerable_only: bool, place: str = "the corpus") -> Met:
    """Return which judgements can be met by rankings of ``documents``, and notes about those that cannot.

    By default, all count, as in trec_eval: a relevant document that is not among ``documents`` counts as not found,
    and a query without a relevant document gets 0. If ``answerable_only``, such judgements and queries are left out.

    Args:
        qrels: the judgements of all queries.
        documents: the ids of the documents that are ranked.
        answerable_only: whether to leave out what cannot be met.
        place: where the documents are, for the notes.
    """
    ids = documents if isinstance(documents, set | frozenset | dict) else set(documents)
    unknown = {query: [one for one in grades if one not in ids] for query, grades in qrels.items()}
    lacking = sum(qrels[query][one] > 0 for query, own in unknown.items() for one in own)
    first = next((one for own in unknown.values() for one in own), None)
    judged = sum(map(len, unknown.values()))
    known = {query: {one: grade for one, grade in of.items() if one in ids} for query, of in qrels.items()}
    kept = known if answerable_only else qrels
    without = [query for query, grades in kept.items() if max(grades.values(), default=0) <= 0]
    notes = []
    if judged:
        then = "they are left out" if answerable_only else f"the {lacking:,} relevant ones count as not found"
        notes.append(f"{number(judged, 'judgement')} of documents that {place} lacks, such as {first!r}; {then}")
    if without:
        then = "left out" if answerable_only else "each measure of theirs is 0"
        notes.append(f"{number(len(without), 'query')} without a relevant document, such as {without[0]!r}; {then}")
    if answerable_only:
        kept = {query: grades for query, grades in kept.items() if max(grades.values(), default=0) > 0}
    return Met(kept, tuple(notes))


def own_documents(queries: Mapping[str, object], texts: Mapping[str, str], qrels: Qrels) -> dict[str, str]:
    """Return by query id the document that is the query itself: it has its id and its text, and is not judged.

    Some datasets search with documents of their own corpus, as ArguAna does. BEIR leaves out of each ranking the
    document with the query's id. Other datasets count queries and documents from 1, so here the text must be the same.

    Args:
        queries: the queries by id.
        texts: the texts of documents by id.
        qrels: the judgements.
    """
    return {
        id: id
        for id, query in queries.items()
        if isinstance(query, str)
        and id not in qrels.get(id, {})
        and id in texts
        and " ".join(query.split()) in " ".join(texts[id].split())
    }


def own_notes(own: Mapping[str, str]) -> list[str]:
    """Return a note about the queries that are documents themselves; see `own_documents`."""
    if not own:
        return []
    queries, first = number(len(own), "query"), next(iter(own))
    return [f"{queries} with the id and the text of a document, such as {first!r}; their rankings leave it out"]

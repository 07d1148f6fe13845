"""Rankings in TREC run files: query id, ``Q0``, document id, rank, score and name of the run, on each line."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable
from itertools import pairwise
from pathlib import Path

from smart_rag.errors import InvalidInput
from smart_rag.evaluation.metrics import Run
from smart_rag.evaluation.qrels import open_text
from smart_rag.paths import absolute
from smart_rag.wording import number

logger = logging.getLogger(__name__)

_EXPECTED = "expected query id, Q0, document id, rank, score and name of the run, separated by tabs or blanks"
_FIELDS = 6


def read_run(path: str | Path) -> Run:
    """Return the rankings in a TREC run file, which may end in ``.gz``.

    As in trec_eval, the scores decide about the order, and not the ranks or the order of the lines. Of equal scores,
    the higher document id comes first. The names of runs are ignored. A warning counts the queries whose ranks say
    another order than their scores.

    Raises:
        InvalidInput: the file is missing or empty, a line cannot be read, or a query has a document twice.
    """
    path = absolute(path)
    if not path.is_file():
        raise InvalidInput(f"{path} is missing: expected a TREC run file; each line has {_EXPECTED[9:]}")
    found: dict[str, dict[str, tuple[float, float]]] = {}
    with open_text(path) as lines:
        for line, text in enumerate(lines, start=1):
            fields = text.rstrip("\r\n").split("\t") if "\t" in text else text.split()
            fields = [field.strip() for field in fields]
            if not any(fields):
                continue
            query, document, rank, score = _ranked(path, line, fields)
            own = found.setdefault(query, {})
            if document in own:
                raise InvalidInput(
                    f"{path}, line {line}: query {query!r} ranks document {document!r} twice; leave one of the lines"
                )
            own[document] = (score, rank)
    if not found:
        raise InvalidInput(f"{path} is empty: {_EXPECTED}")
    run = {}
    reordered = []
    for query, own in found.items():
        run[query] = sorted(own, key=lambda document: (own[document][0], document), reverse=True)
        ranked = [own[document] for document in run[query]]
        if any(a[0] > b[0] and a[1] > b[1] for a, b in pairwise(ranked)):
            reordered.append(query)
    if reordered:
        logger.warning(
            "%s: the ranks of %s are not in the order of the scores, such as %r; the scores count, as in trec_eval",
            *(path, number(len(reordered), "query"), reordered[0]),
        )
    return run


def _ranked(path: Path, line: int, fields: list[str]) -> tuple[str, str, float, float]:
    """Return the query id, the document id, the rank and the score of a line."""
    if len(fields) != _FIELDS or not all(fields[:5]):
        raise InvalidInput(f"{path}, line {line}: {_EXPECTED}; got {fields}")
    try:
        rank, score = float(fields[3]), float(fields[4])
        if not (math.isfinite(rank) and math.isfinite(score)):
            raise ValueError
    except ValueError as error:
        raise InvalidInput(
            f"{path}, line {line}: {_EXPECTED}; the rank {fields[3]!r} or the score {fields[4]!r} is no finite number"
        ) from error
    return fields[0], fields[2], rank, score


def write_run(path: str | Path, run: Run, name: str) -> None:
    """Write rankings to a TREC run file. trec_eval computes the same figures from it as we do.

    A score is made from the rank: n for the first of n documents, then n - 1, and so on down to 1. So equal scores of
    the ranking stay in their order, which trec_eval would change.

    Raises:
        InvalidInput: an id or ``name`` has a blank or is empty, or the file cannot be written.
    """
    path = absolute(path)
    check_ids([name], "name of a run")
    check_ids(run, "query id")
    check_ids((id for ids in run.values() for id in ids), "document id")
    lines = (
        f"{query} Q0 {id} {rank} {len(ids) - rank + 1} {name}\n"
        for query, ids in run.items()
        for rank, id in enumerate(ids, start=1)
    )
    try:
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(lines)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written ({error.strerror or error})") from error


def check_ids(ids: Iterable[str], kind: str) -> None:
    """Check that a TREC file can hold ``ids``.

    Raises:
        InvalidInput: an id is empty, or has a blank or another end of a field.
    """
    for id in ids:
        if id.split() != [id]:
            raise InvalidInput(
                f"the {kind} {id!r} is empty or has a blank, which ends a field in a TREC run file; use ids without "
                "blanks, or write no run files"
            )


def notes_of(run: Run, judged: Collection[str], documents: Collection[str]) -> list[str]:
    """Return what of ``run`` has no counterpart among the ``judged`` queries and the ``documents``, with its count.

    Args:
        run: the rankings.
        judged: the ids of the judged queries.
        documents: the ids of the documents. If they are not known, there are none.
    """
    notes = []
    if unjudged := [query for query in run if query not in judged]:
        notes.append(
            f"the rankings of {number(len(unjudged), 'query')} left out, which are not measured here, such as "
            f"{unjudged[0]!r}"
        )
    if missing := [query for query in judged if query not in run]:
        notes.append(
            f"{number(len(missing), 'judged query')} without a ranking, such as {missing[0]!r}; each measure of theirs "
            "is 0"
        )
    if documents:
        unknown = {id: None for query, ids in run.items() if query in judged for id in ids if id not in documents}
        if unknown:
            notes.append(
                f"{number(len(unknown), 'document')} that the corpus lacks, such as {next(iter(unknown))!r}; they keep "
                "their ranks"
            )
    return notes

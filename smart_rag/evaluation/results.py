"""Results of evaluations as JSON values: the figures of rankings, in the mean and for each query."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smart_rag.config import check_count
from smart_rag.errors import InvalidInput
from smart_rag.evaluation.datasets import Dataset
from smart_rag.evaluation.differences import corrected, difference, intervals
from smart_rag.evaluation.metrics import Metrics, Run, measures_and_depth
from smart_rag.evaluation.qrels import Qrels, met, own_notes
from smart_rag.evaluation.runs import notes_of
from smart_rag.paths import absolute
from smart_rag.types import Content, Document

_DIGEST_BYTES = 8


def quality(
    qrels: Qrels, measured: Mapping[str, Mapping[str, NDArray[np.float64]]], pairs: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Return the means of rankings, their intervals, the values of each query, and differences, as JSON values.

    Args:
        qrels: the judgements.
        measured: the values of the queries of ``qrels``, in their order, by the name of a ranking and by measure.
        pairs: names of rankings whose difference in the first measure is computed.
    """
    queries = list(qrels)
    first = next(iter(next(iter(measured.values()))))
    differences = corrected(
        {f"{a} - {b}": difference(measured[a][first], measured[b][first]) for a, b in pairs},
    )
    return {
        "runs": {name: {key: float(of.mean()) for key, of in values.items()} for name, values in measured.items()},
        "intervals": {name: _intervals(values) for name, values in measured.items()},
        "differences": {name: one.as_json(first) for name, one in differences.items()},
        "by_query": {
            name: {key: dict(zip(queries, of.tolist(), strict=True)) for key, of in values.items()}
            for name, values in measured.items()
        },
        "judgements": {query: _digest(sorted(grades.items())) for query, grades in qrels.items()},
    }


def _intervals(values: Mapping[str, NDArray[np.float64]]) -> dict[str, dict[str, float]]:
    """Return the ends of the 95 % interval of each measure of a ranking."""
    found = zip(values, intervals(np.stack(list(values.values()))), strict=True)
    return {measure: {"low": low, "high": high} for measure, (low, high) in found}


def corpus_digest(documents: Sequence[Document]) -> str:
    """Return a hash of the ids and texts of ``documents``, in any order. It is empty if there are none."""
    return _digest(sorted((document.id, document.text) for document in documents)) if documents else ""


def _digest(value: Any) -> str:
    return hashlib.blake2b(repr(value).encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).hexdigest()


def evaluate_runs(
    dataset: Dataset | Qrels,
    runs: Mapping[str, Run],
    *,
    measures: Sequence[str] | None = None,
    top_k: int | None = None,
) -> dict[str, Any]:
    """Return the figures of rankings from elsewhere, such as those that `read_run` has read, as JSON values.

    The keys are those of `evaluate` that have a meaning without an index. There are the differences of each ranking to
    the first one.

    Args:
        dataset: the dataset that was ranked, or only its judgements. Then documents without a counterpart, and
            queries that are documents, cannot be told.
        runs: rankings (document ids by query id, best first) by the name of the run.
        measures: names of measures, such as ``"nDCG@10"``. The differences are those of the first one.
        top_k: the number of documents that count in each ranking. By default 100, or what the deepest measure needs.

    Raises:
        InvalidInput: there is no run, no query has a ranking and judgements, a query ranks a
            document twice, or an argument is not valid.
        MissingExtra: ir-measures is not installed.
    """
    if not runs:
        raise InvalidInput("no run is given; expected at least one, as `read_run` returns it")
    names, top_k = measures_and_depth(measures, None if top_k is None else check_count("top_k", top_k))
    if not isinstance(dataset, Dataset):
        ranked = {document for grades in dataset.values() for document in grades}
        own = met(dataset, ranked, answerable_only=False).notes
        dataset = Dataset("judgements", [], dict.fromkeys(dataset, ""), dataset, notes=own)
    metrics = Metrics(dataset.qrels, names)
    ids = {document.id for document in dataset.documents}
    notes = [*dataset.notes, *own_notes(dataset.own_documents)]
    kept: dict[str, Run] = {}
    for name, run in runs.items():
        if not any(query in dataset.qrels for query in run):
            raise InvalidInput(
                f"run {name!r}: none of its queries is judged in {dataset.name}, such as {next(iter(run), 'none')!r}; "
                "check that both use the same query ids"
            )
        notes += [f"{name}: {note}" for note in notes_of(run, dataset.qrels, ids)]
        judged = {query: ranked for query, ranked in run.items() if query in dataset.qrels}
        if twice := next((query for query, ranked in judged.items() if len(set(ranked)) < len(ranked)), None):
            raise InvalidInput(f"run {name!r}: query {twice!r} ranks a document twice; expected each document once")
        kept[name] = {query: without_own(dataset, query, ranked)[:top_k] for query, ranked in judged.items()}
    measured = {name: metrics.by_query(run) for name, run in kept.items()}
    first, *others = kept
    return {
        "dataset": dataset.name,
        "settings": {"top_k": top_k},
        "documents": len(dataset.documents),
        "queries": len(dataset.qrels),
        "notes": notes,
        **quality(dataset.qrels, measured, [(name, first) for name in others]),
        "corpus": corpus_digest(dataset.documents),
    }


def without_own(dataset: Dataset, query: str, ids: list[str]) -> list[str]:
    """Return a ranking without the document that is the query itself."""
    own = dataset.own_documents.get(query)
    return ids if own is None else [id for id in ids if id != own]


def write_by_query(
    path: str | Path, result: Mapping[str, Any], queries: Mapping[str, str | Content] | None = None
) -> None:
    """Write the figures of each query to a file of JSON lines.

    A line has ``query`` (its id), ``text`` if ``queries`` has one, and ``runs``, with the measures of each ranking.

    Args:
        path: the file.
        result: result of `evaluate` or `evaluate_runs`.
        queries: the queries by id.

    Raises:
        InvalidInput: the file cannot be written.
    """
    path = absolute(path)
    try:
        with path.open("w", encoding="utf-8", newline="\n") as file:
            for query in result["judgements"]:
                content = (queries or {}).get(query)
                text = content.text if isinstance(content, Content) else content
                runs = {
                    name: {measure: values[query] for measure, values in of_run.items()}
                    for name, of_run in result["by_query"].items()
                }
                line = {"query": query, **({"text": text} if text else {}), "runs": runs}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written ({error.strerror or error}); the rest was done") from error

"""BEIR folders in; nDCG, recall, latency and bytes out.

A folder holds ``corpus.jsonl``, ``queries.jsonl`` and ``qrels.tsv`` (or ``qrels/test.tsv``), as
described at https://github.com/beir-cellar/beir. Metrics are ir-measures'.
"""

from __future__ import annotations

import csv
import importlib.metadata
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from smart_rag import scoring
from smart_rag._version import __version__
from smart_rag.config import DEFAULT_CANDIDATES, DEFAULT_WEIGHTS, check_count
from smart_rag.errors import InvalidInput, MissingExtra
from smart_rag.index import SmartIndex
from smart_rag.stopwatch import Stopwatch
from smart_rag.types import Document

logger = logging.getLogger(__name__)

Run = dict[str, list[str]]
Qrels = dict[str, dict[str, int]]

_STAGES = ("encode", "candidates", "gather", "score", "total")
_METRICS = {"ndcg@10": "nDCG@10", "recall@10": "R@10", "recall@100": "R@100", "mrr@10": "RR@10"}
# Queries scored in one exhaustive scan: their scores are in memory for one block of documents.
_QUERIES_PER_SCAN = 2_000


@dataclass(frozen=True, slots=True)
class Dataset:
    """Documents, queries by id, and graded judgements by query id and document id."""

    name: str
    documents: list[Document]
    queries: dict[str, str]
    qrels: Qrels


def load_dataset(folder: str | Path, limit_queries: int | None = None) -> Dataset:
    """Return the BEIR dataset in ``folder``, with its first ``limit_queries`` judged queries.

    A document's text is its title, a space, and its text. Queries without a judgement are left
    out, and so are documents without text, which no one can find.

    Raises:
        InvalidInput: a file is missing or a line of it cannot be read.
    """
    folder = Path(folder)
    places = [folder / "qrels.tsv", folder / "qrels" / "test.tsv"]
    qrels = _qrels(next((path for path in places if path.is_file()), places[0]))
    queries = {str(row["_id"]): row["text"] for row in _jsonl(folder / "queries.jsonl")}
    judged = [id for id in queries if id in qrels][:limit_queries]
    if not judged:
        raise InvalidInput(f"{folder}: no query of queries.jsonl has a judgement in the qrels")
    for name in judged:
        if not queries[name].strip():
            raise InvalidInput(f"{folder / 'queries.jsonl'}: query {name!r} is empty")
    documents = []
    empty = 0
    for row in _jsonl(folder / "corpus.jsonl"):
        text = f"{row.get('title') or ''} {row['text']}".strip()
        if text:
            documents.append(Document(str(row["_id"]), text))
        else:
            empty += 1
    if not documents:
        raise InvalidInput(f"{folder / 'corpus.jsonl'}: no document with text in it")
    if empty:
        logger.warning("%s: %d documents without text are left out", folder, empty)
    return Dataset(
        folder.resolve().name, documents, {id: queries[id] for id in judged}, {id: qrels[id] for id in judged}
    )


def evaluate(
    dataset: Dataset,
    index: SmartIndex,
    *,
    top_k: int = 100,
    candidates: int = DEFAULT_CANDIDATES,
    weights: tuple[float, float] = DEFAULT_WEIGHTS,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Index ``dataset``, rank it in four ways, and return figures as JSON values.

    The runs are ``pooled``, ``late`` and ``hybrid`` over every document, and ``search``: one
    `SmartIndex.search` with its first stage for each query, whose stages are timed.
    ``docs/evaluation.md`` explains each key.
    """
    check_count("top_k", top_k)
    check_count("candidates", candidates)
    metrics_of = metrics(dataset.qrels)
    started = time.perf_counter()
    report = index.add(dataset.documents, show_progress=show_progress)
    seconds = time.perf_counter() - started
    stopwatch = Stopwatch()
    runs = {"search": _search_run(dataset, index, top_k, candidates, weights, stopwatch, show_progress)}
    runs.update(_exhaustive_runs(dataset, index, top_k, weights, show_progress))
    info = index.info()
    total_bytes = info.token_bytes + (info.pooled_bytes or 0)
    ingested = report.added + report.replaced
    return {
        "dataset": dataset.name,
        "model": (info.manifest["encoder"] or {}).get("model"),
        "settings": {
            "top_k": top_k,
            "candidates": candidates,
            "weights": list(weights),
            "config": info.manifest["config"],
            "encoder": info.manifest["encoder"],
        },
        "versions": _versions(),
        "machine": _machine(index),
        "documents": len(dataset.documents),
        "queries": len(dataset.queries),
        "runs": {name: metrics_of(runs[name]) for name in ("pooled", "late", "hybrid", "search")},
        "latency_ms": {
            stage: {f"p{p}": float(np.percentile(stopwatch.milliseconds[stage], p)) for p in (50, 95)}
            for stage in _STAGES
        },
        "storage": {
            "bytes_per_token": info.token_bytes / info.tokens,
            "bytes_per_document": total_bytes / info.documents,
            "tokens": info.tokens,
            "total_bytes": total_bytes,
        },
        "ingest": {
            # Null where the index held the documents already.
            "documents_per_s": ingested / seconds if ingested else None,
            "tokens_per_s": info.tokens / seconds if ingested == info.documents else None,
        },
    }


def _search_run(
    dataset: Dataset,
    index: SmartIndex,
    top_k: int,
    candidates: int,
    weights: tuple[float, float],
    stopwatch: Stopwatch,
    show_progress: bool,
) -> Run:
    """Return the ranking of the real, two-stage call for each query, one query at a time."""
    from tqdm.auto import tqdm

    index.search(next(iter(dataset.queries.values())), top_k, candidates=candidates)  # loads what is loaded lazily
    run = {}
    for id, text in tqdm(dataset.queries.items(), desc="searching", unit="query", disable=not show_progress):
        with stopwatch.measure("total"):
            hits = index.search(text, top_k, candidates=candidates, weights=weights, stopwatch=stopwatch)
        run[id] = [hit.id for hit in hits]
    return run


def _exhaustive_runs(
    dataset: Dataset, index: SmartIndex, top_k: int, weights: tuple[float, float], show_progress: bool
) -> dict[str, Run]:
    """Return the rankings of every document by pooled, late and hybrid score, from one scan."""
    from tqdm.auto import tqdm

    kinds = {"pooled": (1.0, 0.0), "late": (0.0, 1.0), "hybrid": weights}
    ids = list(dataset.queries)
    runs: dict[str, Run] = {kind: {} for kind in kinds}
    scans = -(-len(ids) // _QUERIES_PER_SCAN)
    with tqdm(
        total=scans * len(dataset.documents), desc="scanning", unit="document", disable=not show_progress
    ) as progress:
        for start in range(0, len(ids), _QUERIES_PER_SCAN):
            part = ids[start : start + _QUERIES_PER_SCAN]
            queries = index.encode_queries([dataset.queries[id] for id in part])
            leaders = {kind: [scoring.Leaders(top_k) for _ in part] for kind in kinds}
            for block in index.scores(queries):
                for kind, kind_weights in kinds.items():
                    for i, leader in enumerate(leaders[kind]):
                        leader.offer(block.ids, block.pooled[i], block.late[i], kind_weights)
                progress.update(len(block.ids))
            for kind in kinds:
                runs[kind].update((id, leader.ids) for id, leader in zip(part, leaders[kind], strict=True))
    return runs


def metrics(qrels: Qrels) -> Callable[[Run], dict[str, float]]:
    """Return a function from a run (by query, document ids best first) to its metrics against ``qrels``.

    A function, so that a missing extra is found before the work.
    """
    try:
        import ir_measures
    except ImportError as error:
        raise MissingExtra("ir-measures", "eval", "evaluation") from error
    measures = {name: ir_measures.parse_measure(measure) for name, measure in _METRICS.items()}

    def measured(run: Run) -> dict[str, float]:
        # The order is ours, ties and all: a measure that sorts by score must find it again.
        scored = {query: {document: -rank for rank, document in enumerate(ids)} for query, ids in run.items()}
        values = ir_measures.calc_aggregate(list(measures.values()), qrels, scored)
        return {name: float(values[measure]) for name, measure in measures.items()}

    return measured


def _jsonl(path: Path) -> Iterator[Mapping[str, Any]]:
    with _opened(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                    if not isinstance(row["text"], str):
                        raise TypeError(f"text is {row['text']!r}")
                    row["_id"]
                except (json.JSONDecodeError, KeyError, TypeError) as error:
                    raise InvalidInput(
                        f"{path}, line {number}: expected a JSON object with '_id' and 'text' ({error})"
                    ) from error
                yield row


def _qrels(path: Path) -> Qrels:
    qrels: Qrels = {}
    with _opened(path) as lines:
        for number, row in enumerate(csv.reader(lines, delimiter="\t"), start=1):
            if not row or (number == 1 and not row[-1].lstrip("-").isdigit()):
                continue  # a blank line, or the header
            try:
                query, document, grade = row
                qrels.setdefault(query, {})[document] = int(grade)
            except ValueError as error:
                raise InvalidInput(
                    f"{path}, line {number}: expected query id, document id and a whole grade, tabs between; got {row}"
                ) from error
    return qrels


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    if not path.is_file():
        raise InvalidInput(
            f"{path} is missing: a BEIR folder holds corpus.jsonl, queries.jsonl and qrels.tsv (or qrels/test.tsv)"
        )
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            yield lines
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 ({error})") from error


def _versions() -> dict[str, str]:
    packages = ("torch", "transformers", "sentence-transformers", "chromadb", "lmdb", "numpy", "ir-measures")
    return {
        "smart-rag": __version__,
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
    }


def _machine(index: SmartIndex) -> dict[str, Any]:
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "device": getattr(index.encoder, "device", None),
    }

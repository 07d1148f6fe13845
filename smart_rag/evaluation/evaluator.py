"""Evaluation of an index on a dataset: quality of each ranking, differences, recall, latency and size."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smart_rag._version import __version__
from smart_rag.config import DEFAULT_CANDIDATES, FirstStageName, Weighting, check_choice, check_count, check_weights
from smart_rag.embeddings.representation import Representation
from smart_rag.errors import InvalidInput
from smart_rag.evaluation.datasets import Dataset
from smart_rag.evaluation.metrics import Metrics, Run, measures_and_depth
from smart_rag.evaluation.qrels import own_notes
from smart_rag.evaluation.results import corpus_digest, quality, without_own
from smart_rag.evaluation.runs import check_ids, write_run
from smart_rag.index.search import automatic_first_stage
from smart_rag.index.smart_index import SmartIndex, scan_scores
from smart_rag.index.stopwatch import Stopwatch
from smart_rag.paths import absolute
from smart_rag.scoring import ranking
from smart_rag.types import IndexInfo
from smart_rag.wording import number

logger = logging.getLogger(__name__)

# Number of best documents of the exhaustive hybrid ranking. A first stage should find them.
_BEST = 10
_STEPS = ("encode", "candidates", "gather", "score", "total")
# Number of queries in one exhaustive scan. It is limited, because the scores of all of them for one block are in
# memory.
_QUERIES_PER_SCAN = 2_000
_PAPER: tuple[float, float] = (1.0, 1.0)  # arXiv 2605.24938, section 3, with equal weights of all query tokens


def evaluate(
    dataset: Dataset,
    index: SmartIndex,
    *,
    measures: Sequence[str] | None = None,
    top_k: int | None = None,
    candidates: int = DEFAULT_CANDIDATES,
    weights: tuple[float, float] | None = None,
    weighting: Weighting | None = None,
    save_runs: str | Path | None = None,
    show_progress_bar: bool = False,
) -> dict[str, Any]:
    """Add the documents of ``dataset`` to ``index``, rank them in several ways, and return the figures as JSON values.

    The runs ``pooled``, ``late``, ``hybrid`` and ``paper`` rank every document. A run ``search_<first stage>`` calls
    `SmartIndex.search` once for each query, and measures the time of each step. ``docs/evaluation.md`` explains every
    key of the result.

    Args:
        dataset: documents, queries and qrels.
        index: index to evaluate. It must hold no documents except those of ``dataset``.
        measures: names of measures in the words of ir-measures, such as ``"nDCG@10"`` or ``"AP"``. The differences are
            those of the first one. None means nDCG@10, recall@10, recall@100 and MRR@10.
        top_k: number of documents in a ranking. By default 100, or what the deepest measure needs.
        candidates: number of candidates of the first stage.
        weights: weights (pooled, late) of the hybrid score. None means the weights of the index.
        weighting: weighting of query tokens. None means the weighting of the index.
        save_runs: a folder, which is made if it does not exist. Each ranking is written there as a TREC run file,
            such as ``hybrid.run``.
        show_progress_bar: whether to show progress bars.

    Raises:
        InvalidInput: the index holds a document that is not in the dataset, or an argument is not valid. With
            ``save_runs``, also if an id has a blank or the folder cannot be made.
        MissingExtra: ir-measures is not installed.
    """
    names, top_k = measures_and_depth(measures, None if top_k is None else check_count("top_k", top_k))
    candidates = check_count("candidates", candidates)
    weights = index.manifest.weights if weights is None else check_weights(weights)
    weighting = index.manifest.config.weighting if weighting is None else weighting
    check_choice("weighting", weighting, Weighting)
    metrics = Metrics(dataset.qrels, names)
    folder = None if save_runs is None else _folder_for_runs(dataset, absolute(save_runs))
    _check_documents(dataset, index)
    ingested, seconds, notes = _ingest(dataset, index, show_progress_bar)
    count = index.count()
    depth, limit = min(max(top_k, _BEST), count), min(max(top_k, candidates), count)

    automatic = automatic_first_stage(count)
    # An exhaustive search for each query takes long. So it is timed only if it is the default for this index.
    stages: list[FirstStageName] = ["terms", "pooled"]
    if automatic == "exhaustive":
        stages.append("exhaustive")
    searched = _searches(dataset, index, stages, limit, weights, weighting, show_progress_bar)
    rankings = exhaustive_rankings(dataset, index, depth, weights, weighting, show_progress_bar=show_progress_bar)
    # If a query is the only document, nothing is ranked for it.
    best = {query: ids[:_BEST] for query, ids in rankings["hybrid"].items() if ids}
    rankings.update({f"search_{stage}": found.ranking for stage, found in searched.items()})
    runs = {name: {query: ids[:top_k] for query, ids in run.items()} for name, run in rankings.items()}
    measured = {name: metrics.by_query(run) for name, run in runs.items()}
    if folder is not None:
        for name, run in runs.items():
            write_run(folder / f"{name}.run", run, name)
    pairs = [("hybrid", "pooled"), ("hybrid", "paper"), *((f"search_{stage}", "hybrid") for stage in stages)]

    info = index.info()
    return {
        "dataset": dataset.name,
        "model": (info.manifest["encoder"] or {}).get("model"),
        "settings": {
            "top_k": top_k,
            "candidates": candidates,
            "weights": list(weights),
            "weighting": weighting,
            "config": {**info.manifest["config"], "weights": list(index.manifest.weights)},
            "encoder": info.manifest["encoder"],
        },
        "versions": versions(),
        "machine": _machine(index),
        "documents": len(dataset.documents),
        "queries": len(dataset.queries),
        "notes": [*dataset.notes, *notes, *own_notes(dataset.own_documents)],
        **quality(dataset.qrels, measured, pairs),
        "corpus": corpus_digest(dataset.documents),
        "auto": automatic,
        "first_stages": {stage: searched[stage].figures(best) for stage in stages},
        "storage": _storage(info),
        "ingest": {
            # None if the index already held the documents.
            "documents_per_s": ingested / seconds if ingested else None,
            "tokens_per_s": info.tokens / seconds if ingested == info.documents else None,
        },
    }


def _check_documents(dataset: Dataset, index: SmartIndex) -> None:
    own = {document.id for document in dataset.documents}
    other = next((document.id for document in index.documents() if document.id not in own), None)
    if other is not None:
        raise InvalidInput(
            f"{index.path} holds documents that are not in {dataset.name}, such as {other!r}, which would be ranked, "
            "too; use another folder"
        )


def _ingest(dataset: Dataset, index: SmartIndex, show_progress_bar: bool) -> tuple[int, float, list[str]]:
    """Add the documents that the index's model can encode. Return how many are new, the seconds, and what is left out.

    Raises:
        InvalidInput: the model can encode none of the documents.
    """
    started = time.perf_counter()
    modalities = index.manifest.modalities
    # A text model cannot encode a page without text. The page stays in the qrels, and counts as not found.
    documents = [document for document in dataset.documents if document.content(modalities).modality]
    left_out = [document.id for document in dataset.documents if not document.content(modalities).modality]
    reads = " and ".join(sorted(modalities))
    if not documents:
        raise InvalidInput(f"{dataset.name}: the model reads only {reads}, which no document has; use another model")
    notes = []
    if left_out:
        notes.append(
            f"{number(len(left_out), 'document')} left out, because the model reads only {reads}, such as "
            f"{left_out[0]!r}; they count as not found"
        )
        logger.warning("%s: %s", dataset.name, notes[0])
    report = index.add(documents, show_progress_bar=show_progress_bar)
    return report.added + report.replaced, time.perf_counter() - started, notes


def _folder_for_runs(dataset: Dataset, folder: Path) -> Path:
    """Make the folder of run files if it does not exist, and check that such files can hold the ids."""
    check_ids(dataset.queries, "query id")
    check_ids((document.id for document in dataset.documents), "document id")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"{folder}: the folder of run files cannot be made ({error.strerror or error})") from error
    return folder


def _storage(info: IndexInfo) -> dict[str, float]:
    total_bytes = info.token_bytes + (info.pooled_bytes or 0)
    return {
        "bytes_per_token": info.token_bytes / info.tokens,
        "bytes_per_document": total_bytes / info.documents,
        "tokens": info.tokens,
        "total_bytes": total_bytes,
    }


@dataclass(frozen=True, slots=True)
class _Searched:
    """Searches with one first stage: rankings, numbers of scored documents, and the times of the steps."""

    ranking: Run
    scored: list[int]
    stopwatch: Stopwatch

    def figures(self, best: Run) -> dict[str, Any]:
        """Return the figures of this first stage. ``best`` holds the documents that this stage should find."""
        recalls = [len(set(ids) & set(self.ranking[query])) / len(ids) for query, ids in best.items()]
        times = self.stopwatch.milliseconds
        return {
            "recall_of_best": float(np.mean(recalls)) if recalls else 1.0,  # there is nothing to find
            "documents_scored": float(np.mean(self.scored)),
            "latency_ms": {step: {f"p{p}": float(np.percentile(times[step], p)) for p in (50, 95)} for step in _STEPS},
        }


def _searches(
    dataset: Dataset,
    index: SmartIndex,
    stages: list[FirstStageName],
    limit: int,
    weights: tuple[float, float],
    weighting: Weighting,
    show_progress_bar: bool,
) -> Mapping[FirstStageName, _Searched]:
    """Search each query with every first stage. Each query is encoded once. All ``limit`` candidates become hits."""
    from tqdm.auto import tqdm

    count = index.count()
    spare = bool(dataset.own_documents)  # one more hit takes the place of the query's own document
    searched = {stage: _Searched({}, [], Stopwatch()) for stage in stages}
    for stage in stages:  # the first search loads everything that is loaded on first use
        index.search(next(iter(dataset.queries.values())), limit, candidates=limit, first_stage=stage)
    queries = tqdm(dataset.queries.items(), desc="searching", unit="query", disable=not show_progress_bar)
    for i, (id, text) in enumerate(queries):
        encoding = Stopwatch()
        with encoding.measure("encode"):
            query = index.encode_queries([text])
        [encode] = encoding.milliseconds["encode"]
        # Each stage is the first one equally often, so that a busy minute slows all stages equally.
        first = i % len(stages)
        for stage in stages[first:] + stages[:first]:
            found, stopwatch = searched[stage], Stopwatch()
            with stopwatch.measure("total"):
                hits = index.search(
                    query,
                    limit + spare,
                    candidates=limit + spare,
                    first_stage=stage,
                    weights=weights,
                    weighting=weighting,
                    stopwatch=stopwatch,
                )
            times = {step: sum(parts) for step, parts in stopwatch.milliseconds.items()}
            for step, time_taken in {**times, "encode": encode, "total": times["total"] + encode}.items():
                found.stopwatch.milliseconds[step].append(time_taken)
            found.ranking[id] = without_own(dataset, id, [hit.id for hit in hits])[:limit]
            found.scored.append(count if stage == "exhaustive" else len(hits))
    return searched


def exhaustive_rankings(
    dataset: Dataset,
    index: SmartIndex,
    depth: int,
    weights: tuple[float, float],
    weighting: Weighting,
    *,
    queries_per_scan: int = _QUERIES_PER_SCAN,
    show_progress_bar: bool = False,
) -> dict[str, Run]:
    """For each query, rank all documents by ``pooled``, ``late``, ``hybrid`` and ``paper``. Return the best ``depth``.

    A scan reads all documents and scores them for up to ``queries_per_scan`` queries. If ``weighting`` is not
    ``"none"``, there is a second scan for ``paper``, because ``paper`` has no weighting.
    """
    from tqdm.auto import tqdm

    scans: dict[Weighting, dict[str, tuple[float, float]]] = {
        weighting: {"pooled": (1.0, 0.0), "late": (0.0, 1.0), "hybrid": weights}
    }
    scans.setdefault("none", {})["paper"] = _PAPER
    ids = list(dataset.queries)
    parts = [ids[start : start + queries_per_scan] for start in range(0, len(ids), queries_per_scan)]
    runs: dict[str, Run] = {name: {} for rankings in scans.values() for name in rankings}
    total = len(parts) * len(scans) * index.count()
    with tqdm(total=total, desc="scanning", unit="document", disable=not show_progress_bar) as progress:
        for part in parts:
            queries = index.encode_queries([dataset.queries[id] for id in part])
            for scan_weighting, rankings in scans.items():
                spare = bool(dataset.own_documents)
                found = leaders_of_scan(index, queries, rankings, depth + spare, scan_weighting, progress.update)
                for name, leaders in found.items():
                    for id, leader in zip(part, leaders, strict=True):
                        runs[name][id] = without_own(dataset, id, leader.ids)[:depth]
    return runs


def leaders_of_scan(
    index: SmartIndex,
    queries: Representation,
    rankings: Mapping[str, tuple[float, float]],
    depth: int,
    weighting: Weighting,
    scanned: Callable[[int], object] = lambda documents: None,
    *,
    candidates: Sequence[Collection[str] | None] | None = None,
) -> dict[str, list[ranking.Leaders]]:
    """Score all documents of ``index`` in one scan. Return the best ``depth`` by the name of a ranking and by query.

    Args:
        index: the index to scan.
        queries: the queries.
        rankings: the weights (pooled, late) of each ranking by its name.
        depth: the number of documents in a ranking.
        weighting: the weighting of query tokens.
        scanned: called with the number of documents of each block.
        candidates: for each query, the ids of the documents to rank. None means all documents.
    """
    leaders = {name: [ranking.Leaders(depth) for _ in range(len(queries))] for name in rankings}
    for block in scan_scores(index, queries, weighting=weighting):
        ids, everything = np.asarray(block.ids, dtype=object), np.arange(len(block.ids))
        for i in range(len(queries)):
            wanted = candidates[i] if candidates else None
            of_query = everything if wanted is None else np.flatnonzero([id in wanted for id in block.ids])
            if len(of_query):
                for name, weights in rankings.items():
                    pooled, late = block.pooled[i][of_query], block.late[i][of_query]
                    leaders[name][i].offer(ids[of_query].tolist(), pooled, late, weights)
        scanned(len(block.ids))
    return leaders


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide about the figures."""
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

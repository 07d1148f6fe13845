"""A dataset and an index in; quality of each ranking, differences, recall, latency and bytes out."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from smart_rag._version import __version__
from smart_rag.config import DEFAULT_CANDIDATES, FirstStageName, Weighting, check_choice, check_count, check_weights
from smart_rag.errors import InvalidInput
from smart_rag.evaluation import bootstrap
from smart_rag.evaluation.datasets import Dataset
from smart_rag.evaluation.metrics import Metrics, Run
from smart_rag.index.search import automatic_first_stage
from smart_rag.index.smart_index import SmartIndex, scan_scores
from smart_rag.index.stopwatch import Stopwatch
from smart_rag.scoring import maxsim as scoring

# What a first stage is to find: the best of the exhaustive hybrid ranking.
_BEST = 10
_STEPS = ("encode", "candidates", "gather", "score", "total")
# Queries scored in one exhaustive scan: their scores are in memory for one block of documents.
_QUERIES_PER_SCAN = 2_000
_PAPER: tuple[float, float] = (1.0, 1.0)  # arXiv 2605.24938, section 3, with all query tokens the same


def evaluate(
    dataset: Dataset,
    index: SmartIndex,
    *,
    top_k: int = 100,
    candidates: int = DEFAULT_CANDIDATES,
    weights: tuple[float, float] | None = None,
    weighting: Weighting | None = None,
    show_progress_bar: bool = False,
) -> dict[str, Any]:
    """Index ``dataset``, rank it in several ways, and return figures as JSON values.

    The runs are ``pooled``, ``late``, ``hybrid`` and ``paper`` over every document, and
    ``search_<first stage>``: one `SmartIndex.search` for each query, whose stages are timed.
    ``docs/evaluation.md`` explains each key.

    Raises:
        InvalidInput: the index holds other documents than the dataset's.
    """
    check_count("top_k", top_k)
    check_count("candidates", candidates)
    config = index.manifest.config
    weights = index.manifest.weights if weights is None else check_weights(weights)
    weighting = config.weighting if weighting is None else weighting
    check_choice("weighting", weighting, Weighting)
    metrics = Metrics(dataset.qrels)
    own = {document.id for document in dataset.documents}
    foreign = next((document.id for document in index.documents() if document.id not in own), None)
    if foreign is not None:
        raise InvalidInput(
            f"{index.path} holds documents that are not of {dataset.name}, such as {foreign!r}: they would be ranked "
            "with it; use another folder"
        )
    started = time.perf_counter()
    takes = index.manifest.modalities
    # A page without text is nothing to a model that does not see; it stays among what is to be found.
    documents = [document for document in dataset.documents if document.content(takes).modality]
    report = index.add(documents, show_progress_bar=show_progress_bar)
    seconds = time.perf_counter() - started

    automatic = automatic_first_stage(index.count())
    # An exhaustive search for each query alone is for those indexes only in which it is what a search does.
    stages: list[FirstStageName] = ["terms", "pooled"]
    if automatic == "exhaustive":
        stages.append("exhaustive")
    searched = _searches(dataset, index, stages, max(top_k, candidates), weights, weighting, show_progress_bar)
    rankings = _exhaustive(dataset, index, max(top_k, _BEST), weights, weighting, show_progress_bar)
    best = {query: ids[:_BEST] for query, ids in rankings["hybrid"].items()}
    rankings.update({f"search_{stage}": found.ranking for stage, found in searched.items()})
    runs = {name: {query: ids[:top_k] for query, ids in run.items()} for name, run in rankings.items()}
    measured = {name: metrics.by_query(run) for name, run in runs.items()}

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
            "weighting": weighting,
            "config": {**info.manifest["config"], "weights": list(index.manifest.weights)},
            "encoder": info.manifest["encoder"],
        },
        "versions": _versions(),
        "machine": _machine(index),
        "documents": len(dataset.documents),
        "queries": len(dataset.queries),
        "runs": {name: {key: float(of.mean()) for key, of in values.items()} for name, values in measured.items()},
        "differences": {
            f"{first} - {second}": bootstrap.difference(
                measured[first]["ndcg@10"], measured[second]["ndcg@10"]
            ).as_json("ndcg@10")
            for first, second in [
                ("hybrid", "pooled"),
                ("hybrid", "paper"),
                *((f"search_{stage}", "hybrid") for stage in stages),
            ]
        },
        "auto": automatic,
        "first_stages": {stage: searched[stage].figures(best) for stage in stages},
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


@dataclass(frozen=True, slots=True)
class _Searched:
    """What searches by one first stage found and took: every candidate, ranked, and the documents scored, by query."""

    ranking: Run
    scored: list[int]
    stopwatch: Stopwatch

    def figures(self, best: Run) -> dict[str, Any]:
        """Return the figures of this first stage; ``best`` are the documents that it was to find."""
        recalls = [len(set(ids) & set(self.ranking[query])) / len(ids) for query, ids in best.items()]
        times = self.stopwatch.milliseconds
        return {
            "recall_of_best": float(np.mean(recalls)),
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
    """Search for each query, encoded once, by every first stage; all ``limit`` candidates are returned as hits."""
    from tqdm.auto import tqdm

    count = index.count()
    searched = {stage: _Searched({}, [], Stopwatch()) for stage in stages}
    for stage in stages:  # loads what is loaded lazily
        index.search(next(iter(dataset.queries.values())), limit, candidates=limit, first_stage=stage)
    queries = tqdm(dataset.queries.items(), desc="searching", unit="query", disable=not show_progress_bar)
    for i, (id, text) in enumerate(queries):
        encoding = Stopwatch()
        with encoding.measure("encode"):
            query = index.encode_queries([text])
        [encode] = encoding.milliseconds["encode"]
        # In turn, and each of them first as often as the others: a busy minute slows them all alike.
        turn = i % len(stages)
        for stage in stages[turn:] + stages[:turn]:
            found, stopwatch = searched[stage], Stopwatch()
            with stopwatch.measure("total"):
                hits = index.search(
                    query,
                    limit,
                    candidates=limit,
                    first_stage=stage,
                    weights=weights,
                    weighting=weighting,
                    stopwatch=stopwatch,
                )
            times = {step: sum(parts) for step, parts in stopwatch.milliseconds.items()}
            for step, time_taken in {**times, "encode": encode, "total": times["total"] + encode}.items():
                found.stopwatch.milliseconds[step].append(time_taken)
            found.ranking[id] = [hit.id for hit in hits]
            found.scored.append(count if stage == "exhaustive" else len(hits))
    return searched


def _exhaustive(
    dataset: Dataset,
    index: SmartIndex,
    depth: int,
    weights: tuple[float, float],
    weighting: Weighting,
    show_progress_bar: bool,
) -> dict[str, Run]:
    """Return the rankings of every document, from one scan for each weighting of query tokens."""
    from tqdm.auto import tqdm

    scans: dict[Weighting, dict[str, tuple[float, float]]] = {
        weighting: {"pooled": (1.0, 0.0), "late": (0.0, 1.0), "hybrid": weights}
    }
    scans.setdefault("none", {})["paper"] = _PAPER
    ids = list(dataset.queries)
    parts = [ids[start : start + _QUERIES_PER_SCAN] for start in range(0, len(ids), _QUERIES_PER_SCAN)]
    runs: dict[str, Run] = {kind: {} for kinds in scans.values() for kind in kinds}
    total = len(parts) * len(scans) * index.count()
    with tqdm(total=total, desc="scanning", unit="document", disable=not show_progress_bar) as progress:
        for part in parts:
            queries = index.encode_queries([dataset.queries[id] for id in part])
            for scan, kinds in scans.items():
                leaders = {kind: [scoring.Leaders(depth) for _ in part] for kind in kinds}
                for block in scan_scores(index, queries, weighting=scan):
                    for kind, kind_weights in kinds.items():
                        for i, leader in enumerate(leaders[kind]):
                            leader.offer(block.ids, block.pooled[i], block.late[i], kind_weights)
                    progress.update(len(block.ids))
                for kind in kinds:
                    runs[kind].update((id, leader.ids) for id, leader in zip(part, leaders[kind], strict=True))
    return runs


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

"""Choices of `tune` by n queries, measured on the queries that had no part in them.

python benchmarks/tune_draws.py FOLDER DATASET_DIR ... [--model M] [--weights 1 2] [--documents N] [--queries N]
    [--draws N] [--json FILE]

FOLDER keeps the values of each dataset, because making them takes minutes. ``--weights`` are the current weights of the
index. For comparison, "highest" chooses the setting with the highest mean of the n queries.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from report import show, write

from smart_rag import IndexConfig, SmartEncoder, SmartIndex
from smart_rag.evaluation import load_dataset
from smart_rag.evaluation.qrels import met
from smart_rag.evaluation.selection import choose, expected_gain
from smart_rag.evaluation.tuner import setting_values

_QUERIES = (10, 20, 30, 50, 100, 300)
_LEAST_OTHERS = 100  # queries that measure the choice
_COLUMNS = ("worse, highest", "true, highest", "worse", "true", "better")
_CHANGED = ("changed", "claimed", "expected", "true of changed", "covered")


def values_of(dataset: Path, folder: Path, model: str, weights: tuple[float, float], limits: tuple[int, int]) -> Any:
    """Return the values (n_settings, n_queries) of a part of ``dataset``, the current setting first."""
    path = folder / f"{dataset.name}-{Path(model).name}-{weights[0]:g}-{weights[1]:g}-{limits[0]}-{limits[1]}.npy"
    if not path.exists():
        data, generator = load_dataset(dataset), np.random.default_rng(0)
        with_text = [one for one in data.documents if one.text]
        documents = [with_text[i] for i in generator.permutation(len(with_text))[: limits[0]]]
        judged = met(data.qrels, {one.id for one in documents}, answerable_only=True).qrels
        ids = [list(judged)[i] for i in generator.permutation(len(judged))[: limits[1]]]
        encoder = SmartEncoder(model, device="cpu")
        with (
            tempfile.TemporaryDirectory() as temporary,
            SmartIndex.create(Path(temporary) / "index", encoder, config=IndexConfig(weights=weights)) as index,
        ):
            index.add(documents, show_progress_bar=True)
            queries, qrels = {id: data.queries[id] for id in ids}, {id: judged[id] for id in ids}
            _, values = setting_values(index, queries, qrels, data.own_documents, show_progress_bar=True)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(path, values)
    return np.load(path)


def figures_of(values: NDArray[np.float64], queries: int, draws: int) -> dict[str, float]:
    """Return means over the draws. "claimed" to "covered" are of draws that change the setting."""
    gains, generator, rows, highest = values - values[0], np.random.default_rng(queries), [], []
    for seed in range(draws):
        order = generator.permutation(values.shape[1])
        drawn, others = order[:queries], order[queries:]
        choice, best = choose(values[:, drawn]), int(np.argmax(np.round(values[:, drawn].mean(axis=1), 7)))
        found = expected_gain(values[:, drawn], seed=seed, exchanges=1_000, resamples=1_000)
        true = gains[choice, others].mean()
        covered = found.low <= true <= found.high
        # `tune` refuses fewer than 30 queries, and so gives no verdict.
        rows.append((choice > 0, true < 0, gains[choice, drawn].mean(), found.mean, true, covered, found.verdict))
        highest.append(gains[best, others].mean())
    changed = [row for row in rows if row[0]]
    figures = {
        "worse, highest": float(np.mean(np.less(highest, 0))),
        "true, highest": float(np.mean(highest)),
        "changed": len(changed) / draws,
        "worse": float(np.mean([row[1] for row in rows])),
        "true": float(np.mean([row[4] for row in rows])),
        "better": float(np.mean([row[6] == "better" for row in rows])),
    }
    if changed:
        of_changed = (("claimed", 2), ("expected", 3), ("true of changed", 4), ("covered", 5))
        figures |= {name: float(np.mean([row[i] for row in changed])) for name, i in of_changed}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("datasets", type=Path, nargs="+")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--weights", type=float, nargs=2, default=(1.0, 2.0))
    parser.add_argument("--documents", type=int, default=1_200)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    weights, limits = tuple(arguments.weights), (arguments.documents, arguments.queries)
    rows: dict[str, dict[str, float]] = {}
    for dataset in arguments.datasets:
        values = values_of(dataset, arguments.folder, arguments.model, weights, limits)
        for queries in _QUERIES:
            if queries + _LEAST_OTHERS <= values.shape[1]:
                rows[f"{dataset.name}, {queries} queries"] = figures_of(values, queries, arguments.draws)
    title = f"choices of {arguments.draws} draws, over the weights {weights[0]:g} : {weights[1]:g}"
    show(title, rows, _COLUMNS)
    show("of the draws that change the setting", rows, _CHANGED)
    if arguments.json:
        write(arguments.json, title=title, rows=rows)


if __name__ == "__main__":
    main()

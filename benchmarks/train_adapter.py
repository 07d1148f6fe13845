"""Gain from a trained adapter: nDCG@10 of late and hybrid ranking against frozen SMART, on held-out documents.

python benchmarks/train_adapter.py DATA... [--model M] [--dimensions 384,128] [--hard-negatives N] [--json FILE]

DATA are BEIR folders. The questions of 60 % of the first one's documents are the training data; a tenth of these is
held out to choose the best epoch. The other 40 % of the documents, with their questions, are the test data. The other
folders are other domains, with all of their documents. Scores are the default ones: query tokens weighted by inverse
document frequency, hybrid = 1 x pooled + 2 x late.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from smart_rag import SmartEncoder
from smart_rag.config import DEFAULT_MODEL
from smart_rag.encoders.adapter import Adapter
from smart_rag.evaluation.differences import difference
from smart_rag.training import AdapterSettings, load_training_data, train_adapter
from smart_rag.training.split import split
from smart_rag.training.states import cached_states

_TEST = 0.4
Values = Mapping[str, NDArray[Any]]


def compared(values: Values, frozen: Values) -> dict[str, Any]:
    """Return nDCG@10 of each ranking, and its differences to frozen SMART and to the pooled embeddings."""
    found = {name: {"ndcg@10": float(of.mean())} for name, of in values.items()}
    for name in ("late", "hybrid"):
        found[name]["frozen"] = float(frozen[name].mean())
        found[name]["to frozen"] = difference(values[name], frozen[name]).as_json("ndcg@10")
        found[name]["to pooled"] = difference(values[name], frozen["pooled"]).as_json("ndcg@10")
    return found


def table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    shown = Table(title="nDCG@10, differences with their 95 % intervals")
    for column in ("data", "dimension", "pooled", "", "frozen", "trained", "to frozen", "to pooled"):
        shown.add_column(column)
    for dimension, of_data in found.items():
        for data, values in of_data["data"].items():
            for name in ("late", "hybrid"):
                of = values[name]
                intervals = [
                    f"{of[to]['ndcg@10']:+.4f} ({of[to]['low']:+.4f} to {of[to]['high']:+.4f})"
                    for to in ("to frozen", "to pooled")
                ]
                figures = [f"{of[key]:.4f}" for key in ("frozen", "ndcg@10")]
                shown.add_row(data, dimension, f"{values['pooled']['ndcg@10']:.4f}", name, *figures, *intervals)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--dimensions", default="384,128")
    parser.add_argument("--epochs", type=int, default=AdapterSettings.epochs)
    parser.add_argument("--batch-size", type=int, default=AdapterSettings.batch_size)
    parser.add_argument("--hard-negatives", type=int, default=AdapterSettings.hard_negatives)
    parser.add_argument("--objective", default=AdapterSettings.objective)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    encoder = SmartEncoder(arguments.model)
    # Not the default seed: the held-out split of the training would be empty, as its documents are already split off.
    training, test = split(load_training_data(arguments.data[0]), _TEST, seed=1)
    others = [load_training_data(folder) for folder in arguments.data[1:]]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        for dimension in map(int, arguments.dimensions.split(",")):
            settings = AdapterSettings(
                dimension=dimension,
                epochs=arguments.epochs,
                batch_size=arguments.batch_size,
                hard_negatives=arguments.hard_negatives,
                objective=arguments.objective,
            )
            started, cpu = time.perf_counter(), time.process_time()
            report = train_adapter(
                encoder, training, folder / str(dimension), settings, keep_anyway=True, show_progress_bar=True
            )
            found[str(dimension)] = {
                "seconds": time.perf_counter() - started,
                "cpu_seconds": time.process_time() - cpu,
                "training": report.as_json(),
                "data": {},
            }
        for data in (test, *others):
            cached = stack.enter_context(cached_states(data, encoder, (-1,), folder, show_progress_bar=True))
            frozen = cached.ndcg(None)
            for dimension, of in found.items():
                values = cached.ndcg(Adapter.load(folder / dimension))
                of["data"][data.name] = compared({**values, "pooled": frozen["pooled"]}, frozen)
    Console().print(table(found))
    for dimension, of in found.items():
        print(f"{dimension} dimensions: trained in {of['seconds']:.0f} s, {of['cpu_seconds']:.0f} s of CPU time")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Gain from fine-tuning by each score: nDCG@10 against the base model and against one another, on held-out documents.

python benchmarks/finetune.py DATA [--model M] [--limit N] [--lora RANK] [--epochs N] [--json FILE]

DATA is a BEIR folder. The questions of 60 % of its documents are the training data; a tenth of these is held out to
choose the best evaluation. The other 40 % are the test data. Every objective has the same split, steps, batches and
seed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from smart_rag import SmartEncoder
from smart_rag.config import DEFAULT_MODEL
from smart_rag.evaluation.differences import difference
from smart_rag.training import FinetuneSettings, TrainingData, finetune, load_training_data
from smart_rag.training.report import ByRanking
from smart_rag.training.split import split
from smart_rag.training.states import cached_states

_TEST = 0.4


def measured(model: str | Path, test: TrainingData, folder: Path) -> ByRanking:
    with cached_states(test, SmartEncoder(model), (-1,), folder, show_progress_bar=True) as cached:
        return cached.ndcg()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--objectives", default="pooled,late,hybrid")
    parser.add_argument("--limit", type=int, help="questions to train on")
    parser.add_argument("--lora", type=int, metavar="RANK")
    parser.add_argument("--epochs", type=int, default=FinetuneSettings.epochs)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--temperature", type=float, default=FinetuneSettings.temperature)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    # Not the default seed: the held-out split of the training would be empty, as its documents are already split off.
    training, test = split(load_training_data(arguments.data), _TEST, seed=1)
    if arguments.limit:
        training = replace(training, queries=training.queries[: arguments.limit])
    common = FinetuneSettings(
        lora_rank=arguments.lora,
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        temperature=arguments.temperature,
        seed=arguments.seed,
    )
    values: dict[str, ByRanking] = {}
    trainings: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        values["base"] = measured(arguments.model, test, folder)
        for objective in arguments.objectives.split(","):
            started = time.perf_counter()
            settings = replace(common, objective=objective)
            report = finetune(
                arguments.model, training, folder / objective, settings, keep_anyway=True, show_progress_bar=True
            )
            seconds = time.perf_counter() - started
            trainings[objective] = {"seconds": seconds, "report": report.as_json(), "settings": asdict(settings)}
            values[objective] = measured(folder / objective, test, folder)
    table = Table(title=f"nDCG@10 of {len(test.queries):,} questions, {len(test.documents):,} documents")
    for column in ("trained by", "pooled", "late", "hybrid", "hybrid - base", "hybrid - pooled's"):
        table.add_column(column)
    figures: dict[str, Any] = {}
    for name, of in values.items():
        figures[name] = {ranking: float(each.mean()) for ranking, each in of.items()}
        shown = [f"{value:.4f}" for value in figures[name].values()]
        for other in ("base", "pooled"):
            if name in ("base", other) or other not in values:
                shown.append("")
                continue
            found = difference(of["hybrid"], values[other]["hybrid"])
            figures[name][f"hybrid to {other}"] = found.as_json("ndcg@10")
            shown.append(f"{found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f})")
        table.add_row(name, *shown)
    Console(width=140).print(table)
    for objective, of_training in trainings.items():
        queries = of_training["report"]["queries"]
        print(f"{objective}: {queries:,} questions, {of_training['seconds']:.0f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps({"ndcg": figures, "trainings": trainings}, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()

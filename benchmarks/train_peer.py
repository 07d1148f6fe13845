"""Gain from training, next to sentence-transformers' own trainer: nDCG@10 on documents that were not trained on.

python benchmarks/train_peer.py RUNS.jsonl --models M... --sets DATA... [--seeds 0,1,2] [--steps 40] [--json FILE]

DATA are BEIR folders. For each seed, 40 % of the documents, with their queries, are the test data. Nothing of them is
trained on. From the rest, each seed draws its pairs. Both trainers start with the same model, and get the same pairs,
number of steps, batch size, learning rate, schedule and maximum length:

  st        SentenceTransformerTrainer with MultipleNegativesRankingLoss and batches without duplicates
  smart     `smart_rag.training.finetune`, with the score that it trains by default
  adapter   `smart_rag.training.train_adapter` with its own defaults, on the same pairs

Each model is measured by its pooled embeddings, by late interaction and by the hybrid score of smart_rag. With
--teacher, two more systems are trained by `finetune` on the same pairs, with hard negatives mined by the frozen model:

  hard      without a teacher
  distilled by the hybrid scores of another model, the teacher: half KL divergence, half cross-entropy

If a query has several positives, as many of them are drawn as there are epochs. In each epoch, smart_rag draws one of
these, and sentence-transformers gets each of them once.

Each finished run is a line of RUNS.jsonl. Runs that are already there are not repeated. Without --models, only the
table of the finished runs is shown. A query that several seeds have tested counts once, with the mean of its values.
The intervals are those over queries. The range of the seeds' differences stands beside them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from transformers import PrinterCallback

from smart_rag import SmartEncoder
from smart_rag.encoders.adapter import Adapter
from smart_rag.evaluation.differences import corrected, difference
from smart_rag.scoring import maxsim
from smart_rag.training import (
    AdapterSettings,
    FinetuneSettings,
    TrainingData,
    finetune,
    load_training_data,
    train_adapter,
)
from smart_rag.training.data import TrainingQuery
from smart_rag.training.hard_negatives import mine_negatives
from smart_rag.training.report import ByRanking
from smart_rag.training.settings import WARM_UP
from smart_rag.training.split import split
from smart_rag.training.states import cached_states

_TEST = 0.4
# Share of the documents that are not test documents. It chooses the epoch of the adapter.
_VALIDATION = 0.15
_VALIDATION_SIZE = 120
# Reciprocal of the temperature, 0.05: the default of both trainers.
_SCALE = 20.0

Run = Mapping[str, Any]
# Differences that the table shows: a system and ranking, and what they are compared with.
_COMPARED = (
    ("frozen hybrid", "frozen pooled"),
    ("st pooled", "frozen pooled"),
    ("st hybrid", "frozen hybrid"),
    ("smart hybrid", "frozen hybrid"),
    ("adapter hybrid", "frozen hybrid"),
    ("smart hybrid", "st pooled"),
    ("smart hybrid", "st hybrid"),
    ("smart pooled", "st pooled"),
    ("hard hybrid", "smart hybrid"),
    ("distilled hybrid", "hard hybrid"),
    ("distilled hybrid", "frozen hybrid"),
    ("distilled pooled", "frozen pooled"),
    ("distilled hybrid", "teacher hybrid"),
)


# --- the data of a run ------------------------------------------------------------------------


def part(data: TrainingData, documents: Sequence[int], queries: Sequence[TrainingQuery]) -> TrainingData:
    """Return ``data`` with the documents at these positions, and those of ``queries`` that they answer."""
    new = {old: at for at, old in enumerate(documents)}
    kept = [
        TrainingQuery(query.text, tuple(new[i] for i in query.positives if i in new))
        for query in queries
        if any(i in new for i in query.positives)
    ]
    return TrainingData(data.name, [data.documents[i] for i in documents], kept)


def drawn(data: TrainingData, documents: int, queries: int, generator: np.random.Generator) -> TrainingData:
    """Return at most as many documents and queries of ``data``, at random."""
    chosen = generator.permutation(len(data.documents))[:documents].tolist()
    reduced = part(data, chosen, data.queries)
    order = sorted(generator.permutation(len(reduced.queries))[:queries].tolist())
    return replace(reduced, queries=[reduced.queries[i] for i in order])


def pairs_of(
    data: TrainingData, steps: int, batch_size: int, generator: np.random.Generator
) -> tuple[TrainingData, int]:
    """Return training data whose queries fill whole batches, and the number of epochs that make ``steps`` steps."""
    count = min(len(data.queries), steps * batch_size) // batch_size * batch_size
    epochs = max(1, round(steps * batch_size / count))
    queries = []
    for i in generator.permutation(len(data.queries))[:count].tolist():
        positives = data.queries[i].positives
        some = generator.permutation(len(positives))[:epochs].tolist()
        queries.append(TrainingQuery(data.queries[i].text, tuple(positives[j] for j in some)))
    return part(data, sorted({i for query in queries for i in query.positives}), queries), epochs


# --- the trainers -----------------------------------------------------------------------------


def train_st(
    model: str, data: TrainingData, out: Path, epochs: int, steps: int, seed: int, options: argparse.Namespace
) -> None:
    """Train with the trainer of sentence-transformers, and save the model of the last step."""
    trained = SentenceTransformer(model, device="cpu")
    trained.max_seq_length = options.max_length
    rows = [
        (query.text, query.positives[epoch % len(query.positives)]) for epoch in range(epochs) for query in data.queries
    ]
    texts = [document.content({"text"}).text for document in data.documents]
    prompts = {
        column: trained.prompts.get(name, "") for column, name in (("anchor", "query"), ("positive", "document"))
    }
    trainer = SentenceTransformerTrainer(
        model=trained,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(out / "checkpoints"),
            max_steps=steps,
            per_device_train_batch_size=options.batch_size,
            dataloader_drop_last=True,
            learning_rate=options.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=WARM_UP,
            weight_decay=0.0,
            use_cpu=True,
            seed=seed,
            batch_sampler="no_duplicates",
            prompts={column: prompt for column, prompt in prompts.items() if prompt} or None,
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            report_to="none",
        ),
        train_dataset=Dataset.from_dict(
            {"anchor": [query for query, _ in rows], "positive": [texts[i] for _, i in rows]}
        ),
        loss=MultipleNegativesRankingLoss(trained, scale=_SCALE),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trained.save(str(out / "model"), create_model_card=False)


def with_hybrid_scores(data: TrainingData, teacher: SmartEncoder) -> TrainingData:
    """Return ``data`` with the sum of the pooled cosine and late interaction, of each positive and negative."""
    queries = teacher.encode_query([query.text for query in data.queries])
    documents = teacher.encode_document([document.content({"text"}).text for document in data.documents])
    scores = queries.pooled @ documents.pooled.T + maxsim.late_interaction(queries.tokens, documents.tokens, "cpu")
    return replace(
        data,
        queries=[
            replace(query, scores={at: float(row[at]) for at in (*query.positives, *query.negatives)})
            for query, row in zip(data.queries, scores, strict=True)
        ],
    )


def train_with_teacher(
    model: str,
    training: TrainingData,
    validation: TrainingData,
    settings: FinetuneSettings,
    options: argparse.Namespace,
    folder: Path,
) -> None:
    """Train ``hard`` and ``distilled`` on the same hard negatives, and save them in ``folder``."""
    settings = replace(settings, hard_negatives=options.hard_negatives, relative_margin=0.05)
    encoder = SmartEncoder(model, max_length=options.max_length)
    mined = mine_negatives(training, encoder, settings)
    taught = with_hybrid_scores(mined, SmartEncoder(options.teacher, max_length=options.max_length))
    distilling = replace(settings, distillation="kl", teacher_temperature=1 / _SCALE)
    for name, data, of in (("hard", mined, settings), ("distilled", taught, distilling)):
        finetune(model, data, folder / name, of, held_out=validation, max_length=options.max_length, keep_anyway=True)


def one_run(model: str, data: TrainingData, seed: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train and measure, and return nDCG@10 of each query by each system and ranking."""
    generator = np.random.default_rng(seed)
    # No seed of the library's own splits, so that no part is empty.
    rest, test = split(data, _TEST, seed=1000 + seed)
    test = drawn(test, options.documents, options.queries, generator)
    training, validation = split(rest, _VALIDATION, seed=2000 + seed)
    validation = drawn(validation, _VALIDATION_SIZE, _VALIDATION_SIZE, generator)
    training, epochs = pairs_of(training, options.steps, options.batch_size, generator)
    steps = epochs * len(training.queries) // options.batch_size
    encoder = SmartEncoder(model, max_length=options.max_length)
    values: dict[str, ByRanking] = {}
    seconds: dict[str, float] = {}

    started = time.perf_counter()
    # With this step count, there is a single evaluation, after the last step. So no trainer chooses among models.
    settings = FinetuneSettings(
        epochs=epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        temperature=1 / _SCALE,
        evaluate_every=steps,
        seed=seed,
    )
    finetune(
        model,
        training,
        folder / "smart",
        settings,
        held_out=validation,
        max_length=options.max_length,
        keep_anyway=True,
    )
    seconds["smart"] = time.perf_counter() - started
    started = time.perf_counter()
    train_st(model, training, folder / "st", epochs, steps, seed, options)
    seconds["st"] = time.perf_counter() - started
    started = time.perf_counter()
    report = train_adapter(
        encoder, training, folder / "adapter", AdapterSettings(seed=seed), held_out=validation, keep_anyway=True
    )
    seconds["adapter"] = time.perf_counter() - started

    trained = [("smart", folder / "smart"), ("st", folder / "st" / "model")]
    if options.teacher:
        train_with_teacher(model, training, validation, settings, options, folder)
        trained += [("hard", folder / "hard"), ("distilled", folder / "distilled"), ("teacher", Path(options.teacher))]

    with cached_states(test, encoder, (-1,), folder) as cached:
        values["frozen"] = cached.ndcg()
        values["adapter"] = cached.ndcg(Adapter.load(folder / "adapter"))
    for name, path in trained:
        with cached_states(test, SmartEncoder(path, max_length=options.max_length), (-1,), folder) as cached:
            values[name] = cached.ndcg()
    at = {query.text: i for i, query in enumerate(data.queries)}
    return {
        "queries": [at[query.text] for query in test.queries],
        "documents": len(test.documents),
        "pairs": sum(min(epochs, len(query.positives)) for query in training.queries),
        "training_queries": len(training.queries),
        "steps": steps,
        "epochs": epochs,
        "adapter_gained": report.gained,
        "seconds": seconds,
        "ndcg@10": {
            f"{system} {ranking}": [round(float(value), 6) for value in of]
            for system, by in values.items()
            for ranking, of in by.items()
        },
    }


# --- the table --------------------------------------------------------------------------------


def by_query(runs: Sequence[Run], name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the value of each query, the mean over the runs that tested it, in the order of the queries."""
    found: dict[int, list[float]] = {}
    for run in runs:
        for query, value in zip(run["queries"], run["ndcg@10"][name], strict=True):
            found.setdefault(query, []).append(value)
    return np.array([np.mean(found[query]) for query in sorted(found)])


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the means of all systems, and their differences, over the ``runs`` of one model and set."""
    compared = [pair for pair in _COMPARED if set(pair) <= set(runs[0]["ndcg@10"])]
    found = corrected({f"{a} - {b}": difference(by_query(runs, a), by_query(runs, b)) for a, b in compared})
    differences = {}
    for (first, second), (name, of) in zip(compared, found.items(), strict=True):
        each = [float(np.mean(run["ndcg@10"][first]) - np.mean(run["ndcg@10"][second])) for run in runs]
        differences[name] = {**of.as_json("ndcg@10"), "queries": of.queries, "by seed": each}
    return {
        "seeds": [run["seed"] for run in runs],
        "documents": [run["documents"] for run in runs],
        "queries": len(by_query(runs, "frozen pooled")),
        "pairs": [run["pairs"] for run in runs],
        "steps": [run["steps"] for run in runs],
        "adapters that gained": sum(run["adapter_gained"] for run in runs),
        "ndcg@10": {name: float(by_query(runs, name).mean()) for name in runs[0]["ndcg@10"]},
        "differences": differences,
    }


def grouped(runs: Sequence[Run]) -> Iterator[tuple[tuple[str, ...], list[Run]]]:
    """Yield the runs of each model, set and settings."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault((run["model"], run["set"], json.dumps(run["settings"])), []).append(run)
    yield from sorted(groups.items())


def show(key: Sequence[str], of: Mapping[str, Any]) -> None:
    table = Table(title=f"{key[0]}, {key[1]}: nDCG@10 of {of['queries']:,} queries, seeds {of['seeds']}")
    for column in ("", "mean", "difference", "95 % interval", "p", "verdict", "by seed"):
        table.add_column(column)
    for name, mean in of["ndcg@10"].items():
        table.add_row(name, f"{mean:.4f}")
    for name, each in of["differences"].items():
        seeds = " ".join(f"{value:+.4f}" for value in each["by seed"])
        interval = f"{each['low']:+.4f} to {each['high']:+.4f}"
        table.add_row(name, "", f"{each['ndcg@10']:+.4f}", interval, f"{each['p']:.4f}", each["verdict"], seeds)
    console = Console(width=150)
    console.print(table)
    console.print(f"adapters that gained: {of['adapters that gained']} of {len(of['seeds'])}; {key[2]}")


def read(path: Path) -> list[Run]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument("--sets", type=Path, nargs="*", default=[])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--documents", type=int, default=500, help="test documents")
    parser.add_argument("--queries", type=int, default=500, help="test queries")
    parser.add_argument("--teacher", help="model whose hybrid scores are learned")
    parser.add_argument("--hard-negatives", type=int, default=4, help="of each query, with --teacher")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    names = ("steps", "batch_size", "learning_rate", "max_length", "documents", "queries")
    settings = {name: getattr(options, name) for name in names}
    if options.teacher:
        settings |= {"teacher": Path(options.teacher).name, "hard_negatives": options.hard_negatives}
    for seed in map(int, options.seeds.split(",")):
        for folder in options.sets:
            for model in options.models:
                key = {"model": Path(model).name, "set": folder.name, "seed": seed, "settings": settings}
                if any(all(run[name] == value for name, value in key.items()) for run in read(options.runs)):
                    continue
                with tempfile.TemporaryDirectory() as temporary:
                    run = key | one_run(model, load_training_data(folder), seed, options, Path(temporary))
                with options.runs.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(run) + "\n")
                print(f"{key['model']}, {key['set']}, seed {seed}: {run['seconds']}", flush=True)
    found = {}
    for key_of_group, runs in grouped(read(options.runs)):
        of = summary(runs)
        found[", ".join(key_of_group)] = of
        show(key_of_group, of)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

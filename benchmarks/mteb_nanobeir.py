"""NanoBEIR by mteb: one model pooled, by late interaction, and by both. Prints nDCG@10 of each dataset.

python benchmarks/mteb_nanobeir.py [--model M] [--tasks NanoNQRetrieval ...] [--device D]

It needs the extra `mteb`, and the datasets: mteb loads them from the hub at the first run. Results are kept in mteb's
own cache (MTEB_CACHE), so an interrupted run goes on where it stopped. `smart-rag eval --paper` reads NanoBEIR without
mteb, from a folder.
"""

from __future__ import annotations

import argparse

import mteb

from smart_rag import SmartEncoder
from smart_rag.evaluation import MtebModel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--tasks", nargs="*", help="names of tasks (default: all of NanoBEIR)")
    parser.add_argument("--device")
    arguments = parser.parse_args()

    tasks = mteb.get_tasks(arguments.tasks) if arguments.tasks else mteb.get_benchmark("NanoBEIR").tasks
    encoder = SmartEncoder(arguments.model, device=arguments.device)
    models = {
        "pooled": MtebModel(encoder, ranking="pooled"),
        "late": MtebModel(encoder, ranking="late"),
        "hybrid": MtebModel(encoder, ranking="hybrid"),
        "paper": MtebModel(encoder, ranking="hybrid", weights=(1, 1), weighting="none"),
    }
    print(f"{'':<32}" + "".join(f"{name:>10}" for name in models))
    sums = dict.fromkeys(models, 0.0)
    for task in tasks:
        scores = {name: mteb.evaluate(model, task)[0].get_score() for name, model in models.items()}
        print(f"{task.metadata.name:<32}" + "".join(f"{score:>10.4f}" for score in scores.values()), flush=True)
        sums = {name: sums[name] + score for name, score in scores.items()}
    print(f"{'mean':<32}" + "".join(f"{total / len(tasks):>10.4f}" for total in sums.values()))


if __name__ == "__main__":
    main()

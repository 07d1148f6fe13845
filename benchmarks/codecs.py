"""Quality and size of each codec: nDCG@10 of exhaustive hybrid ranking against float32, and bytes on disk.

python benchmarks/codecs.py DATASET_DIR... [--model M] [--codecs 2bit,2bit/2,...] [--json FILE]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from report import publish, spread, write
from tqdm import tqdm

from smart_rag import Representation, SmartEncoder
from smart_rag.config import DEFAULT_MODEL, DEFAULT_WEIGHTS
from smart_rag.embeddings.codec import PRESETS, get_codec
from smart_rag.evaluation import Dataset, load_dataset
from smart_rag.evaluation.metrics import Metrics, Run
from smart_rag.scoring import maxsim, ranking
from smart_rag.store.token_store import TokenStore

_ALL = ["float32", "float16", "int8", "4bit", "2bit", "1bit", "float16/2", "2bit/2", "2bit/3", "4bit/4"]


def measured(dataset: Dataset, queries: Representation, documents: Representation, name: str) -> dict[str, float]:
    """Return nDCG@10, and the bytes on disk for each token of the texts, with all overhead."""
    ids = [document.id for document in dataset.documents]
    keys = [i.to_bytes(16, "little") for i in np.random.default_rng(0).permutation(len(ids)).tolist()]
    late = np.empty((len(queries), len(ids)), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        store = TokenStore(folder, get_codec(name))
        for start in range(0, len(ids), 128):
            part = slice(start, start + 128)
            store.put(keys[part], documents.tokens.slice(start, min(start + 128, len(ids))))
            late[:, part] = maxsim.late_interaction(queries.tokens, store.gather(keys[part]))
        size = store.stats().used_bytes
        store.close()
    scores = ranking.hybrid(maxsim.pooled_similarity(queries.pooled, documents.pooled), late, DEFAULT_WEIGHTS)
    run: Run = {
        query: [ids[i] for i in ranking.ranking(scores[row], ids, 10)] for row, query in enumerate(dataset.queries)
    }
    return {
        "ndcg@10": Metrics(dataset.qrels).mean(run)["ndcg@10"],
        "bytes": size / int(documents.tokens.offsets[-1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", type=Path, nargs="+")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--codecs", default=",".join(_ALL))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    encoder = SmartEncoder(arguments.model)
    names = ["float32", *(name for name in arguments.codecs.split(",") if name != "float32")]
    labels = {
        name: next((f"{name} ({preset})" for preset, of in PRESETS.items() if of == name), name) for name in names
    }
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in names}
    for folder in arguments.datasets:
        dataset = load_dataset(folder)
        documents = encoder.encode_document([document.text for document in dataset.documents], show_progress_bar=True)
        queries = encoder.encode_query(list(dataset.queries.values()))
        for name in tqdm(names, desc=dataset.name):
            found[name][dataset.name] = measured(dataset, queries, documents, name)
        if arguments.json:  # after each dataset: they take minutes
            rows = {
                f"{data}: {labels[name]}": {
                    "nDCG@10": figures["ndcg@10"],
                    "% of float32": 100 * figures["ndcg@10"] / found["float32"][data]["ndcg@10"],
                    "bytes a token": figures["bytes"],
                }
                for data in found["float32"]
                for name, figures in ((name, found[name][data]) for name in names)
            }
            write(arguments.json, title="codecs: exhaustive hybrid ranking, and bytes on disk", rows=rows)
    exact = found["float32"]
    publish(
        "nDCG@10 of exhaustive hybrid ranking, % of float32, over the datasets",
        {labels[n]: spread([100 * found[n][d]["ndcg@10"] / exact[d]["ndcg@10"] for d in exact]) for n in names},
        None,
    )
    publish(
        "bytes on disk for a token",
        {labels[n]: spread([found[n][d]["bytes"] for d in exact]) for n in names},
        None,
    )


if __name__ == "__main__":
    main()

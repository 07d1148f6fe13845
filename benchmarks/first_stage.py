"""Recall of the first stage: the share of the 10 best of all documents that are among 100 candidates.

python benchmarks/first_stage.py DATASET_DIR ... [--model M] [--queries N] [--documents N] [--real FOLDER] [--json FILE]

The documents are candidates by pooled cosine alone, by their vocabulary ids, and by centroids. For the last, the
vocabulary ids are hidden, as if each document were an image. In a further index, they are hidden for every other
document. The pages of a dataset of pages are read as images if the model does that. ``--real`` takes the folder of
`real_texts.py` instead of datasets.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from real_texts import RealTexts
from report import publish, spread
from tqdm import tqdm

from smart_rag import IndexConfig, Representation, SmartEncoder, SmartIndex
from smart_rag.evaluation import load_dataset
from smart_rag.index.candidates import FirstStage

_AT_ONCE = 1024


def hidden(vectors: Representation) -> Representation:
    return replace(vectors, tokens=replace(vectors.tokens, ids=None))


def recall(
    index: SmartIndex, queries: Representation, best: list[set[str]], stage: str
) -> tuple[float, dict[str, float]]:
    """Return the recall of 100 candidates, and the milliseconds that finding them takes."""
    times, found = [], []
    for i in range(len(queries)):
        query, started = queries[i], time.perf_counter()
        first = FirstStage(index._store, 100, state=index._store.settled_state())
        ids = (first.pooled(query) if stage == "pooled" else first.terms(query))[0].ids
        times.append(1e3 * (time.perf_counter() - started))
        found.append(len(best[i].intersection(ids)) / len(best[i]))
    return float(np.mean(found)), spread(times[len(times) // 10 :])


def measure(name: str, folder: Path, parts: list, queries: Representation, json: Path | None) -> None:
    """Make three indexes of ``parts``, which are pairs of documents and their vectors, and publish what they find."""
    count = sum(len(documents) for documents, _ in parts)
    config, figures = IndexConfig(codec="balanced"), {}
    widths = {"dimension": queries.pooled.shape[1], "token_dimension": queries.tokens.dimension}
    for kind in ("words", "centroids", "half of each"):
        with SmartIndex.create(folder / kind, None, config=config, **widths) as index:
            seconds = 0.0
            for documents, vectors in tqdm(parts, desc=f"indexing by {kind}"):
                started = time.perf_counter()
                if kind == "half of each":
                    for i, of_one in enumerate((vectors, hidden(vectors))):
                        chosen = list(range(i, len(documents), 2))
                        index.add_embeddings([documents[k] for k in chosen], of_one.take(chosen))
                else:
                    index.add_embeddings(documents, vectors if kind == "words" else hidden(vectors))
                seconds += time.perf_counter() - started
            asked = hidden(queries) if kind == "centroids" else queries
            hits = index.search_many(asked, 10, first_stage="exhaustive")
            best = [{hit.id for hit in of_one} for of_one in hits]
            for stage in ("pooled", "terms"):
                found, milliseconds = recall(index, asked, best, stage)
                figures[f"{kind}: recall, {stage}"] = {"median": found}
                figures[f"{kind}: candidates by {stage}, ms"] = milliseconds
            tokens, terms = index.info().tokens, index._store.terms
            figures[f"{kind}: bytes a token in memory"] = {
                "median": sum(len(one.codes) for one in terms._lists) / tokens
            }
            figures[f"{kind}: bytes a token on disk"] = {"median": index._store._terms.used_bytes() / tokens}
            figures[f"{kind}: ingest of vectors, ms a document"] = {"median": 1e3 * seconds / count}
    publish(f"first stage over {count} documents of {name}", figures, json, documents=count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", type=Path, nargs="*")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    if arguments.real:
        texts = RealTexts(arguments.real)
        ends = range(0, min(arguments.documents, len(texts.ids)), _AT_ONCE)
        parts = [texts.documents(start, min(start + _AT_ONCE, arguments.documents)) for start in ends]
        queries = texts.queries()
        chosen = np.random.default_rng(0).permutation(len(queries))[: arguments.queries].tolist()
        with tempfile.TemporaryDirectory() as folder:
            measure("real texts", Path(folder), parts, queries.take(chosen), arguments.json)
    encoder = SmartEncoder(arguments.model, device="cpu") if arguments.datasets else None
    for path in arguments.datasets:
        dataset = load_dataset(path, arguments.queries)
        documents = dataset.documents[: arguments.documents]
        contents = [document.content(encoder.modalities) for document in documents]
        parts = []
        for start in tqdm(range(0, len(documents), 64), desc="encoding"):
            vectors = encoder.encode_document(contents[start : start + 64], codec="2bit")
            parts.append((documents[start : start + 64], vectors))
        queries = encoder.encode_query(list(dataset.queries.values()))
        with tempfile.TemporaryDirectory() as folder:
            measure(path.name, Path(folder), parts, queries, arguments.json)


if __name__ == "__main__":
    main()

"""nDCG@10 of the weighting of query tokens by contrast, against the default (idf), the paper's ranking, and pooled.

python benchmarks/weighting.py FOLDER DATASET_DIR ... [--model M] [--documents N] [--queries N]

The sets are those of `ranking_sets.py`. Each is encoded once for each model, and FOLDER keeps the vectors. Documents
are stored as in a new index: in 2 bits for each dimension. All rankings of a query have the same candidates: those of
the first stage, or all documents. JSON files of other runs that are given with ``--with`` are in the tables, too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ranking_sets import all_sets
from report import show
from tqdm import tqdm

from smart_rag import IndexConfig, Representation, SmartEncoder, SmartIndex, TokenBatch
from smart_rag.embeddings.codec import PRESETS, get_codec
from smart_rag.embeddings.tokens import TokenCodes
from smart_rag.evaluation import Dataset
from smart_rag.evaluation.differences import difference
from smart_rag.evaluation.metrics import Metrics, Run
from smart_rag.index.candidates import FirstStage
from smart_rag.scoring import maxsim, ranking
from smart_rag.scoring.products import product_for

_CODEC = PRESETS["balanced"]
_CANDIDATES = (20, 50, 100)
_ALL = "all"  # with weights of tokens from the candidates of the first stage
_DEPTH = 10

# nDCG@10 of each query, by set, number of candidates and ranking.
Figures = dict[str, dict[str, dict[str, list[float]]]]


def documents_of(folder: Path, texts: Sequence[str], encoder: SmartEncoder) -> Representation:
    """Return the vectors of documents, as codes. They are encoded unless ``folder`` has them."""
    path = _path(folder, "documents", texts)
    if not path.exists():
        made = encoder.encode_document(texts, codec=_CODEC, show_progress_bar=True)
        _save(path, made, made.tokens.codes)
    found = np.load(path)
    codes = TokenCodes(found["tokens"], found["offsets"], int(found["width"]), get_codec(_CODEC), found["ids"])
    return Representation(found["pooled"], codes)


def queries_of(folder: Path, texts: Sequence[str], encoder: SmartEncoder) -> Representation:
    """Return the vectors of queries, as numbers. They are encoded unless ``folder`` has them."""
    path = _path(folder, "queries", texts)
    if not path.exists():
        made = encoder.encode_query(texts, show_progress_bar=True)
        _save(path, made, made.tokens.embeddings)
    found = np.load(path)
    return Representation(found["pooled"], TokenBatch(found["tokens"], found["offsets"], found["ids"]))


def _path(folder: Path, kind: str, texts: Sequence[str]) -> Path:
    return folder / f"{kind}-{hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]}.npz"


def _save(path: Path, made: Representation, rows: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part, tokens = path.with_suffix(".part"), made.tokens
    with part.open("wb") as file:
        np.savez(file, pooled=made.pooled, tokens=rows, offsets=tokens.offsets, ids=tokens.ids, width=tokens.dimension)
    part.rename(path)


class Terms:
    """The vocabulary ids of the documents: how many documents have each, and how often each document has it."""

    def __init__(self, tokens: TokenCodes) -> None:
        self.documents = len(tokens)
        known, columns = np.unique(tokens.ids, return_inverse=True)
        self._columns = {id: column for column, id in enumerate(known.tolist())}
        self._counts = np.zeros((len(tokens), len(known) + 1))  # the last column is for ids that no document has
        np.add.at(self._counts, (np.repeat(np.arange(len(tokens)), np.diff(tokens.offsets)), columns), 1)
        self._lengths = np.diff(tokens.offsets) / np.diff(tokens.offsets).mean()
        self._frequencies = np.count_nonzero(self._counts, axis=0)

    def of(self, ids: NDArray[np.int32]) -> NDArray[np.float64]:
        """Return the number of documents (n) that have each of the ``ids``. A token without an id is in all."""
        return np.where(ids < 0, self.documents, self._frequencies[self._places(ids)]).astype(np.float64)

    def bm25(self, ids: NDArray[np.int32], k1: float = 1.2, b: float = 0.75) -> NDArray[np.float64]:
        """Return the BM25 score of each document (n)."""
        known = np.unique(ids[ids >= 0])
        n, counts = self.of(known), self._counts[:, self._places(known)]
        rarity = np.log1p((self.documents - n + 0.5) / (n + 0.5))
        return (rarity * counts * (k1 + 1) / (counts + k1 * (1 - b + b * self._lengths)[:, None])).sum(axis=1)

    def shared(self, ids: NDArray[np.int32]) -> NDArray[np.float64]:
        """Return, for each document (n), the sum of the inverse document frequencies of the ids that it shares."""
        known = np.unique(ids[ids >= 0])
        return (self._counts[:, self._places(known)] > 0) @ np.log1p(self.documents / np.maximum(self.of(known), 1))

    def _places(self, ids: NDArray[np.int32]) -> list[int]:
        return [self._columns.get(id, -1) for id in ids.tolist()]


def mean(weights: NDArray[np.float64], best: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weighted mean over the tokens of the highest cosines ``best`` (tokens, candidates)."""
    return weights @ best / weights.sum()


def scores(
    pooled: NDArray[np.float64],
    best: NDArray[np.float64],
    rarity: NDArray[np.float64],
    words: tuple[NDArray[np.float64], NDArray[np.float64]],
    reference: NDArray[np.int64],
) -> dict[str, NDArray[np.float64]]:
    """Return the scores (n) of all documents for one query, by each ranking.

    Args:
        pooled: the pooled cosines (n).
        best: (tokens, n).
        rarity: the inverse document frequencies of the tokens.
        words: BM25 over the vocabulary ids (n), and the sum of the rarities of shared ids (n).
        reference: the documents that decide about the contrast.
    """
    bm25, shared = words
    contrast = mean(maxsim.contrast(best[:, reference].astype(np.float32), rarity).astype(np.float64), best)
    default = pooled + 2 * mean(rarity, best)

    def with_words(base: NDArray[np.float64], of_words: NDArray[np.float64]) -> NDArray[np.float64]:
        spread, most = base[reference].max() - base[reference].mean(), of_words[reference].max()
        return base + 0.2 * spread * of_words / most if most > 0 else base

    return {
        "pooled": pooled,
        "none (1, 1)": pooled + best.mean(axis=0),
        "idf": default,
        "contrast": pooled + 2 * contrast,
        "contrast (1, 1.5)": pooled + 1.5 * contrast,
        "contrast (1, 1.5) and BM25": with_words(pooled + 1.5 * contrast, bm25),
        "idf and shared ids": with_words(default, shared),
    }


def rankings(
    dataset: Dataset, documents: Representation, queries: Representation
) -> Iterator[tuple[str, str, str, list[str]]]:
    """Yield the candidates' name, the ranking's name, a query and its best documents."""
    names = [document.id for document in dataset.documents]
    positions = {name: i for i, name in enumerate(names)}
    terms = Terms(documents.tokens)
    cosines = maxsim.pooled_similarity(queries.pooled, documents.pooled).astype(np.float64)
    with (
        tempfile.TemporaryDirectory() as folder,
        SmartIndex.create(
            Path(folder) / "index",
            None,
            config=IndexConfig(codec=_CODEC),
            dimension=documents.pooled.shape[1],
            token_dimension=documents.tokens.dimension,
        ) as index,
    ):
        index.add_embeddings(dataset.documents, documents)
        stages = {
            limit: FirstStage(index._store, limit, state=index._store.settled_state()).terms(queries)
            for limit in _CANDIDATES
        }
    product = product_for(documents.tokens, "cpu", len(queries.tokens.embeddings))
    prepared, everything = product.documents(documents.tokens), np.arange(len(names))
    for row, query in enumerate(dataset.queries):
        tokens = queries.tokens.slice(row, row + 1)
        best = product.best(product.queries(tokens.embeddings), prepared, documents.tokens.offsets).astype(np.float64)
        chosen = {limit: np.asarray([positions[id] for id in of[row].ids]) for limit, of in stages.items()}
        settings = [(f"{limit}", of, of) for limit, of in chosen.items()]
        settings.append((_ALL, everything, chosen[max(chosen)]))
        rarity = np.log1p(terms.documents / np.maximum(terms.of(tokens.ids), 1))
        words = terms.bm25(tokens.ids), terms.shared(tokens.ids)
        for name, candidates, reference in settings:
            found = scores(cosines[row], best, rarity, words, reference)
            ids = [names[i] for i in candidates]
            for kind, values in found.items():
                top = ranking.ranking(values[candidates].astype(np.float32), ids, _DEPTH)
                yield name, kind, query, [ids[i] for i in top]


def show_differences(figures: Figures) -> None:
    """Print how much the contrast differs from each other ranking, with the 95 % interval, for each set."""
    kinds = ["idf", "pooled", "none (1, 1)"]
    pairs = [("contrast", kind) for kind in kinds]
    pairs += [(kind, "idf") for kind in ("contrast (1, 1.5)", "contrast (1, 1.5) and BM25", "idf and shared ids")]
    for first, second in pairs:
        for name in (*map(str, _CANDIDATES), _ALL):
            values = {of: (found[name][first], found[name][second]) for of, found in figures.items()}
            differences = {of: difference(*pair) for of, pair in values.items()}
            rows = {
                of: {
                    **{first: float(np.mean(values[of][0])), second: float(np.mean(values[of][1]))},
                    **{"difference": one.mean, "low": one.low, "high": one.high, "p": one.p},
                }
                for of, one in differences.items()
            }
            rows["mean"] = {
                column: float(np.mean([row[column] for row in rows.values()]))
                for column in (first, second, "difference")
            }
            title = f"nDCG@10, {first} - {second}, candidates: {name}"
            show(title, rows, (first, second, "difference", "low", "high", "p"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("datasets", type=Path, nargs="*")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--dtype", help="type of the model's numbers, such as bfloat16")
    parser.add_argument("--documents", type=int, default=600)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--only", help="names of sets, separated by ;")
    parser.add_argument("--encode", action="store_true", help="only encode")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--with", type=Path, nargs="*", default=[], dest="others", help="JSON files of other runs")
    arguments = parser.parse_args()

    options = {"model_kwargs": {"torch_dtype": arguments.dtype}} if arguments.dtype else {}
    encoder = SmartEncoder(arguments.model, device="cpu", model_options=options)
    model = Path(arguments.model).name
    folder = arguments.folder / f"{model}-{arguments.documents}"
    figures: Figures = {}
    for path in arguments.others:
        figures |= json.loads(path.read_text(encoding="utf-8"))
    sets = all_sets(arguments.folder, arguments.datasets, arguments.documents, arguments.queries)
    for dataset in tqdm(sets) if arguments.datasets else ():
        if arguments.only and dataset.name not in arguments.only.split(";"):
            continue
        documents = documents_of(folder, [document.text for document in dataset.documents], encoder)
        queries = queries_of(folder, [str(query) for query in dataset.queries.values()], encoder)
        if arguments.encode:
            continue
        runs: dict[tuple[str, str], Run] = defaultdict(dict)
        for name, kind, query, best in rankings(dataset, documents, queries):
            runs[name, kind][query] = best
        metrics = Metrics(dataset.qrels, ("ndcg@10",))
        of_set = figures.setdefault(f"{model}: {dataset.name}", {})
        for (name, kind), run in runs.items():
            of_set.setdefault(name, {})[kind] = metrics.by_query(run)["ndcg@10"].tolist()
        if arguments.json:  # after each set: they take minutes
            arguments.json.write_text(json.dumps(figures) + "\n", encoding="utf-8")
    if not arguments.encode:
        show_differences(figures)


if __name__ == "__main__":
    main()

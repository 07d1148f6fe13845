"""MaxSim of one query and its candidates: our scorer on each codec against others, on the same vectors, in turn.

python benchmarks/maxsim.py [--shapes 12x160x384,30x300x768,...] [--candidates 100,...] [--rounds N] [--json FILE]

A shape is query tokens x document tokens x dimension; documents have between half and all of the
tokens. The machine's limit is its own float32 product of the same size. `maxsim-cpu` takes part where
it is installed; it crashes at 2,048 dimensions and is left out there.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sentence_transformers.util.similarity import maxsim

from smart_rag import TokenBatch, scoring
from smart_rag.codec import codec
from smart_rag.types import TokenCodes

_SHAPES = "12x160x384,30x300x768,20x750x128,30x1800x2048"
_CODECS = ("float32", "float16", "int8", "4bit", "2bit", "1bit")
_MOST_BYTES = 4 << 30


def unit(generator: np.random.Generator, count: int, dimension: int) -> np.ndarray:
    rows = generator.standard_normal((count, dimension), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def contestants(query: np.ndarray, documents: TokenBatch) -> dict[str, Callable[[], Any]]:
    """Return what is timed, by name; everything is in memory, in the form in which each contestant wants it."""
    queries = TokenBatch.from_list([query])
    embeddings = np.asarray(documents.embeddings, dtype=np.float32)
    runs: dict[str, Callable[[], Any]] = {}
    for name in _CODECS:
        layout = codec(name)
        codes = TokenCodes(layout.encode(embeddings), documents.offsets, documents.dimension, layout)
        runs[f"smart_rag {name}"] = lambda codes=codes: scoring.late_interaction(queries, codes)  # type: ignore[misc]
    tensors = [torch.from_numpy(np.asarray(matrix)) for matrix in documents]
    one = torch.from_numpy(query)
    runs["sentence-transformers maxsim"] = lambda: maxsim([one], tensors)
    padded = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)
    if padded.numel() * 4 < _MOST_BYTES:
        runs["padded torch einsum"] = lambda: torch.einsum("qd,ntd->nqt", one, padded).amax(2).mean(1)
    if importlib.util.find_spec("maxsim_cpu") and documents.dimension < 2048:
        import maxsim_cpu

        matrices = [np.ascontiguousarray(matrix) for matrix in documents]
        runs["maxsim-cpu"] = lambda: maxsim_cpu.maxsim_scores_variable(query, matrices)
    flat = torch.from_numpy(embeddings)
    runs["limit: one float32 product"] = lambda: one @ flat.T
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=_SHAPES)
    parser.add_argument("--candidates", default="100")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    generator = np.random.default_rng(0)
    results = []
    for shape in arguments.shapes.split(","):
        query_tokens, document_tokens, dimension = map(int, shape.split("x"))
        for count in map(int, arguments.candidates.split(",")):
            lengths = generator.integers(document_tokens // 2, document_tokens + 1, count)
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
            documents = TokenBatch(unit(generator, int(offsets[-1]), dimension), offsets)
            runs = contestants(unit(generator, query_tokens, dimension), documents)
            times: dict[str, list[float]] = {name: [] for name in runs}
            for _ in range(arguments.rounds):
                for name, run in runs.items():
                    started = time.perf_counter()
                    run()
                    times[name].append(1e3 * (time.perf_counter() - started))
            medians = {name: float(np.median(values)) for name, values in times.items()}
            peer = medians["sentence-transformers maxsim"]
            table = Table(title=f"{shape}, {count} candidates, {int(offsets[-1]):,} tokens")
            for column in ("", "ms, least", "ms, median", "times faster than sentence-transformers"):
                table.add_column(column, justify="right" if column else "left")
            for name, values in times.items():
                table.add_row(name, f"{min(values):.2f}", f"{medians[name]:.2f}", f"{peer / medians[name]:.1f}")
            Console().print(table)
            results.append({"shape": shape, "candidates": count, "milliseconds": times})
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

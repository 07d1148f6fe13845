"""Speed of MaxSim for one query and its candidates: our scorer with each codec and others, in turn, same vectors.

As in a search, the forward pass of a query comes right before each call that is timed: after it, torch's threads keep
the cores busy for a while.

python benchmarks/maxsim.py [--shapes 12x160x384,...] [--candidates 10,100,1000] [--codecs float32,2bit,...]
                            [--rounds N] [--pylate PYTHON] [--json FILE]

A shape is query tokens x document tokens x dimension. Documents have between half and all of the tokens. The
machine's limit is one float32 product of the same size, or of its transpose if that is faster. `maxsim-cpu` is
measured if it is installed, except at 2,048 dimensions, where it crashes. PyLate is measured if --pylate names the
Python interpreter of an environment that has it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sentence_transformers.util.similarity import maxsim
from tqdm import tqdm

from smart_rag import SmartEncoder, TokenBatch
from smart_rag.embeddings.codec import RotatedCodec, get_codec
from smart_rag.embeddings.tokens import TokenCodes
from smart_rag.scoring import kernels, products  # noqa: F401, as in a program that has searched for a while
from smart_rag.scoring.maxsim import late_interaction

_SHAPES = "12x160x384,30x300x768,20x750x128,30x1800x2048"
_CODECS = "float32,float16,int8,4bit,2bit,1bit"
# Largest size of the documents' vectors in float32. Several contestants need a copy.
_MOST_BYTES = 3 << 30
_PEER = "sentence-transformers (s-t) maxsim"
_LIMIT = "limit: one float32 product"
_QUESTION = "which words of a document match the words of a question?"


def unit(generator: np.random.Generator, count: int, dimension: int) -> np.ndarray:
    rows = generator.standard_normal((count, dimension), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def without_numba(queries: TokenBatch, codes: TokenCodes) -> np.ndarray:
    """Return the scores that an environment without the extra `fast` computes."""
    with mock.patch.object(products, "numba_is_usable", return_value=False):
        return late_interaction(queries, codes)


def contestants(query: np.ndarray, documents: TokenBatch, codecs: list[str]) -> dict[str, Callable[[], Any]]:
    """Return a function for each contestant by name. Its vectors are in memory, in the form that it needs."""
    queries = TokenBatch.from_list([query])
    embeddings = np.asarray(documents.embeddings, dtype=np.float32)
    runs: dict[str, Callable[[], Any]] = {}
    for name in codecs:
        layout = get_codec(name)
        codes = TokenCodes(layout.encode(embeddings), documents.offsets, documents.dimension, layout)
        runs[f"smart_rag {name}"] = lambda codes=codes: late_interaction(queries, codes)  # type: ignore[misc]
        if isinstance(layout, RotatedCodec):
            runs[f"smart_rag {name}, without Numba"] = lambda codes=codes: without_numba(queries, codes)  # type: ignore[misc]
    tensors = [torch.from_numpy(np.asarray(matrix)) for matrix in documents]
    one = torch.from_numpy(query)
    runs[_PEER] = lambda: maxsim([one], tensors)
    padded = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)
    runs["padded torch einsum"] = lambda: torch.einsum("qd,ntd->nqt", one, padded).amax(2).mean(1)
    flat = torch.from_numpy(embeddings)
    runs[_LIMIT] = lambda: one @ flat.T
    runs[f"{_LIMIT}, transposed"] = lambda: flat @ one.T
    if importlib.util.find_spec("maxsim_cpu") and documents.dimension < 2048:
        import maxsim_cpu

        matrices = [np.ascontiguousarray(matrix) for matrix in documents]
        runs["maxsim-cpu"] = lambda: maxsim_cpu.maxsim_scores_variable(query, matrices)
    return runs


@contextmanager
def pylate(python: Path, query: np.ndarray, documents: TokenBatch) -> Iterator[dict[str, Callable[[], float]]]:
    """Run PyLate in another environment on the same vectors. Each run returns its milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vectors.npz"
        np.savez(file, query=query, embeddings=documents.embeddings, offsets=documents.offsets)
        peer = Path(__file__).with_name("pylate_peer.py")
        with subprocess.Popen(
            [python, peer, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise SystemExit(f"PyLate does not start; run `{python} {peer} FILE` to see why")

            def run() -> float:
                print(file=process.stdin, flush=True)
                return float(process.stdout.readline())  # type: ignore[union-attr]

            yield {"PyLate rank": run}


def measured(runs: dict[str, Callable[[], Any]], rounds: int, forward: Callable[[], Any]) -> dict[str, list[float]]:
    """Return the milliseconds of each contestant in each round, after one round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round in tqdm(range(rounds + 1), desc="measuring"):
        for name, run in runs.items():
            forward()
            started = time.perf_counter()
            own = run()
            taken = own if isinstance(own, float) else 1e3 * (time.perf_counter() - started)
            if round:
                times[name].append(taken)
    limits = sorted((name for name in times if name.startswith(_LIMIT)), key=lambda name: np.median(times[name]))
    times[_LIMIT], _ = times.pop(limits[0]), times.pop(limits[1])
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=_SHAPES)
    parser.add_argument("--candidates", default="10,100,1000")
    parser.add_argument("--codecs", default=_CODECS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--pylate", type=Path, metavar="PYTHON", help="interpreter of an environment with PyLate")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    encoder = SmartEncoder("minilm", device="cpu")

    def forward() -> None:
        encoder.encode_query([_QUESTION])

    generator = np.random.default_rng(0)
    results = []
    for shape in arguments.shapes.split(","):
        query_tokens, document_tokens, dimension = map(int, shape.split("x"))
        for count in map(int, arguments.candidates.split(",")):
            lengths = generator.integers(document_tokens // 2, document_tokens + 1, count)
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
            total = int(offsets[-1])
            if 4 * total * dimension > _MOST_BYTES:
                print(f"{shape}, {count} candidates: left out, {4 * total * dimension / (1 << 30):.1f} GiB in float32")
                continue
            query, documents = unit(generator, query_tokens, dimension), unit(generator, total, dimension)
            batch = TokenBatch(documents, offsets)
            with pylate(arguments.pylate, query, batch) if arguments.pylate else nullcontext({}) as others:
                times = measured(
                    {**contestants(query, batch, arguments.codecs.split(",")), **others}, arguments.rounds, forward
                )
            medians = {name: float(np.median(values)) for name, values in times.items()}
            rate = 2e-6 * query_tokens * total * dimension / medians[_LIMIT]
            table = Table(title=f"{shape}, {count} candidates, {total:,} tokens; limit {rate:,.0f} GFLOP/s")
            for column in ("", "ms, least", "ms, median", "times faster than s-t", "% of the limit"):
                table.add_column(column, justify="right" if column else "left")
            for name, values in times.items():
                table.add_row(
                    name,
                    f"{min(values):.2f}",
                    f"{medians[name]:.2f}",
                    f"{medians[_PEER] / medians[name]:.1f}",
                    f"{100 * medians[_LIMIT] / medians[name]:.0f}",
                )
            Console().print(table)
            results.append({"shape": shape, "candidates": count, "gflops": rate, "milliseconds": times})
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

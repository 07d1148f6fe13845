"""Throughput of `smart-rag serve`: 32 clients at the same time, and one request at a time, in turn.

python benchmarks/serve.py DATASET_DIR [--clients N] [--seconds S] [--rounds N] [--minutes N] [--folder DIR]
    [--json FILE]

The clients are in another process than the server, and each keeps its connection. "Encoding" is `/v1/embeddings` with
one query, "short encoding" the same with its first five words, and "search" is `/search` with the defaults. A round
measures all of them, alone and together, so the ratios of a round are of the same moment. The clients share the cores
of the machine with the server.

With ``--minutes N``, a quarter of the clients then send queries to encode, and the others searches, for N minutes. The
resident memory of the server is measured after each minute.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from statistics import quantiles

import psutil
from report import publish, spread
from tqdm import tqdm

from smart_rag import SmartEncoder, SmartIndex
from smart_rag.evaluation import load_dataset

# The path of each kind of request, and a function that makes its body from a query.
Requests = dict[str, tuple[str, Callable[[str], object]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=int, default=0, help="of load, in which the memory is measured")
    parser.add_argument("--folder", type=Path, help="folder of the index, which is created if missing")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    dataset = load_dataset(arguments.dataset)
    queries = list(dataset.queries.values())
    requests: Requests = {
        "encoding": ("/v1/embeddings", lambda query: {"input": query, "input_type": "query"}),
        "short encoding": (
            "/v1/embeddings",
            lambda query: {"input": " ".join(query.split()[:5]), "input_type": "query"},
        ),
        "search": ("/search", lambda query: {"query": query}),
    }
    rows: dict[str, list[float]] = {}
    with nullcontext(arguments.folder) if arguments.folder else tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "index"
        if not folder.exists():
            with SmartIndex.create(folder, SmartEncoder("minilm", device="cpu")) as index:
                index.add(dataset.documents, show_progress_bar=True)
        command = [sys.executable, "-m", "smart_rag", "serve", "--db", str(folder), "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            address = re.search(r"http://\S+(?=;)", server.stdout.readline())
            assert address, "the server did not start"
            try:
                for path, body in requests.values():
                    asyncio.run(load(address[0], path, body, queries, 4, 2.0))  # this warms it up
                for _ in tqdm(range(arguments.rounds), desc="measuring"):
                    for what, (path, body) in requests.items():
                        alone = asyncio.run(load(address[0], path, body, queries, 1, arguments.seconds))
                        many = asyncio.run(load(address[0], path, body, queries, arguments.clients, arguments.seconds))
                        rows.setdefault(f"{what}: throughput together / alone", []).append(len(many) / len(alone))
                        for who, times in (("alone", alone), (f"{arguments.clients} clients", many)):
                            rows.setdefault(f"{what}, {who}: requests/s", []).append(len(times) / arguments.seconds)
                            p50, p95 = quantiles(times, n=20)[9], quantiles(times, n=20)[18]
                            rows.setdefault(f"{what}, {who}: p50, ms", []).append(p50)
                            rows.setdefault(f"{what}, {who}: p95, ms", []).append(p95)
                memory = [
                    (asyncio.run(mixed_load(address[0], requests, queries, arguments.clients)), resident(server.pid))[1]
                    for _ in tqdm(range(arguments.minutes), desc="minutes of load")
                ]
            finally:
                server.terminate()
    if len(memory) > 2:
        rows["resident memory, MB, after minute 2"] = [memory[1]]
        rows[f"resident memory, MB, after minute {len(memory)}"] = [memory[-1]]
        rows["resident memory at the end / after minute 2"] = [memory[-1] / memory[1]]
    publish(
        f"{arguments.clients} clients of a server over {len(dataset.documents)} documents of {arguments.dataset.name}",
        {name: spread(values) for name, values in rows.items()},
        arguments.json,
        load=os.getloadavg(),
    )


async def mixed_load(
    address: str, requests: Requests, queries: Sequence[str], clients: int, seconds: float = 60.0
) -> None:
    """Send queries to encode by a quarter of the clients, and searches by the others, at the same time."""
    shares = {"search": clients - clients // 4, "encoding": clients // 4}
    loads = (load(address, *requests[what], queries, share, seconds) for what, share in shares.items())
    await asyncio.gather(*loads)


def resident(pid: int) -> float:
    """Return the resident memory of a process and of those that it started, in MB."""
    process = psutil.Process(pid)
    return sum(one.memory_info().rss for one in [process, *process.children(recursive=True)]) / 1e6


# `httpx` would take as much of the processor for a request as the server does.
async def load(
    address: str, path: str, body: Callable[[str], object], queries: Sequence[str], clients: int, seconds: float
) -> list[float]:
    """Send requests by some clients, each one after the other. Return the milliseconds of each request."""
    numbers, times = count(), list[float]()
    host, port = address.removeprefix("http://").split(":")
    end = time.perf_counter() + seconds

    async def ask() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        while (started := time.perf_counter()) < end:
            content = json.dumps(body(queries[next(numbers) % len(queries)])).encode()
            head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode()
            assert answer.startswith("HTTP/1.1 200"), answer
            length = re.search(r"(?i)content-length: (\d+)", answer)
            assert length
            await reader.readexactly(int(length[1]))
            times.append(1e3 * (time.perf_counter() - started))
        writer.close()

    await asyncio.gather(*(ask() for _ in range(clients)))
    return times


if __name__ == "__main__":
    main()

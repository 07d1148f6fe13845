"""Readers and a writer use one index for minutes. Counts errors, missing documents and doubled documents.

python benchmarks/soak.py [--minutes 10] [--readers 4] [--threads 0] [--documents 3000] [--folder DIR] [--json FILE]

Half of the documents are never changed. The writer replaces, removes and adds the others. Each reader searches for a
document that is never changed, with each first stage and exhaustively, gets it by its id, and lists all documents now
and then. With ``--threads N``, N threads of the writer's process read, too. At the end, ``verify`` must find nothing,
and each ranking must be that of a fresh index. The exit code is 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
from report import show, spread
from report import write as report_to

from smart_rag import Document, Representation, SmartIndex

WORDS = ["red", "green", "blue", "dog", "carp", "pump", "boat", "lamp", "keys", "door", "night", "river"]
_REPORT_SECONDS = 15


class WordEncoder:
    """An encoder that takes no time. Each word has a random token embedding, and the pooled embedding is their mean."""

    dimension = 64
    fingerprint = "words of the soak"

    def describe(self) -> dict[str, str]:
        return {"model": "words"}

    def encode_query(self, texts: list[str]) -> Representation:
        tokens = [np.stack([self._word(word) for word in text.split()]) for text in texts]
        encoded = Representation.from_embeddings(np.stack([matrix.mean(axis=0) for matrix in tokens]), tokens)
        ids = np.asarray([zlib.crc32(word.encode()) >> 12 for text in texts for word in text.split()], dtype=np.int32)
        return Representation(encoded.pooled, replace(encoded.tokens, ids=ids))

    encode_document = encode_query

    def _word(self, word: str) -> np.ndarray:
        return np.random.default_rng(zlib.crc32(word.encode())).standard_normal(self.dimension)


def text_of(i: int, version: int = 0) -> str:
    words = random.Random(i).choices(WORDS, k=8)
    return " ".join([*words, f"number{i}", f"version{version}"])


def read(index: SmartIndex, kept: list[int], end: float, seed: int) -> dict[str, list]:
    """Search until ``end``, and return what was wrong and how long each search took in milliseconds."""
    chosen, wrong, times, cycles = random.Random(seed), [], [], 0
    while time.time() < end:
        i = chosen.choice(kept)
        cycles += 1
        try:
            for stage in ("terms", "pooled", "exhaustive"):
                start = time.perf_counter()
                hits = index.search(text_of(i), 3, first_stage=stage)
                times.append(1000 * (time.perf_counter() - start))
                if hits[0].id != f"d{i}" or hits[0].text != text_of(i):
                    wrong.append(f"{stage}: d{i} was not found first, but {hits[0].id}")
            if index.get([f"d{i}"])[0].text != text_of(i):
                wrong.append(f"get: d{i} has another text")
            if cycles % 20 == 0:
                ids = [document.id for document in index.documents()]
                if len(ids) != len(set(ids)):
                    wrong.append(f"documents: {len(ids) - len(set(ids))} ids came twice")
                if absent := {f"d{i}" for i in kept}.difference(ids):
                    wrong.append(f"documents: {len(absent)} documents are missing")
            if cycles % 50 == 0 and not (report := index.verify()).sound:
                wrong.append(f"verify: {report}")
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {error}")
    return {"wrong": wrong, "times": times}


def write(index: SmartIndex, changed: list[int], end: float) -> int:
    """Replace, remove and add documents until ``end``, and return the number of writes."""
    chosen, writes = random.Random(7), 0
    while time.time() < end:
        part = chosen.sample(changed, chosen.choice([1, 10, 100]))
        index.add([Document(f"d{i}", text_of(i, chosen.randrange(9))) for i in part])
        if writes % 3 == 0:
            index.delete([f"d{i}" for i in chosen.sample(changed, 20)])
        if writes % 50 == 49:
            index.vacuum()
        writes += 1
    return writes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--readers", type=int, default=4)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--documents", type=int, default=3000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--read", type=float, help=argparse.SUPPRESS)  # this process is a reader until this time
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    kept, changed = list(range(0, arguments.documents, 2)), list(range(1, arguments.documents, 2))
    if arguments.read is not None:
        with SmartIndex.open(arguments.folder, WordEncoder()) as index:
            print(json.dumps(read(index, kept, arguments.read, arguments.seed)))
        return

    with nullcontext(arguments.folder) if arguments.folder else tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "index"
        with SmartIndex.create(folder, WordEncoder()) as index:
            index.add([Document(f"d{i}", text_of(i)) for i in range(arguments.documents)])
            end = time.time() + 60 * arguments.minutes
            command = [sys.executable, __file__, "--folder", str(folder), "--documents", str(arguments.documents)]
            readers = [
                subprocess.Popen([*command, "--read", str(end), "--seed", str(seed)], stdout=subprocess.PIPE, text=True)
                for seed in range(arguments.readers)
            ]
            found: list[dict[str, list]] = []
            threads = [
                threading.Thread(target=lambda seed=seed: found.append(read(index, kept, end, 100 + seed)))
                for seed in range(arguments.threads)
            ]
            for thread in threads:
                thread.start()
            writes = 0
            while (now := time.time()) < end:
                writes += write(index, changed, min(end, now + _REPORT_SECONDS))
                print(f"{(end - time.time()) / 60:.1f} minutes left, {writes:,} writes", file=sys.stderr, flush=True)
            for thread in threads:
                thread.join()
            for reader in readers:
                output, _ = reader.communicate()
                found.append(json.loads(output) if output else {"wrong": ["a reader has crashed"], "times": []})
            wrong = [one for part in found for one in part["wrong"]]
            wrong += [] if (report := index.verify()).sound else [f"verify at the end: {report}"]
            wrong += differences(index, Path(name) / "fresh")
    times = np.asarray([one for part in found for one in part["times"]])
    at_95, at_99 = np.percentile(times, [95, 99]).tolist()
    print(
        f"{writes:,} writes, {len(times):,} searches, {len(wrong)} wrong" + "".join(f"\n  {one:.300}" for one in wrong)
    )
    rows = {"milliseconds of a search": {**spread(times.tolist()), "95 %": at_95, "99 %": at_99}}
    show("soak", rows, ("min", "median", "95 %", "99 %", "max"))
    if arguments.json is not None:
        report_to(arguments.json, title="soak", rows=rows, writes=writes, searches=len(times), wrong=wrong)
    sys.exit(1 if wrong else 0)


def differences(index: SmartIndex, folder: Path) -> list[str]:
    """Return the searches in which ``index`` scores a document differently than a fresh index does."""
    wrong = []
    with SmartIndex.create(folder, WordEncoder()) as fresh:
        fresh.add(list(index.documents()))
        for i in range(0, 100, 7):
            for stage in ("terms", "exhaustive"):
                one, other = (
                    {hit.id: hit.score for hit in which.search(text_of(i), 10, first_stage=stage)}
                    for which in (index, fresh)
                )
                both = one.keys() & other.keys()
                if len(both) < 9 or any(abs(one[id] - other[id]) > 1e-4 for id in both):
                    wrong.append(f"{stage}: another ranking than in a fresh index for d{i}")
    return wrong


if __name__ == "__main__":
    main()

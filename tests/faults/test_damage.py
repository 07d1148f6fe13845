"""Flipped bits and truncations in every file of an index.

Each damaged copy of an index gives the answers of the intact one, or a clear error, or `verify` reports it. It never
ends the process, and never makes it wait for ever. ``SMART_RAG_FAULTS`` is the number of cases of the long test, and
``SMART_RAG_SEED`` the seed.
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import subprocess
import sys

import pytest
from helpers.word_encoder import TESTS, VocabularyEncoder

from smart_rag import Document, SmartIndex

WORDS = ["pump", "boat", "keys", "carp", "lamp", "door", "dogs", "cats", "night", "river"]
SECONDS = 30
# Files without content that matters: locks, and the number of writes.
WITHOUT_CONTENT = {"write.lock", "smart_rag.lock", "lock.mdb"}


def make(path, count):
    """Make an index of ``count`` documents. With more than 1,000, Chroma writes the files of its vectors."""
    rng = random.Random(1)
    texts = [f"{' '.join(rng.choices(WORDS, k=3))} number{i}" for i in range(count)]
    with SmartIndex.create(path, VocabularyEncoder()) as index:
        index.add([Document(f"d{i}", text, {"n": i, "half": i / 2}) for i, text in enumerate(texts)])


class Looker:
    """Another process that looks at damaged indexes. It is started again if it ends."""

    def __init__(self, intact):
        self._intact = intact
        self._process = None

    def look(self, path, file):
        """Return what the process says of the index at ``path``, whose ``file`` is damaged, or how it ended."""
        if self._process is None:
            self._start()
        return self._ask(path, "vectors" if is_of_vectors(path / file) else "other")

    def _start(self):
        program = f"import sys; sys.path[:0] = [{TESTS!r}]; from faults.damaged_index import main; main()"
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=environment,
        )
        assert self._process.stdout.readline() == "ready\n"
        self.expected = self._ask(self._intact, "intact")
        assert self.expected["sound"], self.expected
        assert not self.expected["errors"]

    def _ask(self, path, kind):
        self._process.stdin.write(json.dumps([str(path), kind]) + "\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], SECONDS)
        line = self._process.stdout.readline() if ready else ""
        if line:
            return json.loads(line)
        self._process.kill()
        words = self._process.stderr.read()[-600:]
        ended = {"ended": "hang" if not ready else self._process.wait(), "words": words}
        self.stop()
        return ended

    def stop(self):
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def files_of(folder):
    return sorted(
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file() and path.stat().st_size and path.name not in WITHOUT_CONTENT
    )


def damage(file, rng):
    """Flip a bit or cut ``file`` short. Return what was done."""
    size = file.stat().st_size
    if rng.random() < 0.3:
        length = rng.choice([0, size - 1, size // 2, size // 4096 * 4096, rng.randrange(size), size - size // 50])
        os.truncate(file, max(0, min(length, size - 1)))
        return f"cut to {file.stat().st_size} of {size}"
    count = rng.choice([1, 1, 1, 8])
    with file.open("r+b") as opened:
        # Small numbers at the start steer everything, and most bytes of a large file are values.
        places = [rng.randrange(min(size, 4096) if rng.random() < 0.2 else size) for _ in range(count)]
        bit = 1 << rng.randrange(8)
        for place in places:
            opened.seek(place)
            byte = opened.read(1)[0] ^ bit
            opened.seek(place)
            opened.write(bytes([byte]))
    return f"bit {bit} of {places} of {size}"


def is_of_vectors(file):
    """Whether a file is one of those that Chroma writes for its vectors, and reads."""
    return "-" in file.parent.name and (file.parent / "index_metadata.pickle").exists()


def fault(found, expected, must_be_reported):
    """Return what is wrong with ``found``, or None."""
    if "answers" not in found:
        return str(found)
    if must_be_reported and not found["errors"] and found["sound"]:
        return "verify does not notice it"
    wrong = [name for name, answer in found["answers"].items() if answer != expected["answers"][name]]
    return f"other answers of {wrong}, and verify is content" if wrong and found["sound"] is not False else None


def try_cases(tmp_path, sizes, cases, seed):
    """Damage copies of indexes of ``sizes`` rows. Return the faults and the counts of outcomes."""
    faults, outcomes = [], {"same": 0, "error": 0, "reported": 0}
    for size in sizes:
        intact = tmp_path / f"intact{size}"
        make(intact, size)
        copy, looker = tmp_path / "copy", Looker(tmp_path / f"reference{size}")
        shutil.copytree(intact, tmp_path / f"reference{size}")
        files = files_of(intact)
        try:
            for case in range(cases // len(sizes)):
                rng = random.Random(f"{seed} {size} {case}")
                file = files[case % len(files)]
                # A new path each time, because a process keeps its clients by path.
                damaged = copy.with_name(f"copy{size}-{case}")
                shutil.copytree(intact, damaged)
                what = damage(damaged / file, rng)
                found = looker.look(damaged, file)
                wrong = fault(found, looker.expected, is_of_vectors(damaged / file))
                if wrong:
                    faults.append(f"{size} rows, case {case}, {file}, {what}: {wrong}")
                elif found["sound"] is False:
                    outcomes["reported"] += 1
                else:
                    outcomes["error" if found["errors"] else "same"] += 1
                shutil.rmtree(damaged)
        finally:
            looker.stop()
    return faults, outcomes


def test_some_damage(tmp_path):
    """A few cases of each kind."""
    faults, _ = try_cases(tmp_path, [60], 20, seed=os.environ.get("SMART_RAG_SEED", "1"))
    assert not faults


@pytest.mark.faults
@pytest.mark.timeout(0)
def test_much_damage(tmp_path):
    cases = int(os.environ.get("SMART_RAG_FAULTS", "1000"))
    faults, outcomes = try_cases(tmp_path, [1100, 60], cases, seed=os.environ.get("SMART_RAG_SEED", "1"))
    print(outcomes)
    assert not faults, "\n".join([f"{len(faults)} of {cases}", *faults])

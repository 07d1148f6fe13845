"""Another process that has an index open, and does what a test tells it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path

from helpers.word_encoder import TESTS

WRITER = """
import sys
import textwrap
sys.path.insert(0, sys.argv[2])
from smart_rag import SmartIndex
from helpers import word_encoder
with SmartIndex.open(sys.argv[1], getattr(word_encoder, sys.argv[3])()) as index:
    print("ready", flush=True)
    for line in sys.stdin:
        exec(line)
        print("done", flush=True)
"""


class Writer:
    """Another process that has the index open and runs a line of Python at a time."""

    def __init__(self, process):
        self.process = process
        assert process.stdout.readline() == "ready\n"

    def run(self, line):
        self.start(line)
        self.wait()

    def start(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def wait(self):
        assert self.process.stdout.readline() == "done\n"


@contextlib.contextmanager
def another_process(path, encoder="WordEncoder"):
    command = [sys.executable, "-c", WRITER, str(path), TESTS, encoder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Writer(process)
        finally:
            process.kill()


def with_tests(test_file, **variables):
    """Return the environment of a new process with one thread that can import ``test_file`` and what it imports."""
    folders = (Path(TESTS).parent, TESTS, Path(test_file).parent)
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, folders)), **variables}


def python(code, *arguments):
    """Run ``code`` in a new process."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )

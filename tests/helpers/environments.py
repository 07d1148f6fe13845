"""Small LMDB environments in this process and in others; each value says which it is."""

from __future__ import annotations

import contextlib
import subprocess
import sys

from helpers.word_encoder import TESTS

from smart_rag.store.lmdb_environment import Environment

LAYOUT = b"values 1"
SMALL_MAP = 1 << 16


def opened(path, map_bytes=SMALL_MAP):
    """Return the environment at ``path``. Its first map is small, so that little data makes it grow."""
    return Environment.at(path, LAYOUT, ("values",), map_bytes)


def key(i):
    return i.to_bytes(16, "big")


def value(i, size=100):
    return bytes([i % 256]) * size


def put(environment, numbers, size=100):
    """Put a value of ``size`` bytes for each number, in one transaction."""
    numbers = list(numbers)

    def write(transaction):
        for i in numbers:
            transaction.put(key(i), value(i, size), db=environment.databases["values"])

    environment.write(write, size=len(numbers) * size)


def delete(environment, numbers):
    def write(transaction):
        for i in numbers:
            transaction.delete(key(i), db=environment.databases["values"])

    environment.write(write)


def held(environment):
    """Return all values by number."""
    with environment.read(buffers=False) as transaction:
        cursor = transaction.cursor(environment.databases["values"])
        return {int.from_bytes(name, "big"): bytes(found) for name, found in cursor}


def assert_holds(environment, numbers, size=100):
    """Assert that each number has a value of ``size`` bytes."""
    with environment.read() as transaction:
        for i in numbers:
            assert transaction.get(key(i), db=environment.databases["values"]) == value(i, size)


def map_size(environment):
    return environment._lmdb.info()["map_size"]


@contextlib.contextmanager
def released(path, **options):
    environment = opened(path, **options)
    try:
        yield environment
    finally:
        environment.release()


# A new process. It has the functions of this module, and prints its lines at once.
CHILD = f"""
import sys, threading, time
sys.path.insert(0, {TESTS!r})
from pathlib import Path
from helpers.environments import *

def say(*words):
    print(*words, flush=True)

def wait():
    sys.stdin.readline()

environment = opened(Path(sys.argv[1]))
"""


def run(path, script):
    """Run a script in another process until it ends."""
    return subprocess.run([sys.executable, "-c", CHILD + script, str(path)], capture_output=True, text=True)


@contextlib.contextmanager
def child(path, script, *arguments):
    """Yield another process that runs ``script`` on the environment at ``path``."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD + script, str(path), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def go_on(process):
    process.stdin.write("\n")
    process.stdin.flush()

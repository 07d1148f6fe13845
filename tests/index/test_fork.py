"""Forked processes: what was open in the parent raises at once in the child, and goes on working in the parent.

Each test runs a program of its own, because Python warns of a fork in a process with several threads.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from helpers.word_encoder import TESTS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

PRELUDE = """
import multiprocessing, os, signal, sys
from pathlib import Path
import numpy as np
from filelock import FileLock, Timeout

folder, tests = Path(sys.argv[1]), sys.argv[2]
sys.path.insert(0, tests)
from smart_rag import CachedEncoder, SmartEncoder, SmartIndex
from smart_rag.errors import UseAfterFork
from helpers.word_encoder import VocabularyEncoder

def forked(action):
    # Run it in a forked process, which ends as any other does; an alarm ends one that hangs.
    child = os.fork()
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        return
    signal.alarm(60)
    action()
    sys.exit()

def refused(*actions):
    for action in actions:
        try:
            action()
        except UseAfterFork as error:
            assert str(folder) in str(error) and "get_context('spawn')" in str(error), error
        else:
            raise AssertionError("not refused")

def opened():
    return SmartIndex.open(folder / "index", VocabularyEncoder())

def make():
    with SmartIndex.create(folder / "index", VocabularyEncoder()) as index:
        index.add_texts(["pump bearings", "boat keys"], ["a", "b"])

def check(index, count):
    assert index.search("bearings")[0].id == "a"
    assert index.count() == len(list(index.documents())) == count
"""


@pytest.fixture
def run(tmp_path):
    """Run a program; it and its children must end well, and say nothing."""

    def run(program, **environment):
        command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PRELUDE + program]
        result = subprocess.run(
            [*command, str(tmp_path), TESTS],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert (result.returncode, result.stderr) == (0, "")

    return run


def test_an_index_that_was_open(run):
    """The child is refused whatever it asks, and neither its closing nor its end changes anything for the parent."""
    run("""
def others_may_write():
    # A lock of another file descriptor is refused in this process as in any other.
    lock = FileLock(folder / "index" / "write.lock", timeout=0)
    try:
        with lock:
            return True
    except Timeout:
        return False

def child():
    refused(
        lambda: index.search("bearings"),
        lambda: index.search_many(["bearings"], first_stage="exhaustive"),
        lambda: index.rerank("bearings", ["a text"]),
        lambda: index.encode_queries(["bearings"]),
        lambda: index.count(),
        lambda: index.get(["a"]),
        lambda: index.documents(),
        lambda: next(documents),
        lambda: index.tokens(["a"]),
        lambda: index.info(),
        lambda: index.verify(),
        lambda: index.add_texts(["new"]),
        lambda: index.delete(["a"]),
        lambda: index.vacuum(),
        lambda: index._store.tokens.keys(),
        lambda: index._store.tokens.delete([bytes(16)]),
        opened,
        lambda: SmartIndex.create(folder / "another", VocabularyEncoder()),
    )
    assert not (folder / "another").exists()
    index.close()
    index._store.close()
    refused(index.count, opened)

make()
with opened() as index:
    index.add_texts(["carp"], ["c"])
    documents = index.documents()
    check(index, 3)
    for _ in range(2):
        forked(child)
        check(index, 3)
    assert not others_may_write()
    index.add_texts(["old keys"], ["b"])
    check(index, 3)
    assert index.verify().sound
assert others_may_write()
""")


def test_an_index_that_was_closed(run):
    """Chroma does not work in a child whose parent has ever used it, nor in a child of the child."""
    run("""
def child():
    forked(lambda: refused(opened, lambda: SmartIndex.create(folder / "another", VocabularyEncoder())))
    refused(opened)

make()
forked(child)
with opened() as index:
    check(index, 2)
""")


def test_a_fork_before_the_first_index(run):
    """Parent and children each open one of their own."""
    run("""
def count(_):
    with opened() as index:
        check(index, 2)
        return index.count()

def write():
    with opened() as index:
        index.add_texts(["carp"], ["c"])
        check(index, 3)

forked(make)
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(count, range(4)) == [2] * 4
forked(write)
with opened() as index:
    check(index, 3)
""")


def test_a_pool(run):
    """The error of a process in a pool comes whole to the parent, also from one that was given the index."""
    run("""
def count(_):
    return index.count()

def count_anew(_):
    return opened().count()

make()
with opened() as index, multiprocessing.get_context("fork").Pool(2) as pool:
    refused(lambda: pool.map(count, range(4)), lambda: pool.map(count_anew, range(4)))
    process = multiprocessing.get_context("fork").Process(target=print)
    process.start()
    process.join()
    assert process.exitcode == 0
    check(index, 2)
""")


def test_a_cached_encoder(run):
    """A child is refused what the parent has open, may open what it has closed, and ends no read of the parent's."""
    run("""
def encode(text="boat keys"):
    return encoder.encode_document([text]).tokens[0]

def refuse():
    refused(encode)
    encoder.close()
    refused(encode)

def same(text):
    np.testing.assert_allclose(encode(text), expected, atol=1e-6)

encoder = CachedEncoder(VocabularyEncoder(), folder / "cache", codec="exact")
expected = encode()
environment = encoder._stores.tokens._environment
with environment.read():
    forked(refuse)
    assert str(os.getpid()) in environment._lmdb.readers()
encode("carp")
encoder.close()
forked(lambda: (same("boat keys"), encode("new"), encoder.close()))
same("boat keys")
""")


@pytest.mark.slow
def test_an_encoder(run):
    """Torch's threads are not there in the child, which does not wait for them."""
    run(
        """
def encode():
    return encoder.encode_document(["The cat sat on the mat and looked at the dog. " * 4] * 4)

encoder = SmartEncoder("minilm", device="cpu")
expected = encode()
def child():
    np.testing.assert_allclose(encode().tokens.embeddings, expected.tokens.embeddings, atol=1e-5)
forked(child)
child()
""",
        OMP_NUM_THREADS="2",
    )


def test_an_async_rerank_in_a_forked_process(tmp_path):
    """The threads of the parent are not there, so the child has its own."""
    code = """
import asyncio
from smart_rag import arerank
from helpers.word_encoder import WordEncoder

async def work():
    return await asyncio.gather(*(arerank("keys", ["cats", "keys"], WordEncoder(), 1) for _ in range(16)))

def action():
    assert {hits[0].text for hits in asyncio.run(work())} == {"keys"}

action()
forked(action)
"""
    subprocess.run([sys.executable, "-c", PRELUDE + code, str(tmp_path), TESTS], check=True)

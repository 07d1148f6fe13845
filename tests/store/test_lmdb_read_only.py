"""LMDB environments that this user can only read. Another user may write to them at the same time."""

from __future__ import annotations

import os
import shutil
from textwrap import dedent

import pytest
from helpers.environments import assert_holds, opened, put
from helpers.other_users import NOBODY, open_folder, run_as, start_as

READER = """
from pathlib import Path
from helpers.environments import *
environment = opened(Path(path))
say("registers" if environment._registers else "does not register")
"""


@pytest.fixture
def environment():
    folder = open_folder()
    environment = opened(folder / "store")
    put(environment, range(100))
    yield environment
    environment.release()
    shutil.rmtree(folder)


def test_reading_and_writing(environment):
    code = """
    assert_holds(environment, range(100))
    try:
        put(environment, [100])
    except errors.IndexReadOnly as error:
        say(error)
    """
    before = sorted(os.listdir(environment._path))
    printed = run_as(NOBODY, environment._path, READER + dedent(code))
    assert printed == f"does not register\n{environment._path}: this user cannot write to the store\n"
    assert sorted(os.listdir(environment._path)) == before
    assert_holds(environment, range(100))


def test_a_reader_that_may_lock(environment):
    """With the permission to write to the lock file, a reader registers, and its pages stay."""
    (environment._path / "lock.mdb").chmod(0o666)
    code = """
    with environment.read() as transaction:
        say("reading")
        sys.stdin.readline()
        for i in range(100):
            assert transaction.get(key(i), db=environment.databases["values"]) == value(i)
    say("unchanged")
    """
    with start_as(NOBODY, environment._path, READER + dedent(code)) as reader:
        assert reader.stdout.readline() == "registers\n"
        assert reader.stdout.readline() == "reading\n"
        for size in range(1, 20):
            put(environment, range(100), size=size)
        reader.stdin.write("\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == "unchanged\n"


def test_pages_that_a_writer_may_have_changed(environment):
    """A read that one commit overtakes stays valid. After two commits, it is repeated."""
    code = """
    from smart_rag.store.lmdb_environment import repeated
    calls = 0

    @repeated
    def read(_):
        global calls
        calls += 1
        with environment.read() as transaction:
            first = bytes(transaction.get(key(1), db=environment.databases["values"]))
            say("reading")
            sys.stdin.readline()
            raw = [transaction.get(key(i), db=environment.databases["values"]) for i in range(100)]
            assert calls == 1 or [bytes(found) for found in raw] == [value(i, len(first)) for i in range(100)]
            return len(first)

    for _ in range(2):
        calls = 0
        size = read(None)
        say(calls, size)
    """

    with start_as(NOBODY, environment._path, READER + dedent(code)) as reader:

        def go_on():
            reader.stdin.write("\n")
            reader.stdin.flush()
            return reader.stdout.readline()

        assert reader.stdout.readline() == "does not register\n"
        assert reader.stdout.readline() == "reading\n"
        put(environment, range(100), size=50)
        assert go_on() == "1 100\n"  # what it began to read
        assert reader.stdout.readline() == "reading\n"
        put(environment, range(100), size=60)
        put(environment, range(100), size=70)
        assert go_on() == "reading\n"
        assert go_on() == "2 70\n"

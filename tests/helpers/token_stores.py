"""Token stores whose entries say which they are, and access to their bytes on disk."""

from __future__ import annotations

import contextlib
import struct

import lmdb
import numpy as np

from smart_rag.embeddings.tokens import TokenBatch

HEADER = struct.Struct("<16sI")
LOCATION = struct.Struct("<IIIIHHQ")


def key(i):
    return i.to_bytes(16, "big")


def tokens_of(i, n=3, dimension=8):
    """Return token embeddings (n, dimension) float16 that are all the number i."""
    return np.full((n, dimension), i % 1024, dtype=np.float16)


def put(store, numbers, n=3):
    """Put n tokens of each number under its key."""
    numbers = list(numbers)
    store.put([key(i) for i in numbers], TokenBatch.from_list([tokens_of(i, n) for i in numbers]))


def assert_holds(store, numbers, n=3):
    """Assert that the store has n tokens of each number under its key."""
    numbers = list(numbers)
    for i, found in zip(numbers, store.gather([key(i) for i in numbers]), strict=True):
        np.testing.assert_array_equal(found, tokens_of(i, n))


@contextlib.contextmanager
def raw(path):
    """Yield a transaction on a closed store, and its databases by name."""
    environment = lmdb.open(str(path), max_dbs=3)
    try:
        databases = {name: environment.open_db(name.encode()) for name in ("places", "segments", "usage")}
        with environment.begin(write=True) as transaction:
            yield transaction, databases
    finally:
        environment.close()


def contents(path):
    """Return the contents of each database of a closed store, as dicts of bytes."""
    with raw(path) as (transaction, databases):
        return {name: dict(transaction.cursor(database)) for name, database in databases.items()}


def contents_of_open(store):
    """Return the contents of each database of an open store, as dicts of bytes."""
    environment = store._environment
    with environment.read(buffers=False) as transaction:
        return {name: dict(transaction.cursor(database)) for name, database in environment.databases.items()}


def damage(path, name, key, change):
    """Replace a value of the database ``name`` of a closed store by ``change(value)``; None removes it."""
    with raw(path) as (transaction, databases):
        value = change(transaction.get(key, db=databases[name]))
        if value is None:
            assert transaction.delete(key, db=databases[name])
        else:
            assert transaction.put(key, value, db=databases[name])


def flipped(position):
    """Return a function that flips a bit of the byte at ``position``."""
    return lambda value: value[:position] + bytes([value[position] ^ 1]) + value[position + 1 :]


def assert_packed(store):
    """Assert that the three databases agree, that each segment is 3/4 live, and that only the last one is short.

    So the segments take no more of the disk than docs/format.md says. Return the number of segments.
    """
    environment = store._environment
    found = contents_of_open(store)
    with environment.read() as transaction:
        stat = transaction.stat(environment.databases["segments"])
    live, tokens = dict.fromkeys(found["segments"], 0), dict.fromkeys(found["segments"], 0)
    for entry, value in found["places"].items():
        number, offset, length, count, *_ = LOCATION.unpack(value)
        segment = number.to_bytes(4, "big")
        assert HEADER.unpack_from(found["segments"][segment], offset) == (entry, length)
        live[segment] += HEADER.size + length
        tokens[segment] += count
    assert {number: struct.unpack("<QQQ", value) for number, value in found["usage"].items()} == {
        number: (len(segment), live[number], tokens[number]) for number, segment in found["segments"].items()
    }
    for number, segment in found["segments"].items():
        assert 3 / 4 * len(segment) <= live[number]
    full = store._segments.segment_bytes
    assert all(len(found["segments"][number]) >= full for number in sorted(found["segments"])[:-1])
    total = sum(live.values())
    assert 4096 * stat["overflow_pages"] <= 4 / 3 * total + 4112 * (4 / 3 * total / full + 1)
    return len(found["segments"])

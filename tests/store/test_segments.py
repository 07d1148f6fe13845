"""`Segments`: how entries are packed, how much of the disk they take, and what damage does."""

import contextlib
import os

import numpy as np
import pytest
from helpers.token_stores import (
    HEADER,
    assert_holds,
    assert_packed,
    contents_of_open,
    damage,
    flipped,
    key,
    put,
    tokens_of,
)

from smart_rag.embeddings.codec import get_codec
from smart_rag.embeddings.tokens import TokenBatch
from smart_rag.store.lmdb_environment import Environment
from smart_rag.store.segments import DATABASES, LAYOUT, Entry, EntryLocation, Segments
from smart_rag.store.token_store import StoreStats, TokenStore


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tokens"


def opened(path, segment_bytes=1000):
    """Return a token store, to be closed by ``with``."""
    return contextlib.closing(TokenStore(path, get_codec("float16"), segment_bytes))


def segment_numbers(store):
    return [int.from_bytes(number, "big") for number in contents_of_open(store)["segments"]]


@pytest.fixture
def segments(path):
    """Segments of 60 bytes in an environment, and functions that run a call in a transaction."""
    environment = Environment.at(path, LAYOUT, DATABASES)
    yield Segments(environment.databases, 60), environment
    environment.release()


def test_entries_are_located_read_and_removed(segments):
    """Locations have the order of the keys, codes that of the disk; both say what was added."""
    segments, environment = segments
    entries = {key(i): Entry(bytes([i]) * 10 * i, i, 5, 7) for i in (3, 1, 2)}
    environment.write(lambda transaction: segments.update(transaction, [], entries))
    with environment.read() as transaction:
        assert (segments.count(transaction), segments.tokens(transaction)) == (3, 6)
        assert segments.keys(transaction) == [key(1), key(2), key(3)]
        assert segments.missing(transaction, [key(9), key(1), key(8)]) == [0, 2]
        locations = segments.locate(transaction, [key(1), key(9), key(2), key(3)])
        found = [EntryLocation(*location.tolist()[:-1]) for location in locations]
        # Entry 3 takes 50 bytes and entry 1 takes 30: together they fill the first segment.
        assert [location[:6] for location in found] == [(0, 50, 10, 1, 5, 7), (1, 0, 20, 2, 5, 7), (0, 0, 30, 3, 5, 7)]
        codes = [(i, bytes(codes)) for i, codes in segments.read(transaction, locations)]
        assert codes == [(2, b"\3" * 30), (0, b"\1" * 10), (1, b"\2" * 20)]
    removed = []
    environment.write(lambda transaction: removed.append(segments.update(transaction, [key(1), key(9)], {})))
    assert removed == [1]
    with environment.read() as transaction:
        # The rest of segment 0 moved; its checksum did not change.
        (moved,) = segments.locate(transaction, [key(3)])
        assert (int(moved["segment"]), int(moved["checksum"])) == (1, found[2].checksum)
        assert (segments.count(transaction), segments.tokens(transaction)) == (2, 5)


def test_the_disk_use_of_documents_that_come_and_go(path):
    """Documents are put, replaced and deleted one by one: there are few gaps, and freed pages are used again."""
    rng = np.random.default_rng(0)
    held = dict.fromkeys(range(200), 20)
    with opened(path, 1 << 14) as store:
        put(store, held, 20)
        first = os.path.getsize(path / "data.mdb")
        segment_counts = []
        for _ in range(150):
            i, n = int(rng.integers(200)), int(rng.integers(1, 60))
            if held.pop(i, None) and n % 3 == 0:
                assert store.delete([key(i)]) == 1
            else:
                put(store, [i], n)
                held[i] = n
            segment_counts.append(assert_packed(store))
        for i, n in held.items():
            assert_holds(store, [i], n)
        assert min(segment_counts) >= 3
        assert os.path.getsize(path / "data.mdb") < 4 * first
        assert store.vacuum([]) == len(held)
        assert assert_packed(store) == 0
        assert store.stats() == StoreStats(0, 0, 4096)


def test_small_puts_fill_a_segment(path):
    """Documents that are put one by one take as little of the disk as documents in one call."""
    texts = [tokens_of(i, 160, 48) for i in range(100)]
    with contextlib.closing(TokenStore(path, get_codec("float16"))) as store:
        for i, text in enumerate(texts):
            store.put([key(i)], TokenBatch.from_list([text]))
        assert store.stats().used_bytes < 1.03 * 100 * 160 * 96
        assert assert_packed(store) == 6


def test_a_sparse_last_segment_is_rewritten(path):
    """Its live entries move to a new segment, which also takes the next entries."""
    with opened(path, 1 << 18) as store:
        put(store, range(10))
        assert store.delete([key(i) for i in range(8)]) == 8
        assert_holds(store, [8, 9])
        assert segment_numbers(store) == [1]
        put(store, [9, 10], n=30)
        assert_holds(store, [8])
        assert_holds(store, [9, 10], n=30)
        assert assert_packed(store) == 1


def test_texts_longer_than_a_segment(path):
    """A long text makes its segment as long as it needs; the next text begins another."""
    with opened(path) as store:
        for i, n in enumerate([1, 500, 1, 1, 700, 700]):
            put(store, [i], n)
        assert assert_packed(store) == 3
        assert store.delete([key(1), key(4)]) == 2
        assert assert_packed(store) == 2
        assert_holds(store, [0, 2, 3], 1)
        assert_holds(store, [5], 700)


@pytest.mark.parametrize("change", [lambda value: None, lambda value: b""], ids=["removed", "empty"])
@pytest.mark.parametrize(
    ("name", "number", "lost"),
    [("segments", 0, [1, 2]), ("segments", 2, [5]), ("usage", 0, []), ("usage", 2, [])],
)
def test_a_lost_segment_or_usage(path, name, number, lost, change):
    """Without a segment, its entries are listed and can be put again. Without a usage, all entries can be read."""
    with opened(path, 100) as store:
        put(store, range(1, 6))
    damage(path, name, number.to_bytes(4, "big"), change)
    with opened(path, 100) as store:
        assert store.verify() == [key(i) for i in lost]
        assert_holds(store, {1, 2, 3, 4, 5} - set(lost))
        put(store, [6])
        put(store, [1, *lost], n=4)
        put(store, [3, 4, 6])
        put(store, [*lost])
        assert_holds(store, range(2, 7))
        assert store.verify() == []


@pytest.mark.parametrize("position", [5, 16, 18])
def test_a_damaged_header_loses_no_neighbour(path, position):
    """A segment in which the key or the length of one entry is damaged is rewritten like any other."""
    with opened(path) as store:
        put(store, range(30))
    damage(path, "segments", bytes(4), flipped(position + 2 * (HEADER.size + 48)))
    with opened(path) as store:
        store.delete([key(0), key(1), key(4), key(5), key(8)])
        assert 0 not in segment_numbers(store)
        # The location knows the key and the length, so the entry is whole again.
        assert store.verify() == []
        assert_holds(store, [2, 3, 6, 7, *range(9, 30)])


def test_a_damaged_entry_that_moves_stays_damaged(path):
    """An entry keeps its checksum when its segment is rewritten, so that damage can still be found."""
    with opened(path) as store:
        put(store, range(30))
    damage(path, "segments", bytes(4), flipped(2 * (HEADER.size + 48) + HEADER.size))
    with opened(path) as store:
        store.delete([key(0), key(1), key(4), key(5), key(8)])
        assert 0 not in segment_numbers(store)
        assert store.verify() == [key(2)]

"""The token store on real LMDB: against a dict, under threads, other processes, kills and full disks."""

import contextlib
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time

import lmdb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from smart_rag.embeddings.codec import get_codec
from smart_rag.embeddings.representation import TokenBatch, TokenCodes
from smart_rag.embeddings.token_pooling import pool_tokens
from smart_rag.errors import (
    CorruptStore,
    DimensionMismatch,
    IndexClosed,
    IndexMismatch,
    InvalidInput,
    MissingTokens,
    StorageFull,
)
from smart_rag.store import lmdb_environment, segments
from smart_rag.store.token_store import StoreStats, TokenStore, content_key

FLOAT16 = get_codec("float16")
# Two tokens of three dimensions in float16, and the record that holds them.
TOKENS = np.float16([[1, -2, 0.5], [0, 65504, -0.25]])
GOLDEN_KEY = "a955a181f82fbc2fefa4479dc901c740"
GOLDEN_CODES = "003c00c00038" + "0000ff7b00b4"
GOLDEN_ENTRY = GOLDEN_KEY + "0c000000" + GOLDEN_CODES
GOLDEN_HEADER = "0c000000" + "02000000" + "0300" + "0200" + "6b14bb47276a1c3f"
GOLDEN_PLACE = "00000000" + "00000000" + GOLDEN_HEADER
GOLDEN_USAGE = "2000000000000000" + "2000000000000000" + "0200000000000000"
FRAME = struct.Struct("<16sI")
PLACE = struct.Struct("<IIIIHHQ")
# What a new process needs; it prints its lines as they come.
CHILD = """
import sys
import numpy as np
from smart_rag import lmdb_environment
from smart_rag.embeddings.codec import get_codec
from smart_rag.store.token_store import TokenStore
from smart_rag.embeddings.representation import TokenBatch, TokenCodes

def key(i):
    return i.to_bytes(16, "big")

def say(*words):
    print(*words, flush=True)

lmdb_environment._FIRST_MAP_BYTES = 1 << 16
store = TokenStore(sys.argv[1], get_codec("float16"))
"""


def key(i):
    return i.to_bytes(16, "big")


def tokens_of(i, n=3, dimension=8):
    """Return token embeddings that say whose they are."""
    return np.full((n, dimension), i % 1024, dtype=np.float16)


def put(store, numbers, n=3):
    numbers = list(numbers)
    store.put([key(i) for i in numbers], TokenBatch.from_list([tokens_of(i, n) for i in numbers]))


def assert_holds(store, numbers, n=3):
    """Assert that the store has exactly the tokens of each number."""
    numbers = list(numbers)
    for i, found in zip(numbers, store.gather([key(i) for i in numbers]), strict=True):
        np.testing.assert_array_equal(found, tokens_of(i, n))


@contextlib.contextmanager
def raw(path):
    """Yield a transaction on what LMDB holds of a store that nobody has open, and its databases by name."""
    environment = lmdb.open(str(path), max_dbs=3)
    try:
        databases = {name: environment.open_db(name.encode()) for name in ("places", "segments", "usage")}
        with environment.begin(write=True) as transaction:
            yield transaction, databases
    finally:
        environment.close()


def contents(path):
    """Return what each database holds, as dicts of bytes."""
    with raw(path) as (transaction, databases):
        return {name: dict(transaction.cursor(database)) for name, database in databases.items()}


def damage(path, name, key, change):
    """Replace one value of the database ``name`` by ``change`` of it; None removes it."""
    with raw(path) as (transaction, databases):
        value = change(transaction.get(key, db=databases[name]))
        if value is None:
            assert transaction.delete(key, db=databases[name])
        else:
            assert transaction.put(key, value, db=databases[name])


def flipped(position):
    """Return what flips a bit of one byte."""
    return lambda value: value[:position] + bytes([value[position] ^ 1]) + value[position + 1 :]


@contextlib.contextmanager
def child(path, script, *arguments):
    """Yield another process that runs ``script`` on the store at ``path``."""
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


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tokens"


@pytest.fixture
def store(path):
    with contextlib.closing(TokenStore(path, FLOAT16)) as store:
        yield store


@pytest.fixture
def small_map(monkeypatch):
    """A first map of 64 KiB, so that little data makes it grow."""
    monkeypatch.setattr(lmdb_environment, "_FIRST_MAP_BYTES", 1 << 16)


def in_threads(*actions):
    """Run the actions in threads and raise what the first that failed raised."""
    errors = []

    def run(action):
        try:
            action()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(action,), daemon=True) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


# --- keys and bytes -----------------------------------------------------------------------


def test_golden_keys():
    """Keys are on users' disks: they never change."""
    assert content_key("fp", "float16", "hello").hex() == GOLDEN_KEY
    assert content_key("fp", "float16", "é😀").hex() == "e66c87d44c0d769575a01012fbf22b26"
    assert content_key("fp", "float16", "").hex() == "78610600d2cd02c7ef7f32ce60721c6c"


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=20), st.text(max_size=20))
def test_keys_tell_contents_apart(one, two):
    """Equal contents have equal keys, as text or as bytes; others do not."""
    first = content_key("fp", "float16", one)
    assert first == content_key("fp", "float16", one.encode("utf-8"))
    assert len(first) == 16
    assert (first == content_key("fp", "float16", two)) == (one == two)


def test_keys_tell_encoders_and_codecs_apart():
    """Another fingerprint or codec is another key, and no part runs into the next."""
    parts = [("a", "b", "c"), ("x", "b", "c"), ("a", "x", "c"), ("a", "b", "x"), ("ab", "", "c"), ("a", "", "bc")]
    assert len({content_key(*part) for part in parts}) == len(parts)


def test_a_lone_surrogate_has_a_key():
    """Text that no encoding can write still has a key of its own."""
    assert content_key("fp", "float16", "\ud800") != content_key("fp", "float16", "\ud801")


def test_golden_record(store, path):
    """The record of a known matrix is these bytes, in a segment of these."""
    store.put([bytes.fromhex(GOLDEN_KEY)], TokenBatch.from_list([TOKENS]))
    store.close()
    assert contents(path) == {
        "places": {bytes.fromhex(GOLDEN_KEY): bytes.fromhex(GOLDEN_PLACE)},
        "segments": {bytes(4): bytes.fromhex(GOLDEN_ENTRY)},
        "usage": {bytes(4): bytes.fromhex(GOLDEN_USAGE)},
    }
    with raw(path) as (transaction, _):
        assert {k for k, _ in transaction.cursor()} == {b"layout", b"places", b"segments", b"usage"}
        assert transaction.get(b"layout") == b"2"


def test_golden_segments_can_be_read(path):
    """These bytes can be read for ever, from any segment and place."""
    path.mkdir()
    with raw(path) as (transaction, databases):
        transaction.put(b"layout", b"2")
        for name, entries in {
            "segments": {"00000102": "ff" * 300 + GOLDEN_ENTRY},
            "places": {GOLDEN_KEY: "02010000" + "2c010000" + GOLDEN_HEADER},
            "usage": {"00000102": "4c01000000000000" + "2000000000000000" + "0200000000000000"},
        }.items():
            for k, value in entries.items():
                transaction.put(bytes.fromhex(k), bytes.fromhex(value), db=databases[name])
    with contextlib.closing(TokenStore(path, FLOAT16)) as store:
        np.testing.assert_array_equal(store.gather([bytes.fromhex(GOLDEN_KEY)])[0], TOKENS)
        assert (store.stats().entries, store.stats().tokens, store.verify()) == (1, 2, [])
        put(store, [1])
        assert_holds(store, [1])
    assert set(contents(path)["segments"]) == {bytes.fromhex("00000102")}


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({bytes.fromhex(GOLDEN_KEY): bytes(28)}, "layout 1, this"),
        ({b"layout": b"3"}, "layout 3, this"),
    ],
)
def test_another_layout_is_refused(path, values, found):
    """What an older or newer smart_rag wrote is not read and not touched; the way out is named."""
    path.mkdir()
    with contextlib.closing(lmdb.open(str(path))) as environment:
        with environment.begin(write=True) as transaction:
            for k, value in values.items():
                transaction.put(k, value)
        message = f"{found} smart_rag reads and writes layout 2; index the documents again into another folder"
    for _ in range(2):
        with pytest.raises(IndexMismatch, match=message):
            TokenStore(path, FLOAT16)
    with contextlib.closing(lmdb.open(str(path))) as environment, environment.begin() as transaction:
        assert dict(transaction.cursor()) == values


# --- what it does -------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "expected"), [("float16", np.float16), ("float32", np.float32)])
def test_gather_gives_ragged_texts_in_the_order_asked(path, name, expected):
    """Texts come back in any order, repeated where asked for, in the codec's precision."""
    rng = np.random.default_rng(0)
    texts = [rng.standard_normal((n, 5)).astype(np.float32) for n in (1, 7, 2)]
    with contextlib.closing(TokenStore(path, get_codec(name))) as store:
        store.put([key(i) for i in range(3)], TokenBatch.from_list(texts))
        batch = store.gather([key(i) for i in (2, 0, 2, 1)])
    assert batch.embeddings.dtype == expected
    assert batch.embeddings.flags.c_contiguous
    for found, i in zip(batch, (2, 0, 2, 1), strict=True):
        np.testing.assert_array_equal(found, texts[i].astype(expected))


def test_gather_of_nothing(store):
    """No keys give no texts."""
    assert len(store.gather([])) == 0


def test_gather_owns_its_memory(store):
    """What was gathered stays as it was when the store moves on."""
    put(store, [1])
    gathered = store.gather([key(1)])
    store.put([key(1)], TokenBatch.from_list([tokens_of(5)]))
    np.testing.assert_array_equal(store.gather([key(1)])[0], tokens_of(5))
    store.close()
    np.testing.assert_array_equal(gathered[0], tokens_of(1))
    assert gathered.embeddings.flags.writeable


@pytest.mark.parametrize("name", ["int8", "4bit", "2bit", "1bit", "2bit/2", "float16/3"])
def test_codes_of_ragged_texts(path, name):
    """What is gathered is what the codec makes of each text, pooled where it pools, and decoded when asked for."""
    rng = np.random.default_rng(0)
    texts = [rng.standard_normal((n, 25)) for n in (1, 7, 2)]
    texts = [(text / np.linalg.norm(text, axis=1, keepdims=True)).astype(np.float32) for text in texts]
    found = get_codec(name)
    with contextlib.closing(TokenStore(path, found)) as store:
        store.put([key(i) for i in range(3)], TokenBatch.from_list(texts))
        gathered = store.gather([key(i) for i in (2, 0, 2, 1)])
        assert store.stats().tokens == sum(-(-n // found.pool_factor) for n in (1, 7, 2))
    assert (len(gathered), gathered.dimension, gathered.codec) == (4, 25, found)
    pooled = pool_tokens(TokenBatch.from_list(texts), found.pool_factor)
    expected = [found.encode(pooled[i]) for i in (2, 0, 2, 1)]
    np.testing.assert_array_equal(gathered.codes, np.concatenate(expected))
    decoded = gathered.decode()
    for i, codes in enumerate(expected):
        # The last bit of a matrix product depends on the processor, and on how many rows there are.
        tokens = found.decode(codes, 25)
        np.testing.assert_allclose(gathered[i], tokens, rtol=0, atol=1e-6)
        np.testing.assert_allclose(decoded[i], tokens, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(gathered.embeddings, decoded.embeddings)


@pytest.mark.parametrize("name", ["2bit", "2bit/2", "float16"])
def test_slices_and_items_of_codes(path, name):
    """A slice is of whole texts and shares memory; an item counts from either end."""
    with contextlib.closing(TokenStore(path, get_codec(name))) as store:
        rng = np.random.default_rng(1)
        texts = [np.eye(8, dtype=np.float32)[rng.permutation(8)[:n]] for n in (3, 1, 5, 2)]
        store.put([key(i) for i in range(4)], TokenBatch.from_list(texts))
        gathered = store.gather([key(i) for i in range(4)])
    for start, stop in ((0, 4), (1, 3), (3, 4), (2, 2)):
        part = gathered.slice(start, stop)
        assert len(part) == stop - start
        assert part.offsets[0] == 0
        assert np.shares_memory(part.codes, gathered.codes) or start == stop
        for i, tokens in enumerate(part):
            np.testing.assert_array_equal(tokens, gathered[start + i])
    np.testing.assert_array_equal(gathered[-1], gathered[3])
    for i in (4, -5):
        with pytest.raises(IndexError):
            gathered[i]


@pytest.mark.parametrize("name", ["float16", "2bit", "2bit/2"])
def test_nothing_is_put_and_gathered(path, name):
    """No texts are no error, whatever the codec."""
    with contextlib.closing(TokenStore(path, get_codec(name))) as store:
        store.put([], TokenBatch.from_list([]))
        assert len(store) == 0
        nothing = store.gather([])
        assert (len(nothing), len(nothing.embeddings), list(nothing)) == (0, 0, [])


def test_a_pool_factor_is_no_part_of_the_layout(path):
    """Entries of one layout can be read whatever the factor they were made with; their keys tell them apart."""
    with contextlib.closing(TokenStore(path, get_codec("2bit/2"))) as store:
        store.put([key(1)], TokenBatch.from_list([np.eye(8, dtype=np.float32)]))
        with contextlib.closing(TokenStore(path, get_codec("2bit"))) as other:
            np.testing.assert_array_equal(other.gather([key(1)]).codes, store.gather([key(1)]).codes)
    assert content_key("fp", "2bit", "text") != content_key("fp", "2bit/2", "text")


def test_too_wide_is_refused_before_it_is_encoded(path):
    """A rotation of that width would fill the memory."""
    wide = TokenBatch.from_list([np.ones((1, 1 << 16), dtype=np.float32)])
    with (
        contextlib.closing(TokenStore(path, get_codec("2bit"))) as store,
        pytest.raises(InvalidInput, match="65536 dimensions"),
    ):
        store.put([key(1)], wide)


def test_missing_tokens_are_all_named(store):
    """Every absent document is named, by its id where ids are given."""
    put(store, [1, 2])
    keys = [key(i) for i in (1, 8, 2, 9)]
    assert store.missing(keys) == [1, 3]
    message = "no token embeddings for 2 of 4 documents, the first is 'h'"
    with pytest.raises(MissingTokens, match=message) as error:
        store.gather(keys, ["a", "h", "b", "i"])
    assert error.value.ids == ("h", "i")
    with pytest.raises(MissingTokens, match=f"the first is '{key(8).hex()}'") as error:
        store.gather(keys)
    assert error.value.ids == (key(8).hex(), key(9).hex())


def test_put_replaces(store):
    """What a key held before is gone, and nothing else is."""
    put(store, [1, 2])
    store.put([key(1)], TokenBatch.from_list([tokens_of(7, n=4)]))
    np.testing.assert_array_equal(store.gather([key(1)])[0], tokens_of(7, n=4))
    assert_holds(store, [2])
    assert len(store) == 2


def test_put_of_one_key_twice(store):
    """Equal contents in one call are written once."""
    put(store, [1, 2, 1])
    assert len(store) == 2
    assert_holds(store, [1, 2])


def test_put_of_one_key_twice_keeps_the_last(store):
    """Of two texts under one key in one call the later one stays."""
    for i in range(8):
        store.put([key(1), key(1)], TokenBatch.from_list([tokens_of(i), tokens_of(i + 1)]))
        np.testing.assert_array_equal(store.gather([key(1)])[0], tokens_of(i + 1))


def test_put_wants_a_key_for_each_text(store):
    """Keys and texts are as many; nothing is written otherwise."""
    with pytest.raises(InvalidInput, match="2 keys for 1 texts"):
        store.put([key(1), key(2)], TokenBatch.from_list([tokens_of(1)]))
    assert len(store) == 0


def test_put_of_a_dimension_that_no_record_holds(store):
    """A record's dimension has 16 bits; more is refused in our words."""
    with pytest.raises(InvalidInput, match="70000"):
        store.put([key(1)], TokenBatch.from_list([np.ones((1, 70_000), np.float16)]))


def test_gather_of_different_widths(store):
    """Texts of different widths make no batch."""
    store.put([key(1)], TokenBatch.from_list([tokens_of(1, dimension=3)]))
    store.put([key(2)], TokenBatch.from_list([tokens_of(2, dimension=5)]))
    with pytest.raises(DimensionMismatch, match=r"different widths: \[3, 5\]"):
        store.gather([key(1), key(2)])


def test_delete_and_vacuum(store):
    """Both remove what they are told and count what was there."""
    put(store, range(6))
    assert store.delete([key(0), key(0), key(9)]) == 1
    assert store.delete(key(i) for i in [1]) == 1
    assert store.delete([]) == 0
    assert store.vacuum({key(2), key(3), key(77)}) == 2
    assert sorted(store.keys()) == [key(2), key(3)]
    assert store.vacuum([]) == 2
    assert len(store) == 0


def test_contains_len_keys_and_stats(store):
    """The counts follow what was written."""
    # One page says which databases there are; each that is not empty takes one more, at least.
    assert (len(store), list(store.keys()), store.stats()) == (0, [], StoreStats(0, 0, 4096))
    store.put([key(2), key(1)], TokenBatch.from_list([tokens_of(2, 4), tokens_of(1, 3)]))
    assert key(1) in store
    assert key(3) not in store
    assert list(store.keys()) == [key(1), key(2)]
    stats = store.stats()
    assert (stats.entries, stats.tokens, stats.used_bytes) == (2, 7, 4 * 4096)
    put(store, range(10, 20), n=500)
    stats = store.stats()
    assert (stats.entries, stats.tokens) == (12, 5007)
    assert 80_160 < stats.used_bytes < 80_160 + 5 * 4096


def test_keys_are_those_of_the_call(store):
    """A key that comes after the call is not among them."""
    put(store, [1])
    keys = store.keys()
    put(store, [2])
    assert list(keys) == [key(1)]


# Hundreds of transactions, each of which waits for the disk, unless there is none.
MEMORY = "/dev/shm"
KEYS = st.sampled_from([key(i) for i in range(8)])


def assert_packed(store):
    """Assert that segments, places and usage agree, that no segment is too empty, and that only the last one is short.

    So the segments take no more than docs/format.md says, whatever was put and removed.
    """
    environment = store._environment
    with environment.read() as transaction:
        found = {
            name: {bytes(key): bytes(value) for key, value in transaction.cursor(database)}
            for name, database in environment.databases.items()
        }
        stat = transaction.stat(environment.databases["segments"])
    places = {key: PLACE.unpack(value) for key, value in found["places"].items()}
    alive, tokens = dict.fromkeys(found["segments"], 0), dict.fromkeys(found["segments"], 0)
    for key, (number, offset, length, count, *_) in places.items():
        segment = number.to_bytes(4, "big")
        assert FRAME.unpack_from(found["segments"][segment], offset) == (key, length)
        alive[segment] += FRAME.size + length
        tokens[segment] += count
    assert {number: struct.unpack("<QQQ", value) for number, value in found["usage"].items()} == {
        number: (len(segment), alive[number], tokens[number]) for number, segment in found["segments"].items()
    }
    for number, segment in found["segments"].items():
        assert 3 / 4 * len(segment) <= alive[number]
    assert all(len(found["segments"][number]) >= segments.SEGMENT_BYTES for number in sorted(found["segments"])[:-1])
    living = sum(alive.values())
    bound = 4 / 3 * living + 4112 * (4 / 3 * living / segments.SEGMENT_BYTES + 1)
    assert 4096 * stat["overflow_pages"] <= bound
    return len(found["segments"])


class StoreMachine(RuleBasedStateMachine):
    """A store that does what a dict does, through any number of reopenings, with short segments and long ones."""

    @initialize(segment=st.sampled_from([1, 300, 2_000, segments.SEGMENT_BYTES]))
    def begin(self, segment):
        self.segment_bytes, segments.SEGMENT_BYTES = segments.SEGMENT_BYTES, segment
        self.folder = tempfile.mkdtemp(dir=MEMORY if os.path.isdir(MEMORY) else None)
        self.model = {}
        self.store = TokenStore(self.folder, FLOAT16)

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.folder)
            segments.SEGMENT_BYTES = self.segment_bytes

    @rule(
        texts=st.dictionaries(KEYS, st.tuples(st.integers(0, 9), st.integers(1, 300)), max_size=5),
        dimension=st.sampled_from([1, 3]),
    )
    def put(self, texts, dimension):
        made = {key: tokens_of(i, n, dimension) for key, (i, n) in texts.items()}
        self.store.put(list(made), TokenBatch.from_list(list(made.values())))
        self.model.update(made)

    @rule(keys=st.lists(KEYS, max_size=4))
    def delete(self, keys):
        assert self.store.delete(keys) == len(self.model.keys() & set(keys))
        for key in keys:
            self.model.pop(key, None)

    @rule(keys=st.sets(KEYS, min_size=5))
    def vacuum(self, keys):
        assert self.store.vacuum(keys) == len(self.model.keys() - keys)
        self.model = {key: value for key, value in self.model.items() if key in keys}

    @rule(keys=st.lists(KEYS, max_size=6))
    def gather(self, keys):
        absent = [i for i, key in enumerate(keys) if key not in self.model]
        assert self.store.missing(keys) == absent
        if absent:
            with pytest.raises(MissingTokens, match=f"for {len(absent)} of {len(keys)} documents") as error:
                self.store.gather(keys)
            assert error.value.ids == tuple(keys[i].hex() for i in absent)
        elif len({self.model[key].shape[1] for key in keys}) > 1:
            with pytest.raises(DimensionMismatch, match="different widths"):
                self.store.gather(keys)
        else:
            batch = self.store.gather(keys)
            assert len(batch) == len(keys)
            for found, key in zip(batch, keys, strict=True):
                np.testing.assert_array_equal(found, self.model[key])

    @rule()
    def gather_all_that_is_there(self):
        for dimension in (1, 3):
            keys = [key for key, tokens in self.model.items() if tokens.shape[1] == dimension]
            for found, key in zip(self.store.gather(keys), keys, strict=True):
                np.testing.assert_array_equal(found, self.model[key])

    @rule()
    def reopen(self):
        self.store.close()
        self.store = TokenStore(self.folder, FLOAT16)

    @rule()
    def count_and_verify(self):
        stats = self.store.stats()
        assert (stats.entries, stats.tokens) == (len(self.model), sum(map(len, self.model.values())))
        assert self.store.verify() == []

    @invariant()
    def same_keys(self):
        if hasattr(self, "store"):
            assert list(self.store.keys()) == sorted(self.model)
            assert len(self.store) == len(self.model)
            assert all(key in self.store for key in self.model)

    @invariant()
    def packed(self):
        if hasattr(self, "store"):
            assert_packed(self.store)


StoreMachine.TestCase.settings = settings(
    max_examples=35, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestStoreMachine = StoreMachine.TestCase


def test_the_disk_use_of_documents_that_come_and_go(path, monkeypatch):
    """Hundreds of documents put, replaced and deleted one by one leave few gaps, and a file that is used again."""
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1 << 14)
    rng = np.random.default_rng(0)
    held = dict.fromkeys(range(200), 20)
    with contextlib.closing(TokenStore(path, FLOAT16)) as store:
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
    """Documents put one by one take as little room as in one call."""
    texts = [tokens_of(i, 160, 48) for i in range(100)]
    with contextlib.closing(TokenStore(path, FLOAT16)) as store:
        for i, text in enumerate(texts):
            store.put([key(i)], TokenBatch.from_list([text]))
        assert store.stats().used_bytes < 1.03 * 100 * 160 * 96
        assert assert_packed(store) == 6


def test_the_last_segment_is_taken_apart(store):
    """What lives in a last segment with gaps moves to a new one, along with what is put."""
    put(store, range(10))
    assert store.delete([key(i) for i in range(0, 8)]) == 8
    assert_holds(store, [8, 9])
    assert raw_keys(store) == [(1).to_bytes(4, "big")]
    put(store, [9, 10], n=30)
    assert_holds(store, [8])
    assert_holds(store, [9, 10], n=30)
    assert assert_packed(store) == 1


def test_texts_longer_than_a_segment(path, monkeypatch):
    """A text that is longer than a segment makes one so long, and the next begins another."""
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1000)
    with contextlib.closing(TokenStore(path, FLOAT16)) as store:
        for i, n in enumerate([1, 500, 1, 1, 700, 700]):
            put(store, [i], n)
        assert assert_packed(store) == 3
        assert store.delete([key(1), key(4)]) == 2
        assert assert_packed(store) == 2
        assert_holds(store, [0, 2, 3], 1)
        assert_holds(store, [5], 700)


# --- damage -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["segments", "places"])
@pytest.mark.parametrize("position", range(32))
def test_a_flipped_bit_is_found(store, path, name, position):
    """A bit of an entry or of its place is noticed, by gather and by verify, harms no other and can be healed."""
    put(store, [1])
    store.put([key(2)], TokenBatch.from_list([TOKENS]))
    store.close()
    if name == "places":
        position = min(position, PLACE.size - 1)
        damage(path, name, key(2), flipped(position))
    else:
        start = FRAME.size + 48  # what the first entry takes
        assert len(contents(path)["segments"][bytes(4)]) == start + 32
        damage(path, name, bytes(4), flipped(start + position))
    assert_damaged_then_healed(path, "the entry of 'my document' (fails its checksum|is .* bytes, expected|has codec)")


def assert_damaged_then_healed(path, message):
    """Assert that of the entries 1 and 2 the second cannot be read, until it is put again."""
    with contextlib.closing(TokenStore(path, FLOAT16)) as store:
        with pytest.raises(CorruptStore, match=message):
            store.gather([key(1), key(2)], ["other", "my document"])
        with pytest.raises(CorruptStore, match=f"the entry of '{key(2).hex()}' "):
            store.gather([key(2)])
        assert store.verify() == [key(2)]
        assert_holds(store, [1])
        put(store, [2])
        assert store.verify() == []
        assert_holds(store, [1, 2])
        put(store, [2], n=200)
        assert store.delete([key(2)]) == 1
        assert_holds(store, [1])


@pytest.mark.parametrize("change", [lambda value: b"", lambda value: value[:27], lambda value: value + b"\0"])
def test_a_place_of_another_length(store, path, change):
    """A place cut short or too long leads nowhere, and its entry is listed."""
    put(store, [1, 2])
    store.close()
    damage(path, "places", key(2), change)
    assert_damaged_then_healed(path, "the entry of 'my document' has codec number 0")


def test_a_segment_cut_short(store, path):
    """What lies behind the end of a segment cannot be read; what lies before it can."""
    put(store, [1, 2])
    store.close()
    damage(path, "segments", bytes(4), lambda value: value[:-1])
    assert_damaged_then_healed(path, "the entry of 'my document' fails its checksum")


@pytest.mark.parametrize("change", [lambda value: None, lambda value: b""])
@pytest.mark.parametrize(
    ("name", "number", "lost"),
    [("segments", 0, [1, 2]), ("segments", 2, [5]), ("usage", 0, []), ("usage", 2, [])],
)
def test_a_segment_or_its_usage_lost(store, path, name, number, lost, change, monkeypatch):
    """All entries of a segment that is gone are listed and can be put again; a count that is gone harms none."""
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 100)
    put(store, range(1, 6))
    store.close()
    damage(path, name, number.to_bytes(4, "big"), change)
    with contextlib.closing(TokenStore(path, FLOAT16)) as store:
        assert store.verify() == [key(i) for i in lost]
        assert_holds(store, {1, 2, 3, 4, 5} - set(lost))
        put(store, [6])
        put(store, [1, *lost], n=4)
        put(store, [3, 4, 6])
        put(store, [*lost])
        assert_holds(store, range(2, 7))
        assert store.verify() == []


@pytest.mark.parametrize("position", [5, 16, 18])
def test_a_damaged_frame_loses_no_neighbour(store, path, position, monkeypatch):
    """A segment in which one entry's key or length is damaged is taken apart like any other."""
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1000)
    put(store, range(30))
    store.close()
    damage(path, "segments", bytes(4), flipped(position + 2 * (FRAME.size + 48)))
    with contextlib.closing(TokenStore(path, FLOAT16)) as store:
        store.delete([key(0), key(1), key(4), key(5), key(8)])
        assert bytes(4) not in raw_keys(store)
        # Its place tells what the frame should be.
        assert store.verify() == []
        assert_holds(store, [2, 3, 6, 7, *range(9, 30)])


def raw_keys(store):
    """Return the numbers of the segments of an open store."""
    with store._environment.read() as transaction:
        cursor = transaction.cursor(store._environment.databases["segments"])
        return [bytes(number) for number in cursor.iternext(values=False)]


def test_a_store_of_another_codec(store, path):
    """Records of one codec are not read as another's."""
    put(store, [1])
    with contextlib.closing(TokenStore(path, get_codec("float32"))) as other:
        with pytest.raises(CorruptStore, match="the entry of 'a' has codec number 2, not 'float32'"):
            other.gather([key(1)], ["a"])
        assert other.verify() == [key(1)]


def test_a_file_that_is_not_lmdbs(path):
    """A file of other bytes is a corrupt store."""
    path.mkdir()
    (path / "data.mdb").write_bytes(b"nonsense" * 4096)
    with pytest.raises(CorruptStore, match="not an LMDB file"):
        TokenStore(path, FLOAT16)


def test_a_file_cut_short(store, path):
    """A file of which half was copied is a corrupt store, and does not end the process that reads it."""
    put(store, range(300), n=1000)
    store.close()
    os.truncate(path / "data.mdb", os.path.getsize(path / "data.mdb") // 2)
    script = "say(store.verify() != [])"
    done = subprocess.run([sys.executable, "-c", CHILD + script, str(path)], capture_output=True, text=True)
    assert done.returncode in (0, 1)
    assert "True" in done.stdout or "CorruptStore" in done.stderr


# --- closing ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "use",
    [
        lambda store: put(store, [1]),
        lambda store: store.gather([key(1)]),
        lambda store: store.missing([key(1)]),
        lambda store: store.delete([key(1)]),
        lambda store: list(store.keys()),
        lambda store: key(1) in store,
        len,
        TokenStore.verify,
        TokenStore.stats,
        lambda store: store.vacuum([]),
        lambda store: store.delete([]),
    ],
)
def test_use_after_close(store, path, use):
    """A closed store says so, and closing it again does no harm."""
    put(store, [1])
    store.close()
    store.close()
    with pytest.raises(IndexClosed, match="the token store is closed; open it again"):
        use(store)


def test_close_while_threads_gather(path):
    """Threads that gather when the store is closed finish or learn that it is closed."""
    script = """
import threading, time
from smart_rag.errors import IndexClosed
store.put([key(i) for i in range(100)], TokenBatch.from_list([np.ones((200, 384), np.float16)] * 100))
ends = []
def gather():
    try:
        while True:
            store.gather([key(i) for i in range(100)])
    except BaseException as error:
        ends.append(type(error).__name__)
threads = [threading.Thread(target=gather, daemon=True) for _ in range(6)]
for thread in threads:
    thread.start()
time.sleep(0.2)
store.close()
for thread in threads:
    thread.join(20)
say(*ends)
"""
    done = subprocess.run([sys.executable, "-c", CHILD + script, str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["IndexClosed"] * 6)


def test_two_stores_of_one_folder(store, path):
    """Two stores in one process share what they hold; closing one leaves the other open."""
    other = TokenStore(str(path), FLOAT16)
    put(store, [1])
    put(other, [2])
    assert_holds(store, [1, 2])
    other.close()
    assert_holds(store, [1, 2])
    put(store, [3])
    store.close()
    with contextlib.closing(TokenStore(path, FLOAT16)) as again:
        assert_holds(again, [1, 2, 3])


def test_closing_the_last_store_releases_the_files(store, path):
    """After the last close the folder can be moved and opened elsewhere."""
    put(store, [1])
    store.close()
    moved = path.rename(path.with_name("moved"))
    with contextlib.closing(TokenStore(moved, FLOAT16)) as again:
        assert_holds(again, [1])
    with contextlib.closing(TokenStore(path, FLOAT16)) as new:
        assert len(new) == 0


def test_two_paths_to_one_folder(store, path):
    """A link to the folder leads to the same store."""
    put(store, [1])
    link = path.with_name("link")
    link.symlink_to(path)
    with contextlib.closing(TokenStore(link, FLOAT16)) as other:
        assert_holds(other, [1])


def test_a_folder_made_anew(store, path):
    """A folder that was removed while a store had it open is a new store when it is made again."""
    put(store, [1])
    shutil.rmtree(path)
    with contextlib.closing(TokenStore(path, FLOAT16)) as new:
        assert len(new) == 0
        put(new, [2])
        assert (path / "data.mdb").exists()


# --- threads ------------------------------------------------------------------------------


@pytest.fixture
def busy_switching():
    """Threads take turns a hundred times as often."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(interval / 100)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("busy_switching")
def test_eight_threads_gather_the_same(store):
    """Threads that read at once all get what was written."""
    put(store, range(50))

    def gather(seed):
        rng = np.random.default_rng(seed)
        for _ in range(40):
            assert_holds(store, rng.permutation(50)[:20].tolist())

    in_threads(*(lambda seed=seed: gather(seed) for seed in range(8)))


def grow_under_readers(path, pause):
    """Write to a small store while eight threads gather; return how long it took, at most eight seconds."""
    with contextlib.closing(TokenStore(path, FLOAT16)) as store:
        put(store, range(10))
        first = store._environment._lmdb.info()["map_size"]
        done = threading.Event()
        deadline = time.monotonic() + 8
        gathered = [0] * 8

        def write():
            try:
                for start in range(10, 310, 30):
                    before = sum(gathered)
                    while sum(gathered) < before + 8 and time.monotonic() < deadline:
                        time.sleep(0.001)
                    put(store, range(start, start + 30), n=500)
            finally:
                done.set()

        def read(reader):
            while not done.is_set() and time.monotonic() < deadline:
                assert_holds(store, range(10))
                gathered[reader] += 1
                if pause:
                    time.sleep(pause)

        started = time.monotonic()
        in_threads(write, *(lambda reader=reader: read(reader) for reader in range(8)))
        seconds = time.monotonic() - started
        assert first == 1 << 16
        assert store._environment._lmdb.info()["map_size"] >= 1 << 21
        assert_holds(store, range(10, 310), n=500)
        assert store.verify() == []
    return seconds


@pytest.mark.usefixtures("small_map")
def test_the_map_grows_while_threads_read(path):
    """A store that outgrows its map many times over answers its readers rightly all the while."""
    grow_under_readers(path, pause=0.001)


@pytest.mark.usefixtures("small_map")
def test_the_map_grows_while_threads_read_without_a_pause(path):
    """Readers that never rest do not keep the map from growing."""
    grow_under_readers(path, pause=0)


def test_a_deletion_that_outgrows_the_map_while_threads_read(path, monkeypatch):
    """A deletion needs pages too; readers that never rest do not keep the map from growing for it."""
    monkeypatch.setattr(lmdb_environment, "_FIRST_MAP_BYTES", 1 << 17)
    with contextlib.closing(TokenStore(path, FLOAT16)) as store:
        put(store, range(1_100), n=20)
        store._environment._resize(os.path.getsize(path / "data.mdb"))
        first = store._environment._lmdb.info()["map_size"]
        kept = [key(i) for i in range(1_100) if i % 3]
        done = threading.Event()
        deadline = time.monotonic() + 5

        def read():
            while not done.is_set() and time.monotonic() < deadline:
                assert store.missing(kept) == []

        def delete():
            time.sleep(0.1)
            try:
                assert store.delete([key(i) for i in range(0, 1_100, 3)]) == 367
            finally:
                done.set()

        in_threads(delete, *[read] * 8)
        assert time.monotonic() < deadline
        assert store._environment._lmdb.info()["map_size"] > first
        assert list(store.keys()) == kept


@pytest.mark.usefixtures("small_map")
def test_one_put_larger_than_the_map(path):
    """One transaction may need several doublings, and happens once."""
    with contextlib.closing(TokenStore(path, FLOAT16)) as store:
        put(store, range(40), n=2000)
        assert_holds(store, range(40), n=2000)
        assert len(store) == 40


def test_a_reader_that_resizes_waits_for_the_writer(store):
    """A reader that finds its map too small while a thread writes waits until that is done."""
    environment = store._environment
    errors = []

    def resize():
        try:
            environment._resize(0)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=resize, daemon=True)

    def write(transaction):
        thread.start()
        time.sleep(0.2)
        transaction.put(key(1), b"", db=environment.databases["places"])

    environment.write(write)
    thread.join(20)
    assert not thread.is_alive()
    assert errors == []


# --- processes ----------------------------------------------------------------------------


def test_a_new_process_sees_the_data(store, path):
    """What was written is there for a process that opens the store later, or now."""
    put(store, [1, 2])
    script = "say(*(matrix.tobytes().hex() for matrix in store.gather([key(2), key(1)])))"
    with child(path, script) as process:
        assert process.stdout.readline().split() == [tokens_of(2).tobytes().hex(), tokens_of(1).tobytes().hex()]
    store.close()
    with child(path, script) as process:
        assert process.stdout.readline().split() == [tokens_of(2).tobytes().hex(), tokens_of(1).tobytes().hex()]


GROWN = range(1, 300)


@pytest.mark.usefixtures("small_map")
def test_another_process_reads_while_this_one_outgrows_its_map(path):
    """A reader whose map is smaller than the file has become reads on, in every thread."""
    script = f"""
import threading
store.gather([key(0)])
say(store._environment._lmdb.info()["map_size"])
sys.stdin.readline()
sums = []
def gather():
    sums.append(int(store.gather([key(i) for i in {GROWN}]).embeddings[:, 0].astype(np.int64).sum()))
threads = [threading.Thread(target=gather, daemon=True) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(20)
say(*sums)
"""
    with contextlib.closing(TokenStore(path, FLOAT16)) as store:
        put(store, [0])
        with child(path, script) as process:
            assert int(process.stdout.readline()) == 1 << 16
            put(store, GROWN, n=200)
            assert os.path.getsize(path / "data.mdb") > 1 << 19
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline().split() == [str(200 * sum(GROWN))] * 4


@pytest.mark.usefixtures("small_map")
def test_another_process_writes_after_this_one_outgrew_its_map(path):
    """A writer whose map is smaller than the file has become writes on, and loses nothing."""
    script = """
say("ready")
sys.stdin.readline()
store.put([key(9999)], TokenBatch.from_list([np.full((3, 8), 9999 % 1024, np.float16)]))
say("done")
"""
    with contextlib.closing(TokenStore(path, FLOAT16)) as store:
        with child(path, script) as process:
            assert process.stdout.readline() == "ready\n"
            put(store, GROWN, n=200)
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "done\n"
        assert_holds(store, [9999])
        assert_holds(store, GROWN, n=200)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_killed_writer_loses_nothing_that_it_had_written(path):
    """Whatever put had returned for is there after kill -9, whole, and so is the rest of the store."""
    script = """
for i in range(int(sys.argv[2]), 1 << 30):
    store.put([key(i)], TokenBatch.from_list([np.full((60, 8), i % 1024, np.float16)]))
    say(i)
"""
    acknowledged = []
    for start, lines in ((0, 1), (100_000, 25), (200_000, 60)):
        with child(path, script, str(start)) as process:
            for _ in range(lines):
                acknowledged.append(int(process.stdout.readline()))
            process.kill()
            rest = process.stdout.read()
            assert process.wait() == -signal.SIGKILL
        # The last line may be half a number.
        acknowledged += [int(line) for line in rest.splitlines(keepends=True) if line.endswith("\n")]
        with contextlib.closing(TokenStore(path, FLOAT16)) as store:
            assert_holds(store, acknowledged, n=60)
            assert store.verify() == []
            assert len(acknowledged) <= len(store) <= len(acknowledged) + 3
    assert len(acknowledged) >= 86


def test_a_killed_reader_does_not_make_the_file_grow(store, path):
    """Pages that only a dead process could still read are used again."""
    script = """
with store._environment.read():
    say("reading")
    sys.stdin.readline()
"""
    put(store, range(50), n=200)
    for _ in range(3):
        put(store, range(50), n=200)
    before = os.path.getsize(path / "data.mdb")
    with child(path, script) as process:
        assert process.stdout.readline() == "reading\n"
        process.kill()
        process.wait()
    for _ in range(20):
        put(store, range(50), n=200)
    assert os.path.getsize(path / "data.mdb") < 2 * before


# --- a full disk --------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount, "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True) if mount else None
    if done is None or done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip() if done else 'no mount command'}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(store, n):
    """Put until the disk is full, and return the numbers for which put returned."""
    for i in range(100_000):
        try:
            put(store, [i], n)
        except StorageFull:
            return list(range(i))
    raise AssertionError("the disk is never full")


def assert_survives_a_full_disk(disk, n):
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(1 << 20))
    with contextlib.closing(TokenStore(disk / "tokens", FLOAT16)) as store:
        written = fill(store, n)
        assert len(written) > 10
        with pytest.raises(StorageFull, match="no space left on the disk"):
            put(store, range(200_000, 200_050), n)
        assert_holds(store, written, n)
        assert store.verify() == []
        half = len(written) // 2
        # Also a deletion needs pages, until there is room again.
        with contextlib.suppress(StorageFull):
            store.delete([key(i) for i in written[:half]])
        assert store.verify() == []
        assert len(store) in (len(written), len(written) - half)
        ballast.unlink()
        store.delete([key(i) for i in written[:half]])
        put(store, [300_000], n)
        assert_holds(store, [*written[half:], 300_000], n)
        assert store.verify() == []
    with contextlib.closing(TokenStore(disk / "tokens", FLOAT16)) as store:
        assert_holds(store, [*written[half:], 300_000], n)


def test_full_disk(small_disk):
    """A full disk is said to be one; what was acknowledged stays, and deleting harms nothing."""
    assert_survives_a_full_disk(small_disk, n=80)


@pytest.mark.parametrize("n", [800, 8000])
def test_full_disk_in_the_middle_of_a_record(small_disk, n):
    """The same of records of many pages, of which the disk takes only a part."""
    assert_survives_a_full_disk(small_disk, n)


def test_codes_are_written_as_they_are(tmp_path):
    """Those of the store's own codec: decoded and coded again, or pooled again, they would be others."""
    texts = TokenBatch.from_list([np.random.default_rng(i).standard_normal((9, 8)) for i in range(3)])
    with contextlib.closing(TokenStore(tmp_path / "a", get_codec("1bit/2"))) as store:
        store.put([key(i) for i in range(3)], texts)
        codes = store.gather([key(2), key(0)])
    assert np.diff(codes.offsets).tolist() == [5, 5]
    with contextlib.closing(TokenStore(tmp_path / "b", get_codec("1bit/2"))) as again:
        again.put([key(5), key(6)], codes)
        found = again.gather([key(5), key(6)])
    np.testing.assert_array_equal(found.codes, codes.codes)
    np.testing.assert_array_equal(found.offsets, codes.offsets)


def test_codes_of_another_codec_are_decoded_first(tmp_path):
    rows = np.eye(8, dtype=np.float32)[:3]
    codes = TokenCodes.from_list([get_codec("int8").encode(rows)], 8, get_codec("int8"))
    with contextlib.closing(TokenStore(tmp_path, get_codec("float32"))) as store:
        store.put([key(1)], codes)
        np.testing.assert_array_equal(store.gather([key(1)])[0], codes.embeddings)

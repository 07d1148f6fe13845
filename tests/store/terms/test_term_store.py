"""`TermStore`: terms on disk against a plain dict, and their bytes."""

from __future__ import annotations

import hashlib

import lmdb
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from smart_rag.embeddings.codec import get_codec
from smart_rag.errors import CorruptStore, IndexClosed, IndexMismatch
from smart_rag.store.terms.term_entry import id_hash
from smart_rag.store.terms.term_store import TermStore
from smart_rag.store.token_store import TokenStore


def revision(id, text=0):
    return id, bytes([text]) * 16


def terms(*ids):
    return np.asarray(ids, dtype=np.int32)


def contents(store):
    """Return all documents as (id, terms), in the order of their slots."""
    changes = store.changes(-1, -1, 0)
    ids = store.ids(changes.slots.tolist())
    assert changes.hashes.tolist() == [id_hash(id) for id in ids]
    assert changes.live is None
    assert changes.terms.dtype == np.int32
    cuts = zip(changes.offsets[:-1], changes.offsets[1:], strict=True)
    return [(id, changes.terms[start:stop].tolist()) for id, (start, stop) in zip(ids, cuts, strict=True)]


@pytest.fixture
def store(tmp_path):
    store = TermStore(tmp_path / "terms")
    yield store
    store.close()


IDS = ["a", "b", "c", "d"]
ONE_TERMS = st.one_of(st.none(), st.lists(st.integers(0, 2**31 - 1), max_size=4, unique=True).map(sorted))
REVISION = st.tuples(st.sampled_from(IDS), st.integers(0, 1))
OPERATION = st.one_of(
    st.tuples(st.just("put"), st.lists(st.tuples(REVISION, ONE_TERMS), max_size=4)),
    st.tuples(st.just("delete"), st.lists(REVISION, max_size=3)),
    st.tuples(st.just("vacuum"), st.sets(REVISION)),
    st.tuples(st.just("reopen"), st.none()),
)


@settings(max_examples=40, deadline=None)
@given(operations=st.lists(OPERATION, max_size=12))
def test_any_sequence_leaves_what_a_dict_would_hold(tmp_path_factory, operations):
    """The contents, and the changes since each earlier call, are those of a dict."""
    path = tmp_path_factory.mktemp("terms")
    store = TermStore(path)
    expected = {}
    seen, version = {}, -1  # slot to (hash, terms), by the changes alone
    last = -1
    for name, argument in operations:
        if name == "put":
            store.put(
                [revision(*of) for of, _ in argument],
                [None if ids is None else terms(*ids) for _, ids in argument],
            )
            for of in dict(argument):
                expected.pop(of, None)
            expected.update((of, ids) for of, ids in dict(argument).items() if ids is not None)
        elif name == "delete":
            store.settle([revision(*of) for of in argument])
            expected = {of: ids for of, ids in expected.items() if of not in argument}
        elif name == "vacuum":
            store.vacuum({revision(*of) for of in argument})
            expected = {of: ids for of, ids in expected.items() if of in argument}
        else:
            store.close()
            store = TermStore(path)
        assert contents(store) == [(id, ids) for (id, _), ids in expected.items()]
        changes = store.changes(version, last, len(seen))
        if changes is not None:
            version = changes.version
            for i, slot in enumerate(changes.slots.tolist()):
                assert slot > last
                last = slot
                seen[slot] = changes.hashes[i], changes.terms[slice(*changes.offsets[i : i + 2])].tolist()
            if changes.live is not None:
                seen = {slot: seen[slot] for slot in changes.live.tolist()}
        assert list(seen.values()) == [(id_hash(id), ids) for (id, _), ids in expected.items()]
        assert store.damaged([revision(id, text) for id in IDS for text in (0, 1)]) == []
    store.close()


@pytest.mark.parametrize("id", ["a", "ä🐟", "x" * 10_000, "next", "n\0t"])
@pytest.mark.parametrize("ids", [(), (0,), (65_535,), (3, 65_536), (2**31 - 1,), tuple(range(20_000))])
def test_terms_come_back(store, id, ids):
    """Document ids may have any length and script, terms any number and size."""
    store.put([revision("before"), revision(id)], [terms(1), terms(*ids)])
    assert contents(store) == [("before", [1]), (id, list(ids))]
    assert store.damaged([revision(id)]) == []
    store.settle([revision(id)])
    assert contents(store) == [("before", [1])]


def test_a_revision_twice_in_one_put(store):
    """The last one is stored."""
    store.put([revision("a"), revision("a")], [terms(1), terms(2)])
    assert contents(store) == [("a", [2])]


def test_revisions_of_a_document_have_different_slots(store):
    """Two revisions never share a slot, also where key and id joined are the same bytes."""
    store.put([("a", b"k" * 16), ("ka", b"k" * 16), ("a", b"a" * 16)], [terms(1), terms(2), terms(3)])
    assert contents(store) == [("a", [1]), ("ka", [2]), ("a", [3])]
    store.settle([("a", b"k" * 16)])
    assert contents(store) == [("ka", [2]), ("a", [3])]


def test_a_slot_is_never_used_again(tmp_path):
    """Not the slot of the last document, not after everything was removed, and not by a reopened store."""
    used = []
    for i in range(4):
        store = TermStore(tmp_path)
        store.put([revision(f"{i}a"), revision(f"{i}b")], [terms(1), terms(2)])
        used += store.changes(-1, -1, 0).slots.tolist()
        store.vacuum([])
        store.close()
    assert used == list(range(8))


def test_calls_that_change_nothing(store):
    """To remove unknown documents, or to settle what is not in doubt, does not change the version."""
    store.put([revision("a")], [terms(1)])
    store.settle([], [revision("a")])
    version = store.changes(-1, -1, 0).version
    store.put([], [])
    store.settle([], [revision("a")])
    store.settle([revision("b")])
    store.vacuum([revision("a")])
    assert store.changes(version, 0, 1) is None


def test_what_was_before(store):
    """It is on disk until the batch is settled. Older versions do not see it."""
    assert store.before() is None
    store.put([revision("a")], [terms(1)], [revision("a")], b"old rows")
    again = TermStore(store.path)
    assert (again.before(), again.count()) == (b"old rows", 1)
    again.close()
    store.settle([], [revision("a")])
    assert store.before() is None
    store.doubt([revision("a")], b"others")
    assert store.before() == b"others"


def test_empty_slots_are_left_out(store):
    """Ids come back in the order of the slots that were asked for."""
    store.put([revision(id) for id in "abc"], [terms(1)] * 3)
    store.settle([revision("b")])
    assert store.ids([2, 1, 0, 7]) == ["c", "a"]


def test_two_stores_of_one_folder(tmp_path):
    """One sees what the other writes. Closing one leaves the other open."""
    first, second = TermStore(tmp_path), TermStore(tmp_path)
    first.put([revision("a")], [terms(1)])
    assert contents(second) == [("a", [1])]
    first.close()
    assert contents(second) == [("a", [1])]
    second.close()


def raw(path):
    with lmdb.open(str(path), max_dbs=2, readonly=True) as environment, environment.begin() as transaction:
        names = (b"terms", b"slots")
        handles = [environment.open_db(name, transaction, create=False) for name in names]
        return [transaction.get(b"layout"), *({k: v.hex() for k, v in transaction.cursor(db)} for db in handles)]


def test_the_bytes_on_disk(tmp_path):
    """They are those of docs/format.md."""
    store = TermStore(tmp_path)
    store.put([("gone", b"\1" * 16)], [terms(1)])
    store.settle([("gone", b"\1" * 16)])
    store.put([("a", b"\1" * 16), ("ä", b"\2" * 16), ("c", b"\3" * 16)], [terms(7, 300), terms(7, 70_000), terms()])
    store.close()
    layout, by_slot, slots = raw(tmp_path)
    assert layout == b"terms 1"
    bodies = {1: "01000000026107002c01", 2: "0200000004c3a40700000070110100", 3: "010000000263"}
    checksums = {1: "8fe7ca3c1be20553", 2: "b99f755171e258bf", 3: "6084cf47d7bd0a3c"}
    assert by_slot == {slot.to_bytes(8, "big"): checksums[slot] + body for slot, body in bodies.items()}
    for slot, body in bodies.items():
        digest = xxhash.xxh3_64_intdigest(bytes.fromhex(body))
        assert int.from_bytes(bytes.fromhex(checksums[slot]), "little") == digest
    keys = [hashlib.blake2b(bytes([n]) * 16 + id.encode(), digest_size=16).digest() for n, id in enumerate("aäc", 1)]
    assert slots == {
        b"next": "0000000000000004",
        b"complete": "",
        **{key: f"{slot:016x}" for slot, key in enumerate(keys, 1)},
    }


def test_the_bytes_of_doubts_and_of_documents_without_terms(tmp_path):
    """They are those of docs/format.md."""
    store = TermStore(tmp_path)
    store.put([("ä", b"\1" * 16)], [None], [("ä", b"\1" * 16), ("b", b"\2" * 16)])
    store.close()
    _, by_slot, slots = raw(tmp_path)
    key = hashlib.blake2b(b"\1" * 16 + "ä".encode(), digest_size=16).digest()
    assert by_slot == {}
    assert slots == {
        b"next": "0000000000000000",
        b"complete": "",
        b"doubtful": "02" * 16 + "0100000062" + "01" * 16 + "02000000c3a4",
        key: "2dc3a4",
    }


def test_traces(tmp_path):
    """They come back, and stay until their revision is removed. New ones replace them."""
    a, b, c = map(revision, "abc")
    store = TermStore(tmp_path)
    store.put([a, b], [terms(1), None], traces={a: 0.25, b: -1.5})
    store.put([a], [terms(2)])
    assert store.traces([b, a, c])[:2].tolist() == [-1.5, 0.25]
    assert np.isnan(store.traces([b, a, c])[2])
    store.doubt([a, c], b"before", {c: 3.0})
    store.put([a], [terms(3)], traces={a: 0.5})
    store.close()
    store = TermStore(tmp_path)
    assert store.traces([a, b, c]).tolist() == [0.5, -1.5, 3.0]
    store.settle([c], [a])
    assert np.isnan(store.traces([c])).all()
    store.vacuum({b})
    assert np.isnan(store.traces([a])).all()
    store.put([c], [None], traces={c: 1.0})
    assert store.remove_ids({"b", "c"}) == 2
    assert np.isnan(store.traces([b, c])).all()
    store.close()
    with lmdb.open(str(tmp_path), max_dbs=3) as environment, environment.begin(write=True) as transaction:
        traces = environment.open_db(b"traces", transaction)
        key = hashlib.blake2b(a[1] + b"a", digest_size=16).digest()
        for damaged in (b"", b"1234567", np.float64("nan").tobytes(), np.float64("inf").tobytes()):
            transaction.put(key, damaged, db=traces)
    store = TermStore(tmp_path)
    assert np.isinf(store.traces([a])).all()
    store.close()


def test_doubts(store):
    """They last until they are settled, also in a store that is opened again, and name only slots with terms."""
    a, b, c = map(revision, "abc")
    store.put([a, b], [terms(1), None], [a, b, c])
    assert store.doubtful() == [a, b, c]
    assert store.changes(-1, -1, 0).doubtful == {a: 0}
    again = TermStore(store.path)
    assert again.doubtful() == [a, b, c]
    again.close()
    store.doubt([revision("d")])
    store.settle([b, revision("d")], [c])
    assert store.doubtful() == [a]
    assert (store.count(), store.missing([a, b, c])) == (1, [b, c])
    store.vacuum([a])
    assert store.doubtful() == []


def test_lost_documents(store):
    """Those that are neither live nor in doubt, with terms and without."""
    a, b, c = map(revision, "abc")
    store.put([a, b, c], [terms(1), None, terms()], [c])
    assert store.lost_ids([a, b]) == []
    assert store.lost_ids([]) == ["a", "b"]
    assert store.lost_ids([revision("a", 1)]) == ["b"]  # another revision has a row
    assert store.remove_ids({"a", "b", "x"}) == 2
    assert (store.count(), store.lost_ids([])) == (1, [])


def test_an_older_store_becomes_complete_when_it_is_vacuumed(store):
    """It has no keys for documents without terms, so until then it knows nothing of what is missing."""
    store.put([revision("a")], [terms(1)])
    slots = store._environment.databases["slots"]
    store._environment.write(lambda transaction: transaction.delete(b"complete", db=slots))
    older = TermStore(store.path)
    assert not older.is_complete
    assert older.missing([revision("b")]) == older.lost_ids([]) == []
    older.vacuum([revision("a"), revision("b")], completes=True)
    older.vacuum([revision("a")])
    assert not older.is_complete
    older.vacuum([revision("a")], completes=True)
    assert older.is_complete
    assert older.missing([revision("b")]) == [revision("b")]
    assert TermStore(store.path).is_complete
    older.close()


def damage(store, slot, change):
    database = store._environment.databases["terms"]
    key = slot.to_bytes(8, "big")

    def write(transaction):
        transaction.put(key, change(bytes(transaction.get(key, db=database))), db=database)

    store._environment.write(write)


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value[:-1] + bytes([value[-1] ^ 1]),
        lambda value: value[:-1],
        lambda value: value[:12],
        lambda value: b"",
        lambda value: bytes([value[0] ^ 1]) + value[1:],
        lambda value: value[:8] + b"\xff\xff\xff\xff" + value[12:],
        lambda value: value[:12] + b"\3" + value[13:],
    ],
)
def test_a_damaged_entry(store, change):
    """Reads raise an error that says what to do. The entry is listed, and can be written again."""
    store.put([revision("a"), revision("b")], [terms(1, 2), terms(3)])
    damage(store, 1, change)
    for read in (lambda: store.changes(-1, -1, 0), lambda: store.ids([0, 1])):
        with pytest.raises(
            CorruptStore, match=r"fail their checksum; write them again with index.verify\(repair=True\)"
        ):
            read()
    assert store.damaged([revision("a"), revision("b")]) == [revision("b")]
    store.put([revision("b")], [terms(3)])
    assert store.damaged([revision("a"), revision("b")]) == []
    assert contents(store) == [("a", [1, 2]), ("b", [3])]


def test_vacuum_removes_damaged_and_unnamed_entries(store):
    """Vacuum needs no sound entry; it also removes entries without a slot."""
    store.put([revision("a"), revision("b"), revision("c")], [terms(1), terms(2), terms(3)])
    damage(store, 1, lambda value: value[:-1])
    slots = store._environment.databases["slots"]
    key = hashlib.blake2b(b"\0" * 16 + b"c", digest_size=16).digest()
    store._environment.write(lambda transaction: transaction.delete(key, db=slots))
    store.vacuum([revision("a"), revision("c")])
    assert contents(store) == [("a", [1])]


def test_a_slot_of_another_document_is_damage(store):
    """The entry in the slot is sound, but it belongs to another document."""
    store.put([revision("a"), revision("b")], [terms(1), terms(2)])
    slots = store._environment.databases["slots"]
    key = hashlib.blake2b(b"\0" * 16 + b"a", digest_size=16).digest()
    store._environment.write(lambda transaction: transaction.put(key, (1).to_bytes(8, "big"), db=slots))
    assert store.damaged([revision("a"), revision("b")]) == [revision("a")]


def test_a_folder_of_another_store(tmp_path):
    """The folder of a token store is refused."""
    TokenStore(tmp_path, get_codec("float16")).close()
    with pytest.raises(IndexMismatch, match="the store has layout 2, this smart_rag reads and writes layout terms 1"):
        TermStore(tmp_path)


@pytest.mark.parametrize(
    "use",
    [
        lambda store: store.put([revision("a")], [terms(1)]),
        lambda store: store.put([], []),
        lambda store: store.settle([]),
        lambda store: store.changes(-1, -1, 0),
        lambda store: store.ids([]),
        lambda store: store.damaged([]),
        lambda store: store.vacuum([]),
        TermStore.used_bytes,
    ],
)
def test_use_after_close(store, use):
    """Every call on a closed store raises; a second close does nothing."""
    store.close()
    store.close()
    with pytest.raises(IndexClosed, match="the term store is closed; open it again"):
        use(store)


def test_bytes_on_disk_are_bounded(store):
    """The size is about that of the terms, as docs/format.md says, also after many replacements."""
    rng = np.random.default_rng(0)
    documents = 3_000
    names = [revision(f"document {i}") for i in range(documents)]

    def put(part):
        store.put(part, [np.sort(rng.choice(60_000, 100, replace=False)).astype(np.int32) for _ in part])

    for start in range(0, documents, 100):
        put(names[start : start + 100])
    assert store.used_bytes() < documents * (2 * 100 + 13 + 14 + 110)
    for _ in range(3):
        for _ in range(0, documents, 100):
            put([names[i] for i in rng.choice(documents, 100, replace=False)])
    assert store.used_bytes() < 2 * documents * (2 * 100 + 13 + 14 + 110)


def test_keys_of_settled_documents(tmp_path):
    """They are known once their batch is settled, and change and go with their rows."""
    store = TermStore(tmp_path)
    old, new, other = revision("a", 1), revision("a", 2), revision("ä" * 600, 3)
    store.put([old, other], [terms(1), None], [old, other], b"")
    assert store.keys(["a", other[0]]) == {}
    store.settle([], [old, other])
    assert store.keys([other[0], "a", "b"]) == {other[0]: other[1], "a": old[1]}
    store.put([new], [terms(2)], [new, old], b"")
    store.settle([new], [old])  # the batch failed
    assert store.keys(["a"]) == {"a": old[1]}
    store.put([new], [terms(2)], [new, old], b"")
    store.settle([old], [new])
    store.close()
    store = TermStore(tmp_path)
    assert store.keys(["a"]) == {"a": new[1]}
    store.settle([new])
    assert store.keys(["a", other[0]]) == {other[0]: other[1]}
    assert store.remove_ids([other[0]]) == 1
    assert store.keys([other[0]]) == {}
    store.close()


def test_a_version_that_does_not_know_the_keys(store):
    """It leaves the keys as they are. What they say of its own documents does not count, until the next vacuum."""
    old, new, other = revision("a", 1), revision("a", 2), revision("b")
    store.put([old, other], [None, None])
    store.settle([], [old, other])
    with store._environment.read() as transaction:
        keys = dict(transaction.cursor(store._environment.databases["keys"]))
    store.put([new], [None])
    store.settle([old], [new])

    def undo(transaction):
        for key, value in keys.items():
            transaction.put(key, value, db=store._environment.databases["keys"])

    store._environment.write(undo)
    assert store.keys(["a", "b"]) == {"b": other[1]}
    store.vacuum([new])
    assert store.keys(["a", "b"]) == {"a": new[1]}
    store.vacuum([])
    assert store.keys(["a", "b"]) == {}


def test_documents_without_words(store):
    """Those without terms, and those that are marked. Damaged entries are left out."""
    of = [terms(1), None, terms(), terms(70_000), terms(80_000, 90_000), terms(3, 80_000)]
    store.put([revision(id) for id in "abcdef"], of)
    assert sorted(store.without_words(80_000)) == ["b", "c", "e"]
    database = store._environment.databases["terms"]

    def damage(transaction):
        for slot, value in list(transaction.cursor(database)):
            transaction.put(slot, value[:-1] + b"?" if len(value) > 14 else b"?" + value[1:], db=database)

    store._environment.write(damage)
    assert store.without_words(80_000) == ["b"]

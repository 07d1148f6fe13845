"""`InvertedIndex`: weights and best documents, against nested loops and against a new index."""

from __future__ import annotations

import math
import threading
import tracemalloc

import numpy as np
import pytest
import xxhash
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smart_rag.errors import CorruptStore, IndexClosed
from smart_rag.store.terms.inverted_index import InvertedIndex
from smart_rag.store.terms.term_entry import id_hash
from smart_rag.store.terms.term_store import TermStore

KEY = b"k" * 16


def int32(*ids):
    return np.asarray(ids, dtype=np.int32)


def put(store, documents):
    store.put([(id, KEY) for id in documents], [int32(*sorted(terms)) for terms in documents.values()])


def delete(store, ids):
    store.settle([(id, KEY) for id in ids])


def frequency_weight(term, documents):
    frequency = sum(term in terms for terms in documents.values())
    return math.log(1 + len(documents) / max(frequency, 1))


def check(index, documents, query, limit, admitted=None):
    """Assert that the index answers as nested loops over ``documents`` (id to terms) do."""
    weights = index.weights(query)
    expected = {term: frequency_weight(term, documents) for term in query.tolist()}
    if not documents or not len(query) or min(query) < 0:
        assert weights is None
    else:
        assert weights.dtype == np.float32
        assert weights.tolist() == pytest.approx([expected[term] for term in query.tolist()])
    scores = {}
    for id, terms in documents.items():
        shared = set(query.tolist()) & set(terms)
        if shared and (admitted is None or id in admitted):
            scores[id] = sum(expected[term] for term in shared)
    hashes = None if admitted is None else np.asarray([id_hash(id) for id in admitted], dtype=np.uint64)
    found = index.best(query, limit, hashes)
    # Sums that are equal but for rounding may come in either order.
    order = sorted(scores, key=lambda name: (-round(scores[name], 4), xxhash.xxh3_64_intdigest(name.encode())))
    assert [round(scores[id], 4) for id in found] == [round(scores[id], 4) for id in order[:limit]]
    assert len(set(found)) == len(found)
    return found


@pytest.fixture
def store(tmp_path):
    store = TermStore(tmp_path / "terms")
    yield store
    store.close()


@pytest.fixture
def index(store):
    return InvertedIndex(store, list, lambda: None)


TERM = st.integers(0, 7).map(lambda i: [0, 1, 2, 3, 65_535, 65_536, 70_000, 2**31 - 1][i])
ID = st.sampled_from([f"d{i}" for i in range(9)])
OPERATION = st.one_of(
    st.tuples(st.just("put"), st.dictionaries(ID, st.sets(TERM, max_size=4), max_size=5)),
    st.tuples(st.just("delete"), st.sets(ID, max_size=5)),
    st.tuples(st.just("vacuum"), st.sets(ID, max_size=5)),
    st.tuples(st.just("reopen"), st.none()),
)


@settings(max_examples=40, deadline=None)
@given(
    operations=st.lists(OPERATION, max_size=12),
    query=st.lists(TERM, max_size=5),
    limit=st.integers(1, 10),
    admitted=st.sets(ID),
)
@example([("put", {"d0": set()}), ("put", {"d0": {2**31 - 1}})], [2**31 - 1], 1, set())
def test_any_sequence_equals_a_new_index(tmp_path_factory, operations, query, limit, admitted):
    """After each step the answers are bit for bit those of a new index, and those of the loops."""
    path = tmp_path_factory.mktemp("terms")
    store, query = TermStore(path), int32(*query)
    index = InvertedIndex(store, list, lambda: None)
    documents = {}
    for name, argument in operations:
        if name == "put":
            put(store, argument)
            documents |= argument
        elif name == "delete":
            delete(store, argument)
            documents = {id: terms for id, terms in documents.items() if id not in argument}
        elif name == "vacuum":
            store.vacuum([(id, KEY) for id in argument])
            documents = {id: terms for id, terms in documents.items() if id in argument}
        else:
            store.close()
            store = TermStore(path)
            index = InvertedIndex(store, list, lambda: None)
        with_filter = check(index, documents, query, limit, admitted)
        found = check(index, documents, query, limit)
        fresh_store = TermStore(tmp_path_factory.mktemp("fresh"))
        put(fresh_store, documents)
        fresh = InvertedIndex(fresh_store, list, lambda: None)
        hashes = np.asarray([id_hash(id) for id in sorted(admitted)], dtype=np.uint64)
        assert found == fresh.best(query, limit)
        assert with_filter == fresh.best(query, limit, hashes)
        weights, expected = index.weights(query), fresh.weights(query)
        assert weights is expected is None or weights.tolist() == expected.tolist()
        fresh_store.close()
    store.close()


def test_many_documents_that_come_and_go(store, index):
    """Answers stay exact over hundreds of small steps, in which lists are merged and removed documents are dropped."""
    rng = np.random.default_rng(0)
    documents = {}
    for step in range(150):
        new = {f"d{rng.integers(400)}": set(rng.integers(0, 40, 6).tolist()) for _ in range(rng.integers(1, 8))}
        gone = [id for id in documents if rng.random() < (0.5 if step % 50 == 49 else 0.01)]
        delete(store, gone)
        for id in gone:
            del documents[id]
        put(store, new)
        documents |= new
        if step % 5 == 0:
            check(index, documents, int32(*rng.integers(0, 42, 8)), int(rng.integers(1, 30)))
    index.weights(int32(1))
    assert len(index._lists) < 12
    assert len(index._slots) <= len(documents) / 0.75


def test_terms_of_every_rarity(store):
    """Gaps of one byte, two and more stay exact while lists are merged and removed documents are dropped."""
    rng = np.random.default_rng(0)
    shares = {1: 1.0, 2: 0.3, 3: 0.01, 4: 0.001, 5: 0.0001, 70_000: 0.0}
    index, query, documents = InvertedIndex(store, list, lambda: None), int32(*shares), {}
    for first, last in ((0, 1), (1, 12_000), (12_000, 12_001), (12_001, 34_000), (34_000, 34_100)):
        new = {f"d{i}": {term for term, share in shares.items() if rng.random() < share} for i in range(first, last)}
        new[f"d{last - 1}"].add(70_000)
        put(store, new)
        documents |= new
        check(index, documents, query, 40_000)
    for part in (0.1, 0.5):
        gone = [id for id in documents if rng.random() < part]
        delete(store, gone)
        for id in gone:
            del documents[id]
        check(index, documents, query, 40_000)
        check(InvertedIndex(store, list, lambda: None), documents, query, 40_000)
    put(store, {"d0": {4, 5}, "new": {1, 70_000}})
    check(index, documents | {"d0": {4, 5}, "new": {1, 70_000}}, query, 40_000)


def test_memory_of_a_document(store, index):
    """20,000 documents of 111 distinct ids, distributed as in a language, take less than 200 bytes each in all."""
    rng = np.random.default_rng(0)
    shares = 1 / (np.arange(30_000) + 2.7)
    rows = rng.choice(30_000, (20_000, 134), p=shares / shares.sum()).astype(np.int32)
    terms = [np.unique(row) for row in rows]
    assert np.mean([len(of_one) for of_one in terms]) == pytest.approx(111, abs=1)
    index.weights(int32(1))  # loads modules, whose memory is not to be counted
    store.put([(f"d{i}", KEY) for i in range(len(terms))], terms)
    tracemalloc.start()
    try:
        index.weights(int32(1))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 111 < held / len(terms) < 200


def test_documents_without_terms_count_and_cost_no_lists(store, index):
    """A document without terms is counted, and contains no term."""
    put(store, {"a": {1}})
    for i in range(30):
        put(store, {f"empty {i}": set()})
        check(index, {"a": {1}, **{f"empty {j}": set() for j in range(i + 1)}}, int32(1), 5)
    assert len(index._lists) < 3


def test_ties_go_by_a_hash_of_the_id(store, index):
    """Equal scores have one order, however the documents were added, also at the limit."""
    ids = [f"d{i}" for i in range(50)]
    for id in ids:
        put(store, {id: {1, 2}})
    order = sorted(ids, key=lambda name: xxhash.xxh3_64_intdigest(name.encode()))
    for limit in (1, 7, 49, 50, 1000):
        assert index.best(int32(1, 2), limit) == order[:limit]


def test_an_empty_store(index):
    """Without documents there are no weights and no best documents."""
    assert index.weights(int32(1, 2)) is None
    assert index.best(int32(1, 2), 5) == []


def test_tokens_without_an_id(store, index):
    """A token without an id counts as one that every document contains, and finds none. Alone it has no weight."""
    put(store, {"a": {1, 3}, "b": {2, 3}})
    assert index.weights(int32(1, -1, 3)).tolist() == pytest.approx([math.log(3), math.log(2), math.log(2)])
    assert index.weights(int32(-1, -1)) is None
    assert index.weights(int32()) is None
    assert index.best(int32(-1, 2), 5) == ["b"]
    assert index.best(int32(-1), 5) == []


def test_a_filter_that_admits_no_document(store, index):
    """No hashes are not the same as no filter."""
    put(store, {"a": {1}})
    assert index.best(int32(1), 5, np.empty(0, dtype=np.uint64)) == []


def test_rare_tokens_win(store, index):
    """One rare token outweighs two that many documents contain."""
    put(store, {f"d{i}": {1, 2} for i in range(99)} | {"rare": {3}})
    assert index.best(int32(1, 2, 3), 1) == ["rare"]
    assert index.weights(int32(3, 1, 4)).tolist() == pytest.approx(
        [math.log(101), math.log(1 + 100 / 99), math.log(101)]
    )


def test_two_revisions_of_a_document_are_one(store, index):
    """While a document is replaced, both revisions are stored; its id comes back once."""
    store.put([("a", KEY), ("a", b"l" * 16), ("b", KEY)], [int32(1, 2), int32(1), int32(1)])
    assert sorted(index.best(int32(1, 2), 5)) == ["a", "b"]


def test_ids_far_apart_take_no_room(store, index):
    """Memory depends on the number of ids, not on the greatest."""
    put(store, {"a": {0, 2**31 - 1}})
    assert index.best(int32(2**31 - 1), 5) == ["a"]
    assert sum(lists.terms.nbytes + lists.starts.nbytes for lists in index._lists) < 100


def test_an_interrupt_while_changes_are_applied(store, index, monkeypatch):
    """The next call does not apply half of them twice."""
    put(store, {"a": {1}, "b": {1, 2}})
    index.weights(int32(1))
    put(store, {"c": {2}})
    delete(store, ["a"])
    with monkeypatch.context() as patch:
        patch.setattr("numpy.isin", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            index.weights(int32(1))
    check(index, {"b": {1, 2}, "c": {2}}, int32(1, 2), 5)


def test_threads_share_an_index(store, index):
    """Calls raise nothing while documents are added and removed, and are exact in the end."""
    done, errors, calls = threading.Event(), [], [0] * 3

    def read(i):
        while not done.is_set():
            try:
                found = index.best(int32(1, 2, 3), 10)
                assert len(found) == len(set(found)) <= 10
                index.weights(int32(1, 2))
            except BaseException as error:
                errors.append(error)
            calls[i] += 1

    threads = [threading.Thread(target=read, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    rng = np.random.default_rng(0)
    documents = {}
    for _ in range(40):
        new = {f"d{i}": set(rng.integers(0, 5, 3).tolist()) for i in rng.integers(0, 60, 10)}
        put(store, new)
        documents |= new
        gone = rng.choice(sorted(documents), 5, replace=False).tolist()
        delete(store, gone)
        for id in gone:
            del documents[id]
    done.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert min(calls) > 0
    check(index, documents, int32(1, 2, 3), 10)


def test_a_damaged_document(store, index):
    """Each call raises until the document is written again."""
    put(store, {"a": {1}, "b": {1, 2}})
    database = store._environment.databases["terms"]
    slot = (1).to_bytes(8, "big")
    store._environment.write(lambda transaction: transaction.put(slot, b"damaged", db=database))
    for _ in range(2):
        with pytest.raises(CorruptStore, match="verify"):
            index.weights(int32(1))
    put(store, {"b": {1, 2}})
    check(index, {"a": {1}, "b": {1, 2}}, int32(1, 2), 5)


def test_a_closed_store(store, index):
    """An index of a closed store raises."""
    put(store, {"a": {1}})
    index.weights(int32(1))
    store.close()
    with pytest.raises(IndexClosed):
        index.weights(int32(1))
    with pytest.raises(IndexClosed):
        index.best(int32(1), 1)


@settings(max_examples=60, deadline=None)
@given(
    query=st.lists(st.integers(0, 39), min_size=1, max_size=9),
    limit=st.integers(1, 60),
    admitted=st.one_of(st.none(), st.sets(st.integers(0, 299), max_size=200)),
)
def test_rare_and_common_terms(many, query, limit, admitted):
    """Documents that only have common terms are left out early. Those that are left out could not be among the best."""
    index, documents = many
    check(index, documents, int32(*query), limit, None if admitted is None else [f"d{i}" for i in admitted])


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """An index of 300 documents. Term 0 is in all of them, term i in about one of 1 + i²/8."""
    rng = np.random.default_rng(0)
    share = 1 / (1 + np.arange(40) ** 2 / 8)
    documents = {f"d{i}": {0, *np.flatnonzero(rng.random(40) < share).tolist()} for i in range(300)}
    store = TermStore(tmp_path_factory.mktemp("many"))
    put(store, documents)
    yield InvertedIndex(store, list, lambda: None), documents
    store.close()


def test_a_mask_of_a_filter_ends_with_a_change(store, index):
    put(store, {"a": {1}, "b": {1}})
    admitted = np.asarray([id_hash("a"), id_hash("c")], dtype=np.uint64)
    assert index.best(int32(1), 9, admitted) == ["a"]
    put(store, {"c": {1}})
    delete(store, ["a"])
    assert index.best(int32(1), 9, admitted) == ["c"]


def test_masks_of_many_filters(store, index):
    put(store, {f"d{i}": {1} for i in range(40)})
    filters = [np.asarray([id_hash(f"d{i}")], dtype=np.uint64) for i in range(40)]
    for _ in range(2):
        for i, admitted in enumerate(filters):
            assert index.best(int32(1), 9, admitted) == [f"d{i}"]

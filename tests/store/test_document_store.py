"""`DocumentStore`: what is written first, what is removed last, and what a crash between the two leaves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers.rows import create, row, unit_rows

from smart_rag.embeddings.codec import get_codec
from smart_rag.embeddings.representation import Representation
from smart_rag.embeddings.tokens import TokenBatch
from smart_rag.errors import CorruptStore, MissingTokens
from smart_rag.store.document_store import DocumentStore
from smart_rag.store.image_store import ImageStore
from smart_rag.store.terms.term_store import TermStore
from smart_rag.store.token_store import TokenStore
from smart_rag.types import Document, VerifyReport


@pytest.fixture
def store(tmp_path):
    store = DocumentStore(
        create(tmp_path / "chroma"),
        TokenStore(tmp_path / "tokens", get_codec("float16"), advice="encode it again"),
        TermStore(tmp_path / "terms"),
        ImageStore(tmp_path / "images"),
    )
    yield store
    store.close()


def vectors(n, seed=0):
    """Return n texts of two tokens; the vocabulary ids of text i are 10 * seed + i and 100."""
    tokens = unit_rows(2 * n, 4, seed)
    ids = np.int32([value for i in range(n) for value in (10 * seed + i, 100)])
    return Representation(unit_rows(n, 3, seed), TokenBatch(tokens, np.arange(0, 2 * n + 1, 2), ids))


def best(store, term):
    return sorted(store.terms.best(np.int32([term]), 10))


def stopping(*_):
    raise KeyboardInterrupt


def test_commit_writes_rows_tokens_and_terms(store):
    """After a commit each of the three stores has the documents."""
    rows = [row("a", number=1), row("b", number=2)]
    assert store.commit(rows, vectors(2)) == 0
    assert store.pooled.get(["a", "b"]) == {"a": rows[0], "b": rows[1]}
    tokens = store.gather([rows[1].key, rows[0].key], ["b", "a"])
    expected = vectors(2).tokens.embeddings.astype(np.float16)
    np.testing.assert_array_equal(tokens.embeddings, np.concatenate([expected[2:], expected[:2]]))
    assert (best(store, 0), best(store, 1), best(store, 100)) == (["a"], ["b"], ["a", "b"])
    assert store.integrity.verify() == VerifyReport((), (), 0)


def test_commit_replaces(store):
    """The old tokens and terms of a document go, unless another document has the same key."""
    store.commit([row("a", number=1), row("b", number=1), row("c", number=2)], vectors(3))
    assert store.commit([row("a", number=3), row("c", number=4), row("d", number=5)], vectors(3, seed=1)) == 2
    assert [int.from_bytes(key, "big") for key in store.tokens.keys()] == [1, 3, 4, 5]  # noqa: SIM118
    assert (best(store, 0), best(store, 2), best(store, 10)) == ([], [], ["a"])
    assert best(store, 1) == ["b"]


def test_delete(store):
    """A deleted document loses row, terms and tokens; tokens that another row names stay."""
    store.commit([row("a", number=1), row("b", number=1), row("c", number=2)], vectors(3))
    assert store.delete(["a", "c", "nobody"]) == 2
    assert list(store.pooled.get(["a", "b", "c"])) == ["b"]
    assert list(store.tokens.keys()) == [row("b", number=1).key]
    assert best(store, 100) == ["b"]


@pytest.mark.parametrize("name", ["pooled", "_terms"])
def test_a_crash_before_the_row_is_written(store, name, monkeypatch):
    """The document keeps its old row, tokens and terms. New entries are orphans, which vacuum removes."""
    store.commit([row("a", number=1)], vectors(1))
    with monkeypatch.context() as patch:
        patch.setattr(getattr(store, name), {"pooled": "upsert", "_terms": "put"}[name], stopping)
        with pytest.raises(KeyboardInterrupt):
            store.commit([row("a", number=2)], vectors(1, seed=1))
    assert store.pooled.get(["a"]) == {"a": row("a", number=1)}
    assert best(store, 0) == ["a"]
    assert store.integrity.verify() == VerifyReport((), (), 1)
    assert store.vacuum() == 1
    assert store.integrity.verify() == VerifyReport((), (), 0)
    assert best(store, 10) == []


def test_a_crash_after_the_row_is_removed(store, monkeypatch):
    """The document is gone. What is left of it is an orphan, which vacuum removes."""
    store.commit([row("a", number=1), row("b", number=2)], vectors(2))
    with monkeypatch.context() as patch:
        patch.setattr(store.tokens, "delete", stopping)
        with pytest.raises(KeyboardInterrupt):
            store.delete(["a"])
    assert list(store.pooled.get(["a", "b"])) == ["b"]
    assert store.integrity.verify() == VerifyReport((), (), 1)
    assert store.vacuum() == 1
    assert best(store, 100) == ["b"]


def everything(store):
    """Return all that the store holds, without vectors."""
    rows = {row.document.id: row for row in store.pooled.select()}
    return rows, [best(store, i) for i in range(0, 40, 10)], store.integrity.verify().sound


WRITES = {
    "add and replace": lambda store: store.commit(
        [row("a", number=4, z=[3]), row("new", number=5)], vectors(2, seed=1)
    ),
    "delete": lambda store: store.delete(["a", "b"]),
    "metadata": lambda store: store.update_metadata([row("a", number=1, z=3), row("b", number=2, x=None)]),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_crash_before_the_batch_is_acknowledged(store, write, monkeypatch):
    """The next write brings back the old rows, with their vectors, and removes the new ones."""
    old = [row("a", number=1, x=1.5, y=[1, "2"]), row("b", number=2), row("c", number=3)]
    store.commit(old, vectors(3))
    before, pooled = everything(store), store.pooled.embeddings(["a", "b", "c"])
    with monkeypatch.context() as patch:
        patch.setattr(store._terms, "settle", stopping)
        with pytest.raises(KeyboardInterrupt):
            WRITES[write](store)
    assert store.pooled.get(["a", "b", "c", "new"]) != before[0]
    assert store.is_in_doubt
    store.settle()
    assert not store.is_in_doubt
    store.vacuum()
    assert everything(store) == before
    for id, embedding in store.pooled.embeddings(["a", "b", "c"]).items():
        np.testing.assert_allclose(embedding, pooled[id], rtol=0, atol=1e-6)


def test_update_metadata(store):
    """Metadata change; vectors, tokens and terms stay."""
    store.commit([row("a", number=1, x=1), row("b", number=2)], vectors(2))
    before = store.pooled.embeddings(["a"])["a"]
    store.update_metadata([row("a", number=1, y=2)])
    assert store.pooled.get(["a"])["a"].document.metadata == {"y": 2}
    np.testing.assert_allclose(store.pooled.embeddings(["a"])["a"], before, rtol=0, atol=1e-6)
    assert best(store, 0) == ["a"]
    assert store.integrity.verify().sound


def test_metadata_alone_leave_the_graph_as_it_is(store):
    """Chroma takes longer to put an embedding into its graph again than to add a new one."""
    store.commit([row("a", number=1, x=1, gone=[1]), row("b", number=2)], vectors(2))
    calls = []
    write = store.pooled._chroma.write

    def seen(name, method, arguments):
        calls.append((method, sorted(arguments)))
        write(name, method, arguments)

    store.pooled._chroma.write = seen
    store.update_metadata([row("a", number=1, x=2)])
    assert calls == [("update", ["ids", "metadatas"])]
    held = store.pooled.get(["a"])["a"]
    assert held.document.metadata == {"x": 2}
    assert not held.is_altered()
    # A text that changes while the vectors stay, as those of the caller may.
    other = row("a", number=1, x=2)
    other = replace(other, document=replace(other.document, text="another text"))
    store.update_metadata([other, row("b", number=2, y=1)])
    assert [method for method, _ in calls[1:]] == ["update", "upsert"]
    held = store.pooled.get(["a", "b"])
    assert (held["a"].document.text, held["b"].document.metadata) == ("another text", {"y": 1})
    assert not any(each.is_altered() for each in held.values())


def test_missing_and_damaged_entries_are_repaired(store):
    """Errors and the report name the documents; a repair writes tokens and terms again."""
    rows = [row(name, number=i) for i, name in enumerate("abc")]
    keys = [each.key for each in rows]
    store.commit(rows, vectors(3))
    store.tokens.delete([keys[0]])
    environment = store.tokens._environment
    places = environment.databases["places"]

    def flip(transaction):
        location = bytearray(transaction.get(keys[1], db=places))
        location[-1] ^= 1
        transaction.put(keys[1], bytes(location), db=places)

    environment.write(flip)
    with pytest.raises(MissingTokens, match=r"'a'; encode it again") as error:
        store.gather(keys, ["a", "b", "c"])
    assert error.value.ids == ("a",)
    with pytest.raises(CorruptStore, match=r"'b' fails its checksum; encode it again"):
        store.gather(keys[1:], ["b", "c"])
    assert store.integrity.verify() == VerifyReport(("a",), ("b",), 0)
    store.repair(rows, vectors(3))
    assert store.integrity.verify() == VerifyReport((), (), 0)
    assert len(store.gather(keys, ["a", "b", "c"])) == 3


def test_tokens_that_go_between_two_reads_are_read_again(store):
    """A search that finds a row whose tokens another process has just removed tries once more, under the lock."""
    attempts = []

    def read():
        attempts.append(1)
        if len(attempts) == 1:
            raise MissingTokens("gone", ["a"])
        return "found"

    assert store.retry_unless_writing(read) == "found"
    with pytest.raises(MissingTokens, match="still gone"):
        store.retry_unless_writing(lambda: (_ for _ in ()).throw(MissingTokens("still gone", ["a"])))
    assert len(attempts) == 2


def test_vectors_of_documents_with_the_same_content(store):
    """A document that is stored with another text has no vectors here."""
    rows = [row("a", "one", number=1), row("b", "two", number=2)]
    store.commit(rows, vectors(2))
    found = store.vectors([Document("a", "one", {"other": 1}), Document("b", "changed"), Document("nobody", "one")])
    assert list(found) == ["a"]
    np.testing.assert_allclose(found["a"].pooled, unit_rows(2, 3)[:1], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found["a"].tokens[0], vectors(2).tokens[0].astype(np.float16))


def test_sizes_and_codec(store):
    """The codec is that of the tokens; the size counts tokens and terms."""
    assert store.codec == get_codec("float16")
    before = store.sidecar_bytes()
    store.commit([row("a", number=1)], vectors(1))
    assert store.sidecar_bytes() == store.tokens.stats().used_bytes + store._terms.used_bytes() > before

"""`SmartIndex` with two writers, lost tokens, a killed process and a full disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from contextlib import suppress

import numpy as np
import pytest
from helpers.another_process import python
from helpers.five_texts import documents
from helpers.small_disk import small_disk
from helpers.word_encoder import TESTS, LetterEncoder

from smart_rag import Document, SmartIndex, TokenBatch, errors


def test_two_writers_at_once(index):
    """A second process that writes is told; readers go on."""
    code = """
        import sys
        from smart_rag import SmartIndex, errors
        with SmartIndex.open(sys.argv[1]) as index:
            print(index.count())
            try:
                index.delete(["cat"])
            except errors.IndexLocked as error:
                print("locked")
    """
    assert python(code, index.path).stdout.split() == ["5", "locked"]
    assert index.count() == 5


def test_the_lock_goes_with_the_index(tmp_path):
    first = SmartIndex.create(tmp_path / "index", LetterEncoder())
    first.add(documents())
    first.close()
    with SmartIndex.open(tmp_path / "index", LetterEncoder()) as second:
        second.delete(["cat"])


def test_lost_and_damaged_tokens_are_named_and_repaired(index):
    """Search says whose tokens are gone; verify lists them; repair encodes the texts again."""
    expected = index.search("The dog and the carp", 5)
    tokens = index._store.tokens
    keys = {row.document.id: row.key for row in index._store.pooled.select()}
    tokens.delete([keys["cat"]])
    places = tokens._environment.databases["places"]
    with tokens._environment.read() as transaction:
        place = bytearray(transaction.get(keys["dog"], db=places))
    place[-1] ^= 1
    tokens._environment.write(lambda transaction: transaction.put(keys["dog"], bytes(place), db=places))

    with pytest.raises(errors.MissingTokens, match=r"'cat'.*repair") as caught:
        index.search("The dog and the carp", 5)
    assert caught.value.ids == ("cat",)
    report = index.verify()
    assert (report.missing, report.damaged, report.sound) == (("cat",), ("dog",), False)
    index.verify(repair=True)
    assert index.verify().sound
    assert index.search("The dog and the carp", 5) == expected


def test_lost_tokens_of_an_index_without_an_encoder(tmp_path):
    """They cannot be encoded again, so the advice is another one."""
    texts = [Document("a", "one"), Document("b", "two")]
    vectors = LetterEncoder().encode_document(["one", "two"])
    with SmartIndex.from_embeddings(tmp_path / "own", texts, vectors) as index:
        index._store.tokens.vacuum(())
        with pytest.raises(
            errors.MissingTokens, match=r"the first is '.'; add the documents that index\.verify"
        ) as caught:
            index.search(vectors[0])
        assert "repair" not in str(caught.value)
        assert index.verify().missing == ("a", "b")
        index.add_embeddings(texts, vectors)
        assert index.verify().sound
        assert index.search(vectors[0])[0].id == "a"


def test_adding_again_heals_what_is_lost(index):
    keys = {row.document.id: row.key for row in index._store.pooled.select()}
    index._store.tokens.delete([keys["cat"]])
    report = index.add(documents())
    assert (report.replaced, report.unchanged) == (1, 4)
    assert index.verify().sound


def test_orphans_are_vacuumed(index):
    """Tokens whose row was never written, as a crash between the two leaves them."""
    index._store.tokens.put([b"x" * 16], TokenBatch.from_list([np.ones((2, 8), dtype=np.float32)]))
    assert index.verify().orphans == 1
    assert index.vacuum() == 1
    assert index.verify().orphans == 0
    assert len(index.search("The dog", 5)) == 5


def test_killed_while_adding(tmp_path):
    """Every acknowledged document is found after SIGKILL; the same add goes on; nothing is doubled."""
    code = """
        import sys
        sys.path.insert(0, sys.argv[2])
        import smart_rag.index.writing.ingest
        smart_rag.index.writing.ingest._BATCH = 8
        from smart_rag import Document, SmartIndex
        from helpers.word_encoder import LetterEncoder
        index = SmartIndex.create(sys.argv[1], LetterEncoder())
        index.add(
            [Document(f"d{i}", f"text number {i}") for i in range(100_000)],
            on_commit=lambda ids: print(*ids, flush=True),
        )
    """
    path = tmp_path / "index"
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(path), TESTS],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    acknowledged = [name for _ in range(20) for name in process.stdout.readline().split()]
    os.kill(process.pid, signal.SIGKILL)
    acknowledged += process.stdout.read().split()  # what was on its way
    process.stdout.close()
    process.wait()
    assert len(acknowledged) >= 160
    with SmartIndex.open(path, LetterEncoder()) as index:
        assert {document.id for document in index.get(acknowledged)} == set(acknowledged)
        assert index.verify().sound
        hits = index.search(f"text number {acknowledged[0][1:]}", 3)
        assert hits[0].id == acknowledged[0]
        wanted = [Document(name, f"text number {name[1:]}") for name in [*acknowledged, "d99999"]]
        report = index.add(wanted)
        assert report.unchanged == len(acknowledged)
        index.vacuum()
        assert len({document.id for document in index.documents()}) == index.count()
        assert index.verify().orphans == 0


def test_on_a_full_disk_settings_and_opening_say_so(tmp_path):
    with small_disk(tmp_path / "small", "5m") as mount:
        with SmartIndex.create(mount / "index", LetterEncoder()) as index:
            index.add(documents())
            with suppress(OSError), (mount / "filler").open("wb", buffering=0) as file:
                while file.write(bytes(1 << 12)):
                    pass
            with pytest.raises(errors.StorageFull, match="no space left"):
                index.set_weights((1, 3))
        assert SmartIndex.exists(mount / "index")
        with pytest.raises(errors.StorageFull):
            SmartIndex.create(mount / "another", LetterEncoder())
        (mount / "filler").unlink()
        with SmartIndex.open(mount / "index", LetterEncoder()) as index:
            assert len(index.search("Dogs bark")) == 5
        SmartIndex.create(mount / "another", LetterEncoder()).close()

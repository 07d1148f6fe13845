"""`Codebooks`: what one store writes, another handle reads, also of damaged ones."""

import numpy as np
import pytest
from helpers.ragged import unit_rows

from smart_rag.errors import CorruptStore
from smart_rag.store.terms.codebook import Codebook
from smart_rag.store.terms.codebooks import Codebooks, Growth
from smart_rag.store.terms.term_store import TermStore

BOOKS = [Codebook.of(unit_rows(np.random.default_rng(i), 3 + i, 4), 10 * i) for i in range(3)]


@pytest.fixture
def terms(tmp_path):
    store = TermStore(tmp_path / "terms")
    yield store
    store.close()


def values(books):
    return [(book.first, book.documents, book.centroids.tolist()) for book in books]


def damage(terms, number):
    def write(transaction):
        key = f"centroids {number}".encode()
        transaction.put(key, transaction.get(key)[:-1] + b"\x01")

    terms._environment.write(write)


def test_codebooks_come_in_order(terms):
    """Also to a reader that has read some of them before."""
    writer, reader = Codebooks(terms), Codebooks(terms)
    assert writer.all() == reader.all() == []
    for count, book in enumerate(BOOKS, 1):
        writer.add(book)
        assert values(reader.all()) == values(BOOKS[:count])
        assert reader.count() == count
    path = terms.path
    terms.close()
    again = TermStore(path)
    assert values(Codebooks(again).all()) == values(BOOKS)
    again.close()


def test_growth(terms):
    books = Codebooks(terms)
    assert books.growth() is None
    books.set_growth(Growth(5, 2**40))
    assert Codebooks(terms).growth() == Growth(5, 2**40)


def test_they_are_no_documents(terms):
    """Nothing of them is counted, removed or shown as a document."""
    terms.put([("a", b"k" * 16)], [np.int32([1])])
    before = terms.count(), terms.used_bytes()
    books = Codebooks(terms)
    books.add(BOOKS[0])
    books.set_growth(Growth(1, 2))
    assert terms.count() == before[0]
    assert terms.lost_ids([("a", b"k" * 16)]) == []
    terms.vacuum([])
    assert values(books.all()) == values(BOOKS[:1])


def test_damaged_codebooks(terms):
    """They are not read, and are removed together with later ones."""
    books = Codebooks(terms)
    for book in BOOKS:
        books.add(book)
    damage(terms, 1)
    assert values(books.sound()) == values(BOOKS[:1])
    assert books.count() == 3
    with pytest.raises(CorruptStore, match=r"terms: the centroids of the token embeddings fail"):
        Codebooks(terms).all()
    books.keep(1)
    assert values(Codebooks(terms).all()) == values(books.all()) == values(BOOKS[:1])
    reader = Codebooks(terms)
    reader.all()
    books.add(BOOKS[2])
    assert values(reader.all()) == values(books.all()) == values([BOOKS[0], BOOKS[2]])
    books.keep(0)
    books.add(BOOKS[1])
    assert values(reader.all()) == values(books.all()) == values(BOOKS[1:2])


def test_a_copy_has_them(terms, tmp_path):
    Codebooks(terms).add(BOOKS[1])
    terms.copy_to(tmp_path / "copy")
    copy = TermStore(tmp_path / "copy")
    assert values(Codebooks(copy).all()) == values(BOOKS[1:2])
    copy.close()

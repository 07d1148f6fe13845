"""Documents whose tokens have no vocabulary ids are found by centroids, against plain loops and through all upkeep."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import zip_longest

import numpy as np
import pytest
from helpers.ragged import batch, dot
from helpers.word_encoder import VocabularyEncoder, WordEncoder
from PIL import Image

from smart_rag import Document, Representation, SmartIndex, TokenBatch
from smart_rag.errors import CorruptStore
from smart_rag.index.candidates import FirstStage
from smart_rag.store.terms import centroid_terms
from smart_rag.store.terms.codebook import FIRST, WITHOUT_WORDS, has_centroids, words_of

WIDTH = 8
LEAST = 20


@pytest.fixture(autouse=True)
def few_documents(monkeypatch):
    """Learn from 20 documents on, so that the tests are quick. The tokens of a query have 3 probes."""
    monkeypatch.setattr(centroid_terms, "EXHAUSTIVE_DOCUMENTS", LEAST)
    monkeypatch.setattr(centroid_terms, "_GROWTH", 2)
    monkeypatch.setattr(centroid_terms, "_PROBES", 3)
    monkeypatch.setattr(centroid_terms, "_ASSIGNED_AT_ONCE", 7)


def vectors(count, seed=0, ids=None):
    """Documents of 1 to 12 tokens. Their pooled embeddings say nothing about their tokens."""
    rng = np.random.default_rng(seed)
    tokens = batch(rng, rng.integers(1, 13, count), WIDTH)
    if ids is not None:
        tokens = TokenBatch(tokens.embeddings, tokens.offsets, np.full(len(tokens.embeddings), ids, dtype=np.int32))
    return Representation(batch(rng, [1] * count, WIDTH).embeddings, tokens)


def documents(count, first=0, metadata=None):
    return [Document(f"d{first + i}", f"text {first + i}", metadata or {"even": i % 2 == 0}) for i in range(count)]


def made(path, count, config=None):
    index = SmartIndex.create(path, None, dimension=WIDTH, config=config)
    index.add_embeddings(documents(count), vectors(count))
    return index


@pytest.fixture
def index(tmp_path):
    with made(tmp_path / "index", 60) as index:
        yield index


def books(index):
    return index._store.centroids._codebooks.all()


def terms_of(index):
    rows = list(index._store.pooled.select())
    terms = index._store._terms.get([row.revision for row in rows])
    return {row.document.id: of_one for row, of_one in zip(rows, terms, strict=True)}


def in_turn(first, second):
    pairs = zip_longest(first, second)
    return list(dict.fromkeys(name for pair in pairs for name in pair if name is not None))


def firsts(index):
    return np.int32([book.first for book in books(index)])


def all_have_centroids(index):
    return all(has_centroids(one, firsts(index)) for one in terms_of(index).values())


def looped_scores(index, query, weights=None):
    """The score of each document by its definition, from its own terms."""
    known = books(index)
    scores = {}
    for id, terms in terms_of(index).items():
        own = set(terms.tolist())
        total = 0.0
        for i, token in enumerate(query.astype(np.float64)):
            cosines = {
                book.first + k: dot(token, centroid)
                for book in known
                for k, centroid in enumerate(book.centroids.astype(np.float64))
            }
            of_books = [
                sorted((cosine for term, cosine in cosines.items() if 0 <= term - book.first < 4096), reverse=True)[:3]
                for book in known
            ]
            least = max(nearest[-1] for nearest in of_books)
            found = [cosine - least for term, cosine in cosines.items() if term in own and cosine > least]
            total += max(found, default=0.0) * (1 if weights is None else weights[i])
        if total > 0:
            scores[id] = total
    return scores


def check_best(index, seed, limit=10, weights=None, admits=None):
    query = batch(np.random.default_rng(seed), [4], WIDTH).embeddings
    scores = looped_scores(index, query, weights)
    if admits is not None:
        scores = {id: score for id, score in scores.items() if admits(id)}
    hashes = None
    if admits is not None:
        from smart_rag.store.terms.term_entry import id_hash

        hashes = np.asarray([id_hash(id) for id in terms_of(index) if admits(id)], dtype=np.uint64)
    found = index._store.centroids.best(query, weights, limit, hashes)
    assert [scores[id] for id in found] == pytest.approx(sorted(scores.values(), reverse=True)[:limit], abs=1e-5)
    assert len(set(found)) == len(found)
    return found


def test_terms_are_the_nearest_centroids(index):
    [book] = books(index)
    assert book.documents == 60
    tokens = index.tokens(list(terms_of(index)))
    for (id, terms), own in zip(terms_of(index).items(), tokens, strict=True):
        cosines = [[dot(token, centroid) for centroid in book.centroids] for token in own.astype(np.float64)]
        # Processors add in their own order, so either of two centroids that are equally near is right.
        near = [{book.first + i for i, cosine in enumerate(row) if cosine > max(row) - 1e-5} for row in cosines]
        first, *found = terms.tolist()
        assert (first, found) == (WITHOUT_WORDS, sorted(set(found))), id
        assert set(found) <= set().union(*near), id
        assert not any(one.isdisjoint(found) for one in near), id


@pytest.mark.parametrize("seed", range(4))
def test_the_best_equal_those_of_loops(index, seed):
    assert check_best(index, seed)
    check_best(index, seed, limit=1000)
    check_best(index, seed, weights=np.float32([1, 5, 0.1, 2]))
    check_best(index, seed, admits=lambda name: int(name[1:]) % 3 == 0)


def test_few_documents_have_no_centroids(tmp_path):
    """A search scores all of them."""
    with made(tmp_path / "index", LEAST - 1) as index:
        assert books(index) == []
        assert set(terms_of(index).values()) == {None}
        assert index._store.centroids.best(vectors(1).tokens.embeddings, None, 5) == []
        index.vacuum()
        assert books(index) == []
        index.add_embeddings(documents(1, 100), vectors(1, seed=9))
        assert len(books(index)) == 1
        assert all_have_centroids(index)


def test_documents_come_one_by_one(tmp_path):
    """They are counted over many writes and processes, with a small error."""
    path = tmp_path / "index"
    made(path, 8).close()
    for i in range(8, LEAST + 3):
        with SmartIndex.open(path) as index:
            index.add_embeddings(documents(1, i), vectors(1, seed=i))
            if i < LEAST - 1:
                assert books(index) == []
    with SmartIndex.open(path) as index:
        assert [book.documents for book in books(index)] == [LEAST]
        assert all_have_centroids(index)


def test_candidates_take_turns(index):
    """The nearest by pooled cosine, and the best by centroids. A search finds both kinds."""
    query = vectors(3, seed=77)
    for state in (None, index._store.settled_state()):
        stage = FirstStage(index._store, 10, state=state)
        pooled, both = stage.pooled(query), stage.terms(query)
        for i in range(3):
            best = index._store.centroids.best(query.tokens[i], None, 10)
            assert both[i].ids == in_turn(pooled[i].ids, best)[:10]
            assert both[i].ids != pooled[i].ids
    kept = {f"d{i}" for i in range(0, 60, 2)}
    found = FirstStage(index._store, 8, where={"even": True}).terms(query)
    assert all(set(one.ids) <= kept and len(one.ids) == 8 for one in found)


def test_a_document_that_only_its_tokens_find(index):
    """Its pooled embedding is the opposite of the query's, so pooled candidates miss it."""
    sought = vectors(1, seed=1234)
    index.add_embeddings([Document("sought", "x")], Representation(-sought.pooled, sought.tokens))
    hits = index.search(sought, 1, candidates=6, weights=(0, 1), first_stage="terms")
    assert [hit.id for hit in hits] == ["sought"]
    assert "sought" not in [h.id for h in index.search(sought, 6, candidates=6, weights=(0, 1), first_stage="pooled")]


def test_texts_keep_their_numbers(tmp_path):
    """Documents with vocabulary ids weigh and rank as without the others, and get no centroids."""
    with SmartIndex.create(tmp_path / "alone", None, dimension=WIDTH) as alone, made(tmp_path / "both", 60) as both:
        for word in range(5):
            for index in (alone, both):
                index.add_embeddings(documents(3 + word, 100 * (word + 1)), vectors(3 + word, word, ids=word))
        ids = np.int32([0, 3, 4, -1, 99])
        assert both._store.terms.weights(ids).tolist() == alone._store.terms.weights(ids).tolist()
        assert both._store.terms.best(ids, 50) == alone._store.terms.best(ids, 50)
        for id, terms in terms_of(both).items():
            assert has_centroids(terms) == (int(id[1:]) < 60)
        plain = vectors(1, seed=5).tokens
        mixed = np.resize(np.int32([2, 99, -1, 0]), len(plain.embeddings))
        query = Representation(vectors(1, seed=5).pooled, replace(plain, ids=mixed))
        stage = FirstStage(both._store, 12)
        words = both._store.terms.best(query.tokens.ids, 12)
        weights = both._store.terms.weights(query.tokens.ids)
        others = both._store.centroids.best(query.tokens.embeddings, weights, 12)
        assert others != both._store.centroids.best(query.tokens.embeddings, None, 12)
        # 60 documents have centroids, and 25 have words. So 12 come from centroids in the time of 5 words.
        by_terms, left = [], {"words": list(words), "others": list(others)}
        while any(left.values()):
            next_word = (len(words) - len(left["words"]) + 1) / 25 if left["words"] else np.inf
            next_other = (len(others) - len(left["others"]) + 1) / 60 if left["others"] else np.inf
            by_terms.append(left["words" if next_word <= next_other else "others"].pop(0))
        assert stage.terms(query)[0].ids == in_turn(stage.pooled(query)[0].ids, by_terms)[:12]


def test_queries_without_words_alone(tmp_path):
    """If no document has vocabulary ids, all tokens of a query count the same, as before."""
    with made(tmp_path / "index", 60) as index:
        assert index._store.terms.weights(np.int32([1, 2])) is None


def test_another_codebook_as_the_index_grows(index):
    """Documents that were there keep their centroids. New ones are assigned to the new codebook."""
    before = terms_of(index)
    index.add_embeddings(documents(40, 100), vectors(40, seed=1))
    assert len(books(index)) == 1
    index.add_embeddings(documents(25, 300), vectors(25, seed=2))
    assert [book.documents for book in books(index)] == [60, 125]
    index.add_embeddings(documents(5, 500), vectors(5, seed=3))
    after = terms_of(index)
    assert {id: after[id].tolist() for id in before} == {id: terms.tolist() for id, terms in before.items()}
    assert all(has_centroids(after[f"d{i}"], firsts(index)[1:]) for i in range(500, 505))
    assert all_have_centroids(index)
    for seed in range(3):
        check_best(index, seed, limit=30)


def test_replaced_and_deleted_documents(index):
    check_best(index, 0)
    index.add_embeddings(documents(10), vectors(10, seed=50))
    index.delete([f"d{i}" for i in range(20, 50)])
    for seed in range(3):
        check_best(index, seed, limit=40)
    index.vacuum()
    check_best(index, 0, limit=40)
    assert index.verify().sound


@pytest.mark.parametrize("codec", ["exact", "2bit", "2bit/2"])
def test_upkeep_keeps_them(tmp_path, codec):
    """Compaction, snapshots and another codec."""
    from smart_rag import IndexConfig

    with made(tmp_path / "index", 60, IndexConfig(codec=codec)) as index:
        before = check_best(index, 1)
        terms = {id: one.tolist() for id, one in terms_of(index).items()}
        index.compact()
        assert {id: one.tolist() for id, one in terms_of(index).items()} == terms
        assert check_best(index, 1) == before
        index.snapshot(tmp_path / "copy")
        with SmartIndex.open(tmp_path / "copy") as copy:
            assert check_best(copy, 1) == before
            assert copy.verify().sound
        if codec == "exact":
            index.convert(codec="2bit")
            assert check_best(index, 1) == before


def without_centroids(index):
    """Make the index one that an older version has written: without codebooks, and terms are vocabulary ids."""
    index._store.centroids._codebooks.keep(0)
    index._store._terms._environment.write(lambda transaction: transaction.delete(b"centroids next"))
    rows = list(index._store.pooled.select())
    words = [words_of(one) for one in index._store._terms.get([row.revision for row in rows])]
    index._store._terms.put([row.revision for row in rows], words)


def test_an_index_of_an_older_version(index):
    """It is searched by pooled cosine. `vacuum` gives all documents their centroids."""
    without_centroids(index)
    query = vectors(1, seed=3)
    assert FirstStage(index._store, 5).terms(query)[0].ids == FirstStage(index._store, 5).pooled(query)[0].ids
    assert index.verify().sound
    index.vacuum()
    assert all_have_centroids(index)
    check_best(index, 2)


def test_an_older_version_has_written(index):
    """Documents that it added lack centroids until `vacuum`. Terms that it copied without the codebook are not used."""
    index.add_embeddings(documents(3, 70), vectors(3, seed=8))
    rows = list(index._store.pooled.get(["d70", "d71"]).values())
    index._store._terms.put([row.revision for row in rows], [None, None])
    assert not all_have_centroids(index)
    check_best_without = index._store.centroids.best(vectors(1, seed=8).tokens[0], None, 5)
    assert not {"d70", "d71"}.intersection(check_best_without)
    index.vacuum()
    assert all_have_centroids(index)
    # The terms stay, the codebook is lost, and another one is learned from other tokens.
    stale = terms_of(index)
    index._store.centroids._codebooks.keep(0)
    index.add_embeddings(documents(60, 100), vectors(60, seed=5))
    index.vacuum()
    assert all_have_centroids(index)
    assert not any(has_centroids(one, firsts(index)) for one in stale.values())
    check_best(index, 4)
    index._store.centroids._codebooks.keep(0)
    index.compact()
    assert set(terms_of(index).values()) == {None}


def test_a_reader_that_has_read_before(index):
    """An open index finds what another object then assigns to a new codebook."""
    with SmartIndex.open(index.path) as reader:
        check_best(reader, 0)
        index.add_embeddings(documents(70, 100), vectors(70, seed=6))
        assert len(books(reader)) == 2
        assert check_best(reader, 1) == check_best(index, 1)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_crash_while_documents_are_assigned(tmp_path, monkeypatch, after):
    """What has centroids is found by them. The next write or `vacuum` goes on."""
    path = tmp_path / "index"
    with made(path, LEAST - 1) as index:
        assigned = centroid_terms.CentroidTerms._assigned
        calls = []

        def fails(self, *arguments):
            calls.append(1)
            if len(calls) > after:
                raise KeyboardInterrupt
            return assigned(self, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(centroid_terms.CentroidTerms, "_assigned", fails)
            with pytest.raises(KeyboardInterrupt):
                index.add_embeddings(documents(1, 100), vectors(1, seed=9))
    with SmartIndex.open(path) as index:
        assert index.count() == LEAST
        assert len(books(index)) == 1
        assert sum(has_centroids(one) for one in terms_of(index).values()) == min(7 * after, LEAST)
        assert index.verify().sound
        index.add_embeddings(documents(1, 101), vectors(1, seed=10))
        assert len(books(index)) == 1
        assert all_have_centroids(index)
        check_best(index, 0)


def test_a_failure_while_learning_is_a_warning(tmp_path, monkeypatch, caplog):
    """The documents are on disk. `vacuum` raises the same error, and makes up for it later."""
    with made(tmp_path / "index", LEAST - 1) as index:
        with monkeypatch.context() as patch:
            patch.setattr(centroid_terms, "learned", lambda tokens: (_ for _ in ()).throw(CorruptStore("so it is")))
            with caplog.at_level(logging.WARNING):
                assert index.add_embeddings(documents(1, 100), vectors(1, seed=9)).added == 1
            assert "vacuum` has to complete the terms (so it is)" in caplog.text
            with pytest.raises(CorruptStore, match="so it is"):
                index.vacuum()
        index.vacuum()
        assert all_have_centroids(index)


def test_a_damaged_codebook_is_reported(index):
    """Searches say what to do, and verify names the documents. A repair learns another one and encodes nothing."""
    [book] = books(index)

    def damage(transaction):
        transaction.put(b"centroids 0", book.packed()[:-1] + b"\0")

    index._store._terms._environment.write(damage)
    path = index.path
    index.close()
    with SmartIndex.open(path) as index:
        with pytest.raises(CorruptStore, match=r"verify\(repair=True\)"):
            index.search(vectors(1), 3, first_stage="terms")
        assert index.search(vectors(1), 3, first_stage="pooled")
        assert sorted(index.verify().damaged) == sorted(f"d{i}" for i in range(60))
        before = index.tokens(["d7"]).embeddings
        assert len(index.verify(repair=True).damaged) == 60
        assert index.verify().sound
        assert np.array_equal(index.tokens(["d7"]).embeddings, before)
        assert all_have_centroids(index)
        check_best(index, 0)


def test_a_lost_codebook_is_reported(index):
    """So are numbers of its growth that cannot be read."""
    environment = index._store._terms._environment
    environment.write(lambda transaction: transaction.put(b"centroids next", b"short"))
    assert index.search(vectors(1), 3, first_stage="terms")
    environment.write(lambda transaction: transaction.put(b"centroids next", bytes(16)))
    environment.write(lambda transaction: transaction.delete(b"centroids 0"))
    assert len(index.verify().damaged) == 60
    index.verify(repair=True)
    assert index.verify().sound
    assert all_have_centroids(index)


def test_tokens_of_the_caller_survive_a_damaged_codebook(tmp_path):
    """Although the index has an encoder, which would encode their texts in another way."""
    own = WordEncoder().encode_document([f"word{i} other{i % 5}" for i in range(30)])
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as index:
        index.add_embeddings(documents(30), own)
        [book] = books(index)
        before = index.tokens(["d7"]).embeddings
        environment = index._store._terms._environment
        environment.write(lambda transaction: transaction.put(b"centroids 0", book.packed()[:-1] + b"?"))
        index._store.centroids._codebooks._known.clear()
        assert len(index.verify(repair=True).damaged) == 30
        assert index.verify().sound
        assert np.array_equal(index.tokens(["d7"]).embeddings, before)


class PageEncoder(VocabularyEncoder):
    """Sees four patches in each image, which have no vocabulary ids."""

    modalities = ("text", "image")
    fingerprint = "pages"

    def encode_query(self, items):
        images = [getattr(item, "image", None) for item in items]
        texts = [item if isinstance(item, str) else item.text for item in items]
        parts = []
        for text, image in zip(texts, images, strict=True):
            words = "" if image is None else f" {' '.join(f'{text}-{i}' for i in range(4))}"
            encoded = WordEncoder().encode_query([text + words])
            ids = [self.id_of(word) for word in text.split()] + [-1] * (len(words.split()))
            tokens = replace(encoded.tokens, ids=np.asarray(ids, dtype=np.int32))
            parts.append(Representation(encoded.pooled, tokens))
        return Representation.concatenate(parts)

    encode_document = encode_query


def test_pages_have_words_and_centroids(tmp_path):
    """A page with a text is found by both. A text has no centroids. Documents that are encoded again get them again."""
    picture = Image.new("RGB", (4, 4))
    with SmartIndex.create(tmp_path / "index", PageEncoder()) as index:
        index.add([Document(f"p{i}", f"page number{i}", image=picture) for i in range(LEAST)])
        index.add([Document(f"t{i}", f"text number{i}") for i in range(5)])
        index.add([Document("p20", "page number20", image=picture)])
        before = terms_of(index)
        for id, terms in before.items():
            assert has_centroids(terms) == id.startswith("p")
            expected = {VocabularyEncoder.id_of(word) for word in index.get([id])[0].text.split()}
            assert set(words_of(terms).tolist()) == expected
        assert index._store.terms.best(np.int32([VocabularyEncoder.id_of("number7")]), 3) == ["p7"]
        patch = WordEncoder().encode_query(["number7-2 number7-1"])
        assert index._store.centroids.best(patch.tokens.embeddings, None, 30)
        path = index.path

        def damage(transaction):
            transaction.put(b"centroids 0", books(index)[0].packed()[:-1] + b"\xff\xff")

        index._store._terms._environment.write(damage)
    with SmartIndex.open(path, PageEncoder(), sources=[path]) as index:
        assert len(index.verify(repair=True).damaged) == LEAST + 1
        assert index.verify().sound
        assert {id: has_centroids(one, firsts(index)) for id, one in terms_of(index).items()} == {
            id: id.startswith("p") for id in before
        }
        index.convert(OtherPages())
        assert len(books(index)) == 1
        assert index.verify().sound


class OtherPages(PageEncoder):
    fingerprint = "other pages"


def damage_tokens(index, ids):
    rows = index._store.pooled.get(ids)
    databases = index._store.tokens._environment.databases

    def write(transaction):
        for number, value in list(transaction.cursor(databases["segments"])):
            value = bytearray(value)
            for row in rows.values():
                at = bytes(value).find(row.key)
                if at >= 0:
                    value[at + 20] ^= 1
            transaction.put(number, bytes(value), db=databases["segments"])

    index._store.tokens._environment.write(write)


@pytest.mark.parametrize("broken", [["d3"], [f"d{i}" for i in range(60)]])
def test_damaged_tokens_are_left_to_verify(index, broken):
    """The other documents get their centroids, if there are any."""
    without_centroids(index)
    damage_tokens(index, broken)
    index.vacuum()
    assert {id for id, one in terms_of(index).items() if not has_centroids(one)} == set(broken)
    assert set(index.verify().damaged) == set(broken)


def test_a_reader_after_a_repair(index):
    """It uses the codebook that has come in the place of a damaged one."""
    with SmartIndex.open(index.path) as reader:
        check_best(reader, 0)
        index._store.centroids._codebooks.keep(0)
        index.delete(["d0"])
        index.vacuum()
        assert firsts(reader).tolist() == firsts(index).tolist()
        assert check_best(reader, 1) == check_best(index, 1)


def test_it_does_not_look_again_at_each_write(tmp_path, monkeypatch):
    """Even if there is always one document too few."""
    looks = []
    complete = centroid_terms.CentroidTerms.complete
    monkeypatch.setattr(centroid_terms.CentroidTerms, "complete", lambda self: (looks.append(1), complete(self))[1])
    with made(tmp_path / "index", LEAST - 1) as index:
        for seed in range(6):
            index.add_embeddings(documents(1), vectors(1, seed=100 + seed))
        assert index.count() == LEAST - 1
        assert len(looks) == 3
        assert books(index) == []
        index.add_embeddings(documents(3, 50), vectors(3, seed=70))
        assert len(books(index)) == 1


def test_documents_of_one_token_have_no_codebook(tmp_path):
    """Their pooled embeddings say the same."""
    with SmartIndex.create(tmp_path / "index", None, dimension=WIDTH) as index:
        index.add_embeddings(documents(90), Representation.from_embeddings(vectors(90).pooled))
        assert books(index) == []
        assert index._store.centroids._codebooks.growth().due == 2 * 90


def test_long_queries(index):
    """A query of many tokens is merged to 64, and finds the document that it was made of."""
    query = vectors(60).tokens[7]
    many = np.concatenate([query] * 40) + 1e-3 * batch(np.random.default_rng(0), [40 * len(query)], WIDTH).embeddings
    assert index._store.centroids.best(many, None, 3)[0] == index._store.centroids.best(query, None, 3)[0]


def test_first_terms_are_not_words():
    assert FIRST - 1 == WITHOUT_WORDS

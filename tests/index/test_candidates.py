"""The first stage of an index: each strategy against plain loops and against an index built afresh."""

from __future__ import annotations

import math
from itertools import chain, zip_longest

import chromadb
import numpy as np
import pytest
from helpers.another_process import another_process
from helpers.query_shares import query_shares
from helpers.word_encoder import VocabularyEncoder, WordEncoder
from hypothesis import given, settings
from hypothesis import strategies as st

from smart_rag import Document, IndexConfig, Representation, SmartIndex
from smart_rag.errors import CorruptStore
from smart_rag.index import candidates
from smart_rag.index.candidates import FirstStage

EXACT = IndexConfig(codec="exact")
STRATEGIES = ["terms", "pooled", "exhaustive"]
WORDS = ["pump", "boat", "keys", "carp", "tax", "oil", "mat", "the"]
QUERIES = ["pump keys the", "carp", "oil tax tax nowhere", "? mat", "?"]


def text_of(rng):
    # The first words are rare, the last one is everywhere.
    return " ".join(rng.choice(WORDS, rng.integers(1, 6), p=np.arange(1, 9) / 36))


def documents(count, seed=0):
    rng = np.random.default_rng(seed)
    return [Document(f"d{i}", text_of(rng), {"n": i, "even": i % 2 == 0}) for i in range(count)]


@pytest.fixture
def index(tmp_path):
    with SmartIndex.create(tmp_path / "index", VocabularyEncoder(), config=EXACT) as index:
        index.add(documents(40))
        yield index


def words(text):
    return {word for word in text.split() if word != "?"}


def weight(word, texts):
    frequency = sum(word in words(text) for text in texts)
    return math.log(1 + len(texts) / max(frequency, 1))


def cosines(query, held):
    query = VocabularyEncoder().encode_query([query]).pooled[0]
    return {d.id: float(query @ VocabularyEncoder().encode_document([d.text]).pooled[0]) for d in held}


def by_loops(query, held, limit, admits=lambda document: True):
    """The ids that the strategy `terms` is to choose, and what each weighs and its cosine, for comparing with ties."""
    texts = [document.text for document in held]
    weights = {d.id: sum(weight(word, texts) for word in words(d.text) & words(query)) for d in held if admits(d)}
    pooled = {id: cosine for id, cosine in cosines(query, held).items() if id in weights}
    return pooled, {id: value for id, value in weights.items() if value > 0}


def chosen(index, strategy, query, limit, *, state=None, **filters):
    encoded = VocabularyEncoder().encode_query([query])
    stage = FirstStage(index._store, limit, **filters, state=state)
    return getattr(stage, strategy)(encoded)[0]


@pytest.mark.parametrize("few", [0, 500])
@pytest.mark.parametrize("limit", [1, 2, 7, 1000])
@pytest.mark.parametrize(
    ("filters", "admits"),
    [
        ({}, lambda document: True),
        ({"where": {"even": True}}, lambda document: document.metadata["even"]),
        ({"where": {"n": 3}}, lambda document: document.metadata["n"] == 3),
        ({"where": {"n": -1}}, lambda document: False),
        ({"where_document": {"$contains": "pump"}}, lambda document: "pump" in document.text),
        (
            {"where": {"n": {"$lt": 20}}, "where_document": {"$contains": "boat"}},
            lambda document: document.metadata["n"] < 20 and "boat" in document.text,
        ),
    ],
)
def test_candidates_equal_those_of_loops(index, few, limit, filters, admits, monkeypatch):
    """Of those that the filters admit: by cosine and by weight of shared tokens, in turn."""
    monkeypatch.setattr(candidates, "EXHAUSTIVE_DOCUMENTS", few)
    check_candidates(index, limit, filters, admits)


def test_the_graph_of_a_small_index_is_not_asked(index, monkeypatch):
    """Chroma's graph sometimes lacks a document that was replaced, once in 900 openings of one of `golden/`."""

    def ask(*arguments, **filters):
        raise AssertionError("Chroma's graph was asked")

    monkeypatch.setattr(index._store.pooled, "_query", ask)
    for strategy in ("pooled", "terms"):
        for state in (None, index._store.settled_state()):
            assert sorted(chosen(index, strategy, "pump", 40, state=state).ids) == sorted(d.id for d in documents(40))


@pytest.mark.parametrize("limit", [1, 2, 7, 15])
@pytest.mark.parametrize(
    ("where", "admits"),
    [
        ({"even": True}, lambda document: document.metadata["even"]),
        ({"n": {"$lt": 25}}, lambda document: document.metadata["n"] < 25),
        ({"n": {"$gte": 38}}, lambda document: document.metadata["n"] >= 38),
    ],
)
@pytest.mark.parametrize(("spare", "widest"), [(1.5, 2000), (0.1, 2000), (1.5, 3)], ids=["wide", "too few", "too wide"])
def test_candidates_among_many_that_pass(index, limit, where, admits, spare, widest, monkeypatch):
    """If too many documents pass to compare each, Chroma looks for more than are needed, or filters them."""
    monkeypatch.setattr(candidates, "EXHAUSTIVE_DOCUMENTS", 0)
    monkeypatch.setattr(candidates, "_COMPARED", 0)
    monkeypatch.setattr(candidates, "_SPARE", spare)
    monkeypatch.setattr(candidates, "_WIDEST", widest)
    check_candidates(index, limit, {"where": where}, admits)


def check_candidates(index, limit, filters, admits):
    """While rows may change, and while nothing is written: the first time and later."""
    held = documents(40)
    keys = {id: row.key for id, row in index._store.pooled.get([document.id for document in held]).items()}
    state = index._store.settled_state()
    for query in QUERIES:
        pooled, weights = by_loops(query, held, limit, admits)
        # Which of several that share the same tokens is for the inverted index to say.
        best = index._store.terms.best(VocabularyEncoder().encode_query([query]).tokens.ids, 1000)
        best = [id for id in best if id in weights]
        assert [weights[id] for id in best] == pytest.approx(sorted(weights.values(), reverse=True), abs=1e-5)
        leading = sorted(pooled.values(), reverse=True)[:limit]
        for at in (None, state, state):
            first = chosen(index, "pooled", query, limit, state=at, **filters).ids
            assert [pooled[id] for id in first] == pytest.approx(leading, abs=1e-5)
            found = chosen(index, "terms", query, limit, state=at, **filters)
            turns = chain.from_iterable(zip_longest(first, best[:limit]))
            assert found.ids == list(dict.fromkeys(id for id in turns if id is not None))[:limit]
            assert found.pooled.tolist() == pytest.approx([pooled[id] for id in found.ids], abs=1e-5)
            assert found.keys == [keys[id] for id in found.ids]


def test_queries_together_are_queries_alone(index):
    encoded = VocabularyEncoder().encode_query(QUERIES)
    for filters in ({}, {"where": {"even": True}}):
        stage = FirstStage(index._store, 7, **filters)
        for query, found in zip(QUERIES, stage.terms(encoded), strict=True):
            alone = chosen(index, "terms", query, 7, **filters)
            assert found.rows == alone.rows
            assert (found.ids, found.keys, found.pooled.tolist()) == (alone.ids, alone.keys, alone.pooled.tolist())


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("weighting", ["idf", "none"])
def test_search_equals_loops(index, strategy, weighting):
    """Late scores with each query token weighted by its inverse document frequency; "?" as if all documents held it."""
    held = documents(40)
    texts = [document.text for document in held]
    encoder = VocabularyEncoder()
    for query in QUERIES:
        encoded = encoder.encode_query([query])
        even = weighting == "none" or set(query.split()) == {"?"}
        idf = [math.log(2) if word == "?" else weight(word, texts) for word in query.split()]
        parts = [1.0] * len(idf) if even else idf
        hits = index.search(query, 40, first_stage=strategy, weighting=weighting, where={"even": True})
        assert {hit.id for hit in hits} == {document.id for document in held if document.metadata["even"]}
        for hit in hits:
            tokens = encoder.encode_document([hit.text]).tokens[0].astype(np.float16).astype(np.float64)
            best = [max(float(q @ d) for d in tokens) for q in encoded.tokens[0].astype(np.float64)]
            late = sum(part * cosine for part, cosine in zip(parts, best, strict=True)) / sum(parts)
            assert hit.late_score == pytest.approx(late, abs=1e-3)
            assert hit.score == pytest.approx(hit.pooled_score + 2 * hit.late_score, abs=1e-5)
        shares = query_shares(index, encoded)
        expected = [part / sum(parts) for part in parts] if weighting == "idf" else shares
        assert shares.tolist() == pytest.approx(list(expected), abs=1e-6)


ID = st.sampled_from([f"d{i}" for i in range(6)])
TEXT = st.lists(st.sampled_from([*WORDS[:5], "?"]), min_size=1, max_size=3).map(" ".join)
OPERATION = st.one_of(
    st.tuples(st.just("add"), st.dictionaries(ID, TEXT, min_size=1, max_size=4)),
    st.tuples(st.just("delete"), st.sets(ID, min_size=1, max_size=4)),
    st.tuples(st.just("vacuum"), st.none()),
    st.tuples(st.just("reopen"), st.none()),
)


@settings(max_examples=6, deadline=None)
@given(operations=st.lists(OPERATION, min_size=2, max_size=8), limit=st.integers(1, 6))
def test_any_sequence_gives_what_an_index_built_afresh_gives(tmp_path_factory, operations, limit):
    """Candidates of each strategy, token weights and hits."""
    path = tmp_path_factory.mktemp("index")
    index = SmartIndex.create(path, VocabularyEncoder(), config=EXACT)
    texts = {}
    try:
        for name, argument in operations:
            if name == "add":
                index.add([Document(id, text) for id, text in argument.items()])
                texts |= argument
            elif name == "delete":
                index.delete(sorted(argument))
                texts = {id: text for id, text in texts.items() if id not in argument}
            elif name == "vacuum":
                index.vacuum()
            else:
                index.close()
                index = SmartIndex.open(path, VocabularyEncoder())
            # Read between the steps, so that what was seen is followed and not only read at the end.
            assert set(candidates_of(index, "terms", "pump keys", 6)) == set(texts)
        assert index.verify().sound
        with SmartIndex.create(tmp_path_factory.mktemp("fresh"), VocabularyEncoder(), config=EXACT) as fresh:
            fresh.add([Document(id, text) for id, text in sorted(texts.items())])
            for query in ("pump keys", "carp boat tax", "? pump"):
                ids = VocabularyEncoder().encode_query([query])
                assert index._store.terms.best(ids.tokens.ids, limit) == fresh._store.terms.best(ids.tokens.ids, limit)
                assert query_shares(index, ids).tolist() == query_shares(fresh, ids).tolist()
                for strategy in ("terms", "pooled"):
                    found = candidates_of(index, strategy, query, limit)
                    expected = candidates_of(fresh, strategy, query, limit)
                    assert list(found.values()) == pytest.approx(list(expected.values()), abs=1e-5)
                for strategy in STRATEGIES:
                    hits = index.search(query, 6, first_stage=strategy)
                    assert [(hit.id, hit.text) for hit in hits] == [
                        (hit.id, hit.text) for hit in fresh.search(query, 6, first_stage=strategy)
                    ]
    finally:
        index.close()


def candidates_of(index, strategy, query, limit):
    found = chosen(index, strategy, query, limit)
    return dict(zip(found.ids, found.pooled.tolist(), strict=True))


def test_a_rare_name_is_found_by_terms(tmp_path):
    """A token that the pooled embedding loses brings its document among the candidates."""
    rng = np.random.default_rng(0)
    filler = [f"filler{i}" for i in range(200)]
    texts = [" ".join(["pump", "report", *rng.choice(filler, 30)]) for _ in range(60)]
    texts.append(" ".join(["kowalski", *rng.choice(filler, 60)]))
    with SmartIndex.create(tmp_path / "index", VocabularyEncoder(), config=EXACT) as index:
        index.add_texts(texts)
        query = "pump report pump report kowalski"
        assert texts[-1] not in [row.document.text for row in chosen(index, "pooled", query, 4).rows.values()]
        assert texts[-1] in [row.document.text for row in chosen(index, "terms", query, 4).rows.values()]


@pytest.mark.parametrize("known", ["neither", "documents", "queries"])
def test_without_vocabulary_ids_it_switches_itself_off(tmp_path, known):
    """Then `terms` chooses as `pooled` does, and all tokens count the same."""
    encoders = {True: VocabularyEncoder(), False: WordEncoder()}
    held = documents(20)
    vectors = encoders[known == "documents"].encode_document([document.text for document in held])
    query = encoders[known == "queries"].encode_query(["pump keys the"])
    with SmartIndex.from_embeddings(tmp_path / "index", held, vectors, config=EXACT) as index:
        stage = FirstStage(index._store, 5)
        assert stage.terms(query)[0].rows == stage.pooled(query)[0].rows
        assert query_shares(index, query).tolist() == pytest.approx([1 / 3] * 3)
        assert index.verify().sound


def test_another_process_is_seen_at_once(tmp_path):
    """Documents added, replaced and deleted elsewhere, by every strategy and in the weights."""
    path = tmp_path / "index"
    with SmartIndex.create(path, VocabularyEncoder(), config=EXACT) as index:
        index.add_texts(["pump keys", "boat keys"], ["a", "b"])
    with another_process(path, "VocabularyEncoder") as writer, SmartIndex.open(path, VocabularyEncoder()) as index:
        texts = {"a": "pump keys", "b": "boat keys"}

        def assert_shows():
            for strategy in STRATEGIES:
                hits = index.search("carp keys", 10, first_stage=strategy)
                assert {hit.id: hit.text for hit in hits} == texts
            assert "carp" not in " ".join(texts.values()) or chosen(index, "terms", "carp", 1).ids
            query = VocabularyEncoder().encode_query(["carp keys"])
            parts = [weight(word, list(texts.values())) for word in ("carp", "keys")]
            assert query_shares(index, query).tolist() == pytest.approx([part / sum(parts) for part in parts])
            holders = {id for id, text in texts.items() if "keys" in text}
            assert set(index._store.terms.best(VocabularyEncoder().encode_query(["keys"]).tokens.ids, 9)) == holders

        assert_shows()
        for line, after in [
            ("index.add_texts(['carp keys'], ['c'])", texts | {"c": "carp keys"}),
            ("index.add_texts(['carp'], ['a'])", {"a": "carp", "b": "boat keys", "c": "carp keys"}),
            ("index.delete(['b'])", {"a": "carp", "c": "carp keys"}),
            ("index.vacuum()", {"a": "carp", "c": "carp keys"}),
        ]:
            writer.run(line)
            texts = after
            assert_shows()


def test_a_crash_between_terms_and_row(index, monkeypatch):
    """The old text keeps its terms, what came too much is removed by vacuum, and nothing is damaged."""
    keys = VocabularyEncoder().encode_query(["pump nowhere"])
    before = query_shares(index, keys).tolist()
    found = candidates_of(index, "terms", "pump", 40)
    best = index._store.terms.best(keys.tokens.ids, 40)
    replaced = best[0]
    with monkeypatch.context() as patch:
        patch.setattr(index._store.pooled, "upsert", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            index.add([Document(replaced, "nowhere"), Document("new", "nowhere else")])
    assert candidates_of(index, "terms", "pump", 40) == pytest.approx(found)
    assert "new" not in candidates_of(index, "terms", "nowhere", 41)
    assert "new" not in [hit.id for hit in index.search("nowhere", 50, first_stage="terms")]
    assert query_shares(index, keys).tolist() == before
    report = index.verify()
    assert report.sound
    assert report.orphans == 2
    index.vacuum()
    assert query_shares(index, keys).tolist() == before
    assert index._store.terms.best(keys.tokens.ids, 40) == best


def test_a_crash_between_row_and_old_terms(index, monkeypatch):
    """Nothing was acknowledged, so the documents and their terms are those of before."""
    with monkeypatch.context() as patch:
        patch.setattr(index._store._terms, "settle", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            index.add([Document("d0", "kowalski")])
    index._store.settle()
    with monkeypatch.context() as patch:
        patch.setattr(index._store._terms, "settle", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            index.delete(["d1"])
    index._store.settle()
    ids = VocabularyEncoder().encode_query(["kowalski"]).tokens.ids
    assert index._store.terms.best(ids, 3) == []
    assert set(candidates_of(index, "terms", "the", 1000)) == {f"d{i}" for i in range(40)}
    assert index.verify().sound
    index.vacuum()
    assert len(index._store._terms.changes(-1, -1, 0).slots) == 40


@pytest.mark.parametrize("read", ["search", "token_weights"])
def test_damaged_terms_are_reported_and_mended(index, read):
    """Every search says what to do, verify names the document, repair encodes it again."""
    query = VocabularyEncoder().encode_query(["pump keys"])
    expected = index.search("pump keys", 5, first_stage="terms")
    terms = index._store._terms
    database = terms._environment.databases["terms"]
    slot = int(terms.changes(-1, -1, 0).slots[3])
    [damaged] = terms.ids([slot])
    key = slot.to_bytes(8, "big")
    terms._environment.write(lambda transaction: transaction.put(key, b"\0" * 30, db=database))
    path = index.path
    index.close()
    with SmartIndex.open(path, VocabularyEncoder()) as index:
        with pytest.raises(CorruptStore, match=r"index.verify\(repair=True\)"):
            index.search("pump keys", first_stage="terms") if read == "search" else query_shares(index, query)
        assert index.search("pump keys", first_stage="pooled", weighting="none")
        assert index.verify(repair=True).damaged == (damaged,)
        assert index.verify().sound
        assert index.search("pump keys", 5, first_stage="terms") == expected


def test_equal_texts_and_metadata_alone(index):
    """Documents of one text have terms each; other metadata leaves them as they are."""
    index.add([Document("x", "kowalski pump"), Document("y", "kowalski pump")])
    index.add([Document("x", "kowalski pump", {"n": 1})])
    ids = VocabularyEncoder().encode_query(["kowalski"]).tokens.ids
    assert sorted(index._store.terms.best(ids, 5)) == ["x", "y"]
    index.delete(["x"])
    assert index._store.terms.best(ids, 5) == ["y"]
    assert index.verify().sound


@pytest.mark.parametrize("between", [lambda index: None, SmartIndex.vacuum])
def test_documents_that_were_encoded_beforehand(index, between):
    """They get their terms and tokens, whatever happens in between."""
    index.encode_documents(["kowalski pump", "kowalski"])
    between(index)
    index.add([Document("x", "kowalski pump"), Document("y", "kowalski")])
    ids = VocabularyEncoder().encode_query(["kowalski"]).tokens.ids
    assert sorted(index._store.terms.best(ids, 5)) == ["x", "y"]
    assert index.verify().sound
    assert {hit.id for hit in index.search("kowalski", 2)} == {"x", "y"}


def test_vectors_again_with_other_ids(tmp_path):
    """A document whose vectors stay and whose ids change is found by the new ones."""
    encoded = VocabularyEncoder().encode_document(["pump"])
    tokens = encoded.tokens
    other = Representation(encoded.pooled, type(tokens)(tokens.embeddings, tokens.offsets, np.int32([7])))
    with SmartIndex.from_embeddings(tmp_path / "index", [Document("a", "pump")], encoded) as index:
        index.add_embeddings([Document("a", "pump")], other)
        assert index._store.terms.best(np.int32([7]), 5) == ["a"]
        assert index._store.terms.best(tokens.ids, 5) == []


def test_auto_scores_all_of_a_small_index_and_chooses_in_a_large_one(tmp_path):
    """Above so many documents, those beyond the candidates are not scored."""
    with SmartIndex.create(tmp_path / "index", VocabularyEncoder(), config=EXACT) as index:
        index.add(documents(500))
        assert len(index.search("pump", 1000, candidates=1)) == 500
        assert index.search("pump", 5, candidates=5) == index.search("pump", 5, first_stage="exhaustive")
        index.add_texts(["one more"])
        by_terms = index.search("pump keys", 5, candidates=5, first_stage="terms")
        assert index.search("pump keys", 5, candidates=5) == by_terms
        assert by_terms != index.search("pump keys", 5, first_stage="exhaustive")


def test_cosines_do_not_depend_on_what_was_read_before(tmp_path):
    """Not even in the last bit, because products are rounded by the places of the rows."""
    rng = np.random.default_rng(0)
    held = [Document(f"d{i:02}", "text", {"n": i}) for i in range(60)]
    vectors = rng.standard_normal((60, 333)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    query = Representation.from_embeddings(vectors[:1] + 0.1, [vectors[:1]])
    SmartIndex.from_embeddings(
        tmp_path / "index", held, Representation.from_embeddings(vectors, list(vectors[:, None]))
    ).close()
    found = []
    for first in ({"n": {"$gt": 30}}, {"n": {"$lt": 20}}, {"n": 59}):
        with SmartIndex.open(tmp_path / "index") as index:
            for where in (first, {"n": {"$gt": 2}}):  # 57 rows, the last of which are rounded in another way
                stage = FirstStage(index._store, 60, where, state=index._store.settled_state())
                last = stage.pooled(query)[0]
            found.append(dict(zip(last.ids, last.pooled.tolist(), strict=True)))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(("few", "called"), [(0, "query"), (500, "vectors_of_all")])
def test_a_document_that_changes_before_chroma_is_asked(tmp_path, monkeypatch, few, called):
    """It is out, if it does not pass the filter any more. With a client of the caller, nobody sees the write."""

    def held(passes):
        return [Document(f"d{i}", f"the w{i}", {"passes": passes}) for i in range(20)]

    client = chromadb.PersistentClient(tmp_path / "chroma", chromadb.Settings(anonymized_telemetry=False))
    with SmartIndex.create(tmp_path / "index", VocabularyEncoder(), client=client) as index:
        index.add(held(True))
        ask = getattr(index._store.pooled, called)

        def later(*arguments):
            monkeypatch.undo()
            index.add(held(False))
            return ask(*arguments)

        monkeypatch.setattr(candidates, "EXHAUSTIVE_DOCUMENTS", few)
        monkeypatch.setattr(index._store.pooled, called, later)
        assert index.search("the w1", 3, first_stage="terms", where={"passes": True}) == []


def test_long_embeddings_of_other_programs_are_compared_by_their_cosines(tmp_path):
    with SmartIndex.create(tmp_path / "index", VocabularyEncoder()) as index:
        index.add(documents(12))
        pooled = index._store.pooled.embeddings(["d0"])["d0"]
        far = 500 * (np.roll(pooled, 1) + 0.1 * pooled)
        others = {"ids": [f"x{i}" for i in range(10)], "embeddings": [far] * 10, "metadatas": [{"even": True}] * 10}
        index._store.pooled._write("upsert", **others)
        state = index._store.settled_state()
        query = Representation(pooled[None], VocabularyEncoder().encode_query(["pump"]).tokens)
        found = FirstStage(index._store, 6, {"even": True}, state=state).pooled(query)[0]
        assert found.ids[0] == "d0"

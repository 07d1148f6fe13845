"""`SmartRetriever` against the index below it."""

import pickle

import pytest
from langchain_core.documents import Document
from langchain_core.runnables import ConfigurableField
from langchain_smart_rag import SmartRetriever, SmartVectorStore

import smart_rag
from smart_rag import IndexConfig, SmartIndex
from smart_rag.errors import IndexClosed, IndexNotFound, InvalidInput


@pytest.fixture
def filled(index, documents):
    index.add_texts(
        [document.page_content for document in documents],
        [document.id for document in documents],
        [document.metadata for document in documents],
    )
    return index


def test_documents_and_scores_are_the_indexs(filled, documents):
    hits = filled.search("dogs", 4)
    found = SmartRetriever(index=filled).invoke("dogs")
    assert [document.id for document in found] == [hit.id for hit in hits]
    for document, hit in zip(found, hits, strict=True):
        assert document.metadata == {**hit.metadata, "relevance_score": hit.score}
    plain = SmartRetriever(index=filled, with_score=False, k=12).invoke("dogs")
    assert sorted(plain, key=lambda document: int(document.id[1:])) == documents


def test_by_default_the_weights_are_the_indexs(tmp_path, minilm):
    config = IndexConfig(weights=(0.25, 3.0))
    with SmartIndex.create(tmp_path / "index", minilm, config=config) as index:
        index.add_texts(["Dogs bark at night.", "The boat house is locked."])
        for hit, document in zip(index.search("dogs"), SmartRetriever(index=index).invoke("dogs"), strict=True):
            expected = 0.25 * hit.pooled_score + 3 * hit.late_score
            assert document.metadata["relevance_score"] == pytest.approx(expected, abs=1e-5)


def test_fields_and_arguments_of_a_call(filled):
    retriever = SmartRetriever(index=filled, k=3, filter={"source": "1.txt"}, weights=(0, 1), first_stage="exhaustive")
    hits = filled.search("dogs", 3, where={"source": "1.txt"}, weights=(0, 1), first_stage="exhaustive")
    assert [document.id for document in retriever.invoke("dogs")] == [hit.id for hit in hits]
    hits = filled.search("dogs", 2, where_document={"$contains": "boat"}, weights=(1, 0))
    options = {
        "k": 2,
        "filter": None,
        "where_document": {"$contains": "boat"},
        "weights": (1, 0),
        "first_stage": "pooled",
    }
    assert [document.id for document in retriever.invoke("dogs", **options)] == [hit.id for hit in hits]
    with pytest.raises(TypeError):
        retriever.invoke("dogs", top_k=3)


@pytest.fixture
def files(index, tmp_path):
    """An index of two files with three chunks each. The second file is a copy of the first."""
    texts = ["The keys hang in the office.", "Dogs bark at night in the boat house.", "The watch ends at six."]
    for name in ("a.txt", "b.txt"):
        path = tmp_path / name
        metadata = {"source": str(path)}
        index.add(smart_rag.Document(f"{path}#{i}", text, {**metadata, "chunk": i}) for i, text in enumerate(texts))
    return index


def test_one_document_of_each_source(files):
    hits = files.search("dogs", 4, per_source=1)
    assert [hit.source for hit in hits] == [hit.source for hit in hits[:2]]
    for found in (
        SmartRetriever(files, per_source=1).invoke("dogs"),
        SmartRetriever(files).invoke("dogs", per_source=1),
        SmartVectorStore(files).as_retriever(search_kwargs={"per_source": 1}).invoke("dogs"),
        SmartVectorStore(files).max_marginal_relevance_search("dogs", per_source=1),
    ):
        assert [document.id for document in found] == [hit.id for hit in hits]
    assert len(SmartRetriever(files, per_source=1, source_key="chunk", k=9).invoke("dogs")) == 3
    with pytest.raises(InvalidInput, match="per_source"):
        SmartRetriever(files, per_source=0)


def test_near_duplicates_are_named(files):
    hits = files.search("dogs", 4, fold_duplicates=True)
    for found in (
        SmartRetriever(files, fold_duplicates=True).invoke("dogs"),
        SmartVectorStore(files).as_retriever(search_kwargs={"fold_duplicates": True}).invoke("dogs"),
    ):
        assert len(found) == 3
        assert [document.metadata["duplicates"] for document in found] == [list(hit.duplicates) for hit in hits]
    assert all("duplicates" not in document.metadata for document in SmartRetriever(files).invoke("dogs"))


def test_neighbours_stand_around_the_passage(files):
    hits = files.search("dogs", 4)
    retriever = SmartRetriever(files, neighbours=1)
    assert [document.page_content for document in retriever.invoke("dogs")] == [hit.window() for hit in hits]
    assert retriever.invoke("dogs")[0].page_content.splitlines()[1] == hits[0].text
    assert [document.page_content for document in retriever.invoke("dogs", neighbours=0)] == [hit.text for hit in hits]
    for bad in (-1, 1.5):
        with pytest.raises(InvalidInput, match="neighbours"):
            SmartRetriever(files, neighbours=bad)


@pytest.mark.asyncio
async def test_async_gives_the_same(filled):
    retriever = SmartRetriever(index=filled, k=3)
    assert await retriever.ainvoke("dogs") == retriever.invoke("dogs")
    assert await retriever.ainvoke("dogs", k=1, filter={"page": 8}) == retriever.invoke("dogs", k=1, filter={"page": 8})
    assert await retriever.abatch(["dogs", "boats"]) == retriever.batch(["dogs", "boats"])


def test_configuration_survives(filled):
    """By pickle, by `model_dump`, and by LangChain's configurable fields."""
    retriever = SmartRetriever(index=filled, k=2, filter={"source": "1.txt"}, tags=["mine"])
    expected = retriever.invoke("dogs")
    for copy in (
        pickle.loads(pickle.dumps(retriever)),
        SmartRetriever(**retriever.model_dump()),
        SmartRetriever.model_validate_json(retriever.model_dump_json()),
    ):
        assert copy.invoke("dogs") == expected
        assert copy.model_dump() == retriever.model_dump()
        assert copy.index is not filled
        copy.index.close()
    configurable = retriever.configurable_fields(k=ConfigurableField(id="k"))
    assert configurable.invoke("dogs", {"configurable": {"k": 1}}) == expected[:1]


def test_over_a_folder(filled):
    filled.close()
    retriever = SmartRetriever(str(filled.path), k=1)
    assert isinstance(retriever.index, SmartIndex)
    assert isinstance(retriever.invoke("dogs")[0], Document)
    retriever.index.close()
    with pytest.raises(IndexClosed):
        retriever.invoke("dogs")


def test_bad_input(filled, tmp_path):
    with pytest.raises(IndexNotFound):
        SmartRetriever(index=tmp_path / "nowhere")
    for wrong in ({"k": 0}, {"candidates": 0}, {"weights": (0, 0)}, {"min_relevance": 2}):
        with pytest.raises(InvalidInput, match=next(iter(wrong))):
            SmartRetriever(filled, **wrong)
    retriever = SmartRetriever(index=filled)
    for call in (lambda: retriever.invoke(" "), lambda: retriever.invoke("dogs", k=0)):
        with pytest.raises(InvalidInput):
            call()


def test_arguments_that_are_not_taken_are_refused(index):
    """One that is overlooked, such as `where` for `filter`, would widen the search without a word."""
    for wrong in ({"where": {"n": 1}}, {"top_k": 4}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SmartRetriever(index=index, **wrong)


def test_a_filter_on_texts(filled):
    """It is a field, which `invoke` can replace."""
    retriever = SmartRetriever(index=filled, k=99, where_document={"$contains": "Dogs"})
    assert {document.id for document in retriever.invoke("cats")} == {"d1", "d11"}
    assert {document.id for document in pickle.loads(pickle.dumps(retriever)).invoke("cats")} == {"d1", "d11"}
    assert {document.id for document in retriever.invoke("cats", where_document={"$regex": "^The (cat|boat)"})} == {
        *("d0", "d10")
    }
    with pytest.raises(InvalidInput, match="the filter on texts has the operator"):
        retriever.invoke("cats", where_document={"$near": "a"})


def test_a_description_holds_the_full_path(filled, monkeypatch):
    """A link stays a link, as in `SmartIndex.path`."""
    link = filled.path.with_name("link")
    link.symlink_to(filled.path)
    monkeypatch.chdir(link.parent)
    retriever = SmartRetriever(index="link")
    assert retriever.model_dump()["index"] == str(link)
    retriever.index.close()

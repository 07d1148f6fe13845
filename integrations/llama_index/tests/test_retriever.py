"""`SmartRetriever` returns what its index returns, as nodes."""

from __future__ import annotations

import asyncio
import json
import pickle

import numpy as np
import pytest
from helpers.word_encoder import WordEncoder
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor import MetadataReplacementPostProcessor, SimilarityPostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index_smart_rag import (
    SmartRetriever,
    SmartVectorStore,
)

from smart_rag import Document, IndexConfig, SmartIndex
from smart_rag.demo import sample_folder
from smart_rag.errors import IndexNotFound, InvalidInput

TEXTS = {word: f"{word} is what this passage is about" for word in ["cats", "dogs", "boats", "keys", "taxes", "rain"]}


@pytest.fixture
def index(tmp_path):
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as index:
        index.add(
            [Document(id, text, {"source": f"{id}.md", "page": i + 1}) for i, (id, text) in enumerate(TEXTS.items())]
        )
        yield index


def test_nodes_and_scores_are_the_indexs(index):
    nodes = SmartRetriever(index, 4).retrieve("keys for boats")
    hits = index.search("keys for boats", 4)
    assert [node.node_id for node in nodes] == [hit.id for hit in hits]
    assert [node.score for node in nodes] == pytest.approx([hit.score for hit in hits], abs=1e-6)
    assert nodes[0].text == hits[0].text
    assert nodes[0].metadata == hits[0].metadata
    assert nodes[0].node.ref_doc_id == hits[0].source


@pytest.mark.parametrize("options", [{"weights": (0.0, 1.0)}, {"first_stage": "exhaustive"}, {"candidates": 2}])
def test_options_reach_the_search(index, options):
    nodes = SmartRetriever(index, 2, **options).retrieve("boats about")
    hits = index.search("boats about", 2, **options)
    assert [(node.node_id, node.score) for node in nodes] == [(hit.id, hit.score) for hit in hits]


@pytest.fixture
def files(tmp_path):
    """An index of two files with three chunks each. The second file is a copy of the first."""
    texts = ["the keys hang in the office", "dogs bark at night in the boat house", "the watch ends at six"]
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as index:
        for name in ("a.txt", "b.txt"):
            path = str(tmp_path / name)
            index.add([Document(f"{path}#{i}", text, {"source": path, "chunk": i}) for i, text in enumerate(texts)])
        yield index


def test_one_node_of_each_source(files):
    hits = files.search("dogs bark", 4, per_source=1)
    assert len({hit.source for hit in hits}) == len(hits) == 2
    assert [node.node_id for node in SmartRetriever(files, 4, per_source=1).retrieve("dogs bark")] == [
        hit.id for hit in hits
    ]
    assert len(SmartRetriever(files, 9, per_source=1, source_key="chunk").retrieve("dogs bark")) == 3
    with pytest.raises(InvalidInput, match="per_source"):
        SmartRetriever(files, per_source=0)


def test_near_duplicates_are_named(files):
    hits = files.search("dogs bark", 4, fold_duplicates=True)
    nodes = SmartRetriever(files, 4, fold_duplicates=True).retrieve("dogs bark")
    assert len(nodes) == 3
    assert [node.metadata["duplicates"] for node in nodes] == [list(hit.duplicates) for hit in hits]
    assert all(hits[0].duplicates[0] not in node.node.get_content(mode) for node in nodes for mode in ("llm", "embed"))
    assert all("duplicates" not in node.metadata for node in SmartRetriever(files, 4).retrieve("dogs bark"))


def test_neighbours_are_in_the_window(files):
    """As with LlamaIndex's own sentence windows, a postprocessor puts them in the place of the passage."""
    hits = files.search("dogs bark", 4)
    retriever = SmartRetriever(files, 4, neighbours=1)
    nodes = retriever.retrieve("dogs bark")
    assert [node.text for node in nodes] == [hit.text for hit in hits]
    assert "the office" in nodes[0].metadata["window"]
    assert "the office" not in nodes[0].node.get_content("llm")
    replaced = MetadataReplacementPostProcessor(target_metadata_key="window").postprocess_nodes(nodes)
    assert [node.text for node in replaced] == [hit.window() for hit in hits]
    for bad in (-1, 1.5):
        with pytest.raises(InvalidInput, match="neighbours"):
            SmartRetriever(files, neighbours=bad)


def test_by_default_the_weights_are_the_indexs(tmp_path):
    with SmartIndex.create(tmp_path / "index", WordEncoder(), config=IndexConfig(weights=(0.25, 3.0))) as index:
        index.add([Document(id, text) for id, text in TEXTS.items()])
        expected = [0.25 * hit.pooled_score + 3 * hit.late_score for hit in index.search("keys for boats", 6)]
        nodes = SmartRetriever(index, 6).retrieve("keys for boats")
        assert [node.score for node in nodes] == pytest.approx(expected, abs=1e-5)
        query = VectorStoreQuery(query_str="keys for boats", similarity_top_k=6)
        assert SmartVectorStore(index).query(query).similarities == pytest.approx(expected, abs=1e-5)


def test_filters(index):
    filters = MetadataFilters(filters=[MetadataFilter(key="page", value=2, operator="<=")])
    assert {node.node_id for node in SmartRetriever(index, filters=filters).retrieve("keys")} == {"cats", "dogs"}


def test_async_is_the_same(index):
    retriever = SmartRetriever(index, 3)
    assert asyncio.run(retriever.aretrieve("rain")) == retriever.retrieve("rain")


def test_it_opens_an_index_that_was_made_without_llama_index(tmp_path):
    with SmartIndex.create(tmp_path / "index") as index:
        index.add_files([sample_folder()])
    node = SmartRetriever(tmp_path / "index", 1).retrieve("Which bearings does the seawater pump need?")[0]
    assert "6205-2RS" in node.text
    assert node.metadata["source"].endswith("engineering_report.pdf")
    assert node.metadata["page"] == 3


def test_serialisation(tmp_path):
    with SmartIndex.create(tmp_path / "index") as index:
        index.add([Document(id, text) for id, text in TEXTS.items()])
    filters = MetadataFilters(filters=[MetadataFilter(key="page", value=2, operator="<=")])
    for options in ({}, {"filters": filters, "weights": (1.0, 2.0), "first_stage": "exhaustive"}):
        retriever = SmartRetriever(tmp_path / "index", 2, **options)
        assert retriever.class_name() == retriever.to_dict()["class_name"] == "SmartRetriever"
        for copied in (SmartRetriever.from_dict(retriever.to_dict()), pickle.loads(pickle.dumps(retriever))):
            assert copied.to_dict() == retriever.to_dict()
            assert copied.retrieve("dogs") == retriever.retrieve("dogs")


def test_bad_input(tmp_path, index):
    with pytest.raises(IndexNotFound, match="nowhere"):
        SmartRetriever(tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match="query is empty"):
        SmartRetriever(index).retrieve(" ")
    with pytest.raises(InvalidInput, match="top_k"):
        SmartRetriever(index, 0).retrieve("x")


def test_in_a_query_engine_of_the_frameworks_own(index):
    engine = RetrieverQueryEngine.from_args(SmartRetriever(index, 2), llm=MockLLM())
    response = engine.query("keys")
    assert [node.node_id for node in response.source_nodes] == [hit.id for hit in index.search("keys", 2)]


def test_a_filter_on_texts_and_numbers_of_numpy(index):
    """They are in the description, too, from which another process makes the same retriever."""
    text = next(iter(index.documents())).text
    retriever = SmartRetriever(
        index, np.int64(9), candidates=np.int64(9), weights=np.ones(2), where_document={"$contains": text}
    )
    expected = {document.id for document in index.documents() if text in document.text}
    assert {found.node_id for found in retriever.retrieve("keys")} == expected
    assert len(expected) < index.count()
    described = json.loads(json.dumps(retriever.to_dict()))
    assert described["where_document"] == {"$contains": text}
    assert SmartRetriever.from_dict({**described, "index": index}).retrieve("keys") == retriever.retrieve("keys")


def test_a_description_holds_the_full_path(index, monkeypatch):
    monkeypatch.chdir(index.path.parent)
    with SmartIndex.open("index", WordEncoder()) as opened:
        assert SmartRetriever(opened).to_dict()["index"] == str(index.path)


def test_relevance_is_the_score_if_it_is_asked_for(index):
    """Then a cutoff of LlamaIndex's works, and the description says so."""
    hits = index.search("keys", 3)
    retriever = SmartRetriever(index, 3, with_relevance=True)
    found = retriever.retrieve("keys")
    assert [node.score for node in found] == [hit.relevance for hit in hits]
    assert retriever.to_dict()["with_relevance"]
    kept = SimilarityPostprocessor(similarity_cutoff=hits[1].relevance).postprocess_nodes(found)
    assert [node.node_id for node in kept] == [hit.id for hit in hits if hit.relevance >= hits[1].relevance]
    fewer = SmartRetriever(index, 3, min_relevance=hits[1].relevance).retrieve("keys")
    assert [node.node_id for node in fewer] == [node.node_id for node in kept]

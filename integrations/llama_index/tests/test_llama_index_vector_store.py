"""`SmartVectorStore`: what an application expects of a vector store, and tokens in step with it."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers.word_encoder import CountingEncoder, WordEncoder
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import TokenTextSplitter
from llama_index.core.schema import ImageNode, NodeRelationship, QueryBundle, RelatedNodeInfo, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode
from llama_index_smart_rag import SmartEmbedding, SmartVectorStore

from smart_rag import SmartIndex
from smart_rag.errors import IndexClosed, IndexMismatch, InvalidInput

WORDS = ["cats", "dogs", "boats", "keys", "taxes", "rain"]


@pytest.fixture
def encoder():
    return CountingEncoder()


@pytest.fixture
def store(tmp_path, encoder):
    with SmartIndex.create(tmp_path / "index", encoder) as index:
        yield SmartVectorStore(index)


def nodes_of(words=WORDS, ref="doc"):
    return [
        TextNode(
            id_=f"{ref}-{i}",
            text=f"{word} is what this passage is about",
            metadata={"n": i, "word": word, "even": i % 2 == 0, "tags": ["a", word]},
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=ref)},
        )
        for i, word in enumerate(words)
    ]


def ids(store, query="keys", top_k=3, **options):
    return store.query(VectorStoreQuery(query_str=query, similarity_top_k=top_k, **options)).ids


def tokens_kept(store) -> int:
    """How many texts have tokens on disk."""
    report = store.index.verify()
    assert report.sound
    return len(store.index._store.tokens)


# --- adding and asking --------------------------------------------------------------------------


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


def test_many_nodes_in_one_call(store):
    nodes = [TextNode(id_=str(i), text=f"passage{i} number{i}") for i in range(5_600)]
    assert len(store.add(nodes)) == 5_600
    assert store.index.count() == 5_600
    assert ids(store, "passage5511 number5511", 1) == ["5511"]


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


def test_delete_nodes_without_anything_is_refused(store):
    store.add(nodes_of())
    with pytest.raises(InvalidInput, match=r"clear\(\)"):
        store.delete_nodes()
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


# --- filters ------------------------------------------------------------------------------------

OPERATORS = [
    ("n", FilterOperator.EQ, 3),
    ("n", FilterOperator.NE, 3),
    ("n", FilterOperator.GT, 3),
    ("n", FilterOperator.GTE, 3),
    ("n", FilterOperator.LT, 3),
    ("n", FilterOperator.LTE, 3),
    ("word", FilterOperator.EQ, "keys"),
    ("word", FilterOperator.IN, ["keys", "rain", "unknown"]),
    ("word", FilterOperator.NIN, ["keys", "rain"]),
    ("absent", FilterOperator.NE, "x"),
    ("absent", FilterOperator.NIN, ["x"]),
    ("absent", FilterOperator.EQ, "x"),
]


def passes(metadata, key, operator, value) -> bool:
    """What an operator means; a node without the key differs from every value and compares with none."""
    if key not in metadata:
        return operator in ("!=", "nin")
    own = metadata[key]
    return {
        "==": lambda: own == value,
        "!=": lambda: own != value,
        ">": lambda: own > value,
        ">=": lambda: own >= value,
        "<": lambda: own < value,
        "<=": lambda: own <= value,
        "in": lambda: own in value,
        "nin": lambda: own not in value,
    }[operator]()


def admitted(filters):
    """The ids of the nodes that pass, by plain Python."""
    together = {"and": all, "or": any, "not": lambda each: not any(each)}[filters.condition.value]
    return {
        node.node_id
        for node in nodes_of()
        if together([passes(node.metadata, f.key, f.operator.value, f.value) for f in filters.filters])
    }


@pytest.mark.parametrize(("key", "operator", "value"), OPERATORS)
@pytest.mark.parametrize("condition", [FilterCondition.AND, FilterCondition.OR])
def test_filters_mean_what_they_say(store, key, operator, value, condition):
    store.add(nodes_of())
    one = MetadataFilter(key=key, operator=operator, value=value)
    for filters in ([one], [one, MetadataFilter(key="word", value="boats", operator=FilterOperator.NE)]):
        wanted = MetadataFilters(filters=filters, condition=condition)
        assert set(ids(store, top_k=6, filters=wanted)) == admitted(wanted)
        assert {node.node_id for node in store.get_nodes(filters=wanted)} == admitted(wanted)


@pytest.mark.parametrize(
    ("key", "operator", "value"), [row for row in OPERATORS if row[1].value in ("==", "!=", "in", "nin")]
)
def test_negated_filters(store, key, operator, value):
    store.add(nodes_of())
    wanted = MetadataFilters(
        filters=[
            MetadataFilter(key=key, operator=operator, value=value),
            MetadataFilter(key="word", value="cats"),
        ],
        condition=FilterCondition.NOT,
    )
    assert set(ids(store, top_k=6, filters=wanted)) == admitted(wanted)


def test_nested_filters(store):
    store.add(nodes_of())
    either = MetadataFilters(
        filters=[MetadataFilter(key="n", value=1), MetadataFilter(key="n", value=4)], condition=FilterCondition.OR
    )
    wanted = MetadataFilters(filters=[either, MetadataFilter(key="n", value=3, operator=FilterOperator.GT)])
    assert ids(store, top_k=6, filters=wanted) == ["doc-4"]


@pytest.mark.parametrize("operator", ["text_match", "text_match_insensitive", "contains", "any", "all", "is_empty"])
def test_a_filter_that_chroma_does_not_have(store, operator):
    store.add(nodes_of())
    filters = MetadataFilters(filters=[MetadataFilter(key="tags", value="a", operator=operator)])
    for ask in (lambda: ids(store, filters=filters), lambda: store.get_nodes(filters=filters)):
        with pytest.raises(InvalidInput, match=f"'tags'.*'{operator}'.*=="):
            ask()
    with pytest.raises(InvalidInput, match="'tags'"):
        store.delete_nodes(filters=filters)
    assert store.index.count() == 6


def test_more_that_chroma_does_not_have(store):
    more = MetadataFilter(key="n", value=1, operator=FilterOperator.GT)
    with pytest.raises(InvalidInput, match="'>' under `not`"):
        ids(store, filters=MetadataFilters(filters=[more], condition=FilterCondition.NOT))
    group = MetadataFilters(filters=[MetadataFilters(filters=[more])], condition=FilterCondition.NOT)
    with pytest.raises(InvalidInput, match="cannot negate a group"):
        ids(store, filters=group)
    with pytest.raises(InvalidInput, match="None"):
        ids(store, filters=MetadataFilters(filters=[MetadataFilter(key="n", value=None)]))


def test_doc_ids_are_a_filter(store):
    store.add([*nodes_of(WORDS[:2], "a"), *nodes_of(WORDS[:2], "b"), *nodes_of(WORDS[:2], "c")])
    assert set(ids(store, top_k=6, doc_ids=["a", "c"])) == {"a-0", "a-1", "c-0", "c-1"}
    filters = MetadataFilters(filters=[MetadataFilter(key="n", value=1)])
    assert set(ids(store, top_k=6, doc_ids=["a", "c"], filters=filters)) == {"a-1", "c-1"}


def test_empty_filters_are_none(store):
    store.add(nodes_of())
    assert len(ids(store, top_k=6, filters=MetadataFilters(filters=[]))) == 6


# --- modes --------------------------------------------------------------------------------------


def test_mmr_is_maximal_marginal_relevance(store):
    store.add(
        [TextNode(id_=f"{word}{i}", text=f"{word} swim {extra}") for word in WORDS for i, extra in enumerate("xyz")]
    )
    encoder = WordEncoder()
    for threshold in (0.0, 0.3, 0.7, 1.0):
        hits = store.index.search("cats swim", 18)
        vectors = {hit.id: encoder.encode_document([hit.text]).pooled[0] for hit in hits}
        chosen = []
        for _ in range(5):
            best, best_value = None, -np.inf
            for hit in hits:
                nearest = max((float(vectors[hit.id] @ vectors[other]) for other in chosen), default=0.0)
                value = threshold * hit.score / 3 - (1 - threshold) * nearest
                if hit.id not in chosen and value > best_value + 1e-7:
                    best, best_value = hit.id, value
            chosen.append(best)
        query = VectorStoreQuery(
            query_str="cats swim", similarity_top_k=5, mode=VectorStoreQueryMode.MMR, mmr_threshold=threshold
        )
        result = store.query(query, mmr_prefetch_k=18)
        assert result.ids == chosen
        by_id = {hit.id: hit.score for hit in hits}
        assert result.similarities == [by_id[id] for id in result.ids]


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
    """As HyDE and `custom_embedding_strs` make one."""
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


def test_eight_threads_get_the_answers_of_one(store):
    store.add(nodes_of())
    queries = [f"{a} {b}" for a in WORDS for b in WORDS]
    expected = [ids(store, query) for query in queries]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda query: ids(store, query), queries * 4)) == expected * 4


def test_it_is_opened_again_in_a_new_process(tmp_path):
    store = SmartVectorStore(tmp_path / "index")
    nodes = nodes_of()
    VectorStoreIndex(
        nodes, storage_context=StorageContext.from_defaults(vector_store=store), embed_model=store.embed_model
    )
    expected = store.query(VectorStoreQuery(query_str="where are the keys?", similarity_top_k=6))
    store.close()
    code = """
import json, sys
from llama_index.core import VectorStoreIndex
from llama_index_smart_rag import SmartVectorStore
store = SmartVectorStore(sys.argv[1])
index = VectorStoreIndex.from_vector_store(store, embed_model=store.embed_model)
found = index.as_retriever(similarity_top_k=6).retrieve("where are the keys?")
print(json.dumps([[node.node_id, node.score, node.node.ref_doc_id, node.metadata] for node in found]))
"""
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "index")], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert [row[0] for row in found] == expected.ids
    assert [row[1] for row in found] == pytest.approx(expected.similarities, abs=1e-6)
    assert all(row[2] == "doc" for row in found)
    assert [row[3] for row in found] == [node.metadata for node in expected.nodes]


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


def test_its_embedding_can_be_made_again(tmp_path):
    store = SmartVectorStore(tmp_path / "index", "minilm")
    embedding = store.embed_model
    copied = SmartEmbedding.from_dict(embedding.to_dict())
    assert copied.get_query_embedding("keys") == pytest.approx(embedding.get_query_embedding("keys"), abs=1e-6)


def test_arguments_that_are_not_taken_are_refused(tmp_path):
    with pytest.raises(TypeError, match="persist_dir"):
        SmartVectorStore(tmp_path / "index", persist_dir="x")
    with pytest.raises(TypeError, match="tokenstore"):
        SmartEmbedding("minilm", tokenstore="x")
    with pytest.raises(InvalidInput, match="open index"):
        SmartVectorStore(tmp_path / "index", SmartEmbedding("minilm"))


def test_closed_others_may_write(tmp_path):
    with SmartVectorStore(tmp_path / "index", "minilm") as store:
        store.add(nodes_of())
    with SmartVectorStore(tmp_path / "index") as again:
        again.add(nodes_of(["owls"]))
        assert again.index.count() == 6

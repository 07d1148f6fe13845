"""Images in LlamaIndex: nodes that carry them, embeddings of them, queries by them, and that they reach a model."""

from __future__ import annotations

import asyncio
import base64
import json
from io import BytesIO
from typing import ClassVar

import numpy as np
import pytest
from fpdf import FPDF
from helpers import tiny_vision
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ImageBlock, LLMMetadata
from llama_index.core.bridge.pydantic import Field
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import ImageDocument, ImageNode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery
from llama_index_smart_rag import SmartEmbedding, SmartRerank, SmartRetriever, SmartVectorStore, citations, query_engine
from PIL import Image

from smart_rag import CachedEncoder, SmartEncoder, SmartIndex
from smart_rag.errors import DocumentError, InvalidInput
from smart_rag.types import Content


class Counting(SmartEncoder):
    """Keeps what it was asked to encode."""

    documents: ClassVar[list] = []

    def encode_document(self, items, **options):
        self.documents += items
        return super().encode_document(items, **options)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tiny_vision.qwen3_vl(tmp_path_factory.mktemp("vision"))
    return Counting(folder, profile="qwen3-vl-embedding", max_pixels=16 * 32 * 32, device="cpu")


@pytest.fixture
def encoder(model):
    model.documents = []
    return model


@pytest.fixture
def folder(tmp_path):
    """Two pictures, and a report of two pages."""
    path = tmp_path / "files"
    path.mkdir()
    for name, seed in (("boat", 1), ("chart", 2)):
        pixels = np.random.default_rng(seed).integers(0, 255, (64, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path / f"{name}.png")
    pdf = FPDF()
    for text in ("The boat keys hang in the hall.", "Taxes are due in April."):
        pdf.add_page()
        pdf.set_font("Helvetica", size=20)
        pdf.cell(text=text)
    pdf.output(str(path / "report.pdf"))
    return path


@pytest.fixture
def index(tmp_path, encoder, folder):
    with SmartIndex.create(tmp_path / "index", encoder) as index:
        index.add_files([folder])
        yield index


@pytest.fixture
def store(tmp_path, encoder):
    with SmartIndex.create(tmp_path / "store", encoder) as index:
        yield SmartVectorStore(index)


# --- hits as nodes ------------------------------------------------------------------------------


def test_hits_with_an_image_are_image_nodes(index, folder):
    index.add_texts(["Only words."], ids=["words"])
    nodes = {node.node_id: node.node for node in SmartRetriever(index, 9).retrieve("boat keys")}
    assert len(nodes) == 5
    assert type(nodes["words"]) is TextNode
    page = nodes[f"{folder}/report.pdf#1"]
    assert type(page) is ImageNode
    assert page.text == "Taxes are due in April."
    assert page.metadata == {"source": f"{folder}/report.pdf", "page": 2, "chunk": 1}
    assert page.ref_doc_id == f"{folder}/report.pdf"
    assert page.image_mimetype == "image/png"
    assert str(index.path.absolute() / "images") in page.image_path
    with Image.open(page.image_path) as drawn:
        assert 1_400_000 < drawn.width * drawn.height <= 1_500_000
    boat = nodes[f"{folder}/boat.png#0"]
    assert (boat.text, boat.image_path) == ("", f"{folder}/boat.png")


def test_where_the_file_is_gone_its_text_is_left(index, folder, caplog):
    (folder / "report.pdf").unlink()
    (folder / "boat.png").unlink()
    nodes = {node.node_id: node.node for node in SmartRetriever(index, 9).retrieve("boat keys")}
    assert type(nodes[f"{folder}/report.pdf#0"]) is type(nodes[f"{folder}/boat.png#0"]) is TextNode
    assert nodes[f"{folder}/report.pdf#0"].text == "The boat keys hang in the hall."
    assert "is returned without its image" in caplog.text
    assert f"{folder}/report.pdf" in caplog.text


def test_queries_by_text_image_and_both(index, folder):
    path = str(folder / "chart.png")
    for bundle, query in (
        (QueryBundle("", image_path=path), Content(image=path)),
        (QueryBundle("a newer one", image_path=path), Content("a newer one", path)),
        (QueryBundle("a newer one"), "a newer one"),
    ):
        expected = [(hit.id, hit.score) for hit in index.search(query, 4)]
        retriever = SmartRetriever(index, 4)
        assert [(node.node_id, node.score) for node in retriever.retrieve(bundle)] == expected
        assert [(node.node_id, node.score) for node in asyncio.run(retriever.aretrieve(bundle))] == expected
    assert len({tuple(hit.score for hit in index.search(q, 4)) for q in ("a newer one", Content(image=path))}) == 2


# --- nodes into the store -----------------------------------------------------------------------


def image_nodes(folder):
    boat = (folder / "boat.png").read_bytes()
    return [
        ImageNode(id_="path", image_path=str(folder / "boat.png"), metadata={"n": 1}),
        ImageNode(id_="captioned", text="a chart", image_path=str(folder / "chart.png")),
        ImageNode(id_="url", image_url=(folder / "chart.png").as_uri(), metadata={"n": 3}),
        ImageNode(id_="base64", image=base64.b64encode(boat).decode(), image_mimetype="image/png", metadata={"n": 4}),
    ]


def test_image_nodes_are_encoded_by_their_images(store, encoder, folder):
    nodes = [*image_nodes(folder), TextNode(id_="text", text="Only words.")]
    VectorStoreIndex(
        nodes, storage_context=StorageContext.from_defaults(vector_store=store), embed_model=store.embed_model
    )
    expected = {
        "path": Content(image=folder / "boat.png"),
        "captioned": Content("a chart", folder / "chart.png"),
        "url": Content(image=folder / "chart.png"),
        "base64": Content(image=folder / "boat.png"),
        "text": "Only words.",
    }
    query = encoder.encode_query(["boat"])
    own = encoder.encode_document(list(expected.values()))
    hits = store.index.search("boat", 9)
    assert {hit.id for hit in hits} == set(expected)
    for hit in hits:
        i = list(expected).index(hit.id)
        assert hit.pooled_score == pytest.approx(float(query.pooled[0] @ own.pooled[i]), abs=1e-5)
    assert store.index.verify().sound


def test_image_nodes_come_back_with_a_path_and_no_base64(store, folder):
    nodes = image_nodes(folder)
    store.add(nodes)
    found = {node.node_id: node for node in store.query(VectorStoreQuery(query_str="boat", similarity_top_k=9)).nodes}
    assert found["path"] == nodes[0]
    assert found["captioned"] == nodes[1]
    assert (found["url"].image_path, found["url"].image_url) == (str(folder / "chart.png"), None)
    kept = found["base64"]
    assert kept.image is None
    assert kept.image_mimetype == "image/png"
    assert kept.image_path.startswith(str(store.index.path.absolute()))
    with Image.open(kept.image_path) as ours, Image.open(folder / "boat.png") as theirs:
        assert ours.tobytes() == theirs.tobytes()
    assert nodes[3].image is not None
    metadata = store.index.get(["base64"])[0].metadata
    assert len(json.dumps(dict(metadata))) < 2_000
    assert [type(node) for node in store.get_nodes(["path", "base64"])] == [ImageNode] * 2


def test_documents_that_are_images(store, folder):
    """As LlamaIndex's readers make them: by path, or with the whole file in base64."""
    boat, chart = str(folder / "boat.png"), str(folder / "chart.png")
    data = base64.b64encode((folder / "chart.png").read_bytes()).decode()
    VectorStoreIndex.from_documents(
        [
            ImageDocument(image_path=boat, metadata={"file_path": boat}),
            ImageDocument(image=data, metadata={"file_path": chart}),
            Document(text="Only words."),
        ],
        storage_context=StorageContext.from_defaults(vector_store=store),
        embed_model=store.embed_model,
    )
    images = {document.image for document in store.index.documents() if document.image is not None}
    (saved,) = (store.index.path / "images").absolute().iterdir()
    assert images == {folder / "boat.png", saved}
    # With both, the file that is there already.
    store.add([ImageNode(id_="both", image=data, image_path=chart)])
    assert store.index.get(["both"])[0].image == folder / "chart.png"


def test_a_store_is_asked_by_image(store, encoder, folder):
    store.add([*image_nodes(folder), TextNode(id_="text", text="Only words.")])
    path = str(folder / "chart.png")
    # As LlamaIndex's own retriever asks, with an embedding of the text.
    embedding = encoder.encode_query(["a newer one"]).pooled[0].tolist()
    query = VectorStoreQuery(query_str="a newer one", query_embedding=embedding, similarity_top_k=5)
    expected = store.index.search(Content("a newer one", path), 5)
    assert store.query(query, image_path=path).ids == [hit.id for hit in expected]
    index = VectorStoreIndex.from_vector_store(store, embed_model=store.embed_model)
    retriever = index.as_retriever(similarity_top_k=5, vector_store_kwargs={"image_path": path})
    assert [node.score for node in retriever.retrieve("a newer one")] == [hit.score for hit in expected]


def test_in_a_pipeline_each_image_is_encoded_once(store, encoder, folder):
    nodes = image_nodes(folder)[:3]
    IngestionPipeline(transformations=[store.embed_model], vector_store=store, disable_cache=True).run(nodes=nodes)
    assert len(encoder.documents) == 3
    assert store.index.count() == 3
    assert store.index.verify().sound


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (ImageNode(id_="i", image_url="http://127.0.0.1:1/x.png"), r"'i' has no text, and 'http://.* is not fetched"),
        (ImageNode(id_="i", image="bm8gaW1hZ2U="), "'i': `image` must be an image file in base64"),
        (ImageNode(id_="i", image="?"), "'i': `image` must be an image file in base64"),
        (ImageNode(id_="i"), "'i' has no text"),
    ],
)
def test_images_that_cannot_be_used(store, node, message):
    with pytest.raises(InvalidInput, match=message):
        store.add([TextNode(text="Only words."), node])
    assert store.index.count() == 0


def test_a_file_that_is_not_there(store):
    with pytest.raises(DocumentError, match="nowhere"):
        store.add([ImageNode(image_path="nowhere.png")])


def test_a_model_that_does_not_see_keeps_the_path(tmp_path, minilm, folder):
    with SmartIndex.create(tmp_path / "texts", minilm) as index:
        SmartVectorStore(index).add([ImageNode(id_="i", text="a boat at night", image_path=str(folder / "boat.png"))])
        (node,) = SmartRetriever(index, 1).retrieve("boat")
        assert node.node.image_path == str(folder / "boat.png")
        with pytest.raises(InvalidInput, match="has an image, but the index's model takes text"):
            SmartRetriever(index).retrieve(QueryBundle("boat", image_path=str(folder / "boat.png")))


# --- embeddings ---------------------------------------------------------------------------------


def test_embeddings_of_images_are_kept_with_their_tokens(tmp_path, encoder, folder):
    embedding = SmartEmbedding(encoder=CachedEncoder(encoder, tmp_path / "tokens"))
    paths = [str(folder / "boat.png"), str(folder / "chart.png")]
    vectors = embedding.get_image_embedding_batch(paths)
    assert len(encoder.documents) == 2
    own = encoder.encode_document([Content(image=path) for path in paths])
    np.testing.assert_allclose(vectors, own.pooled, atol=1e-6)
    encoder.documents = []
    (folder / "boat.png").rename(folder / "moved.png")  # known by what is in it
    assert embedding.get_image_embedding(str(folder / "moved.png")) == vectors[0]
    assert asyncio.run(embedding.aget_image_embedding_batch(paths[1:])) == vectors[1:]
    assert encoder.documents == []
    opened = embedding.get_image_embedding(BytesIO((folder / "moved.png").read_bytes()))
    np.testing.assert_allclose(opened, vectors[0], atol=1e-6)


def test_embedding_images_is_told_to_who_listens(encoder, folder):
    class Listener(BaseEventHandler):
        events: ClassVar[list] = []

        def handle(self, event, **kwargs):
            if isinstance(event, EmbeddingStartEvent | EmbeddingEndEvent):
                self.events.append(event)

    embedding, listener, root = SmartEmbedding(encoder=CachedEncoder(encoder)), Listener(), get_dispatcher()
    root.add_event_handler(listener)
    path = str(folder / "boat.png")
    try:
        vector = embedding.get_image_embedding(path)
        asyncio.run(embedding.aget_image_embedding_batch([path]))
    finally:
        root.event_handlers.remove(listener)
    assert [type(event) for event in listener.events] == [EmbeddingStartEvent, EmbeddingEndEvent] * 2
    assert listener.events[0].model_dict["class_name"] == "SmartEmbedding"
    assert (listener.events[1].chunks, listener.events[1].embeddings) == ([path], [vector])


@pytest.mark.parametrize("is_async", [False, True])
def test_as_a_step_it_embeds_image_nodes_by_their_images(encoder, folder, is_async):
    embedding = SmartEmbedding(encoder=CachedEncoder(encoder))
    nodes = [TextNode(text="Only words."), *image_nodes(folder)[:2]]
    given = asyncio.run(embedding.acall(nodes)) if is_async else embedding(nodes)
    assert given is nodes
    own = encoder.encode_document(
        ["Only words.", Content(image=folder / "boat.png"), Content("a chart", folder / "chart.png")]
    )
    np.testing.assert_allclose([node.embedding for node in nodes], own.pooled, atol=1e-5)


def test_reranking_looks_at_images(tmp_path, encoder, folder):
    embedding = SmartEmbedding(encoder=CachedEncoder(encoder, tmp_path / "tokens", codec="exact"))
    nodes = [NodeWithScore(node=node, score=0.5) for node in (*image_nodes(folder)[:2], TextNode(text="Only words."))]
    embedding([node.node for node in nodes])
    encoder.documents = []
    bundle = QueryBundle("", image_path=str(folder / "boat.png"))
    ranked = SmartRerank(embedding, top_n=3).postprocess_nodes(nodes, query_bundle=bundle)
    assert encoder.documents == []  # their tokens were kept when they were embedded
    contents = [Content(image=folder / "boat.png"), Content("a chart", folder / "chart.png"), "Only words."]
    query, documents = encoder.encode_query([Content(image=folder / "boat.png")]), encoder.encode_document(contents)
    late = [
        np.mean([max(float(a @ b) for b in documents.tokens[i]) for a in query.tokens[0]]) for i in range(len(contents))
    ]
    scores = [float(query.pooled[0] @ documents.pooled[i]) + 2 * late[i] for i in range(len(contents))]
    assert [node.node_id for node in ranked] == [nodes[i].node_id for i in np.argsort(scores)[::-1]]
    assert [node.score for node in ranked] == pytest.approx(sorted(scores, reverse=True), abs=5e-3)


# --- to a language model ------------------------------------------------------------------------


class Seeing(MockLLM):
    """A chat model that keeps what it is sent."""

    seen: list = Field(default_factory=list)

    @property
    def metadata(self):
        return LLMMetadata(is_chat_model=True, context_window=100_000)

    def chat(self, messages, **kwargs):
        self.seen.append(messages)
        return ChatResponse(message=ChatMessage(role="assistant", content="In the hall."))


def images_of(messages):
    return [block for message in messages for block in message.blocks if isinstance(block, ImageBlock)]


def test_an_image_node_is_an_image_block_of_a_message(index, folder):
    nodes = SmartRetriever(index, 4).retrieve("boat keys")
    blocks = [ImageBlock(path=node.node.image_path, image_mimetype=node.node.image_mimetype) for node in nodes]
    for node, block in zip(nodes, blocks, strict=True):
        (document,) = index.get([node.node_id])
        assert block.resolve_image().read() == index.image_file(document).read_bytes()


@pytest.mark.newest
@pytest.mark.parametrize("cited", [False, True])
def test_page_images_reach_a_model_that_sees(index, folder, cited):
    """The query engines of LlamaIndex 0.14.23 and later, told that the model is multimodal."""
    llm = Seeing()
    retriever = SmartRetriever(index, 4)
    make = query_engine if cited else RetrieverQueryEngine.from_args
    response = make(retriever, llm=llm, multimodal=True).query("Where are the boat keys?")
    assert str(response) == "In the hall."
    sent = [image for messages in llm.seen for image in images_of(messages)]
    pictures = {image.resolve_image().read() for image in sent}
    nodes = retriever.retrieve("Where are the boat keys?")
    for node in nodes:
        with open(node.node.image_path, "rb") as file:
            assert file.read() in pictures
    if cited:
        assert [citation.source for citation in citations(response)] == [node.metadata["source"] for node in nodes]

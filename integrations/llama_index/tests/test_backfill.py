"""`SmartEmbedding.backfill`: after it, the reranker finds everything that the store holds."""

from __future__ import annotations

import base64
import io

import pytest
from helpers.word_encoder import CountingEncoder, SeeingEncoder, WordEncoder
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.schema import ImageNode, IndexNode, NodeWithScore, TextNode
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index_smart_rag import SmartEmbedding, SmartRerank, SmartVectorStore
from PIL import Image

from smart_rag.errors import InvalidInput
from smart_rag.reports import BackfillReport

pytestmark = pytest.mark.newest


def nodes() -> list[TextNode]:
    """Return nodes that LlamaIndex embeds each in its own way."""
    texts = [f"passage {i}\nis about {word}" for i, word in enumerate(["cats", "dogs", "boats"] * 200)]
    plain = [TextNode(id_=f"n{i}", text=text, metadata={"page": i, "file": "a.md"}) for i, text in enumerate(texts)]
    return [
        *plain,
        TextNode(id_="excluded", text="secret", metadata={"a": 1, "b": "x"}, excluded_embed_metadata_keys=["b"]),
        TextNode(
            id_="template",
            text="templates",
            metadata={"a": 1, "b": 2},
            text_template="{content} <<{metadata_str}>>",
            metadata_template="{key}={value}",
            metadata_separator=" | ",
        ),
        IndexNode(id_="index", text="an index node", index_id="elsewhere", metadata={"a": 1}),
        TextNode(id_="no text", text="", metadata={"title": "metadata alone"}),
    ]


def collection_of(folder):
    import chromadb

    return chromadb.PersistentClient(path=str(folder)).get_or_create_collection("old")


def before(folder, given=None, embed_model=None):
    """Return a Chroma store as an application has it, filled before the swap."""
    from llama_index.vector_stores.chroma import ChromaVectorStore

    store = ChromaVectorStore(chroma_collection=collection_of(folder))
    VectorStoreIndex(
        nodes() if given is None else given,
        storage_context=StorageContext.from_defaults(vector_store=store),
        embed_model=embed_model or SmartEmbedding(encoder=WordEncoder()),
    )
    return store


def content(store):
    return store.client.get(include=["documents", "metadatas", "embeddings"])


def test_a_rerank_encodes_no_node_after_it(tmp_path):
    store = before(tmp_path)
    old = content(store)
    encoder = CountingEncoder()
    embed_model = SmartEmbedding(encoder=encoder, token_store=tmp_path / "tokens")
    index = VectorStoreIndex.from_vector_store(store, embed_model=embed_model)
    assert embed_model.backfill(index) == BackfillReport(added=604)
    assert embed_model.backfill(index) == BackfillReport(unchanged=604)
    assert len(encoder.documents) == 604 + 2  # in both calls, the first is compared with its stored vector
    encoder.documents.clear()
    found = index.as_retriever(similarity_top_k=604).retrieve("boats")
    assert len(found) >= 600  # Chroma's graph may miss a few, if it is asked for all
    SmartRerank(embed_model).postprocess_nodes(found, query_str="boats")
    assert encoder.documents == []
    new = content(store)
    assert [new[key] for key in ("ids", "documents", "metadatas")] == [
        old[key] for key in ("ids", "documents", "metadatas")
    ]
    assert (new["embeddings"] == old["embeddings"]).all()


def with_docstore():
    return VectorStoreIndex(nodes(), embed_model=SmartEmbedding(encoder=WordEncoder()))


STORES = {
    "a docstore": lambda folder: with_docstore(),
    "a store": before,
    "a collection": lambda folder: before(folder).client,
    "nodes": lambda folder: nodes(),
    "an iterator": lambda folder: iter(nodes()),
}


@pytest.mark.parametrize("kind", STORES)
def test_each_kind_of_store(kind, tmp_path):
    encoder = CountingEncoder()
    embed_model = SmartEmbedding(encoder=encoder, token_store=tmp_path / "tokens")
    assert embed_model.backfill(STORES[kind](tmp_path)).added == 604
    encoder.documents.clear()
    SmartRerank(embed_model).postprocess_nodes([NodeWithScore(node=node) for node in nodes()], query_str="cats")
    assert encoder.documents == []


def test_a_store_of_another_model_is_taken_with_a_warning(tmp_path, caplog):
    embed_model = SmartEmbedding(encoder=WordEncoder(), token_store=tmp_path / "tokens")
    embed_model.backfill(before(tmp_path))
    assert "does not make the vectors" not in caplog.text
    for size in (24, 8):
        store = before(tmp_path / str(size), nodes()[:3], MockEmbedding(size))
        caplog.clear()
        assert embed_model.backfill(store).left_out == 0
        assert "words does not make the vectors of this store: the cosine of its vector of 'n0'" in caplog.text


def test_the_store_is_read_in_pages(tmp_path):
    collection = before(tmp_path).client
    encoder = CountingEncoder()
    calls = []

    class Watched:
        def get(self, limit, offset, include):
            calls.append((limit, offset, len(encoder.documents)))
            return collection.get(limit=limit, offset=offset, include=include)

        def count(self):
            return collection.count()

    SmartEmbedding(encoder=encoder, token_store=tmp_path / "tokens").backfill(Watched())
    assert [call[:2] for call in calls] == [(1, 0), (256, 0), (256, 256), (256, 512), (256, 604)]
    assert [call[2] for call in calls] == [0, 1, 257, 513, 513]  # a page is encoded before the next one is read


def test_entries_of_other_programs_and_without_text(tmp_path, caplog):
    """Chroma's entries that LlamaIndex did not write have no node; its Chroma store makes one for a query."""
    store = before(tmp_path, [TextNode(text="cats")])
    store.client.add(
        ["plain", "empty", "none"],
        embeddings=[[1.0] * 24] * 3,
        documents=["dogs", "\n", None],
        metadatas=[{"page": 3}, None, None],
    )
    encoder = CountingEncoder()
    embed_model = SmartEmbedding(encoder=encoder, token_store=tmp_path / "tokens")
    report = embed_model.backfill(store)
    assert (report.added, report.left_out) == (2, 2)
    assert {name for name, _ in report.reasons} == {"empty", "none"}
    assert any(message.startswith("2 documents were left out: ") for message in caplog.messages)
    encoder.documents.clear()
    index = VectorStoreIndex.from_vector_store(store, embed_model=embed_model)
    found = [node for node in index.as_retriever(similarity_top_k=4).retrieve("dogs") if node.node.text.strip()]
    assert len(found) == 2
    SmartRerank(embed_model).postprocess_nodes(found, query_str="dogs")
    assert encoder.documents == []


def test_images(tmp_path):
    path = tmp_path / "red.png"
    Image.new("RGB", (3, 3), "red").save(path)
    data = io.BytesIO()
    Image.new("RGB", (3, 3), "blue").save(data, "PNG")
    readable = [
        ImageNode(id_="file", image_path=str(path)),
        ImageNode(id_="both", text="a caption", image_path=str(path)),
        ImageNode(id_="base64", image=base64.b64encode(data.getvalue()).decode()),
    ]
    on_the_web = ImageNode(id_="web", image_url="https://example.org/x.png")
    encoder = SeeingEncoder()
    embed_model = SmartEmbedding(encoder=encoder, token_store=tmp_path / "tokens")
    report = embed_model.backfill([*readable, on_the_web])
    assert (report.added, report.left_out, report.reasons) == (3, 1, (("web", "no text"),))
    encoder.documents.clear()
    SmartRerank(embed_model).postprocess_nodes([NodeWithScore(node=node) for node in readable], query_str="red")
    assert encoder.documents == []


def test_progress(tmp_path, capsys):
    embed_model = SmartEmbedding(encoder=WordEncoder(), token_store=tmp_path / "tokens")
    embed_model.backfill(with_docstore(), show_progress_bar=True)
    assert "604/604" in capsys.readouterr().err


def test_what_cannot_be_listed_is_refused(tmp_path, store):
    embed_model = SmartEmbedding(encoder=WordEncoder(), token_store=tmp_path / "tokens")
    empty = VectorStoreIndex.from_vector_store(SmartVectorStore(store.index), embed_model=store.embed_model)
    for wrong, name in (
        (store, "SmartVectorStore"),
        (empty, "SmartVectorStore"),
        (SimpleVectorStore(), "SimpleVectorStore"),
        ("chroma", "str"),
    ):
        with pytest.raises(InvalidInput, match=f"nodes of a {name} cannot be listed in pages; expected a Vector"):
            embed_model.backfill(wrong)
    with pytest.raises(InvalidInput, match="expected nodes of LlamaIndex, got a str"):
        embed_model.backfill(["a text"])
    with pytest.raises(InvalidInput, match="give it a folder"):
        SmartEmbedding(encoder=WordEncoder()).backfill(nodes())

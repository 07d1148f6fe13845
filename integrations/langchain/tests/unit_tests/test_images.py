"""Images in LangChain: found, searched by, added, embedded and ranked."""

import numpy as np
import pytest
from helpers import tiny_vision, visual_files
from langchain_core.documents import Document
from langchain_smart_rag import SmartEmbeddings, SmartReranker, SmartRetriever, SmartVectorStore
from PIL import Image

from smart_rag import SmartEncoder, SmartIndex
from smart_rag.errors import DocumentError, InvalidInput
from smart_rag.types import Content


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tiny_vision.qwen3_vl(tmp_path_factory.mktemp("vision"))
    return SmartEncoder(folder, profile="qwen3-vl-embedding", max_pixels=16 * 32 * 32, device="cpu")


@pytest.fixture
def folder(tmp_path):
    return visual_files.write(tmp_path / "files")


@pytest.fixture
def index(tmp_path, encoder, folder):
    with SmartIndex.create(tmp_path / "index", encoder) as index:
        index.add_files([folder])
        index.add_texts(["Only words."], ids=["words"])
        yield index


@pytest.fixture
def store(index):
    return SmartVectorStore(index)


# --- what is found ------------------------------------------------------------------------------


def test_an_image_has_a_path_and_a_text_has_its_own_metadata_alone(index, folder):
    found = {document.id: document for document in SmartRetriever(index=index, k=9, with_score=False).invoke("keys")}
    assert found["words"].metadata == {}
    page = found[f"{folder}/report.pdf#1"]
    path = page.metadata.pop("image_path")
    assert page.metadata == {"source": f"{folder}/report.pdf", "page": 2, "chunk": 1}
    assert page.page_content == "Taxes are due in April."
    with Image.open(path) as drawn:
        assert 1_400_000 < drawn.width * drawn.height <= 1_500_000
    assert found[f"{folder}/boat.png#0"].metadata["image_path"] == f"{folder}/boat.png"


def test_where_the_file_is_gone_its_text_is_left(store, folder, caplog):
    (folder / "report.pdf").unlink()
    (document,) = store.get_by_ids([f"{folder}/report.pdf#0"])
    assert document.page_content == "The boat keys hang in the hall."
    assert "image_path" not in document.metadata
    assert "is returned without its image" in caplog.text


# --- searching ----------------------------------------------------------------------------------


def test_queries_by_text_image_and_both(index, store, folder):
    path = folder / "chart.png"
    for text, image, query in (
        ("", str(path), Content(image=path)),
        ("", path.as_uri(), Content(image=path)),
        ("a newer one", path, Content("a newer one", path)),
    ):
        hits = index.search(query, 4)
        retrieved = SmartRetriever(index=index, k=4).invoke(text, image=image)
        assert [document.metadata["relevance_score"] for document in retrieved] == [hit.score for hit in hits]
        scored = store.similarity_search_with_score(text, 4, image=image)
        assert [(document.id, score) for document, score in scored] == [(hit.id, hit.score) for hit in hits]
    by_image = [hit.id for hit in index.search(Content(image=path), 3)]
    assert [document.id for document in store.similarity_search_by_image(str(path), 3)] == by_image
    filtered = store.similarity_search_by_image(str(path), 3, filter={"page": 2})
    assert [document.metadata["page"] for document in filtered] == [2]
    retriever = store.as_retriever(search_kwargs={"k": 3, "image": str(path)})
    assert [document.id for document in retriever.invoke("")] == by_image


def test_a_vector_takes_no_image(store, encoder, folder):
    vector = encoder.encode_query(["keys"]).pooled[0].tolist()
    with pytest.raises(InvalidInput, match="takes no image"):
        store.similarity_search_by_vector(vector, image=str(folder / "boat.png"))


# --- adding -------------------------------------------------------------------------------------


def test_images_are_added(store, encoder, folder):
    uris = [str(folder / "boat.png"), (folder / "chart.png").as_uri()]
    assert store.add_images(uris, [{"n": 1}, {"n": 2}], ["a", "b"]) == ["a", "b"]
    found = store.get_by_ids(["a", "b"])
    assert [document.page_content for document in found] == ["", ""]  # and no base64
    assert [document.metadata for document in found] == [
        {"n": 1, "image_path": f"{folder}/boat.png"},
        {"n": 2, "image_path": f"{folder}/chart.png"},
    ]
    (hit,) = store.index.search("boats", 1, where={"n": 2})
    own = encoder.encode_document([Content(image=folder / "chart.png")])
    assert hit.pooled_score == pytest.approx(float(encoder.encode_query(["boats"]).pooled[0] @ own.pooled[0]), abs=1e-5)
    assert len(set(store.add_images(uris))) == 2


def test_images_that_cannot_be_added(store, folder, minilm, tmp_path):
    count = store.index.count()
    for arguments in (([str(folder / "boat.png")], [{}, {}]), (str(folder / "boat.png"),)):
        with pytest.raises(InvalidInput):
            store.add_images(*arguments)
    with pytest.raises(DocumentError, match="nowhere"):
        store.add_images(["nowhere.png"])
    assert store.index.count() == count
    with SmartVectorStore(tmp_path / "texts", SmartEmbeddings(encoder=minilm)) as texts:
        with pytest.raises(InvalidInput, match="its image needs a model that takes it"):
            texts.add_images([str(folder / "boat.png")])
        with pytest.raises(InvalidInput, match="has an image, but the index's model takes text"):
            texts.similarity_search_by_image(str(folder / "boat.png"))


def test_embeddings_of_images_are_kept_with_their_tokens(encoder, folder, tmp_path):
    embeddings = SmartEmbeddings(encoder=encoder, token_store=tmp_path / "tokens")
    paths = [folder / "boat.png", folder / "chart.png"]
    vectors = embeddings.embed_image([str(paths[0]), paths[1].as_uri()])
    contents = [Content(image=path) for path in paths]
    np.testing.assert_allclose(vectors, encoder.encode_document(contents).pooled, atol=1e-5)
    assert embeddings.encoder._stores.missing(embeddings.encoder._keys(contents)) == []


def test_reranking_looks_at_images(encoder, folder):
    documents = [
        Document("", metadata={"image_path": str(folder / "boat.png")}),
        Document("a chart", metadata={"image_path": (folder / "chart.png").as_uri()}),
        Document("Only words."),
    ]
    embeddings = SmartEmbeddings(encoder=encoder)
    ranked = SmartReranker(embeddings).compress_documents(documents, "boat")
    contents = [Content(image=folder / "boat.png"), Content("a chart", folder / "chart.png"), "Only words."]
    query, own = encoder.encode_query(["boat"]), encoder.encode_document(contents)
    scores = [
        float(query.pooled[0] @ own.pooled[i])
        + 2 * np.mean([max(float(a @ b) for b in own.tokens[i]) for a in query.tokens[0]])
        for i in range(3)
    ]
    assert [document.page_content for document in ranked] == [
        documents[i].page_content for i in np.argsort(scores)[::-1]
    ]
    given = [document.metadata["relevance_score"] for document in ranked]
    assert given == pytest.approx(sorted(scores, reverse=True), abs=1e-5)

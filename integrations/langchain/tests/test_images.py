"""Images in LangChain: found, searched by, embedded, and sent to a model."""

import base64
from io import BytesIO

import numpy as np
import pytest
from fpdf import FPDF
from helpers import tiny_vision
from langchain_core.documents import Document
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompts import PromptTemplate
from langchain_smart_rag import (
    SmartEmbeddings,
    SmartReranker,
    SmartRetriever,
    SmartVectorStore,
    answer_chain,
    message_content,
)
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


# --- to a language model ------------------------------------------------------------------------


def kinds(blocks):
    return [block["type"] for block in blocks]


def opened(block):
    assert (block["type"], block["mime_type"]) == ("image", "image/jpeg")
    return Image.open(BytesIO(base64.b64decode(block["base64"])))


def test_a_message_holds_passages_images_and_the_question(index, folder):
    documents = SmartRetriever(index=index, k=9).invoke("keys")
    blocks = message_content("Where are the keys?", documents)
    assert blocks[-1] == {"type": "text", "text": "Question: Where are the keys?"}
    texts = [block["text"] for block in blocks if block["type"] == "text"]
    assert texts[:-1] == [f"[{i}] {document.page_content}" for i, document in enumerate(documents, start=1)]
    # Right after its passage, and the text without one.
    expected = [kind for d in documents for kind in ("text", *["image"] * ("image_path" in d.metadata))]
    assert kinds(blocks) == [*expected, "text"]
    for document in documents:
        if "image_path" in document.metadata:
            block = blocks[blocks.index({"type": "text", "text": texts[documents.index(document)]}) + 1]
            with Image.open(document.metadata["image_path"]) as own:
                assert opened(block).size == own.size
                difference = np.abs(np.asarray(own, float) - np.asarray(opened(block), float))
                assert difference.mean() < 20  # JPEG over noise


def test_images_of_a_message_are_few_and_small(index, folder):
    documents = SmartRetriever(index=index, k=9).invoke("keys")
    blocks = message_content("Where?", documents, images=2, image_pixels=10_000, image=folder / "boat.png")
    assert kinds(blocks).count("image") == 3
    assert kinds(blocks)[-2:] == ["text", "image"]
    for block in blocks:
        if block["type"] == "image":
            width, height = opened(block).size
            assert width * height <= 10_000
    assert set(kinds(message_content("Where?", documents, images=0))) == {"text"}
    with pytest.raises(DocumentError, match="nowhere"):
        message_content("Where?", [Document("x", metadata={"image_path": "nowhere.png"})])


class Model(GenericFakeChatModel):
    """Keeps the messages that it is sent."""

    seen: list

    def _generate(self, messages, *args, **kwargs):
        self.seen.append(messages)
        return super()._generate(messages, *args, **kwargs)


@pytest.fixture
def model():
    return Model(messages=iter([AIMessage("In the hall [1].")] * 9), seen=[])


def test_a_model_takes_the_message(index, model):
    documents = SmartRetriever(index=index, k=4).invoke("keys")
    content = message_content("Where are the keys?", documents)
    model.invoke([HumanMessage(content=content)])
    ((message,),) = model.seen
    assert message.content_blocks == content  # LangChain's standard blocks: every provider's package translates them


def test_a_chain_sends_images(index, model):
    retriever = SmartRetriever(index=index, k=4)
    result = answer_chain(retriever, model, images=2).invoke("Where are the keys?")
    assert (result["answer"], len(result["citations"])) == ("In the hall [1].", 4)
    ((system, human),) = model.seen
    assert "An image shows" in system.content
    assert human.content == message_content("Where are the keys?", retriever.invoke("Where are the keys?"), images=2)
    assert kinds(human.content).count("image") == 2
    with pytest.raises(InvalidInput, match="leave out images or prompt"):
        answer_chain(retriever, model, prompt=PromptTemplate.from_template("{context}{question}"), images=2)

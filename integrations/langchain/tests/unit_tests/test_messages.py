"""`message_content` and `answer_chain` send images to a language model."""

import base64
from io import BytesIO

import numpy as np
import pytest
from helpers import visual_files
from helpers.fenced_prompt import tag_of
from helpers.word_encoder import SeeingEncoder
from langchain_core.documents import Document
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompts import PromptTemplate
from langchain_smart_rag import SmartRetriever, answer_chain, message_content
from PIL import Image

from smart_rag import SmartIndex
from smart_rag.errors import DocumentError, InvalidInput
from smart_rag.fences import Fence


@pytest.fixture
def folder(tmp_path):
    return visual_files.write(tmp_path / "files")


@pytest.fixture
def index(tmp_path, folder):
    with SmartIndex.create(tmp_path / "index", SeeingEncoder()) as index:
        index.add_files([folder])
        index.add_texts(["Only words."], ids=["words"])
        yield index


def kinds(blocks):
    return [block["type"] for block in blocks]


def opened(block):
    assert (block["type"], block["mime_type"]) == ("image", "image/jpeg")
    return Image.open(BytesIO(base64.b64decode(block["base64"])))


def test_a_message_holds_passages_images_and_the_question(index, folder):
    documents = SmartRetriever(index=index, k=9).invoke("keys")
    blocks = message_content("Where are the keys?", documents)
    assert blocks[-1] == {"type": "text", "text": "Question: Where are the keys?"}
    texts = [block["text"] for block in blocks[1:] if block["type"] == "text"]
    fence = Fence(tag_of(blocks[0]["text"]))
    assert blocks[0]["text"] == fence.rule
    assert texts[:-1] == [
        f"[{i}] {fence.around(document.page_content)}" for i, document in enumerate(documents, start=1)
    ]
    # Right after its passage, and the text without one.
    expected = [kind for d in documents for kind in ("text", *["image"] * ("image_path" in d.metadata))]
    assert kinds(blocks) == ["text", *expected, "text"]
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


def test_a_chain_sends_images(index, model, monkeypatch):
    retriever = SmartRetriever(index=index, k=4)
    result = answer_chain(retriever, model, images=2).invoke("Where are the keys?")
    assert (result["answer"], len(result["citations"])) == ("In the hall [1].", 4)
    ((system, human),) = model.seen
    assert "An image shows" in system.content
    monkeypatch.setattr("secrets.token_hex", lambda size: tag_of(human.content[0]["text"]))
    assert human.content == message_content("Where are the keys?", retriever.invoke("Where are the keys?"), images=2)
    assert kinds(human.content).count("image") == 2
    with pytest.raises(InvalidInput, match="leave out images or prompt"):
        answer_chain(retriever, model, prompt=PromptTemplate.from_template("{context}{question}"), images=2)

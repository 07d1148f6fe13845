"""`message_content`: a message with a question, and with documents and their images."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from langchain_core.documents import Document
from langchain_core.messages.content import ContentBlock, ImageContentBlock, TextContentBlock

from langchain_smart_rag.documents import IMAGE_PATH, path_of
from smart_rag.config import DEFAULT_IMAGE_PIXELS
from smart_rag.fences import Fence
from smart_rag.files import jpeg


def message_content(
    question: str,
    documents: Sequence[Document],
    *,
    image: str | Path | None = None,
    images: int = 4,
    image_pixels: int = DEFAULT_IMAGE_PIXELS,
) -> list[ContentBlock]:
    """Return a message as LangChain's standard content blocks: numbered documents with images, then the question.

    Each document stands in a fence with a random name. The first block explains the fence. So no document can pass for
    another one, or for the question (`smart_rag.fences`).

    >>> documents = SmartRetriever("my.index", k=4).invoke(question)                       # doctest: +SKIP
    >>> llm.invoke([HumanMessage(content_blocks=message_content(question, documents))])    # doctest: +SKIP

    A document's image is the file under ``image_path`` in its metadata. `SmartRetriever` and `SmartVectorStore` add
    this key to the metadata.

    Args:
        question: the question.
        documents: the passages. They are numbered in this order.
        image: the file of an image that belongs to the question.
        images: the maximum number of documents whose images are sent. For the other documents, only the text is sent.
        image_pixels: the maximum number of pixels of each image.

    Raises:
        DocumentError: the file of an image does not exist or cannot be read.
    """
    fence, passages = fenced(question, documents)
    blocks: list[ContentBlock] = [_text(fence.rule)]
    for passage, document in zip(passages, documents, strict=True):
        blocks.append(_text(passage))
        path = document.metadata.get(IMAGE_PATH)
        if path is not None and images > 0:
            blocks.append(_image(path, image_pixels))
            images -= 1
    blocks.append(_text(f"Question: {question}"))
    if image is not None:
        blocks.append(_image(image, image_pixels))
    return blocks


def fenced(question: str, documents: Sequence[Document]) -> tuple[Fence, list[str]]:
    """Return a fence for one prompt, and the numbered documents in it."""
    texts = [document.page_content for document in documents]
    fence = Fence.for_texts([question, *texts])
    return fence, [f"[{number}] {fence.around(text)}" for number, text in enumerate(texts, start=1)]


def _text(text: str) -> TextContentBlock:
    return {"type": "text", "text": text}


def _image(file: str | Path, max_pixels: int) -> ImageContentBlock:
    data = base64.b64encode(jpeg(path_of(file), max_pixels)).decode()
    return {"type": "image", "base64": data, "mime_type": "image/jpeg"}

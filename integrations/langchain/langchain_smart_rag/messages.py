"""`message_content`: a message with a question, and with documents and their images."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from langchain_core.documents import Document
from langchain_core.messages.content import ContentBlock, ImageContentBlock, TextContentBlock

from langchain_smart_rag.documents import IMAGE_PATH, path_of
from smart_rag.config import DEFAULT_IMAGE_PIXELS
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

    >>> documents = SmartRetriever("my.index", k=4).invoke(question)                       # doctest: +SKIP
    >>> llm.invoke([HumanMessage(content_blocks=message_content(question, documents))])    # doctest: +SKIP

    A document's image is the file under ``image_path`` in its metadata. `SmartRetriever` and `SmartVectorStore` add
    this key to the metadata.

    Args:
        question: the question.
        documents: the passages. They are numbered in this order.
        image: the file of an image that belongs to the question.
        images: the maximum number of documents whose images are sent. Of the other documents, only the text is sent.
        image_pixels: the maximum number of pixels of each image.

    Raises:
        DocumentError: the file of an image does not exist or cannot be read.
    """
    blocks: list[ContentBlock] = []
    for number, document in enumerate(documents, start=1):
        blocks.append(_text(f"[{number}] {document.page_content}"))
        path = document.metadata.get(IMAGE_PATH)
        if path is not None and images > 0:
            blocks.append(_image(path, image_pixels))
            images -= 1
    blocks.append(_text(f"Question: {question}"))
    if image is not None:
        blocks.append(_image(image, image_pixels))
    return blocks


def _text(text: str) -> TextContentBlock:
    return {"type": "text", "text": text}


def _image(file: str | Path, max_pixels: int) -> ImageContentBlock:
    data = base64.b64encode(jpeg(path_of(file), max_pixels)).decode()
    return {"type": "image", "base64": data, "mime_type": "image/jpeg"}

"""Convert LlamaIndex's nodes and filters to smart_rag's documents and filters, and back."""

from __future__ import annotations

import base64
import logging
import mimetypes
from collections.abc import Collection, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from llama_index.core.schema import (
    BaseNode,
    ImageNode,
    MetadataMode,
    NodeRelationship,
    QueryBundle,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict

from smart_rag import Document, Hit, SmartIndex
from smart_rag.errors import DocumentError, InvalidInput
from smart_rag.types import Content, ImageSource

logger = logging.getLogger(__name__)

# The metadata key under which `node_to_metadata_dict` writes the id of the document that a node was cut from.
REF_DOC_ID = "ref_doc_id"
_NODE = "_node_content"

_OPERATORS = {
    FilterOperator.EQ: "$eq",
    FilterOperator.NE: "$ne",
    FilterOperator.GT: "$gt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LT: "$lt",
    FilterOperator.LTE: "$lte",
    FilterOperator.IN: "$in",
    FilterOperator.NIN: "$nin",
}
# Opposites that cover nodes without the key, too. Chroma's $ne and $nin match such nodes; $gt and $lte do not, so
# neither negates the other.
_OPPOSITES = {
    FilterOperator.EQ: FilterOperator.NE,
    FilterOperator.NE: FilterOperator.EQ,
    FilterOperator.IN: FilterOperator.NIN,
    FilterOperator.NIN: FilterOperator.IN,
}


def document_of(node: BaseNode, modalities: Collection[str]) -> Document:
    """Return ``node`` as a document, for a model that takes these ``modalities``."""
    content = content_of(node, modalities)
    if isinstance(node, ImageNode) and content.image is not None:
        # The image is in a file. Base64 in the metadata would be read with every hit, and most language models refuse
        # a file's URL.
        without: dict[str, Any] = {"image": None, "image_url": None}
        node = node.model_copy(update=without if node.image is None else {**without, "image_mimetype": None})
    return Document(node.node_id, content.text, node_to_metadata_dict(node), content.image)


def content_of(node: BaseNode, modalities: Collection[str]) -> Content:
    """Return the part of ``node`` that an embedding model gets.

    The part is the text as LlamaIndex embeds it, with its metadata, and the image of an `ImageNode`. If the model takes
    images and an `ImageNode` has no text of its own, the part is only the image, without metadata.

    Raises:
        InvalidInput: an image node has no text, and its image is on the web or cannot be decoded.
    """
    text = node.get_content(MetadataMode.EMBED)
    if not isinstance(node, ImageNode):
        return Content(text)
    has_text = bool(node.text.strip())
    is_file = bool(node.image_path) and Path(node.image_path or "").is_file()
    if node.image is not None and not is_file:
        try:
            image: ImageSource | None = image_of(BytesIO(base64.b64decode(node.image, validate=True)))
        except ValueError as error:  # from base64 or from Pillow
            raise InvalidInput(f"image node {node.node_id!r}: `image` must be an image file in base64") from error
    elif node.image_path or (node.image_url or "").startswith("file:"):
        image = image_of(node.image_path or node.image_url or "")
    elif node.image_url and not has_text:
        raise InvalidInput(
            f"image node {node.node_id!r} has no text, and {node.image_url!r} is not fetched; save the image to a file "
            "and set image_path"
        )
    else:
        image = None
    return Content("" if image is not None and "image" in modalities and not has_text else text, image)


def image_of(file: str | Path | BytesIO) -> ImageSource:
    """Return an image of LlamaIndex in the form that smart_rag takes.

    Args:
        file: a path, a ``file:`` URL, or an open file.

    Raises:
        ValueError: an open file does not hold an image.
    """
    if isinstance(file, BytesIO):
        from PIL import Image

        try:
            return Image.open(file)
        except OSError as error:
            raise ValueError(str(error)) from error
    url = urlparse(str(file))
    return Path(url2pathname(url.path) if url.scheme == "file" else file)


def query_of(bundle: QueryBundle) -> str | Content:
    """Return the query in ``bundle``: its text, its image, or both."""
    return bundle.query_str if bundle.image_path is None else Content(bundle.query_str, image_of(bundle.image_path))


def node_of(document: Document | Hit, index: SmartIndex) -> BaseNode:
    """Return the node that ``document`` was made from, or a new one.

    A document that was not made from a node becomes a `TextNode`. If it has an image (`SmartIndex.has_image`), it
    becomes an `ImageNode`, with ``image_path`` from `SmartIndex.image_file`. If the image's file is gone, it becomes a
    `TextNode`, and a warning is logged.
    """
    if _NODE in document.metadata:
        node = metadata_dict_to_node(dict(document.metadata))
        if isinstance(node, ImageNode) and isinstance(document.image, Path):
            node.image_path = str(document.image)
            node.image_mimetype = node.image_mimetype or mimetypes.guess_type(document.image)[0]
        return node
    source = document.metadata.get("source")
    fields: dict[str, Any] = {
        "id_": document.id,
        "text": document.text,
        "metadata": dict(document.metadata),
        "relationships": {} if source is None else {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=str(source))},
    }
    if index.has_image(document):
        try:
            return ImageNode(**fields, image_path=str(index.image_file(document)))
        except DocumentError as error:
            logger.warning("%r is returned without its image: %s", document.id, error)
    return TextNode(**fields)


def where_of(filters: MetadataFilters | None, doc_ids: list[str] | None = None) -> dict[str, Any] | None:
    """Return LlamaIndex's filters as Chroma's.

    Raises:
        InvalidInput: Chroma does not have an operator or a condition.
    """
    parts: list[dict[str, Any]] = []
    if filters is not None and filters.filters:
        parts.append(_group(filters))
    if doc_ids is not None:
        parts.append({REF_DOC_ID: {"$in": list(doc_ids)}})
    return _joined("$and", parts) if parts else None


def _group(filters: MetadataFilters) -> dict[str, Any]:
    if filters.condition == FilterCondition.NOT:
        return _joined("$and", [_comparison(filter, _OPPOSITES, "under `not`") for filter in filters.filters])
    parts = [
        _group(filter) if isinstance(filter, MetadataFilters) else _comparison(filter) for filter in filters.filters
    ]
    return _joined("$or" if filters.condition == FilterCondition.OR else "$and", parts)


def _comparison(
    filter: MetadataFilter | MetadataFilters,
    opposites: Mapping[FilterOperator, FilterOperator] | None = None,
    where: str = "",
) -> dict[str, Any]:
    if isinstance(filter, MetadataFilters):
        raise InvalidInput("Chroma cannot negate a group of filters; negate each filter in it")
    known = _OPERATORS if opposites is None else opposites
    if filter.operator not in known:
        raise InvalidInput(
            f"filter on {filter.key!r}: Chroma has no operator {filter.operator.value!r} {where}".rstrip()
            + f"; it has {', '.join(operator.value for operator in known)}"
        )
    if filter.value is None:
        raise InvalidInput(f"filter on {filter.key!r}: Chroma cannot compare with None; give a value")
    operator = filter.operator if opposites is None else opposites[filter.operator]
    return {filter.key: {_OPERATORS[operator]: filter.value}}


def _joined(operator: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return ``parts`` as one filter. Chroma refuses ``$and`` and ``$or`` over a single part."""
    return parts[0] if len(parts) == 1 else {operator: parts}

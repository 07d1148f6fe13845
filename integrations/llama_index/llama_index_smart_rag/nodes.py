"""Convert LlamaIndex's nodes and filters to smart_rag's documents and filters, and back."""

from __future__ import annotations

import base64
import logging
import mimetypes
from collections.abc import Collection, Iterable, Sequence
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
from smart_rag.values import plain_dict

logger = logging.getLogger(__name__)

# The metadata key under which `node_to_metadata_dict` stores the id of the document that a node was cut from.
REF_DOC_ID = "ref_doc_id"
_NODE = "_node_content"
# The metadata key for the ids of the nodes that a search with ``fold_duplicates`` has left out.
DUPLICATES = "duplicates"
# The metadata key for a passage with its neighbours, as in LlamaIndex's ``SentenceWindowNodeParser``.
WINDOW = "window"
# Fields of LlamaIndex's nodes that may name a file or an address.
_RESOURCES = ("text_resource", "image_resource", "audio_resource", "video_resource")

# LlamaIndex's operators and their names in Chroma. Operators in `_ANY` and `_ALL` get a list, and become several
# filters.
_OPERATORS = {
    FilterOperator.EQ: "$eq",
    FilterOperator.NE: "$ne",
    FilterOperator.GT: "$gt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LT: "$lt",
    FilterOperator.LTE: "$lte",
    FilterOperator.IN: "$in",
    FilterOperator.NIN: "$nin",
    FilterOperator.CONTAINS: "$contains",
    FilterOperator.ANY: "$contains",
    FilterOperator.ALL: "$contains",
}
# Opposites. An operator and its opposite together find all nodes, even nodes without the key. Chroma's $ne and $nin
# find such nodes. $gt and $lte do not, so they are not opposites.
_OPPOSITES = {
    FilterOperator.EQ: "$ne",
    FilterOperator.NE: "$eq",
    FilterOperator.IN: "$nin",
    FilterOperator.NIN: "$in",
    FilterOperator.CONTAINS: "$not_contains",
    FilterOperator.ANY: "$not_contains",
    FilterOperator.ALL: "$not_contains",
}
# `node_to_metadata_dict` writes the text "None" under these keys if the node has no source.
_SOURCE_KEYS = ("document_id", "doc_id", REF_DOC_ID)


def document_of(node: BaseNode, modalities: Collection[str]) -> Document:
    """Return ``node`` as a document, for a model that reads these ``modalities``."""
    content = content_of(node, modalities)
    # LlamaIndex cannot serialise values of numpy.
    update: dict[str, Any] = {"metadata": plain_dict(node.metadata, f"node {node.node_id!r}: metadata")}
    if isinstance(node, ImageNode) and content.image is not None:
        # The image is in a file. If the metadata had its base64, every hit would read it. Most language models refuse
        # the URL of a file.
        update |= {"image": None, "image_url": None} | ({} if node.image is None else {"image_mimetype": None})
    metadata = node_to_metadata_dict(node.model_copy(update=update))
    if node.ref_doc_id is None:
        metadata = {key: value for key, value in metadata.items() if key not in _SOURCE_KEYS}
    return Document(node.node_id, content.text, metadata, content.image)


def content_of(node: BaseNode, modalities: Collection[str]) -> Content:
    """Return the content of ``node`` that an embedding model gets.

    The content is the text with its metadata, as LlamaIndex embeds it, and the image if the node is an `ImageNode`. If
    the model reads images and an `ImageNode` has no text of its own, the content is only the image, without metadata.

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
        except ValueError as error:  # raised by base64 or by Pillow
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


def ranked_document(id: str, node: BaseNode, modalities: Collection[str]) -> Document:
    """Return the document that `SmartRerank` scores for ``node``, for a model that reads these ``modalities``.

    Raises:
        InvalidInput: as in `content_of`.
    """
    content = content_of(node, modalities)
    return Document(id, content.text, image=content.image)


def image_of(file: str | Path | BytesIO) -> ImageSource:
    """Return an image of LlamaIndex in the form that smart_rag reads.

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
    return _path_of(file)


def _path_of(file: str | Path) -> Path:
    url = urlparse(str(file))
    return Path(url2pathname(url.path) if url.scheme == "file" else file)


def query_of(bundle: QueryBundle) -> str | Content:
    """Return the query in ``bundle``: its text, its image, or both."""
    return bundle.query_str if bundle.image_path is None else Content(bundle.query_str, image_of(bundle.image_path))


def nodes_of(found: Iterable[Document | Hit], index: SmartIndex, *, allow_urls: bool = False) -> list[BaseNode]:
    """Return the nodes of ``found``; see `node_of`.

    A node that somebody else has stored may name any file or address. So files and addresses that the index may not
    read (`SmartIndex.may_read`) are left out. With ``allow_urls``, addresses on the web are kept. One warning counts
    the nodes.
    """
    found = list(found)
    nodes = [node_of(document, index) for document in found]
    for node, document in zip(nodes, found, strict=True):
        if isinstance(document, Hit) and document.duplicates:
            note(node, DUPLICATES, list(document.duplicates))
    refused = [node for node in nodes if _without_refused(node, index, allow_urls)]
    if refused:
        logger.warning(
            "%d nodes, such as %r, name files that you have not added to this index on this machine, or addresses on "
            "the web, so they are returned without them; to use the files, open the index with sources=, and to use "
            "the addresses, pass allow_urls=True",
            *(len(refused), refused[0].node_id),
        )
    return nodes


def note(node: BaseNode, key: str, value: Any) -> None:
    """Write a value into the metadata of ``node``. Embedding models and language models do not read it."""
    node.metadata[key] = value
    node.excluded_embed_metadata_keys = [*node.excluded_embed_metadata_keys, key]
    node.excluded_llm_metadata_keys = [*node.excluded_llm_metadata_keys, key]


def allow_files(nodes: Iterable[BaseNode], index: SmartIndex) -> None:
    """Let ``index`` return the files that ``nodes``, which are about to be added, name."""
    places = {place for node in nodes for _, _, place in _places(node) if not _is_on_web(place) and "\0" not in place}
    index.allow(map(_path_of, places))


def _places(node: BaseNode) -> list[tuple[Any, str, str]]:
    """Return each file and address that ``node`` names: the object and the attribute that has it, and the name."""
    owners: list[tuple[Any, str, str]] = [(node, "image_path", "image_url")]
    owners += [(getattr(node, name, None), "path", "url") for name in _RESOURCES]
    found = [(owner, name, getattr(owner, name, None)) for owner, *names in owners for name in names]
    return [(owner, name, str(value)) for owner, name, value in found if value is not None]


def _without_refused(node: BaseNode, index: SmartIndex, allow_urls: bool) -> bool:
    """Remove from ``node`` the files and addresses that must not be used. Return whether there were any."""
    refused = [(owner, name) for owner, name, place in _places(node) if not _may_use(place, index, allow_urls)]
    for owner, name in refused:
        setattr(owner, name, None)
    return bool(refused)


def _may_use(place: str, index: SmartIndex, allow_urls: bool) -> bool:
    is_on_web = _is_on_web(place)
    return (is_on_web and allow_urls) or index.may_read(place if is_on_web else _path_of(place))


def _is_on_web(place: str) -> bool:
    return urlparse(place).scheme not in ("", "file") and not Path(place).is_absolute()


def node_of(document: Document | Hit, index: SmartIndex) -> BaseNode:
    """Return the node from which ``document`` was made, or a new node.

    If a document was not made from a node, it becomes a `TextNode`. If such a document has an image
    (`SmartIndex.has_image`), it becomes an `ImageNode`, with ``image_path`` from `SmartIndex.image_file`. If the
    image's file does not exist, the document becomes a `TextNode`, and a warning is logged.
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
    """Return LlamaIndex's filters as filters of smart_rag. Return None if every node passes.

    Without any filter, every node passes, as in LlamaIndex's own stores. An inner ``or`` without a filter lets no node
    pass. The same holds for ``in``, ``any`` and ``doc_ids`` with an empty list.

    Raises:
        InvalidInput: smart_rag does not have an operator or a condition, or a value does not fit the operator.
    """
    parts = [_group(filters)] if filters is not None and filters.filters else []
    if doc_ids is not None:
        parts.append({REF_DOC_ID: {"$in": list(doc_ids)}})
    return _joined("$and", parts)


def _group(filters: MetadataFilters) -> dict[str, Any] | None:
    if filters.condition == FilterCondition.NOT:
        return _joined("$and", [_comparison(filter, is_negated=True) for filter in filters.filters])
    parts = [
        _group(filter) if isinstance(filter, MetadataFilters) else _comparison(filter) for filter in filters.filters
    ]
    return _joined("$or" if filters.condition == FilterCondition.OR else "$and", parts)


def _comparison(filter: MetadataFilter | MetadataFilters, *, is_negated: bool = False) -> dict[str, Any] | None:
    if isinstance(filter, MetadataFilters):
        raise InvalidInput("`not` cannot negate a group of filters; negate each filter in it")
    key, value, operator = filter.key, filter.value, filter.operator
    known = _OPPOSITES if is_negated else _OPERATORS
    if operator not in known:
        raise InvalidInput(
            f"filter on {key!r}: there is no operator {operator.value!r}{' under `not`' if is_negated else ''}; use "
            + ", ".join(other.value for other in known)
        )
    if value is None:
        raise InvalidInput(f"filter on {key!r}: nothing can be compared with None; give a value")
    if operator in (FilterOperator.ANY, FilterOperator.ALL):
        if not isinstance(value, list):
            raise InvalidInput(f"filter on {key!r}: {operator.value!r} needs a list of values, got {value!r}")
        is_any = (operator == FilterOperator.ANY) != is_negated
        return _joined("$or" if is_any else "$and", [{key: {known[operator]: item}} for item in value])
    if value == [] and known[operator] == "$nin":
        return None
    return {key: {known[operator]: value}}


def _joined(operator: str, parts: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Return ``parts`` as one filter. None stands for a filter that every node passes."""
    if operator == "$or" and None in parts:
        return None
    filters = [part for part in parts if part is not None]
    if operator == "$and" and not filters:
        return None
    return filters[0] if len(filters) == 1 else {operator: filters}

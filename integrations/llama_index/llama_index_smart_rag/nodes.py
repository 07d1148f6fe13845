"""LlamaIndex's nodes and filters as smart_rag's documents and filters, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_index.core.schema import BaseNode, MetadataMode, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict

from smart_rag import Document, Hit
from smart_rag.errors import InvalidInput

# Where `node_to_metadata_dict` puts the id of the document that a node was cut from.
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
# Only what also tells of nodes without the key: Chroma's $ne and $nin take those in, its $lt and $gt do not.
_OPPOSITES = {
    FilterOperator.EQ: FilterOperator.NE,
    FilterOperator.NE: FilterOperator.EQ,
    FilterOperator.IN: FilterOperator.NIN,
    FilterOperator.NIN: FilterOperator.IN,
}


def document_of(node: BaseNode) -> Document:
    """Return the document that stands for ``node``: its text is what an embedding model sees of it."""
    return Document(node.node_id, node.get_content(MetadataMode.EMBED), node_to_metadata_dict(node))


def node_of(document: Document | Hit) -> BaseNode:
    """Return the node that ``document`` stands for; one that was no node becomes a `TextNode`."""
    if _NODE in document.metadata:
        return metadata_dict_to_node(dict(document.metadata))
    source = document.metadata.get("source")
    relationships = {} if source is None else {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=str(source))}
    return TextNode(id_=document.id, text=document.text, metadata=dict(document.metadata), relationships=relationships)


def where_of(filters: MetadataFilters | None, doc_ids: list[str] | None = None) -> dict[str, Any] | None:
    """Return LlamaIndex's filters as Chroma's.

    Raises:
        InvalidInput: an operator or a condition that Chroma does not have.
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
        raise InvalidInput("Chroma has no negation of a group of filters; negate its parts")
    known = _OPERATORS if opposites is None else opposites
    if filter.operator not in known:
        raise InvalidInput(
            f"filter on {filter.key!r}: Chroma has no operator {filter.operator.value!r} {where}".rstrip()
            + f"; it has {', '.join(operator.value for operator in known)}"
        )
    if filter.value is None:
        raise InvalidInput(f"filter on {filter.key!r}: Chroma cannot compare with None")
    operator = filter.operator if opposites is None else opposites[filter.operator]
    return {filter.key: {_OPERATORS[operator]: filter.value}}


def _joined(operator: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return ``parts`` as one filter; Chroma refuses an operator over a single one."""
    return parts[0] if len(parts) == 1 else {operator: parts}

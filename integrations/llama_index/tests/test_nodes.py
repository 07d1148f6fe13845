"""Nodes and filters of LlamaIndex's as documents and filters of smart_rag's, and back."""

from __future__ import annotations

import pytest
from helpers.llama_index_nodes import WORDS, ids, nodes_of
from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from smart_rag.errors import InvalidInput

OPERATORS = [
    ("n", FilterOperator.EQ, 3),
    ("n", FilterOperator.NE, 3),
    ("n", FilterOperator.GT, 3),
    ("n", FilterOperator.GTE, 3),
    ("n", FilterOperator.LT, 3),
    ("n", FilterOperator.LTE, 3),
    ("word", FilterOperator.EQ, "keys"),
    ("word", FilterOperator.IN, ["keys", "rain", "unknown"]),
    ("word", FilterOperator.NIN, ["keys", "rain"]),
    ("absent", FilterOperator.NE, "x"),
    ("absent", FilterOperator.NIN, ["x"]),
    ("absent", FilterOperator.EQ, "x"),
]


def passes(metadata, key, operator, value) -> bool:
    """Return whether a node passes a filter. A node without the key differs from every value and compares with none."""
    if key not in metadata:
        return operator in ("!=", "nin")
    own = metadata[key]
    return {
        "==": lambda: own == value,
        "!=": lambda: own != value,
        ">": lambda: own > value,
        ">=": lambda: own >= value,
        "<": lambda: own < value,
        "<=": lambda: own <= value,
        "in": lambda: own in value,
        "nin": lambda: own not in value,
    }[operator]()


def admitted(filters):
    """Return the ids of the nodes that pass, in plain Python."""
    together = {"and": all, "or": any, "not": lambda each: not any(each)}[filters.condition.value]
    return {
        node.node_id
        for node in nodes_of()
        if together([passes(node.metadata, f.key, f.operator.value, f.value) for f in filters.filters])
    }


@pytest.mark.parametrize(("key", "operator", "value"), OPERATORS)
@pytest.mark.parametrize("condition", [FilterCondition.AND, FilterCondition.OR])
def test_filters_mean_what_they_say(store, key, operator, value, condition):
    store.add(nodes_of())
    one = MetadataFilter(key=key, operator=operator, value=value)
    for filters in ([one], [one, MetadataFilter(key="word", value="boats", operator=FilterOperator.NE)]):
        wanted = MetadataFilters(filters=filters, condition=condition)
        assert set(ids(store, top_k=6, filters=wanted)) == admitted(wanted)
        assert {node.node_id for node in store.get_nodes(filters=wanted)} == admitted(wanted)


@pytest.mark.parametrize(
    ("key", "operator", "value"), [row for row in OPERATORS if row[1].value in ("==", "!=", "in", "nin")]
)
def test_negated_filters(store, key, operator, value):
    store.add(nodes_of())
    wanted = MetadataFilters(
        filters=[
            MetadataFilter(key=key, operator=operator, value=value),
            MetadataFilter(key="word", value="cats"),
        ],
        condition=FilterCondition.NOT,
    )
    assert set(ids(store, top_k=6, filters=wanted)) == admitted(wanted)


def test_nested_filters(store):
    store.add(nodes_of())
    either = MetadataFilters(
        filters=[MetadataFilter(key="n", value=1), MetadataFilter(key="n", value=4)], condition=FilterCondition.OR
    )
    wanted = MetadataFilters(filters=[either, MetadataFilter(key="n", value=3, operator=FilterOperator.GT)])
    assert ids(store, top_k=6, filters=wanted) == ["doc-4"]


@pytest.mark.parametrize("operator", ["text_match", "text_match_insensitive", "contains", "any", "all", "is_empty"])
def test_a_filter_that_chroma_does_not_have(store, operator):
    store.add(nodes_of())
    filters = MetadataFilters(filters=[MetadataFilter(key="tags", value="a", operator=operator)])
    for ask in (lambda: ids(store, filters=filters), lambda: store.get_nodes(filters=filters)):
        with pytest.raises(InvalidInput, match=f"'tags'.*'{operator}'.*=="):
            ask()
    with pytest.raises(InvalidInput, match="'tags'"):
        store.delete_nodes(filters=filters)
    assert store.index.count() == 6


def test_more_that_chroma_does_not_have(store):
    more = MetadataFilter(key="n", value=1, operator=FilterOperator.GT)
    with pytest.raises(InvalidInput, match="'>' under `not`"):
        ids(store, filters=MetadataFilters(filters=[more], condition=FilterCondition.NOT))
    group = MetadataFilters(filters=[MetadataFilters(filters=[more])], condition=FilterCondition.NOT)
    with pytest.raises(InvalidInput, match="cannot negate a group"):
        ids(store, filters=group)
    with pytest.raises(InvalidInput, match="None"):
        ids(store, filters=MetadataFilters(filters=[MetadataFilter(key="n", value=None)]))


def test_doc_ids_are_a_filter(store):
    store.add([*nodes_of(WORDS[:2], "a"), *nodes_of(WORDS[:2], "b"), *nodes_of(WORDS[:2], "c")])
    assert set(ids(store, top_k=6, doc_ids=["a", "c"])) == {"a-0", "a-1", "c-0", "c-1"}
    filters = MetadataFilters(filters=[MetadataFilter(key="n", value=1)])
    assert set(ids(store, top_k=6, doc_ids=["a", "c"], filters=filters)) == {"a-1", "c-1"}


def test_empty_filters_are_none(store):
    store.add(nodes_of())
    assert len(ids(store, top_k=6, filters=MetadataFilters(filters=[]))) == 6

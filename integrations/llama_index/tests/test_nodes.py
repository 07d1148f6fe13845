"""Nodes and filters of LlamaIndex's as documents and filters of smart_rag's, and back."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from helpers.llama_index_nodes import WORDS, ids, nodes_of
from llama_index.core.schema import TextNode
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
    ("n", FilterOperator.GT, 2.5),
    ("n", FilterOperator.LT, 2.5),
    ("n", FilterOperator.EQ, 2.5),
    ("n", FilterOperator.IN, []),
    ("n", FilterOperator.NIN, []),
    ("tags", FilterOperator.CONTAINS, "keys"),
    ("tags", FilterOperator.ANY, ["keys", "rain", "unknown"]),
    ("tags", FilterOperator.ANY, []),
    ("tags", FilterOperator.ALL, ["a", "keys"]),
    ("tags", FilterOperator.ALL, ["keys", "rain"]),
    ("absent", FilterOperator.CONTAINS, "x"),
    ("absent", FilterOperator.ANY, ["x"]),
]
# Operators that `not` can negate.
NEGATED = ("==", "!=", "in", "nin", "contains", "any", "all")


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
        "contains": lambda: value in own,
        "any": lambda: any(item in own for item in value),
        "all": lambda: all(item in own for item in value),
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


@pytest.mark.parametrize(("key", "operator", "value"), [row for row in OPERATORS if row[1].value in NEGATED])
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


@pytest.mark.parametrize("operator", ["text_match", "text_match_insensitive", "is_empty"])
def test_a_filter_that_smart_rag_does_not_have(store, operator):
    store.add(nodes_of())
    filters = MetadataFilters(filters=[MetadataFilter(key="tags", value="a", operator=operator)])
    for ask in (lambda: ids(store, filters=filters), lambda: store.get_nodes(filters=filters)):
        with pytest.raises(InvalidInput, match=f"'tags'.*'{operator}'.*=="):
            ask()
    with pytest.raises(InvalidInput, match="'tags'"):
        store.delete_nodes(filters=filters)
    assert store.index.count() == 6


def test_more_that_smart_rag_does_not_have(store):
    more = MetadataFilter(key="n", value=1, operator=FilterOperator.GT)
    with pytest.raises(InvalidInput, match="'>' under `not`"):
        ids(store, filters=MetadataFilters(filters=[more], condition=FilterCondition.NOT))
    group = MetadataFilters(filters=[MetadataFilters(filters=[more])], condition=FilterCondition.NOT)
    with pytest.raises(InvalidInput, match="`not` cannot negate a group"):
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


def empty(condition):
    return MetadataFilters(filters=[], condition=condition)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([empty("and")], 6),
        ([empty("or")], 0),
        ([empty("or"), MetadataFilter(key="n", value=1)], 0),
        ([empty("and"), MetadataFilter(key="n", value=1)], 1),
        ([MetadataFilter(key="tags", value=[], operator="all")], 6),
    ],
)
def test_empty_groups_in_a_group(store, filters, expected):
    store.add(nodes_of())
    wanted = MetadataFilters(filters=filters)
    assert len(ids(store, top_k=6, filters=wanted)) == len(store.get_nodes(filters=wanted)) == expected


def test_no_doc_ids_find_nothing(store):
    store.add(nodes_of())
    assert ids(store, top_k=6, doc_ids=[]) == []


@pytest.mark.parametrize("operator", ["any", "all"])
def test_any_and_all_need_a_list(store, operator):
    filters = MetadataFilters(filters=[MetadataFilter(key="tags", value="a", operator=operator)])
    with pytest.raises(InvalidInput, match=f"filter on 'tags': '{operator}' needs a list of values, got 'a'"):
        ids(store, filters=filters)


def test_values_that_are_not_plain(store):
    """They are stored and compared as plain values, and the node keeps its own."""
    metadata = {"n": np.int64(3), "x": np.float32(0.5), "day": date(2026, 11, 5), "tags": (np.str_("a"),)}
    node = TextNode(id_="a", text="keys", metadata=dict(metadata))
    store.add([node])
    assert node.metadata == metadata
    (found,) = store.get_nodes(filters=MetadataFilters(filters=[MetadataFilter(key="n", value=3)]))
    assert found.metadata == {"n": 3, "x": 0.5, "day": "2026-11-05", "tags": ["a"]}
    assert found.text == "keys"
    with pytest.raises(InvalidInput, match="node 'b': metadata 'n' is NaN"):
        store.add([TextNode(id_="b", text="keys", metadata={"n": float("nan")})])

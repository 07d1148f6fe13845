"""Filters, through a real Chroma, against plain Python."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.plain_filters import FILTERS, KEY, LISTS, NUMBERS, SCALARS, TEXT_FILTERS, documents, found
from helpers.rows import create, unit_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from smart_rag.errors import InvalidInput
from smart_rag.store.row import Row
from smart_rag.store.where import chroma_where, chroma_where_document
from smart_rag.types import Document


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = create(tmp_path_factory.mktemp("values") / "chroma")
    made = documents()
    store.upsert([Row(document, bytes(16)) for document in made], unit_rows(len(made), 3))
    yield store
    store.close()


def assert_found(store, where, where_document=None):
    """Check that all ways to read find what plain Python finds."""
    expected = found(where or {"$and": []}, where_document)
    (candidates,) = store.query(unit_rows(1, 3), len(documents()), where, where_document)
    assert {candidate.row.document.id for candidate in candidates} == expected
    assert set(store.ids(where, where_document)) == expected
    assert {name for block in store.scan(where, where_document) for name in block.ids} == expected
    assert {row.document.id for row in store.select(where, where_document)} == expected


@pytest.mark.parametrize("name", ["$eq", "$ne", "$contains", "$not_contains"])
def test_equality_with_every_value(store, name):
    for value in SCALARS:
        assert_found(store, {KEY: {name: value}})


@pytest.mark.parametrize("name", ["$gt", "$gte", "$lt", "$lte"])
def test_order_of_every_number(store, name):
    for value in NUMBERS:
        assert_found(store, {KEY: {name: value}})


@pytest.mark.parametrize("name", ["$in", "$nin"])
def test_lists_of_every_value(store, name):
    for values in [
        [],
        SCALARS,
        *([item for item in values if isinstance(item, str | int | float)] for values in LISTS),
    ]:
        assert_found(store, {KEY: {name: values}})


@settings(max_examples=150, deadline=None)
@given(FILTERS)
def test_any_filter(store, where):
    assert_found(store, where)


@settings(max_examples=60, deadline=None)
@given(TEXT_FILTERS)
def test_any_filter_on_texts(store, where_document):
    assert_found(store, None, where_document)


# --- large filters --------------------------------------------------------------------------


def many(name, count, *others):
    """Return a group of ``count`` comparisons: ``others``, and then some with values that no document has."""
    operator = "$eq" if name == "$or" else "$ne"
    return {name: [*others, *({KEY: {operator: f"x{i}"}} for i in range(count - len(others)))]}


FRACTIONS = [i + 0.5 for i in range(10_000)]
LARGE = {
    "in, 10,000 floats": {KEY: {"$in": FRACTIONS}},
    "nin, 10,000 floats": {KEY: {"$nin": FRACTIONS}},
    "in, 100,000 of all types": {KEY: {"$in": [*range(49_000), *FRACTIONS, *map(str, range(41_000 - 2)), True, False]}},
    "in, an array": {KEY: {"$in": np.arange(40_000)}},
    "nin, 40,000 texts": {KEY: {"$nin": list(map(str, range(40_000)))}},
    "or, 1,000": many("$or", 1_000, {KEY: 2}, {KEY: {"$contains": "a"}}),
    "and, 10,000": many("$and", 10_000, {KEY: {"$ne": "a"}}, {"i": {"$gt": 9}}),
    "groups in groups": {
        "$and": [
            {"$or": [many("$and", 300, {"i": {"$lt": 40}}), many("$or", 300, {"i": {"$gte": 50}})]},
            {"$or": [{KEY: {"$in": FRACTIONS}}, {KEY: {"$nin": FRACTIONS[3:]}}]},
        ]
    },
    "nothing": {"$and": [{"i": -1}, {KEY: {"$nin": FRACTIONS}}]},
}


@pytest.mark.parametrize("where", LARGE.values(), ids=LARGE)
def test_a_large_filter(store, where):
    """It is split: SQLite refuses it in one statement, or ends the process."""
    assert_found(store, where)


@pytest.mark.parametrize("name", ["$or", "$and"])
def test_a_large_filter_on_texts(store, name):
    """Also beside a filter on metadata. Alone, each of the two fits into one statement."""
    leaf = {"$or": "$contains", "$and": "$not_contains"}[name]
    where_document = {name: [{leaf: f"number{i}x"} for i in range(998)] + [{leaf: "number1"}, {leaf: "oil"}]}
    assert_found(store, None, where_document)
    part = {name: where_document[name][-300:]}
    assert_found(store, many("$or", 300, {"i": {"$lt": 30}}), part)


@settings(max_examples=60, deadline=None)
@given(FILTERS, st.none() | TEXT_FILTERS, st.integers(1, 4), st.integers(3, 12))
def test_any_filter_in_parts(store, where, where_document, comparisons, variables):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("smart_rag.store.where._COMPARISONS_IN_ONE", comparisons)
        patch.setattr("smart_rag.store.where._VARIABLES_IN_ONE", variables)
        patch.setattr(store, "_part_rows", 7)
        assert_found(store, where, where_document)


def test_a_filter_in_parts_ranks_and_orders_as_one(store, monkeypatch):
    where = {"$or": [{"i": {"$lt": 20}}, {"i": {"$in": [5, 30, 31, 40, 41, 42]}}]}
    queries = unit_rows(4, 3)

    def answers():
        found = store.query(queries, 9, where)
        return (
            [[(one.row, pytest.approx(one.pooled_score, abs=1e-6)) for one in candidates] for candidates in found],
            store.ids(where),
            list(store.select(where)),
            [name for block in store.scan(where) for name in block.ids],
        )

    whole = answers()
    monkeypatch.setattr("smart_rag.store.where._COMPARISONS_IN_ONE", 1)
    monkeypatch.setattr(store, "_part_rows", 4)
    assert answers() == whole
    assert [len(candidates) for candidates in whole[0]] == [9] * 4


def nested(depth):
    return {"a": 1} if depth == 0 else {"$and": [nested(depth - 1), {"a": 1}]}


def doubled(depth):
    """Return a filter of 2 ** depth parts that takes little memory."""
    where = {"$or": []}
    for _ in range(depth):
        where = {"$or": [where, where]}
    return where


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (many("$or", 10_001), r"a filter on metadata may have 10,000 comparisons, this one has more; use \$in for"),
        ({"$and": [many("$or", 9_000), many("$and", 1_001)]}, "may have 10,000 comparisons"),
        (doubled(30), "may have 10,000 comparisons"),
        (
            {"a": {"$in": list(range(100_001))}},
            "a filter may have 100,000 values, this one has more; filter in several",
        ),
        ({"a": {"$nin": np.arange(100_001)}}, "may have 100,000 values"),
        (nested(31), "a filter may be nested 30 times, this one is nested more deeply"),
        (nested(500), "may be nested 30 times"),
    ],
)
def test_a_filter_that_is_too_large(where, message):
    with pytest.raises(InvalidInput, match=message):
        chroma_where(where)
    assert chroma_where(nested(30))


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            {"$or": [{"$contains": str(i)} for i in range(1_001)]},
            r"a filter on texts may have 1,000 comparisons, this one has more; join many texts by \| in one \$regex",
        ),
        ({"$contains": "x" * 25_000}, r"the str of '\$contains' may have 24,999 bytes, it has more; use the beginning"),
        ({"$not_contains": "é" * 12_500}, "may have 24,999 bytes"),
        ({"$regex": "x" * 250_001}, r"the pattern of '\$regex' may have 250,000 bytes, it has more; join several"),
        ({"$not_regex": "é" * 125_001}, "may have 250,000 bytes"),
    ],
)
def test_a_filter_on_texts_that_is_too_large(where, message):
    with pytest.raises(InvalidInput, match=message):
        chroma_where_document(where)


def test_the_longest_text_that_a_filter_takes(store):
    """Chroma puts a backslash before some characters."""
    for letter in "a%":
        assert_found(store, None, {"$not_contains": letter * 24_999})


def test_a_filter_on_empty_texts(tmp_path):
    """A document of an image alone has no text."""
    store = create(tmp_path / "chroma")
    store.upsert([Row(Document(name, text), bytes(16)) for name, text in (("a", ""), ("b", "pump"))], unit_rows(2, 3))
    for where, expected in (
        ({"$contains": "pump"}, ["b"]),
        ({"$not_contains": "pump"}, ["a"]),
        ({"$regex": "p"}, ["b"]),
        ({"$not_regex": "p"}, ["a"]),
        ({"$and": []}, ["a", "b"]),
        ({"$or": []}, []),
    ):
        assert sorted(store.ids(None, where)) == expected, where
    store.close()


def test_floats_of_many_digits_equal_themselves(tmp_path):
    """Chroma rounds them when they are stored."""
    numbers = [*np.random.default_rng(0).uniform(-2e9, 2e9, 60).tolist(), 0.9097462559682401, 9.897669711792001e72]
    store = create(tmp_path / "chroma")
    rows = [Row(Document(str(i), "text", {"x": x}), bytes(16)) for i, x in enumerate(numbers)]
    store.upsert(rows, unit_rows(len(rows), 3))
    for i, x in enumerate(numbers):
        assert store.ids({"x": x}) == [str(i)]
        assert len(store.ids({"x": {"$ne": x}})) == len(numbers) - 1
        assert len(store.ids({"x": {"$gte": x}})) == sum(other >= x for other in numbers)
        assert len(store.ids({"x": {"$lt": x}})) == sum(other < x for other in numbers)
    store.close()


def test_numbers_beyond_all_floats(tmp_path):
    """They are found; Chroma stores the nearest float."""
    store = create(tmp_path / "chroma")
    store.upsert([Row(Document("d", "text", {"x": 10**400}), bytes(16))], unit_rows(1, 3))
    for operator, value in (("$eq", 10**400), ("$gt", 1e300), ("$gte", 10**400), ("$lt", 10**999)):
        assert store.ids({"x": {operator: value}}) == (["d"] if operator != "$lt" else [])
    assert store.get(["d"])["d"].document.metadata == {"x": 10**400}
    store.close()


def test_a_list_that_gets_shorter(tmp_path):
    """A replaced document is found by its new list alone."""
    store = create(tmp_path / "chroma")
    for tags, other in ((["a", "b"], []), (["b", "c"], ["a"]), ([], ["a", "b", "c"]), ("a", ["a"]), (["a"], ["b"])):
        store.upsert([Row(Document("d", "text", {"tags": tags}), bytes(16))], unit_rows(1, 3))
        for tag in tags if isinstance(tags, list) else []:
            assert store.ids({"tags": {"$contains": tag}}) == ["d"]
        for tag in other:
            assert store.ids({"tags": {"$contains": tag}}) == []
        assert store.get(["d"])["d"].document.metadata == {"tags": tags}
    store.close()


def test_no_filter_stays_none():
    """A search without a filter is not slowed down."""
    for nothing in (None, {}):
        assert chroma_where(nothing) is chroma_where_document(nothing) is None


def test_the_caller_keeps_the_filter():
    where = {"$and": [{"n": {"$in": [np.int64(2), 2.5, "a"]}}, {"tags": {"$contains": np.str_("a")}}]}
    before = repr(where)
    chroma_where(where)
    assert repr(where) == before


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"n": {"$near": 3}}, r"filter on 'n': there is no operator '\$near'; use \$eq, \$ne, \$gt"),
        ({"n": {"$gt": "a"}}, r"filter on 'n': the value of '\$gt' must be a number, got 'a'"),
        ({"n": {"$gt": True}}, r"the value of '\$gt' must be a number, got True"),
        (
            {"n": None},
            r"filter on 'n': the value of '\$eq' must be a str, a number or a bool, got None; a document",
        ),
        ({"n": ["a"]}, r"the value of '\$eq' must be a str, a number or a bool, got \['a'\]"),
        ({"n": {"$in": "abc"}}, r"the value of '\$in' must be a list, got 'abc'"),
        ({"n": {"$in": ["a", None]}}, r"the value of '\$in', item 1, must be a str, a number or a bool, got None"),
        ({"n": {"$gte": 1, "$lt": 3}}, "filter on 'n': expected one operator, such as .*; got "),
        ({"n": {}}, "filter on 'n': expected one operator"),
        ({"a": 1, "b": 2}, r"a filter must be a dict with one key.*join several by \"\$and\"; got \{'a': 1, 'b': 2\}"),
        ({1: 2}, "a filter must be a dict with one key"),
        ("lang", "a filter must be a dict with one key.*got 'lang'"),
        ({"$and": {"a": 1}}, r"'\$and' needs a list of filters, got \{'a': 1\}"),
        ({"$not": {"a": 1}}, r"the filter has the key '\$not'; expected a metadata key, \$and or \$or"),
        ({"$contains": "a"}, r"the filter has the key '\$contains'.*; to filter texts, use where_document"),
        ({"#document": {"$contains": "a"}}, "'#document'.*; to filter texts, use where_document"),
        ({"n": float("nan")}, r"the value of '\$eq' is NaN, which equals nothing"),
        ({"n": {"$contains": b"a"}}, r"the value of '\$contains' is a bytes, which JSON cannot store"),
    ],
)
def test_a_wrong_filter(where, message):
    with pytest.raises(InvalidInput, match=message):
        chroma_where(where)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"$near": "a"}, r"the filter on texts has the operator '\$near'; use \$contains, \$not_contains, \$regex"),
        ({"lang": "en"}, "the filter on texts has the operator 'lang'"),
        ({"$contains": ""}, r"the filter on texts: '\$contains' needs a str that is not empty, got ''"),
        ({"$contains": 1}, r"the filter on texts: '\$contains' needs a str that is not empty, got 1"),
        ({"$contains": "a", "$regex": "b"}, r"a filter on texts must be a dict with one operator.*join several by"),
        ("pump", "a filter on texts must be a dict with one operator.*got 'pump'"),
    ],
)
def test_a_wrong_filter_on_texts(where, message):
    with pytest.raises(InvalidInput, match=message):
        chroma_where_document(where)


def test_lists_of_an_older_index():
    """Rows of an older smart_rag have no columns for lists: this is said, and so is what helps."""
    for name in ("$contains", "$not_contains"):
        with pytest.raises(
            InvalidInput,
            match=r"filter on 'tags': .* cannot search this index.*vacuum\(\)",
        ):
            chroma_where({"$and": [{"a": 1}, {"tags": {name: "a"}}]}, has_lists=False)
    assert chroma_where({"n": {"$gt": 2}}, has_lists=False) == {"n": {"$gt": 2}}

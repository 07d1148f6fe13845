"""What `SmartIndex` refuses: queries, filters, weights, documents, vectors and folders, each with a clear error."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from helpers.five_texts import STAGES, documents
from helpers.word_encoder import LetterEncoder

from smart_rag import Document, IndexConfig, Representation, SmartIndex, errors


@pytest.mark.parametrize("top_k", [0, -1, 2.5, True])
def test_top_k_must_be_a_positive_whole_number(index, top_k):
    with pytest.raises(errors.InvalidInput, match="top_k must be a whole number of at least 1"):
        index.search("The dog", top_k)


@pytest.mark.parametrize("query", ["", "  \n"])
def test_an_empty_query_is_refused(index, query):
    with pytest.raises(errors.InvalidInput, match="the query is empty"):
        index.search(query)
    with pytest.raises(errors.InvalidInput, match="query 1 is empty"):
        index.search_many(["The dog", query])
    with pytest.raises(errors.InvalidInput, match="query 1 is of type NoneType; expected a text"):
        index.search_many(["The dog", None])


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (None, "the query is of type NoneType"),
        (5, "the query is of type int"),
        (b"dogs", "the query is of type bytes"),
        (["dogs", "cats"], "the query is of type list"),
        ("dogs\udce9", "the query holds a lone surrogate"),
    ],
)
def test_what_is_no_query_is_refused(index, query, message):
    with pytest.raises(errors.InvalidInput, match=message):
        index.search(query)


def test_several_queries_are_not_one_text(index):
    with pytest.raises(errors.InvalidInput, match="expected several queries, got one str"):
        index.search_many("dogs")


def test_vectors_that_are_refused_leave_no_folder(tmp_path):
    vectors = LetterEncoder().encode_document(["one", "two"])
    with pytest.raises(errors.InvalidInput, match="1 documents with the vectors of 2"):
        SmartIndex.from_embeddings(tmp_path / "own", [Document("a", "one")], vectors)
    assert not (tmp_path / "own").exists()
    with SmartIndex.from_embeddings(tmp_path / "own", [Document("a", "one"), Document("b", "two")], vectors) as own:
        assert own.count() == 2


def test_an_empty_index_finds_nothing(tmp_path):
    with SmartIndex.create(tmp_path / "index", LetterEncoder()) as index:
        assert index.search("anything") == []
        assert index.search("anything", first_stage="exhaustive") == []
        assert index.search_many([]) == []


@pytest.mark.parametrize("first_stage", STAGES)
@pytest.mark.parametrize("where", [{"a": {"$foo": 1}}, {"$and": {}}, {"a": None}])
def test_a_wrong_filter(index, where, first_stage):
    with pytest.raises(errors.InvalidInput, match="filter"):
        index.search("The dog", where=where, first_stage=first_stage)


@pytest.mark.parametrize(
    ("weights", "first_stage"),
    [((-1.0, 1.0), "terms"), ((0.0, 0.0), "exhaustive"), ((float("nan"), 1.0), "pooled"), ((1.0,), "exhaustive")],
)
def test_weights_that_make_no_score(index, weights, first_stage):
    with pytest.raises(errors.InvalidInput, match="weights must be two numbers"):
        index.search("The dog", weights=weights, first_stage=first_stage)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([Document("a", "text"), Document("a", "text")], "ids come more than once in one call, the first is 'a'"),
        ([Document("ok", "text"), Document("empty", "  ")], "document 'empty' has no text"),
        ([Document("ok", "text"), Document("", "text")], "id must be a str that is not empty"),
        ([Document("ok", "text"), Document("m", "text", {"k": object()})], "document 'm': metadata 'k'"),
        ([Document("ok", "text"), Document("m", "text", {"_smart_rag.key": "x"})], "metadata key '_smart_rag.key'"),
        (["a bare text"], "expected a Document, got str"),
    ],
)
def test_bad_documents_are_refused_and_nothing_is_written(index, bad, message):
    with pytest.raises(errors.InvalidInput, match=message):
        index.add(bad)
    assert index.count() == 5
    assert index.verify().orphans == 0


def test_vectors_that_do_not_fit(index):
    class Wide(LetterEncoder):
        dimension = 9

    class Broken(LetterEncoder):
        def _encode(self, texts):
            good = super()._encode(texts)
            return Representation(good.pooled * np.nan, good.tokens)

    with pytest.raises(errors.DimensionMismatch, match="9 dimensions, the index has 8"):
        index.search(Wide().encode_query(["The dog"]))
    with pytest.raises(errors.DimensionMismatch, match="9 dimensions, the index has 8"):
        index.add_embeddings([Document("new", "a text")], Wide().encode_document(["a text"]))
    with pytest.raises(errors.InvalidInput, match="NaN"):
        index.add_embeddings([Document("new", "a text")], Broken().encode_document(["a text"]))
    index._encoder.loaded = Broken()
    with pytest.raises(errors.InvalidInput, match="NaN"):
        index.add([Document("new", "a text")])
    with pytest.raises(errors.InvalidInput, match="NaN"):
        index.search("The dog")
    assert index.count() == 5


def test_one_id_instead_of_several(index):
    for method in (index.get, index.tokens, index.delete):
        with pytest.raises(errors.InvalidInput, match="ids must be a sequence of str, got the str 'cat'"):
            method("cat")
    assert index.count() == 5


def test_an_index_of_another_model(tmp_path, minilm):
    with SmartIndex.create(tmp_path / "index", LetterEncoder()) as index:
        index.add(documents())
    for encoder in (LetterEncoder("other"), minilm):
        with pytest.raises(errors.IndexMismatch, match="made with 'letters'"):
            SmartIndex.open(tmp_path / "index", encoder)
    with SmartIndex.open(tmp_path / "index", LetterEncoder()) as index:
        assert index.count() == 5


def test_folders_that_are_no_index(tmp_path):
    with pytest.raises(errors.IndexNotFound, match="does not exist"):
        SmartIndex.open(tmp_path / "nowhere", LetterEncoder())
    with pytest.raises(errors.IndexNotFound, match=r"holds no manifest\.json"):
        SmartIndex.open(tmp_path, LetterEncoder())
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(errors.IndexExists, match="is not empty and holds no index"):
        SmartIndex.create(tmp_path, LetterEncoder())
    assert (tmp_path / "letter.txt").read_text() == "mine"
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(errors.IndexNotFound, match="is not the manifest of an index"):
        SmartIndex.open(tmp_path, LetterEncoder())
    with SmartIndex.create(tmp_path / "index", LetterEncoder()) as index:
        index.add(documents())
    with pytest.raises(errors.IndexExists):
        SmartIndex.create(tmp_path / "index", LetterEncoder())
    shutil.rmtree(tmp_path / "index" / "chroma")
    with pytest.raises(errors.IndexNotFound, match="pooled embeddings is missing"):
        SmartIndex.open(tmp_path / "index", LetterEncoder())


def test_a_newer_format(tmp_path):
    SmartIndex.create(tmp_path / "index", LetterEncoder()).close()
    path = tmp_path / "index" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    with pytest.raises(errors.IndexMismatch, match="format 99, this smart_rag reads formats 2 to 4"):
        SmartIndex.open(tmp_path / "index", LetterEncoder())


def test_unknown_codec_makes_no_folder(tmp_path):
    with pytest.raises(errors.InvalidInput, match="unknown codec 'float8'"):
        SmartIndex.create(tmp_path / "index", LetterEncoder(), config=IndexConfig(codec="float8"))
    assert not (tmp_path / "index").exists()


def test_a_closed_index(index):
    index.close()
    index.close()
    for call in (
        lambda: index.search("The dog"),
        lambda: index.add(documents()),
        lambda: index.delete(["cat"]),
        lambda: index.count(),
        lambda: index.rerank("The dog", ["a"]),
        lambda: index.info(),
    ):
        with pytest.raises(errors.IndexClosed, match="open it again"):
            call()


@pytest.mark.parametrize(
    "filters",
    [
        {"where": {"$or": [{"a": i} for i in range(12_000)]}},
        {"where": {"a": {"$in": list(range(100_001))}}},
        {"where_document": {"$or": [{"$contains": str(i)} for i in range(1_001)]}},
    ],
    ids=["wide", "many values", "texts"],
)
def test_a_filter_that_is_too_large_is_refused(index, filters):
    for stage in ("exhaustive", "terms", "pooled"):
        with pytest.raises(errors.InvalidInput, match=r"filter .*may have"):
            index.search("The dog", first_stage=stage, **filters)
    with pytest.raises(errors.InvalidInput, match=r"filter .*may have"):
        list(index.documents(**filters))


@pytest.mark.parametrize("where", [{"$or": 5}, {"$and": "abc"}, {"$or": None}, {"a": {"$in": 5}}], ids=str)
def test_a_group_that_is_no_list_is_refused(index, where):
    with pytest.raises(errors.InvalidInput, match="filter"):
        index.search("The dog", where=where)

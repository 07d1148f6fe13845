"""Datasets as tables of the Hugging Face hub and of mteb, and by names of ir-datasets: the same as in a BEIR folder."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import ModuleType
from typing import NamedTuple

import pytest

from smart_rag import Document
from smart_rag.errors import InvalidInput, MissingExtra
from smart_rag.evaluation import load_dataset

pytest.importorskip("pyarrow", reason="tables need the extra eval")
from helpers.published_datasets import parquet

CORPUS = [
    {"_id": "d1", "title": "Cats", "text": "They purr."},
    {"_id": "d2", "title": "", "text": "Dogs bark."},
    {"_id": "d3", "title": "A title alone", "text": None},
    {"_id": "d4", "title": None, "text": " "},
]
QUERIES = [
    {"_id": "q1", "text": "what purrs?"},
    {"_id": "q2", "text": "not judged"},
    {"_id": "q3", "text": "who barks?"},
]
QRELS = [("q1", "d1", 2), ("q1", "d2", 0), ("q3", "d2", 1), ("q9", "d1", 1)]
JUDGED = [dict(zip(("query-id", "corpus-id", "score"), row, strict=True)) for row in QRELS]
DOCUMENTS = [Document("d1", "Cats They purr."), Document("d2", "Dogs bark."), Document("d3", "A title alone")]
NOTES = [
    "1 query without a judgement left out",
    "the judgements of 1 query left out, which {queries} lacks, such as 'q9'",
]


def jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def renamed(rows, **names):
    return [{names.get(key, key): value for key, value in row.items()} for row in rows]


def of_the_hub(folder):
    parquet(folder / "corpus" / "test-00000-of-00001.parquet", renamed(CORPUS, _id="id"))
    parquet(folder / "queries" / "test-00000-of-00001.parquet", QUERIES)
    parquet(folder / "qrels" / "test-00000-of-00002.parquet", JUDGED[:1])
    parquet(folder / "qrels" / "test-00001-of-00002.parquet", JUDGED[1:])


def of_mteb(folder):
    """As mteb publishes its retrieval tasks: the configuration ``default`` has the judgements."""
    readme = "configs:\n"
    parts = (("default", "test", JUDGED), ("corpus", "corpus", CORPUS), ("queries", "queries", QUERIES))
    for name, split, rows in parts:
        parquet(folder / name / f"{split}-00000-of-00001.parquet", rows)
        readme += f"- config_name: {name}\n  data_files:\n  - split: {split}\n    path: {name}/{split}-*\n"
    (folder / "README.md").write_text(f"---\n{readme}---\n")


def of_mteb_as_lines(folder):
    jsonl(folder / "corpus.jsonl", [{**row, "text": row["text"] or ""} for row in CORPUS])
    jsonl(folder / "queries.jsonl", QUERIES)
    jsonl(folder / "qrels" / "test.jsonl", JUDGED)


def saved(folder):
    datasets = pytest.importorskip("datasets", reason="save_to_disk needs the extra train")
    for name, rows in (("corpus", CORPUS), ("queries", QUERIES), ("qrels", JUDGED)):
        datasets.Dataset.from_list(rows).save_to_disk(str(folder / name))


@pytest.mark.parametrize("layout", [of_the_hub, of_mteb, of_mteb_as_lines, saved])
def test_tables_are_the_same_dataset_as_a_beir_folder(tmp_path, layout, caplog):
    folder = tmp_path / "animals"
    folder.mkdir()
    layout(folder)
    dataset = load_dataset(folder)
    assert (dataset.name, dataset.documents) == ("animals", DOCUMENTS)
    assert dataset.queries == {"q1": "what purrs?", "q3": "who barks?"}
    assert dataset.qrels == {"q1": {"d1": 2, "d2": 0}, "q3": {"d2": 1}}
    assert [note.split(", which")[0] for note in dataset.notes] == [note.split(", which")[0] for note in NOTES]
    assert [message for message in caplog.messages if "without text" in message] == [
        f"{folder}: 1 document without text left out"
    ]


def test_whole_numbers_as_ids_fractions_as_grades_and_columns_that_are_not_used(tmp_path):
    parquet(tmp_path / "corpus.parquet", [{"id": 1, "text": "one", "url": "x"}, {"id": 2, "text": "two", "url": "y"}])
    parquet(tmp_path / "queries.parquet", [{"query_id": 7, "query": "one?", "language": "en"}])
    parquet(
        tmp_path / "qrels.parquet", [{"qid": 7, "doc_id": 1, "relevance": 0.5}, {"qid": 7, "doc_id": 2, "relevance": 2}]
    )
    dataset = load_dataset(tmp_path)
    assert dataset.documents == [Document("1", "one"), Document("2", "two")]
    assert (dataset.queries, dataset.qrels) == ({"7": "one?"}, {"7": {"1": 5, "2": 20}})
    assert dataset.notes == (
        "1 column of the table corpus not used: url",
        "1 column of the table queries not used: language",
    )


def test_the_split_is_chosen(tmp_path):
    of_the_hub(tmp_path)
    parquet(tmp_path / "qrels" / "dev-00000-of-00001.parquet", [{**JUDGED[0], "score": 3}])
    assert load_dataset(tmp_path).qrels["q1"]["d1"] == 2
    assert load_dataset(tmp_path, split="dev").qrels == {"q1": {"d1": 3}}
    with pytest.raises(InvalidInput, match="has the splits dev, test; expected one split, or one called 'train'"):
        load_dataset(tmp_path, split="train")


@pytest.mark.parametrize(
    ("part", "rows", "error"),
    [
        (
            "corpus",
            [{"docids": "d1", "body": "x"}],
            "a column _id or id or .*, found docids, body; rename 'docids', if it is",
        ),
        ("corpus", [{"_id": "d1", "body": "x"}], "expected a column text, found _id, body; rename a column"),
        ("corpus", [{"_id": None, "text": "x"}], "row 1: the id None is neither a text nor a whole number; correct"),
        ("corpus", [{"_id": "d1", "text": 3}], "row 1: 3 is no text"),
        (
            "corpus",
            [{"_id": "d1", "text": "x"}, {"_id": "d1", "text": "y"}],
            "row 2: the id 'd1' is also on row 1, with",
        ),
        ("queries", [{"_id": "q1", "texts": "x"}], "a column text or query, found _id, texts; rename 'texts', if"),
        ("qrels", [{"query-id": "q1", "corpus": "d1"}], "a column corpus-id or .*; rename 'corpus', if it is this one"),
        ("qrels", [{"query-id": "q1", "corpus-id": "d1", "score": "high"}], "row 1: .*'high' is no grade"),
        ("qrels", [{"query-id": "q1", "corpus-id": "d1", "score": None}], "row 1: .*'None' is no grade"),
        ("qrels", [*JUDGED, {**JUDGED[0], "score": 7}], "row 5: document 'd1' has the grade 7 .* the grade 2 on row 1"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_names_what_is_near(tmp_path, part, rows, error):
    for name, good in (("corpus", CORPUS), ("queries", QUERIES), ("qrels", JUDGED)):
        parquet(tmp_path / f"{name}.parquet", rows if name == part else good)
    with pytest.raises(InvalidInput, match=rf"{part}\.parquet.*{error}"):
        load_dataset(tmp_path)


def test_tables_that_are_missing_are_named(tmp_path):
    parquet(tmp_path / "corpus.parquet", CORPUS)
    parquet(tmp_path / "question.parquet", QUERIES)
    with pytest.raises(InvalidInput, match="queries and qrels is missing among corpus, question"):
        load_dataset(tmp_path)


def test_tables_of_several_parts_are_named(tmp_path):
    for part in ("corpus", "queries", "qrels"):
        parquet(tmp_path / f"en-{part}" / "test-00000-of-00001.parquet", CORPUS)
    with pytest.raises(InvalidInput, match="found the tables en-corpus, each of a part such as a language"):
        load_dataset(tmp_path)


def test_a_line_with_more_fields_than_the_header_is_an_error(tmp_path):
    parquet(tmp_path / "corpus" / "test.parquet", CORPUS)
    parquet(tmp_path / "queries" / "test.parquet", QUERIES)
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t1\t0\n")
    with pytest.raises(InvalidInput, match=r"test.tsv cannot be read \(line 3 has more fields than the header\)"):
        load_dataset(tmp_path)


def test_judgements_without_grades_count_1_and_it_is_said(tmp_path, caplog):
    parquet(tmp_path / "corpus.parquet", CORPUS)
    parquet(tmp_path / "queries.parquet", [QUERIES[0]])
    row = {"query-id": "q1", "corpus-id": "d1"}
    parquet(tmp_path / "qrels.parquet", [row, row])
    dataset = load_dataset(tmp_path)
    assert dataset.qrels == {"q1": {"d1": 1}}
    assert dataset.notes == ("the table qrels has no grades; each judgement counts 1",)
    assert f"{tmp_path / 'qrels.parquet'}: 1 judgement repeated; each counts once" in caplog.messages


class Doc(NamedTuple):
    doc_id: str
    title: str
    text: str

    def default_text(self):
        return f"{self.title} {self.text}"


class Query(NamedTuple):
    query_id: str
    text: str

    def default_text(self):
        return self.text


class Judgement(NamedTuple):
    query_id: str
    doc_id: str
    relevance: int


class Collection:
    """A dataset with the interface of ir-datasets 0.6."""

    def __init__(self, has_qrels=True):
        self.has_qrels = lambda: has_qrels
        self.has_docs = self.has_queries = lambda: True

    def docs_iter(self):
        return iter([Doc(row["_id"], row["title"] or "", row["text"] or "") for row in CORPUS])

    def queries_iter(self):
        return iter([Query(*row.values()) for row in QUERIES])

    def qrels_iter(self):
        return iter([Judgement(*row) for row in QRELS])


def test_a_dataset_of_ir_datasets(monkeypatch):
    package = ModuleType("ir_datasets")
    package.registry = {"beir/animals/test": Collection(), "beir/animals": Collection(has_qrels=False)}
    package.load = package.registry.__getitem__
    monkeypatch.setitem(sys.modules, "ir_datasets", package)
    dataset = load_dataset("ir_datasets:beir/animals/test")
    assert dataset.name == "beir-animals-test"
    assert dataset.documents == [replace(document, text=document.text.strip()) for document in DOCUMENTS]
    assert dataset.queries == {"q1": "what purrs?", "q3": "who barks?"}
    assert dataset.qrels == {"q1": {"d1": 2, "d2": 0}, "q3": {"d2": 1}}
    assert len(dataset.notes) == 2
    with pytest.raises(InvalidInput, match="no dataset 'beir/animls/test'; the nearest name is beir/animals/test"):
        load_dataset("ir_datasets:beir/animls/test")
    with pytest.raises(InvalidInput, match="beir/animals has no qrels; name a part of it with documents, queries and"):
        load_dataset("ir_datasets:beir/animals")
    with pytest.raises(InvalidInput, match="the split is a part of this name"):
        load_dataset("ir_datasets:beir/animals/test", split="test")


def test_without_the_packages(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(MissingExtra, match=r"ir_datasets:beir/x needs .*smart-rag\[ir-datasets\]"):
        load_dataset("ir_datasets:beir/x")
    of_the_hub(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtra, match=r"smart-rag\[eval\]"):
        load_dataset(tmp_path)

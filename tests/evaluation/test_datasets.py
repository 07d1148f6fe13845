"""BEIR folders: the documents, queries and qrels in them, and errors that name the file and the line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from smart_rag import Content, Document
from smart_rag.errors import InvalidInput
from smart_rag.evaluation import load_dataset
from smart_rag.evaluation.datasets import Labels, load_labels
from smart_rag.types import PdfPage


def write_dataset(folder: Path, corpus, queries, qrels, qrels_file="qrels.tsv", header=True) -> Path:
    folder.mkdir()
    for name, rows in (("corpus", corpus), ("queries", queries)):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    lines = ["query-id\tcorpus-id\tscore"] if header else []
    lines += ["\t".join(map(str, row)) for row in qrels]
    (folder / qrels_file).parent.mkdir(exist_ok=True)
    (folder / qrels_file).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return folder


CORPUS = [
    {"_id": "d1", "title": "Cats", "text": "They purr when they are content."},
    {"_id": "d2", "title": "", "text": "Dogs bark at strangers."},
    {"_id": "d3", "text": "No title here, only taxes."},
    {"_id": "d4", "title": "A title alone", "text": ""},
    {"_id": "d5", "title": None, "text": " "},
]
QUERIES = [
    {"_id": "q1", "text": "what purrs?"},
    {"_id": "q2", "text": "nobody has judged this"},
    {"_id": "q3", "text": "who barks?"},
]
QRELS = [("q1", "d1", 2), ("q1", "d2", 0), ("q3", "d2", 1), ("q9", "d1", 1)]


@pytest.fixture
def small(tmp_path):
    return write_dataset(tmp_path / "small", CORPUS, QUERIES, QRELS)


def test_titles_are_joined_and_empty_documents_are_left_out(small, caplog):
    dataset = load_dataset(small)
    assert dataset.name == "small"
    assert dataset.documents == [
        Document("d1", "Cats They purr when they are content."),
        Document("d2", "Dogs bark at strangers."),
        Document("d3", "No title here, only taxes."),
        Document("d4", "A title alone"),
    ]
    assert caplog.messages == [f"{small}: 1 document without text left out"]


def test_visual_documents_have_an_image_or_a_pdf_page(tmp_path):
    """Files are relative to the folder, and pages are counted from 0 in the file, from 1 in `PdfPage`."""
    corpus = [
        {"_id": "d1", "text": "", "image": "pages/1.png"},
        {"_id": "d2", "text": "text", "pdf": "report.pdf", "page": 4},
        {"_id": "d3", "text": "text", "image": ""},
    ]
    folder = write_dataset(tmp_path / "visual", corpus, QUERIES, QRELS)
    images = [document.image for document in load_dataset(folder).documents]
    assert images == [folder / "pages/1.png", PdfPage(folder / "report.pdf", 5), None]


def test_a_row_with_an_image_needs_no_text_and_the_image_of_a_query_is_kept(tmp_path):
    corpus = [{"_id": "d1", "image": "scan.png"}, {"_id": "d2", "text": None, "pdf": "a.pdf", "page": 0}]
    queries = [
        {"_id": "q1", "image": "photo.png"},
        {"_id": "q2", "text": "the same, newer", "image": "photo.png"},
        {"_id": "q3", "text": "only a text"},
    ]
    folder = write_dataset(tmp_path / "visual", corpus, queries, [(f"q{i}", "d1", 1) for i in (1, 2, 3)])
    dataset = load_dataset(folder)
    assert dataset.documents == [
        Document("d1", image=folder / "scan.png"),
        Document("d2", image=PdfPage(folder / "a.pdf", 1)),
    ]
    assert dataset.queries == {
        "q1": Content(image=folder / "photo.png"),
        "q2": Content("the same, newer", folder / "photo.png"),
        "q3": "only a text",
    }


def test_unjudged_queries_are_left_out(small):
    dataset = load_dataset(small)
    assert dataset.queries == {"q1": "what purrs?", "q3": "who barks?"}
    assert dataset.qrels == {"q1": {"d1": 2, "d2": 0}, "q3": {"d2": 1}}


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("qrels_file", ["qrels.tsv", "qrels/test.tsv"])
def test_two_names_of_the_qrels_file_with_and_without_a_header(tmp_path, qrels_file, header):
    folder = write_dataset(tmp_path / "it", CORPUS, QUERIES, QRELS, qrels_file, header)
    assert load_dataset(folder).qrels == {"q1": {"d1": 2, "d2": 0}, "q3": {"d2": 1}}


def test_ids_can_be_numbers(tmp_path):
    folder = write_dataset(tmp_path / "it", [{"_id": 7, "text": "x"}], [{"_id": 1, "text": "y"}], [(1, 7, 1)])
    dataset = load_dataset(folder)
    assert (dataset.documents[0].id, dataset.queries, dataset.qrels) == ("7", {"1": "y"}, {"1": {"7": 1}})


def test_empty_lines_in_jsonl_are_skipped(small):
    corpus = small / "corpus.jsonl"
    corpus.write_text("\n" + corpus.read_text().replace("\n", "\n\n"))
    assert len(load_dataset(small).documents) == 4


@pytest.mark.parametrize("qrels", ["\nq1\td1\t1\n", "q1\td1\t1\n\n"])
def test_empty_lines_in_qrels_are_skipped(small, qrels):
    (small / "qrels.tsv").write_text(qrels)
    assert load_dataset(small).qrels == {"q1": {"d1": 1}}


def test_the_limit_counts_judged_queries(small):
    assert list(load_dataset(small, 1).queries) == ["q1"]
    assert list(load_dataset(small, 2).queries) == ["q1", "q3"]
    assert list(load_dataset(small, 99).qrels) == ["q1", "q3"]


def test_labels_can_be_in_any_two_files(small, tmp_path):
    moved = (small / "qrels.tsv").rename(tmp_path / "labels.tsv")
    assert load_labels(small / "queries.jsonl", moved, 1) == Labels(
        {"q1": "what purrs?"},
        {"q1": {"d1": 2, "d2": 0}},
        (
            "1 query without a judgement left out",
            "1 query after the limit left out",
            "the judgements of 1 query left out, which queries.jsonl lacks, such as 'q9'",
        ),
    )
    moved.write_text("q9\td1\t1\n")
    with pytest.raises(InvalidInput, match=r"no query of queries\.jsonl is judged in .*labels\.tsv"):
        load_labels(small / "queries.jsonl", moved)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels.tsv"])
def test_a_missing_file_is_named(small, name):
    (small / name).unlink()
    with pytest.raises(InvalidInput, match=rf"small/{name} is missing: a BEIR folder holds corpus\.jsonl"):
        load_dataset(small)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InvalidInput, match=r"nowhere/qrels\.tsv is missing"):
        load_dataset(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
@pytest.mark.parametrize(
    "line",
    [
        *("{not json", "[1, 2]", "3", '"text"', '{"_id": "x"}', '{"text": "x"}', "null", '{"_id": 1, "text": null}'),
        *('{"_id": "x", "pdf": "a.pdf"}', '{"_id": "x", "pdf": "a.pdf", "page": "ii"}', '{"_id": "x", "image": 3}'),
        *('{"_id": "x", "pdf": null, "text": "y"}', '{"_id": "x", "pdf": "a.pdf", "page": -1}'),
        *('{"_id": "x", "text": "y", "text": "z"}', '{"_id": "x", "text": "\\udc00"}'),
        '{"_id": "x", "text": "y", "n": ' + 5000 * "9" + "}",  # more digits than Python reads
    ],
)
def test_a_bad_line_is_named_with_its_number(small, name, line):
    lines = (small / name).read_text().splitlines()
    (small / name).write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n")
    with pytest.raises(InvalidInput, match=rf"{name}, line 3: expected a JSON object with '_id' and 'text'"):
        load_dataset(small)


@pytest.mark.parametrize("line", ["q1\td1", "q1\td1\thigh", "q1\td1\t", "q1\t0\td1\t1\trun", "q1 d1 1 0 2"])
def test_a_bad_line_of_the_qrels_is_named_with_its_number(small, line):
    (small / "qrels.tsv").write_text(f"query-id\tcorpus-id\tscore\nq1\td1\t1\n{line}\n")
    with pytest.raises(InvalidInput, match=r"qrels\.tsv, line 3: expected query id, document id and grade"):
        load_dataset(small)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels.tsv"])
def test_a_file_that_is_not_utf_8_is_named(small, name):
    with (small / name).open("ab") as file:
        file.write('{"_id": "x", "text": "café"}\n'.encode("latin-1"))
    with pytest.raises(InvalidInput, match=rf"{name} is not UTF-8"):
        load_dataset(small)


def test_no_judged_query_is_an_error(small):
    (small / "qrels.tsv").write_text("q9\td1\t1\n")
    with pytest.raises(InvalidInput, match=r"small: no query of queries\.jsonl is judged in .*; check that both use"):
        load_dataset(small)


def test_no_document_is_an_error(small):
    (small / "corpus.jsonl").write_text('{"_id": "d1", "text": ""}\n')
    with pytest.raises(InvalidInput, match=r"corpus\.jsonl: expected at least one document"):
        load_dataset(small)


def test_an_empty_query_is_an_error(small):
    (small / "queries.jsonl").write_text('{"_id": "q1", "text": " "}\n')
    with pytest.raises(InvalidInput, match=r"queries\.jsonl: query 'q1' is empty; give it a text"):
        load_dataset(small)


def test_judgements_that_cannot_be_met_are_counted_or_left_out(small):
    qrels = small / "qrels.tsv"
    qrels.write_text(f"{qrels.read_text()}q1\tgone\t1\nq3\td5\t2\n")
    dataset = load_dataset(small)
    assert dataset.qrels == {"q1": {"d1": 2, "d2": 0, "gone": 1}, "q3": {"d2": 1, "d5": 2}}
    note = "2 judgements of documents that the corpus lacks, such as 'gone'; "
    assert dataset.notes[-1] == f"{note}the 2 relevant ones count as not found"
    dataset = load_dataset(small, answerable_only=True)
    assert dataset.qrels == {"q1": {"d1": 2, "d2": 0}, "q3": {"d2": 1}}
    assert dataset.notes[-1] == f"{note}they are left out"
    qrels.write_text("q1\tgone\t1\nq3\td2\t0\n")
    assert list(load_dataset(small).queries) == ["q1", "q3"]
    with pytest.raises(InvalidInput, match=r"small: no query has a relevant document in the corpus; 1 judgement of"):
        load_dataset(small, answerable_only=True)


def test_splits(small):
    (small / "qrels").mkdir()
    (small / "qrels" / "dev.tsv").write_text("q2\td1\t1\n")
    (small / "qrels" / "train.tsv.gz").write_bytes(gzip.compress(b"q3\td1\t1\n"))
    assert list(load_dataset(small).queries) == ["q1", "q3"]
    assert list(load_dataset(small, split="dev").queries) == ["q2"]
    assert list(load_dataset(small, split="train").queries) == ["q3"]
    with pytest.raises(InvalidInput, match=r"qrels/test\.tsv is missing; found the splits dev, train: name one"):
        load_dataset(small, split="test")
    (small / "qrels.tsv").unlink()
    with pytest.raises(InvalidInput, match="found the splits dev, train"):
        load_dataset(small)


def test_every_file_can_be_packed_and_marked_as_utf_8(small):
    expected = load_dataset(small)
    for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv"):
        path = small / name
        path.with_name(f"{name}.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + path.read_bytes()))
        path.unlink()
    assert load_dataset(small) == expected


def test_ids_and_titles_in_other_shapes(small):
    (small / "corpus.jsonl").write_text('{"id": "d1", "title": "alone", "text": null}\n{"id": 0, "text": "zero"}\n')
    assert load_dataset(small).documents == [Document("d1", "alone"), Document("0", "zero")]


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
def test_an_id_twice_is_an_error_unless_the_row_is_the_same(small, name, caplog):
    lines = (small / name).read_text().splitlines()
    (small / name).write_text("\n".join([*lines, lines[0]]) + "\n")
    expected = f"{small / name}: 1 row repeated; each counts once"
    load_dataset(small)
    assert expected in caplog.messages
    (small / name).write_text("\n".join([*lines, lines[0].replace("purr", "bark")]) + "\n")
    with pytest.raises(InvalidInput, match=rf"{name}, line \d: the id '[dq]1' is also on line 1, with other values"):
        load_dataset(small)


def test_a_query_that_is_a_document_is_known(small):
    (small / "queries.jsonl").write_text('{"_id": "d1", "text": "They purr when they are content."}\n')
    (small / "qrels.tsv").write_text("d1\td2\t1\n")
    assert load_dataset(small).own_documents == {"d1": "d1"}

"""Training data: every format gives the same queries, positives and negatives."""

import io
import json
import re

import pytest
from helpers.some_pairs import texts
from PIL import Image

from smart_rag.errors import InvalidInput, MissingExtra
from smart_rag.training import TrainingData, load_training_data
from smart_rag.training.data import TrainingQuery, digest
from smart_rag.types import Document

PAIRS = [
    {"query": "who sat", "positive": "the cat sat"},
    {"query": "who barks", "positive": "dogs bark", "negatives": ["the cat sat", "taxes are due"]},
    {"query": "who sat", "positive": "a cat was sitting"},
    {"query": "what is due", "positive": "taxes are due", "negatives": ["taxes are due", "dogs bark"]},
]


def jsonl(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


EXPECTED = {
    "who sat": (["the cat sat", "a cat was sitting"], []),
    "who barks": (["dogs bark"], ["the cat sat", "taxes are due"]),
    "what is due": (["taxes are due"], ["dogs bark"]),
}


def test_pairs_and_triples(tmp_path):
    """Equal texts are one document and equal queries one query. A positive is never a negative of its query."""
    data = load_training_data(jsonl(tmp_path / "pairs.jsonl", PAIRS))
    assert texts(data) == EXPECTED
    assert data.name == "pairs"
    assert len(data.documents) == len({document.id for document in data.documents}) == 4


def test_column_names_of_sentence_transformers(tmp_path):
    path = jsonl(tmp_path / "x.jsonl", [{"anchor": "who", "positive": "the cat", "negative": "a dog"}])
    assert texts(load_training_data(path)) == {"who": (["the cat"], ["a dog"])}


@pytest.mark.parametrize(
    ("row", "negatives"),
    [
        ({"query": "who", "pos": ["the cat", "a cat"], "neg": ["a dog"]}, ["a dog"]),
        (
            {"anchor": "who", "positives": ["the cat", "a cat"], "negative_1": "a dog", "negative_2": "x"},
            ["a dog", "x"],
        ),
        ({"question": "who", "answer": ["the cat", "a cat"], "negatives": None, "label": 1}, []),
    ],
)
def test_column_names_of_others(tmp_path, row, negatives):
    path = jsonl(tmp_path / "x.jsonl", [row])
    assert texts(load_training_data(path)) == {"who": (["the cat", "a cat"], negatives)}


def test_a_pair_with_the_label_0_is_a_negative(tmp_path, caplog):
    rows = [("who", "the cat", 1), ("who", "a dog", 0), ("what", "a dog", 0)]
    path = jsonl(tmp_path / "x.jsonl", [{"sentence1": a, "sentence2": b, "label": label} for a, b, label in rows])
    assert texts(load_training_data(path)) == {"who": (["the cat"], ["a dog"])}
    assert caplog.messages == [f"{path}: 1 query without a positive left out, such as 'what'"]


def test_columns_can_be_renamed_and_left_out(tmp_path):
    path = jsonl(tmp_path / "x.jsonl", [{"search": "who", "hit": "the cat", "id": 7}])
    columns = {"search": "query", "hit": "positive", "id": ""}
    assert texts(load_training_data(path, columns=columns)) == {"who": (["the cat"], [])}
    with pytest.raises(InvalidInput, match="two columns have the same meaning"):
        load_training_data(path, columns={"search": "query", "hit": "query"})


def test_the_limit_counts_queries(tmp_path):
    data = load_training_data(jsonl(tmp_path / "pairs.jsonl", PAIRS), limit_queries=1)
    assert texts(data) == {"who sat": EXPECTED["who sat"]}


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"query": "who"}',
        '{"query": " ", "positive": "x"}',
        '{"query": "a", "positive": "b", "negatives": [3]}',
        '{"query": "a", "positive": "b", "comment": "c"}',
        '{"query": "a", "positive": "b", "anchor": "c"}',
        '{"query": "a", "positive": "b", "label": 0.7}',
        '{"query": ["a", "b"], "positive": "b"}',
        '{"query": "a", "positive": []}',
        '{"query": "a", "positive": 7}',
        '{"query": "a", "query": "b", "positive": "c"}',
        '{"query": "a", "positive": "b\\ud800"}',
        '{"query": "a", "positive": "b", "n": ' + 5000 * "9" + "}",
    ],
)
def test_a_bad_line_is_named(line, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(PAIRS[0]) + "\n\n" + line)
    with pytest.raises(InvalidInput, match=r"x\.jsonl, line 3: .*expected a row with a query"):
        load_training_data(path)


def test_paths_without_training_data(tmp_path):
    with pytest.raises(InvalidInput, match="does not exist: training data is a"):
        load_training_data(tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match="is none of these: training data is a"):
        load_training_data(tmp_path)
    with pytest.raises(InvalidInput, match=r"/empty.jsonl: found no pair of query and positive; expected one on each"):
        load_training_data(jsonl(tmp_path / "empty.jsonl", []))


@pytest.fixture
def beir(tmp_path):
    """A BEIR folder without qrels, with six documents and three queries."""
    names = ("cat", "dog", "tax", "rain", "snow", "hail")
    jsonl(tmp_path / "corpus.jsonl", [{"_id": name, "title": "", "text": f"about {name}"} for name in names])
    jsonl(tmp_path / "queries.jsonl", [{"_id": id, "text": f"query {id}"} for id in "abc"])
    return tmp_path


def test_a_beir_folder_with_a_training_split(beir):
    (beir / "qrels").mkdir()
    head = "query-id\tcorpus-id\tscore\n"
    (beir / "qrels" / "train.tsv").write_text(head + "a\tcat\t1\na\tdog\t2\na\ttax\t0\nb\ttax\t0\n")
    (beir / "qrels" / "test.tsv").write_text(head + "c\ttax\t1\n")
    data = load_training_data(beir)
    assert texts(data) == {"query a": (["about dog", "about cat"], [])}  # the best grade first
    assert len(data.documents) == 6


def test_a_query_with_an_image_is_refused(beir):
    lines = (beir / "queries.jsonl").read_text() + '{"_id": "seen", "image": "cat.png"}\n'
    (beir / "queries.jsonl").write_text(lines)
    (beir / "qrels.tsv").write_text("a\tcat\t1\nseen\tcat\t1\n")
    with pytest.raises(InvalidInput, match="query 'seen' has an image, and the training reads only texts of queries"):
        load_training_data(beir)


def test_a_beir_folder_without_splits(beir):
    """It keeps at most as many unjudged documents as judged ones."""
    (beir / "qrels.tsv").write_text("b\tcat\t1\nc\ttax\t1\n")
    data = load_training_data(beir)
    assert texts(data) == {"query b": (["about cat"], []), "query c": (["about tax"], [])}
    assert [document.id for document in data.documents] == ["cat", "dog", "tax", "rain"]
    assert texts(load_training_data(beir, limit_queries=1)) == {"query b": (["about cat"], [])}


def test_a_beir_folder_without_relevant_documents(beir):
    (beir / "qrels.tsv").write_text("b\tcat\t0\n")
    with pytest.raises(InvalidInput, match=r"no query has a relevant document .* above 0 in qrels\.tsv"):
        load_training_data(beir)


def test_a_beir_folder_without_qrels(beir):
    with pytest.raises(InvalidInput, match=r"qrels.*train\.tsv"):
        load_training_data(beir)


# --- dataset folders --------------------------------------------------------------------------


def picture(colour):
    file = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(file, "PNG")
    return file.getvalue()


def saved(path, rows, images=False, split=None):
    datasets = pytest.importorskip("datasets", reason="dataset folders need the extra train")
    made = datasets.Dataset.from_list(rows)
    if images:
        made = made.cast_column("image", datasets.Image())
    (made if split is None else datasets.DatasetDict({split: made})).save_to_disk(str(path))
    return path


@pytest.mark.parametrize("split", [None, "train"])
def test_pairs_in_a_dataset_folder(split, tmp_path):
    rows = [{"negatives": [], **row} for row in PAIRS]
    assert texts(load_training_data(saved(tmp_path / "d", rows, split=split))) == EXPECTED


@pytest.mark.parametrize("kind", ["saved", "hub"])
def test_splits_that_are_not_read_are_named(kind, tmp_path):
    splits = {"train": PAIRS, "test": PAIRS[:1], "dev": PAIRS[:1]}
    if kind == "saved":
        datasets = pytest.importorskip("datasets", reason="dataset folders need the extra train")
        rows = {
            name: datasets.Dataset.from_list([{"negatives": [], **row} for row in of]) for name, of in splits.items()
        }
        datasets.DatasetDict(rows).save_to_disk(str(tmp_path))
    else:
        for name, of in splits.items():
            (tmp_path / f"{name}-00000-of-00001.jsonl").write_text("\n".join(map(json.dumps, of)))
    data = load_training_data(tmp_path)
    assert texts(data) == EXPECTED
    assert "2 other splits not read: dev, test" in data.notes


def test_judgements_of_another_split_are_named(beir):
    (beir / "qrels").mkdir()
    (beir / "qrels" / "test.tsv").write_text("a\tcat\t1\n")
    with pytest.raises(InvalidInput, match=r"in qrels/train\.tsv or qrels\.tsv; found qrels/.*test\.tsv"):
        load_training_data(beir)


def test_other_columns_and_splits_are_an_error(tmp_path):
    with pytest.raises(InvalidInput, match=r"row 1: 'positive' is missing, .*; found question$"):
        load_training_data(saved(tmp_path / "columns", [{"question": "who"}]))
    with pytest.raises(InvalidInput, match="found the splits test; expected a split named 'train'"):
        load_training_data(saved(tmp_path / "splits", PAIRS[:1], split="test"))


@pytest.mark.parametrize("named", [True, False])
def test_page_images_with_questions(named, tmp_path):
    """Like the ColPali training set. A page with two questions is one document, by its name or by its bytes."""
    colours = {"red.png": (255, 0, 0), "blue.png": (0, 0, 255)}
    questions = [
        ("what is red", "red.png"),
        ("what burns", "red.png"),
        ("what is blue", "blue.png"),
        (None, "blue.png"),
    ]
    rows = [
        {"query": text, "image": {"bytes": picture(colours[page])}, **({"image_filename": page} if named else {})}
        for text, page in questions
    ]
    data = load_training_data(saved(tmp_path / "pages", rows, images=True))
    assert [(query.text, query.positives) for query in data.queries] == [
        ("what is red", (0,)),
        ("what burns", (0,)),
        ("what is blue", (1,)),
    ]
    assert len(data.documents) == 2
    for document, colour in zip(data.documents, colours.values(), strict=True):
        assert document.content({"image"}).modality == "image"
        assert document.image.getpixel((0, 0)) == colour
    assert data.documents[0].image is not data.documents[0].image  # opened on each access, not kept


@pytest.mark.parametrize("content", [b"no picture", b"P6 1 1 255\nRGB"], ids=["no image", "unsupported format"])
def test_a_page_that_is_not_an_image_of_a_known_format_is_named(content, tmp_path):
    rows = [{"query": "where?", "image": {"bytes": content, "path": None}, "image_filename": "p7.png"}]
    data = load_training_data(saved(tmp_path / "pages", rows, images=True))
    with pytest.raises(
        InvalidInput, match=rf"image of row 0 \(p7.png\) cannot be read: .*{re.escape(repr(content[:8]))}"
    ):
        data.documents[0]


def test_a_dataset_folder_needs_the_extra(tmp_path, monkeypatch):
    (tmp_path / "dataset_info.json").write_text("{}")
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"smart-rag\[train\]"):
        load_training_data(tmp_path)


# --- a digest ----------------------------------------------------------------------------------


def test_different_data_has_different_digests():
    documents = [Document("a", "cat"), Document("b", "dog")]
    data = TrainingData("x", documents, [TrainingQuery("q", (0,), (1,))])
    others = [
        TrainingData("x", documents, [TrainingQuery("q", (1,), (0,))]),
        TrainingData("x", documents, [TrainingQuery("r", (0,), (1,))]),
        TrainingData("x", [Document("a", "cat"), Document("b", "dogs")], data.queries),
        TrainingData("x", [Document("a", "cat"), Document("c", "dog")], data.queries),
    ]
    assert len({digest(data), *map(digest, others)}) == 5
    assert digest(TrainingData("y", list(documents), list(data.queries))) == digest(data)

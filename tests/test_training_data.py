"""Training data: every format to the same thing, a split that keeps documents apart, and hard negatives."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from word_encoder import WordEncoder

from smart_rag.errors import InvalidInput, MissingExtra
from smart_rag.training_data import (
    TrainingData,
    TrainingQuery,
    check_trainable,
    digest,
    load_training_data,
    mine_negatives,
    split,
)
from smart_rag.types import Content, Document

PAIRS = [
    {"query": "who sat", "positive": "the cat sat"},
    {"query": "who barks", "positive": "dogs bark", "negatives": ["the cat sat", "taxes are due"]},
    {"query": "who sat", "positive": "a cat was sitting"},
    {"query": "what is due", "positive": "taxes are due", "negatives": ["taxes are due", "dogs bark"]},
]


def jsonl(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def texts(data):
    """By query: the texts of its positives, and of its negatives."""
    return {
        query.text: tuple([data.documents[i].text for i in of] for of in (query.positives, query.negatives))
        for query in data.queries
    }


EXPECTED = {
    "who sat": (["the cat sat", "a cat was sitting"], []),
    "who barks": (["dogs bark"], ["the cat sat", "taxes are due"]),
    "what is due": (["taxes are due"], ["dogs bark"]),
}


def test_pairs_and_triples(tmp_path):
    """Equal texts are one document, equal queries one query, and no positive is a negative of its query."""
    data = load_training_data(jsonl(tmp_path / "pairs.jsonl", PAIRS))
    assert texts(data) == EXPECTED
    assert data.name == "pairs"
    assert len(data.documents) == len({document.id for document in data.documents}) == 4


def test_one_negative_as_sentence_transformers_calls_it(tmp_path):
    path = jsonl(tmp_path / "x.jsonl", [{"anchor": "who", "positive": "the cat", "negative": "a dog"}])
    assert texts(load_training_data(path)) == {"who": (["the cat"], ["a dog"])}


def test_limit_is_of_queries(tmp_path):
    data = load_training_data(jsonl(tmp_path / "pairs.jsonl", PAIRS), limit=1)
    assert texts(data) == {"who sat": EXPECTED["who sat"]}


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"query": "who"}',
        '{"query": " ", "positive": "x"}',
        '{"query": "a", "positive": "b", "negatives": [3]}',
    ],
)
def test_a_line_that_is_no_pair_is_named(line, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(PAIRS[0]) + "\n\n" + line)
    with pytest.raises(InvalidInput, match=r"x\.jsonl, line 3: expected a JSON object with the texts 'query'"):
        load_training_data(path)


def test_what_is_no_training_data(tmp_path):
    with pytest.raises(InvalidInput, match="does not exist: training data is a"):
        load_training_data(tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match="is none of these: training data is a"):
        load_training_data(tmp_path)
    with pytest.raises(InvalidInput, match="no pair of query and positive"):
        load_training_data(jsonl(tmp_path / "empty.jsonl", []))


@pytest.fixture
def beir(tmp_path):
    """Two judged documents, one that is judged not to answer, and three that nobody judged."""
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
    assert texts(data) == {"query a": (["about dog", "about cat"], [])}  # the best first
    assert len(data.documents) == 6


def test_a_beir_folder_that_is_not_split(beir):
    """Of what nobody judged, as many documents are kept as were judged."""
    (beir / "qrels.tsv").write_text("b\tcat\t1\nc\ttax\t1\n")
    data = load_training_data(beir)
    assert texts(data) == {"query b": (["about cat"], []), "query c": (["about tax"], [])}
    assert [document.id for document in data.documents] == ["cat", "dog", "tax", "rain"]
    assert texts(load_training_data(beir, limit=1)) == {"query b": (["about cat"], [])}


def test_a_beir_folder_without_judgements(beir):
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


def test_columns_and_splits_that_do_not_fit(tmp_path):
    with pytest.raises(InvalidInput, match="found question"):
        load_training_data(saved(tmp_path / "columns", [{"question": "who"}]))
    with pytest.raises(InvalidInput, match="the splits test, expected one called train"):
        load_training_data(saved(tmp_path / "splits", PAIRS[:1], split="test"))


@pytest.mark.parametrize("named", [True, False])
def test_page_images_with_questions(named, tmp_path):
    """As in the ColPali training set: a page of two questions is one document, by its name or by its bytes."""
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
    assert data.documents[0].image is not data.documents[0].image  # opened anew, never kept
    parts = [part for seed in range(20) for part in _both(data, seed)]
    assert {part.documents[0].image.getpixel((0, 0)) for part in parts} == set(colours.values())


def _both(data, seed):
    try:
        return split(data, 0.5, seed)
    except InvalidInput:  # both pages in one part
        return ()


def test_without_the_extra(tmp_path, monkeypatch):
    (tmp_path / "dataset_info.json").write_text("{}")
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"smart-rag\[train\]"):
        load_training_data(tmp_path)


# --- the split --------------------------------------------------------------------------------


def random_data(count=400, seed=0):
    """Queries with one to three positives and some negatives among half as many documents."""
    generator = np.random.default_rng(seed)
    documents = [Document(f"d{i}", f"text {i}") for i in range(count // 2)]
    queries = []
    for i in range(count):
        drawn = generator.permutation(len(documents))[:5].tolist()
        first = int(generator.integers(1, 4))
        queries.append(TrainingQuery(f"query {i}", tuple(drawn[:first]), tuple(drawn[first:])))
    return TrainingData("random", documents, queries)


def test_no_document_and_no_query_is_in_both_parts():
    data = random_data()
    training, held_out = split(data, 0.25)
    ids = [{document.id for document in part.documents} for part in (training, held_out)]
    assert not ids[0] & ids[1]
    assert ids[0] | ids[1] == {document.id for document in data.documents}
    names = [[query.text for query in part.queries] for part in (training, held_out)]
    assert sorted(names[0] + names[1]) == sorted(query.text for query in data.queries)
    assert 0.15 < len(names[1]) / len(data.queries) < 0.35
    before = texts(data)
    for part in (training, held_out):
        mine = {document.text for document in part.documents}
        for text, (positives, negatives) in texts(part).items():
            assert positives == [one for one in before[text][0] if one in mine]
            assert negatives == [one for one in before[text][1] if one in mine]
            assert positives[0] == before[text][0][0]


def test_the_split_is_the_same_each_time_and_when_data_is_added():
    data = random_data()
    more = TrainingData("more", [Document("new", "new"), *data.documents], [TrainingQuery("new", (0,))])
    _, held_out = split(data, 0.25)
    again = {document.id for document in held_out.documents}
    assert {document.id for document in split(data, 0.25)[1].documents} == again
    assert {document.id for document in split(data, 0.25, seed=1)[1].documents} != again
    for part in (0, 1):
        try:
            kept = {document.id for document in split(more, 0.25)[part].documents}
        except InvalidInput:  # the one query is in the other part
            continue
        assert kept - {"new"} in (again, {document.id for document in data.documents} - again)


@pytest.mark.parametrize("held_out", [0, 1, -0.1, 1.5])
def test_parts_that_are_none(held_out):
    with pytest.raises(InvalidInput, match="between 0 and 1"):
        split(random_data(), held_out)


def test_too_little_to_split():
    data = TrainingData("one", [Document("a", "a")], [TrainingQuery("q", (0,))])
    with pytest.raises(InvalidInput, match="of 1 queries none is left"):
        split(data)


# --- hard negatives ---------------------------------------------------------------------------


def test_hard_negatives_are_the_best_hits_that_are_no_positives():
    documents = [Document(name, text) for name, text in [
        ("a", "the cat sat on the mat"), ("same", "the cat sat on the mat"), ("b", "the cat sat"),
        ("c", "a cat"), ("d", "taxes are due"), ("e", "rain falls")]]  # fmt: skip
    queries = [TrainingQuery("the cat sat", (0,)), TrainingQuery("taxes are due", (4,), (5,))]
    mined = mine_negatives(TrainingData("x", documents, queries), WordEncoder(), 2)
    names = [[documents[i].id for i in query.negatives] for query in mined.queries]
    assert names[0] == ["b", "c"]  # neither the positive nor its copy
    assert names[1][0] == "e"  # its own come first
    assert len(names[1]) == 2
    assert "d" not in names[1]
    assert [query.positives for query in mined.queries] == [(0,), (4,)]
    assert isinstance(documents[0].content(("text",)), Content)


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    rows = [{"query": "where?", "image": {"bytes": b"no picture", "path": None}, "image_filename": "p7.png"}]
    data = load_training_data(saved(tmp_path / "pages", rows, images=True))
    with pytest.raises(InvalidInput, match=r"the image of row 0 \(p7.png\) cannot be read: .*b'no pictu'"):
        data.documents[0]


def test_what_can_be_trained_on(tmp_path, monkeypatch):
    """A model of texts would learn from page images that all of them are the same empty text."""
    encoder = WordEncoder()
    image = {"bytes": picture("red"), "path": None}
    pages = load_training_data(saved(tmp_path / "pages", [{"query": "where?", "image": image}] * 3, images=True))
    with pytest.raises(InvalidInput, match=r"pages: the documents hold nothing that the model takes, which is text"):
        check_trainable(pages, encoder, 1)
    texts = TrainingData("texts", [Document("a", "cat"), Document("b", "")], [TrainingQuery(q, (0,)) for q in "ab"])
    check_trainable(texts, encoder, 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InvalidInput, match="2 queries to train on, fewer than a batch of 2 in each of 2 processes"):
        check_trainable(texts, encoder, 2)


def test_an_empty_file_is_named_by_its_path(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InvalidInput, match=r"/empty.jsonl: no pair of query and positive in it"):
        load_training_data(tmp_path / "empty.jsonl")


def test_a_digest_tells_data_apart():
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

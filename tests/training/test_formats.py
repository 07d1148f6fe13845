"""Files of training data: each layout in each format gives the same queries, and nothing is dropped without a word."""

from __future__ import annotations

import csv
import gzip
import json
import re

import pytest
from helpers.some_pairs import texts
from hypothesis import given, settings
from hypothesis import strategies as st

from smart_rag.errors import InvalidInput
from smart_rag.training import load_training_data

ROWS = [
    {
        "anchor": 'who "sat", really',
        "positive": "the cat; it sat",
        "negative_1": "a dog",
        "negative_2": "taxes\n are due",
    },
    {"anchor": "who barks", "positive": "a dog", "negative_1": None, "negative_2": None},
]
EXPECTED = {
    'who "sat", really': (["the cat; it sat"], ["a dog", "taxes\n are due"]),
    "who barks": (["a dog"], []),
}


def written(path, rows):
    """Write rows in the format of the suffix. Return the path."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow", reason="Parquet files need the extra eval")
        from helpers.published_datasets import parquet

        parquet(path, rows)
        return path
    if name.endswith(".json"):
        text = json.dumps(rows, indent=1)
    elif name.endswith(".jsonl"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        import io

        made = io.StringIO()
        writer = csv.DictWriter(made, list(rows[0]), delimiter=";" if "semicolon" in name else ",")
        writer.writeheader()
        writer.writerows(rows)
        text = "\ufeff" + made.getvalue()
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize(
    "name",
    [
        "x.jsonl",
        "x.json",
        "x.csv",
        "semicolon.csv",
        "x.parquet",
        "x.jsonl.gz",
        "x.csv.gz",
        "train/x.json",
        "data.txt.jsonl",
    ],
)
def test_every_format_gives_the_same(tmp_path, name):
    assert texts(load_training_data(written(tmp_path / name, ROWS))) == EXPECTED


def test_tsv_files_take_quotation_marks_as_text(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text('query\tpositive\n"who" sat\tthe "cat\nwho barks\ta dog\n')
    assert texts(load_training_data(path)) == {'"who" sat': (['the "cat'], []), "who barks": (["a dog"], [])}
    path.write_text('query\tpositive\nwho sat\t"the cat\nsat"\n')
    with pytest.raises(InvalidInput, match=r"x.tsv, line 3: expected 2 fields, as the header has \(query, positive\)"):
        load_training_data(path)


@pytest.mark.parametrize(
    ("row", "query", "positives", "negatives"),
    [
        ({"query": "q", "positive": "p"}, "q", ["p"], []),
        ({"anchor": "q", "positive": "p", "negative": "n"}, "q", ["p"], ["n"]),
        ({"anchor": "q", "positive": "p", "negative_1": "n", "negative_2": "m"}, "q", ["p"], ["n", "m"]),
        ({"sentence1": "q", "sentence2": "p", "label": 1}, "q", ["p"], []),
        ({"sentence1": "q", "sentence2": "p", "label": "1.0"}, "q", ["p"], []),
        ({"question": "q", "answer": "p"}, "q", ["p"], []),
        ({"query": "q", "pos": ["p", "o"], "neg": ["n"]}, "q", ["p", "o"], ["n"]),
        ({"query": "q", "docs": ["p", "n", "o"], "labels": [1, 0, 2]}, "q", ["p", "o"], ["n"]),
        (["q", "p"], "q", ["p"], []),
        (["q", "p", "n", "m"], "q", ["p"], ["n", "m"]),
        ({"set": ["q", "p", "o"]}, "q", ["p", "o"], []),
    ],
)
def test_the_layouts_of_sentence_transformers_and_others(tmp_path, row, query, positives, negatives):
    for name in ("x.jsonl", "x.json"):
        assert texts(load_training_data(written(tmp_path / name, [row]))) == {query: (positives, negatives)}


@pytest.mark.parametrize(
    ("row", "error"),
    [
        (
            {"querry": "q", "positive": "p"},
            r"the column 'querry' is not known; the nearest is 'query'; .*--columns querry=",
        ),
        (
            {"query": "q", "positive": "p", "score": 0.7},
            "score is 0.7, and not a list with a score for each document. If it is a teacher's score of the positive",
        ),
        ({"query": "q", "docs": ["p"], "labels": [1, 0]}, "a label for each document; found 1 documents and 2 labels"),
        ({"query": "q", "docs": ["p"], "labels": "1"}, "found 1 documents and none labels"),
        ({"query": "q", "docs": ["p"], "labels": [0.3]}, "the label 0.3 is neither 0 nor a whole number above it"),
        ({"query": "q", "docs": ["p"], "labels": [1], "positive": "p"}, "docs and labels do not go with positive"),
        ({"sentence1": "q", "sentence2": "p", "label": 2}, "the label 2 is neither 1 nor 0"),
        ({"set": ["q"]}, "expected a list of at least two texts, got 1"),
        ({"set": ["q", "p"], "query": "q"}, "the column 'set' stands alone"),
        ({"query": "q", "positive": {"text": "p"}}, "{'text': 'p'} is not a text, nor a list of texts"),
        (["q"], "expected a list of at least two texts, got 1"),
        ("q", "str is neither an object nor a list of texts"),
        (7, "int is neither an object nor a list of texts"),
    ],
)
def test_what_cannot_be_understood_is_one_line_that_names_what_is_near(tmp_path, row, error):
    good = {"query": "a", "positive": "b"}
    with pytest.raises(InvalidInput, match=rf"x\.jsonl, line 2: .*{error}.*; expected a row with a query") as found:
        load_training_data(written(tmp_path / "x.jsonl", [good, row]))
    assert "\n" not in str(found.value)
    with pytest.raises(InvalidInput, match=r"x\.json, row 2: "):
        load_training_data(written(tmp_path / "x.json", [good, row]))


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("x.csv", "who sat,the cat\n", "no pair of query and positive"),
        (
            "x.csv",
            "who sat,the cat\nwho barks,a dog\n",
            "line 2: .*found who sat, the cat .'who sat'|the column 'who sat'",
        ),
        ("x.csv", "query,positive\nq\n", "line 2: expected 2 fields, as the header has .query, positive., found 1"),
        ("x.csv", 'query,positive\nq,"p" x\n', "line 2: .*expected a field with quotation marks to begin and end with"),
        ("x.csv", 'query,positive\nq,"p\n', "line 2: unexpected end of data"),
        ("x.csv", "query,query\nq,p\n", "line 1: the column 'query' is there twice"),
        ("x.csv", "", "no pair of query and positive"),
        ("x.json", "[{]", "expected a JSON array of objects, or an object on each line"),
        ("x.json", '{"query":\n', "line 1: expected a row with a query and a positive, as JSON"),
        ("x.jsonl", "[" * 100_000, "expected a JSON array of objects"),
        ("x.parquet", "no parquet", "x.parquet cannot be read"),
        ("x.csv", b"query,positive\n\xff,p\n", "x.csv is not UTF-8"),
        ("x.csv.gz", b"query,positive\n", "is damaged, or not a gzip file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, error):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InvalidInput, match=error):
        load_training_data(path)


def test_the_index_that_pandas_writes_is_left_out_and_counted(tmp_path, caplog):
    path = tmp_path / "x.csv"
    path.write_text(",query,positive\n0,q,p\n")
    assert texts(load_training_data(path)) == {"q": (["p"], [])}
    assert caplog.messages == [f"{path}: 1 column without a name left out"]


def test_a_column_to_rename_that_no_row_has_is_an_error(tmp_path):
    path = written(tmp_path / "x.csv", [{"search": "q", "positive": "p"}])
    with pytest.raises(InvalidInput, match=r"no row has the column 'serch', .*; the nearest is 'search'"):
        load_training_data(path, columns={"search": "query", "serch": "query"})


# --- folders ----------------------------------------------------------------------------------


def test_folders_as_on_the_hub(tmp_path):
    """The split ``train`` in one or several files. Several tables are an error that names them."""
    written(tmp_path / "one" / "data" / "train-00000-of-00002.parquet", ROWS[:1])
    written(tmp_path / "one" / "data" / "train-00001-of-00002.parquet", ROWS[1:])
    written(tmp_path / "one" / "data" / "test-00000-of-00001.parquet", [{"anchor": "x", "positive": "y"}])
    assert texts(load_training_data(tmp_path / "one")) == EXPECTED
    for name in ("pair", "triplet"):
        written(tmp_path / "several" / name / "train-00000-of-00001.parquet", ROWS)
    with pytest.raises(InvalidInput, match="found the tables pair, triplet; give the folder or the file of one"):
        load_training_data(tmp_path / "several")
    assert texts(load_training_data(tmp_path / "several" / "triplet")) == EXPECTED
    written(tmp_path / "csv" / "train.csv", ROWS)
    written(tmp_path / "csv" / "test.csv", ROWS[:1])
    assert texts(load_training_data(tmp_path / "csv")) == EXPECTED
    written(tmp_path / "csv" / "train2.csv", ROWS[:1])
    with pytest.raises(InvalidInput, match=r"found train.csv, train2.csv; give one of these files"):
        load_training_data(tmp_path / "csv")


def test_tables_of_judgements(tmp_path, caplog):
    written(tmp_path / "corpus.parquet", [{"_id": f"d{i}", "text": f"about {i}"} for i in range(6)])
    written(tmp_path / "queries.parquet", [{"_id": "a", "text": "first"}, {"_id": "b", "text": "second"}])
    rows = [("a", "d0", 1), ("a", "d1", 2), ("b", "d1", 0)]
    names = ("query-id", "corpus-id", "score")
    written(tmp_path / "qrels" / "train.parquet", [dict(zip(names, row, strict=True)) for row in rows])
    data = load_training_data(tmp_path)
    assert texts(data) == {"first": (["about 1", "about 0"], [])}
    assert caplog.messages == [
        f"{tmp_path}: 1 query without a relevant document, such as 'b'; each measure of theirs is 0",
        f"{tmp_path}: 2 documents without a judgement left out",
        f"{tmp_path}: 1 query without a relevant document left out, such as 'b'",
    ]


# --- nothing is dropped without a word --------------------------------------------------------

WORDS = st.sampled_from(["a", "b", "c", "d", 'e "', "f,\n;", "\u00e4 \u8a9e"])
QUERIES = WORDS.map("q{}".format)
LAYOUTS = st.one_of(
    st.tuples(st.just("pair"), QUERIES, WORDS),
    st.tuples(st.just("triple"), QUERIES, WORDS, WORDS | st.none()),
    st.tuples(st.just("label"), QUERIES, WORDS, st.integers(0, 1)),
)


def of_layout(kind, query, text, last=None):
    """Return a row with the columns of all three layouts, and its positives and negatives."""
    row = {"query": query, "positive": text, "negative": last if kind == "triple" else None, "label": 1}
    if kind == "label":
        row["label"] = last
    negatives = [row["negative"]] if row["negative"] else []
    return row, ([text], negatives) if row["label"] else ([], [text, *negatives])


def counted(notes, pattern):
    return sum(int(found[1].replace(",", "")) for note in notes if (found := re.match(rf"([\d,]+) {pattern}", note)))


@settings(deadline=None)
@given(
    st.lists(LAYOUTS, min_size=1, max_size=12),
    st.sampled_from(["x.jsonl", "x.json", "x.csv", "semicolon.csv", "x.jsonl.gz"]),
    st.none() | st.integers(1, 3),
)
def test_each_positive_and_negative_is_used_or_counted(tmp_path_factory, drawn, name, limit):
    rows, parts = zip(*(of_layout(*one) for one in drawn), strict=True)
    path = written(tmp_path_factory.mktemp("rows") / name, list(rows))
    given_by_query: dict[str, list[tuple[list[str], list[str]]]] = {}
    for row, part in zip(rows, parts, strict=True):
        given_by_query.setdefault(row["query"], []).append(part)
    within = dict(list(given_by_query.items())[:limit])
    positives = {query: [text for own, _ in rows for text in own] for query, rows in within.items()}
    kept = [query for query, found in positives.items() if found]
    if not kept:
        with pytest.raises(InvalidInput, match=rf"no pair .*{len(within)} quer(y|ies) without a positive left out"):
            load_training_data(path, limit)
        return
    data = load_training_data(path, limit)
    assert len(data.queries) + counted(data.notes, "quer(y|ies) without a positive") == len(within)
    assert sum(map(len, within.values())) + counted(data.notes, "rows? left out, because they have qu") == len(rows)
    used = sum(len(query.positives) for query in data.queries)
    assert used + counted(data.notes, "positives? repeated") == sum(map(len, positives.values()))
    used = sum(len(query.negatives) for query in data.queries)
    negatives = sum(len(others) for query in kept for _, others in within[query])
    assert used + counted(data.notes, "negatives? repeated") + counted(data.notes, "negatives? left out") == negatives


@settings(deadline=None)
@given(st.text('q,p;"\t \n0{}[]:', max_size=60), st.sampled_from(["x.jsonl", "x.json", "x.csv", "x.tsv"]))
def test_any_text_is_training_data_or_one_line_that_says_why_not(tmp_path_factory, text, name):
    path = tmp_path_factory.mktemp("any") / name
    path.write_text(text if name.startswith("x.js") else f"query{',' if 'csv' in name else chr(9)}positive\n{text}")
    try:
        data = load_training_data(path)
    except InvalidInput as error:
        if str(path) not in str(error):
            raise
        return
    used = sum(len(query.positives) for query in data.queries)
    if name == "x.tsv":
        assert used + counted(data.notes, "positives? repeated") == sum(bool(line) for line in text.splitlines())

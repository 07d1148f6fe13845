"""Judgements: files of BEIR and TREC in every shape, and what of them no ranking can meet."""

from __future__ import annotations

import gzip
import json
import logging
import re
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smart_rag.errors import InvalidInput
from smart_rag.evaluation import load_dataset
from smart_rag.evaluation.qrels import Met, met, own_documents, read_qrels

IDS = st.text("abz09\"'#,;-_\u00e4\u8a9e", min_size=1, max_size=6)
GRADES = st.sampled_from(["0", "1", "2", "+1", "1 ", " 3", "-1", "1.0", "2e0", "007"])


@given(
    st.dictionaries(st.tuples(IDS, IDS), GRADES, min_size=1, max_size=20),
    st.sampled_from(["beir", "header", "trec", "blanks"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["\n", "\r\n"]),
)
def test_no_judgement_is_lost(tmp_path_factory, judgements, layout, packed, marked, end):
    """Quotation marks in ids, odd numbers, marks of UTF-8, line ends of Windows, and gzip."""
    rows = [(query, "0", document, grade) for (query, document), grade in judgements.items()]
    tab = " " if layout == "blanks" else "\t"
    lines = [tab.join(row if layout in ("trec", "blanks") else (row[0], *row[2:])) for row in rows]
    if layout == "header":
        lines.insert(0, "query-id\tcorpus-id\tscore")
    content = ("\ufeff" if marked else "") + "".join(line + end for line in lines)
    path = tmp_path_factory.mktemp("qrels") / ("qrels.tsv.gz" if packed else "qrels.tsv")
    data = content.encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    qrels = read_qrels(path)
    assert {(query, one): grade for query, of in qrels.items() for one, grade in of.items()} == {
        pair: round(float(grade)) for pair, grade in judgements.items()
    }


LINES = st.one_of(
    st.tuples(st.sampled_from("pqr"), st.sampled_from("abc"), st.sampled_from(["0", "1", "1", "2", "0.5"])).map(
        "\t".join
    ),
    st.tuples(st.sampled_from("pqr"), st.sampled_from("abc"), st.sampled_from("01")).map(
        lambda row: f"{row[0]} 0 {row[1]} {row[2]}"
    ),
    st.sampled_from(["", "  ", "query-id\tcorpus-id\tscore", "q\td", "q\td\thigh", "q d 1 0 0", '"q\t"d\t1']),
)


@given(st.lists(LINES, max_size=12), st.sampled_from(["\n", "\r\n"]))
def test_each_line_is_a_judgement_or_is_counted_or_is_an_error(tmp_path_factory, lines, end):
    """Lines in = judgements + repeated ones, which a warning counts; or an error that names a line."""
    path = tmp_path_factory.mktemp("lines") / "qrels.tsv"
    path.write_text("".join(line + end for line in lines), encoding="utf-8", newline="")
    given = [line for line in lines if line.strip()]
    given = given[1:] if given and given[0].endswith("score") else given
    with messages() as logged:
        try:
            qrels = read_qrels(path)
        except InvalidInput as error:
            if not re.search(r"qrels\.tsv, line \d+: ", str(error)):
                raise
            return
    repeated = sum(int(re.search(r": (\d+) judgements? repeated; each counts once$", message)[1]) for message in logged)
    assert sum(map(len, qrels.values())) + repeated == len(given)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["text", "text", " "])), min_size=1, max_size=7),
    st.lists(st.sampled_from("pqrst"), min_size=1, max_size=6),
    st.dictionaries(st.tuples(st.sampled_from("pqrsuv"), st.sampled_from("abcxy")), st.integers(0, 2), min_size=1),
    st.booleans(),
    st.none() | st.integers(1, 2),
)
def test_each_row_of_a_dataset_is_used_or_counted(tmp_path_factory, corpus, queries, judged, answerable_only, limit):
    folder = tmp_path_factory.mktemp("dataset")
    texts = dict(corpus)  # an id has the same text each time, so that a second row is a repetition
    rows = [json.dumps({"_id": id, "text": texts[id]}) for id, _ in corpus]
    (folder / "corpus.jsonl").write_text("\n".join(rows))
    (folder / "queries.jsonl").write_text("\n".join(json.dumps({"_id": id, "text": "what?"}) for id in queries))
    (folder / "qrels.tsv").write_text("".join(f"{q}\t{d}\t{grade}\n" for (q, d), grade in judged.items()))
    with messages() as logged:
        try:
            dataset = load_dataset(folder, limit, answerable_only=answerable_only)
        except InvalidInput as error:
            if not re.search("at least one document|no query", str(error)):
                raise
            return

    def counted(pattern):
        found = [
            re.search(rf"(?:^|: )(?:the judgements of )?(\d+) {pattern}", text) for text in (*logged, *dataset.notes)
        ]
        return sum(int(one[1]) for one in found if one)

    repeated = sum("corpus.jsonl: " in text and int(text.split(": ")[1].split()[0]) for text in logged)
    assert len(dataset.documents) + counted("documents? without text") + repeated == len(corpus)
    unjudged, after = counted("quer(y|ies) without a judgement"), counted("quer(y|ies) after the limit")
    repeated = sum("queries.jsonl: " in text and int(text.split(": ")[1].split()[0]) for text in logged)
    unanswerable = counted("quer(y|ies) without a relevant document") if answerable_only else 0
    assert len(dataset.queries) + unjudged + after + repeated + unanswerable == len(queries)
    # The judgements: of queries that are kept, of others, and of documents that the corpus lacks.
    kept = list(dict.fromkeys(id for id in queries if any(q == id for q, _ in judged)))[:limit]
    assert counted("quer(y|ies) left out, which") == len({q for q, _ in judged} - set(queries))
    unknown = [pair for pair in judged if pair[0] in kept and pair[1] not in {one.id for one in dataset.documents}]
    assert counted("judgements? of documents that the corpus lacks") == len(unknown)
    wanted = {pair: grade for pair, grade in judged.items() if pair[0] in dataset.queries}
    if answerable_only:
        wanted = {pair: grade for pair, grade in wanted.items() if pair not in unknown}
    assert {(q, d): grade for q, grades in dataset.qrels.items() for d, grade in grades.items()} == wanted


@contextmanager
def messages():
    """A context that collects what is logged, which the command line prints."""
    found: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())
    logger = logging.getLogger("smart_rag.evaluation")
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)


def write(tmp_path, text: str):
    path = tmp_path / "qrels.tsv"
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_fractions_become_whole_numbers_of_the_same_proportion(tmp_path):
    path = write(tmp_path, "q\ta\t0.5\nq\tb\t2\nr\tc\t0.25\n")
    assert read_qrels(path) == {"q": {"a": 50, "b": 200}, "r": {"c": 25}}


def test_the_first_line_is_a_header_only_if_its_last_name_says_so(tmp_path):
    assert read_qrels(write(tmp_path, "query_id iteration doc_id Relevance\nq 0 d 1\n")) == {"q": {"d": 1}}
    with pytest.raises(InvalidInput, match=r"line 1: .*'high' is no grade; a header ends with one of: grade"):
        read_qrels(write(tmp_path, "q\td\thigh\nq\te\t1\n"))


def test_contradictions_are_errors_and_repetitions_are_counted(tmp_path, caplog):
    with pytest.raises(InvalidInput, match=r"line 3: document 'd' has the grade 2 for query 'q', and the grade 1 on"):
        read_qrels(write(tmp_path, "q\td\t1\nq\te\t1\nq\td\t2\n"))
    path = write(tmp_path, "q\td\t1\nq\td\t1.0\nq\td\t1\n")
    assert read_qrels(path) == {"q": {"d": 1}}
    assert caplog.messages == [f"{path}: 2 judgements repeated; each counts once"]


@pytest.mark.parametrize("grade", ["2147483648", "1000001", "0.0000001", "nan", "inf", "1,5", "0x1"])
def test_grades_that_no_tool_can_count(tmp_path, grade):
    text = f"q\tc\t1\nq\td\t{grade}\n" if grade != "0.0000001" else f"q\tc\t1\nq\td\t{grade}\nq\te\t3\n"
    with pytest.raises(InvalidInput, match=r"line [123]: (the grade .* is too large|expected .* is no grade)"):
        read_qrels(write(tmp_path, text))


def test_a_damaged_gzip_file_is_named(tmp_path):
    path = tmp_path / "qrels.tsv.gz"
    for content in (b"q\td\t1\n", gzip.compress(b"q\td\t1\n" * 1000)[:-9]):
        path.write_bytes(content)
        with pytest.raises(InvalidInput, match=r"qrels\.tsv\.gz is damaged, or not a gzip file"):
            read_qrels(path)


QRELS = {"q1": {"a": 1, "x": 2, "y": 0}, "q2": {"b": 0}, "q3": {"x": 1}, "q4": {"b": 3}}


def test_what_no_ranking_can_meet_is_counted():
    found = met(QRELS, ["a", "b"], answerable_only=False)
    assert found == Met(
        QRELS,
        (
            "3 judgements of documents that the corpus lacks, such as 'x'; the 2 relevant ones count as not found",
            "1 query without a relevant document, such as 'q2'; each measure of theirs is 0",
        ),
    )
    found = met(QRELS, ["a", "b"], answerable_only=True, place="the index")
    assert found == Met(
        {"q1": {"a": 1}, "q4": {"b": 3}},
        (
            "3 judgements of documents that the index lacks, such as 'x'; they are left out",
            "2 queries without a relevant document, such as 'q2'; left out",
        ),
    )
    assert met({"q": {"a": 1}}, ["a"], answerable_only=False).notes == ()


def test_a_query_is_its_own_document_only_with_the_same_text():
    queries = {"1": "what  is heat?", "2": "what is heat?", "3": "judged itself", "4": "no document"}
    texts = {"1": "A title. what is heat?", "2": "about wings", "3": "judged itself"}
    assert own_documents(queries, texts, {"1": {"9": 1}, "3": {"3": 1}}) == {"1": "1"}

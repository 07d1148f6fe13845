"""TREC run files: what is read and written, against trec_eval's own reading, and the figures of runs from elsewhere."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smart_rag import Document
from smart_rag.errors import InvalidInput
from smart_rag.evaluation import Dataset, evaluate_runs, read_run, write_run
from smart_rag.evaluation.metrics import Metrics
from smart_rag.evaluation.results import write_by_query

IDS = st.text("abz09\"'#,;-_\u00e4\u8a9e", min_size=1, max_size=6)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@given(st.dictionaries(IDS, st.lists(IDS, unique=True, min_size=1, max_size=12), min_size=1, max_size=5))
def test_a_run_that_is_written_and_read_is_the_same(tmp_path_factory, run):
    path = tmp_path_factory.mktemp("run") / "mine.run"
    write_run(path, run, "mine")
    assert read_run(path) == run


def test_the_lines_of_a_run_file(tmp_path):
    write_run(tmp_path / "x.run", {"q1": ["b", "a"], "q2": ["c"]}, "hybrid")
    assert (tmp_path / "x.run").read_text().splitlines() == [
        "q1 Q0 b 1 2 hybrid",
        "q1 Q0 a 2 1 hybrid",
        "q2 Q0 c 1 1 hybrid",
    ]
    with pytest.raises(InvalidInput, match="the document id 'a b' is empty or has a blank"):
        write_run(tmp_path / "y.run", {"q": ["a b"]}, "hybrid")
    with pytest.raises(InvalidInput, match=r"gone/x.run cannot be written"):
        write_run(tmp_path / "gone" / "x.run", {"q": ["a"]}, "hybrid")


def test_scores_decide_as_in_trec_eval(tmp_path, caplog):
    """Random scores with ties, in a random order of lines: pytrec_eval ranks its own dict of the same scores."""
    import pytrec_eval

    generator = np.random.default_rng(2)
    qrels = {f"q{i}": {f"d{j}": int(generator.integers(0, 4)) for j in range(12)} for i in range(40)}
    scores = {query: {f"d{j}": float(generator.integers(0, 5)) / 4 for j in range(20)} for query in qrels}
    lines = [
        f"{query}\tQ0\t{id}\t0\t{score}\tother" for query, of_query in scores.items() for id, score in of_query.items()
    ]
    generator.shuffle(lines)
    path = tmp_path / "other.run.gz"
    path.write_bytes(gzip.compress(("\ufeff" + "\r\n".join(lines) + "\n\n").encode()))
    found = Metrics(qrels, ("nDCG@10", "AP", "RR")).by_query(read_run(path))
    own = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "map", "recip_rank"}).evaluate(scores)
    for name, measure in (("nDCG@10", "ndcg_cut_10"), ("AP", "map"), ("RR", "recip_rank")):
        np.testing.assert_allclose(found[name], [own[query][measure] for query in qrels], atol=1e-9)
    assert caplog.messages == []
    read_run(write(tmp_path / "x.run", "q Q0 a 1 .1 x\nq Q0 b 2 .2 x\n"))
    assert caplog.messages == [
        f"{tmp_path / 'x.run'}: the ranks of 1 query are not in the order of the scores, such as 'q'; the scores "
        "count, as in trec_eval"
    ]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("q Q0 a 1 .5\n", r"line 1: expected query id, Q0, document id, rank, score and name of the run.*; got \['q'"),
        ("q Q0 a 1 .5 x\nq Q0 b one .5 x\n", "line 2: .*the rank 'one' or the score '.5' is no finite number"),
        ("q Q0 a 1 nan x\n", "line 1: .*the score 'nan' is no finite number"),
        ("q Q0 a 1 .5 x\nq Q0 a 2 .4 x\n", "line 2: query 'q' ranks document 'a' twice"),
        ("\n", "is empty: expected query id"),
    ],
)
def test_what_is_no_run_is_an_error_with_its_line(tmp_path, text, error):
    with pytest.raises(InvalidInput, match=error):
        read_run(write(tmp_path / "x.run", text))
    with pytest.raises(InvalidInput, match=r"gone.run is missing: expected a TREC run file; each line has query id"):
        read_run(tmp_path / "gone.run")


QRELS = {"q1": {"a": 2, "b": 0}, "q2": {"b": 1}, "d": {"b": 1}}


def test_the_figures_of_a_run_from_elsewhere_and_what_has_no_counterpart():
    documents = [Document("a", "one"), Document("b", "two"), Document("d", "the query three")]
    queries = {"q1": "one?", "q2": "two?", "d": "the query three"}
    dataset = Dataset("set", documents, queries, QRELS, own_documents={"d": "d"})
    runs = {
        "bm25": {"q1": ["b", "a"], "d": ["d", "b"], "q9": ["a"]},
        "best": {"q1": ["a", "z"], "q2": ["b"], "d": ["b"]},
    }
    found = evaluate_runs(dataset, runs, measures=["RR", "nDCG@5"], top_k=5)
    assert found["by_query"]["bm25"]["RR"] == {"q1": 0.5, "q2": 0.0, "d": 1.0}
    assert found["runs"]["bm25"]["RR"] == pytest.approx(0.5)
    assert found["runs"]["best"] == pytest.approx({"RR": 1, "nDCG@5": 1})
    assert found["differences"]["best - bm25"]["RR"] == pytest.approx(0.5)
    assert found["notes"] == [
        "1 query with the id and the text of a document, such as 'd'; their rankings leave it out",
        "bm25: the rankings of 1 query left out, which are not measured here, such as 'q9'",
        "bm25: 1 judged query without a ranking, such as 'q2'; each measure of theirs is 0",
        "best: 1 document that the corpus lacks, such as 'z'; they keep their ranks",
    ]
    assert (found["queries"], found["documents"], found["settings"]) == (3, 3, {"top_k": 5})
    assert json.loads(json.dumps(found)) == found


def test_judgements_alone_suffice():
    found = evaluate_runs(QRELS, {"x": {"q1": ["b", "a"]}})
    assert found["by_query"]["x"]["mrr@10"] == {"q1": 0.5, "q2": 0, "d": 0}
    assert (found["corpus"], found["documents"], found["differences"]) == ("", 0, {})
    with pytest.raises(InvalidInput, match="run 'x': none of its queries is judged in judgements, such as 'other'"):
        evaluate_runs(QRELS, {"x": {"other": ["a"]}})
    with pytest.raises(InvalidInput, match="run 'x': query 'q1' ranks a document twice"):
        evaluate_runs(QRELS, {"x": {"q1": ["a", "a"]}})
    with pytest.raises(InvalidInput, match="no run is given"):
        evaluate_runs(QRELS, {})


def test_the_lines_of_each_query(tmp_path):
    found = evaluate_runs(QRELS, {"x": {"q1": ["b", "a"]}, "y": {"q2": ["b"]}}, measures=["RR"])
    write_by_query(tmp_path / "x.jsonl", found, {"q1": "who \u00e4?"})
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines == [
        {"query": "q1", "text": "who \u00e4?", "runs": {"x": {"RR": 0.5}, "y": {"RR": 0}}},
        {"query": "q2", "runs": {"x": {"RR": 0}, "y": {"RR": 1}}},
        {"query": "d", "runs": {"x": {"RR": 0}, "y": {"RR": 0}}},
    ]
    with pytest.raises(InvalidInput, match="cannot be written"):
        write_by_query(tmp_path, found)

"""``smart-rag eval`` and ``demo``; test_eval_and_tune tests ``tune``."""

from __future__ import annotations

import json
import re

from helpers.command_line import error_of, good, run

from smart_rag.cli.measure import program_name
from smart_rag.demo import sample_questions

# --- eval -----------------------------------------------------------------------------------


def test_eval_prints_every_run_and_keeps_index_and_figures(dataset, tmp_path):
    output = good("eval", dataset, "--db", tmp_path / "index", "--json", tmp_path / "figures.json")
    assert "animals: 3 documents, 2 queries" in output
    searches = ("search_terms", "search_pooled", "search_exhaustive")
    for ranking in ("pooled", "late", "hybrid", "paper", *searches):
        assert re.search(rf"│ {ranking} +│ +1\.0000 │ +1\.0000 │ +1\.0000 │ +1\.0000 │", output)
    for difference in ("hybrid - pooled", "hybrid - paper", *(f"{search} - hybrid" for search in searches)):
        assert re.search(rf"│ {difference} +│ \+0\.0000 │ \+0\.0000 to \+0\.0000 │ too few queries │", output)
    assert "(auto: exhaustive)" in output
    for stage in ("terms", "pooled", "exhaustive"):
        assert re.search(rf"│ {stage} +│ +1\.0000 │ +3 │", output)
    for step in ("encode", "candidates", "gather", "score", "total", "p95"):
        assert step in output
    assert max(map(len, output.splitlines()[:-1])) <= 100
    assert re.search(r"storage: \d+ bytes per token, [\d,]+ per document, .* documents/s", output)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["runs"]["hybrid"]["ndcg@10"] == 1.0
    assert json.loads(good("info", "--db", tmp_path / "index", "--json"))["documents"] == 3
    assert "ingest: not measured, the documents were indexed already" in good(
        "eval", dataset, "--db", tmp_path / "index"
    )


def test_the_options_of_eval(dataset, other_model):
    figures = json.loads(
        good(
            "eval",
            dataset,
            "--model",
            other_model,
            "--top-k",
            2,
            "--candidates",
            3,
            "--limit-queries",
            1,
            "--json",
            "-",
        )
    )
    assert (figures["queries"], figures["model"]) == (1, other_model)
    assert (figures["settings"]["top_k"], figures["settings"]["candidates"]) == (2, 3)


def test_one_document_and_one_query(dataset):
    (dataset / "corpus.jsonl").write_text('{"_id": "d1", "text": "The cat purrs."}\n')
    assert re.search(r"animals: 1 document, 1 query\s", good("eval", dataset, "--limit-queries", 1))


def test_eval_of_a_folder_without_a_dataset(dataset, tmp_path):
    assert "gone/qrels.tsv is missing: a BEIR folder holds" in error_of("eval", tmp_path / "gone")
    (dataset / "corpus.jsonl").write_text("{}\n")
    assert "corpus.jsonl, line 1: expected a JSON object" in error_of("eval", dataset)


def test_a_depth_of_zero_is_an_error_before_the_work(dataset, tmp_path):
    assert run("eval", dataset, "--top-k", "0", "--db", tmp_path / "index")[0] in (1, 2)
    assert not (tmp_path / "index").exists()


# --- demo -----------------------------------------------------------------------------------


def test_demo_prints_both_rankings_side_by_side(tmp_path):
    questions = sample_questions()
    output = good("demo", "--db", tmp_path / "index")
    missed = 0
    for question in (question for question in questions if question.demo):
        lines = output[output.index(question.question) :].splitlines()
        assert "pooled vector alone" in lines[1]
        assert "SMART" in lines[1]
        left, right = lines[3].split("│")  # the best passage of each
        assert right.strip().startswith("✓")
        assert question.source in right
        assert (f"page {question.page}" in right) == (question.page is not None)
        missed += left.strip().startswith("✗")
    assert missed >= 2
    assert all(question.question not in output for question in questions if not question.demo)
    assert 'smart-rag search "your question" --db' in output
    assert "--model" in output


def test_the_program_name_is_the_one_it_was_started_by(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.executable", str(tmp_path / "venv" / "python"))
    monkeypatch.setattr("sys.argv", [str(tmp_path / "smart_rag" / "__main__.py")])
    assert program_name() == "venv/python -m smart_rag"
    monkeypatch.setattr("sys.argv", ["venv/smart-rag"])
    assert program_name() == "venv/smart-rag"

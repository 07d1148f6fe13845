"""``smart-rag eval``, ``tune`` and ``demo``: the tables and figures they print, and what ``tune`` writes."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from helpers.command_line import error_of, good, run, usage_error_of

from smart_rag import Document, IndexConfig, SmartIndex
from smart_rag.cli.measure import program_name
from smart_rag.demo import sample_questions
from smart_rag.index.manifest import Manifest

# --- eval -----------------------------------------------------------------------------------


def test_eval_prints_every_run_and_keeps_index_and_figures(dataset, tmp_path):
    output = good("eval", dataset, "--db", tmp_path / "index", "--json", tmp_path / "figures.json")
    assert "animals: 3 documents, 2 queries" in output
    searches = ("search_terms", "search_pooled", "search_exhaustive")
    for ranking in ("pooled", "late", "hybrid", "paper", *searches):
        assert re.search(rf"│ {ranking} +│ +1\.0000 │ 1\.000 to 1\.000 │( +1\.0000 │){{3}}", output)
    for difference in ("hybrid - pooled", "hybrid - paper", *(f"{search} - hybrid" for search in searches)):
        assert re.search(rf"│ {difference} +│ \+0\.0000 │ \+0\.0000 to \+0\.0000 │ 1\.000 │ too few queries │", output)
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


def test_eval_writes_runs_queries_and_a_plot_and_compare_reads_the_figures(dataset, tmp_path):
    pytest.importorskip("matplotlib", reason="plots need the extra plot")
    files = {name: tmp_path / name for name in ("a.json", "b.json", "a.jsonl", "a.png", "both.png")}
    options = ("--measures", "nDCG@10 P@1,RR", "--db", tmp_path / "index")
    reports = ("--save-runs", tmp_path / "runs", "--per-query", files["a.jsonl"], "--plot", files["a.png"])
    output = good("eval", dataset, *options, "--json", files["a.json"], *reports)
    assert re.search(r"┃ ranking +┃ nDCG@10 ┃ +95 % interval ┃ +P@1 ┃ +RR ┃", output)
    assert files["a.png"].read_bytes().startswith(b"\x89PNG")
    lines = [json.loads(line) for line in files["a.jsonl"].read_text().splitlines()]
    assert [(line["query"], line["text"]) for line in lines] == [
        ("q1", "which animal purrs?"),
        ("q2", "what do dogs do?"),
    ]
    assert lines[0]["runs"]["hybrid"] == {"nDCG@10": 1, "P@1": 1, "RR": 1}
    assert (tmp_path / "runs" / "hybrid.run").read_text().startswith("q1 Q0 d1 1 3 hybrid\n")

    # The rankings, read again; and another one, which misses q2 and ranks q1's document second.
    (tmp_path / "bm25.run").write_text("q1 Q0 d1 2 0.5 x\nq1 Q0 d3 1 0.7 x\n")
    runs = ("--runs", tmp_path / "runs" / "hybrid.run", "--runs", tmp_path / "bm25.run")
    output = good("eval", dataset, *runs, "--measures", "RR", "--json", files["b.json"])
    assert re.search(r"│ hybrid +│ 1\.0000 │ 1\.000 to 1\.000 │", output)
    assert re.search(r"│ bm25 +│ 0\.2500 │", output)
    assert "bm25: 1 judged query without a ranking, such as 'q2'; each measure of theirs is 0" in output
    assert re.search(r"│ bm25 - hybrid │ -0\.7500 │", output)
    assert "qrels.tsv: 2 queries" in good("eval", dataset / "qrels.tsv", *runs)

    output = good("compare", files["a.json"], files["b.json"], "--measures", "RR", "--plot", files["both.png"])
    assert "a - b: 2 queries" in output
    assert re.search(r"│ hybrid +│ RR +│ 1\.0000 │ 1\.0000 │ +0 │ +2 │ +0 │", output)
    assert re.search(r"│ hybrid +│ RR +│ \+0\.0000 │", output)
    assert files["both.png"].read_bytes().startswith(b"\x89PNG")
    pair = json.loads(
        good("compare", files["a.json"], files["b.json"], "--runs", "pooled:bm25", "--measures", "RR", "--json", "-")
    )["pairs"][0]
    assert (pair["runs"], pair["difference"], pair["verdict"]) == (["pooled", "bm25"], 0.75, "too few queries")
    error = error_of("compare", files["a.json"], files["b.json"], "--measures", "P@1")
    assert "a and b have not both P@1: the first has nDCG@10, P@1, RR, and the second RR" in error
    assert "a.jsonl cannot be read" in error_of("compare", files["a.json"], files["a.jsonl"])
    (tmp_path / "list.json").write_text("[]")
    assert "list.json: expected the figures that `smart-rag eval" in error_of(
        "compare", files["a.json"], tmp_path / "list.json"
    )


def test_wrong_options_of_eval_are_found_before_the_work(dataset, tmp_path):
    (tmp_path / "x.run").write_text("q1 Q0 d1 1 1 x\n")
    run_file = ("--runs", tmp_path / "x.run")
    assert "unknown measure 'nDGC@10': did you mean nDCG?" in error_of("eval", dataset, "--measures", "nDGC@10")
    assert "the same name (x, x)" in usage_error_of("eval", dataset, *run_file, *run_file)
    assert "--runs loads no model" in usage_error_of("eval", dataset, *run_file, "--model", "m")
    assert "need a folder" in usage_error_of("eval", dataset / "qrels.tsv", *run_file, "--split", "dev")
    assert "--per-query, --plot" in usage_error_of("eval", dataset, "--paper", "--per-query", tmp_path / "x.jsonl")
    (tmp_path / "mine.txt").write_text("mine")
    assert "mine.txt exists and does not end in .jsonl" in error_of(
        "eval", dataset, "--per-query", tmp_path / "mine.txt"
    )


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


def test_eval_prints_json_and_nothing_else(dataset, capfd):
    """`good` returns what Python prints; ``capfd`` catches what a library writes past it."""
    result = json.loads(good("eval", dataset, "--json", "-", "--limit-queries", 1))
    assert capfd.readouterr().out == ""
    assert (result["model"], result["documents"], result["queries"]) == ("minilm", 3, 1)
    assert result["runs"]["hybrid"]["mrr@10"] == 1.0


# --- tune -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def serials(tmp_path_factory):
    """An index that ranks by MiniLM's pooled embeddings alone, and queries for numbers, which these rank badly."""
    folder = tmp_path_factory.mktemp("serials")
    random = np.random.default_rng(0)
    rows = random.choice(np.arange(10_000, 99_999), (40, 8), replace=False).astype(str).tolist()
    numbers = [row[4] for row in rows]
    with SmartIndex.create(folder / "index", config=IndexConfig(weights=(1, 0))) as index:
        index.add([Document(row[4], f"The pumps of the station have the numbers {', '.join(row)}.") for row in rows])
    queries = [{"_id": number, "text": f"where is number {number}?"} for number in numbers]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    (folder / "qrels.tsv").write_text("".join(f"{number}\t{number}\t1\n" for number in numbers))
    # Labels that no setting can rank well: the document of another query.
    others = zip(numbers, random.permutation(numbers).tolist(), strict=True)
    (folder / "random.tsv").write_text("".join(f"{number}\t{other}\t1\n" for number, other in others))
    others = zip(numbers, np.random.default_rng(2).permutation(numbers).tolist(), strict=True)
    (folder / "other.tsv").write_text("".join(f"{number}\t{other}\t1\n" for number, other in others))
    return folder


@pytest.fixture
def judged(serials):
    """The same folder. The index gets its weights back after each test."""
    yield serials
    with SmartIndex.open(serials / "index") as index:
        index.set_weights((1, 0), "idf")


def arguments(folder, *more, qrels="qrels.tsv"):
    return "tune", "--db", folder / "index", "--queries", folder / "queries.jsonl", "--qrels", folder / qrels, *more


def weights_of_index(folder):
    config = Manifest.read(folder / "index").config
    return config.weights, config.weighting


@pytest.mark.slow
def test_noise_changes_the_index_only_with_force(judged):
    output = good(*arguments(judged, qrels="random.tsv"))
    expected = re.search(r"Gain to expect on other queries, by cross-validation: (\S+) .* p (\S+)\): noise\.", output)
    claimed = re.search(r"Gain on the queries by which it was chosen, usually too high for others: (\S+)\.\n", output)
    assert float(expected[1]) < float(claimed[1])
    assert output.endswith("The weights of the index are unchanged. --force saves the choice anyway.\n")
    assert weights_of_index(judged) == ((1, 0), "idf")
    output = good(*arguments(judged, "--force", qrels="random.tsv"))
    assert output.endswith(
        "The choice is saved in the index, because of --force. It may be worse than the setting before.\n"
    )
    chosen = weights_of_index(judged)
    assert chosen != ((1, 0), "idf")
    with SmartIndex.open(judged / "index") as index:
        index.set_weights((1, 0), "idf")
    figures = json.loads(good(*arguments(judged, "--force", "--json", qrels="random.tsv")))
    assert (figures["held_out"]["verdict"], figures["written"]) == ("noise", True)
    assert figures["held_out"]["ndcg@10"] == pytest.approx(float(expected[1]), abs=1e-4)
    assert figures["in_sample"]["ndcg@10"] == pytest.approx(float(claimed[1]), abs=1e-4)
    assert chosen == (tuple(figures["choice"]["weights"]), figures["choice"]["weighting"])


def test_a_gain_within_its_error_is_not_forced(judged):
    """Labels by chance, with which no setting gains much. The command says how to set the weights anyway."""
    output = good(*arguments(judged, "--force", qrels="other.tsv"))
    assert "The choice is the current setting of the index, 1 : 0, weighting idf." in output
    assert re.search(r"is better by 0\.\d+ on these queries, but no gain is above its standard error", output)
    assert re.search(r"call in Python: index.set_weights\(\(\d\.0, \d\.0\), '(idf|none)'\)\n", output)
    assert output.endswith("The weights of the index are unchanged.\n")
    assert weights_of_index(judged) == ((1, 0), "idf")


def test_better_weights_are_written_except_in_a_dry_run(judged):
    output = good(*arguments(judged, "--dry-run"))
    assert ": better.\nGain on the queries" in output
    assert output.endswith("\nThe index is unchanged.\n")
    assert weights_of_index(judged) == ((1, 0), "idf")
    output = good(*arguments(judged))
    assert output.endswith("\nThe choice is saved in the index.\n")
    assert "nDCG@10 of 40 queries" in output
    assert weights_of_index(judged)[0] != (1, 0)
    chosen = weights_of_index(judged)
    output = good(*arguments(judged))
    assert "The choice is the current setting of the index, " in output
    assert output.endswith("The weights of the index are unchanged.\n")
    assert re.search(r"\d choice", output) is None
    assert weights_of_index(judged) == chosen


def test_tune_prints_figures_as_json(judged):
    figures = json.loads(good(*arguments(judged, "--json", "--dry-run", "--limit-queries", 35)))
    assert list(figures) == [
        "queries",
        "notes",
        "settings",
        "current",
        "choice",
        "held_out",
        "in_sample",
        "written",
    ]
    assert (figures["queries"], figures["written"]) == (35, False)
    assert figures["current"] == {"weights": [1, 0], "weighting": "idf"}
    assert len(figures["settings"]) == 34  # pooled alone has one ranking, whatever the weighting
    score = {(*one["weights"], one["weighting"]): one["ndcg@10"] for one in figures["settings"]}
    choice, current = ((*figures[name]["weights"], figures[name]["weighting"]) for name in ("choice", "current"))
    assert figures["in_sample"] == {"ndcg@10": pytest.approx(score[choice] - score[current])}
    assert 0 < figures["held_out"]["low"] < figures["held_out"]["ndcg@10"] <= figures["in_sample"]["ndcg@10"]
    assert list(figures["held_out"]) == ["ndcg@10", "low", "high", "p", "verdict"]


def test_too_few_labels_are_an_error(judged):
    assert "needs at least 30 queries" in error_of(*arguments(judged, "--limit-queries", 29))
    assert "gone.tsv is missing" in error_of(*arguments(judged, qrels="gone.tsv"))


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

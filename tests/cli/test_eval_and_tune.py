"""``smart-rag eval`` and ``smart-rag tune`` on labelled queries: what they print, and what ``tune`` writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import error_of, good

from smart_rag import Document, IndexConfig, SmartIndex
from smart_rag.index.manifest import Manifest


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
    return folder


@pytest.fixture
def folder(serials):
    """The same folder. The index gets its weights back after each test."""
    yield serials
    with SmartIndex.open(serials / "index") as index:
        index.set_weights((1, 0), "idf")


def arguments(folder, *more, qrels="qrels.tsv"):
    return "tune", "--db", folder / "index", "--queries", folder / "queries.jsonl", "--qrels", folder / qrels, *more


def weights_of_index(folder):
    config = Manifest.read(folder / "index").config
    return config.weights, config.weighting


def test_noise_changes_the_index_only_with_force(folder):
    output = good(*arguments(folder, qrels="random.tsv"))
    assert "the difference is noise." in output
    assert "The index is left as it is. --force takes the best all the same." in output
    assert weights_of_index(folder) == ((1, 0), "idf")
    figures = json.loads(good(*arguments(folder, "--force", "--json", qrels="random.tsv")))
    assert figures["held_out"]["verdict"] == "noise"
    assert figures["written"]
    assert (
        weights_of_index(folder)
        == (tuple(figures["choice"]["weights"]), figures["choice"]["weighting"])
        != ((1, 0), "idf")
    )


def test_better_weights_are_written_except_in_a_dry_run(folder):
    output = good(*arguments(folder, "--dry-run"))
    assert output.endswith(": better.\nThe index is left as it is.\n")
    assert weights_of_index(folder) == ((1, 0), "idf")
    output = good(*arguments(folder))
    assert output.endswith(": better.\nThe best is now the index's own.\n")
    assert "nDCG@10 of 40 queries" in output
    assert weights_of_index(folder)[0] != (1, 0)
    chosen = weights_of_index(folder)
    output = good(*arguments(folder))
    assert output.endswith(" is the best.\nThe index is left as it is.\n")
    assert weights_of_index(folder) == chosen


def test_tune_prints_figures_as_json(folder):
    figures = json.loads(good(*arguments(folder, "--json", "--dry-run", "--limit-queries", 35)))
    assert list(figures) == ["queries", "settings", "current", "choice", "held_out", "written"]
    assert (figures["queries"], figures["written"]) == (35, False)
    assert figures["current"] == {"weights": [1, 0], "weighting": "idf"}
    assert len(figures["settings"]) == 23  # pooled alone has one ranking, whatever the weighting
    best = max(figures["settings"], key=lambda setting: setting["ndcg@10"])
    assert best.pop("ndcg@10") > 0
    assert figures["choice"] == best
    assert list(figures["held_out"]) == ["ndcg@10", "low", "high", "verdict"]


def test_too_few_labels_are_an_error(folder):
    assert "needs at least 30 queries" in error_of(*arguments(folder, "--limit-queries", 29))
    assert "gone.tsv is missing" in error_of(*arguments(folder, qrels="gone.tsv"))


def test_eval_prints_json_and_nothing_else(tmp_path):
    """In another process, where output of other libraries would show, too."""
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d1", "text": "Cats purr."}\n{"_id": "d2", "text": "Dogs bark."}\n')
    (tmp_path / "queries.jsonl").write_text(
        '{"_id": "q1", "text": "what purrs?"}\n{"_id": "q2", "text": "who barks?"}\n'
    )
    (tmp_path / "qrels.tsv").write_text("q1\td1\t1\nq2\td2\t1\n")
    command = [Path(sys.executable).with_name("smart-rag"), "eval", tmp_path, "--json", "-", "--limit-queries", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["model"], result["documents"], result["queries"]) == ("minilm", 2, 1)
    assert result["runs"]["hybrid"]["mrr@10"] == 1.0
    assert "Traceback" not in done.stderr

"""``smart-rag train``: what it prints and writes, and what is made of it by ``index``, ``search`` and ``eval``."""

import json
import random

import pytest
import tiny_models
from command_line import error_of, good, run, usage_error_of
from PIL import Image

from smart_rag import SmartIndex

WORDS = sorted({word for text in tiny_models.SENTENCES for word in text.lower().strip("?.").replace(",", "").split()})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_models.bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    generator = random.Random(0)
    rows = []
    for _ in range(200):
        words = generator.sample(WORDS, 8)
        rows.append({"query": " ".join(generator.sample(words, 3)), "positive": " ".join(words)})
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def train(pairs, model, out, *more):
    return run(
        *("train", "adapter", "--data", pairs, "--model", model, "--out", out),
        *("--epochs", 2, "--batch-size", 16, "--held-out", 0.3, *more),
    )


@pytest.fixture(scope="module")
def trained(pairs, model, tmp_path_factory):
    """What a training printed, and the folder where it wrote."""
    folder = tmp_path_factory.mktemp("trained")
    more = ("--dimension", 8, "--plot", folder / "plot.png", "--json", folder / "report.json")
    return (*train(pairs, model, folder / "adapter", *more), folder)


def test_a_training_shows_what_came_of_it(trained):
    code, output, errors, folder = trained
    assert code == 0, errors
    report = json.loads((folder / "report.json").read_text())
    for name, value in report["ndcg"].items():
        assert f"{value:.4f}" in output, name
    assert "SMART, frozen" in output
    assert f"trained, {report['best_epoch']} of 2" in output
    for name, found in report["differences"].items():
        assert f"{found['low']:+.4f} to {found['high']:+.4f}" in output, name
    assert f"--adapter {folder / 'adapter'}" in output
    assert errors == (f"warning: {report['warning']}\n" if report["warning"] else "")
    with Image.open(folder / "plot.png") as plot:
        assert plot.width > 800


def test_a_warning_where_it_is_not_better(pairs, model, tmp_path):
    """Of half a dozen held-out queries no one can say."""
    code, output, errors = train(
        pairs, model, tmp_path / "a", "--held-out", 0.04, "--json", "-", "--objective", "hybrid"
    )
    assert code == 0
    report = json.loads(output)
    assert errors == f"warning: {report['warning']}\n"
    assert "is not measurably better than the frozen model" in errors
    assert report["objective"] == "hybrid"


def test_an_index_with_the_adapter(trained, model, tmp_path):
    *_, folder = trained
    (tmp_path / "cats.txt").write_text("The cat sat on the mat and looked at the rain.")
    db = tmp_path / "index"
    good("index", tmp_path / "cats.txt", "--db", db, "--model", model, "--adapter", folder / "adapter")
    good("index", tmp_path / "cats.txt", "--db", db)
    good("index", tmp_path / "cats.txt", "--db", db, "--adapter", folder / "adapter")
    assert json.loads(good("search", "cat", "--db", db, "--json"))[0]["text"].startswith("The cat")
    with SmartIndex.open(db) as index:
        assert index.manifest.token_dimension == 8
    assert str(folder / "adapter") in good("info", "--db", db)
    assert "with the adapter" in error_of("index", tmp_path / "cats.txt", "--db", db, "--model", model)


def test_eval_with_the_adapter(trained, model, tmp_path):
    *_, folder = trained
    rows = [{"_id": str(i), "text": text} for i, text in enumerate(tiny_models.SENTENCES)]
    for name in ("corpus", "queries"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "qrels.tsv").write_text("".join(f"{i}\t{i}\t1\n" for i in range(len(rows))))
    found = json.loads(good("eval", tmp_path, "--model", model, "--adapter", folder / "adapter", "--json", "-"))
    assert found["settings"]["encoder"]["adapter"] == str(folder / "adapter")


def test_limit(pairs, model, tmp_path):
    _, output, _ = train(pairs, model, tmp_path / "a", "--limit", 80, "--json", "-")
    report = json.loads(output)
    assert report["queries"] + report["held_out_queries"] == 80


def test_what_is_found_before_the_work(trained, pairs, model, tmp_path):
    *_, folder = trained
    common = ("train", "adapter", "--model", model, "--data", pairs)
    assert "does not exist: training data is" in error_of(*common[:-1], tmp_path / "nowhere", "--out", tmp_path / "a")
    assert "holds an adapter" in error_of(*common, "--out", folder / "adapter")
    assert "no picture has such a name" in error_of(*common, "--out", tmp_path / "a", "--plot", tmp_path / "plot.txt")
    assert "does not exist" in error_of(*common, "--out", tmp_path / "a", "--plot", tmp_path / "no" / "plot.png")
    assert "--json" in error_of(*common, "--out", tmp_path / "a", "--json", tmp_path / "no" / "report.json")
    assert "'late', 'hybrid'" in usage_error_of(*common, "--out", tmp_path / "a", "--objective", "pooled")
    assert "adapter" in good("train", "--help")
    assert not (tmp_path / "a").exists()

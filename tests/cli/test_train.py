"""``smart-rag train``: its output and files, and their use by ``index``, ``search`` and ``eval``."""

import json
import logging
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import tiny_models, tiny_vision
from helpers.command_line import Terminal, error_of, good, run, usage_error_of
from helpers.some_pairs import page_images, some_data
from PIL import Image

from smart_rag import SmartEncoder, SmartIndex
from smart_rag.training import AdapterSettings, FinetuneSettings, adapter_trainer
from smart_rag.training.settings import DEFAULT_HELD_OUT, FULL_LEARNING_RATE, LORA_LEARNING_RATE
from smart_rag.training.smart_loss import SmartCollator


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_models.bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    data = some_data(200)
    rows = [
        {"query": query.text, "positive": data.documents[i].text} for query in data.queries for i in query.positives[:1]
    ]
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
    """Exit code, output and errors of a training, and the folder with its files."""
    folder = tmp_path_factory.mktemp("trained")
    more = ("--dimension", 8, "--plot", folder / "plot.png", "--json", folder / "report.json")
    return (*train(pairs, model, folder / "adapter", *more), folder)


def test_a_training_prints_and_writes_its_figures(trained, model):
    code, output, errors, folder = trained
    assert code == 0, errors
    report = json.loads((folder / "report.json").read_text())
    for name, value in report["ndcg"].items():
        assert f"{value:.4f}" in output, name
    assert "SMART, frozen" in output
    assert f"trained, epoch {report['best_epoch']} of 2" in output
    for name, found in report["differences"].items():
        assert f"{found['low']:+.4f} to {found['high']:+.4f}" in output, name
    assert f"--db DIR --model {model} --adapter {folder / 'adapter'}`" in output
    assert errors == (f"warning: {report['warning']}\n" if report["warning"] else "")
    with Image.open(folder / "plot.png") as plot:
        assert plot.width > 800


def test_columns_are_named_as_in_the_library(tmp_path):
    """The data is read before the model, so that an error costs nothing."""
    (tmp_path / "x.csv").write_text("id,serch,positive\n1,who,the cat\n2,what,a dog\n")
    command = ("train", "adapter", "--data", tmp_path / "x.csv", "--model", tmp_path, "--out", tmp_path / "a")
    error = error_of(*command, "--columns", "id=")
    assert re.search("x.csv, line 2: .*; expected a row with a query", error)
    assert "the column 'serch' is not known" in error
    names = ("--columns", "search=query", "--columns", "serch=query", "--columns", "id=")
    assert "no row has the column 'search'" in error_of(*command, *names)
    assert "expected NAME=MEANING" in usage_error_of(*command, "--columns", "id")
    assert "names 'id' twice" in usage_error_of(*command, "--columns", "id=", "--columns", "id=query")


def test_a_training_that_is_not_measurably_better_has_a_warning(pairs, model, tmp_path):
    """Half a dozen held-out queries are too few to measure with."""
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
    good("index", tmp_path / "cats.txt", "--db", db, "--model", model)  # with the index's adapter
    good("index", tmp_path / "cats.txt", "--db", tmp_path / "plain", "--model", model)
    said = error_of("search", "cat", "--db", tmp_path / "plain", "--adapter", folder / "adapter")
    assert (
        f"made with {str(model)!r} without an adapter and cannot be used with the adapter '{folder / 'adapter'}';"
        in said
    )
    assert "leave the adapter out, or index the documents again into another folder" in said
    moved = shutil.copytree(folder / "adapter", tmp_path / "moved")
    (folder / "adapter").rename(folder / "away")
    try:
        assert "adapter" in error_of("search", "cat", "--db", db)
        good("search", "cat", "--db", db, "--adapter", moved)
    finally:
        (folder / "away").rename(folder / "adapter")


def test_eval_with_the_adapter(trained, model, tmp_path):
    *_, folder = trained
    rows = [{"_id": str(i), "text": text} for i, text in enumerate(tiny_models.SENTENCES)]
    for name in ("corpus", "queries"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "qrels.tsv").write_text("".join(f"{i}\t{i}\t1\n" for i in range(len(rows))))
    found = json.loads(good("eval", tmp_path, "--model", model, "--adapter", folder / "adapter", "--json", "-"))
    assert found["settings"]["encoder"]["adapter"] == str(folder / "adapter")


def test_page_images(tmp_path):
    """By a vision-language model in a folder, with a profile. The adapter and the model then index a page."""
    model, data = tiny_vision.qwen3_vl(tmp_path / "base"), page_images(tmp_path / "data")
    common = ("--model", model, "--profile", "qwen3-vl-embedding", "--max-pixels", 4096)
    options = ("--data", data, "--epochs", 1, "--batch-size", 4, "--held-out", 0.4, "--keep-anyway", "--json")
    adapter, written = tmp_path / "adapter", tmp_path / "report.json"
    code, output, errors = run("train", "adapter", *common, *options, written, "--out", adapter, "--dimension", 8)
    assert code == 0, errors
    assert (
        f"--db DIR {' '.join(map(str, common))} --adapter {adapter}`" in output
    )  # the options of the model are repeated
    report = json.loads(written.read_text())
    assert report["queries"] + report["held_out_queries"] == 20
    Image.new("RGB", (64, 64), "white").save(tmp_path / "page.png")
    good("index", tmp_path / "page.png", "--db", tmp_path / "db", *common, "--adapter", adapter)
    code, output, errors = run(
        "train", "finetune", *common, *options, "-", "--out", tmp_path / "model", "--lora-rank", 2
    )
    assert code == 0, errors
    assert json.loads(output)["ndcg"]["trained late"] >= 0
    good("index", tmp_path / "page.png", "--db", tmp_path / "own", "--model", tmp_path / "model")
    for command in ("adapter", "finetune"):
        given = ("train", command, "--model", model, "--data", data, "--out", tmp_path / "no")
        assert "there is no profile 'none'" in error_of(*given, "--profile", "none")


def test_fine_tuning(pairs, model, tmp_path):
    """The result is a model that `index` takes like any other."""
    to = tmp_path / "model"
    code, output, errors = run(
        *("train", "finetune", "--data", pairs, "--model", model, "--out", to, "--plot", tmp_path / "plot.png"),
        *("--epochs", 2, "--batch-size", 16, "--mini-batch-size", 8, "--lora-rank", 4, "--learning-rate", 0.005),
        *("--held-out", 0.3, "--json", tmp_path / "report.json"),
    )
    assert code == 0, errors
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["objective"] == "hybrid"
    for name in ("trained pooled", "trained late", "trained hybrid"):
        assert f"{report['ndcg'][name]:.4f}" in output, name
    assert f"trained, epoch {report['best_epoch']} of 2" in output
    assert f"--model {to}" in output
    with Image.open(tmp_path / "plot.png") as plot:
        assert plot.width > 800
    (tmp_path / "cats.txt").write_text("The cat sat on the mat and looked at the rain.")
    good("index", tmp_path / "cats.txt", "--db", tmp_path / "index", "--model", to)
    assert str(to) in good("info", "--db", tmp_path / "index")


@pytest.mark.parametrize(
    ("batch", "said"), [(1, "there is no checkpoint yet"), (4, "add --resume to continue from checkpoint-2")]
)
def test_an_interrupted_training_says_how_to_continue(batch, said, pairs, model, tmp_path, monkeypatch):
    """Ctrl-C at the batch with this number."""
    collate, asked = SmartCollator.__call__, iter(range(1, 9))

    def stop(self, rows):
        if next(asked) == batch:
            raise KeyboardInterrupt
        return collate(self, rows)

    command = ("train", "finetune", "--data", pairs, "--model", model, "--out", tmp_path / "model")
    options = ("--batch-size", 16, "--evaluate-every", 1, "--limit-queries", 100, "--held-out", 0.3)
    with monkeypatch.context() as patch:
        patch.setattr(SmartCollator, "__call__", stop)
        code, output, errors = run(*command, *options)
    assert (code, output) == (130, "")
    assert errors.strip().startswith("interrupted; ")
    assert said in errors
    if batch == 4:
        assert "holds checkpoints of an interrupted training; continue" in error_of(*command, *options)
        good(*command, *options, "--resume")


@pytest.mark.parametrize("command", ["adapter", "finetune"])
def test_a_training_without_gain_says_so_and_saves_nothing(command, pairs, model, tmp_path):
    """With exit code 3, so that a script does not go on with a folder that is not there."""
    to = tmp_path / "trained"
    arguments = (
        "train",
        command,
        "--data",
        pairs,
        "--model",
        model,
        "--out",
        to,
        "--limit-queries",
        100,
        "--epochs",
        1,
    )
    options = ("--batch-size", 16, "--held-out", 0.3, "--learning-rate", 1e-12)
    code, output, errors = run(*arguments, *options)
    assert code == 3
    assert errors.startswith("warning: nothing was gained: on ")
    assert "nothing was saved; keep_anyway (--keep-anyway) saves the best of them" in errors
    assert "not saved: trained, epoch 1 of 1" in output
    assert "use it with" not in output
    assert not to.exists()
    code, output, errors = run(*arguments, *options, "--keep-anyway")
    assert code == 0
    assert "the best of them was saved all the same" in errors
    assert f"{to}: use it with" in output
    assert to.exists()


def test_an_interrupted_adapter_says_how_to_continue(pairs, model, tmp_path, monkeypatch):
    compute, left = adapter_trainer.batch_loss, iter((False, False, True))

    def press(*arguments):
        if next(left, False):
            signal.raise_signal(signal.SIGINT)
        return compute(*arguments)

    monkeypatch.setattr(adapter_trainer, "batch_loss", press)
    code, output, errors = train(pairs, model, tmp_path / "a")
    assert (code, output) == (130, "")
    assert errors == "\ninterrupted; add --resume to continue from checkpoint-2\n"
    code, output, errors = train(pairs, model, tmp_path / "a", "--keep-anyway", "--resume")
    assert code == 0, errors
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["adapter.json", "adapter.safetensors"]


@pytest.mark.parametrize("command", ["adapter", "finetune"])
def test_without_a_terminal_lines_show_the_progress(command, pairs, model, tmp_path, monkeypatch):
    """They go to the log, whose level the command line sets."""
    monkeypatch.setattr("smart_rag.training.adapter_trainer.LOG_SECONDS", 0.0)
    monkeypatch.setattr("smart_rag.training.finetuner.LOG_SECONDS", 0.0)
    lines = []
    logger = logging.getLogger("smart_rag.progress")
    monkeypatch.setattr(logger, "handle", lambda record: lines.append(record.getMessage()))
    arguments = ("train", command, "--data", pairs, "--model", model, "--out", tmp_path / "a", "--batch-size", 16)
    run(*arguments, "--epochs", 2, "--limit-queries", 60, "--held-out", 0.3, "--keep-anyway")
    steps = [line for line in lines if "epoch" in line]
    assert re.match(r"2 of 4 steps done, epoch 1 of 2, loss \d\.\d{4}", steps[1])
    assert re.match(r"4 of 4 steps done, epoch 2 of 2, loss \d\.\d{4}", steps[-1])
    lines.clear()
    run(*arguments, "--epochs", 1, "--limit-queries", 60, "--held-out", 0.3, "--keep-anyway", stream=Terminal)
    assert lines == []


@pytest.mark.slow
def test_two_processes(pairs, model, tmp_path):
    """Two processes that `torchrun` starts on a CPU. Each has its own batches; the result is one model."""
    to = tmp_path / "model"
    command = (
        *("torchrun", "--nproc-per-node", 2, "--no-python", "smart-rag", "train", "finetune", "--data", pairs),
        *("--model", model, "--out", to, "--batch-size", 16, "--mini-batch-size", 8, "--lora-rank", 4, "--epochs", 2),
        *("--learning-rate", 0.005, "--held-out", 0.3, "--json", "-"),
    )
    names = [
        str(Path(sys.executable).with_name(part)) if part in ("torchrun", "smart-rag") else part for part in command
    ]
    done = subprocess.run(list(map(str, names)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)  # only the first process prints
    assert report["history"][2]["loss"] < report["history"][1]["loss"]
    assert SmartEncoder(to, device="cpu").encode_query("cat").pooled.shape == (1, 32)


@pytest.mark.parametrize("command", ["adapter", "finetune"])
@pytest.mark.slow
def test_options_reach_the_training(command, pairs, model, tmp_path, monkeypatch):
    """Seed, temperature and learning rate change the loss. The model is loaded with the given options."""
    init, given = SmartEncoder.__init__, []

    def record(self, *arguments, **options):
        given.append({name: options[name] for name in ("device", "trust_remote_code")})
        init(self, *arguments, **options)

    monkeypatch.setattr(SmartEncoder, "__init__", record)
    losses = []
    more = {"adapter": ("--layers", "1,-1", "--start", "random"), "finetune": ("--lora-rank", 4, "--lora-alpha", 16)}
    tried = [("--seed", 1), ("--temperature", 0.5), ("--learning-rate", 0.01), ("--weight-decay", 99), more[command]]
    for i, options in enumerate([(), *tried, ("--max-length", 5)]):
        output = good(
            *("train", command, "--data", pairs, "--model", model, "--out", tmp_path / str(i), "--epochs", 1),
            *("--batch-size", 8, "--limit-queries", 40, "--held-out", 0.3, "--keep-anyway", "--json", "-", *options),
            *(("--device", "cpu", "--trust-remote-code") if i else ()),
        )
        losses.append(json.loads(output)["history"][1]["loss"])
    assert len(set(losses)) == 7
    defaults, *others = given
    assert defaults == {"device": None, "trust_remote_code": False}
    assert others == [{"device": "cpu", "trust_remote_code": True}] * 6


@pytest.mark.parametrize(("command", "settings"), [("adapter", AdapterSettings), ("finetune", FinetuneSettings)])
def test_the_help_text_shows_the_defaults_of_the_settings(command, settings):
    """Each default is written once, in the settings."""
    shown = help_of_options(command)
    compared = set()
    for name in settings.__dataclass_fields__:
        option = "--" + name.replace("_", "-")
        if option in shown:
            default = getattr(settings, name)
            default = ",".join(map(str, default)) if isinstance(default, tuple) else default
            assert default_in(shown[option]) == (None if default is None or default is False else str(default)), option
            compared.add(option)
    assert {"--epochs", "--batch-size", "--temperature", "--objective", "--hard-negatives", "--seed"} <= compared
    assert default_in(shown["--held-out"]) == str(DEFAULT_HELD_OUT)


def test_the_help_text_shows_both_learning_rates():
    rates = f"by default {FULL_LEARNING_RATE:g} for all weights, {LORA_LEARNING_RATE:g} for LoRA"
    assert rates in help_of_options("finetune")["--learning-rate"]


def help_of_options(command):
    """Return the help text by option."""
    lines = [line.strip("│ ") for line in good("train", command, "--help").splitlines()]
    options, current = {}, ""
    for line in lines:
        found = re.match(r"\*? *(--[a-z-]+)", line)
        current = found[1] if found else current
        options[current] = f"{options.get(current, '')} {' '.join(line.split())}"
    return options


def default_in(text):
    found = re.search(r"\[default: ([^\]]+)\]", text)
    return found and found[1]


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (("--held-out", 1), "Invalid value for '--held-out': must be between 0 and 1, got 1"),
        (("--temperature", 0), "Invalid value for '--temperature': must be above 0, got 0"),
        (("--learning-rate", -1), "Invalid value for '--learning-rate': must be above 0, got -1"),
        (("--weight-decay", -1), "Invalid value for '--weight-decay': must be at least 0, got -1"),
        (("--seed", -1), "Invalid value for '--seed'"),
        (("--seed", 2**32), "Invalid value for '--seed'"),
    ],
)
@pytest.mark.parametrize("command", ["adapter", "finetune"])
def test_a_wrong_number_is_an_error_that_names_the_option(command, option, says, pairs, tmp_path):
    assert says in usage_error_of("train", command, "--data", pairs, "--out", tmp_path / "a", *option)


def test_layers_are_numbers(pairs, tmp_path):
    says = usage_error_of("train", "adapter", "--data", pairs, "--out", tmp_path / "a", "--layers", "1,last")
    assert "Invalid value for '--layers': must be numbers of layers, such as 20,-1, got 1,last" in says


def test_one_held_out_query_is_singular(pairs, model, tmp_path):
    code, output, errors = run(
        *("train", "adapter", "--data", pairs, "--model", model, "--out", tmp_path / "a", "--epochs", 1),
        *("--batch-size", 2, "--limit-queries", 6, "--held-out", 0.2, "--keep-anyway"),
    )
    assert code == 0, errors
    assert "nDCG@10 of 1 held-out query among" in output
    assert "on 1 held-out query" in errors


def test_limit(pairs, model, tmp_path):
    _, output, _ = train(pairs, model, tmp_path / "a", "--limit-queries", 80, "--json", "-")
    report = json.loads(output)
    assert report["queries"] + report["held_out_queries"] == 80


def test_errors_before_the_work(trained, pairs, model, tmp_path):
    *_, folder = trained
    common = ("train", "adapter", "--model", model, "--data", pairs)
    assert "does not exist: training data is" in error_of(*common[:-1], tmp_path / "nowhere", "--out", tmp_path / "a")
    assert "holds an adapter" in error_of(*common, "--out", folder / "adapter")
    assert "is not the ending of an image format" in error_of(
        *common, "--out", tmp_path / "a", "--plot", tmp_path / "plot.txt"
    )
    assert "does not exist" in error_of(*common, "--out", tmp_path / "a", "--plot", tmp_path / "no" / "plot.png")
    assert "--json" in error_of(*common, "--out", tmp_path / "a", "--json", tmp_path / "no" / "report.json")
    assert "'late', 'hybrid'" in usage_error_of(*common, "--out", tmp_path / "a", "--objective", "pooled")
    assert "adapter" in good("train", "--help")
    fine = ("train", "finetune", *common[2:])
    assert "holds no checkpoint" in error_of(*fine, "--out", tmp_path / "a", "--resume")
    assert "does not exist" in error_of(*fine, "--out", tmp_path / "a", "--plot", tmp_path / "no" / "plot.png")
    assert not (tmp_path / "a").exists()

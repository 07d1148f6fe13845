"""``smart-rag``: help, usage, exit codes, the log."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.command_line import good, run, usage_error_of

SCRIPT = Path(sys.executable).with_name("smart-rag")


def test_without_arguments_it_prints_help():
    code, output, errors = run()
    assert code in (0, 2)  # typer's releases differ
    for command in ("index", "search", "ask", "eval", "tune", "train", "info", "delete", "verify", "vacuum", "demo"):
        assert re.search(rf"│ {command} ", output + errors)


@pytest.mark.parametrize(
    "command", ["index", "search", "ask", "eval", "tune", "train", "info", "delete", "verify", "vacuum", "demo"]
)
def test_every_command_has_help(command):
    assert f"smart-rag {command}" in good(command, "--help")


def test_help_shows_where_verbose_goes():
    said = " ".join(good("--help").replace("│", " ").split())
    assert "before the command: smart-rag -v search ..." in said


def test_as_a_module():
    """Where the script is not on the path."""
    command = [sys.executable, "-m", "smart_rag", "info", "--db", "gone"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: no index at {Path.cwd() / 'gone'}")


def test_version():
    import smart_rag

    assert good("--version") == f"smart-rag {smart_rag.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing"], "No such command 'nothing'"),
        (["search", "words"], "Missing option '--db'"),
        (["search", "--db", "x", "--explain", "x.png"], "--explain needs a QUERY, an image with --image, or both"),
        (["index", "--db", "x"], "Missing argument"),
        (["info"], "give an index with --db, or a model with --model"),
        (["info", "--db", "x", "--model", "minilm"], "give an index with --db, or a model with --model"),
        (["info", "--db", "x", "--profile", "general"], "give an index with --db, or a model with --model"),
        (["info", "--db", "x", "--device", "cpu"], "give an index with --db, or a model with --model"),
        (["search", "words", "--db", "x", "-k", "many"], "should be a valid integer"),
        (["search", "words", "--db", "x", "--nothing"], "No such option"),
        (["eval", "x", "--limit-queries", "0"], "greater than or equal to 1"),
        (["delete", "--db", "x"], "give ids, or files with --source"),
    ],
)
def test_wrong_usage(arguments, says):
    assert says in usage_error_of(*arguments)


def test_words_are_emphasised_on_a_terminal_and_the_log_names_the_device(db):
    """In a process of its own, since rich looks at the terminal when it starts."""
    done = subprocess.run(
        [SCRIPT, "--verbose", "search", "Which bearings does the pump need?", "--db", db, "-k", "1"],
        env={**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    strong = re.findall(r"\x1b\[1;33m(.*?)\x1b\[0m", done.stdout)
    assert {"bearings", "pump"} <= set(strong)
    assert "drawer" not in strong
    assert "drawer" in done.stdout
    assert re.search(r"encoded 1 query text, \d+ tokens, on (cpu|cuda)", done.stderr)


def test_an_interrupted_run_can_be_run_again(tmp_path):
    """With a real interrupt, in a process of its own; shells may have such processes ignore it, hence the handler."""
    folder, db = tmp_path / "docs", tmp_path / "index"
    folder.mkdir()
    for i in range(600):
        (folder / f"{i}.txt").write_text(f"Note number {i} is of no interest to anybody. " * 12)
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from smart_rag.cli.app import main; main()"
    )
    command = [sys.executable, "-c", program, "index", folder, "--db", db]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not (db / "manifest.json").exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (130, "")
    assert errors == "\ninterrupted; finished work is kept, run the same command again to continue\n"
    assert "passages in" in good("index", folder / "0.txt", folder / "1.txt", "--db", db)

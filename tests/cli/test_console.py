"""Output of the command line: figures for people, for a file, or for standard output."""

from __future__ import annotations

import ast
import json
import os
import tempfile
from pathlib import Path

import pytest
from helpers.command_line import error_of, run
from helpers.other_users import as_nobody
from rich.console import Group
from rich.table import Table
from rich.text import Text

import smart_rag
from smart_rag.cli.console import check_report_file, err, out, show_figures
from smart_rag.cli.report import print_survey
from smart_rag.errors import InvalidInput
from smart_rag.reports import AddReport, ReadFile

# Names that rich would take for markup, for an emoji, or for an error in markup.
NAMES = ("[draft] plan.txt", "[/q].txt", "red[/red].txt", "a :smile: b.txt", "[link=x]y.txt")
# What a module may take from rich. A console, a progress bar or rich's `print` would look for markup.
SHOWN_BY_CONSOLES = ("console.Group", "padding.Padding", "table.Table", "text.Text")


def test_figures_are_shown_and_written(tmp_path, capsys):
    show_figures({"ndcg": 0.5}, "a table", str(tmp_path / "figures.json"))
    assert capsys.readouterr().out == "a table\n"
    assert json.loads((tmp_path / "figures.json").read_text()) == {"ndcg": 0.5}


def test_no_figure_is_cut_where_no_terminal_limits_the_width(capsys, monkeypatch):
    table = Table(*(f"a heading of column {i}" for i in range(12)))
    table.add_row(*("0.1234 to 0.5678" for _ in range(12)))
    out.print_tables(Group(table, Text("a note")))
    assert capsys.readouterr().out.count("0.1234 to 0.5678") == 12
    monkeypatch.setenv("COLUMNS", "60")
    out.print_tables(table)
    assert max(map(len, capsys.readouterr().out.splitlines())) == 60


def test_standard_output_gets_figures_and_nothing_else(capsys):
    show_figures({"ndcg": 0.5}, "a table", "-")
    assert json.loads(capsys.readouterr().out) == {"ndcg": 0.5}


def test_a_report_needs_a_folder(tmp_path):
    for writable in (None, "-", "figures.json", str(tmp_path / "figures.json")):
        check_report_file(writable)
    with pytest.raises(InvalidInput, match=r"--json .*figures.json: the folder .*gone does not exist"):
        check_report_file(str(tmp_path / "gone" / "figures.json"))
    with pytest.raises(InvalidInput, match="is a folder; name a file"):
        check_report_file(str(tmp_path))


def test_a_report_never_replaces_a_document(tmp_path):
    document, earlier, empty = tmp_path / "a.txt", tmp_path / "report.json", tmp_path / "empty"
    document.write_text("words")
    earlier.write_text("{}")
    empty.touch()
    with pytest.raises(InvalidInput, match=r"--json .*a\.txt exists and does not end in \.json"):
        check_report_file(document)
    error_of("index", document, "--db", tmp_path / "index", "--report", document)
    assert document.read_text() == "words"
    check_report_file(earlier)
    check_report_file(empty)
    check_report_file(tmp_path / "new.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "empty", "report.json"]


def test_a_report_that_may_not_be_written_is_an_error_before_the_work():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "old.json").write_text("{}")
        (folder / "old.json").chmod(0o444)
        folder.chmod(0o555)
        with as_nobody():
            for file in ("new.json", "old.json"):
                with pytest.raises(InvalidInput, match=rf"{file} cannot be written \(Permission denied\)"):
                    check_report_file(folder / file)
        folder.chmod(0o755)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_report_for_which_there_is_no_space_is_an_error():
    with pytest.raises(InvalidInput, match=r"/dev/full cannot be written \(No space left on device\)"):
        show_figures({"ndcg": 0.5}, "a table", "/dev/full")


def test_a_report_that_cannot_be_written_is_an_error_before_the_work(dataset, tmp_path):
    assert "gone" in error_of("eval", dataset, "--json", tmp_path / "gone" / "figures.json")


@pytest.mark.parametrize("console", [out, err])
@pytest.mark.parametrize("name", NAMES)
def test_no_text_is_taken_for_markup(console, name, capsys):
    table = Table(name)
    table.add_row(name)
    console.print(name)
    console.print(table)
    assert sum(captured.count(name) for captured in capsys.readouterr()) == 3


def test_file_names_are_shown_as_they_are(tmp_path):
    folder = tmp_path / "a[" / "b]"
    folder.mkdir(parents=True)
    names = [name.replace("/", "-") for name in NAMES]
    for name in names:
        (folder / name).write_text(f"The cat of {name} purrs.")
    (folder / "mail.eml").write_text(
        "Subject: [/x] :smile:\nContent-Type: multipart/mixed; boundary=B\n\n--B\n\nThe cat purrs.\n"
        '--B\nContent-Disposition: attachment; filename="[/q].pdf"\n\nx\n--B--\n'
    )
    db = tmp_path / "index"
    survey = run("index", folder, "--db", db, "--dry-run")
    added = run("index", folder, "--db", db)
    listed = run("sources", "--db", db)
    hits = run("search", "cat purrs", "--db", db, "--top-k", "9")
    assert [one[0] for one in (survey, added, listed, hits)] == [0, 0, 0, 0], (survey, added, listed, hits)
    for name in names:
        assert all(f"a[/b]/{name}" in one[1] for one in (survey, listed, hits)), name
        assert f"The cat of {name} purrs." in hits[1]
    assert "[/q].pdf" in survey[1]
    assert "[/q].pdf" in added[2]


def test_a_survey_says_what_a_model_sees(capsys):
    """An image for a model that sees, the same for a text model with ``--ocr``, and a text."""
    files = [("seen.png", 0, ()), ("scan.png", 0, ("its text would be recognised",)), ("a.txt", 5, ())]
    print_survey(AddReport(read=tuple(ReadFile(Path(name), 0, count, lacks) for name, count, lacks in files)))
    assert capsys.readouterr().out.splitlines() == [
        "seen.png: seen by the model",
        "scan.png: 0 characters (its text would be recognised)",
        "a.txt: 5 characters",
    ]


def test_one_module_makes_consoles():
    """Its consoles know no markup. A style is given as `Text`."""
    for path in Path(smart_rag.__file__).parent.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        of_rich = {
            f"{node.module}.{alias.name}"
            for node in nodes
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rich"
            for alias in node.names
        }
        used = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        used |= {node.arg for node in nodes if isinstance(node, ast.keyword)}
        assert not used & {"from_markup"}, path
        if path.parts[-2:] != ("cli", "console.py"):
            assert of_rich <= {f"rich.{name}" for name in SHOWN_BY_CONSOLES}, path
            assert not any(
                alias.name == "rich" for node in nodes if isinstance(node, ast.Import) for alias in node.names
            )
            assert not used & {"markup", "emoji"}, path


def test_search_and_sources_show_an_odd_name_in_the_same_way(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a\nb\tc.txt").write_text("The cat purrs.")
    db = tmp_path / "index"
    run("index", tmp_path / "docs", "--db", db)
    assert all("a\\nb\\tc.txt" in run(*words, "--db", db)[1] for words in (["sources"], ["search", "cat"]))

"""Output of the command line: figures for people, for a file, or for standard output."""

from __future__ import annotations

import json

import pytest
from helpers.command_line import error_of

from smart_rag.cli.console import check_report_file, show_figures
from smart_rag.errors import InvalidInput


def test_figures_are_shown_and_written(tmp_path, capsys):
    show_figures({"ndcg": 0.5}, "a table", str(tmp_path / "figures.json"))
    assert capsys.readouterr().out == "a table\n"
    assert json.loads((tmp_path / "figures.json").read_text()) == {"ndcg": 0.5}


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


def test_a_report_that_cannot_be_written_is_an_error_before_the_work(dataset, tmp_path):
    assert "gone" in error_of("eval", dataset, "--json", tmp_path / "gone" / "figures.json")

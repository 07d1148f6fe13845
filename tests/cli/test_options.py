"""Options: each has the name of the library's argument."""

from __future__ import annotations

import inspect

import click
import pytest
import typer
from helpers.command_line import good

from smart_rag.cli.app import app

# Options of the command line alone: where the index is, what is printed or drawn, and what is changed.
OWN = {
    *("db", "json", "help", "explain", "neighbours", "source", "dry_run", "force", "plot", "for", "report", "gone"),
    "per_query",
    *("watch", "chroma", "collection", "options", "browser"),
}


def library(command):
    """Return the functions and classes of the library that a command calls."""
    from llama_index_smart_rag import SmartEmbedding

    from smart_rag import Content, IndexConfig, SmartEncoder, SmartIndex, answer, training
    from smart_rag.evaluation import comparison, evaluator, results, tuner
    from smart_rag.evaluation.datasets import load_dataset, load_labels
    from smart_rag.evaluation.paper.evaluation import evaluate_published
    from smart_rag.files import limits
    from smart_rag.serving import ServerSettings
    from smart_rag.serving.mcp import serve_stdio

    return {
        "index": [SmartEncoder, SmartIndex.add_files, IndexConfig, limits],
        "search": [SmartEncoder, SmartIndex.open, SmartIndex.search, Content],
        "ask": [SmartEncoder, SmartIndex.open, answer.ask, Content],
        "eval": [SmartEncoder, evaluator.evaluate, load_dataset, evaluate_published, results.evaluate_runs],
        "compare": [comparison.compare],
        "tune": [SmartEncoder, tuner.tune, load_labels],
        "info": [SmartEncoder],
        "serve": [SmartEncoder, SmartIndex.open, ServerSettings],
        "inspect": [SmartEncoder, SmartIndex.open, ServerSettings],
        "mcp": [SmartEncoder, SmartIndex.open, serve_stdio],
        "sources": [SmartIndex.add_files],
        "delete": [SmartIndex.delete],
        "verify": [SmartIndex.verify],
        "vacuum": [SmartIndex.vacuum],
        "compact": [SmartIndex.compact],
        "convert": [SmartEncoder, SmartIndex.convert],
        "backup": [SmartIndex.snapshot],
        "restore": [SmartIndex.snapshot],
        "demo": [],
        "backfill": [SmartEncoder, SmartEmbedding],
        "train adapter": [
            SmartEncoder,
            training.train_adapter,
            training.AdapterSettings,
            training.load_training_data,
        ],
        "train finetune": [training.finetune, training.FinetuneSettings, training.load_training_data],
    }[command]


def commands(group, prefix=""):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} ")
        else:
            yield f"{prefix}{name}", command


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_has_the_name_of_an_argument_of_the_library(name):
    arguments = {argument for function in library(name) for argument in inspect.signature(function).parameters}
    options = {
        option.removeprefix("--").replace("-", "_")
        for parameter in COMMANDS[name].params
        for option in parameter.opts
        if option.startswith("--")
    }
    assert options <= arguments | OWN


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help(name):
    parameters = [parameter for parameter in COMMANDS[name].params if isinstance(parameter, click.Option)]
    assert [parameter.name for parameter in parameters if not parameter.help] == []


def test_help_names_the_default_model():
    output = " ".join(good("index", "--help").replace("│", " ").split())
    assert "by default that of the index, or minilm." in output

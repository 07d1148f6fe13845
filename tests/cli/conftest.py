"""Documents, a dataset and an index for the tests of the commands."""

from __future__ import annotations

import json

import pytest
from helpers.command_line import run
from helpers.text_files import write_documents


@pytest.fixture(scope="session")
def documents(tmp_path_factory):
    return write_documents(tmp_path_factory.mktemp("documents") / "docs")


@pytest.fixture(scope="session")
def db(tmp_path_factory, documents):
    """An index that no test changes, made by the command line."""
    db = tmp_path_factory.mktemp("db") / "index"
    code, output, errors = run("index", documents, "--db", db)
    assert (code, output) == (0, f"passages: 4 added\n4 passages in {db}\n"), errors
    return db


@pytest.fixture
def folder(tmp_path):
    """Documents that a test may change."""
    return write_documents(tmp_path / "docs")


@pytest.fixture(scope="session")
def other_model(tmp_path_factory):
    from helpers.tiny_models import bert  # which takes seconds to import

    return bert(tmp_path_factory.mktemp("model"))


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "animals"
    folder.mkdir()
    for name, texts in (
        ("corpus", {"d1": "The cat purrs.", "d2": "Dogs bark at night.", "d3": "Carp live in ponds."}),
        ("queries", {"q1": "which animal purrs?", "q2": "what do dogs do?"}),
    ):
        rows = [json.dumps({"_id": id, "text": text}) for id, text in texts.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    (folder / "qrels.tsv").write_text("q1\td1\t1\nq2\td2\t2\n")
    return folder

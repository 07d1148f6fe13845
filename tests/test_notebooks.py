"""The notebooks run from top to bottom, and what is kept of their output is small."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
# The integrations and the trainer have tests of their own for what these show.
SLOW = ("02_swap_into_llama_index", "03_swap_into_langchain", "05_train_an_adapter")


def test_the_notebooks_are_there():
    assert [path.stem for path in NOTEBOOKS] == [
        "01_quickstart",
        "02_swap_into_llama_index",
        "03_swap_into_langchain",
        "04_visual_documents",
        "05_train_an_adapter",
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.slow] if path.stem in SLOW else []) for path in NOTEBOOKS],
    ids=lambda path: path.stem,
)
def test_it_runs_and_gives_what_it_shows(path, tmp_path):
    shown = nbformat.read(path, as_version=4)
    assert path.stat().st_size < 100_000
    run = nbformat.read(path, as_version=4)
    NotebookClient(run, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for cell, before in zip(run.cells, shown.cells, strict=True):
        assert printed(cell) == printed(before)
    assert any("image/png" in output.get("data", {}) for cell in run.cells for output in cell.get("outputs", []))


def printed(cell) -> str:
    """What a cell prints; no warnings."""
    return "".join(
        output["text"]
        for output in cell.get("outputs", [])
        if output.output_type == "stream" and output.name == "stdout"
    )

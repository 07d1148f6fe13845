"""An index of files, and files that a test may change."""

from __future__ import annotations

import pytest
from helpers.indexed_files import CONFIG, FoldingEncoder, assert_whole
from helpers.text_files import write

from smart_rag import SmartIndex


@pytest.fixture
def encoder():
    return FoldingEncoder()


@pytest.fixture
def index(tmp_path, encoder):
    with SmartIndex.create(tmp_path / "index", encoder, config=CONFIG) as index:
        yield index
        assert_whole(index)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "docs"
    write(folder / "cats.txt", "The cat sat on the mat. It purred all day long. Nobody knew why it purred.")
    write(folder / "deep" / "dogs.md", "Dogs bark at strangers at night. The postman runs away again.")
    write(folder / "tax.html", "<p>Taxes are due in late April.</p>")
    return folder

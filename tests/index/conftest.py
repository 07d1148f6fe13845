"""An index of five texts."""

from __future__ import annotations

import pytest
from helpers.five_texts import EXACT, documents
from helpers.word_encoder import LetterEncoder

from smart_rag import SmartIndex


@pytest.fixture
def index(tmp_path):
    with SmartIndex.create(tmp_path / "index", LetterEncoder(), config=EXACT) as index:
        index.add(documents())
        yield index

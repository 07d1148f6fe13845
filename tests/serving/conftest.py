"""A server over an index of five texts."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from helpers.five_texts import EXACT, documents
from helpers.served import Failing, server

from smart_rag import SmartIndex


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("served") / "five.index"


@pytest.fixture(scope="module")
def index(folder):
    encoder = Failing()
    with SmartIndex.create(folder, encoder, config=EXACT) as index:
        index.add(documents())
    with SmartIndex.open(folder, encoder) as index:  # it does not have the right to write
        yield index


@pytest.fixture(scope="module")
def client(index):
    with server({"five": index}) as client:
        yield client

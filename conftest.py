"""What all tests share. No test may reach for the network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest


@pytest.fixture(scope="session")
def minilm():
    """Return the bundled model, shared by all tests: set no attribute of it."""
    from smart_rag.encoder import SmartEncoder

    return SmartEncoder("minilm", device="cpu")

"""What all tests share. No test may reach for the network."""

import logging
import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torchvision_on_cpu  # noqa: F401

# Applications, which tests run; there is no test in them.
collect_ignore_glob = ["integrations/*/examples/*"]


@pytest.fixture(scope="session")
def minilm():
    """Return the bundled model, shared by all tests: set no attribute of it."""
    from smart_rag.encoder import SmartEncoder

    return SmartEncoder("minilm", device="cpu")


@pytest.fixture(autouse=True)
def _log_level():
    """The command line sets the level of the log; the tests of other files are to find it as it was."""
    level = logging.getLogger("smart_rag").level
    yield
    logging.getLogger("smart_rag").setLevel(level)

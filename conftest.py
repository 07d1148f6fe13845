"""What all tests share. No test may reach for the network."""

import atexit
import logging
import os
import shutil
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
# Chroma refuses two clients of one folder with different settings; a framework's own client has those of this variable.
os.environ["ANONYMIZED_TELEMETRY"] = "False"
# What the command line prints is as wide as the tests say, not as whoever runs them has it.
os.environ.pop("COLUMNS", None)
# Where transformers copies the code that comes with a model: not into the home of whoever runs the tests.
os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="smart_rag_remote_code_")
# What smart_rag remembers of its user: not those of whoever runs the tests.
os.environ["SMART_RAG_HOME"] = tempfile.mkdtemp(prefix="smart_rag_home_")

# What smart_rag can make again, such as a model's ONNX file: the workers of one run share it.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["SMART_RAG_CACHE"] = tempfile.mkdtemp(prefix="smart_rag_cache_")
    atexit.register(shutil.rmtree, os.environ["SMART_RAG_CACHE"], ignore_errors=True)

import pytest
from helpers import torchvision_on_cpu  # noqa: F401

for folder in ("HF_MODULES_CACHE", "SMART_RAG_HOME"):
    atexit.register(shutil.rmtree, os.environ[folder], ignore_errors=True)

# Applications, which tests run; there is no test in them.
collect_ignore_glob = ["integrations/*/examples/*"]


# Files with few tests that take long. They begin first, so that no process works alone at the end.
LONG = ("test_notebooks", "test_fork", "test_worker", "test_serialisation", "test_swap", "test_products")


def pytest_collection_modifyitems(items):
    """Put the tests of long files first."""
    items.sort(key=lambda item: not item.path.stem.startswith(LONG))


@pytest.fixture(scope="session")
def minilm():
    """Return the bundled model, shared by all tests: set no attribute of it."""
    from smart_rag.encoders.smart_encoder import SmartEncoder

    encoder = SmartEncoder("minilm", device="cpu")

    def refuse():
        raise AssertionError("this would move the shared encoder to torch; take minilm_on_torch")

    encoder._move_to_torch = refuse
    return encoder


@pytest.fixture(scope="session")
def minilm_on_torch():
    """Return the bundled model on torch, for tests that take its ``model`` or its ``trainable``."""
    from smart_rag.encoders.smart_encoder import SmartEncoder

    return SmartEncoder("minilm", device="cpu", backend="torch")


@pytest.fixture(scope="module")
def one_thread():
    """Tiny models run faster on one, the more so beside other tests."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _log_level():
    """The command line sets the level of the log; the tests of other files are to find it as it was."""
    level = logging.getLogger("smart_rag").level
    yield
    logging.getLogger("smart_rag").setLevel(level)

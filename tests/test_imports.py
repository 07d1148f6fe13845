"""Every module can be imported, also on a Python for which there is no torch at hand."""

import pkgutil
from importlib import import_module
from importlib.util import find_spec

import pytest

import smart_rag

MODULES = [
    module.name
    for module in pkgutil.walk_packages(smart_rag.__path__, "smart_rag.")
    if not module.name.endswith("__main__")
]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_can_be_imported(name):
    try:
        import_module(name)
    except ModuleNotFoundError as error:
        # `make test-python` installs neither torch nor what needs it.
        if find_spec("torch") or str(error.name).startswith("smart_rag"):
            raise
        pytest.skip(f"needs {error.name}")

"""The walls of the house: who may import whom, what `import smart_rag` loads, what is public."""

from __future__ import annotations

import ast
import graphlib
import importlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import smart_rag

PACKAGE = Path(smart_rag.__file__).parent

# Each row may import the rows above it. What stands in one row does not import its neighbours.
ROWS = (
    ("errors",),
    ("values",),
    ("types", "config", "reports", "wording", "citations", "fences", "threads", "_version", "progress"),
    ("paths", "json_shapes"),
    ("embeddings",),
    ("files", "scoring"),
    ("store",),
    ("encoders",),
    ("index",),
    ("answer", "evaluation", "demo"),
    ("training",),
    ("serving", "distributed"),
    ("cli",),
    ("__main__",),
)
# Where a package may be imported when the program runs; a type may be named anywhere.
OWNERS = {
    "PIL": {"files", "index"},
    "av": {"files"},
    "chromadb": {"store"},
    "datasets": {"training"},
    "fastapi": {"serving"},
    "ir_datasets": {"evaluation"},
    "ir_measures": {"evaluation"},
    "lmdb": {"store"},
    "lxml": {"files"},
    "matplotlib": {"evaluation", "training"},
    "mcp": {"serving"},
    "mteb": {"evaluation"},
    "numba": {"scoring"},
    "olefile": {"files"},
    "openai": {"answer"},
    "peft": {"encoders", "training"},
    "pi_heif": {"files"},
    "pydantic": {"serving"},
    "pypdfium2": {"files"},
    "watchfiles": {"files"},
    "python_calamine": {"files"},
    "rapidocr": {"files"},
    "resvg_py": {"files"},
    "safetensors": {"encoders"},
    "sentence_transformers": {"encoders", "training"},
    "starlette": {"serving"},
    "torch": {"embeddings", "scoring", "encoders", "training", "evaluation"},  # mteb takes similarities as tensors
    "transformers": {"encoders", "training"},
    "uvicorn": {"serving"},
}
# Modules above 450 lines, and why.
LONG = {
    "smart_rag.index.smart_index": "the interface of an index in one class; half of it is signatures and docstrings"
}
FRAMEWORKS = {"llama_index", "langchain", "langchain_core"}
PUBLIC_MODULES = {"smart_rag"} | {
    f"smart_rag.{name}"
    for name in ("errors", "types", "reports", "values", "config", "paths", "citations", "fences", "threads", "answer")
}
PUBLIC_PACKAGES = {f"smart_rag.{name}" for name in ("evaluation", "files", "serving", "training")}


@cache
def paths():
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@cache
def module_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor_of(module):
    return module.split(".")[1] if "." in module else ""


def row_of(floor):
    return next(i for i, row in enumerate(ROWS) if floor in row)


@cache
def imported(path, types_too=True):
    """Return the dotted names that a file imports, wherever in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    names = set()
    for node in ast.walk(tree):
        if id(node) in for_types and not types_too:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def ours(path):
    """Return the modules of smart_rag that a file imports."""
    known = {module_of(other) for other in paths()}
    found = set()
    for name in imported(path):
        while name.startswith("smart_rag.") and name not in known:
            name = name.rpartition(".")[0]
        if name.startswith("smart_rag."):
            found.add(name)
    return found


def test_every_floor_has_a_row():
    floors = {floor_of(module_of(path)) for path in paths()}
    named = {floor for row in ROWS for floor in row}
    assert floors <= named


@pytest.mark.parametrize("path", paths(), ids=module_of)
def test_nobody_imports_upwards_or_sideways(path):
    floor = floor_of(module_of(path))
    allowed = {floor, *(name for row in ROWS[: row_of(floor)] for name in row)}
    assert {floor_of(module) for module in ours(path)} <= allowed


def test_no_imports_in_a_circle():
    graphlib.TopologicalSorter({module_of(path): ours(path) - {module_of(path)} for path in paths()}).prepare()


@pytest.mark.parametrize("path", paths(), ids=module_of)
def test_each_heavy_package_has_its_floor(path):
    packages = {name.split(".")[0] for name in imported(path, types_too=False)}
    assert not packages & FRAMEWORKS
    for package, owners in OWNERS.items():
        assert package not in packages or floor_of(module_of(path)) in owners


@pytest.mark.parametrize("folder", sorted({path.parent for path in paths()} - {PACKAGE}), ids=lambda path: path.name)
def test_a_folder_shows_a_handful_of_files(folder):
    modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert 3 <= len(modules) <= 13


@pytest.mark.parametrize("path", paths(), ids=module_of)
def test_a_module_fits_in_the_head(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert (lines > 450) == (module_of(path) in LONG)


def test_integrations_import_public_names_alone():
    for path in (PACKAGE.parent / "integrations").glob("*/*_smart_rag/*.py"):
        for name in imported(path):
            if name.startswith("smart_rag"):
                assert name in {"smart_rag", *PUBLIC_MODULES} or name.rpartition(".")[0] in (
                    PUBLIC_MODULES | PUBLIC_PACKAGES
                ), f"{path.name} imports {name}"


def test_import_is_light():
    """`import smart_rag` loads neither torch nor chromadb nor a framework."""
    code = (
        "import sys, smart_rag, smart_rag.training, smart_rag.evaluation, smart_rag.files, smart_rag.serving; "
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "chromadb", "lmdb", "transformers", "sentence_transformers", "openai", "fastapi", *FRAMEWORKS}
    assert not heavy & set(loaded)
    assert "smart_rag" in loaded


@pytest.mark.parametrize("module", ["encoders.smart_encoder", "scoring.maxsim", "scoring.ranking"])
def test_encoding_and_scoring_need_no_store(module):
    """On a machine without chromadb and lmdb, the encoder and the scorer work."""
    code = (
        "import sys; sys.modules['chromadb'] = sys.modules['lmdb'] = None; "
        f"import smart_rag.{module}, smart_rag; smart_rag.SmartEncoder"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


PUBLIC = {
    "smart_rag": [
        "AddReport",
        "CachedEncoder",
        "Content",
        "Document",
        "Encoder",
        "Explanation",
        "Hit",
        "IndexConfig",
        "IndexInfo",
        "Match",
        "PdfPage",
        "Representation",
        "SmartEncoder",
        "SmartIndex",
        "TokenBatch",
        "VerifyReport",
        "Vocabulary",
        "__version__",
        "arerank",
        "errors",
        "rerank",
    ],
    "smart_rag.evaluation": [
        "Dataset",
        "MtebModel",
        "compare",
        "evaluate",
        "evaluate_runs",
        "load_dataset",
        "read_run",
        "tune",
        "write_run",
    ],
    "smart_rag.files": ["FORMATS", "jpeg", "limits"],
    "smart_rag.serving": ["ServerSettings", "serve"],
    "smart_rag.training": [
        "AdapterSettings",
        "FinetuneSettings",
        "TrainingData",
        "TrainingReport",
        "finetune",
        "load_training_data",
        "train_adapter",
    ],
}


@pytest.mark.parametrize("package", PUBLIC)
def test_the_public_surface(package):
    module = importlib.import_module(package)
    assert module.__all__ == PUBLIC[package]
    for name in module.__all__:
        assert getattr(module, name) is not None
        assert name in dir(module)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018


@pytest.mark.parametrize("package", PUBLIC)
def test_no_module_has_the_name_of_a_public_function(package):
    """Importing such a module would put it in the function's place."""
    folder = Path(importlib.import_module(package).__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} | {path.name for path in folder.iterdir() if path.is_dir()}
    assert modules & set(PUBLIC[package]) <= {"errors"}


def test_every_error_is_drawn_in_the_tree():
    """The docstring of `errors` names every class, and every class is one of ours."""
    for name in smart_rag.errors.__all__:
        assert issubclass(getattr(smart_rag.errors, name), smart_rag.errors.SmartRagError)
        assert name in smart_rag.errors.__doc__

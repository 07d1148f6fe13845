"""The walls of the house: who may import whom, what `import smart_rag` loads, what is public."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import smart_rag

PACKAGE = Path(smart_rag.__file__).parent

# Each row may import the rows above it; modules of one row do not know each other.
LAYERS = [
    {"_version", "errors", "wording"},
    {"representation", "types", "config", "stopwatch", "profiles", "files", "jina_v4_weights"},
    {"codec", "gap_codes", "kernels", "token_pooling", "images", "checkpoint", "row", "encoder"},
    {"pdf", "video", "picture"},
    {"media"},
    {"backbone", "image_folder", "adapter", "contrastive", "lora"},
    {"dual_encoder", "jina_v4", "multi_vector"},
    {"passes"},
    {"smart_encoder"},
    {"scoring"},
    {"explain", "documents", "manifest", "lmdb_environment", "segments", "chroma_client"},
    {"token_store", "term_store"},
    {"pooled_index", "inverted_index"},
    {"document_store", "cached_encoder"},
    {"candidates"},
    {"ingest", "search"},
    {"index"},
    {"answer", "demo", "dataset", "bootstrap"},
    {"metrics", "training_data", "training_report"},
    {"hard_negatives", "training_batches", "training_split"},
    {"evaluation", "tuning", "training_states", "training_folder", "smart_loss"},
    {"adapter_training", "finetuning"},
    {"console", "display", "options", "training_plot"},
    {"train_cli"},
    {"cli"},
    {"__main__"},
]
OWNERS = {
    "chromadb": {"chroma_client", "pooled_index", "index"},  # index: for a type, never at run time
    "lmdb": {"lmdb_environment"},
    "numba": {"kernels"},
    # dual_encoder, representation and smart_encoder: for a type.
    "torch": {
        *("adapter", "adapter_training", "backbone", "checkpoint", "codec", "contrastive"),
        *("dual_encoder", "multi_vector", "passes", "representation", "scoring", "smart_encoder"),
        *("finetuning", "jina_v4_weights", "lora", "smart_loss", "training_states"),
    },
    "safetensors": {"adapter", "jina_v4_weights"},
    "sentence_transformers": {
        *("backbone", "checkpoint", "finetuning", "jina_v4_weights", "lora", "multi_vector"),
        *("smart_encoder", "smart_loss"),
    },
    "transformers": {"checkpoint", "finetuning", "jina_v4_weights"},
    "peft": {"lora"},
    # images and picture make images, the others only name the type.
    "PIL": {
        *("images", "picture", "pdf", "video", "types", "media", "backbone", "encoder", "smart_encoder", "explain"),
        "training_data",
    },
    "datasets": {"training_data", "finetuning"},
    "matplotlib": {"training_plot"},
    "pypdfium2": {"pdf"},
    "av": {"video"},
    "openai": {"answer"},
    "ir_measures": {"metrics"},
}
FRAMEWORKS = {"llama_index", "langchain", "langchain_core"}


def modules():
    return sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def imported(module):
    """Return the dotted names that a module imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_module_has_a_layer():
    assert sorted(module for layer in LAYERS for module in layer) == modules()


@pytest.mark.parametrize("module", modules())
def test_nobody_imports_upwards_or_sideways(module):
    level = next(i for i, layer in enumerate(LAYERS) if module in layer)
    below = set().union(*LAYERS[:level])
    ours = {name.split(".")[1] for name in imported(module) if name.startswith("smart_rag.")}
    assert ours <= below


@pytest.mark.parametrize("module", modules())
def test_each_heavy_package_has_its_place(module):
    packages = {name.split(".")[0] for name in imported(module)}
    assert not packages & FRAMEWORKS
    for package, owners in OWNERS.items():
        assert package not in packages or module in owners


def test_import_is_light():
    """`import smart_rag` loads neither torch nor chromadb nor a framework."""
    code = "import sys, smart_rag; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "chromadb", "lmdb", "transformers", "sentence_transformers", "openai", *FRAMEWORKS}
    assert not heavy & set(loaded)
    assert "smart_rag" in loaded


@pytest.mark.parametrize("module", ["encoder", "scoring"])
def test_encoding_and_scoring_need_no_store(module):
    """On a machine without chromadb and lmdb, the encoder and the scorer work."""
    code = (
        "import sys; sys.modules['chromadb'] = sys.modules['lmdb'] = None; "
        f"import smart_rag.{module}, smart_rag; smart_rag.SmartEncoder"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_public_surface():
    assert smart_rag.__all__ == [
        "AddReport",
        "CachedEncoder",
        "Content",
        "Document",
        "Encoder",
        "Hit",
        "IndexConfig",
        "Representation",
        "SmartEncoder",
        "SmartIndex",
        "TokenBatch",
        "__version__",
        "errors",
        "rerank",
    ]
    for name in smart_rag.__all__:
        assert getattr(smart_rag, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        smart_rag.nothing  # noqa: B018


def test_every_error_is_drawn_in_the_tree():
    """The docstring of `errors` names every class, and every class is one of ours."""
    for name in smart_rag.errors.__all__:
        assert issubclass(getattr(smart_rag.errors, name), smart_rag.errors.SmartRagError)
        assert name in smart_rag.errors.__doc__

"""Evaluation on labelled queries: the quality of each ranking, and tuning of the score weights."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smart_rag.evaluation.datasets import Dataset, load_dataset
    from smart_rag.evaluation.evaluator import evaluate
    from smart_rag.evaluation.mteb_model import MtebModel
    from smart_rag.evaluation.tuner import tune

# Module of each public name. It is imported when the name is first used, as in `smart_rag`.
_HOMES = {
    "Dataset": "datasets",
    "MtebModel": "mteb_model",
    "evaluate": "evaluator",
    "load_dataset": "datasets",
    "tune": "tuner",
}

__all__ = ["Dataset", "MtebModel", "evaluate", "load_dataset", "tune"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

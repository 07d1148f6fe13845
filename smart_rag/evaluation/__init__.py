"""Evaluation on labelled queries: the quality of each ranking, and tuning of the score weights."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smart_rag.evaluation.comparison import compare
    from smart_rag.evaluation.datasets import Dataset, load_dataset
    from smart_rag.evaluation.evaluator import evaluate
    from smart_rag.evaluation.mteb_model import MtebModel
    from smart_rag.evaluation.results import evaluate_runs
    from smart_rag.evaluation.runs import read_run, write_run
    from smart_rag.evaluation.tuner import tune

# Module of each public name. It is imported when the name is first used, as in `smart_rag`.
_HOMES = {
    "Dataset": "datasets",
    "MtebModel": "mteb_model",
    "compare": "comparison",
    "evaluate": "evaluator",
    "evaluate_runs": "results",
    "load_dataset": "datasets",
    "read_run": "runs",
    "tune": "tuner",
    "write_run": "runs",
}

__all__ = [
    "Dataset",
    "MtebModel",
    "compare",
    "evaluate",
    "evaluate_runs",
    "load_dataset",
    "read_run",
    "tune",
    "write_run",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

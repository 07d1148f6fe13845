"""Train an adapter for a frozen model, or the model itself, on labelled queries."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smart_rag.training.adapter_trainer import AdapterSettings, train_adapter
    from smart_rag.training.data import TrainingData, load_training_data
    from smart_rag.training.finetuner import FinetuneSettings, finetune
    from smart_rag.training.report import TrainingReport

# Loaded when first asked for, as in `smart_rag`.
_HOMES = {
    "AdapterSettings": "adapter_trainer",
    "FinetuneSettings": "finetuner",
    "TrainingData": "data",
    "TrainingReport": "report",
    "finetune": "finetuner",
    "load_training_data": "data",
    "train_adapter": "adapter_trainer",
}

__all__ = [
    "AdapterSettings",
    "FinetuneSettings",
    "TrainingData",
    "TrainingReport",
    "finetune",
    "load_training_data",
    "train_adapter",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

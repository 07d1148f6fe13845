"""Training on labelled queries: of an adapter for a frozen model, or of the model itself."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smart_rag.training.adapter_trainer import train_adapter
    from smart_rag.training.data import TrainingData, load_training_data
    from smart_rag.training.finetuner import finetune
    from smart_rag.training.report import TrainingReport
    from smart_rag.training.settings import AdapterSettings, FinetuneSettings

# Module of each public name. It is imported when the name is first used, as in `smart_rag`.
_HOMES = {
    "AdapterSettings": "settings",
    "FinetuneSettings": "settings",
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

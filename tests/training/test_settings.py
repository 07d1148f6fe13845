"""Settings: their defaults, and errors for values that are not valid."""

import dataclasses

import pytest

from smart_rag.errors import InvalidInput
from smart_rag.training import AdapterSettings, FinetuneSettings
from smart_rag.training.settings import TrainingSettings

SHARED = [
    ({"epochs": 0}, "epochs must be a whole number of at least 1"),
    ({"batch_size": 1}, "batch_size must be at least 2, got 1: the negatives of a query"),
    ({"hard_negatives": -1}, "hard_negatives must be at least 0"),
    ({"temperature": 0.0}, "temperature must be above 0, got 0"),
    ({"learning_rate": float("nan")}, "learning_rate must be above 0, got nan"),
    ({"learning_rate": -1.0}, "learning_rate must be above 0, got -1"),
    ({"checkpoint_minutes": 0.0}, "checkpoint_minutes must be above 0, got 0"),
    ({"weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
]


@pytest.mark.parametrize("kind", [AdapterSettings, FinetuneSettings])
@pytest.mark.parametrize(("values", "message"), SHARED)
def test_shared_settings_are_checked(kind, values, message):
    with pytest.raises(InvalidInput, match=message):
        kind(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"objective": "pooled"}, "objective must be one of late, hybrid"),
        ({"weighting": "tf"}, "weighting must be one of"),
        ({"weighting": "contrast"}, "weighting must be one of idf, none, got"),
        ({"start": "cold"}, "start must be one of"),
    ],
)
def test_adapter_settings_are_checked(values, message):
    with pytest.raises(InvalidInput, match=message):
        AdapterSettings(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"objective": "best"}, "objective must be one of pooled, late, hybrid"),
        ({"lora_rank": 0}, "lora_rank must be"),
        ({"lora_alpha": 0}, "lora_alpha must be"),
        ({"lora_alpha": 8}, "lora_alpha is the scale of LoRA; give lora_rank, too"),
        ({"mini_batch_size": 0}, "mini_batch_size must be"),
        ({"evaluate_every": 0}, "evaluate_every must be"),
    ],
)
def test_finetune_settings_are_checked(values, message):
    with pytest.raises(InvalidInput, match=message):
        FinetuneSettings(**values)


def test_the_learning_rate_of_fine_tuning_depends_on_lora():
    assert FinetuneSettings().peak_learning_rate == 2e-5
    assert FinetuneSettings(lora_rank=4).peak_learning_rate == 1e-4
    assert FinetuneSettings(lora_rank=4, learning_rate=3e-3).peak_learning_rate == 3e-3


def test_settings_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        AdapterSettings().epochs = 2


def test_both_kinds_have_the_shared_settings():
    shared = {field.name for field in dataclasses.fields(TrainingSettings)}
    for kind in (AdapterSettings, FinetuneSettings):
        assert shared < {field.name for field in dataclasses.fields(kind)}

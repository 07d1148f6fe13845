"""What is said of a training: which figures, which differences, and when it warns."""

import json

import numpy as np
import pytest

from smart_rag.training.report import Epoch, TrainingReport

GENERATOR = np.random.default_rng(0)
FROZEN = {name: GENERATOR.random(40) for name in ("pooled", "late", "hybrid")}


def report(trained, objective="late"):
    epochs = [Epoch(None, 0.5, 0.5, 0.5), Epoch(0.1, 0.5, 0.6, 0.6)]
    return TrainingReport.of((90, 40, 60), epochs, 1, FROZEN, FROZEN | trained, objective)


def test_one_that_is_not_better_is_warned_of():
    assert report({"late": FROZEN["late"] + 0.1}).warning is None
    assert "is worse than" in report({"late": FROZEN["late"] - 0.1}).warning
    assert "is not measurably better than the frozen model on 40 held-out" in report({}).warning
    some = np.where(np.arange(40) < 2, 0.1, 0.0)  # too few queries to say
    assert "not measurably" in report({"late": FROZEN["late"] + some}).warning


@pytest.mark.parametrize("objective", ["pooled", "late", "hybrid"])
def test_the_warning_is_of_what_was_trained(objective):
    others = {name: of + 0.1 for name, of in FROZEN.items() if name != objective}
    assert report(others, objective).warning
    assert report({objective: FROZEN[objective] + 0.1}, objective).warning is None


def test_figures_and_differences():
    """Of what did not change there is no difference to show, but of what was to be trained there is."""
    found = report({"hybrid": FROZEN["hybrid"] + 0.1})
    assert set(found.ndcg) == {f"{when} {name}" for when in ("frozen", "trained") for name in FROZEN}
    assert found.ndcg["trained hybrid"] == pytest.approx(FROZEN["hybrid"].mean() + 0.1)
    assert set(found.differences) == {
        *("trained hybrid - frozen hybrid", "trained late - frozen late", "trained hybrid - frozen pooled"),
    }
    assert found.differences["trained hybrid - frozen hybrid"].mean == pytest.approx(0.1)
    assert json.loads(json.dumps(found.as_json()))["history"][1] == {
        **{"loss": 0.1, "pooled": 0.5, "late": 0.6, "hybrid": 0.6}
    }

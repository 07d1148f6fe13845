"""Report of a training: its figures, its differences, its warning and its plot."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from smart_rag.errors import InvalidInput, MissingExtra
from smart_rag.evaluation.plots import check_plot_file
from smart_rag.training import TrainingReport
from smart_rag.training.report import Epoch

GENERATOR = np.random.default_rng(0)
FROZEN = {name: GENERATOR.random(40) for name in ("pooled", "late", "hybrid")}


def report(trained, objective="late"):
    epochs = [Epoch(None, 0.5, 0.5, 0.5), Epoch(0.1, 0.6, 0.6, 0.6)]
    return TrainingReport.of((90, 40, 60), epochs, 1, FROZEN, FROZEN | trained, objective)


def test_what_late_interaction_does_is_no_effect_of_the_training():
    """The frozen hybrid ranking is far better than the pooled one, and the training changed nothing."""
    frozen = FROZEN | {"hybrid": FROZEN["pooled"] + 0.2}
    epochs = [Epoch(None, 0.5, 0.5, 0.5), Epoch(0.1, 0.5, 0.5, 0.5)]
    found = TrainingReport.of((90, 40, 60), epochs, 0, frozen, frozen, "hybrid")
    assert not [name for name, of in found.differences.items() if name.startswith("trained") and of.verdict != "noise"]
    assert found.differences["frozen hybrid - frozen pooled"].verdict == "better"
    assert (found.gained, found.saved, found.to_beat) == (False, False, 0.5)
    assert found.as_json()["saved"] is False


def test_a_model_that_is_not_better_has_a_warning():
    assert report({"late": FROZEN["late"] + 0.1}).warning is None
    assert "the trained model is worse than the frozen model" in report({"late": FROZEN["late"] - 0.1}).warning
    assert "is not measurably better than the frozen model on 40 held-out" in report({}).warning
    some = np.where(np.arange(40) < 2, 0.1, 0.0)  # two of 40 queries show nothing
    assert "not measurably" in report({"late": FROZEN["late"] + some}).warning


@pytest.mark.parametrize("objective", ["pooled", "late", "hybrid"])
def test_the_warning_is_about_the_trained_score(objective):
    others = {name: of + 0.1 for name, of in FROZEN.items() if name != objective}
    assert report(others, objective).warning
    assert report({objective: FROZEN[objective] + 0.1}, objective).warning is None


def test_a_ranking_that_became_worse_is_named():
    found = report({"late": FROZEN["late"] + 0.1, "pooled": FROZEN["pooled"] - 0.1, "hybrid": FROZEN["hybrid"] + 1e-9})
    before = FROZEN["pooled"].mean()
    assert f"worse by others: nDCG@10 of pooled ({before:.4f} before, {before - 0.1:.4f} now)" in found.warning
    assert "hybrid" not in found.warning


def test_differences_are_of_scores_that_changed_and_of_the_trained_one():
    found = report({"hybrid": FROZEN["hybrid"] + 0.1})
    assert set(found.ndcg) == {f"{when} {name}" for when in ("frozen", "trained") for name in FROZEN}
    assert found.ndcg["trained hybrid"] == pytest.approx(FROZEN["hybrid"].mean() + 0.1)
    assert set(found.differences) == {
        *("trained hybrid - frozen hybrid", "trained late - frozen late", "frozen hybrid - frozen pooled"),
    }
    assert found.differences["trained hybrid - frozen hybrid"].mean == pytest.approx(0.1)
    assert json.loads(json.dumps(found.as_json()))["history"][1] == {
        **{"loss": 0.1, "pooled": 0.6, "late": 0.6, "hybrid": 0.6}
    }


def test_an_epoch_has_the_means_of_the_queries():
    assert Epoch.of(0.5, FROZEN) == Epoch(0.5, *(float(values.mean()) for values in FROZEN.values()))


def test_the_plot_is_an_image_of_the_chosen_format(tmp_path):
    pytest.importorskip("matplotlib", reason="plots need the extra plot")
    for name, kind in (("plot.png", "PNG"), ("plot.jpg", "JPEG")):
        report({"late": FROZEN["late"] + 0.1}).save_plot(tmp_path / name)
        with Image.open(tmp_path / name) as image:
            assert image.format == kind
            assert image.width > 800


def test_a_plot_file_is_checked_before_the_work(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="plots need the extra plot")
    check_plot_file(tmp_path / "plot.png")
    with pytest.raises(InvalidInput, match=r"plot.txt: '.txt' is not the ending of an image format; use .png, or one"):
        check_plot_file(tmp_path / "plot.txt")
    with pytest.raises(InvalidInput, match=r"no/plot.png: the folder .*no does not exist; create it"):
        check_plot_file(tmp_path / "no" / "plot.png")


def test_a_plot_needs_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"smart-rag\[plot\]"):
        check_plot_file(tmp_path / "plot.png")

"""`benchmarks/gpu_encode.py` at its smallest, on the CPU: it has to run on the day that there is a GPU."""

import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_encode.py"


def test_it_runs_and_its_figures_can_be(tmp_path, monkeypatch, capsys):
    options = ["--size", "tiny", "--pages", "3", "--batch-tokens", "512", "--max-pixels", "100000", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options, "--json", str(tmp_path / "report.json")])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert "tiny on CPU, float32; one product:" in capsys.readouterr().out
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert list(rows) == ["512 tokens a batch, balanced", "512 tokens a batch, float32"]
    for figures in rows.values():
        assert figures["pages/s"] > 0
        # 16 x 16 pixels a patch, four of which become one token; the prompt is one token for each letter.
        assert 90 < figures["tokens a page"] < 100_000 / 1024 + 80
        assert 0 < figures["outside the forward pass, %"] < 100
        assert figures["TFLOP/s in the forward pass"] > 0
    coded, floats = (figures["copied of tokens, MB a page"] for figures in rows.values())
    assert floats == pytest.approx(16 * coded)

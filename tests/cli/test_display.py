"""Hits and sizes as text and as JSON."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from smart_rag import Hit
from smart_rag.cli import display
from smart_rag.json_shapes import hit_json
from smart_rag.types import PdfPage
from smart_rag.wording import size_text


def test_a_hit_without_text_is_shown_by_its_medium(capsys):
    hit = Hit("a", " ", {"source": "a.mp4"}, score=1.0, pooled_score=0.5, late_score=0.5, rank=1, video="a.mp4")
    for shown, medium in ((hit, "[video]"), (replace(hit, image="a.png", video=None), "[image]")):
        Console(width=80).print(display.hit_text(shown, (1, 2), []))
        assert capsys.readouterr().out.splitlines()[1].strip() == medium
        found = hit_json(shown)
        assert (found["image"], found["video"]) == (shown.image, shown.video)
    page = replace(hit, image=PdfPage(Path("a.pdf"), 3), video=None)
    assert hit_json(page)["image"] == "a.pdf"


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (1_234_567, "1.2 MB"), (5e12, "5,000.0 GB")],
)
def test_a_size_has_the_largest_unit_that_fits(size, text):
    assert size_text(size) == text


def test_a_path_below_the_working_directory_is_short(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert display.short_path(str(tmp_path / "a" / "b.txt")) == "a/b.txt"
    assert display.short_path("/elsewhere/b.txt") == "/elsewhere/b.txt"


def test_a_source_is_one_line():
    hit = Hit("a", "text", {"source": "/x/a.pdf", "page": 2}, score=1.0, pooled_score=0.5, late_score=0.5, rank=3)
    assert display.source_line(hit).plain == "[3]  1.000  /x/a.pdf, page 2"
    assert display.source_line(replace(hit, metadata={})).plain == "[3]  1.000  a"

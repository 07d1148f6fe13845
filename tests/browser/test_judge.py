"""The view Judge: hits are judged by keys, kept by the server, and read by `tune`."""

from __future__ import annotations

import pytest
from helpers.served import server

from smart_rag import SmartIndex
from smart_rag.demo import sample_folder
from smart_rag.evaluation.datasets import load_labels

pytestmark = pytest.mark.browser
QUESTION = "Where do the keys of the boat hang?"


@pytest.fixture
def client(tmp_path, minilm):
    with SmartIndex.create(tmp_path / "own.index", minilm) as index:
        index.add_files([sample_folder() / "station_handbook.md", sample_folder() / "boat_operations.md"])
    with server({"own": SmartIndex.open(tmp_path / "own.index", minilm)}) as client:
        yield client


def pressed(page):
    chips = (
        "[...document.querySelectorAll('.to-judge li')].map(one =>"
        " one.querySelector('[aria-pressed=true]')?.innerText.split(/\\s/)[0] ?? '')"
    )
    return page.evaluate(chips)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_hits_are_judged_by_keys_and_kept(client, window, tmp_path, width, scheme):
    watched = window(client, width=width, scheme=scheme)
    page = watched.open("#/judge")
    page.fill('.judge input[name="q"]', QUESTION)
    page.keyboard.press("Enter")
    page.wait_for_selector(".to-judge li")
    assert page.locator(".to-judge .number").count() == 0  # ranks are hidden
    page.evaluate("document.activeElement.blur()")
    for key in "210u2":
        page.keyboard.press(key)
    expected = ["relevant", "partly", "not", "can\u2019t", "relevant"]
    watched.wait("document.querySelectorAll('.to-judge [role=status]').length > 4")
    assert pressed(page)[:5] == expected
    page.keyboard.press("k")
    page.keyboard.press("Backspace")
    watched.wait("![...document.querySelectorAll('.to-judge [role=status]')].some(one => one.innerText === 'saving')")
    assert pressed(page)[4] == ""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.screenshot(path=tmp_path / "judge.png", full_page=True)
    page.reload()
    page.wait_for_selector(".to-judge li")
    watched.wait("document.querySelectorAll('.to-judge [aria-pressed=true]').length === 3")
    assert pressed(page)[:3] == expected[:3]
    for name in ("queries.jsonl", "qrels.tsv"):
        with page.expect_download() as download:
            page.click(f'.kept a:has-text("{name}")')
        download.value.save_as(tmp_path / name)
    labels = load_labels(tmp_path / "queries.jsonl", tmp_path / "qrels.tsv")
    assert list(labels.queries.values()) == [QUESTION]
    assert sorted(next(iter(labels.qrels.values())).values()) == [0, 1, 2]
    assert page.is_disabled('button:has-text("Try weights")')

"""Each page of docs/ is in the navigation of the site, and no link leads nowhere."""

from __future__ import annotations

import doctest
import importlib.util
import json
import re
import sys

import pytest
from helpers.snippets import ROOT

LINKED = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", *sorted(ROOT.glob("integrations/*/README.md"))]


def tool(name):
    """The module ``tools/name.py``."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tools/{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


NAVIGATION = tool("docs_navigation")


def test_each_page_is_in_the_navigation_once():
    listed = [page for _, pages in NAVIGATION.navigation() for _, page in pages]
    assert len(listed) == len(set(listed))
    made = {page for page in listed if page.startswith(NAVIGATION.GENERATED)} | set(NAVIGATION.COPIED.values())
    written = {page.name for page in (ROOT / "docs").glob("*.md")}
    assert set(listed) - made == written


def anchors(page):
    """The anchors of the headings of ``page``, as code hosts and the site make them."""
    text = re.sub(r"(?ms)^```.*?^```$", "", page.read_text(encoding="utf-8"))
    headings = re.findall(r"(?m)^#+ (.+)$", text)
    plain = [re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", heading)).strip() for heading in headings]
    return {heading.lower().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_link_leads_somewhere(page):
    text = re.sub(r"(?ms)^```.*?^```$", "", page.read_text(encoding="utf-8"))
    for target, _, anchor in (link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", text)):
        if "://" in target or (page.parent.name == "docs" and target.startswith(NAVIGATION.GENERATED)):
            continue
        path = (page.parent / target) if target else page
        assert path.exists(), f"{page}: {target} does not exist"
        if anchor:
            assert anchor in anchors(path), f"{page}: {target} has no heading for #{anchor}"


def test_llms_txt_has_each_page_with_its_first_sentence():
    text = NAVIGATION.llms(ROOT / "docs", "https://example.org/")
    assert text.startswith("# smart_rag\n\n> Better retrieval")
    lines = re.findall(r"(?m)^- \[.+\]\(https://example.org/(\w+\.md)\): (.+)$", text)
    assert {name for name, _ in lines} == {page.name for page in (ROOT / "docs").glob("*.md")}
    for name, sentence in lines:
        assert 10 < len(sentence) < 300, name
        assert "](" not in sentence


def test_the_examples_of_the_tools_are_true():
    for module in (NAVIGATION, tool("docs_figures")):
        assert doctest.testmod(module).failed == 0
        assert doctest.testmod(module).attempted


def test_the_page_of_figures_has_what_a_benchmark_wrote(tmp_path):
    run = {
        **{"title": "speed", "rows": {"ours": {"ms": 12.346, "bytes": 25484.2}, "theirs": {"ms": 5000}}},
        **{"date": "2026-12-01", "command": "python benchmarks/query.py cranfield", "versions": {"numpy": "2.0"}},
        "machine": {"system": "Linux", "processor": "x86_64", "cores": 2},
    }
    (tmp_path / "a.json").write_text(json.dumps(run), encoding="utf-8")
    page = tool("docs_figures").figures_page(tmp_path)
    assert "## speed\n\n| | ms | bytes |\n|---|---|---|\n| ours | 12.35 | 25,484 |\n| theirs | 5,000 | - |\n" in page
    assert "    python benchmarks/query.py cranfield\n\n2026-12-01, Linux on x86_64, 2 cores; numpy 2.0.\n" in page


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks/results").glob("*.json")), ids=lambda path: path.stem)
def test_each_result_says_how_it_was_measured(path):
    run = json.loads(path.read_text(encoding="utf-8"))
    assert run.keys() >= {"title", "rows", "date", "command", "machine", "versions"}
    assert run["command"].startswith(("python benchmarks/", "smart-rag "))
    assert "/home" not in path.read_text(encoding="utf-8")

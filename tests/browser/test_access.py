"""Rules of accessibility, checked by axe-core, and colours of the stylesheet, checked by their contrast.

axe-core is no part of smart_rag: `make test-browser` fetches it from npm into the virtual environment.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

import smart_rag

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
STYLE = Path(smart_rag.__file__).parent / "serving/inspector/static/style.css"
AXE = Path(os.environ.get("AXE", Path(sys.prefix) / "axe/package/axe.min.js"))
QUESTION = "#/search?q=Which+bearings+does+the+seawater+pump+need%3F"


@pytest.fixture(scope="module")
def axe():
    if not AXE.is_file():
        pytest.skip(f"no axe-core at {AXE}; `make test-browser` fetches it if npm is there")
    return AXE.read_text(encoding="utf-8")


def violations(page, axe):
    page.evaluate(axe)
    options = {"resultTypes": ["violations"], "runOnly": RULES}
    found = page.evaluate("options => axe.run(document, options)", options)
    return [
        f"{one['id']}: {node['target']} {node['failureSummary']}"
        for one in found["violations"]
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_axe_finds_nothing(samples, window, axe, scheme, width):
    watched = window(samples, width=width, height=800, scheme=scheme)
    page = watched.open()
    page.wait_for_selector(".examples")
    assert violations(page, axe) == []
    page.evaluate("hash => { location.hash = hash; }", QUESTION)
    page.wait_for_selector(".hits .hit")
    if width < 700:
        assert violations(page, axe) == []
        page.locator(".hit").first.tap()
    page.wait_for_selector(".why mark")
    page.wait_for_selector("figure.page:not(.waiting)")
    page.wait_for_timeout(200)
    assert violations(page, axe) == []
    if width > 700:
        page.get_by_role("button", name="List of keys").click()
        page.wait_for_selector("dialog[open]")
        assert violations(page, axe) == []
        page.keyboard.press("Escape")
        for name in page.eval_on_selector_all(".tabs a", "found => found.map(one => one.getAttribute('href'))"):
            page.evaluate("hash => { location.hash = hash; }", name)
            page.wait_for_timeout(700)
            assert violations(page, axe) == [], name


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast_of_the_colours(scheme):
    style = STYLE.read_text(encoding="utf-8")
    found = re.findall(r"--([a-z-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)", style)
    colours = {}
    for name, *pair in found:
        colours.setdefault(name, pair[scheme])
    for text in ("ink", "muted", "accent", "bad", "good", "pooled", "late", "hybrid"):
        for ground in ("paper", "surface", "raised"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for text, ground in (
        ("on-accent", "accent"),
        ("good", "good-soft"),
        ("bad", "bad-soft"),
        ("warn", "warn-soft"),
        ("accent", "accent-soft"),
        ("muted", "sunken"),
        ("ink", "warn-soft"),
        ("ink", "bad-soft"),
    ):
        assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for sign in ("edge", "focus"):
        assert contrast(colours[sign], colours["surface"]) >= 3, sign
    marks = re.findall(
        r"\.l\d \{ --mark: light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\); --mark-ink: (#[0-9a-f]{6})", style
    )
    assert len(marks) == 5
    for light, dark, ink in marks:
        assert contrast(light, "#000000") >= 4.5
        assert contrast(dark, ink) >= 4.5

"""The view Index: its numbers are those of the index, and the first stage is checked."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_the_numbers_are_those_of_the_index(samples, window, tmp_path, width, scheme):
    info = samples.get("/info").json()
    watched = window(samples, width=width, scheme=scheme)
    page = watched.open("#/index")
    page.wait_for_selector(".tiles dd")
    shown = page.locator(".tiles dd").all_inner_texts()
    assert shown[0] == str(info["documents"])
    assert shown[1].replace(",", "") == str(info["tokens"])
    assert info["manifest"]["config"]["codec"] in page.inner_text(".halves")
    page.click('button:has-text("Check the first stage")')
    page.wait_for_selector(".halves [role=status]", timeout=60_000)
    assert page.inner_text(".halves [role=status] strong") == "100.0 %"
    assert "scores all of it" in page.inner_text(".halves [role=status]")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.screenshot(path=tmp_path / "index.png", full_page=True)

"""The file of `--explain why.html`: it shows what matched, sends no request, and runs no text."""

from __future__ import annotations

import re

import pytest
from helpers.odd_files import fpdf_pages
from helpers.word_encoder import WordEncoder

from smart_rag import SmartIndex
from smart_rag.serving.inspector.single_file import single_file

HOSTILE = (
    "The pump </script><script>window.bad = 1</script> <img src=x onerror=window.bad=2> ]]> --> שלום 中文 ü \u2028 end."
)


@pytest.fixture
def opened(chromium, tmp_path):
    """Open a file of its own for a hit, and return the page; what it asked for and complained of are in two lists."""

    def open_file(hit, width=1000):
        page = chromium.new_page(viewport={"width": width, "height": 800})
        page.asked, page.complaints = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        (tmp_path / "why.html").write_text(single_file(hit, hit.explain()), encoding="utf-8")
        page.goto(f"file://{tmp_path / 'why.html'}")
        page.wait_for_selector(".passage")
        return page

    return open_file


@pytest.mark.parametrize("width", [1000, 360])
def test_texts_are_shown_and_never_run(opened, tmp_path, width):
    with SmartIndex.create(tmp_path / "index", Words()) as index:
        index.add_texts([HOSTILE], [HOSTILE], [{"source": HOSTILE, HOSTILE: HOSTILE}])
        page = opened(index.search(f"pump {HOSTILE}", 1)[0], width)
    assert page.inner_text(".passage").replace("\u2028", " ") == HOSTILE.replace("\u2028", " ")
    assert HOSTILE.split("\u2028")[0] in page.inner_text("h1")
    assert page.evaluate("window.bad") is None
    assert len(page.asked) == 1  # the file itself
    assert page.complaints == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_numbers_are_those_of_the_hit(opened, tmp_path):
    (tmp_path / "a.pdf").write_bytes(fpdf_pages("The pump of the boat.", "Keys hang in the hall."))
    with SmartIndex.create(tmp_path / "index", Words()) as index:
        index.add_files([tmp_path / "a.pdf"])
        hit = index.search("Keys in the hall", 1)[0]
        page = opened(hit)
    assert f"{hit.score:.3f}" in page.inner_text(".sum")
    assert page.title().endswith("a.pdf, page 2")
    sums = [float(text) for text in page.locator(".adding tbody tr td:last-child").all_inner_texts()]
    assert sums[-1] == pytest.approx(hit.late_score, abs=2e-3)
    assert page.locator("mark").all_inner_texts() == ["Keys", "in", "the"]  # "hall." is another word
    page.wait_for_selector("figure.page:not(.waiting)")
    colours = page.evaluate(
        "() => { const c = document.querySelector('canvas');"
        " const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0;"
        " for (let i = 0; i < d.length; i += 4) n += d[i] - d[i + 2] > 60; return n; }"
    )
    assert colours > 100  # marks on the page
    page.click('.chip:has-text("Keys")')
    assert "Keys" in page.locator("mark").all_inner_texts()
    assert page.asked == [page.asked[0]] + [url for url in page.asked[1:] if url.startswith("data:image/jpeg")]
    assert page.complaints == []


class Words(WordEncoder):
    """An encoder that tells where its tokens stand."""

    def token_origins(self, item, task):
        from smart_rag.types import Content, TokenOrigin

        return [TokenOrigin(span=one.span()) for one in re.finditer(r"\S+", Content.of(item).text)]

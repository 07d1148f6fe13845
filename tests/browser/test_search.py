"""The view Search, as somebody uses it: the journey, the same order as in Python, the address, keys, narrow windows."""

from __future__ import annotations

import re

import pytest

from smart_rag import SmartIndex
from smart_rag.demo import sample_questions

QUESTION = "Which bearings does the seawater pump need?"
WEIGHTS = [(1, 0), (0, 1), (1, 2), (0.4, 0.6), (2.7, 0.3)]
IDS = "[...document.querySelectorAll('[data-column=hybrid] .hit')].map(one => one.dataset.id)"
SCORES = """() => [...document.querySelectorAll('[data-column="hybrid"] .hit')].map(
    one => one.querySelector('.score-line strong').textContent)"""


def numbers(text):
    return [float(found) for found in re.findall(r"-?\d+\.\d+", text.replace("\u2212", "-"))]


def test_journey(samples, window):
    watched = window(samples)
    page = watched.open()
    page.get_by_role("button", name=QUESTION).click()  # an example on the empty page
    page.wait_for_selector('[data-column="hybrid"] .hit')
    assert all(len(watched.ids(column)) == 10 for column in ("pooled", "late", "hybrid"))
    assert "engineering_report.pdf" in watched.ids("hybrid")[0]
    assert "10 hits" in page.inner_text("#live")

    page.wait_for_selector(".why-body mark")
    watched.wait("document.querySelector('figure.page:not(.waiting) canvas')")  # no request is under way
    before, sent = watched.ids("hybrid"), len(watched.requests)
    milliseconds = watched.move_slider(0.05)
    assert milliseconds < 150
    assert watched.ids("hybrid") != before
    page.wait_for_timeout(400)
    assert [url for url in watched.requests[sent:] if "/inspector/" in url] == []
    page.get_by_role("button", name="Reset").click()
    watched.wait(f"document.querySelector('[data-column=hybrid] .hit').dataset.id === {before[0]!r}")

    parts = numbers(page.inner_text(".sum p"))
    assert parts[0] == pytest.approx(parts[1] * parts[2] + parts[3] * parts[4], abs=0.002)
    rows = page.locator(".adding tbody tr")
    assert numbers(rows.last.inner_text())[-1] == pytest.approx(parts[4], abs=0.001)

    page.locator(".chip.word", has_text="bearings").click()
    assert page.locator(".why mark.l5").first.inner_text() == "bearings"
    watched.wait("location.hash.includes('tok=1') && !location.hash.includes('w=')")
    assert "“bearings” matches best: bearings, 0.7" in page.inner_text(".page figcaption")
    painted = page.evaluate(
        """() => {
            const canvas = document.querySelector('.page canvas');
            const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
            let coloured = 0;
            for (let i = 0; i < data.length; i += 4) coloured += data[i] - data[i + 2] > 60;
            return coloured;
        }"""
    )
    assert painted > 50


def test_the_page_ranks_as_python_does(samples, samples_folder, minilm, window):
    """20 questions x 5 weights: the same documents in the same order, with the same scores."""
    watched = window(samples)
    page = watched.open()
    with SmartIndex.open(samples_folder, minilm) as index:
        for question in [one.question for one in sample_questions()][:20]:
            for weights in WEIGHTS:
                page.evaluate(
                    "hash => { location.hash = hash; }",
                    f"#/search?q={question.replace(' ', '+')}&w={weights[0]},{weights[1]}&k=20",
                )
                expected = index.search(question, 20, weights=weights)
                watched.wait(f"ids => JSON.stringify({IDS}) === JSON.stringify(ids)", [hit.id for hit in expected])
                shown = [numbers(text)[0] for text in page.evaluate(SCORES)]
                assert shown == pytest.approx([hit.score for hit in expected], abs=0.0006)


@pytest.mark.parametrize("stage", ["terms", "pooled"])
def test_candidates_rank_as_in_python(samples, samples_folder, minilm, window, stage):
    watched = window(samples)
    page = watched.open()
    with SmartIndex.open(samples_folder, minilm) as index:
        for question in [one.question for one in sample_questions()][:3]:
            for weights in WEIGHTS[1:3]:
                asked = f"#/search?q={question.replace(' ', '+')}&w={weights[0]},{weights[1]}&c=30&stage={stage}"
                page.evaluate("hash => { location.hash = hash; }", asked)
                expected = index.search(question, 10, candidates=30, first_stage=stage, weights=weights)
                watched.wait(f"ids => JSON.stringify({IDS}) === JSON.stringify(ids)", [hit.id for hit in expected])
    assert "of the 30 candidates only" in page.inner_text(".column.late header")


def test_an_address_shows_the_same_view(samples, window):
    watched = window(samples)
    page = watched.open()
    watched.search("Where is the spare key for the fuel store?")
    page.locator('[data-column="late"] .hit').nth(2).click()
    page.locator(".why .chip.word", has_text="fuel").click()
    page.fill(".weights input[type=number]", "0.25")
    page.keyboard.press("Tab")
    watched.wait("location.hash.includes('w=')")
    chosen, order = page.locator(".hit.chosen").first.get_attribute("data-id"), watched.ids("hybrid")
    other = window(samples)
    there = other.open(page.url[page.url.index("#") :])
    there.wait_for_selector(".why .chip.word")
    assert there.input_value("#question") == "Where is the spare key for the fuel store?"
    assert other.ids("hybrid") == order
    assert there.locator(".hit.chosen").first.get_attribute("data-id") == chosen
    there.wait_for_selector('.why .chip.word[aria-pressed="true"]')
    assert "fuel" in there.inner_text('.why .chip.word[aria-pressed="true"]')
    # Back: the hit before, then the empty page.
    page.go_back()
    watched.wait("id => document.querySelector('.hit.chosen')?.dataset.id !== id", arg=chosen)
    page.go_back()
    page.wait_for_selector(".examples")
    page.go_forward()
    page.wait_for_selector(".hits .hit")


@pytest.mark.parametrize(
    ("fragment", "notice"),
    [
        ("#/search?q=pump&k=many", "“k=many” in the address"),
        ("#/search?q=pump&w=1,2,3", "“w=1,2,3” in the address"),
        ("#/nowhere", "names no view"),
        ("#/search?q=pump&hit=gone", "is not among what was scored"),
        ("#/search?q=" + "x" * 9000, "too long"),
        ("#/search?q=%E0%A4%A", None),
        ("#/search?q=pump&unknown=1&v=99", None),
    ],
)
def test_a_damaged_address_gives_a_notice(samples, window, fragment, notice):
    page = window(samples).open(fragment)
    page.wait_for_selector("#question")
    if notice is None:
        page.wait_for_timeout(300)
        assert page.locator(".notice").count() == 0
    else:
        page.wait_for_selector(".notice")
        assert notice in page.inner_text(".notice")


def test_keys(samples, window):
    watched = window(samples)
    page = watched.open()
    page.wait_for_selector(".examples")
    page.keyboard.press("/")
    page.keyboard.type("seal bite")
    page.keyboard.press("Enter")
    page.wait_for_selector(".hits .hit")
    page.locator('[data-column="hybrid"] .hit').first.focus()
    page.keyboard.press("j")
    focused = "document.activeElement.dataset.id"
    assert page.evaluate(focused) == watched.ids("hybrid")[1]
    page.keyboard.press("[")
    assert page.evaluate("document.activeElement.closest('[data-column]').dataset.column") == "late"
    page.keyboard.press("k")
    # The focus stays on the hit while the weights move it.
    page.locator('[data-column="hybrid"] .hit').nth(3).focus()
    id = page.evaluate(focused)
    watched.move_slider(0)
    page.wait_for_timeout(300)
    assert page.evaluate(focused) == (id if id in watched.ids("hybrid") else watched.ids("hybrid")[0])
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(samples, window, scheme):
    watched = window(samples, width=360, height=740, scheme=scheme)
    page = watched.open()
    watched.search(QUESTION)
    assert page.locator(".column").count() == 1
    page.get_by_role("tab", name="Pooled").tap()
    assert watched.ids("pooled")
    page.locator(".hit").first.tap()
    page.wait_for_selector(".why.card mark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("document.activeElement.id") == "why-head"
    assert page.evaluate("document.querySelector('.columns').inert")
    page.get_by_role("button", name="Close").tap()
    page.wait_for_selector(".why.card", state="detached")
    assert page.evaluate("document.activeElement.className.startsWith('hit')")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.set_viewport_size({"width": 320, "height": 600})
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_filters(samples, window):
    watched = window(samples)
    page = watched.open()
    watched.search("pump")
    page.locator(".metadata summary").click()
    page.locator(".metadata tr", has_text="source").get_by_role("button").click()
    page.wait_for_selector(".filters li")
    watched.wait("new Set([...document.querySelectorAll('.hit bdi')].map(one => one.textContent)).size === 1")
    page.evaluate("location.hash = '#/search?q=pump&f=page:99'")
    page.wait_for_selector("text=No hit")
    page.get_by_role("button", name=re.compile("Drop page: 99 .90 passages")).click()
    page.wait_for_selector(".hits .hit")

"""The view Documents: files are dropped, found at once, and removed; a broken one has its sentence."""

from __future__ import annotations

import pytest
from helpers.odd_files import fpdf_pages
from helpers.served import server

from smart_rag import SmartIndex

pytestmark = pytest.mark.browser


@pytest.fixture
def client(tmp_path, minilm):
    (tmp_path / "birds.txt").write_text("Birds sing in the morning.")
    with SmartIndex.create(tmp_path / "own.index", minilm) as index:
        index.add_files([tmp_path / "birds.txt"])
    with server({"own": SmartIndex.open(tmp_path / "own.index", minilm)}) as client:
        yield client


FILES = [
    {
        "name": "report.pdf",
        "mimeType": "application/pdf",
        "buffer": fpdf_pages("The heron waits at the weir.", "Page two."),
    },
    {"name": "broken.pdf", "mimeType": "application/pdf", "buffer": b"%PDF-1.7 broken"},
    {"name": "empty.txt", "mimeType": "text/plain", "buffer": b""},
    {"name": "<img src=x onerror=alert(1)>.txt", "mimeType": "text/plain", "buffer": b"The stork stands on one leg."},
]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_files_are_added_found_and_removed(client, window, tmp_path, width, scheme):
    watched = window(client, width=width, scheme=scheme)
    page = watched.open("#/documents")
    page.wait_for_selector(".files li")
    page.set_input_files('input[type="file"]', FILES)
    watched.wait("document.querySelectorAll('.uploads li.done, .uploads li.failed').length === 4", seconds=60)
    assert page.locator(".uploads li.done bdi").all_inner_texts() == ["report.pdf", "<img src=x onerror=alert(1)>.txt"]
    broken, empty = page.locator(".uploads li.failed .wrong").all_inner_texts()
    assert "PDF" in broken
    assert empty == "The file is empty."
    watched.wait("document.querySelectorAll('.files li').length === 3")
    page.click('.files .file:has-text("report.pdf")')
    watched.wait("document.querySelectorAll('.grid li').length === 2")
    watched.wait("[...document.querySelectorAll('.grid img')].every(one => one.complete && one.naturalWidth > 50)")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.screenshot(path=tmp_path / "documents.png", full_page=True)
    page.click('.tabs a:has-text("Search")')
    watched.search("Where does the heron wait?")
    assert page.locator(".hits .hit").first.inner_text().count("report.pdf")
    page.click('.tabs a:has-text("Documents")')
    page.check('.files input[aria-label*="report.pdf"]')
    page.click('button:has-text("Remove…")')
    assert "2 passages will be removed" in page.inner_text("dialog.ask")
    page.click('dialog.ask button:has-text("Remove")')
    watched.wait("document.querySelectorAll('.files li').length === 2")
    assert not (tmp_path / "own.index.uploads" / "report.pdf").exists()
    page.click('.tabs a:has-text("Search")')
    watched.search("Where does the heron wait now?")
    watched.wait("!document.getElementById('main').innerText.includes('report.pdf')")


def test_passages_are_filtered_and_turned(samples, window):
    watched = window(samples)
    page = watched.open("#/documents")
    page.wait_for_selector(".grid li")
    assert page.locator(".grid li").count() == 24
    first = page.locator(".grid li .excerpt").first.inner_text()
    page.click('button:has-text("Next")')
    watched.wait("first => document.querySelector('.grid .excerpt').innerText !== first", first)
    page.fill('.documents input[name="contains"]', "lithium")
    page.keyboard.press("Enter")
    watched.wait("[...document.querySelectorAll('.grid li')].length < 10")
    page.fill('.documents input[placeholder="filter by name"]', "HANDBOOK")
    watched.wait("document.querySelectorAll('.files li').length === 1")


def test_a_file_that_is_too_large_is_not_sent(window, tmp_path, minilm):
    """The server would close the connection, which a browser cannot tell from a server that is gone."""
    index = SmartIndex.create(tmp_path / "own.index", minilm)
    with server({"own": index}, max_body=0.01) as client:
        watched = window(client)
        page = watched.open("#/documents")
        page.wait_for_selector(".two")
        big = {"name": "big.txt", "mimeType": "text/plain", "buffer": b"word " * 3000}
        small = {"name": "small.txt", "mimeType": "text/plain", "buffer": b"The heron waits."}
        page.set_input_files('input[type="file"]', [big, small])
        watched.wait("document.querySelectorAll('.uploads li.done').length === 1", seconds=60)
        assert page.inner_text(".uploads li.failed .wrong").startswith("Larger than 9.8 KiB. Start the server with")
        assert page.locator(".banner").count() == 0

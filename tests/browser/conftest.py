"""A browser, and servers that it opens. The tests are skipped where there is no Chromium or no playwright."""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("playwright.sync_api", reason="needs playwright, of the group browser")

from helpers.served import server
from playwright.sync_api import sync_playwright

from smart_rag import SmartIndex
from smart_rag.demo import sample_folder

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def chromium():
    if CHROMIUM is None:
        pytest.skip("no Chromium found; install the system's package, or name the program in CHROMIUM")
    with sync_playwright() as started:
        # As root, as in a container, Chromium runs only without its sandbox.
        sandbox = [] if sys.platform == "win32" or os.geteuid() else ["--no-sandbox"]
        browser = started.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield browser
        browser.close()


@dataclass
class Watched:
    """A window of a browser, and everything that must not happen in it."""

    page: object
    address: str
    wrong: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    expected: tuple[str, ...] = ()

    def open(self, fragment=""):
        self.page.goto(f"{self.address}/{fragment}")
        return self.page

    def wait(self, expression, arg=None, seconds=15):
        """Wait until a JavaScript expression is true. The page's policy stops the browser's own way to wait for it."""
        deadline = time.monotonic() + seconds
        while not self.page.evaluate(expression, arg):
            assert time.monotonic() < deadline, f"never true: {expression} {arg}"
            self.page.wait_for_timeout(30)

    def search(self, question):
        self.page.fill("#question", question)
        self.page.keyboard.press("Enter")
        self.page.wait_for_selector(".hits .hit")
        self.wait("document.querySelector('.results')?.getAttribute('aria-busy') === 'false'")

    def move_slider(self, share):
        """Move the slider of the weights, and return how many milliseconds the page needs to draw."""
        return self.page.evaluate(
            """share => {
                const slider = document.getElementById('weight'), started = performance.now();
                slider.value = share;
                slider.dispatchEvent(new Event('input', {bubbles: true}));
                document.body.getBoundingClientRect();
                return performance.now() - started;
            }""",
            share,
        )

    def ids(self, column):
        return self.page.eval_on_selector_all(
            f'[data-column="{column}"] .hit', "found => found.map(one => one.dataset.id)"
        )

    def check(self):
        """Assert that no request went to another host, that the policy stopped nothing, and that no script failed."""
        foreign = [url for url in self.requests if not url.startswith((self.address, "blob:"))]
        assert not foreign
        violations = self.page.evaluate("window.violations ?? []")
        wrong = [text for text in self.wrong if not any(part in text for part in self.expected)]
        assert not violations + wrong


@pytest.fixture
def window(chromium, request):
    """Return a function that opens a window on a server."""
    contexts = []

    def opened(client, *, width=1280, height=900, scheme="light", expected=(), **options):
        is_phone = width < 700
        context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            has_touch=is_phone,
            is_mobile=is_phone,
            **options,
        )
        page = context.new_page()
        page.set_default_timeout(15_000)
        watched = Watched(page, str(client.base_url).rstrip("/"), expected=tuple(expected))
        page.add_init_script(
            "window.violations = []; document.addEventListener('securitypolicyviolation',"
            " event => window.violations.push(`${event.violatedDirective} ${event.blockedURI}`))"
        )
        page.on("pageerror", lambda error: watched.wrong.append(f"error: {error}"))
        page.on(
            "console",
            lambda message: (
                message.type == "error" and watched.wrong.append(f"console: {message.text} {message.location['url']}")
            ),
        )
        page.on("dialog", lambda dialog: (watched.wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda sent: watched.requests.append(sent.url))
        contexts.append((context, watched))
        return watched

    yield opened
    for context, watched in contexts:
        try:
            watched.check()
        finally:
            context.close()


@pytest.fixture(scope="session")
def samples_folder(tmp_path_factory, minilm):
    folder = tmp_path_factory.mktemp("browser") / "samples.index"
    with SmartIndex.create(folder, minilm) as index:
        index.add_files(sample_folder())
    return folder


@pytest.fixture(scope="session")
def samples(samples_folder, minilm):
    """Serve the bundled samples. The tests that use this only read."""
    with server({"samples": SmartIndex.open(samples_folder, minilm)}) as client:
        yield client

"""The page's files: their headers, what they may hold, and who may sign in."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from helpers.served import problem_of, server
from helpers.word_encoder import WordEncoder

import smart_rag
from smart_rag import SmartIndex

STATIC = Path(smart_rag.__file__).parent / "serving/inspector/static"
TOKEN = "a token of tests that nobody guesses"
OWN = [
    path
    for path in sorted(STATIC.iterdir())
    if path.suffix in (".html", ".css", ".js", ".svg") and path.name != "lit-html.js"
]


@pytest.fixture
def with_token(tmp_path):
    with server({"words": SmartIndex.create(tmp_path / "words.index", WordEncoder())}, token=TOKEN) as client:
        yield client


def test_the_page_and_its_files(with_token):
    """They need no token, because they hold no data. No other file of the package has an address."""
    page = with_token.get("/")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    for rule in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "trusted-types lit-html"):
        assert rule in policy.split("; ")
    assert "unsafe" not in policy
    types = {
        ".js": "text/javascript",
        ".css": "text/css",
        ".svg": "image/svg+xml",
        ".json": "application/json",
        ".txt": "text/plain",
    }
    for path in STATIC.iterdir():
        answer = with_token.get(f"/assets/{path.name}")
        assert answer.content == path.read_bytes()
        assert answer.headers["content-type"].startswith(types.get(path.suffix, "text/html"))
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in answer.headers
    again = with_token.get(
        "/assets/app.js", headers={"If-None-Match": with_token.get("/assets/app.js").headers["etag"]}
    )
    assert again.status_code == 304
    again = with_token.get("/", headers={"If-None-Match": page.headers["etag"]})
    assert (again.status_code, again.headers["content-security-policy"]) == (304, policy)
    for name in ("nothing.js", "..%2Fpage.py", "%2e%2e/page.py", "../page.py"):
        assert with_token.get(f"/assets/{name}").status_code in (401, 404)


def test_what_is_vendored_is_what_was_published():
    for name, known in json.loads((STATIC / "vendor.json").read_text()).items():
        content = (STATIC / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == known["sha256"]
        assert b"SPDX-License-Identifier: BSD-3-Clause" in content
        assert "Redistributions in binary form" in (STATIC / f"{Path(name).stem}.license.txt").read_text()


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_no_text_can_become_a_script(path):
    """The policy would stop these at run time, and the page would then be broken."""
    source = path.read_text(encoding="utf-8")
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "unsafeHTML", "eval(", "styleMap", "document.write"):
        assert word not in source
    assert path.suffix != ".js" or not re.search(r"\sstyle=|\son[a-z]+=[\"$]", source)
    assert not re.search(r"(https?:)?//[a-z][a-z0-9-]*\.[a-z]", re.sub("http://www.w3.org/2000/svg", "", source))


def test_the_page_is_small():
    """A slow connection should not feel it: 80 kB, compressed."""
    assert sum(len(gzip.compress(path.read_bytes())) for path in STATIC.iterdir()) < 80_000


def test_sign_in_swaps_the_token_for_a_cookie(with_token):
    assert problem_of(with_token.get("/info"))["status"] == 401
    wrong = with_token.post("/session", headers={"Authorization": f"Bearer {TOKEN[:-1]}x"})
    assert problem_of(wrong)["status"] == 401
    assert "set-cookie" not in wrong.headers
    given = with_token.post("/session", headers={"Authorization": f"Bearer {TOKEN}"})
    assert given.status_code == 204
    cookie = given.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert TOKEN not in cookie
    assert with_token.get("/info").status_code == 200  # the client sends the cookie
    assert problem_of(with_token.get("/info", headers={"Authorization": "Bearer wrong"}))["status"] == 401
    (name, value) = next(iter(with_token.cookies.items()))
    with_token.cookies.clear()
    other = value.translate({ord(value[0]): "g"})
    assert problem_of(with_token.get("/info", headers={"Cookie": f"{name}={other}"}))["status"] == 401
    assert with_token.get("/info", headers={"Cookie": f"other=1; {name}={value}"}).status_code == 200
    assert with_token.delete("/session", headers={"Cookie": f"{name}={value}"}).status_code == 204


def test_a_signed_in_browser_serves_only_this_page(with_token):
    """The cookie comes with requests of pages on other ports of the same host, too. They are refused."""
    with_token.post("/session", headers={"Authorization": f"Bearer {TOKEN}"})
    for headers in ({"Origin": "http://127.0.0.1:3000"}, {"Sec-Fetch-Site": "same-site"}):
        assert problem_of(with_token.get("/info", headers=headers))["status"] == 403
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert with_token.get("/", headers=link).status_code == 200
    assert problem_of(with_token.get("/info", headers=link))["status"] == 403
    assert problem_of(with_token.get("/", headers={**link, "Sec-Fetch-Dest": "iframe"}))["status"] == 403

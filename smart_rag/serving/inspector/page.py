"""The files of the inspector page. They hold no data of an index, so they need no token."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response

from smart_rag.serving.problems import Refused

# Address of the page's files. `Guard` lets them pass without a token.
ASSETS = "/assets/"
_FOLDER = Path(__file__).parent / "static"
# The system's own table may say otherwise, and a browser runs a script only if its type is right.
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
# No text of a document can become a script: the page may run only our files, and only lit-html may make HTML of a text.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types lit-html",
    )
)


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    type: str
    tag: str


def page_routes() -> APIRouter:
    """Return the addresses of the page: ``/``, and one for each of its files."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def page(request: Request) -> Response:
        return _answer(request, "index.html")

    @router.get(ASSETS + "{name}")
    async def asset(request: Request, name: str) -> Response:
        return _answer(request, name)

    return router


@cache
def files() -> dict[str, _File]:
    """Return the files of the page by their names. They are read once, so an address never becomes a path."""
    found = {}
    for path in sorted(path for path in _FOLDER.iterdir() if path.suffix in _TYPES):
        content = path.read_bytes()
        found[path.name] = _File(content, _TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')
    return found


def _answer(request: Request, name: str) -> Response:
    file = files().get(name)
    if file is None:
        raise Refused(404, f"the page has no file {name[:100]!r}")
    # A browser asks each time whether the file is still the same. So a new version of smart_rag shows its own page.
    headers = {"Cache-Control": "no-cache", "ETag": file.tag}
    if file.type.startswith("text/html"):
        headers["Content-Security-Policy"] = _POLICY
    if request.headers.get("if-none-match") == file.tag:  # the headers of this answer replace those of the known one
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.type)

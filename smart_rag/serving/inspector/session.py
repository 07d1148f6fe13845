"""Sign-in of a browser: it sends the token once, and then has a cookie that no script can read."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from smart_rag.serving.guard import cookie_name, cookie_value
from smart_rag.serving.settings import ServerSettings


def session_routes(settings: ServerSettings) -> APIRouter:
    """Return the endpoint by which a browser signs in and out."""
    router = APIRouter(include_in_schema=False)

    # `Guard` has checked the token in the header, or the cookie of an earlier sign-in.
    @router.post("/session")
    async def sign_in(request: Request) -> Response:
        response = Response(status_code=204)
        if settings.token is not None:
            response.set_cookie(
                cookie_name(request.scope), cookie_value(settings.token), httponly=True, samesite="strict", path="/"
            )
        return response

    @router.delete("/session")
    async def sign_out(request: Request) -> Response:
        response = Response(status_code=204)
        response.delete_cookie(cookie_name(request.scope), httponly=True, samesite="strict", path="/")
        return response

    return router

"""`application`: the ASGI application over several indexes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response

from smart_rag._version import __version__
from smart_rag.errors import SmartRagError
from smart_rag.index.smart_index import SmartIndex
from smart_rag.serving.answers import answer
from smart_rag.serving.compatible import compatible_routes
from smart_rag.serving.gate import Gate
from smart_rag.serving.inspector.page import page_routes
from smart_rag.serving.inspector.routers import inspector_routers
from smart_rag.serving.inspector.session import session_routes
from smart_rag.serving.metrics import Metrics
from smart_rag.serving.problems import problem_of, problem_of_body
from smart_rag.serving.routes import routes
from smart_rag.serving.served_index import ServedIndex
from smart_rag.serving.settings import ServerSettings
from smart_rag.threads import in_reader_thread


def application(indexes: Mapping[str, SmartIndex], settings: ServerSettings, metrics: Metrics) -> Gate:
    """Return an ASGI application over ``indexes``, which it closes when it ends.

    Each index has the address ``/indexes/NAME``. The first one also answers without it. At ``/`` is the inspector page.
    """
    all_served = [ServedIndex(name, index, settings, metrics) for name, index in indexes.items()]
    names = {served.index.path: served.name for served in all_served}

    endpoints = [_mcp_endpoint(all_served, settings)] if settings.mcp else []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for endpoint in endpoints:
                await stack.enter_async_context(endpoint.running())
            yield
        for served in all_served:
            await in_reader_thread(served.index.close)

    # The pages that FastAPI offers for the documentation take their scripts from another host.
    app = FastAPI(title="smart_rag", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_api_route("/indexes", _names(all_served), methods=["GET"])
    app.add_api_route("/health", _health(all_served), methods=["GET"])
    app.add_api_route("/metrics", _metrics(all_served, metrics), methods=["GET"])
    app.router.routes.extend(endpoint.route for endpoint in endpoints)
    for i, served in enumerate(all_served):
        for prefix in ["", f"/indexes/{served.name}"] if i == 0 else [f"/indexes/{served.name}"]:
            for router in (routes(served), compatible_routes(served)):
                app.include_router(router, prefix=prefix, tags=[served.name])
        for router in inspector_routers(served):
            app.include_router(router, prefix=f"/indexes/{served.name}/inspector", include_in_schema=False)
    app.include_router(page_routes())
    app.include_router(session_routes(settings))

    async def of_error(request: Request, error: Any) -> Response:
        return problem_of(error, names)

    async def of_body(request: Request, error: Any) -> Response:
        return problem_of_body(error.errors())

    for kind in (SmartRagError, HTTPException, Exception):
        app.add_exception_handler(kind, of_error)
    app.add_exception_handler(RequestValidationError, of_body)
    return Gate(app, settings, metrics, names)


def _mcp_endpoint(all_served: list[ServedIndex], settings: ServerSettings) -> Any:
    from smart_rag.serving.mcp.endpoint import Endpoint

    return Endpoint({served.name: served for served in all_served}, settings)


def _names(all_served: list[ServedIndex]) -> Any:
    async def indexes() -> Response:
        """Return the names of the indexes. The first one also answers without its name in the address."""
        return answer({"indexes": [served.name for served in all_served]})

    return indexes


def _health(all_served: list[ServedIndex]) -> Any:
    async def health() -> Response:
        """Return whether all indexes can be used."""
        for served in all_served:
            await served.read(served.index.count)
        return answer({"status": "ok"})

    return health


def _metrics(all_served: list[ServedIndex], counts: Metrics) -> Any:
    async def metrics() -> Response:
        """Return the counts of the server in the text format of Prometheus."""
        documents = {served.name: await served.read(served.index.count) for served in all_served}
        return PlainTextResponse(counts.text(documents), media_type="text/plain; version=0.0.4")

    return metrics

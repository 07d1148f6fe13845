"""`Endpoint`: the server for assistants at an address of the HTTP server."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager

from mcp.server.transport_security import TransportSecuritySettings
from starlette.routing import Route

from smart_rag.serving.mcp.server import mcp_server
from smart_rag.serving.served_index import ServedIndex
from smart_rag.serving.settings import ServerSettings


class Endpoint:
    """Answers assistants at ``/mcp``, by the protocol's streamable HTTP.

    Each request is answered on its own. So any worker can answer it, and none has to remember the assistant.
    """

    def __init__(self, served: Mapping[str, ServedIndex], settings: ServerSettings) -> None:
        self._server = mcp_server(served)
        application = self._server.streamable_http_app(
            stateless_http=True,
            json_response=True,
            max_request_body_size=settings.body_bytes,
            # `Guard` has checked who asks.
            transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        )
        (route,) = application.routes
        assert isinstance(route, Route)
        # A GET would wait for messages that no request asks for. There are none.
        self.route = Route(route.path, route.endpoint, methods=["POST"])

    def running(self) -> AbstractAsyncContextManager[None]:
        """Return a context in which requests can be answered. It can be entered once."""
        return self._server.session_manager.run()

"""A server for assistants, by the Model Context Protocol (https://modelcontextprotocol.io)."""

from __future__ import annotations

from smart_rag.serving.mcp.server import mcp_server, serve_stdio

__all__ = ["mcp_server", "serve_stdio"]

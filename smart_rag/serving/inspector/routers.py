"""The endpoints of the inspector page for one index."""

from __future__ import annotations

from fastapi import APIRouter

from smart_rag.serving.served_index import ServedIndex


def inspector_routers(served: ServedIndex) -> list[APIRouter]:
    """Return the routers of the index ``served``. Their addresses begin with ``/indexes/NAME/inspector``."""
    return []

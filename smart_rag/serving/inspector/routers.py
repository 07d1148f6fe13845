"""The endpoints of the inspector page for one index."""

from __future__ import annotations

from fastapi import APIRouter

from smart_rag.serving.inspector.finding import finding_routes
from smart_rag.serving.inspector.index_routes import index_routes
from smart_rag.serving.inspector.judgements import judgement_routes
from smart_rag.serving.inspector.matches import matches_routes
from smart_rag.serving.inspector.queries import KeptQueries
from smart_rag.serving.inspector.sources import source_routes
from smart_rag.serving.served_index import ServedIndex


def inspector_routers(served: ServedIndex) -> list[APIRouter]:
    """Return the routers of the index ``served``. Their addresses begin with ``/indexes/NAME/inspector``."""
    kept = KeptQueries(served)
    return [
        finding_routes(served, kept),
        matches_routes(served, kept),
        index_routes(served),
        source_routes(served),
        judgement_routes(served),
    ]

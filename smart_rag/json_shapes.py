"""JSON values of hits, documents and reports: one shape for the command line and for the server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from smart_rag.reports import AddReport
from smart_rag.types import Document, Hit, ImageSource, PdfPage


def hit_json(hit: Hit, has_relevance: bool = False, neighbours: Sequence[Document] = ()) -> dict[str, Any]:
    """Return a hit as JSON values, with its ``neighbours``.

    ``has_relevance`` says whether to compute the relevance. If not, it is null.
    """
    return {
        "rank": hit.rank,
        "id": hit.id,
        "score": hit.score,
        "relevance": hit.relevance if has_relevance else None,
        "pooled_score": hit.pooled_score,
        "late_score": hit.late_score,
        "unread": list(hit.unread),
        "duplicates": list(hit.duplicates),
        "source": hit.source,
        "page": hit.page,
        "text": hit.text,
        "image": _file(hit.image),
        "video": _file(hit.video),
        "metadata": dict(hit.metadata),
        "neighbours": [{"id": one.id, "page": one.metadata.get("page"), "text": one.text} for one in neighbours],
    }


def document_json(document: Document) -> dict[str, Any]:
    """Return a document as JSON values."""
    return {
        "id": document.id,
        "text": document.text,
        "image": _file(document.image),
        "video": _file(document.video),
        "metadata": dict(document.metadata),
    }


def counts_json(report: AddReport) -> dict[str, int]:
    """Return the numbers of documents in ``report``, by what became of them."""
    return {name: getattr(report, name) for name in ("added", "replaced", "unchanged", "moved", "removed")}


def _file(source: ImageSource | None) -> str | None:
    """Return the path of an image or a video. For a page of a PDF, return the path of the PDF."""
    return None if source is None else str(source.path if isinstance(source, PdfPage) else source)

"""`Metrics`: counts of a server, in the text format of Prometheus. The workers of one server share them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# The address of an index below `/indexes`. The counts are those of the whole server.
_OF_INDEX = re.compile(r"/indexes/[^/]+(?=/)")
_ROUTES = (
    *("/search", "/search_many", "/rerank", "/v1/rerank", "/v1/embeddings", "/documents", "/documents/{id}"),
    *("/images/{id}", "/info", "/indexes", "/health", "/metrics", "/openapi.json", "/mcp", "other"),
)
_STATUSES = (200, 400, 401, 403, 404, 405, 408, 413, 421, 422, 500, 501, 503, 507, 0)  # 0 for any other
# Upper bounds in seconds. Prometheus adds them up.
_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, float("inf"))


class Metrics:
    """Counts of requests and of encoded items, and a histogram of the time that requests take.

    Args:
        folder: a folder that all workers share. Each worker counts in a file of its own there, and reads the files of
            all. Those of workers that have ended count, too, so that no count ever gets lower. Without a folder, the
            counts are in memory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        requests = [("requests", route, str(status)) for route in _ROUTES for status in _STATUSES]
        times = [("times", route, _bound(bound)) for route in _ROUTES for bound in _BOUNDS]
        seconds = [("seconds", route, "") for route in _ROUTES]
        names = [*requests, *times, *seconds, ("encoded", "", ""), ("calls", "", "")]
        self._places = {name: i for i, name in enumerate(names)}
        shape = (len(names),)
        self._values: NDArray[np.float64]
        if folder is None:
            self._values = np.zeros(shape)
        else:
            self._values = np.memmap(folder / str(os.getpid()), np.float64, "w+", shape=shape)
        self.in_progress = 0  # requests of this worker

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """Count a request of ``path`` that was answered with ``status`` after some ``seconds``."""
        route = route_of(path)
        self._add(("requests", route, str(status if status in _STATUSES else 0)))
        self._add(("times", route, _bound(next(bound for bound in _BOUNDS if seconds <= bound))))
        self._add(("seconds", route, ""), seconds)

    def count_encoded(self, items: int) -> None:
        """Count one call of an encoder with so many ``items``."""
        self._add(("encoded", "", ""), items)
        self._add(("calls", "", ""))

    def text(self, documents: Mapping[str, int]) -> str:
        """Return all counts, and the number of ``documents`` of each index. Counts of 0 are left out."""
        return "\n".join([*self._lines(), *_gauge(documents), ""])

    def _lines(self) -> Iterator[str]:
        total = self._total()
        values = {name: float(total[i]) for name, i in self._places.items() if total[i]}
        yield from _head("requests_total", "counter", "Requests that were answered.")
        for (kind, route, status), value in values.items():
            if kind == "requests":
                shown = "other" if status == "0" else status
                yield f'smart_rag_requests_total{{route="{route}",status="{shown}"}} {value:.0f}'
        yield from _head("request_seconds", "histogram", "Time from the first byte of a request to its answer.")
        for route in _ROUTES:
            if ("seconds", route, "") in values:
                yield from self._histogram(route, values)
        yield from _head("requests_in_progress", "gauge", "Requests that run now, in the worker that answers.")
        yield f"smart_rag_requests_in_progress {self.in_progress}"
        yield from _head("encoded_total", "counter", "Queries and texts that were encoded.")
        yield f"smart_rag_encoded_total {values.get(('encoded', '', ''), 0):.0f}"
        yield from _head("encoder_calls_total", "counter", "Calls in which they were encoded.")
        yield f"smart_rag_encoder_calls_total {values.get(('calls', '', ''), 0):.0f}"

    def _histogram(self, route: str, values: Mapping[tuple[str, str, str], float]) -> Iterator[str]:
        count = 0.0
        for bound in map(_bound, _BOUNDS):
            count += values.get(("times", route, bound), 0.0)
            yield f'smart_rag_request_seconds_bucket{{route="{route}",le="{bound}"}} {count:.0f}'
        yield f'smart_rag_request_seconds_sum{{route="{route}"}} {values["seconds", route, ""]:.6f}'
        yield f'smart_rag_request_seconds_count{{route="{route}"}} {count:.0f}'

    def _total(self) -> NDArray[np.float64]:
        if self._folder is None:
            return self._values
        rows = [np.fromfile(file, np.float64) for file in self._folder.iterdir()]
        total: NDArray[np.float64] = np.sum(rows, axis=0)
        return total

    def _add(self, name: tuple[str, str, str], value: float = 1.0) -> None:
        self._values[self._places[name]] += value


def route_of(path: str) -> str:
    """Return the route of ``path``, without names and ids, so that there are only a few.

    >>> route_of("/indexes/papers/documents/a#1"), route_of("/search"), route_of("/wp-admin")
    ('/documents/{id}', '/search', 'other')
    """
    path = _OF_INDEX.sub("", path, count=1)
    if path in _ROUTES:
        return path
    first = path.split("/")[1] if path.startswith("/") else ""
    return f"/{first}/{{id}}" if first in ("documents", "images") else "other"


def _gauge(documents: Mapping[str, int]) -> Iterator[str]:
    yield from _head("documents", "gauge", "Documents of an index.")
    for name, count in documents.items():
        yield f'smart_rag_documents{{index="{name}"}} {count}'


def _head(name: str, kind: str, help: str) -> Iterator[str]:
    yield f"# HELP smart_rag_{name} {help}"
    yield f"# TYPE smart_rag_{name} {kind}"


def _bound(bound: float) -> str:
    return "+Inf" if bound == float("inf") else f"{bound:g}"

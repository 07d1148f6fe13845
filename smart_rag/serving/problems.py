"""Problems: errors as JSON by RFC 9457, with the messages of the library."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from smart_rag.errors import (
    DocumentError,
    IndexClosed,
    IndexLocked,
    IndexNotFound,
    IndexReadOnly,
    InvalidInput,
    MissingExtra,
    SmartRagError,
    StorageFull,
)
from smart_rag.wording import one_line

# Status of each class of errors. All others of the library are 500: the server's owner must mend something.
_STATUSES: tuple[tuple[type[SmartRagError], int], ...] = (
    (InvalidInput, 422),
    (DocumentError, 404),
    (IndexReadOnly, 403),
    (IndexLocked, 503),
    (IndexClosed, 503),
    (IndexNotFound, 503),
    (StorageFull, 507),
    (MissingExtra, 501),
)
# Seconds after which a client may ask again.
RETRY_AFTER = 1
_UNEXPECTED = "an unexpected error, which the log of the server explains"
_MOST_ERRORS = 5  # of a body that are named


class Refused(HTTPException):
    """A request that is not answered. It becomes a problem. FastAPI passes it on, wherever it is raised."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(status, detail)


def problem(status: int, detail: str, error: str | None = None) -> Response:
    """Return the answer for an error. ``error`` is the name of the library's class, if it is an error of the library.

    Characters outside ASCII are escaped, because ``detail`` may quote half of a surrogate pair.
    """
    content = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    if error is not None:
        content["error"] = error
    headers = {}
    if status in (429, 503):
        headers["Retry-After"] = str(RETRY_AFTER)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in (408, 413):  # the rest of the body is not read
        headers["Connection"] = "close"
    return Response(json.dumps(content).encode(), status, headers, "application/problem+json")


def problem_of(error: Exception, names: Mapping[Path, str]) -> Response:
    """Return the answer for ``error``. ``names`` are the names of the indexes' folders, which clients do not see."""
    if isinstance(error, HTTPException):
        return problem(error.status_code, error.detail)
    if not isinstance(error, SmartRagError):
        return problem(500, _UNEXPECTED)
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
    return problem(status, without_paths(one_line(error), names), type(error).__name__)


def problem_of_body(errors: Iterable[Mapping[str, Any]]) -> Response:
    """Return the answer for the ``errors`` that pydantic found in a body or an address."""
    found = [f"{_place(error['loc'])}{error['msg']}" for error in errors]
    more = f" and {len(found) - _MOST_ERRORS} more" if len(found) > _MOST_ERRORS else ""
    return problem(422, "; ".join(found[:_MOST_ERRORS]) + more)


def without_paths(message: str, names: Mapping[Path, str]) -> str:
    """Return ``message`` with the names of the indexes in the place of their folders, and ``~`` for the home folder.

    >>> without_paths("/srv/data/my.index: the index is closed", {Path("/srv/data/my.index"): "papers"})
    "the index 'papers': the index is closed"
    """
    for folder, name in names.items():
        message = message.replace(str(folder), f"the index {name!r}")
    return message.replace(str(Path.home()), "~") if len(Path.home().parts) > 1 else message


def _place(location: Sequence[str | int]) -> str:
    """Return where in a body or an address an error is. Names that a client made up may be long."""
    names = [str(part)[:40] for part in location[1:]]
    return f"{'.'.join(names)[:200]}: " if names else ""

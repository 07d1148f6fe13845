"""Answers of the server as JSON."""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from starlette.responses import Response

from smart_rag.json_shapes import hit_json
from smart_rag.serving.served_index import Found
from smart_rag.types import IndexInfo


def answer(value: Any, status: int = 200) -> Response:
    """Return JSON values as an answer. JSON has no infinite numbers, so null stands for them."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False)
    return Response(text.encode("utf-8", "backslashreplace"), status, media_type="application/json")


async def answer_of(make: Callable[[], Any]) -> Response:
    """Return what ``make`` returns as an answer. Both are made in a thread, because an answer can have megabytes."""
    return await asyncio.to_thread(lambda: answer(make()))


def found_json(found: Found) -> dict[str, Any]:
    """Return the hits of one query, each in the shape of ``smart-rag search --json``."""
    pairs = zip(found.hits, found.around, strict=True)
    return {"hits": [hit_json(hit, found.has_relevance, documents) for hit, documents in pairs]}


def info_json(name: str, info: IndexInfo) -> dict[str, Any]:
    """Return what is known of an index. Of a folder of the server, such as that of a model, only the name is shown."""
    values = asdict(info)
    del values["path"]
    shown: dict[str, Any] = _without_folders({"name": name, **values})
    return shown


def _without_folders(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_folders(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(item) for item in value]
    if isinstance(value, str) and os.path.isabs(value):
        return os.path.basename(value.rstrip(os.sep))
    return value


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""Options of a model for `SentenceTransformer`, as an index keeps them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from smart_rag.paths import absolute

logger = logging.getLogger(__name__)


def with_full_paths(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``options`` for `SentenceTransformer`, with an absolute path of the folder where models are stored."""
    cache = options.get("cache_folder")
    return dict(options) if cache is None else {**options, "cache_folder": str(absolute(cache))}


def portable_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of ``options`` that an index stores to load its model again: JSON values without secrets.

    A warning names the options that are left out.
    """
    kept = {}
    for name, value in options.items():
        if value is None or name in ("token", "prompts", "default_prompt_name"):
            continue  # the prompts in use are kept elsewhere
        try:
            kept[name] = json.loads(json.dumps(value, default=_of_torch))
        except TypeError:
            logger.warning(
                "an index cannot keep model_options[%r], %s; open it with an encoder that has this option",
                *(name, f"{value!r:.80}"),
            )
    return kept


def _of_torch(value: object) -> str:
    """Return the name of a dtype such as ``torch.float16``, in the form that transformers reads."""
    import torch

    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    raise TypeError

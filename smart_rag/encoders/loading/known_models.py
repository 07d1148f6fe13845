"""The models that this user has named on this machine. The model of an index is loaded only if it is one of these.

An index names its model. If somebody else made the index, it can be harmful to load this model: its files may come
from a stranger, and a name or a path can make this machine connect to another machine. So a model is loaded from an
index only if the user has named the same model before, with the same options. `SmartEncoder` records the models that
its caller names. The records are small files in the user's own configuration folder (`smart_rag.paths.user_folder`).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smart_rag.config import DEFAULT_MODEL
from smart_rag.paths import user_folder

logger = logging.getLogger(__name__)

# Options that choose what is done with a model that was loaded. They cannot choose what is loaded.
_HARMLESS = {"truncate_dim", "similarity_fn_name"}


def remember(
    model: str,
    revision: str | None,
    adapter: str | None,
    model_options: Mapping[str, Any],
    *,
    base_model: str | None = None,
) -> None:
    """Record that the user has named this ``model``. Then it is known both with this ``adapter`` and without one.

    ``base_model`` is the model that was loaded if ``model`` is a LoRA. The two are known together only. So if the file
    of the LoRA, or an index, later names another base model, that one is not loaded from an index.
    """
    for one in (adapter, None):
        named = {"model": model, "revision": revision, "adapter": one, "model_options": model_options}
        named |= {"base_model": base_model}
        identity = _identity(named)
        if identity is not None and not _file(identity).exists():
            _write(identity)


def _write(identity: str) -> None:
    try:
        _file(identity).parent.mkdir(parents=True, exist_ok=True)
        _file(identity).write_text(identity, encoding="utf-8")
    except OSError as error:
        logger.warning(
            "cannot record that you have used this model (%s); an index that was made with it will ask for it again",
            error,
        )


def is_known(description: Mapping[str, Any]) -> bool:
    """Return whether the user has named the model of ``description`` before."""
    identity = _identity(description)
    return identity is None or _file(identity).is_file()


def _identity(description: Mapping[str, Any]) -> str | None:
    """Return, as JSON, all that decides which files are loaded and how.

    Return None for the bundled model if it has no revision, no adapter and no options.
    """
    options = {name: value for name, value in (description.get("model_options") or {}).items() if name not in _HARMLESS}
    chosen = {
        "model": description.get("model"),
        "revision": description.get("revision"),
        "adapter": description.get("adapter"),
        "options": options,
    }
    if description.get("base_model") is not None:
        chosen["base_model"] = description["base_model"]
    if chosen == {"model": DEFAULT_MODEL, "revision": None, "adapter": None, "options": {}}:
        return None
    return json.dumps(chosen, sort_keys=True, default=str)


def _file(identity: str) -> Path:
    return user_folder() / "models" / f"{hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()}.json"

"""How a text model is pooled if its folder has no files for sentence-transformers, which would say it.

The name of a family decides first, because its authors trained it with one way of pooling. If the name says nothing,
the architecture decides. A decoder reads from left to right, so only its last token has seen the whole text. An
encoder is pooled by the mean, as in sentence-transformers. If neither tells it, the model is refused. A wrong pooling
gives plausible rankings that are worse, and nobody would notice.
"""

from __future__ import annotations

import os
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from smart_rag.encoders.compatibility import is_decoder, reads_both_ways
from smart_rag.encoders.profiles import GENERAL_RULE
from smart_rag.errors import ModelNotFound

BY_NAME = "the model's name"
BY_ARCHITECTURE = "the model's architecture"

# Names without their owner, in lower case, and the pooling that the files or the cards of these models state. The first
# pattern that fits decides.
_POOLING: tuple[tuple[str, str], ...] = (
    ("e5-mistral-*", "lasttoken"),
    ("gte-qwen*", "lasttoken"),
    ("qwen3-embedding-*", "lasttoken"),
    ("sfr-embedding-*", "lasttoken"),
    ("linq-embed-mistral*", "lasttoken"),
    ("jina-embeddings-v5-*", "lasttoken"),
    ("e5-*", "mean"),
    ("multilingual-e5-*", "mean"),
    ("bge-multilingual-gemma2*", "lasttoken"),
    ("bge-*", "cls"),
    ("snowflake-arctic-embed-*", "cls"),
    ("mxbai-embed-*", "cls"),
    ("gte-modernbert-*", "cls"),
    ("gte-multilingual-*", "cls"),
    ("gte-*-v1.5", "cls"),
    ("granite-embedding-*", "cls"),
)
# Models with dense layers after the pooling. Only their files for sentence-transformers hold these layers.
_WITH_DENSE_LAYERS = ("embeddinggemma-*", "gtr-t5-*", "sentence-t5-*", "instructor-*", "labse", "distiluse-*")


def pooling_of_bare_folder(model: str, config: Any, base: str | None = None) -> tuple[str, str]:
    """Return the pooling of a text model without files for sentence-transformers, and what has decided it.

    Args:
        model: the model's name on the hub, or its folder.
        config: the model's configuration in transformers.
        base: the name or the folder of the base model, if the model is a LoRA.

    Returns:
        The mode of pooling in sentence-transformers: ``"lasttoken"``, ``"mean"`` or ``"cls"``. The second value is the
        source of the decision.

    Raises:
        ModelNotFound: a part of the model is in the files that are missing, or nothing tells how it is pooled.
    """
    names = [*_names(model), *(_names(base) if base is not None else [])]
    if any(fnmatch(name, pattern) for name in names for pattern in _WITH_DENSE_LAYERS):
        raise _refusal(model, "its dense layers, which follow the pooling, are in these files")
    named = next((mode for pattern, mode in _POOLING for name in names if fnmatch(name, pattern)), None)
    if named is not None and not (named == "cls" and is_decoder(config)):  # its first token sees nothing of the text
        return named, BY_NAME
    if not is_decoder(config):
        return "mean", GENERAL_RULE
    if reads_both_ways(config):
        reason = f"it is a {config.model_type} that reads in both directions; some of them pool the mean, others the "
        raise _refusal(model, reason + "last token, and only these files say which")
    return "lasttoken", BY_ARCHITECTURE


def _refusal(model: str, reason: str) -> ModelNotFound:
    return ModelNotFound(
        f"the model {model!r} has no files for sentence-transformers (expected modules.json and 1_Pooling/config.json, "
        f"found neither), and smart_rag cannot do without: {reason}. Download the whole repository of the model. If it "
        "has no such files, write them: SentenceTransformer(modules=[Transformer(folder), Pooling(width, mode)])"
        ".save(another_folder)"
    )


def _names(model: str) -> list[str]:
    """Return the names that ``model`` may have on the hub, in lower case and without the owner."""
    if not Path(model).exists():
        return [model.rpartition("/")[2].lower()]
    names = []
    for folder in (Path(os.path.abspath(model)), Path(model).resolve()):  # a link has a name of its own
        # In the hub's cache, the name is in an upper folder (models--owner--name/snapshots/revision).
        cached = next((part for part in folder.parts if part.startswith("models--")), folder.name)
        names.append(cached.rpartition("--")[2].lower())
    return names
